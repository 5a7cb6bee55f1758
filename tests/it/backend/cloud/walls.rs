//! The walls between tenants: tried in SQL as the server's own role, and over HTTP.

use super::cluster::Database;
use super::{serve, tenant};
use crate::support::{Answer, Server, request};

const A: &str = "11111111-1111-4111-8111-111111111111";
const B: &str = "22222222-2222-4222-8222-222222222222";

/// Two tenants, each with a row in every table.
fn two_tenants() -> Database {
    let database = Database::fresh();
    for (tenant, name) in [(A, "a"), (B, "b")] {
        database.admin(&format!(
            "INSERT INTO tenants (tenant_id, name, org_id, key_prefix) VALUES ('{tenant}', '{name}', 'org-{name}', 'prefix0{name}'); \
             INSERT INTO api_keys (tenant_id, key_id, prefix, label, scope, key_sha256) \
               VALUES ('{tenant}', '{tenant}', 'prefix0{name}', 'first', 'ingest', sha256('{name}')); \
             INSERT INTO runs (tenant_id, run_id) VALUES ('{tenant}', 'run'); \
             INSERT INTO transitions VALUES ('{tenant}', 'run', 0, 'line of {name}'); \
             INSERT INTO usage VALUES ('{tenant}', '2026-01-01', 1, 1); \
             INSERT INTO retention VALUES ('{tenant}', 7); \
             INSERT INTO activity VALUES ('{tenant}', '{tenant}', now(), 'x', 'x', 'x'); \
             INSERT INTO alerts VALUES ('{tenant}', '{tenant}', 'run', 'x')"
        ));
    }
    database
}

const TENANT_TABLES: [&str; 8] =
    ["activity", "alerts", "api_keys", "retention", "runs", "tenants", "transitions", "usage"];

/// Statements of the server's role with this tenant set; the rows of those after the setting.
fn inside(database: &Database, tenant: &str, statements: &str) -> Result<Vec<Vec<String>>, String> {
    let all = format!("BEGIN; SELECT set_config('kahn.tenant_id', '{tenant}', true); {statements}; ROLLBACK");
    database.app(&all).map(|rows| rows.into_iter().skip(1).collect())
}

#[test]
fn without_a_tenant_there_are_no_rows() {
    let database = two_tenants();
    for table in TENANT_TABLES {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(database.app(&count), Ok(vec![vec!["0".to_owned()]]), "{table}");
        // The setting is '' after a transaction that had a tenant, and that is nobody too.
        let after = format!("BEGIN; SELECT set_config('kahn.tenant_id', '{A}', true); COMMIT; {count}");
        assert_eq!(database.app(&after).expect("rows")[1], ["0"], "{table}");
        assert_eq!(inside(&database, A, &count), Ok(vec![vec!["1".to_owned()]]), "{table}: the control");
        let others = format!("SELECT count(*) FROM {table} WHERE tenant_id <> '{A}'");
        assert_eq!(inside(&database, A, &others), Ok(vec![vec!["0".to_owned()]]), "{table}");
    }
}

