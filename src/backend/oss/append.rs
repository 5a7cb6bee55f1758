//! Ingest: a batch goes to the logs of kahn's own runs, all of it or nothing.
//!
//! Run folders are locked in the order of their run_ids; nothing is written before every part is known to fit, and the answer
//! is what the tail reader saw afterwards. It is given when a sync that began after the writes has ended too; the locks are let
//! go before, so that batches for the same log share a sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Handle;

use super::archive::Shared;
use super::commit::Number;
use super::index::Run;
use super::read;
use super::tail::Effort;
use super::writer::{Claim, Claimed, Owner, foreign};
use crate::archive_reader::Archive;
use crate::contract::align::{check_duplicates, overlap};
use crate::contract::{Appended, Part, ReadLimit, StoreError, WrittenTo};
use crate::domain::RunId;

/// How often a batch begins anew because a folder came or went meanwhile.
const ATTEMPTS: usize = 32;

/// How much of a stored log is held against a part at once.
const COMPARED: ReadLimit = ReadLimit { lines: 512, bytes: 4 * 1024 * 1024 };

/// Appends the batch; returns when it is durable and shown. It is called on a thread that may wait, of a runtime.
pub(super) fn append(shared: &Shared, batch: &[Part]) -> Result<Appended, StoreError> {
    for _ in 0..ATTEMPTS {
        shared.prepare_to_write()?;
        if let Some(appended) = try_append(shared, batch)? {
            return Ok(appended);
        }
    }
    Err(StoreError::Unavailable("the run folders of the batch come and go".into()))
}

/// `None`: begin anew, no lock is held.
fn try_append(shared: &Shared, batch: &[Part]) -> Result<Option<Appended>, StoreError> {
    let Some(mut claims) = claim_existing(shared, batch)? else { return Ok(None) };
    let mut duplicates = Vec::with_capacity(batch.len());
    for part in batch {
        duplicates.push(fit(shared, part, claims.get_mut(&part.run_id))?);
    }
    let Some(archive) = claim_missing(shared, batch, &mut claims)? else { return Ok(None) };
    for (part, duplicates) in batch.iter().zip(&duplicates) {
        let Some(claim) = claims.get_mut(&part.run_id) else { return Ok(None) };
        if *duplicates < part.lines.len() {
            claim.mark()?;
            claim.open()?;
        }
    }
    for (part, duplicates) in batch.iter().zip(&duplicates) {
        let Some(claim) = claims.get_mut(&part.run_id) else { return Ok(None) };
        if *duplicates < part.lines.len() {
            claim.append(&part.lines[*duplicates..])?;
        }
    }
    let mut written = Vec::with_capacity(batch.len());
    for part in batch {
        let Some(mut claim) = claims.remove(&part.run_id) else { return Ok(None) };
        claim.open()?;
        let run = shared.index.run_of_folder(&part.run_id);
        if claim.has_new_log() {
            run.is_anchored.store(false, Ordering::Release);
        }
        // Lines that were there already may be another batch's, which is not durable yet: they are waited for too.
        let number = run.commits.wrote();
        written.push(Written { run, claim, number });
    }
    let mut appended = Appended::default();
    // The disk works while the lines are read.
    let written = Arc::new(written);
    let settling = tokio::task::spawn_blocking({
        let written = Arc::clone(&written);
        move || settle(&archive, &written)
    });
    let shown = batch.iter().zip(duplicates).zip(&*written).try_for_each(|((part, duplicates), written)| {
        let written_to = shown(shared, &written.run, part)?;
        appended.accepted += (part.lines.len() - duplicates) as u64;
        appended.duplicates += duplicates as u64;
        appended.runs.insert(part.run_id.clone(), written_to);
        written.claim.unlock()
    });
    let settled = Handle::current().block_on(settling);
    let settled = settled.unwrap_or_else(|error| Err((0, StoreError::Failed(error.into()))));
    if let Err((failed, error)) = settled {
        for Written { run, claim, .. } in written.iter().skip(failed).take(1) {
            claim.forget_unwritten();
            run.tail().forget();
            // Should it fail, the poll tries again; the sender hears of the sync.
            let _ = shared.look(run, Effort::Whole);
        }
        return Err(error);
    }
    shown?;
    Ok(Some(appended))
}

/// A part whose lines are in its log.
struct Written {
    run: Arc<Run>,
    claim: Claim,
    number: Number,
}

