//! Every policy, grant, key, function and view weakened in turn: none of it is served, and what the sentence says mends it.

use std::time::Instant;

use kahn::backend::{Options, select_backend};
use kahn::config::{Config, Typed};

use super::cluster::{Database, Gate, runtime};
use super::library::{open, part, somebody};
use super::{serve, tenant};
use crate::support::{PATIENCE, everything, run};

/// Boots a backend over this database as this role: the refusal, if there is one.
fn boot_as(database: &Database, role: &str) -> Option<String> {
    let mut mistakes = Vec::new();
    let config = Config::check(&Typed::default(), &Options::defaults(), &mut mistakes);
    runtime().block_on(async {
        let options = Options::keys_only(database.dsn_of(role), 1);
        select_backend(&options, &config).await.err().map(|refusal| refusal.to_string())
    })
}

/// The statement that the refusal names is run, or the file's that it names; the server then starts.
fn mend(database: &Database, told: &str) {
    if let Some((_, rest)) = told.split_once("run `") {
        let statement = rest.strip_suffix('`').expect("one statement at the end");
        database.admin(statement);
    } else {
        let table = told.split_once("table ").expect("a table").1.split(' ').next().expect("its name");
        let (_, file) = told.split_once("migrations/").expect("a file");
        let path = format!("{}/migrations/{}", env!("CARGO_MANIFEST_DIR"), file.split(' ').next().expect("a name"));
        let text = std::fs::read_to_string(path).expect("the file");
        let policy =
            text.split(&format!("CREATE POLICY tenant_isolation ON public.{table}\n")).nth(1).expect("its policy");
        let policy = policy.split(';').next().expect("an end");
        database.admin(&format!(
            "DROP POLICY IF EXISTS tenant_isolation ON {table}; CREATE POLICY tenant_isolation ON {table} {policy}"
        ));
    }
}

/// The weakening is refused with a sentence that holds each of these words; mended as it says, the server starts.
fn refused(database: &Database, weakening: &str, words: &[&str]) -> String {
    database.admin(weakening);
    let told = boot_as(database, "kahn_app").unwrap_or_else(|| panic!("it was served: {weakening}"));
    for word in words {
        assert!(told.contains(word), "{weakening}: {told}");
    }
    told
}

fn refused_and_mended(database: &Database, weakening: &str, words: &[&str]) -> String {
    let told = refused(database, weakening, words);
    mend(database, &told);
    assert_eq!(boot_as(database, "kahn_app"), None, "after {weakening}, and what was told: {told}");
    told
}

/// Tables with a tenant_id, from the catalogue.
fn tenant_tables(database: &Database) -> Vec<String> {
    let sql = "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' \
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1";
    database.admin(sql).concat()
}

