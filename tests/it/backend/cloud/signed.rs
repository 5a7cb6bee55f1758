//! Signatures and the strict parse before them, over a list that was made with other libraries (and, where those would not do
//! it, by hand): `signed.jsonl`, one JSON object a line, with what is wanted of it. Run through the file that the server has.

use serde_json::{Map, Value};

#[path = "../../../../src/backend/cloud/jws.rs"]
#[expect(dead_code, reason = "what a token says it is matters to its claims, which are not looked at here")]
mod jws;

use jws::{Algorithm, Fault, Jws, Key};

fn judge(case: &Map<String, Value>) -> Result<(), Fault> {
    let key = Key::read(case["jwk"].as_object().ok_or(Fault::Key("jwk"))?)?;
    if let Some(token) = case.get("jws").and_then(Value::as_str) {
        let token = Jws::parse(token)?;
        if key.kid().is_some_and(|kid| kid != token.kid()) {
            return Err(Fault::Header("kid"));
        }
        return token.verify(&key).map(drop);
    }
    let text = |name| case.get(name).and_then(Value::as_str).ok_or(Fault::Signature);
    let algorithm = Algorithm::named(text("alg")?).ok_or(Fault::WrongAlgorithm)?;
    key.verify(algorithm, text("msg")?.as_bytes(), &jws::decode(text("sig")?, "signature")?)
}

#[test]
fn nothing_but_a_sound_signature_under_a_sound_key_counts() {
    let cases: Vec<Map<String, Value>> =
        include_str!("signed.jsonl").lines().map(|line| serde_json::from_str(line).expect("a case a line")).collect();
    let wrong: Vec<String> = cases
        .iter()
        .filter(|case| judge(case).is_ok() != (case["want"] == true))
        .map(|case| format!("{}: {:?}", case["name"], judge(case)))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    let good = cases.iter().filter(|case| case["want"] == true).count();
    assert!(good >= 40 && cases.len() - good >= 200, "{good} of {}", cases.len());
}

/// One bit changed at any place of a good token leaves nothing that counts.
#[test]
fn no_place_of_a_token_may_change() {
    let cases = include_str!("signed.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).expect("a case"));
    let case = cases.into_iter().find(|case| case["name"] == "EdDSA is signed").expect("it is in the list");
    let key = Key::read(case["jwk"].as_object().expect("a key")).expect("it is sound");
    let token = case["jws"].as_str().expect("a token");
    for place in 0..token.len() {
        let bit = place % 7;
        let mut bytes = token.as_bytes().to_vec();
        bytes[place] ^= 1 << bit;
        let changed = String::from_utf8(bytes).expect("seven bits");
        let verdict = Jws::parse(&changed).and_then(|token| token.verify(&key).map(drop));
        assert!(verdict.is_err(), "bit {bit} of byte {place}");
    }
}
