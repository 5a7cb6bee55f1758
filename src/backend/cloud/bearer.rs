//! Who holds a bearer token, told apart by the token's shape and by nothing else (security.md, bearer tokens).

use std::sync::Arc;

use super::access::refused;
use super::keys::Keys;
use super::provider::Provider;
use super::scope::Door;
use crate::contract::{Principal, Refusal};

/// How an opaque token looks at the least and at the most.
const OPAQUE: std::ops::RangeInclusive<usize> = 16..=4096;

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
    provider: Option<Arc<Provider>>,
}

impl Bearer {
    pub(super) fn new(door: Door, provider: Option<Arc<Provider>>) -> Self {
        Self { keys: Keys::new(door), provider }
    }

    /// Who holds this token.
    pub(super) async fn holder(&self, token: &str) -> Result<Arc<Principal>, Refusal> {
        let shape = shape(token).ok_or_else(|| refused("it looks like no token", token))?;
        match (shape, &self.provider) {
            (Shape::Key, _) => self.keys.holder(token).await,
            (Shape::Jwt | Shape::Opaque, None) => Err(refused("API keys are the only way in", token)),
            (Shape::Jwt | Shape::Opaque, Some(provider)) => Err(provider.unavailable()),
        }
    }
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
