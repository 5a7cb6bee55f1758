//! Who asks: a bearer token, told apart by its shape.

use std::sync::Arc;

use async_trait::async_trait;

use super::keys::Keys;
use super::scope::Door;
use crate::contract::{Access, Principal, Refusal, RequestFacts};

/// The longest Authorization field that is looked at.
const LONGEST_FIELD: usize = 8 * 1024;

/// The door of all tenants.
pub(super) struct TenantAccess {
    keys: Keys,
}

impl TenantAccess {
    pub(super) fn new(door: Door) -> Self {
        Self { keys: Keys::new(door) }
    }
}

#[async_trait]
impl Access for TenantAccess {
    /// Behind the platform's TLS any host name may be right, and without cookies no page can borrow a person's rights.
    fn screen(&self, _request: &RequestFacts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn authenticate(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        let field = match request.authorizations.as_slice() {
            [] => return Err(Refusal::NoCredentials),
            [field] if field.len() <= LONGEST_FIELD => field,
            _ => return Err(Refusal::BadToken),
        };
        let Some((scheme, token)) = field.split_once(' ') else { return Err(Refusal::BadToken) };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::NoCredentials);
        }
        let token = token.trim_matches(' ');
        if token.starts_with("kahn_") {
            self.keys.holder(token).await.map(Arc::unwrap_or_clone)
        } else {
            Err(refused("it is no API key, and API keys are the only way in", token))
        }
    }
}

/// The answer is the same for every reason; the log has the reason and enough of a hash to tell tokens apart.
pub(super) fn refused(reason: &str, token: &str) -> Refusal {
    let hash = crate::domain::id::sha256_hex(token.as_bytes());
    log::info!("a token was refused: {reason} (sha256 {})", hash.get(..8).unwrap_or_default());
    Refusal::BadToken
}
