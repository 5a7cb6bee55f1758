//! Identifiers and their patterns.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The name of a run: `^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RunId(Arc<str>);

/// So that a map by run_id is asked with a plain string.
impl std::borrow::Borrow<str> for RunId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl RunId {
    /// The id, or `None` when the text does not fit the pattern.
    pub fn parse(text: &str) -> Option<Self> {
        is_run_id(text).then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RunId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a run_id"))
    }
}

/// Tells one log from another under the same run_id: the first 8 bytes of the SHA-256 of the
/// first kept line (without its LF), in hex.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(Arc<str>);

impl LogId {
    /// The id of the log that begins with this line.
    pub fn of_first_line(line: &[u8]) -> Self {
        Self(hex::encode(&Sha256::digest(line)[..8]).into())
    }

    /// An id that was kept; no check is made.
    pub fn from_kept(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text, 16 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$`
pub fn is_run_id(text: &str) -> bool {
    fits(text, 64, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
}

/// `^[a-z0-9][a-z0-9-]{0,63}$`
pub fn is_node_id(text: &str) -> bool {
    fits(text, 64, is_lower, |c| is_lower(c) || c == b'-')
}

/// `^[a-z0-9][a-z0-9_-]{0,63}$`
pub fn is_agent_id(text: &str) -> bool {
    fits(text, 64, is_lower, |c| is_lower(c) || matches!(c, b'_' | b'-'))
}

/// `^[a-z0-9][a-z0-9:._-]{0,127}$`
pub fn is_checkpoint_id(text: &str) -> bool {
    fits(text, 128, is_lower, |c| is_lower(c) || matches!(c, b':' | b'.' | b'_' | b'-'))
}

fn is_lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn fits(text: &str, most: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= most && bytes.first().is_some_and(|c| first(*c)) && bytes.iter().skip(1).all(|c| rest(*c))
}

/// The SHA-256 of these bytes, in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
