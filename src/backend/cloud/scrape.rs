//! Who may read /metrics: whoever holds its token. It is no tenant's, so it is no API key.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::secret::{Names, Place};
use super::settings::EntryMistake;
use crate::config;
use crate::contract::RequestFacts;

const TOKEN: Names = Names { variable: "KAHN_METRICS_TOKEN", file: "KAHN_METRICS_TOKEN_FILE" };
/// Bytes of a token at the least: nobody counts who guesses at it.
const SHORTEST_TOKEN: usize = 32;
const MEND: &str = "write one with openssl rand -hex 32";

/// Options of `kahn serve` about /metrics, as they were typed.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ScrapeOptions {
    /// A file that holds the token with which /metrics is read; without it, KAHN_METRICS_TOKEN of the environment, and without
    /// either there is no /metrics
    #[arg(long, env = TOKEN.file, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    metrics_token_file: Option<PathBuf>,
}

impl ScrapeOptions {
    /// The token, where there is one.
    pub(super) fn check(&self) -> Result<Option<ScrapeToken>, EntryMistake> {
        let place = Place::of(TOKEN, config::env(TOKEN.variable), self.metrics_token_file.as_deref())?;
        let Some(place) = place else { return Ok(None) };
        let bytes = place.read(MEND)?;
        let token = bytes.trim_ascii();
        if token.len() < SHORTEST_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
            let fault = format!("which is no token of {SHORTEST_TOKEN} or more visible ASCII characters");
            return Err(place.refused(fault, MEND));
        }
        Ok(Some(ScrapeToken(Sha256::digest(token).into())))
    }
}

/// The token's hash: all that is needed to know it again.
#[derive(Clone)]
pub(super) struct ScrapeToken([u8; 32]);

impl ScrapeToken {
    /// Whether the request brings it. Hashes are compared, so the time it takes says nothing about the token.
    pub(super) fn is_held_by(&self, request: &RequestFacts) -> bool {
        let [field] = request.authorizations.as_slice() else { return false };
        let Some((scheme, token)) = field.split_once(' ') else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim_matches(' ')).into();
        scheme.eq_ignore_ascii_case("bearer") && bool::from(given.ct_eq(&self.0))
    }
}
