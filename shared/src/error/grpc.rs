//! The numbers by which clients of gRPC know errors (gRPC's documentation, "Status codes and their use
//! in gRPC"). Owns which of ours has which: clients decide by them whether to try again.

use super::Error;
use crate::error::ErrorKind;

impl Error {
    /// The code of the error.
    pub fn grpc_code(&self) -> i32 {
        match self.root() {
            Self::Cancelled(_) => 1,
            Self::OutOfRange { .. } => 11,
            Self::TimedOut(_) => 4,
            Self::NoRoom(_) => 8,
            root => of_kind(root.kind()),
        }
    }
}

fn of_kind(kind: ErrorKind) -> i32 {
    match kind {
        // Invalid argument.
        ErrorKind::Invalid => 3,
        ErrorKind::NotFound => 5,
        // Permission denied.
        ErrorKind::Denied => 7,
        // Aborted: look, then try again.
        ErrorKind::Conflict => 10,
        ErrorKind::Unavailable => 14,
        // Data loss.
        ErrorKind::Corrupt => 15,
        ErrorKind::Internal => 13,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_codes_that_clients_act_by() {
        for (e, code) in [
            (Error::Invalid(String::new()), 3),
            (Error::Denied(String::new()), 7),
            (Error::TimedOut(String::new()), 4),
            (Error::NoRoom(String::new()), 8),
            (Error::Unavailable(String::new()), 14),
            (Error::Cancelled(String::new()), 1),
        ] {
            assert_eq!(e.grpc_code(), code, "{e:?}");
        }
    }
}
