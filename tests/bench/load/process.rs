//! Processor time and memory of this process and of a daemon on the same machine, from `/proc`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::Connection;
use crate::report::round;

/// Clock ticks a second of `/proc/PID/stat`; the kernel's interface has it fixed.
const TICKS: f64 = 100.0;

/// Processor seconds so far, in user code and in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    user: f64,
    system: f64,
}

impl Cpu {
    fn of(pid: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&stat)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name stands in brackets and may hold spaces and brackets itself.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let mut next = || fields.next()?.parse::<f64>().ok().map(|t| t / TICKS);
        Some(Self {
            user: next()?,
            system: next()?,
        })
    }
}

/// Watches both processes from its making on.
#[derive(Debug)]
pub struct Watch {
    daemon: Option<String>,
    own: Option<Cpu>,
    theirs: Option<Cpu>,
}

impl Watch {
    /// Begins; the daemon is left out where it is of another machine.
    pub fn begin(connection: &mut Connection) -> Self {
        let pid = connection
            .get("/health")
            .ok()
            .and_then(|a| a.number("pid"))
            .map(|pid| pid.to_string());
        let is_daemon = |pid: &String| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "anabranch")
        };
        let daemon = pid.filter(is_daemon);
        Self {
            own: Cpu::of("self"),
            theirs: daemon.as_deref().and_then(Cpu::of),
            daemon,
        }
    }

    /// What both used since, for `took` of wall time, and the daemon's resident memory now.
    pub fn end(&self, took: Duration) -> Usage {
        let since = |before: Option<Cpu>, pid: &str| {
            let (before, now) = (before?, Cpu::of(pid)?);
            Some(Cpu {
                user: now.user - before.user,
                system: now.system - before.system,
            })
        };
        Usage {
            took,
            load: since(self.own, "self"),
            daemon: self.daemon.as_deref().and_then(|p| since(self.theirs, p)),
            resident_bytes: self.daemon.as_deref().and_then(resident_bytes),
        }
    }
}

fn resident_bytes(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1_024)
}

/// What the two processes used.
#[derive(Debug)]
pub struct Usage {
    took: Duration,
    load: Option<Cpu>,
    daemon: Option<Cpu>,
    resident_bytes: Option<u64>,
}

impl Usage {
    /// As JSON; what is not known is null.
    pub fn json(&self) -> Value {
        let cpu = |c: Option<Cpu>| {
            c.map(|c| json!({ "user_seconds": round(c.user), "system_seconds": round(c.system) }))
        };
        json!({
            "load": cpu(self.load),
            "daemon": cpu(self.daemon),
            "daemon_resident_bytes": self.resident_bytes,
        })
    }

    /// For people: how many processors each kept busy.
    pub fn text(&self) -> String {
        let cores = |c: Option<Cpu>| match c {
            Some(c) => format!(
                "{:.2}",
                (c.user + c.system) / self.took.as_secs_f64().max(1e-9)
            ),
            None => "?".into(),
        };
        format!(
            "processors busy: daemon {}, load {}",
            cores(self.daemon),
            cores(self.load)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194304 1 0 0 0 250 75 0 0 20 0 1 0 5 6 7";
        let cpu = Cpu::parse(stat).unwrap_or_default();
        assert_eq!((cpu.user, cpu.system), (2.5, 0.75));
        assert!(Cpu::of("self").is_some());
    }
}
