//! Lines in rows: the lines that came in one batch stand together in chunks, joined by LF as they came, each chunk under the
//! seq of its first line. A run is only ever read in order, so nothing asks for one line alone.

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::scope::{DatabaseError, Parameter, Snapshot, TenantId, Transaction};
use crate::contract::StoreError;
use crate::domain::RunId;

/// A chunk takes no further line that would make it longer than this. Long enough to be compressed well, short enough that a
/// page of a log reads little that it does not show.
const CHUNK_BYTES: usize = 64 * 1024;

/// About how much of the logs one statement reads.
const READ_BYTES: i64 = 4 * 1024 * 1024;

/// Whoever can ask within one transaction.
#[async_trait]
pub(super) trait Ask: Sync {
    /// Rows of a statement.
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError>;
}

#[async_trait]
impl Ask for Transaction {
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        self.query(sql, parameters).await
    }
}

#[async_trait]
impl Ask for Snapshot<'_> {
    async fn rows(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        self.query(sql, parameters).await
    }
}

/// The lines that a batch adds, over all its runs: one statement, however many these are.
#[derive(Default)]
pub(super) struct NewLines<'a> {
    run_ids: Vec<&'a str>,
    seqs: Vec<i64>,
    chunks: Vec<Vec<u8>>,
    /// The lines with their LFs.
    bytes: u64,
}

impl<'a> NewLines<'a> {
    /// Adds the next line of a run; lines of one run are added one after the other.
    pub(super) fn push(&mut self, run_id: &'a RunId, seq: u64, line: &[u8]) -> Result<(), StoreError> {
        self.bytes += line.len() as u64 + 1;
        let same_run = self.run_ids.last() == Some(&run_id.as_str());
        match self.chunks.last_mut().filter(|chunk| same_run && chunk.len() + 1 + line.len() <= CHUNK_BYTES) {
            Some(chunk) => {
                chunk.push(b'\n');
                chunk.extend_from_slice(line);
            }
            None => {
                self.run_ids.push(run_id.as_str());
                self.seqs.push(signed(seq)?);
                self.chunks.push(line.to_vec());
            }
        }
        Ok(())
    }

    /// How many bytes the lines are, with their LFs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) async fn insert(&self, transaction: &Transaction, tenant: TenantId) -> Result<(), DatabaseError> {
        let sql = "INSERT INTO transitions (tenant_id, run_id, seq, lines) \
                   SELECT $1, run_id, seq, lines FROM unnest($2, $3, $4) AS given (run_id, seq, lines)";
        let parameters: [Parameter<'_>; 4] = [
            (&tenant.0, Type::UUID),
            (&self.run_ids, Type::TEXT_ARRAY),
            (&self.seqs, Type::INT8_ARRAY),
            (&self.chunks, Type::BYTEA_ARRAY),
        ];
        transaction.execute(sql, &parameters).await?;
        Ok(())
    }
}

/// Lines that are wanted of one run.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) run_id: RunId,
    /// The first seq.
    pub(super) from: u64,
    /// The seq behind the last one.
    pub(super) to: u64,
}

/// The chunks of spans, rows `w (run_id, from_seq, to_seq, place)`, in order: up to the one that passes so many bytes. The first
/// chunk of all does not count, since only its end may be wanted.
pub(super) fn chunks(spans: &str, bytes: &str) -> String {
    format!(
        "SELECT place, seq, lines FROM ( \
           SELECT w.place, t.seq, t.lines, sum(octet_length(t.lines)) OVER o \
             - first_value(octet_length(t.lines)) OVER o - octet_length(t.lines) AS before \
           FROM {spans} CROSS JOIN LATERAL ( \
             SELECT seq, lines FROM transitions WHERE run_id = w.run_id AND seq < w.to_seq AND seq >= coalesce( \
               (SELECT f.seq FROM transitions AS f WHERE f.run_id = w.run_id AND f.seq <= w.from_seq \
                ORDER BY f.seq DESC LIMIT 1), w.from_seq)) AS t \
           WINDOW o AS (ORDER BY w.place, t.seq)) AS numbered \
         WHERE before <= {bytes} ORDER BY place, seq"
    )
}

/// The spans of arrays.
pub(super) const SPANS: &str =
    "unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS w (run_id, from_seq, to_seq, place)";

