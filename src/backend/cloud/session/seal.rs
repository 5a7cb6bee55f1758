//! What a browser keeps for this server: sealed, so that nobody reads or makes it elsewhere, and bound to its name, so that
//! one cookie never passes for another.

use cookie::time::Duration;
use cookie::{Cookie, CookieJar, Key, SameSite};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha512};

use super::{ProviderSettings, Secret};

/// The longest Set-Cookie that browsers are sure to keep.
const LONGEST: usize = 4096;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Who somebody is.
    Session,
    /// What a sign-in remembers until its person is back.
    SignIn,
}

/// Why a cookie counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// Browsers send one of each.
    #[error("the request has several of it")]
    Several,
    /// Tampered with, or sealed with another key, for another provider, or by another version.
    #[error("it was not sealed here")]
    Foreign,
    /// It would not be kept.
    #[error("it would be longer than browsers keep")]
    TooLong,
}

/// Seals and opens.
pub(super) struct Seal {
    key: Key,
    /// Over https: the cookies are this host's alone.
    is_secure: bool,
}

impl Seal {
    /// The key is of the provider as well: what was sealed under one says nothing of the people of another.
    pub(super) fn new(secret: &Secret, provider: &ProviderSettings, public_url: &str) -> Self {
        let mut hash = Sha512::new();
        for part in ["kahn session 1", &provider.issuer, &provider.client_id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(secret.bytes());
        Self { key: Key::from(&hash.finalize()), is_secure: public_url.starts_with("https:") }
    }

    /// `__Host-` makes browsers refuse such a cookie from anywhere but this host, over https. On loopback there is no https.
    fn name(&self, kept: Kept) -> &'static str {
        match (kept, self.is_secure) {
            (Kept::Session, true) => "__Host-kahn_session",
            (Kept::Session, false) => "kahn_session",
            (Kept::SignIn, true) => "__Host-kahn_sign_in",
            (Kept::SignIn, false) => "kahn_sign_in",
        }
    }

    fn bare(&self, kept: Kept, value: String, seconds: u64) -> Cookie<'static> {
        Cookie::build((self.name(kept), value))
            .path("/")
            .http_only(true)
            .secure(self.is_secure)
            .same_site(SameSite::Lax)
            .max_age(Duration::seconds(i64::try_from(seconds).unwrap_or(i64::MAX)))
            .build()
    }

    /// The Set-Cookie that has a browser keep this for so many seconds.
    pub(super) fn keep(&self, kept: Kept, value: &impl Serialize, seconds: u64) -> Result<String, Unfit> {
        let text = serde_json::to_string(value).map_err(|_| Unfit::TooLong)?;
        let mut jar = CookieJar::new();
        jar.private_mut(&self.key).add(self.bare(kept, text, seconds));
        let field = jar.get(self.name(kept)).map(Cookie::to_string);
        field.filter(|field| field.len() <= LONGEST).ok_or(Unfit::TooLong)
    }

    /// The Set-Cookie that has a browser forget it.
    pub(super) fn forget(&self, kept: Kept) -> String {
        self.bare(kept, String::new(), 0).to_string()
    }

    /// What was kept, as the request's Cookie fields bring it.
    pub(super) fn open<T: DeserializeOwned>(&self, kept: Kept, fields: &[String]) -> Result<Option<T>, Unfit> {
        let name = self.name(kept);
        let pairs = fields.iter().flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(given, _)| *given == name).map(|(_, value)| value);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Unfit::Several);
        }
        let sealed = Cookie::new(name, value.to_owned());
        let opened = CookieJar::new().private(&self.key).decrypt(sealed).ok_or(Unfit::Foreign)?;
        serde_json::from_str(opened.value()).map(Some).map_err(|_| Unfit::Foreign)
    }
}
