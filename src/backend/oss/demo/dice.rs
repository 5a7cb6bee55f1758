//! Chance, from a seed: the same seed gives the same story.

use super::event::Usage;

/// A stream of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of this range.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        // 32 bits are exact in an f64, and more than a story needs.
        let bits = u32::try_from(self.next() >> 32).unwrap_or(0);
        low + (high - low) * f64::from(bits) / f64::from(u32::MAX)
    }

    /// What so many calls of a model may cost.
    pub(super) fn usage(&mut self, calls: u64) -> Usage {
        let input_tokens = calls * (900 + self.next() % 2400);
        let output_tokens = calls * (80 + self.next() % 420);
        Usage::of(input_tokens, output_tokens)
    }
}