/// Hands over every line of these spans, in order, with the number of its span; some megabytes are held at a time.
///
/// # Errors
///
/// Those of `take`, and [`DatabaseError::Unreadable`] when lines are missing.
pub(super) async fn each(
    ask: &(impl Ask + ?Sized),
    mut spans: Vec<Span>,
    mut take: impl FnMut(usize, Bytes) -> Result<(), StoreError> + Send,
) -> Result<(), StoreError> {
    let sql = chunks(SPANS, "$5");
    loop {
        let open: Vec<usize> = (0..spans.len()).filter(|place| spans[*place].from < spans[*place].to).collect();
        let Some(first) = open.first() else { return Ok(()) };
        let of = |member: fn(&Span) -> u64| {
            open.iter().map(|place| signed(member(&spans[*place]))).collect::<Result<Vec<_>, _>>()
        };
        let (from, to) = (of(|span| span.from)?, of(|span| span.to)?);
        let names: Vec<&str> = open.iter().map(|place| spans[*place].run_id.as_str()).collect();
        let places: Vec<i64> = open.iter().filter_map(|place| i64::try_from(*place).ok()).collect();
        let parameters: [Parameter<'_>; 5] = [
            (&names, Type::TEXT_ARRAY),
            (&from, Type::INT8_ARRAY),
            (&to, Type::INT8_ARRAY),
            (&places, Type::INT8_ARRAY),
            (&READ_BYTES, Type::INT8),
        ];
        let rows = ask.rows(&sql, &parameters).await?;
        if rows.is_empty() {
            return Err(missing(&spans[*first]).into());
        }
        for row in &rows {
            let place: i64 = row.try_get(0).map_err(DatabaseError::from)?;
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            // What stands before it was read to its end, or is not there.
            if let Some(gap) = spans.iter().take(place).find(|span| span.from < span.to) {
                return Err(missing(gap).into());
            }
            let Some(span) = spans.get_mut(place) else {
                return Err(DatabaseError::Unreadable("a chunk of no span".to_owned()).into());
            };
            for line in Chunk::of(row, 1)?.lines_from(span)? {
                span.from += 1;
                take(place, line)?;
            }
        }
    }
}

/// The next line of the span is not where it belongs.
pub(super) fn missing(span: &Span) -> DatabaseError {
    DatabaseError::Unreadable(format!("run {} lacks the line at seq {}", span.run_id, span.from))
}

/// One row of lines.
pub(super) struct Chunk {
    seq: u64,
    lines: Bytes,
}

impl Chunk {
    /// Out of two columns of a row, the first of which is this one.
    pub(super) fn of(row: &Row, place: usize) -> Result<Self, DatabaseError> {
        let seq: i64 = row.try_get(place)?;
        let lines: &[u8] = row.try_get(place + 1)?;
        Ok(Self { seq: u64::try_from(seq).unwrap_or(0), lines: Bytes::copy_from_slice(lines) })
    }

    /// The lines that a span goes on with: none, when it is over.
    pub(super) fn lines_from(&self, span: &Span) -> Result<impl Iterator<Item = Bytes> + use<>, DatabaseError> {
        let lines = Lines { rest: Some(self.lines.clone()) };
        let before = span.from.checked_sub(self.seq).ok_or_else(|| missing(span))?;
        let wanted = span.to.saturating_sub(span.from);
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let mut lines = lines.skip(before).take(usize::try_from(wanted).unwrap_or(usize::MAX)).peekable();
        // A chunk that ends before the line that it stands for: the next one is not where it belongs.
        if wanted > 0 && lines.peek().is_none() {
            return Err(missing(span));
        }
        Ok(lines)
    }
}

/// The lines of a chunk, which share its bytes.
struct Lines {
    rest: Option<Bytes>,
}

impl Iterator for Lines {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut rest = self.rest.take()?;
        match memchr::memchr(b'\n', &rest) {
            None => Some(rest),
            Some(at) => {
                let line = rest.split_to(at);
                self.rest = Some(rest.slice(1..));
                Some(line)
            }
        }
    }
}

/// Postgres has no unsigned integers; no log gets that long.
pub(super) fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|error| StoreError::Failed(error.into()))
}
