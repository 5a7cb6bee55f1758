//! The one test binary: a sentence per module.

/// `kahn push` against a server that can misbehave.
mod push;
