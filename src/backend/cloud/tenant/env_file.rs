//! Where `--write-env` keeps a key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::TenantError;

/// A file of `NAME=value` lines, written beside its place until [`EnvFile::take_place`].
pub(super) struct EnvFile {
    path: PathBuf,
    draft: PathBuf,
}

impl EnvFile {
    /// Writes the draft: what stands in the file now, with this variable anew.
    pub(super) fn prepare(path: &Path, variable: &str, value: &str) -> Result<Self, TenantError> {
        let refused = |reason| TenantError::EnvFile { path: path.to_owned(), reason };
        let before = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(refused(error)),
        };
        let own = format!("{variable}=");
        let mut text: String =
            before.lines().filter(|line| !line.starts_with(&own)).flat_map(|line| [line, "\n"]).collect();
        text.push_str(&format!("{own}{value}\n"));
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        let write = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(refused)?;
        Ok(Self { path: path.to_owned(), draft })
    }

    /// Gives the draft its name. Where that fails the draft stays: it holds a key that was made.
    pub(super) fn take_place(mut self) -> Result<PathBuf, TenantError> {
        let draft = std::mem::take(&mut self.draft);
        match std::fs::rename(&draft, &self.path) {
            Ok(()) => Ok(self.path.clone()),
            Err(reason) => Err(TenantError::EnvDraft { path: self.path.clone(), draft, reason }),
        }
    }
}

impl Drop for EnvFile {
    fn drop(&mut self) {
        // Left over when the transaction failed.
        if !self.draft.as_os_str().is_empty() {
            drop(std::fs::remove_file(&self.draft));
        }
    }
}
