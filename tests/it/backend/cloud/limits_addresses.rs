//! Bad credentials, counted by address. If these fail, whoever guesses keys goes on guessing, or one who does locks out
//! everybody behind the same address.

use std::time::Duration;

use super::cluster::Database;
use super::{serve, serve_with, tenant};
use crate::support::{Answer, Server, request, run, wait_for};

/// Five at once, then one a second.
const FEW: [&str; 4] = ["--auth-failures-burst", "5", "--auth-failures-rate", "1"];

/// Behind a proxy on this machine.
const PROXIED: [&str; 6] =
    ["--auth-failures-burst", "5", "--auth-failures-rate", "1", "--trusted-proxies", "127.0.0.1,10.0.0.0/8,fd00::/8"];

fn ask(server: &Server, token: &str, forwarded: &[&str]) -> Answer {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("authorization", authorization.as_str())];
    headers.extend(forwarded.iter().map(|field| ("x-forwarded-for", *field)));
    request(&server.url, ("GET", "/api/runs"), &headers, None)
}

/// Bad tokens from there until nothing more is looked at; how many were.
fn exhaust(server: &Server, forwarded: &[&str]) -> u32 {
    let mut looked_at = 0;
    wait_for("the address to be told to wait", || {
        let answer = ask(server, &format!("bad-token-number-{looked_at}"), forwarded);
        match answer.status {
            401 => looked_at += 1,
            _ => assert_eq!(answer.problem(), (429, "too_many_failures".into())),
        }
        (answer.status == 429).then_some(())
    });
    looked_at
}

fn is_exhausted(server: &Server, forwarded: &[&str]) -> bool {
    let answer = ask(server, "another-bad-token", forwarded);
    assert!([401, 429].contains(&answer.status), "{}", answer.text());
    answer.status == 429
}

#[test]
fn whoever_guesses_is_told_to_wait_and_who_was_let_in_before_goes_on() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve_with(&database, &FEW);
    assert_eq!(ask(&server, &read, &[]).status, 200);
    assert!((5..10).contains(&exhaust(&server, &[])));
    for _ in 0..10 {
        assert_eq!(ask(&server, &read, &[]).status, 200, "a bad neighbour locked out a key that was known");
    }
    // A key that nobody has seen yet is as good as a guess.
    let answer = ask(&server, &ingest, &[]);
    assert_eq!(answer.problem(), (429, "too_many_failures".into()));
    let wait = answer.json()["retry_after_s"].as_u64().expect("seconds");
    assert_eq!((wait, answer.header("retry-after")), (1, "1"));
    assert_eq!(answer.header("www-authenticate"), "", "it says nothing about the key");
    let without = request(&server.url, ("GET", "/api/runs"), &[], None);
    assert_eq!(without.problem(), (401, "no_credentials".into()), "to send none is no guess");
    std::thread::park_timeout(Duration::from_secs(wait));
    assert_ne!(ask(&server, &ingest, &[]).status, 429, "it was said that this would be looked at");
}

#[test]
fn credentials_that_are_missing_or_cannot_be_checked_are_no_failures() {
    let database = Database::fresh();
    let (_, read) = tenant(&database, "acme");
    let server = serve_with(&database, &FEW);
    database.admin("REVOKE EXECUTE ON FUNCTION kahn_api_key_candidates FROM kahn_app");
    for _ in 0..10 {
        assert_eq!(request(&server.url, ("GET", "/api/runs"), &[], None).status, 401);
        assert_eq!(ask(&server, &read, &[]).problem(), (503, "credentials_unavailable".into()));
    }
    database.admin("GRANT EXECUTE ON FUNCTION kahn_api_key_candidates TO kahn_app");
    assert_eq!(ask(&server, &read, &[]).status, 200);
}

