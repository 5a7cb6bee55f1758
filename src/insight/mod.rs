//! Pure questions over states and summaries; now is an argument.

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
