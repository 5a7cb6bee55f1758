//! What a token's claims have to say before anybody is let in by it, and who that is then.

use serde_json::{Map, Value};

use super::settings::{ProviderSettings, Typ};
use crate::contract::{PrincipalKind, Scope};

/// Seconds that clocks may differ by.
pub(super) const SKEW_S: f64 = 60.0;
/// The longest name of a caller.
const LONGEST_USER: usize = 255;
const LONGEST_ORG: usize = 64;

/// Why claims do not count. For the log; a client is told none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimFault {
    /// Not an access token.
    #[error("its typ is not that of an access token")]
    Typ,
    /// A claim that an access token does not have.
    #[error("it has {0}, so it is another kind of token")]
    Foreign(&'static str),
    /// A claim that is missing, or says something else than it has to.
    #[error("its {0} cannot be accepted")]
    Claim(&'static str),
    /// Over.
    #[error("it has expired")]
    Expired,
    /// Longer than any token should be good for.
    #[error("its exp is too far ahead")]
    TooLong,
    /// Not yet.
    #[error("it is not good yet")]
    Early,
}

/// Who a token speaks for, and what it allows. The tenant is found by the org, later.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grant {
    /// A person or a machine.
    pub(super) kind: PrincipalKind,
    /// Its name.
    pub(super) user: String,
    /// The org; `None` where the claim is missing or is none that could be anybody's.
    pub(super) org: Option<String>,
    /// What it may do.
    pub(super) scopes: Vec<Scope>,
    /// When it ends, in seconds since 1970.
    pub(super) expires: Option<f64>,
}

impl Grant {
    /// Whether its end is past; clocks may differ by so much.
    pub(super) fn is_over(&self, now: f64, skew: f64) -> bool {
        self.expires.is_some_and(|end| now >= end + skew)
    }
}

/// The grant of a signed access token.
pub(super) fn of_access_token(
    settings: &ProviderSettings,
    typ: Option<&str>,
    claims: &Map<String, Value>,
    now: f64,
) -> Result<Grant, ClaimFault> {
    judge_typ(settings.typ, typ, claims)?;
    let end = number(claims, "exp")?.ok_or(ClaimFault::Claim("exp"))?;
    if end > now + settings.longest_life_s + SKEW_S {
        return Err(ClaimFault::TooLong);
    }
    if !holds(claims, "aud", &settings.audience)? {
        return Err(ClaimFault::Claim("aud"));
    }
    common(settings, claims, now)
}

/// The grant of a token that the provider was asked about, from its answer.
pub(super) fn of_introspection(
    settings: &ProviderSettings,
    answer: &Map<String, Value>,
    now: f64,
) -> Result<Grant, ClaimFault> {
    if answer.get("active") != Some(&Value::Bool(true)) {
        return Err(ClaimFault::Claim("active"));
    }
    let is_bearer = text(answer, "token_type")?.is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !is_bearer {
        return Err(ClaimFault::Claim("token_type"));
    }
    if answer.contains_key("aud") && !holds(answer, "aud", &settings.audience)? {
        return Err(ClaimFault::Claim("aud"));
    }
    common(settings, answer, now)
}

fn judge_typ(wanted: Typ, typ: Option<&str>, claims: &Map<String, Value>) -> Result<(), ClaimFault> {
    let is = |names: &[&str]| typ.is_some_and(|typ| names.iter().any(|name| typ.eq_ignore_ascii_case(name)));
    let is_access_token = is(&["at+jwt", "application/at+jwt"]);
    match wanted {
        Typ::Strict if is_access_token => Ok(()),
        Typ::Compat if is_access_token || typ.is_none() || is(&["jwt", "application/jwt"]) => {
            // What ID tokens and logout tokens have.
            let foreign = ["nonce", "at_hash", "c_hash", "events"].into_iter().find(|name| claims.contains_key(*name));
            foreign.map_or(Ok(()), |name| Err(ClaimFault::Foreign(name)))
        }
        Typ::Strict | Typ::Compat => Err(ClaimFault::Typ),
    }
}

