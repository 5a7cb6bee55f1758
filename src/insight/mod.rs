//! Pure questions over states and summaries; now is an argument.

pub mod agents;
pub mod compare;
pub mod diagnostics;
pub mod flakiness;

use std::collections::HashMap;

use crate::domain::Timestamp;
use crate::reduce::Summary;

/// What is gathered of many runs, so that not all of them have to be held: they are taken one after the other, by start, then
/// run_id.
pub trait Gather {
    /// Takes the next run.
    fn take(&mut self, run: &Summary);
}

/// Adds to what is gathered under this id, which is copied once, not with every run.
fn add<T: Default>(gathered: &mut HashMap<String, T>, id: &str, to: impl FnOnce(&mut T)) {
    if let Some(known) = gathered.get_mut(id) {
        return to(known);
    }
    let mut first = T::default();
    to(&mut first);
    gathered.insert(id.to_owned(), first);
}

/// Whether a run is in the window that begins at `from`: its last event is. Without `from` every run is.
fn is_in_window(run: &Summary, from: Option<Timestamp>) -> bool {
    from.is_none_or(|from| run.last_event.is_some_and(|last| last >= from))
}

/// A figure in whole thousandths, in which thresholds compare: what floating point adds or loses must not decide.
fn thousandths(figure: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
    let thousandths = (figure * 1000.0).round() as i64;
    thousandths
}

/// The percentile `p` (0 to 1) by linear interpolation between closest ranks; `None` of nothing.
pub fn percentile(values: &[f64], p: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^53 calls")]
    let rank = p.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= rank <= last")]
    let below = rank.floor() as usize;
    let (low, high) = (*sorted.get(below)?, *sorted.get((below + 1).min(last))?);
    let share = rank - rank.floor();
    Some(low + (high - low) * share)
}
