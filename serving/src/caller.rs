//! Who asks a statement, and by which door.

use crate::door::Door;
use crate::identity::Identity;

/// Who asks where nobody says.
const THIS_PROCESS: &str = "this process";

/// Who asks.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(crate) door: Door,
    /// The program and where it runs.
    pub(crate) program: String,
    /// For people: the user, and that.
    pub(crate) label: String,
    pub(crate) identity: Identity,
}

impl Caller {
    /// Somebody with a program at an address, which `program` names.
    pub fn new(door: Door, program: String, identity: Identity) -> Self {
        let label = match identity.name() {
            Some(name) => format!("{name}: {program}"),
            None => program.clone(),
        };
        Self {
            door,
            program,
            label,
            identity,
        }
    }

    /// This process itself, which reads the storage anyhow.
    pub fn this_process() -> Self {
        Self::new(Door::Local, THIS_PROCESS.to_owned(), Identity::everybody())
    }

    /// For people: the user, the program and where it runs.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}
