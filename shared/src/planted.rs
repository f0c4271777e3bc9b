//! Planted bugs: places where a test can switch a defect on, one at a time, to prove that the law's
//! test would notice it. Owns nothing else; outside such a test each is off and costs one look into
//! an empty registry.

/// Whether the planted bug of this name is switched on, by the environment variable `FAILPOINTS`
/// as `name=return`. Each name starts with `planted-`.
pub fn planted(name: &str) -> bool {
    fail::eval(name, |_| ()).is_some()
}