#[test]
fn every_policy_weakened_in_turn_is_refused() {
    let database = Database::fresh();
    let wall = "tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid";
    let tables = tenant_tables(&database);
    assert!(tables.len() >= 8, "{tables:?}");
    for table in &tables {
        let named = format!("table {table} ");
        let mut told = Vec::new();
        for weakening in [
            format!("ALTER POLICY tenant_isolation ON {table} USING (true) WITH CHECK (true)"),
            format!("ALTER POLICY tenant_isolation ON {table} USING (true)"),
            format!("ALTER POLICY tenant_isolation ON {table} WITH CHECK (true)"),
            // Rows that the trial does not have.
            format!("ALTER POLICY tenant_isolation ON {table} USING ({wall} OR tenant_id::text LIKE '9%')"),
            format!("ALTER POLICY tenant_isolation ON {table} WITH CHECK ({wall} OR tenant_id::text LIKE '9%')"),
            // Whoever has no tenant has all.
            format!(
                "ALTER POLICY tenant_isolation ON {table} USING ({wall} OR coalesce(current_setting('kahn.tenant_id', true), '') = '')"
            ),
            format!(
                "ALTER POLICY tenant_isolation ON {table} USING (tenant_id = coalesce(NULLIF(current_setting('kahn.tenant_id', true), '')::uuid, tenant_id))"
            ),
            format!("ALTER POLICY tenant_isolation ON {table} TO kahn_app"),
            format!("DROP POLICY tenant_isolation ON {table}"),
            format!(
                "DROP POLICY tenant_isolation ON {table}; CREATE POLICY tenant_isolation ON {table} FOR SELECT USING ({wall})"
            ),
            format!(
                "DROP POLICY tenant_isolation ON {table}; CREATE POLICY tenant_isolation ON {table} AS RESTRICTIVE USING ({wall}) WITH CHECK ({wall})"
            ),
            format!("CREATE POLICY open_door ON {table} FOR SELECT TO kahn_app USING (true)"),
            format!("CREATE POLICY open_door ON {table} FOR INSERT WITH CHECK (true)"),
            format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
            format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY"),
        ] {
            told.push(refused_and_mended(&database, &weakening, &[&named]));
        }
        // A policy that is open for all is found by trying, wherever there is a row to try it with.
        let has_rows = database.admin(&format!(
            "SELECT has_any_column_privilege('kahn_app', '{table}', 'INSERT') OR EXISTS (SELECT FROM {table})"
        ));
        if has_rows == [["t"]] {
            for seen in [&told[0], &told[1], &told[6]] {
                assert!(seen.contains("failed when it was tried"), "{seen}");
            }
        }
    }
}

#[test]
fn every_grant_weakened_in_turn_is_refused() {
    let database = Database::fresh();
    let mut tables = tenant_tables(&database);
    for table in &tables {
        for verb in ["TRUNCATE", "REFERENCES", "TRIGGER"] {
            let grant = format!("GRANT {verb} ON {table} TO kahn_app");
            refused_and_mended(&database, &grant, &[&format!("kahn_app may {verb} the table {table},")]);
        }
        let grant = format!("GRANT SELECT ON {table} TO PUBLIC");
        refused_and_mended(&database, &grant, &[&format!("PUBLIC may SELECT the table {table},")]);
        let grant = format!("GRANT UPDATE (tenant_id) ON {table} TO PUBLIC");
        refused_and_mended(&database, &grant, &[&format!("PUBLIC may UPDATE (tenant_id) the table {table},")]);
        let column = database.admin(&format!(
            "SELECT attname FROM pg_attribute a WHERE attrelid = '{table}'::regclass AND attnum > 0 \
             AND NOT has_column_privilege('kahn_lookup', attrelid, attnum, 'SELECT') ORDER BY attnum LIMIT 1"
        ));
        let column = &column[0][0];
        let grant = format!("GRANT SELECT ({column}) ON {table} TO kahn_lookup");
        refused_and_mended(&database, &grant, &[&format!("kahn_lookup may SELECT ({column}) the table {table},")]);
        let grant = format!("GRANT DELETE ON {table} TO kahn_lookup");
        refused_and_mended(&database, &grant, &[&format!("kahn_lookup may DELETE the table {table},")]);
    }
    tables.push("plans".to_owned());
    for (table, verbs) in [
        ("tenants", &["INSERT", "UPDATE", "DELETE", "UPDATE (plan)"][..]),
        ("plans", &["INSERT", "UPDATE", "DELETE", "UPDATE (rate_per_s)", "TRUNCATE"]),
        ("transitions", &["UPDATE", "UPDATE (lines)"]),
        ("activity", &["UPDATE", "DELETE"]),
        ("api_keys", &["DELETE", "UPDATE", "UPDATE (scope)", "UPDATE (key_sha256)"]),
    ] {
        assert!(tables.iter().any(|name| name == table), "{table}");
        for verb in verbs {
            let grant = format!("GRANT {verb} ON {table} TO kahn_app");
            refused_and_mended(&database, &grant, &[&format!("kahn_app may {verb} the table {table},")]);
        }
    }
    refused_and_mended(&database, "GRANT CREATE ON SCHEMA public TO PUBLIC", &["PUBLIC may make tables"]);
    refused_and_mended(&database, "GRANT CREATE ON SCHEMA public TO kahn_app", &["kahn_app may make tables"]);
}

