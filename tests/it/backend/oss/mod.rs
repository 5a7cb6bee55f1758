//! The oss build for tests: an archive in a temporary folder.

mod archive;
mod crash;
mod demo;
mod door;
mod feed;
mod held;
mod late;
mod room;
mod scarce;
mod serve;
mod slow;

use std::path::Path;

use crate::support::{Kitchen, Server};

/// What the binary must say it is.
pub(crate) const MODE: &str = "oss";

/// A server over an archive that does not exist yet.
pub(crate) fn empty() -> Kitchen {
    empty_with(&[])
}

/// The same with further arguments.
pub(crate) fn empty_with(further: &[&str]) -> Kitchen {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = folder.path().join("archive").display().to_string();
    let args = [&["serve", "--bind", "127.0.0.1:0", "--archive", &archive], further].concat();
    let server = Server::start(&args, &[]);
    Kitchen::new(server, None, None, folder)
}

/// A server over the sample archive, as it stands in the repository.
pub(crate) fn with_samples() -> Kitchen {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let server = Server::start(&["serve", "--bind", "127.0.0.1:0", "--fixture-dir", &data.display().to_string()], &[]);
    Kitchen::new(server, None, None, ())
}
