//! What may stand behind `Bearer`: tokens, their headers, keys of a provider, whole fields. No panic, nothing is let through
//! that was not signed, and what the strict parse takes is what JSON says it is.
#![no_main]

use actix_web::http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kahn_fuzz::Server;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::{Map, Value};

// The very file that the server checks signatures with.
#[allow(dead_code)]
#[path = "../../src/backend/cloud/jws.rs"]
mod jws;

use jws::{Jws, Key, object};

/// Tokens that verify, with their keys: of all tokens that can be found, only these.
const KNOWN: [(&[u8], &[u8]); 3] = [
    (include_bytes!("../corpus/token/eddsa"), include_bytes!("../corpus/token/jwk-eddsa")),
    (include_bytes!("../corpus/token/es256"), include_bytes!("../corpus/token/jwk-es256")),
    (include_bytes!("../corpus/token/rs256"), include_bytes!("../corpus/token/jwk-rs256")),
];

struct Known {
    token: &'static str,
    key: Key,
}

// Never dropped: at the end of the process nothing is left that it could be dropped with.
thread_local!(static SERVER: &'static Server = Box::leak(Box::default()));
thread_local!(static KEYS: Vec<Known> = KNOWN.iter().map(known).collect());

fn known((token, jwk): &(&'static [u8], &'static [u8])) -> Known {
    let token = std::str::from_utf8(token).expect("text");
    let key = Key::read(&object(&jwk[1..], "key").expect("an object")).expect("a key");
    Jws::parse(token).expect("a token").verify(&key).expect("it was signed");
    Known { token, key }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        None => Corpus::Reject,
        Some((b'#', rest)) => SERVER.with(|server| server.block_on(field(server, rest))),
        Some((b'[', rest)) => KEYS.with(|known| key(known, rest)),
        Some((b'{', _)) => members(data),
        Some(_) => KEYS.with(|known| token(known, data)),
    }
});

/// A token, as it stands in the field.
fn token(known: &[Known], data: &[u8]) -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let Ok(jws) = Jws::parse(text) else { return Corpus::Keep };
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3);
    for part in parts {
        let bytes = URL_SAFE_NO_PAD.decode(part).expect("it was decoded before");
        assert_eq!(URL_SAFE_NO_PAD.encode(bytes), part, "another way to write the same bytes");
    }
    for one in known {
        let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
        assert!(jws.verify(&one.key).is_err() || signed(text) == signed(one.token), "nobody signed this: {text}");
    }
    Corpus::Keep
}

/// A key of a provider's set.
fn key(known: &[Known], data: &[u8]) -> Corpus {
    let Ok(members) = serde_json::from_slice::<Map<String, Value>>(data) else { return Corpus::Reject };
    let Ok(key) = Key::read(&members) else { return Corpus::Keep };
    for one in known {
        let jws = Jws::parse(one.token).expect("a token");
        let is_its_own = ["kty", "x", "y", "n"].iter().all(|name| {
            KNOWN.iter().any(|(_, jwk)| object(&jwk[1..], "key").is_ok_and(|own| own.get(*name) == members.get(*name)))
        });
        assert!(jws.verify(&key).is_err() || is_its_own, "another key verifies it");
    }
    Corpus::Keep
}

/// A header or claims.
fn members(data: &[u8]) -> Corpus {
    if let Ok(strict) = object(data, "claims") {
        let loose: Value = serde_json::from_slice(data).expect("what is strict is JSON");
        assert_eq!(Value::Object(strict), loose);
    }
    Corpus::Keep
}

/// A whole Authorization field, and the same bytes as a protocol that is offered with a handshake.
async fn field(server: &Server, data: &[u8]) -> Corpus {
    let Ok(value) = HeaderValue::from_bytes(data) else { return Corpus::Reject };
    for name in [AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL] {
        let request = Server::request("/api/me").expect("a target").insert_header((name, value.clone()));
        let request = request.insert_header(("upgrade", "websocket"));
        let Some(answer) = server.ask(request).await else { return Corpus::Reject };
        assert!(!answer.status().is_server_error(), "{}", answer.status());
    }
    Corpus::Keep
}
