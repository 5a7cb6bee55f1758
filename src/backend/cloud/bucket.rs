//! A token bucket in whole numbers, so that the wait it names is exactly long enough.

use std::time::Duration;

use tokio::time::Instant;

/// Billionths of a token: a rate of one a second gives one each nanosecond.
const TOKEN: u128 = 1_000_000_000;

/// How a bucket is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    /// Tokens that come back in a second; at least 1.
    pub(super) rate_per_s: u32,
    /// The most tokens that there are at once; at least 1.
    pub(super) burst: u32,
}

impl Flow {
    fn capacity(self) -> u128 {
        u128::from(self.burst) * TOKEN
    }

    fn rate(self) -> u128 {
        u128::from(self.rate_per_s.max(1))
    }

    /// Until so much has come back; never too short.
    fn time_for(self, billionths: u128) -> Duration {
        Duration::from_nanos(u64::try_from(billionths.div_ceil(self.rate())).unwrap_or(u64::MAX))
    }

    /// Seconds in which an empty bucket fills.
    pub(super) fn window_s(self) -> u64 {
        seconds(self.time_for(self.capacity()))
    }
}

/// What is missing from a bucket. Its [`Flow`] is said each time, and may change in between.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    missing: u128,
    /// `None`: never, so nothing is missing.
    seen: Option<Instant>,
}

impl Bucket {
    /// Takes all of these, or nothing.
    ///
    /// # Errors
    ///
    /// How long it takes until they are there, if nobody else takes any.
    pub(super) fn take(&mut self, flow: Flow, tokens: u64, now: Instant) -> Result<(), Duration> {
        self.look_for(flow, tokens, now)?;
        self.missing += u128::from(tokens) * TOKEN;
        Ok(())
    }

    /// Whether these are there; takes nothing.
    ///
    /// # Errors
    ///
    /// As [`Self::take`].
    pub(super) fn look_for(&mut self, flow: Flow, tokens: u64, now: Instant) -> Result<(), Duration> {
        self.fill(flow, now);
        let lacking = (self.missing + u128::from(tokens) * TOKEN).saturating_sub(flow.capacity());
        if lacking == 0 { Ok(()) } else { Err(flow.time_for(lacking)) }
    }

    /// Whole tokens that are there, as of the last look.
    pub(super) fn remaining(&self, flow: Flow) -> u64 {
        u64::try_from(flow.capacity().saturating_sub(self.missing) / TOKEN).unwrap_or(u64::MAX)
    }

    /// Until it is full, as of the last look.
    pub(super) fn full_in(&self, flow: Flow) -> Duration {
        flow.time_for(self.missing)
    }

    fn fill(&mut self, flow: Flow, now: Instant) {
        let seen = self.seen.unwrap_or(now);
        let back = now.saturating_duration_since(seen).as_nanos() * flow.rate();
        self.missing = self.missing.saturating_sub(back).min(flow.capacity());
        self.seen = Some(seen.max(now));
    }
}

/// Whole seconds, never too few.
pub(super) fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
