//! Planted bugs: places where a test can switch a defect on, one at a time, to prove that the law's
//! test would notice it. Owns nothing else. They are in builds of tests alone, as fail points are: in
//! any other [`planted`] is always `false`, whatever the environment says.

/// Whether the planted bug of this name is switched on, by the environment variable `FAILPOINTS`
/// as `name=return`. Each name starts with `planted-`.
pub fn planted(name: &str) -> bool {
    fail::has_failpoints() && fail::eval(name, |_| ()).is_some()
}