/// Waits until all is durable. The error says which part's sync failed; of those behind it nothing is known.
fn settle(archive: &Archive, written: &[Written]) -> Result<(), (usize, StoreError)> {
    written.iter().enumerate().try_for_each(|(place, Written { run, claim, number })| {
        run.commits.settle(*number, || claim.sync(archive, &run.is_anchored)).map_err(|error| (place, error))
    })
}

type Claims = BTreeMap<RunId, Claim>;

fn claim_existing(shared: &Shared, batch: &[Part]) -> Result<Option<Claims>, StoreError> {
    let mut claims = Claims::new();
    let Some(archive) = shared.archive() else { return Ok(Some(claims)) };
    for run_id in in_order(batch) {
        match Claim::existing(&archive, run_id)? {
            Claimed::Folder(claim) => {
                claims.insert(run_id.clone(), claim);
            }
            Claimed::Nothing => {}
            Claimed::Again => return Ok(None),
        }
    }
    Ok(Some(claims))
}

fn claim_missing(shared: &Shared, batch: &[Part], claims: &mut Claims) -> Result<Option<Arc<Archive>>, StoreError> {
    let missing: Vec<&RunId> = in_order(batch).into_iter().filter(|run_id| !claims.contains_key(*run_id)).collect();
    let archive = match shared.archive() {
        Some(archive) if archive.runs_handle().is_some() => archive,
        _ => shared.made_archive()?,
    };
    for run_id in missing {
        match Claim::made(&archive, run_id)? {
            Claimed::Folder(claim) if claim.owner() == Owner::Nobody => {
                claims.insert(run_id.clone(), claim);
            }
            _ => return Ok(None),
        }
    }
    Ok(Some(archive))
}

fn in_order(batch: &[Part]) -> Vec<&RunId> {
    let mut run_ids: Vec<&RunId> = batch.iter().map(|part| &part.run_id).collect();
    run_ids.sort_unstable();
    run_ids.dedup();
    run_ids
}

/// How many lines of the part are stored already, once it is known to fit.
fn fit(shared: &Shared, part: &Part, claim: Option<&mut Claim>) -> Result<usize, StoreError> {
    let Some(claim) = claim else { return overlap(part, 0).map(|_| 0) };
    match claim.owner() {
        Owner::Other => return Err(foreign(&part.run_id)),
        Owner::Nobody => return overlap(part, 0).map(|_| 0),
        Owner::Kahn => {}
    }
    let run = shared.index.run_of_folder(&part.run_id);
    let duplicates = stored_already(shared, part, &run)?;
    match part.lines.get(duplicates) {
        Some(next) if !claim.goes_on_with(next)? => {
            claim.end_torn_line()?;
            stored_already(shared, part, &run)
        }
        _ => Ok(duplicates),
    }
}

/// The same, of the log's whole lines.
fn stored_already(shared: &Shared, part: &Part, run: &Arc<Run>) -> Result<usize, StoreError> {
    shared.look(run, Effort::Whole)?;
    let next_seq = run.data().summary.next_seq;
    let stored = overlap(part, next_seq)?;
    let mut at = stored.start;
    while at < stored.end {
        let done = usize::try_from(at - stored.start).unwrap_or(usize::MAX);
        let lines = read::lines(shared, &part.run_id, at, COMPARED)?.map(|lines| lines.lines).unwrap_or_default();
        let to = part.lines.len().min(done + lines.len());
        let window = Part { run_id: part.run_id.clone(), from_seq: at, lines: part.lines[done..to].to_vec() };
        let equal = check_duplicates(&window, &lines)?;
        if equal == 0 {
            return Err(changed(&part.run_id));
        }
        at += equal as u64;
    }
    Ok(usize::try_from(stored.end - stored.start).unwrap_or(usize::MAX))
}

/// Where the log goes on behind the part, once the tail reader has read what was appended.
fn shown(shared: &Shared, run: &Arc<Run>, part: &Part) -> Result<WrittenTo, StoreError> {
    shared.look(run, Effort::Whole)?;
    let summary = Arc::clone(&run.data().summary);
    if summary.next_seq < part.from_seq + part.lines.len() as u64 {
        return Err(changed(&part.run_id));
    }
    Ok(WrittenTo { next_seq: summary.next_seq, log_id: summary.log_id.clone() })
}

fn changed(run_id: &RunId) -> StoreError {
    StoreError::Unavailable(format!("the log of run {run_id} changed under the append").into())
}
