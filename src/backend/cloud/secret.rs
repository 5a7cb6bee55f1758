//! Secrets, and the two places where one may stand: a file, or a variable of the environment where a platform has nothing
//! else. Never an argument: those are for everybody on the machine to see.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::EntryMistake;

/// The longest secret that is read.
const LONGEST_SECRET: u64 = 4096;

/// Bytes that nobody prints.
#[derive(Clone)]
pub(super) struct Secret(Arc<[u8]>);

impl Secret {
    /// These bytes, from now on kept.
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A secret's own variable, and the variable that names its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Holds the secret.
    pub(super) variable: &'static str,
    /// Holds a path.
    pub(super) file: &'static str,
}

/// Where a secret stands.
pub(super) enum Place {
    /// In the environment.
    Variable(&'static str, String),
    /// In a file, named by this variable.
    File(&'static str, PathBuf),
}

impl Place {
    /// The one place that was given, if any was; two would be a guess.
    pub(super) fn of(names: Names, value: Option<String>, file: Option<&Path>) -> Result<Option<Self>, EntryMistake> {
        match (value, file.filter(|path| !path.as_os_str().is_empty())) {
            (Some(_), Some(_)) => Err(EntryMistake::TwoPlaces(names.variable, names.file)),
            (Some(value), None) => Ok(Some(Self::Variable(names.variable, value))),
            (None, Some(path)) => Ok(Some(Self::File(names.file, path.to_owned()))),
            (None, None) => Ok(None),
        }
    }

    /// The variable that gave it.
    pub(super) fn variable(&self) -> &'static str {
        match self {
            Self::Variable(variable, _) | Self::File(variable, _) => variable,
        }
    }

    /// All bytes that stand there.
    pub(super) fn read(&self, mend: &'static str) -> Result<Vec<u8>, EntryMistake> {
        match self {
            Self::Variable(_, value) => Ok(value.clone().into_bytes()),
            Self::File(_, path) => {
                let mut bytes = Vec::new();
                let read =
                    std::fs::File::open(path).and_then(|file| file.take(LONGEST_SECRET + 1).read_to_end(&mut bytes));
                let length = read.map_err(|error| self.refused(format!("which cannot be read ({error})"), mend))?;
                if length as u64 > LONGEST_SECRET {
                    // A part of a secret is another secret.
                    return Err(self.refused(format!("which holds more than {LONGEST_SECRET} bytes"), mend));
                }
                Ok(bytes)
            }
        }
    }

    /// A refusal that names the place, and never what stands there.
    pub(super) fn refused(&self, fault: String, mend: &'static str) -> EntryMistake {
        let variable = self.variable();
        match self {
            Self::Variable(..) => EntryMistake::Variable { variable, fault, mend },
            Self::File(_, path) => EntryMistake::File { variable, path: path.clone(), fault, mend },
        }
    }
}
