//! Who may read /metrics of a server with tenants. If these fail, a tenant or a stranger sees what all of them do.

use super::cluster::Database;
use super::{serve_at, tenant};
use crate::support::{Kitchen, METRICS_TOKEN, Server, request, run};

/// Status and code of what /metrics answers to this Authorization field.
fn asked(server: &Server, field: Option<&str>) -> (u16, String) {
    let headers: Vec<(&str, &str)> = field.map(|field| ("authorization", field)).into_iter().collect();
    let answer = request(&server.url, ("GET", "/metrics"), &headers, None);
    if answer.status == 200 { (200, String::new()) } else { answer.problem() }
}

fn nothing() -> (u16, String) {
    (404, "not_found".to_owned())
}

#[test]
fn metrics_are_there_for_their_token_alone_and_for_nobody_without_one() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve_at(&database.app_dsn(), &[]);
    assert_eq!(asked(&server, Some(&format!("Bearer {METRICS_TOKEN}"))).0, 200);
    assert_eq!(asked(&server, Some(&format!("bearer {METRICS_TOKEN}"))).0, 200);
    let longer = format!("Bearer {METRICS_TOKEN}0");
    let shorter = format!("Bearer {}", &METRICS_TOKEN[..METRICS_TOKEN.len() - 1]);
    let keys = [format!("Bearer {read}"), format!("Bearer {ingest}"), longer, shorter];
    let basic = format!("Basic {METRICS_TOKEN}");
    for field in keys.iter().map(String::as_str).chain([METRICS_TOKEN, "Bearer", "Bearer ", "", &basic]) {
        assert_eq!(asked(&server, Some(field)), nothing());
    }
    assert_eq!(asked(&server, None), nothing());
    // What is not there takes no parameters either.
    assert_eq!(request(&server.url, ("GET", "/metrics?x=1"), &[], None).problem(), nothing());
    // And it is no key to anything else.
    let field = format!("Bearer {METRICS_TOKEN}");
    let answer = request(&server.url, ("GET", "/api/runs"), &[("authorization", &field)], None);
    assert_eq!(answer.problem(), (401, "invalid_token".to_owned()));
    assert!(!server.log().contains(METRICS_TOKEN));

    let env = [("KAHN_DATABASE_URL", &*database.app_dsn()), ("KAHN_AUTH", "keys-only")];
    let without = Server::start(&["serve", "--bind", "127.0.0.1:0"], &env);
    assert_eq!(asked(&without, None), nothing());
    assert_eq!(asked(&without, Some("Bearer ")), nothing());
}

#[test]
fn a_token_that_is_guessed_or_stands_twice_stops_the_start_and_is_not_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    let path = file.display().to_string();
    let of_file = [("KAHN_METRICS_TOKEN_FILE", path.as_str())];
    let both = [("KAHN_METRICS_TOKEN_FILE", path.as_str()), ("KAHN_METRICS_TOKEN", METRICS_TOKEN)];
    let of_variable = [("KAHN_METRICS_TOKEN", "short-and-secret")];
    for (written, env, mends) in [
        ("short-and-secret\n", &of_file[..], "openssl rand"),
        ("short-and-secret and spaces and more of them\n", &of_file[..], "openssl rand"),
        (METRICS_TOKEN, &both[..], "KAHN_METRICS_TOKEN_FILE"),
        ("", &of_variable[..], "openssl rand"),
    ] {
        std::fs::write(&file, written).expect("a file");
        let base = [("KAHN_DATABASE_URL", "postgres://kahn_app@127.0.0.1:1/kahn"), ("KAHN_AUTH", "keys-only")];
        let refused = run(&["serve", "--bind", "127.0.0.1:0"], &[&base[..], env].concat());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("KAHN_METRICS_TOKEN") && said.contains(mends), "{said}");
        assert!(!said.contains("secret") && !said.contains(METRICS_TOKEN), "{said}");
    }
    std::fs::remove_file(&file).expect("gone");
    let base = [("KAHN_DATABASE_URL", "postgres://kahn_app@127.0.0.1:1/kahn"), ("KAHN_AUTH", "keys-only")];
    let refused = run(&["serve", "--bind", "127.0.0.1:0"], &[&base[..], &of_file[..]].concat());
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn the_database_and_what_is_held_of_it_are_counted() {
    let database = Database::fresh();
    let (ingest, read) = tenant(&database, "acme");
    let server = serve_at(&database.app_dsn(), &["--database-pool", "7"]);
    let kitchen = Kitchen::new(server, Some(read), Some(ingest), database);
    let line = b"{\"ts\":\"2026-05-01T10:00:00.000Z\",\"run_id\":\"m-1\",\"event\":\"run_start\",\"total_nodes\":1}\n";
    assert_eq!(kitchen.post("/v1/ingest/transitions", line).status, 200);
    assert_eq!(kitchen.get("/api/runs/m-1").status, 200);
    let text = kitchen.get("/metrics").text();
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{series}: {text}"))
    };
    assert_eq!(value("kahn_storage_connections_max"), 7.0);
    assert!(value("kahn_storage_connections{state=\"idle\"}") >= 1.0);
    assert_eq!(value("kahn_storage_waiting"), 0.0);
    assert!(value("kahn_storage_calls_total{call=\"load\"}") >= 1.0);
    assert_eq!(value("kahn_storage_errors_total{call=\"load\"}"), 0.0);
    assert!(value("kahn_cache_entries{cache=\"runs\"}") >= 1.0 && value("kahn_cache_bytes{cache=\"runs\"}") > 100.0);
    assert!(!text.contains("acme") && !text.contains("m-1"), "{text}");
}
