//! What an ID token must say before it says who somebody is (OpenID Connect Core, section 3.1.3.7). Its signature was
//! verified by then.

use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

/// How far clocks may be apart.
const SKEW_S: f64 = 60.0;
/// The longest name of somebody.
const LONGEST_SUBJECT: usize = 255;

/// What it has to fit.
pub(super) struct Wanted<'a> {
    /// Who has to have made it.
    pub(super) issuer: &'a str,
    /// Who it has to be for.
    pub(super) client_id: &'a str,
    /// Which sign-in it has to be for.
    pub(super) nonce: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// A claim that does not fit. For the log; it holds nothing of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ID token's {0} does not fit")]
pub(super) struct Misfit(&'static str);

/// Who it is about.
pub(super) fn subject(typ: Option<&str>, claims: &Map<String, Value>, wanted: &Wanted<'_>) -> Result<String, Misfit> {
    let text = |name: &'static str| claims.get(name).and_then(Value::as_str).ok_or(Misfit(name));
    // An access token or a logout token is signed with the same keys.
    if typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("jwt")) {
        return Err(Misfit("typ"));
    }
    if let Some(name) = ["events", "cnf"].into_iter().find(|name| claims.contains_key(*name)) {
        return Err(Misfit(name));
    }
    if text("iss")? != wanted.issuer {
        return Err(Misfit("iss"));
    }
    let is_ours = match claims.get("aud") {
        Some(Value::String(aud)) => aud == wanted.client_id,
        // An audience that is not us is none that we know.
        Some(Value::Array(all)) => !all.is_empty() && all.iter().all(|aud| aud == wanted.client_id),
        _ => false,
    };
    if !is_ours {
        return Err(Misfit("aud"));
    }
    if claims.get("azp").is_some_and(|azp| azp != wanted.client_id) {
        return Err(Misfit("azp"));
    }
    let now = wanted.now as f64;
    let number = |name: &'static str| claims.get(name).map(|value| value.as_f64().ok_or(Misfit(name))).transpose();
    if number("exp")?.is_none_or(|exp| exp + SKEW_S <= now) {
        return Err(Misfit("exp"));
    }
    if number("iat")?.is_none_or(|iat| iat - SKEW_S > now) {
        return Err(Misfit("iat"));
    }
    if number("nbf")?.is_some_and(|nbf| nbf - SKEW_S > now) {
        return Err(Misfit("nbf"));
    }
    if !bool::from(text("nonce")?.as_bytes().ct_eq(wanted.nonce.as_bytes())) {
        return Err(Misfit("nonce"));
    }
    let subject = text("sub")?;
    if subject.is_empty() || subject.chars().count() > LONGEST_SUBJECT || subject.chars().any(char::is_control) {
        return Err(Misfit("sub"));
    }
    Ok(subject.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Misfit, Wanted, subject};

    const NOW: u64 = 1_000_000;

    fn judged(typ: Option<&str>, more: &Value) -> Result<String, Misfit> {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "kahn", "sub": "ada", "nonce": "n", "iat": NOW, "exp": NOW + 600,
        });
        for (name, value) in more.as_object().expect("members") {
            match value {
                Value::Null => claims.as_object_mut().expect("an object").remove(name),
                value => claims.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
            };
        }
        let wanted = Wanted { issuer: "https://id.example", client_id: "kahn", nonce: "n", now: NOW };
        subject(typ, claims.as_object().expect("an object"), &wanted)
    }

    #[test]
    fn an_id_token_of_this_sign_in_says_who_it_is() {
        for more in
            [json!({}), json!({"aud": ["kahn"], "azp": "kahn"}), json!({"exp": NOW - 59}), json!({"iat": NOW + 60})]
        {
            assert_eq!(judged(Some("JWT"), &more).as_deref(), Ok("ada"), "{more}");
        }
        assert!(judged(None, &json!({})).is_ok());
    }

    #[test]
    fn an_id_token_that_is_old_foreign_or_of_another_sign_in_lets_nobody_in() {
        let long = "a".repeat(256);
        for (name, more) in [
            ("iss", json!({"iss": "https://id.example/"})),
            ("iss", json!({"iss": null})),
            ("iss", json!({"iss": ["https://id.example"]})),
            ("aud", json!({"aud": "other"})),
            ("aud", json!({"aud": []})),
            ("aud", json!({"aud": ["kahn", "other"]})),
            ("aud", json!({"aud": {"kahn": true}})),
            ("azp", json!({"azp": "other"})),
            ("azp", json!({"azp": 1})),
            ("exp", json!({"exp": NOW - 60})),
            ("exp", json!({"exp": null})),
            ("exp", json!({"exp": "4000000000"})),
            ("iat", json!({"iat": null})),
            ("iat", json!({"iat": NOW + 61})),
            ("nbf", json!({"nbf": NOW + 61})),
            ("nbf", json!({"nbf": true})),
            ("nonce", json!({"nonce": null})),
            ("nonce", json!({"nonce": "m"})),
            ("nonce", json!({"nonce": ""})),
            ("sub", json!({"sub": null})),
            ("sub", json!({"sub": ""})),
            ("sub", json!({"sub": "a\u{0}"})),
            ("sub", json!({"sub": long})),
            ("events", json!({"events": {}})),
            ("cnf", json!({"cnf": {}})),
        ] {
            assert_eq!(judged(Some("JWT"), &more), Err(Misfit(name)), "{more}");
        }
        for typ in ["at+jwt", "logout+jwt", ""] {
            assert_eq!(judged(Some(typ), &json!({})), Err(Misfit("typ")), "{typ}");
        }
    }
}
