//! Who holds a bearer token, told apart by the token's shape and by nothing else (security.md, bearer tokens).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::access::refused;
use super::claims::{self, Grant};
use super::introspect::Introspection;
use super::jwks::Verdict;
use super::jws::{self, Jws};
use super::keys::Keys;
use super::provider::Provider;
use super::scope::Door;
use super::tenants::Tenants;
use crate::contract::{Principal, Refusal, Tenant};

/// How an opaque token looks at the least and at the most.
const OPAQUE: std::ops::RangeInclusive<usize> = 16..=4096;
/// How many tokens that were found to be good are remembered.
const REMEMBERED: usize = 16 * 1024;

/// SHA-256 of a whole token: what is remembered instead of it.
pub(super) type TokenHash = [u8; 32];

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// An API key, or nothing.
    Key,
    /// Three parts, signed.
    Jwt,
    /// Something that only the provider knows.
    Opaque,
}

/// All that may stand behind `Bearer`.
pub(super) struct Bearer {
    keys: Keys,
    tokens: Option<Tokens>,
}

/// Tokens of the identity provider.
struct Tokens {
    provider: Arc<Provider>,
    introspection: Arc<Introspection>,
    tenants: Tenants,
    /// What signatures were found to be good, under which set of keys.
    verified: Cache<TokenHash, (u64, Arc<Grant>)>,
}

/// What a token is asked for: a connection that stays, or one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// One answer. Clocks may differ by a minute.
    Request,
    /// A connection that would outlive the token: it ends with it.
    Socket,
}

impl Bearer {
    /// The keys alone, or the provider's tokens beside them.
    pub(super) fn new(door: Door, identity: Option<(Arc<Provider>, Tenants)>) -> Self {
        let tokens = identity.map(|(provider, tenants)| Tokens {
            introspection: Introspection::new(Arc::clone(&provider)),
            provider,
            tenants,
            verified: Cache::new(REMEMBERED),
        });
        Self { keys: Keys::new(door), tokens }
    }

    /// Who holds this token.
    pub(super) async fn holder(&self, token: &str, purpose: Use) -> Result<Principal, Refusal> {
        let shape = shape(token).ok_or_else(|| refused("it looks like no token", token))?;
        match (shape, &self.tokens) {
            (Shape::Key, _) => self.keys.holder(token).await.map(Arc::unwrap_or_clone),
            (Shape::Jwt | Shape::Opaque, None) => Err(refused("API keys are the only way in", token)),
            (shape, Some(tokens)) => tokens.holder(token, shape, purpose).await,
        }
    }

    /// What a token of the provider grants, whichever tenant that is for.
    pub(super) async fn grant(&self, token: &str) -> Result<Arc<Grant>, Refusal> {
        match (shape(token), &self.tokens) {
            (Some(shape @ (Shape::Jwt | Shape::Opaque)), Some(tokens)) => {
                tokens.grant(token, shape, Use::Request).await
            }
            _ => Err(refused("it is no token of the provider", token)),
        }
    }
}

impl Tokens {
    async fn holder(&self, token: &str, shape: Shape, purpose: Use) -> Result<Principal, Refusal> {
        let grant = self.grant(token, shape, purpose).await?;
        let org = grant.org.as_deref().ok_or(Refusal::NoTenant)?;
        let tenant = self.tenants.of_org(org).await?;
        Ok(principal(&grant, tenant))
    }

    async fn grant(&self, token: &str, shape: Shape, purpose: Use) -> Result<Arc<Grant>, Refusal> {
        let hash: TokenHash = Sha256::digest(token.as_bytes()).into();
        let grant = match shape {
            Shape::Jwt => self.signed(token, hash).await?,
            Shape::Key | Shape::Opaque => self.introspection.grant(token, hash).await?,
        };
        let skew = match purpose {
            Use::Request => claims::SKEW_S,
            Use::Socket => 0.0,
        };
        if grant.is_over(now(), skew) {
            return Err(refused("it has expired", token));
        }
        Ok(grant)
    }

    /// What a signed token grants.
    async fn signed(&self, token: &str, hash: TokenHash) -> Result<Arc<Grant>, Refusal> {
        let keys = self.provider.jwks().usable().await?;
        if let Some((_, grant)) = self.verified.get(&hash).filter(|(generation, _)| *generation == keys.generation) {
            return Ok(grant);
        }
        let bad = |fault: &dyn std::fmt::Display| refused(&fault.to_string(), token);
        let jws = Jws::parse(token).map_err(|fault| bad(&fault))?;
        let (keys, verdict) = match keys.judge(&jws) {
            Verdict::UnknownKey => {
                let keys = self.provider.jwks().after_unknown().await?;
                let verdict = keys.judge(&jws);
                (keys, verdict)
            }
            verdict => (keys, verdict),
        };
        let payload = match verdict {
            Verdict::Signed(payload) => payload,
            Verdict::Refused(fault) => return Err(bad(&fault)),
            Verdict::UnknownKey => return Err(refused("the provider has no key of its name", token)),
        };
        let claims = jws::object(&payload, "claims").map_err(|fault| bad(&fault))?;
        let grant = claims::of_access_token(self.provider.settings(), jws.typ(), &claims, now());
        let grant = Arc::new(grant.map_err(|fault| bad(&fault))?);
        self.verified.insert(hash, (keys.generation, Arc::clone(&grant)));
        Ok(grant)
    }
}

/// Who this is, within a tenant.
pub(super) fn principal(grant: &Grant, tenant: Tenant) -> Principal {
    Principal { kind: grant.kind, user: grant.user.clone(), tenant: Some(tenant), scopes: grant.scopes.clone() }
}

/// The time as tokens tell it: seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "what a token says of its end is the calendar's")]
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// What this is by its looks; `None`: nothing that could be let in. Five parts are an encrypted token, which nobody here reads.
fn shape(token: &str) -> Option<Shape> {
    let dots = token.bytes().filter(|byte| *byte == b'.').count();
    match dots {
        _ if token.starts_with("kahn_") => Some(Shape::Key),
        2 => Some(Shape::Jwt),
        4 => None,
        _ if OPAQUE.contains(&token.len()) && is_b64token(token) => Some(Shape::Opaque),
        _ => None,
    }
}

/// RFC 6750, section 2.1: what a bearer token is made of.
fn is_b64token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    !body.is_empty() && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}
