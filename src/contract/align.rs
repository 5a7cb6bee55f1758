//! Content-aligned append: sending the same lines twice never doubles them, and history is never rewritten.

use std::ops::Range;

use super::{Part, StoreError};

/// The stored seqs that the part's first lines must equal.
///
/// # Errors
///
/// [`StoreError::Gap`] when the part begins behind the end of the log.
pub fn overlap(part: &Part, next_seq: u64) -> Result<Range<u64>, StoreError> {
    if part.from_seq > next_seq {
        return Err(StoreError::Gap { run_id: part.run_id.clone(), next_seq });
    }
    Ok(part.from_seq..next_seq.min(part.from_seq.saturating_add(part.lines.len() as u64)))
}

/// Holds the part's first lines against the stored ones of [`overlap`], in order; their number is the number of duplicates.
///
/// # Errors
///
/// [`StoreError::Conflict`] with the first seq whose line differs.
pub fn check_duplicates<L: AsRef<[u8]>>(part: &Part, stored: impl IntoIterator<Item = L>) -> Result<usize, StoreError> {
    let mut duplicates = 0;
    for (line, stored) in part.lines.iter().zip(stored) {
        if line.as_ref() != stored.as_ref() {
            return Err(StoreError::Conflict { run_id: part.run_id.clone(), seq: part.from_seq + duplicates as u64 });
        }
        duplicates += 1;
    }
    Ok(duplicates)
}
