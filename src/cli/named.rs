//! The paths that a person named: everything is opened before any work begins, so that a typing mistake is told at once.

use std::path::{Path, PathBuf};

use crate::archive_reader::ReaderError;
use crate::config::BootError;

/// Opens each path; all mistakes are told together.
pub(super) fn open_all<T>(
    paths: &[PathBuf],
    open: impl Fn(&Path) -> Result<T, ReaderError>,
) -> Result<Vec<T>, BootError> {
    let mut mistakes = Vec::new();
    let mut opened = Vec::new();
    for path in paths {
        match open(path) {
            Ok(one) => opened.push(one),
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    if mistakes.is_empty() { Ok(opened) } else { Err(BootError::Configuration(mistakes)) }
}