#[test]
fn another_tenants_rows_cannot_be_written_moved_or_taken() {
    let database = two_tenants();
    let wall = |table: &str| Err(format!("new row violates row-level security policy for table \"{table}\""));
    let write = [
        ("runs", format!("INSERT INTO runs (tenant_id, run_id) VALUES ('{B}', 'new')")),
        ("transitions", format!("INSERT INTO transitions VALUES ('{B}', 'run', 1, 'forged')")),
        ("usage", format!("INSERT INTO usage VALUES ('{B}', '2026-01-02', 1, 1)")),
        ("activity", format!("INSERT INTO activity VALUES ('{B}', '{A}', now(), 'x', 'x', 'x')")),
        ("alerts", format!("INSERT INTO alerts VALUES ('{B}', '{A}', 'run', 'x')")),
        ("runs", format!("UPDATE runs SET tenant_id = '{B}', run_id = 'moved'")),
    ];
    for (table, statement) in write {
        assert_eq!(inside(&database, A, &statement), wall(table), "{statement}");
        assert_eq!(
            database.app(&statement.replace(B, A)).map(|rows| rows.len()),
            if statement.starts_with("UPDATE") { Ok(0) } else { Err(wall(table).unwrap_err()) },
            "without a tenant: {statement}"
        );
    }
    // What is not seen is not changed: these reach nothing of B's.
    let reach = format!(
        "UPDATE runs SET next_seq = 9 WHERE tenant_id = '{B}'; DELETE FROM transitions WHERE tenant_id = '{B}'; \
         DELETE FROM runs WHERE tenant_id = '{B}'; UPDATE api_keys SET revoked_at = now() WHERE tenant_id = '{B}'; COMMIT; BEGIN"
    );
    assert_eq!(inside(&database, A, &reach), Ok(vec![]));
    let left = "SELECT next_seq, (SELECT count(*) FROM transitions), (SELECT count(*) FROM api_keys WHERE revoked_at IS NULL) FROM runs";
    assert_eq!(inside(&database, B, left), Ok(vec![vec!["0".into(), "1".into(), "1".into()]]));
}

#[test]
fn the_servers_role_has_only_the_verbs_it_needs() {
    let database = two_tenants();
    let denied = [
        "UPDATE transitions SET lines = 'other'",
        "DELETE FROM activity",
        "UPDATE activity SET actor = 'y'",
        "UPDATE tenants SET name = 'y'",
        "DELETE FROM api_keys",
        "UPDATE api_keys SET scope = 'read'",
        "UPDATE plans SET rate_per_s = 1",
        "TRUNCATE runs",
        "ALTER TABLE runs DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE public.mine ()",
        "CREATE TRIGGER mine BEFORE INSERT ON runs EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "SET ROLE kahn_owner",
        "SET ROLE kahn_lookup",
    ];
    for statement in denied {
        let refused = inside(&database, A, statement).expect_err(statement);
        assert!(refused.contains("permission denied") || refused.contains("must be owner"), "{statement}: {refused}");
    }
    let granted = database.admin(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants \
         WHERE grantee = 'kahn_app' AND privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')",
    );
    assert!(granted.is_empty(), "{granted:?}");
}

#[test]
fn every_key_of_a_tenant_table_begins_with_the_tenant() {
    let database = Database::fresh();
    let faults = "SELECT c.conrelid::regclass || '.' || c.conname FROM pg_constraint c \
                  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attname = 'tenant_id' \
                  WHERE c.contype IN ('p', 'u', 'f', 'x') AND c.conkey[1] <> a.attnum \
                  UNION ALL \
                  SELECT i.indexrelid::regclass::text FROM pg_index i \
                  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = 'tenant_id' \
                  WHERE i.indisunique AND i.indkey[0] <> a.attnum \
                  UNION ALL \
                  SELECT c.conrelid::regclass || '.' || c.conname || ' to it' FROM pg_constraint c \
                  JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attname = 'tenant_id' \
                  WHERE c.contype = 'f' AND c.confkey[1] <> a.attnum";
    assert_eq!(database.admin(faults), Vec::<Vec<String>>::new());
    let tables = "SELECT relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
                  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1";
    assert_eq!(database.admin(tables).concat(), TENANT_TABLES);
    // The control: a key that does not is found.
    database.admin("CREATE UNIQUE INDEX bad ON tenants (org_id)");
    assert_eq!(database.admin(faults), [["bad"]]);
}

