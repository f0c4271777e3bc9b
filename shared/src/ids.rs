//! Ids that nobody else has: of files, commits, entries of the catalogue, WALs, holders of leases. What
//! needs one is given where it comes from, so that a case of the law has the same ones again.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use uuid::{Builder, Uuid};

/// Where ids come from. Clones draw from one source.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// `None` for the system's randomness.
    seeded: Option<Arc<Mutex<SmallRng>>>,
}

impl Ids {
    /// The same ids, one after the other, for the same seed. For tests alone: whoever knows the seed
    /// knows them all.
    pub fn seeded(seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            seeded: Some(Arc::new(Mutex::new(rng))),
        }
    }

    /// An id of 122 random bits that was not given before.
    #[expect(clippy::disallowed_methods, reason = "randomness enters here")]
    pub fn fresh(&self) -> Uuid {
        match &self.seeded {
            Some(rng) => Builder::from_random_bytes(rng.lock().random()).into_uuid(),
            None => Uuid::new_v4(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_ids_again() {
        let of = |ids: Ids| [ids.fresh(), ids.clone().fresh(), ids.fresh()];
        let seven = of(Ids::seeded(7));
        assert_eq!(seven, of(Ids::seeded(7)));
        assert!(seven[0] != seven[1] && seven[1] != seven[2]);
        assert_ne!(seven, of(Ids::seeded(8)));
        assert_ne!(of(Ids::default()), of(Ids::default()));
        assert_eq!(seven[0].get_version_num(), 4);
    }
}
