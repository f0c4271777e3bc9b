//! Who changes what answers.

use anabranch_shared::Doer;

use crate::clock::now_ms;

/// Who does something, and why.
#[derive(Clone, Debug, Default)]
pub struct Why {
    /// The user of the project who asked for it; where there is none, the user and the machine of this process
    /// did it.
    pub by: Option<String>,
    /// Why it is done.
    pub message: Option<String>,
}

impl Why {
    /// Done by this process's user, for a reason.
    pub fn because(message: Option<&str>) -> Self {
        Self {
            message: message.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// Who does something now.
pub(crate) fn doer(why: &Why) -> Doer {
    let of_process = || {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let user = set("USER").or_else(|| set("LOGNAME"));
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let machine = machine.map(|name| name.trim().to_owned());
        match (user, machine) {
            (Some(user), Some(machine)) => format!("{user}@{machine}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "unknown".to_owned(),
        }
    };
    Doer {
        by: why.by.clone().unwrap_or_else(of_process),
        message: why.message.clone(),
        at_ms: now_ms(),
    }
}
