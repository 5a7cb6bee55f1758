//! Checks signatures with the very code of the server: one JSON object a line on stdin, `ok` or `no` a line on stdout.
//!
//! `{"jwk": KEY, "jws": "HEADER.CLAIMS.SIGNATURE"}`, or `{"jwk": KEY, "msg": BYTES, "sig": BYTES}` with the algorithm that
//! the key says, or that keys of its kind are used with. Vectors write bytes in several ways: both are hex or base64url, and
//! a message may be plain text too.
//!
//! `cargo run --features cloud --example jws_verify < lines.jsonl`

use std::io::{self, BufRead as _, Write as _};

use serde_json::{Map, Value};

#[path = "../src/backend/cloud/jws.rs"]
#[expect(dead_code, reason = "what a token says it is matters to its claims, which are not looked at here")]
mod jws;

use jws::{Algorithm, Fault, Jws, Key};

fn main() -> io::Result<()> {
    let mut lines = io::stdin().lock().split(b'\n');
    let mut answers = io::stdout().lock();
    while let Some(line) = lines.next().transpose()? {
        writeln!(answers, "{}", if is_signed(&line) { "ok" } else { "no" })?;
    }
    answers.flush()
}

fn is_signed(line: &[u8]) -> bool {
    jws::object(line, "line").and_then(|question| judge(&question)).is_ok()
}

fn judge(question: &Map<String, Value>) -> Result<(), Fault> {
    let jwk = question.get("jwk").and_then(Value::as_object).ok_or(Fault::Key("jwk"))?;
    let key = Key::read(jwk)?;
    let text = |name| question.get(name).and_then(Value::as_str);
    if let Some(token) = text("jws") {
        let token = Jws::parse(token)?;
        // The server looks keys up by their name.
        if key.kid().is_some_and(|kid| kid != token.kid()) {
            return Err(Fault::Header("kid"));
        }
        return token.verify(&key).map(drop);
    }
    let (message, signature) = text("msg").zip(text("sig")).ok_or(Fault::Signature)?;
    let algorithm = algorithm(jwk).ok_or(Fault::Key("alg"))?;
    let messages = readings(message).chain([message.as_bytes().to_vec()]);
    // One text may be read in two ways; a signature that verifies under one of them was made for it.
    messages
        .flat_map(|message| readings(signature).map(move |signature| (message.clone(), signature)))
        .find_map(|(message, signature)| key.verify(algorithm, &message, &signature).ok())
        .ok_or(Fault::Signature)
}

/// The bytes that a text may stand for.
fn readings(text: &str) -> impl Iterator<Item = Vec<u8>> {
    [hex::decode(text).ok(), jws::decode(text, "bytes").ok()].into_iter().flatten()
}

/// What the key says that it is for, or what keys of its kind are used with.
fn algorithm(jwk: &Map<String, Value>) -> Option<Algorithm> {
    let text = |name| jwk.get(name).and_then(Value::as_str);
    let implied = match (text("kty")?, text("crv")) {
        ("RSA", _) => "RS256",
        ("EC", Some("P-256")) => "ES256",
        ("EC", Some("P-384")) => "ES384",
        _ => "EdDSA",
    };
    Algorithm::named(text("alg").unwrap_or(implied))
}
