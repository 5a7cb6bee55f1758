//! Ingest of graph.json: written once, whole or not at all.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::archive::Shared;
use super::tail::Effort;
use super::writer::{Claim, Claimed, Owner, foreign, write_failed};
use crate::archive_reader::{Found, GRAPH, RunFolder};
use crate::contract::{GraphPut, StoreError};
use crate::domain::RunId;

/// Where the bytes stand until they are durable. The run's lock is held meanwhile, so one name is enough.
const TEMPORARY: &str = ".graph.json.kahn-new";

const ATTEMPTS: usize = 32;

/// Keeps the graph of a run, once.
pub(super) fn put_graph(shared: &Shared, run_id: &RunId, bytes: &Bytes) -> Result<GraphPut, StoreError> {
    for _ in 0..ATTEMPTS {
        shared.prepare_to_write()?;
        if let Some(put) = try_put(shared, run_id, bytes)? {
            return Ok(put);
        }
    }
    Err(StoreError::Unavailable(format!("the folder of run {run_id} comes and goes").into()))
}

/// `None`: begin anew, no lock is held.
fn try_put(shared: &Shared, run_id: &RunId, bytes: &Bytes) -> Result<Option<GraphPut>, StoreError> {
    let existing = match shared.archive() {
        Some(archive) => Claim::existing(&archive, run_id)?,
        None => Claimed::Nothing,
    };
    let mut claim = match existing {
        Claimed::Folder(claim) => claim,
        Claimed::Again => return Ok(None),
        Claimed::Nothing => match Claim::made(&*shared.made_archive()?, run_id)? {
            Claimed::Folder(claim) => claim,
            Claimed::Nothing | Claimed::Again => return Ok(None),
        },
    };
    let Some(archive) = shared.archive() else { return Ok(None) };
    let refused = || match claim.owner() {
        Owner::Other => foreign(run_id),
        Owner::Kahn | Owner::Nobody => StoreError::GraphConflict { run_id: run_id.clone() },
    };
    let put = match claim.folder().graph().map_err(super::failed)? {
        Found::File(kept) if kept.bytes == *bytes => {
            if claim.owner() == Owner::Kahn {
                claim.anchor(&archive)?;
            }
            GraphPut::Same
        }
        Found::File(_) | Found::NotRegular => return Err(refused()),
        Found::Nothing if claim.owner() == Owner::Other => return Err(refused()),
        Found::Nothing => {
            claim.mark()?;
            if !write(claim.folder(), bytes)? {
                return Ok(None);
            }
            claim.anchor(&archive)?;
            GraphPut::Created
        }
    };
    shared.look(&shared.index.run_of_folder(run_id), Effort::Whole)?;
    Ok(Some(put))
}

/// Writes the bytes under their name; `false` when another graph got there first.
fn write(folder: &RunFolder, bytes: &[u8]) -> Result<bool, StoreError> {
    let handle = folder.handle();
    // A process that was killed may have left one.
    remove_temporary(folder)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(handle, TEMPORARY, flags, Mode::from_raw_mode(0o644)).map_err(write_failed)?;
    let mut file = File::from(file);
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).map_err(write_failed);
    let named = written.and_then(|()| name(folder));
    let removed = remove_temporary(folder);
    let named = named?;
    removed?;
    Ok(named)
}

/// Gives the written file its name without replacing another one.
fn name(folder: &RunFolder) -> Result<bool, StoreError> {
    let handle = folder.handle();
    match rustix::fs::linkat(handle, TEMPORARY, handle, GRAPH, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        // A file system without hard links.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
            match rustix::fs::statat(handle, GRAPH, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(handle, TEMPORARY, handle, GRAPH).map_err(write_failed)?,
                Err(error) => return Err(write_failed(error)),
                Ok(_) => return Ok(false),
            }
            Ok(true)
        }
        Err(error) => Err(write_failed(error)),
    }
}

fn remove_temporary(folder: &RunFolder) -> Result<(), StoreError> {
    match rustix::fs::unlinkat(folder.handle(), TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(write_failed(error)),
    }
}