/// The whole list, so that a migration that grants more is seen here.
#[test]
fn the_roles_have_these_verbs_and_no_others() {
    let database = Database::fresh();
    let granted = database.admin(
        "SELECT g.grantee::regrole || ': ' || c.relname || ' ' || string_agg(g.privilege_type, ' ' ORDER BY g.privilege_type) \
         FROM pg_class c, aclexplode(c.relacl) g WHERE c.relnamespace = 'public'::regnamespace AND g.grantee <> c.relowner \
         GROUP BY g.grantee, c.relname \
         UNION ALL \
         SELECT g.grantee::regrole || ': ' || c.relname || ' ' || g.privilege_type || ' ' || string_agg(a.attname, ' ' ORDER BY a.attname) \
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) g \
         WHERE c.relnamespace = 'public'::regnamespace GROUP BY g.grantee, c.relname, g.privilege_type ORDER BY 1",
    );
    let mut wanted = vec![
        "kahn_app: activity INSERT SELECT",
        "kahn_app: alerts INSERT SELECT",
        "kahn_app: api_keys INSERT SELECT",
        "kahn_app: api_keys UPDATE expires_at last_used_at revoked_at",
        "kahn_app: plans SELECT",
        "kahn_app: retention SELECT",
        "kahn_app: runs DELETE INSERT SELECT UPDATE",
        "kahn_app: tenants SELECT",
        "kahn_app: transitions DELETE INSERT SELECT",
        "kahn_app: usage INSERT SELECT",
        "kahn_app: usage UPDATE bytes events",
        "kahn_lookup: api_keys SELECT expires_at key_id key_sha256 last_used_at prefix revoked_at scope tenant_id",
        "kahn_lookup: tenants SELECT name org_id reserved tenant_id",
    ];
    wanted.sort_unstable();
    assert_eq!(granted.concat(), wanted);
}

#[test]
fn every_key_weakened_in_turn_is_refused() {
    let database = Database::fresh();
    for table in tenant_tables(&database) {
        let column = &database.admin(&format!(
            "SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND attname <> 'tenant_id' LIMIT 1"
        ))[0][0];
        let named = format!("of the table {table} does not begin with tenant_id");
        let weakening = format!("CREATE UNIQUE INDEX weak ON {table} ({column})");
        refused_and_mended(&database, &weakening, &["the key weak ", &named, "DROP INDEX public.weak"]);
        let weakening = format!("ALTER TABLE {table} ADD CONSTRAINT weak UNIQUE ({column}, tenant_id)");
        refused_and_mended(&database, &weakening, &["the key weak ", &named, "DROP CONSTRAINT weak"]);
        let weakening = format!("CREATE UNIQUE INDEX weak ON {table} ((tenant_id IS NULL), tenant_id)");
        refused_and_mended(&database, &weakening, &["the key weak ", &named]);
        // A reference that is held against a key which begins with something else.
        let weakening = format!(
            "ALTER TABLE {table} ADD CONSTRAINT weak FOREIGN KEY (tenant_id) REFERENCES tenants (tenant_id), \
             ADD COLUMN other uuid, ADD CONSTRAINT weak_too FOREIGN KEY (other) REFERENCES tenants (tenant_id)"
        );
        refused_and_mended(&database, &weakening, &["the key weak_too ", &named]);
        database.admin(&format!("ALTER TABLE {table} DROP CONSTRAINT weak, DROP COLUMN other"));
    }
    let references =
        "SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype = 'f' AND cardinality(conkey) > 1";
    for row in database.admin(references) {
        let (table, key) = (&row[0], &row[1]);
        let weakening = format!(
            "ALTER TABLE {table} DROP CONSTRAINT {key}, \
             ADD CONSTRAINT {key} FOREIGN KEY (run_id, tenant_id) REFERENCES runs (run_id, tenant_id)"
        );
        refused_and_mended(
            &database,
            &weakening,
            &[key, &format!("of the table {table} does not begin with tenant_id")],
        );
    }
    for table in tenant_tables(&database) {
        let database = Database::fresh();
        let weakening = format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey CASCADE");
        refused(&database, &weakening, &[&format!("the table {table} has no primary key"), "migrations/V00"]);
    }
}

