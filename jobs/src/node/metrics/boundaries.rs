//! Since when the boundary of each view is where it is, as far as this node has seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_shared::Offsets;
use anabranch_speed::Daemon;
use parking_lot::Mutex;

/// How often it is looked where boundaries are, besides when somebody asks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Since when the boundary of each view that is served is where it is.
#[derive(Debug, Default)]
pub(crate) struct Boundaries {
    seen: Mutex<BTreeMap<String, (Offsets, Instant)>>,
}

impl Boundaries {
    /// Looks again and again, until this is aborted.
    pub(crate) async fn keep(self: Arc<Self>, daemon: Arc<Daemon>) {
        loop {
            self.look(&daemon);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// How long ago each boundary was seen to move, or the view to be served.
    pub(super) fn look(&self, daemon: &Daemon) -> BTreeMap<String, Duration> {
        let mut found = Vec::new();
        for stream in daemon.topics().values() {
            stream.with_delta(|delta| {
                let views = delta.views.iter();
                found.extend(views.map(|(name, v)| (name.clone(), v.pin.boundary.clone())));
            });
        }
        self.note(found, Instant::now())
    }

    fn note(&self, found: Vec<(String, Offsets)>, now: Instant) -> BTreeMap<String, Duration> {
        let mut seen = self.seen.lock();
        let before = std::mem::take(&mut *seen);
        for (name, boundary) in found {
            let since = match before.get(&name) {
                Some((known, since)) if *known == boundary => *since,
                _ => now,
            };
            seen.insert(name, (boundary, since));
        }
        let ages = seen.iter();
        ages.map(|(name, (_, since))| (name.clone(), now.saturating_duration_since(*since)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_shared::{Offset, PartitionId};

    #[test]
    fn a_boundary_is_as_old_as_it_stays() {
        let boundaries = Boundaries::default();
        let begun = Instant::now();
        let look = |views: &[(&str, i64)], second: u64| {
            let found = views.iter().map(|(name, at)| {
                let mut boundary = Offsets::default();
                boundary.raise(PartitionId(0), Offset(*at));
                ((*name).to_owned(), boundary)
            });
            let ages = boundaries.note(found.collect(), begun + Duration::from_secs(second));
            let ages = ages.into_iter();
            ages.map(|(name, age)| (name, age.as_secs()))
                .collect::<Vec<_>>()
        };
        let ages = |all: &[(&str, u64)]| {
            let all = all.iter();
            all.map(|(name, age)| ((*name).to_owned(), *age))
                .collect::<Vec<_>>()
        };
        assert_eq!(look(&[("a", 1), ("b", 1)], 0), ages(&[("a", 0), ("b", 0)]));
        assert_eq!(look(&[("a", 1), ("b", 2)], 7), ages(&[("a", 7), ("b", 0)]));
        // A view that is not served any more is told of no more, and begins anew.
        assert_eq!(look(&[("b", 2)], 9), ages(&[("b", 2)]));
        assert_eq!(look(&[("a", 1), ("b", 2)], 10), ages(&[("a", 0), ("b", 3)]));
    }
}
