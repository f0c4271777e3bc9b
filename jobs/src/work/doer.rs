//! Who changes what answers: the user and the machine of this process.

use anabranch_shared::Doer;

use crate::clock::now_ms;

/// This process's user, with why they do it.
pub(crate) fn doer(message: Option<&str>) -> Doer {
    let set = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let user = set("USER").or_else(|| set("LOGNAME"));
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let machine = machine.map(|name| name.trim().to_owned());
    let by = match (user, machine) {
        (Some(user), Some(machine)) => format!("{user}@{machine}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "unknown".to_owned(),
    };
    Doer {
        by,
        message: message.map(str::to_owned),
        at_ms: now_ms(),
    }
}