#[test]
fn every_lookup_function_weakened_in_turn_is_refused() {
    let database = Database::fresh();
    let functions = ["kahn_tenant_of_org(text)", "kahn_tenant_ids()", "kahn_api_key_candidates(text)"];
    for signature in functions {
        let name = signature.split('(').next().expect("a name");
        for (weakening, fault) in [
            (format!("ALTER FUNCTION {signature} OWNER TO kahn_owner"), "does not belong to kahn_lookup"),
            (format!("ALTER FUNCTION {signature} OWNER TO postgres"), "does not belong to kahn_lookup"),
            (format!("ALTER FUNCTION {signature} SECURITY INVOKER"), "is not SECURITY DEFINER"),
            (format!("ALTER FUNCTION {signature} RESET search_path"), "has another search_path"),
            (format!("ALTER FUNCTION {signature} SET search_path = public"), "has another search_path"),
            (format!("GRANT EXECUTE ON FUNCTION {signature} TO PUBLIC"), "may be called by everybody"),
        ] {
            refused_and_mended(&database, &weakening, &[&format!("the function {name} {fault}")]);
        }
    }
    for signature in functions {
        let database = Database::fresh();
        let name = signature.split('(').next().expect("a name");
        let words = [&*format!("the function {name} is missing"), "create it again as migrations/V00"];
        refused(&database, &format!("DROP FUNCTION {signature}"), &words);
    }
    // Whoever can become the lookup role sees all that it does.
    let role = format!("weak_{}", database.name);
    database.admin(&format!("CREATE ROLE {role} LOGIN IN ROLE kahn_app, kahn_lookup"));
    let told = boot_as(&database, &role).expect("a refusal");
    database.admin(&format!("DROP ROLE {role}"));
    let wanted = format!("the role {role} can SET ROLE to kahn_lookup, which sees the keys of all tenants, ");
    assert!(told.starts_with(&wanted), "{told}");
}

#[test]
fn a_view_around_the_walls_is_refused() {
    let database = Database::fresh();
    let to_app = |view: &str| format!("{view}; GRANT SELECT ON weak TO kahn_app");
    for view in [
        "CREATE VIEW weak AS SELECT * FROM runs",
        "CREATE VIEW below AS SELECT * FROM transitions; CREATE VIEW weak WITH (security_barrier) AS SELECT lines FROM below",
        "CREATE MATERIALIZED VIEW weak AS SELECT run_id FROM runs",
        "CREATE VIEW weak WITH (security_invoker = false) AS SELECT run_id FROM alerts",
    ] {
        refused_and_mended(&database, &to_app(view), &["the view weak shows every tenant's rows"]);
        let kind = if view.contains("MATERIALIZED") { "MATERIALIZED VIEW" } else { "VIEW" };
        database.admin(&format!("DROP {kind} IF EXISTS weak; DROP VIEW IF EXISTS below"));
    }
    // One that nobody of the server's may read is somebody else's business, and so is one of other things.
    database.admin("CREATE VIEW report AS SELECT * FROM runs");
    database.admin("CREATE VIEW mine AS SELECT * FROM plans; GRANT SELECT ON mine TO kahn_app");
    assert_eq!(boot_as(&database, "kahn_app"), None);
}

