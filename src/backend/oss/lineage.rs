//! Whether a log still begins with the lines that were shown of it. A log that is read anew may be the same one: its state was
//! let go of, or another file holds the same lines and more. Or it is another one, whose first line may be the same.

use std::collections::VecDeque;

use crate::domain::RunId;

/// How many runs that went are remembered.
const GONE_KEPT: usize = 1024;

/// Tells whether a log that is read anew still begins with the kept lines that were shown, whichever file they are in: who
/// follows a run live has those lines and gets only later ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lineage {
    /// Grows each time that it does not.
    pub(super) generation: u64,
    /// How many lines were shown.
    pub(super) kept: u64,
    /// A checksum over them. It finds accidents; whoever writes the log could say anything anyway.
    pub(super) sum: u32,
}

impl Lineage {
    /// The log goes on with this line.
    pub(super) fn add(&mut self, line: &[u8]) {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.sum);
        hasher.update(line);
        hasher.update(b"\n");
        (self.kept, self.sum) = (self.kept + 1, hasher.finalize());
    }

    /// Whether both are of the same lines.
    pub(super) fn has_lines_of(&self, other: &Self) -> bool {
        (self.kept, self.sum) == (other.kept, other.sum)
    }
}

/// What was shown of runs whose folders went, the oldest first: who follows one goes on when it comes back.
#[derive(Default)]
pub(super) struct Gone {
    runs: VecDeque<(RunId, Lineage)>,
    /// Where runs begin that are not among them: whatever was forgotten was of an older generation.
    first_generation: u64,
}

impl Gone {
    /// A run's folder has gone.
    pub(super) fn put(&mut self, run_id: &RunId, lineage: Lineage) {
        // Nobody has lines of it that could be wrong, or such of an older generation only.
        if lineage.kept == 0 && lineage.generation <= self.first_generation {
            return;
        }
        self.runs.push_back((run_id.clone(), lineage));
        if self.runs.len() > GONE_KEPT
            && let Some((_, forgotten)) = self.runs.pop_front()
        {
            self.first_generation = self.first_generation.max(forgotten.generation + 1);
        }
    }

    /// A folder is there under this name: what a new run of it begins with.
    pub(super) fn take(&mut self, run_id: &RunId) -> Lineage {
        let found = self.runs.iter().position(|(gone, _)| gone == run_id).and_then(|at| self.runs.remove(at));
        let unknown = Lineage { generation: self.first_generation, ..Lineage::default() };
        found.map_or(unknown, |(_, lineage)| lineage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_forgotten_comes_back_as_another_one() {
        let run_id = |n: usize| RunId::parse(&format!("r{n}")).unwrap();
        let mut lineage = Lineage { generation: 7, ..Lineage::default() };
        lineage.add(b"{}");
        let mut gone = Gone::default();
        for n in 0..=GONE_KEPT {
            gone.put(&run_id(n), lineage);
        }
        assert_eq!(gone.take(&run_id(1)), lineage);
        for n in [0, 1, GONE_KEPT + 1] {
            assert_eq!(gone.take(&run_id(n)), Lineage { generation: 8, ..Lineage::default() }, "{n}");
        }
    }
}
