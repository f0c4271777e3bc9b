//! The ways by which queries come.

/// By which way a query comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    /// `POST /sql`.
    Http,
    /// PostgreSQL's protocol.
    Postgres,
    /// Arrow Flight SQL.
    Flight,
    /// From this process itself.
    Local,
}

impl Door {
    /// Its name for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Postgres => "postgres",
            Self::Flight => "flight",
            Self::Local => "local",
        }
    }
}
