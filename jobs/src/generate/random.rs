//! Randomness that is the same on every machine: a small generator and weighted choice.
//!
//! `rand`'s `SmallRng` is documented as not portable (it differs with the pointer width and may
//! change between versions), so the generator is written out here. Nothing in this module uses
//! floating point beyond `+ - * /` and comparison, which IEEE 754 fixes to the bit.

/// 2^32 as a float; probabilities are compared as 32-bit fixed point.
const TWO_32: f64 = 4_294_967_296.0;

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Uniform in `[0, bound)`; 0 for a bound of 0. The bias is below `bound / 2^64`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    pub(super) fn chance(&mut self, chance: Chance) -> bool {
        (self.next() >> 32) < chance.0
    }
}

/// A probability in 32-bit fixed point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance(u64);

impl Chance {
    /// `share` outside `[0, 1]` is taken as the nearer end.
    pub(super) fn new(share: f64) -> Self {
        Self((share.clamp(0.0, 1.0) * TWO_32) as u64)
    }

    /// `part` out of `whole`; never for a whole of 0.
    pub(super) fn ratio(part: u64, whole: u64) -> Self {
        Self(
            (u128::from(part) << 32)
                .checked_div(u128::from(whole))
                .unwrap_or(0) as u64,
        )
    }
}

/// SplitMix64's finalizer, a bijection on 64 bits.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Maps 64 uniform bits to `[0, bound)`.
fn scale(bits: u64, bound: u64) -> u64 {
    ((u128::from(bits) * u128::from(bound)) >> 64) as u64
}

/// `1 / rank^0.75`, by square roots because `powf` differs between platforms' maths libraries
/// and `sqrt` doesn't.
pub(super) fn zipf_weight(rank: u64) -> f64 {
    let root = (rank.max(1) as f64).sqrt();
    1.0 / (root * root.sqrt())
}

/// Weighted choice in constant time (Vose's alias method, 1991).
///
/// Invariant: every alias is an index into `cells`.
#[derive(Debug, Default)]
pub(super) struct Alias {
    cells: Vec<Cell>,
    // Kept between rebuilds only to spare their allocation.
    scaled: Vec<f64>,
    small: Vec<u32>,
    large: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    keep_below: u32,
    alias: u32,
}

impl Alias {
    /// Replaces the weights; `None` is picked for none of them or a sum of 0.
    pub(super) fn rebuild(&mut self, weights: impl Iterator<Item = f64>) {
        self.cells.clear();
        self.scaled.clear();
        self.small.clear();
        self.large.clear();
        self.scaled.extend(weights);
        let sum: f64 = self.scaled.iter().sum();
        if sum <= 0.0 {
            return;
        }
        let factor = self.scaled.len() as f64 / sum;
        for (index, weight) in self.scaled.iter_mut().enumerate() {
            *weight *= factor;
            let index = index as u32;
            self.cells.push(Cell {
                keep_below: u32::MAX,
                alias: index,
            });
            if *weight < 1.0 {
                self.small.push(index)
            } else {
                self.large.push(index)
            }
        }
        while let (Some(&small), Some(&large)) = (self.small.last(), self.large.last()) {
            self.small.pop();
            let kept = self.scaled[small as usize];
            self.cells[small as usize] = Cell {
                keep_below: (kept * TWO_32) as u32,
                alias: large,
            };
            let rest = &mut self.scaled[large as usize];
            *rest -= 1.0 - kept;
            if *rest < 1.0 {
                self.large.pop();
                self.small.push(large);
            }
        }
    }

    pub(super) fn pick(&self, random: &mut Random) -> Option<u32> {
        let bits = random.next();
        let index = ((bits >> 32) * self.cells.len() as u64) >> 32;
        let cell = self.cells.get(index as usize)?;
        Some(if (bits as u32) < cell.keep_below {
            index as u32
        } else {
            cell.alias
        })
    }
}
