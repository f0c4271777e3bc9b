//! Owns the choices of how a table for reading is laid out.

/// When each row becomes a list of its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expanded {
    /// Never.
    #[default]
    Off,
    /// Always.
    On,
    /// Where the table does not fit the terminal's width.
    Auto,
}

impl Expanded {
    /// As it is written: `on`, `off`, `auto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Auto => "auto",
        }
    }
}

/// How a table is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether each row becomes a list.
    pub expanded: Expanded,
    /// Whether columns are padded and framed. Otherwise there is a `|` between values, NULL is
    /// nothing, and values are those of CSV.
    pub aligned: bool,
    /// Whether there are values alone: no header, no frame, no closing line, nothing cut.
    pub tuples_only: bool,
    /// Whether a closing line counts the rows.
    pub footer: bool,
    /// How all columns can be seen where some are left out.
    pub shows_all: &'static str,
}

impl Default for Layout {
    /// That of commands: a framed table with a closing line.
    fn default() -> Self {
        Self {
            expanded: Expanded::Off,
            aligned: true,
            tuples_only: false,
            footer: true,
            shows_all: "`--format json` shows all",
        }
    }
}
