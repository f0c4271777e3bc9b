//! What this process takes of the machine, as Linux tells below `/proc`; nothing is known elsewhere.

/// Parts of a second in which the system counts a process's time, for every program alike.
const TICKS_A_SECOND: f64 = 100.0;

/// Bytes of resident memory.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most bytes of memory that were resident at once.
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024)
}

/// How many descriptors are open.
pub fn open_descriptors() -> Option<u64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}

/// How many descriptors may be open.
pub fn most_descriptors() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Seconds of processor time, its own and what the system did for it.
pub fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some((stat_ticks(&stat, 14)? + stat_ticks(&stat, 15)?) / TICKS_A_SECOND)
}

/// When it started, in seconds since 1970.
pub fn started_at_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let booted = machine.lines().find_map(|l| l.strip_prefix("btime "))?;
    let booted: f64 = booted.trim().parse().ok()?;
    Some(booted + stat_ticks(&stat, 22)? / TICKS_A_SECOND)
}

/// A number of `/proc/self/stat`, by its place from 1 on. The name in it may hold anything.
fn stat_ticks(stat: &str, place: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let number = after_name.split_whitespace().nth(place.checked_sub(3)?)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells() {
        let (resident, peak) = (resident_bytes(), peak_resident_bytes());
        assert!(resident.is_some_and(|bytes| bytes > 1_000_000));
        assert!(peak >= resident);
        assert!(open_descriptors() < most_descriptors());
        assert!(cpu_seconds().is_some_and(|s| s < 100_000.0));
        let now = crate::WallClock::default().now_us() as f64 / 1e6;
        let started = started_at_seconds().unwrap_or(0.0);
        assert!((now - 86_400.0..now + 2.0).contains(&started), "{started}");
    }

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 777 1";
        let places = [14, 15, 22].map(|place| stat_ticks(stat, place));
        assert_eq!(places, [Some(250.0), Some(50.0), Some(777.0)]);
    }
}