#[test]
fn behind_a_trusted_proxy_each_client_answers_for_itself() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = serve_with(&database, &PROXIED);
    exhaust(&server, &["198.51.100.7"]);
    assert!(!is_exhausted(&server, &["198.51.100.8"]), "one client's failures are another's");
    // What stands before the last address was written by whoever asks.
    for forged in [
        &["203.0.113.1, 198.51.100.7"][..],
        &["203.0.113.2", "198.51.100.7"],
        &["nonsense, 198.51.100.7"],
        &["203.0.113.3,198.51.100.7, 10.1.2.3"],
        &["203.0.113.4,  \t198.51.100.7 ,fd00::1, 127.0.0.1"],
        &["::ffff:198.51.100.7"],
    ] {
        exhaust(&server, &["198.51.100.7"]);
        assert!(is_exhausted(&server, forged), "{forged:?} gets round the limit");
    }
    // One /64 is one client.
    exhaust(&server, &["2001:db8:1:2:3:4:5:6"]);
    assert!(is_exhausted(&server, &["2001:db8:1:2::1"]), "65,536 times 65,536 guesses more");
    assert!(!is_exhausted(&server, &["2001:db8:1:3::1"]));
}

#[test]
fn what_is_no_address_is_counted_as_the_proxys_own() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = serve_with(&database, &PROXIED);
    let long = "1,".repeat(4000);
    let odd = [
        "",
        ",",
        "unknown",
        "_hidden",
        "1.2.3",
        "1.2.3.4.5",
        "0x7f.1",
        "127.1",
        "2130706433",
        "1.2.3.4:80",
        "[::1]",
        "[2001:db8::1]:80",
        "fe80::1%eth0",
        "198.51.100.7 198.51.100.8",
        "\"198.51.100.7\"",
        "for=198.51.100.7",
        "010.0.0.1",
        "256.1.1.1",
        "1.2.3.4/32",
        long.as_str(),
    ];
    for forwarded in odd {
        exhaust(&server, &[]);
        assert!(is_exhausted(&server, &[forwarded]), "{forwarded:?} gets round the limit");
    }
}

#[test]
fn without_trusted_proxies_nobody_says_whose_address_it_is() {
    let database = Database::fresh();
    tenant(&database, "acme");
    let server = serve_with(&database, &FEW);
    exhaust(&server, &["198.51.100.7"]);
    assert!(is_exhausted(&server, &["198.51.100.8"]), "a forged address gets round the limit");
}

#[test]
fn people_mistype_without_being_stopped() {
    let database = Database::fresh();
    let (_, read) = tenant(&database, "acme");
    let server = serve(&database);
    for attempt in 0..50 {
        assert_eq!(ask(&server, &format!("mistyped-token-{attempt}"), &[]).status, 401);
    }
    assert_eq!(ask(&server, &read, &[]).status, 200);
}

#[test]
fn a_limit_or_a_proxy_that_cannot_be_meant_stops_the_start() {
    let url = "postgres://kahn_app@localhost/none";
    for (flag, value, word) in [
        ("--auth-failures-burst", "0", "KAHN_AUTH_FAILURES_BURST"),
        ("--auth-failures-burst", "many", "KAHN_AUTH_FAILURES_BURST"),
        ("--auth-failures-rate", "-1", "KAHN_AUTH_FAILURES_RATE"),
        ("--auth-failures-rate", "0.5", "KAHN_AUTH_FAILURES_RATE"),
        ("--trusted-proxies", "10.0.0.0/33", "KAHN_TRUSTED_PROXIES"),
        ("--trusted-proxies", "10.0.0.0/+8", "KAHN_TRUSTED_PROXIES"),
        ("--trusted-proxies", "10.0.0.0/", "KAHN_TRUSTED_PROXIES"),
        ("--trusted-proxies", "10.0.0/8", "KAHN_TRUSTED_PROXIES"),
        ("--trusted-proxies", "fd00::/129", "KAHN_TRUSTED_PROXIES"),
        ("--trusted-proxies", "localhost", "KAHN_TRUSTED_PROXIES"),
    ] {
        let said = run(
            &["serve", "--bind", "127.0.0.1:0", &format!("{flag}={value}")],
            &[("KAHN_DATABASE_URL", url), ("KAHN_AUTH", "keys-only")],
        );
        assert_eq!(said.status.code(), Some(2), "{flag} {value}");
        let sentence = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(sentence.contains(word) && sentence.contains(value), "{flag} {value}: {sentence}");
    }
}