#[test]
fn the_lookup_functions_find_and_give_nothing_away() {
    let database = two_tenants();
    let app = |statement: &str| database.app(statement).expect("rows");
    assert_eq!(
        app("SELECT kahn_tenant_of_org('org-a'), kahn_tenant_of_org('nobody'), kahn_tenant_of_org('probe:a')"),
        [[A, "NULL", "NULL"]]
    );
    assert_eq!(app("SELECT * FROM kahn_tenant_ids()"), [[A], [B]]);
    assert_eq!(
        app("SELECT tenant_id, tenant_name, scope FROM kahn_api_key_candidates('prefix0b')"),
        [[B, "b", "ingest"]]
    );
    // Two tenants with one org: neither.
    database.admin("UPDATE tenants SET org_id = 'org-a' WHERE name = 'b'");
    assert_eq!(app("SELECT kahn_tenant_of_org('org-a')"), [["NULL"]]);
    let open = "SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND \
                (NOT p.prosecdef OR pg_get_userbyid(p.proowner) <> 'kahn_lookup' OR p.proacl::text LIKE '%{=%' OR p.proacl::text LIKE '%,=%' \
                 OR p.proacl IS NULL OR p.proconfig::text IS DISTINCT FROM '{\"search_path=pg_catalog, pg_temp\"}')";
    assert!(database.admin(open).is_empty());
    // A temporary object of the caller's does not get between the function and its table.
    let fake = format!(
        "CREATE TEMP TABLE tenants (tenant_id uuid, org_id text, reserved bool); INSERT INTO tenants VALUES ('{A}', 'forged', false); SELECT kahn_tenant_of_org('forged')"
    );
    assert_eq!(app(&fake), [["NULL"]]);
}

fn ask(server: &Server, key: &str, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
    let bearer = format!("Bearer {key}");
    let kind = if method == "PUT" { "application/json" } else { "application/x-ndjson" };
    let headers = [("authorization", bearer.as_str()), ("content-type", kind), ("x-request-id", "same")];
    request(&server.url, (method, path), &headers, body)
}

#[test]
fn over_http_another_tenants_run_is_one_that_nobody_has() {
    let database = Database::fresh();
    let (ingest_a, read_a) = tenant(&database, "a");
    let (ingest_b, read_b) = tenant(&database, "b");
    let server = serve(&database);
    let line = |who: &str| {
        format!(
            "{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"same-name\",\"event\":\"run_start\",\"total_nodes\":1,\"who\":\"{who}\"}}\n"
        )
    };
    let post = "/v1/ingest/transitions";
    assert_eq!(ask(&server, &ingest_a, "POST", post, Some(line("a").as_bytes())).status, 200);
    let only_a = line("a").replace("same-name", "only-a");
    assert_eq!(ask(&server, &ingest_a, "POST", post, Some(only_a.as_bytes())).status, 200);
    // The same run_id in two tenants is two runs.
    assert_eq!(ask(&server, &ingest_b, "POST", post, Some(line("b").as_bytes())).status, 200);
    assert_eq!(ask(&server, &read_a, "GET", "/api/runs/same-name/events", None).text(), line("a"));
    assert_eq!(ask(&server, &read_b, "GET", "/api/runs/same-name/events", None).text(), line("b"));
    for path in ["/api/runs/NAME", "/api/runs/NAME/events", "/api/runs/NAME/graph", "/api/runs/NAME/problems"] {
        let others = ask(&server, &read_b, "GET", &path.replace("NAME", "only-a"), None);
        let nobodys = ask(&server, &read_b, "GET", &path.replace("NAME", "none-a"), None);
        assert_eq!(others.status, 404, "{path}");
        assert_eq!(others.text().replace("only-a", "none-a"), nobodys.text(), "{path}");
    }
    let list = ask(&server, &read_b, "GET", "/api/runs", None).json();
    assert_eq!(list["total"], 1, "{list}");
    // Placed behind the end of A's log, B's run has still only its own line.
    let next = "{\"ts\":\"2026-04-24T10:00:01.000Z\",\"run_id\":\"only-a\",\"event\":\"heartbeat\"}\n";
    let answer = ask(&server, &ingest_b, "POST", "/v1/ingest/transitions?from_seq=1", Some(next.as_bytes()));
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert_eq!(answer.json()["next_seq"], 0);
    assert_eq!(ask(&server, &read_b, "GET", "/api/runs", None).json()["total"], 1, "a refused batch leaves no row");
}