fn common(settings: &ProviderSettings, claims: &Map<String, Value>, now: f64) -> Result<Grant, ClaimFault> {
    // A bound token is none that whoever bears it may use.
    if claims.contains_key("cnf") {
        return Err(ClaimFault::Foreign("cnf"));
    }
    if text(claims, "iss")? != Some(&settings.issuer) {
        return Err(ClaimFault::Claim("iss"));
    }
    let expires = number(claims, "exp")?;
    for name in ["nbf", "iat"] {
        if number(claims, name)?.is_some_and(|begin| begin > now + SKEW_S) {
            return Err(ClaimFault::Early);
        }
    }
    let (kind, user) = caller(claims)?;
    let grant = Grant { kind, user, org: org(settings, claims), scopes: scopes(claims)?, expires };
    if grant.is_over(now, SKEW_S) { Err(ClaimFault::Expired) } else { Ok(grant) }
}

/// The subject, which is the client itself where a machine asked in its own name; else the client.
fn caller(claims: &Map<String, Value>) -> Result<(PrincipalKind, String), ClaimFault> {
    let (subject, client) = (text(claims, "sub")?, text(claims, "client_id")?);
    let (kind, name, claim) = match (subject, client) {
        (Some(subject), client) if client != Some(subject) => (PrincipalKind::User, subject, "sub"),
        (_, Some(client)) => (PrincipalKind::Client, client, "client_id"),
        (_, None) => return Err(ClaimFault::Claim("sub")),
    };
    let is_name = !name.is_empty() && name.chars().count() <= LONGEST_USER && !name.chars().any(char::is_control);
    if is_name { Ok((kind, name.to_owned())) } else { Err(ClaimFault::Claim(claim)) }
}

/// Whoever has none belongs to no tenant, which is another answer than a bad token's.
fn org(settings: &ProviderSettings, claims: &Map<String, Value>) -> Option<String> {
    let org = claims.get(&settings.org_claim)?.as_str()?;
    let is_org = (1..=LONGEST_ORG).contains(&org.len())
        && org.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    is_org.then(|| org.to_owned())
}

/// A token that says nothing of scopes may read; one that says something may do that alone.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<Scope>, ClaimFault> {
    let words: Vec<&str> = match (claims.get("scope"), claims.get("scp")) {
        (None, None) => return Ok(vec![Scope::Read]),
        (Some(Value::String(scope)), _) => scope.split(' ').collect(),
        (Some(_), _) => return Err(ClaimFault::Claim("scope")),
        (None, Some(Value::String(scope))) => scope.split(' ').collect(),
        (None, Some(Value::Array(scopes))) => {
            let words: Option<Vec<&str>> = scopes.iter().map(Value::as_str).collect();
            words.ok_or(ClaimFault::Claim("scp"))?
        }
        (None, Some(_)) => return Err(ClaimFault::Claim("scp")),
    };
    let known = [("kahn:read", Scope::Read), ("kahn:ingest", Scope::Ingest), ("kahn:admin", Scope::Admin)];
    Ok(known.into_iter().filter(|(word, _)| words.contains(word)).map(|(_, scope)| scope).collect())
}

/// A string, or a list of strings that holds it.
pub(super) fn holds(claims: &Map<String, Value>, name: &'static str, wanted: &str) -> Result<bool, ClaimFault> {
    match claims.get(name) {
        Some(Value::String(one)) => Ok(one == wanted),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => Ok(list.iter().any(|one| one == wanted)),
        _ => Err(ClaimFault::Claim(name)),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, ClaimFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ClaimFault::Claim(name)),
    }
}

fn number(claims: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, ClaimFault> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            number.as_f64().filter(|number| number.is_finite()).map(Some).ok_or(ClaimFault::Claim(name))
        }
        Some(_) => Err(ClaimFault::Claim(name)),
    }
}
