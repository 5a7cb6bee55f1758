//! The listed runs in the order of the list, newest start first: found by key and by place, however many there are.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::{RunId, Timestamp};
use crate::reduce::Summary;

/// A piece that is longer is cut in two. What a change moves, and how many pieces a place is counted over, stay small.
const LONGEST_PIECE: usize = 512;

/// Rows in order, in pieces; none of the pieces is empty.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    pieces: Vec<Vec<Arc<Summary>>>,
}

/// A row's place among the newest first: nulls last, ties by run_id.
pub(super) type Key<'a> = (bool, Reverse<Option<Timestamp>>, &'a RunId);

pub(super) fn key(started: Option<Timestamp>, run_id: &RunId) -> Key<'_> {
    (started.is_none(), Reverse(started), run_id)
}

fn key_of(row: &Summary) -> Key<'_> {
    key(row.started, &row.run_id)
}

impl Ordered {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Summary>> {
        self.pieces.iter().flatten()
    }

    /// Those from this place on.
    pub(super) fn from(&self, place: usize) -> impl Iterator<Item = &Arc<Summary>> {
        let (mut piece, mut at) = (0, place);
        while self.pieces.get(piece).is_some_and(|rows| at >= rows.len()) {
            at -= self.pieces[piece].len();
            piece += 1;
        }
        self.pieces[piece..].iter().flatten().skip(at)
    }

    /// How many rows stand first that are so, where all that are so stand before all others.
    pub(super) fn partition_point(&self, is_so: impl Fn(&Summary) -> bool) -> usize {
        let (piece, at) = self.spot(is_so);
        self.pieces[..piece].iter().map(Vec::len).sum::<usize>() + at
    }

    /// Adds a row that is not there yet.
    pub(super) fn insert(&mut self, row: Arc<Summary>) {
        let (piece, at) = self.spot(|other| key_of(other) < key_of(&row));
        // Behind all: the last piece grows.
        let (piece, at) = match self.pieces.last() {
            None => {
                self.pieces.push(vec![row]);
                return;
            }
            Some(last) if piece == self.pieces.len() => (piece - 1, last.len()),
            Some(_) => (piece, at),
        };
        let rows = &mut self.pieces[piece];
        rows.insert(at, row);
        if rows.len() > LONGEST_PIECE {
            let rest = rows.split_off(LONGEST_PIECE / 2);
            self.pieces.insert(piece + 1, rest);
        }
    }

    /// Takes a row out, if it is there.
    pub(super) fn remove(&mut self, wanted: Key<'_>) {
        let (piece, at) = self.spot(|row| key_of(row) < wanted);
        let Some(rows) = self.pieces.get_mut(piece) else { return };
        if key_of(&rows[at]) == wanted {
            rows.remove(at);
        }
        if rows.is_empty() {
            self.pieces.remove(piece);
        }
    }

    /// The piece and the place in it of the first row that is not so.
    fn spot(&self, is_so: impl Fn(&Summary) -> bool) -> (usize, usize) {
        let piece = self.pieces.partition_point(|rows| rows.last().is_some_and(|last| is_so(last)));
        (piece, self.pieces.get(piece).map_or(0, |rows| rows.partition_point(|row| is_so(row))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::RunState;

    fn row(n: usize) -> Arc<Summary> {
        let run_id = RunId::parse(&format!("r{n}")).unwrap();
        let mut summary = Summary::of(&run_id, &RunState::default(), None);
        // Three runs a moment, and some that have not started.
        summary.started = (!n.is_multiple_of(10)).then(|| Timestamp::from_millis((n / 3) as i64));
        Arc::new(summary)
    }

    #[test]
    fn rows_stand_in_order_and_are_found_by_place_while_they_come_and_go() {
        const COUNT: usize = 2000;
        let mut ordered = Ordered::default();
        let mut model: Vec<Arc<Summary>> = Vec::new();
        // A step that meets every number, once in, then every third out.
        for n in (0..COUNT).map(|n| n * 1237 % COUNT) {
            ordered.insert(row(n));
            model.push(row(n));
        }
        for n in (0..COUNT).map(|n| n * 1237 % COUNT).filter(|n| n % 3 == 0) {
            let gone = row(n);
            // The second time it is not there any more.
            ordered.remove(key_of(&gone));
            ordered.remove(key_of(&gone));
            model.retain(|other| other.run_id != gone.run_id);
        }
        model.sort_by(|a, b| key_of(a).cmp(&key_of(b)));
        assert_eq!(ordered.len(), model.len());
        assert!(ordered.iter().eq(&model));
        assert!(ordered.iter().rev().eq(model.iter().rev()));
        assert!(ordered.pieces.iter().all(|piece| (1..=LONGEST_PIECE).contains(&piece.len())));
        for place in [0, 1, 255, 256, 257, 1000, model.len() - 1, model.len(), model.len() + 1] {
            assert!(ordered.from(place).eq(model.iter().skip(place)), "{place}");
            if let Some(at) = model.get(place) {
                assert_eq!(ordered.partition_point(|row| key_of(row) < key_of(at)), place);
            }
        }
        model.iter().for_each(|row| ordered.remove(key_of(row)));
        assert!(ordered.pieces.is_empty());
        assert_eq!((ordered.len(), ordered.from(0).count()), (0, 0));
    }
}