#[test]
fn a_refused_wall_is_one_sentence_and_exit_code_1() {
    let database = Database::fresh();
    database.admin("ALTER POLICY tenant_isolation ON runs USING (true) WITH CHECK (true)");
    let env = [("KAHN_DATABASE_URL", database.app_dsn()), ("KAHN_AUTH", "keys-only".to_owned())];
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let done = run(&["serve", "--bind", "127.0.0.1:0"], &env);
    assert_eq!(done.status.code(), Some(1));
    let told = String::from_utf8_lossy(&done.stderr);
    let wanted = "error: the wall of the table runs failed when it was tried: one tenant reads another one's row; \
                  its policy is tenant_isolation, create it again as migrations/V004__runs.sql does\n";
    assert!(told.ends_with(wanted), "{told}");
}

#[test]
fn a_table_that_nothing_can_be_put_into_is_not_taken_on_trust() {
    let database = Database::fresh();
    let wall = "tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid";
    database.admin(&format!(
        "CREATE TABLE extra (tenant_id uuid PRIMARY KEY, size numeric NOT NULL CHECK (size > 7)); \
         ALTER TABLE extra ENABLE ROW LEVEL SECURITY; ALTER TABLE extra FORCE ROW LEVEL SECURITY; \
         CREATE POLICY tenant_isolation ON extra USING ({wall}) WITH CHECK ({wall}); GRANT SELECT ON extra TO kahn_app"
    ));
    // Not the server's to write: tried with what there is.
    assert_eq!(boot_as(&database, "kahn_app"), None);
    database.admin("GRANT INSERT ON extra TO kahn_app");
    let told = boot_as(&database, "kahn_app").expect("a refusal");
    assert!(told.starts_with("the wall of the table extra could not be tried (new row for relation"), "{told}");
    database.admin("ALTER TABLE extra DROP CONSTRAINT extra_size_check");
    assert_eq!(boot_as(&database, "kahn_app"), None);
}

#[test]
fn the_trial_leaves_nothing_behind_and_waits_for_nobody() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let tables = tenant_tables(&database);
    let counts = || -> Vec<Vec<String>> {
        tables.iter().flat_map(|table| database.admin(&format!("SELECT '{table}', count(*) FROM {table}"))).collect()
    };
    let before = counts();
    runtime().block_on(async {
        // Somebody in the middle of an ingest, and eight servers at once.
        let gate = tokio::task::spawn_blocking({
            let dsn = database.app_dsn();
            let id = a.tenant.as_ref().expect("a tenant").id.to_string();
            move || {
                let gate = Gate::new(&dsn);
                gate.run(&format!("BEGIN; SELECT set_config('kahn.tenant_id', '{id}', true); INSERT INTO runs (tenant_id, run_id) VALUES ('{id}', 'held')"));
                gate
            }
        })
        .await
        .expect("a gate");
        let began = Instant::now();
        let backends = futures_util::future::join_all((0..8).map(|_| open(&database, 1))).await;
        assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
        for backend in &backends {
            assert_eq!(backend.store.list(&a, &everything()).await.expect("an answer").total, 0);
        }
        backends[0].store.append(&a, vec![part("r", 0, 1)]).await.expect("stored beside them");
        tokio::task::spawn_blocking(move || drop(gate)).await.expect("the gate goes");
    });
    database.admin("DELETE FROM transitions; DELETE FROM runs; DELETE FROM usage");
    assert_eq!(counts(), before);
    // Nor does anybody get to see the two tenants of the trial.
    let (_, key) = tenant(&database, "b");
    let server = serve(&database);
    let me =
        crate::support::request(&server.url, ("GET", "/api/me"), &[("authorization", &format!("Bearer {key}"))], None);
    assert_eq!(me.json()["tenant"], "b", "{}", me.text());
    assert_eq!(database.app("SELECT count(*) FROM kahn_tenant_ids()"), Ok(vec![vec!["2".to_owned()]]));
    assert_eq!(database.app("SELECT kahn_tenant_of_org('probe:a')"), Ok(vec![vec!["NULL".to_owned()]]));
    assert_eq!(
        database.app("SELECT count(*) FROM kahn_api_key_candidates('0probe0a')"),
        Ok(vec![vec!["0".to_owned()]])
    );
}
