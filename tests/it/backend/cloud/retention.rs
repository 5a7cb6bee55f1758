//! Retention. If these fail, runs go too early, stay for ever, come back as halves, or take another tenant's with them.

use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use super::cluster::{Database, Gate};
use super::{push, serve, serve_with, tenant};
use crate::feed::{Socket, block_on};
use crate::support::{Answer, Server, kahn, request, run, wait_for};

/// `kahn retention` with these arguments, as the server's role.
fn retention(database: &Database, args: &[&str]) -> Output {
    run(&[&["retention"], args].concat(), &[("KAHN_DATABASE_URL", &database.app_dsn()), ("KAHN_LOG", "off")])
}

/// What it said, a JSON object a tenant, when it is done.
fn went(database: &Database, args: &[&str]) -> Vec<Value> {
    let output = retention(database, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What went of this tenant: runs deleted, runs removed.
fn of<'a>(went: &'a [Value], tenant: &str) -> (&'a Value, &'a Value) {
    let own = went.iter().find(|own| own["tenant"] == tenant).expect("a line a tenant");
    (&own["deleted"], &own["removed"])
}

fn restore(database: &Database, tenant: &str, run_id: &str) -> Output {
    retention(database, &["restore", "--tenant", tenant, run_id])
}

/// A run of one line, which names its tenant.
fn start_line(run_id: &str, word: &str) -> String {
    format!(
        "{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"{run_id}\",\"event\":\"run_start\",\"total_nodes\":1,\"word\":\"{word}\"}}\n"
    )
}

fn post(server: &Server, key: &str, body: &str) -> Answer {
    let headers = [("authorization", &*format!("Bearer {key}")), ("content-type", "application/x-ndjson")];
    request(&server.url, ("POST", "/v1/ingest/transitions?from_seq=0"), &headers, Some(body.as_bytes()))
}

fn get(server: &Server, key: &str, path: &str) -> Answer {
    let headers = [("authorization", &*format!("Bearer {key}")), ("x-request-id", "same")];
    request(&server.url, ("GET", path), &headers, None)
}

/// Sets columns of a tenant's runs, as time would.
fn set(database: &Database, tenant: &str, run_id: &str, columns: &str) {
    let rows = database.admin(&format!(
        "UPDATE runs r SET {columns} FROM tenants t WHERE t.tenant_id = r.tenant_id AND t.name = '{tenant}' \
         AND r.run_id LIKE '{run_id}' RETURNING 1"
    ));
    assert!(!rows.is_empty(), "{run_id}");
}

/// Everything of a tenant that retention could touch.
fn stored(database: &Database, tenant: &str) -> Vec<Vec<String>> {
    database.admin(&format!(
        "SELECT r::text, (SELECT string_agg(l::text, ' ' ORDER BY l.seq) FROM transitions l WHERE (l.tenant_id, l.run_id) = (r.tenant_id, r.run_id)) \
         FROM runs r JOIN tenants t USING (tenant_id) WHERE t.name = '{tenant}' ORDER BY r.run_id"
    ))
}

/// Adds rows to a run's log, below the server's feet.
fn lengthen(database: &Database, tenant: &str, run_id: &str, rows: u32) {
    database.admin(&format!(
        "INSERT INTO transitions SELECT tenant_id, '{run_id}', 100 + row, '{{\"old\":true}}' \
         FROM tenants, generate_series(1, {rows}) AS row WHERE name = '{tenant}'"
    ));
}

/// How many rows of lines a run has.
fn lines_left(database: &Database, run_id: &str) -> u32 {
    database.admin(&format!("SELECT count(*) FROM transitions WHERE run_id = '{run_id}'"))[0][0]
        .parse()
        .expect("a number")
}

#[test]
fn a_run_goes_when_its_days_are_over_and_not_before() {
    let database = Database::fresh();
    let ((a, _), (b, _)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    let ages = [
        ("at-90", "90 days'"),
        ("past-90", "90 days 1 second'"),
        ("before-90", "90 days' + interval '20 seconds'"),
        ("at-30", "30 days'"),
        ("before-30", "30 days' + interval '20 seconds'"),
        ("new", "0 days'"),
    ];
    for (run_id, age) in ages {
        for (name, key) in [("a", &a), ("b", &b)] {
            assert_eq!(post(&server, key, &start_line(run_id, name)).status, 200);
            // Days of 24 hours, whatever the zone.
            let age = age.replacen("90 days", "2160 hours", 1).replacen("30 days", "720 hours", 1);
            set(&database, name, run_id, &format!("received_at = now() - interval '{age}"));
        }
    }
    database.admin("INSERT INTO retention SELECT tenant_id, 30 FROM tenants WHERE name = 'b'");
    let before = (stored(&database, "a"), stored(&database, "b"));
    let promised = went(&database, &["--dry-run"]);
    assert_eq!((stored(&database, "a"), stored(&database, "b")), before, "a dry run changes nothing");
    assert_eq!(of(&promised, "a"), (&json!(["at-90", "past-90"]), &json!([])));
    assert_eq!(of(&promised, "b"), (&json!(["at-30", "at-90", "before-90", "past-90"]), &json!([])));
    let days: Vec<&Value> = promised.iter().map(|own| &own["retention_days"]).collect();
    assert!(days.contains(&&json!(90)) && days.contains(&&json!(30)), "{days:?}");
    assert_eq!(went(&database, &[]), promised, "what happens is what the dry run said");
    assert!(went(&database, &[]).iter().all(|own| own["deleted"] == json!([]) && own["removed"] == json!([])));
    assert_eq!(text(&retention(&database, &[]).stdout), "no run is past its days\n");

    // The grace: 168 hours.
    set(&database, "a", "at-90", "deleted_at = now() - interval '168 hours'");
    set(&database, "a", "past-90", "deleted_at = now() - interval '168 hours' + interval '20 seconds'");
    let promised = went(&database, &["--dry-run"]);
    assert_eq!(of(&promised, "a"), (&json!([]), &json!(["at-90"])));
    assert_eq!(of(&promised, "b"), (&json!([]), &json!([])));
    let before = stored(&database, "b");
    assert_eq!(went(&database, &[]), promised);
    assert_eq!(stored(&database, "b"), before, "the other tenant's run of the same name");
    assert_eq!(stored(&database, "a").len(), 5);
    let noted = "SELECT t.name, action, target FROM activity a JOIN tenants t USING (tenant_id) WHERE actor = 'kahn retention' ORDER BY 1, 2";
    assert_eq!(
        database.admin(noted),
        [["a", "runs_deleted", "2 runs"], ["a", "runs_removed", "1 runs"], ["b", "runs_deleted", "4 runs"]]
    );
}

#[test]
fn people_are_told_what_goes() {
    let database = Database::fresh();
    let (key, _) = tenant(&database, "acme");
    let server = serve(&database);
    for number in 10..22 {
        assert_eq!(post(&server, &key, &start_line(&format!("r-{number}"), "x")).status, 200);
    }
    set(&database, "acme", "%", "received_at = now() - interval '91 days'");
    set(&database, "acme", "r-10", "deleted_at = now() - interval '8 days'");
    let said = |deleted: &str, removed: &str| {
        format!(
            "acme: past 90 days, {deleted}: 11 (r-11, r-12, r-13, r-14, r-15, r-16, r-17, r-18, r-19, r-20 and more); {removed}: 1 (r-10)\n"
        )
    };
    let due = said("would be deleted", "would be removed for good");
    assert_eq!(text(&retention(&database, &["--dry-run"]).stdout), due);
    assert_eq!(text(&retention(&database, &[]).stdout), said("deleted", "removed for good"));
}

/// The same questions to a tenant whose runs were deleted and to one that never had them.
#[test]
fn a_deleted_run_is_in_no_answer() {
    let database = Database::fresh();
    let ((a, read_a), (b, read_b)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/runs");
    // A parent, a child, the base of a comparison, an agent's only run.
    let deleted = ["release-317", "fix-api-events-1", "release-318"];
    for folder in std::fs::read_dir(data).expect("the samples") {
        let folder = folder.expect("a folder").path();
        push(&server, &a, &folder);
        if !deleted.iter().any(|run_id| folder.ends_with(run_id)) {
            push(&server, &b, &folder);
        }
    }
    let as_of = "as_of=2026-04-24T10:20:00.000Z";
    let paths: Vec<String> = [
        "/api/runs?limit=500&",
        "/api/runs?q=release&",
        "/api/runs?parent=release-318&",
        "/api/runs?node_id=api-events&sort=duration&",
        "/api/runs/release-316?",
        "/api/runs/release-316/nodes/api-events?",
        "/api/runs/release-317?",
        "/api/runs/release-318?at_seq=3&",
        "/api/runs/release-318/diagnostics?",
        "/api/runs/release-318/nodes/api-events?",
        "/api/runs/release-318/problems?",
        "/api/compare?base=release-316&head=release-318&",
        "/api/agent-runs/aggregate?",
        "/api/audit-checkpoints/flakiness?",
        "/api/nodes/flakiness?",
    ]
    .iter()
    .map(|path| format!("{path}{as_of}"))
    .chain(["/api/runs/release-318/events".to_owned(), "/api/runs/release-318/graph".to_owned()])
    .collect();
    let answers = |key: &str| -> Vec<(u16, String)> {
        paths.iter().map(|path| get(&server, key, path)).map(|answer| (answer.status, answer.text())).collect()
    };
    let whole = answers(&read_a);
    assert_ne!(whole, answers(&read_b), "the control");
    for run_id in deleted {
        set(&database, "a", run_id, "received_at = now() - interval '91 days'");
    }
    let gone = went(&database, &[]);
    assert_eq!(of(&gone, "a").0, &json!(["fix-api-events-1", "release-317", "release-318"]));
    for ((path, of_a), of_b) in paths.iter().zip(answers(&read_a)).zip(answers(&read_b)) {
        assert_eq!(of_a, of_b, "{path}");
    }
    // And back, as it was.
    for run_id in deleted {
        assert!(restore(&database, "a", run_id).status.success());
    }
    assert_eq!(answers(&read_a), whole);
    let left = went(&database, &[]);
    assert_eq!(of(&left, "a").0, &json!([]), "a restored run has its days again");
}

#[test]
fn a_deleted_run_takes_nothing_until_it_is_restored() {
    let database = Database::fresh();
    let ((a, read_a), (b, _)) = (tenant(&database, "a"), tenant(&database, "b"));
    let server = serve(&database);
    for (name, key) in [("a", &a), ("b", &b)] {
        assert_eq!(post(&server, key, &start_line("r", name)).status, 200);
    }
    set(&database, "a", "r", "received_at = now() - interval '91 days'");
    went(&database, &[]);
    let before = stored(&database, "a");
    let more =
        start_line("r", "a") + "{\"ts\":\"2026-04-24T10:00:01.000Z\",\"run_id\":\"r\",\"event\":\"heartbeat\"}\n";
    let both = start_line("other", "a") + &more;
    // It does not say where it goes; that would not help.
    let tail = more.replacen(&start_line("r", "a"), "", 1);
    let headers = [("authorization", &*format!("Bearer {a}")), ("content-type", "application/x-ndjson")];
    for body in [&start_line("r", "a"), &more, &both, &tail] {
        let answer = request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(body.as_bytes()));
        assert_eq!(answer.problem(), (410, "gone".into()), "{}", answer.text());
    }
    let headers = [("authorization", &*format!("Bearer {a}")), ("content-type", "application/json")];
    let graph = request(&server.url, ("PUT", "/v1/ingest/runs/r/graph"), &headers, Some(b"{}"));
    assert_eq!(graph.problem(), (410, "gone".into()));
    assert_eq!(get(&server, &a, "/v1/ingest/runs/r").problem(), (404, "unknown_run".into()));
    assert_eq!(stored(&database, "a"), before, "nothing of what was refused is stored");
    assert_eq!(post(&server, &b, &start_line("r", "b")).json()["duplicates"], 1, "the other tenant's goes on");

    // Nobody else's, and nothing that is not there.
    for (tenant, run_id) in [("a", "other"), ("a", "R"), ("a", "../r"), ("a", ""), ("b", "nobody")] {
        let output = restore(&database, tenant, run_id);
        assert_eq!(output.status.code(), Some(1), "{tenant} {run_id}");
        assert!(text(&output.stderr).contains("is gone"), "{}", text(&output.stderr));
    }
    let output = restore(&database, "nobody", "r");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("`kahn tenant list`"), "{}", text(&output.stderr));
    assert_eq!(text(&restore(&database, "b", "r").stdout), "run r of tenant b is not deleted\n");
    assert_eq!(stored(&database, "a"), before);
    let said = text(&restore(&database, "a", "r").stdout);
    assert_eq!(said, "restored run r of tenant a; its days are counted from now\n");
    assert_eq!(post(&server, &a, &more).json()["accepted"], 1);
    assert_eq!(get(&server, &read_a, "/api/runs/r/events").text(), more);

    // Past its grace it is not restored any more, though the job has not come by yet; nor once it was marked, whatever the clock.
    for moment in ["now() - interval '168 hours'", "'-infinity'"] {
        set(&database, "a", "r", &format!("deleted_at = {moment}"));
        let before = stored(&database, "a");
        let output = restore(&database, "a", "r");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("run r of tenant a is gone"), "{}", text(&output.stderr));
        assert_eq!(stored(&database, "a"), before);
        assert_eq!(get(&server, &read_a, "/api/runs/r").status, 404);
    }
}

fn spawn(database: &Database) -> Child {
    kahn(&["retention"], &[("KAHN_DATABASE_URL", &database.app_dsn())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

const LONG: u32 = 40_000;

/// A long run of tenant a that is past its grace; the same run_id and another run stay.
fn long_run(database: &Database) -> (Server, String, String, Vec<Vec<Vec<String>>>) {
    let ((a, read), (b, _)) = (tenant(database, "a"), tenant(database, "b"));
    let server = serve(database);
    for (key, run_id) in [(&a, "long"), (&a, "stays"), (&b, "long")] {
        assert_eq!(post(&server, key, &start_line(run_id, "x")).status, 200);
    }
    database
        .admin("INSERT INTO alerts SELECT tenant_id, gen_random_uuid(), 'long', 'x' FROM tenants WHERE NOT reserved");
    let others = "SELECT r::text FROM runs r JOIN tenants t USING (tenant_id) WHERE t.name = 'b' OR r.run_id = 'stays' ORDER BY 1";
    let kept = vec![database.admin(others), stored(database, "b")];
    lengthen(database, "a", "long", LONG);
    set(database, "a", "long", "deleted_at = now() - interval '8 days'");
    (server, a, read, kept)
}

#[test]
fn a_job_that_is_killed_while_lines_go_leaves_no_half_run_and_the_next_one_ends_it() {
    let database = Database::fresh();
    let (server, _, read, kept) = long_run(&database);
    let mut left = lines_left(&database, "long");
    let mut kills = 0;
    while kills < 3 && left > LONG / 5 {
        let mut job = spawn(&database);
        let now = wait_for("lines to go", || Some(lines_left(&database, "long")).filter(|now| *now < left));
        job.kill().expect("killed");
        job.wait().expect("an end");
        assert!(now > 0, "the run is too short for this test");
        kills += 1;
        // What is left is in no answer and does not come back.
        assert_eq!(get(&server, &read, "/api/runs/long").status, 404);
        assert_eq!(get(&server, &read, "/api/runs/long/events").status, 404);
        assert_eq!(get(&server, &read, "/api/runs").json()["total"], 1);
        assert_eq!(restore(&database, "a", "long").status.code(), Some(1));
        left = lines_left(&database, "long");
    }
    assert!(kills > 0);
    // The killed one's last transaction may hold its locks for a moment.
    let last = wait_for("a turn", || {
        let output = retention(&database, &["--json"]);
        output.status.success().then(|| text(&output.stdout))
    });
    assert!(last.contains(r#""removed":["long"]"#), "{last}");
    let lines = "SELECT t.name, count(*) FROM transitions JOIN tenants t USING (tenant_id) GROUP BY 1 ORDER BY 1";
    assert_eq!(database.admin(lines), [["a", "1"], ["b", "1"]]);
    assert_eq!(database.admin("SELECT t.name FROM alerts JOIN tenants t USING (tenant_id)"), [["b"]]);
    let others = "SELECT r::text FROM runs r JOIN tenants t USING (tenant_id) WHERE t.name = 'b' OR r.run_id = 'stays' ORDER BY 1";
    assert_eq!(vec![database.admin(others), stored(&database, "b")], kept);
    assert_eq!(get(&server, &read, "/api/runs/stays/events").text(), start_line("stays", "x"));
}

#[test]
fn a_name_is_used_again_while_the_old_lines_still_go() {
    let database = Database::fresh();
    let (server, key, read, _) = long_run(&database);
    // Deleted, and not being removed yet: the name is still the old run's.
    assert_eq!(post(&server, &key, &start_line("long", "new")).problem(), (410, "gone".into()));
    let job = spawn(&database);
    wait_for("lines to go", || Some(lines_left(&database, "long")).filter(|now| *now < LONG));
    let answer = post(&server, &key, &start_line("long", "new"));
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(1)), "{}", answer.text());
    assert_eq!(get(&server, &read, "/api/runs/long/events").text(), start_line("long", "new"));
    let more = "{\"ts\":\"2026-04-24T10:00:01.000Z\",\"run_id\":\"long\",\"event\":\"heartbeat\"}\n";
    let whole = start_line("long", "new") + more;
    assert_eq!(post(&server, &key, &whole).json()["duplicates"], 1);
    let job = job.wait_with_output().expect("an end");
    assert!(job.status.success(), "{}", text(&job.stderr));
    assert_eq!(get(&server, &read, "/api/runs/long/events").text(), whole);
    let old = "SELECT count(*) FROM transitions WHERE run_id = 'long' AND seq >= 100";
    assert_eq!(database.admin(old), [["0"]]);
    // The same after the last one is gone: an empty log, a graph of its own.
    set(&database, "a", "long", "deleted_at = now() - interval '8 days'");
    went(&database, &[]);
    let headers = [("authorization", &*format!("Bearer {key}")), ("content-type", "application/json")];
    let graph =
        request(&server.url, ("PUT", "/v1/ingest/runs/long/graph"), &headers, Some(b"{\"version\":1,\"nodes\":[]}"));
    assert_eq!(graph.status, 201, "{}", graph.text());
    assert_eq!(get(&server, &read, "/api/runs/long").json()["next_seq"], 0);
    assert_eq!(post(&server, &key, &start_line("long", "third")).json()["accepted"], 1);
    assert_eq!(get(&server, &read, "/api/runs/long/events").text(), start_line("long", "third"));
}

#[test]
fn there_is_one_job_at_a_time() {
    let database = Database::fresh();
    let (key, _) = tenant(&database, "acme");
    let server = serve(&database);
    for number in 0..30 {
        assert_eq!(post(&server, &key, &start_line(&format!("r-{number}"), "x")).status, 200);
    }
    set(&database, "acme", "%", "received_at = now() - interval '91 days'");
    let gate = Gate::new(&database.app_dsn());
    gate.run("SELECT pg_advisory_lock(x'6b61686e0004'::bigint)");
    let busy = retention(&database, &[]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(text(&busy.stderr).contains("another server or command is at this work"), "{}", text(&busy.stderr));
    assert_eq!(of(&went(&database, &["--dry-run"]), "acme").0.as_array().map(Vec::len), Some(30), "looking is free");
    gate.run("SELECT pg_advisory_unlock_all()");
    let said: Vec<Output> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..4).map(|_| scope.spawn(|| retention(&database, &["--json"]))).collect();
        jobs.into_iter().map(|job| job.join().expect("an end")).collect()
    });
    let mut deleted = Vec::new();
    for output in said {
        match output.status.code() {
            Some(0) => {
                let own: Value = serde_json::from_slice(&output.stdout).expect("one tenant");
                deleted.extend(own["deleted"].as_array().expect("a list").clone());
            }
            code => assert!(code == Some(1) && text(&output.stderr).contains("another"), "{}", text(&output.stderr)),
        }
    }
    assert_eq!(deleted.len(), 30, "each run went once");
}

#[test]
fn a_tenant_whose_days_nobody_knows_keeps_no_other_waiting() {
    let database = Database::fresh();
    let server = serve(&database);
    for name in ["a", "b", "c"] {
        let (key, _) = tenant(&database, name);
        assert_eq!(post(&server, &key, &start_line("r", name)).status, 200);
        set(&database, name, "r", "received_at = now() - interval '91 days'");
    }
    database.admin("UPDATE tenants SET plan = 'none' WHERE name = 'b'");
    let output = retention(&database, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the plan of tenant b is none of plans"), "{}", text(&output.stderr));
    let left = "SELECT t.name FROM runs JOIN tenants t USING (tenant_id) WHERE deleted_at IS NULL";
    assert_eq!(database.admin(left), [["b"]]);
}

#[test]
fn the_server_does_it_by_itself_and_live_clients_are_told() {
    let database = Database::fresh();
    let (key, read) = tenant(&database, "acme");
    let bearer = format!("Bearer {read}");
    let server = serve_with(&database, &["--retention-every", "1"]);
    let other = serve_with(&database, &["--retention-every", "1"]);
    for run_id in ["goes", "stays"] {
        assert_eq!(post(&server, &key, &start_line(run_id, "x")).status, 200);
    }
    block_on(async {
        let mut lists =
            [Socket::open_at(&server.url, Some(bearer.clone())).await, Socket::open_at(&other.url, Some(bearer)).await];
        for list in &mut lists {
            list.say(json!({"type": "subscribe_runs", "filters": {}})).await;
            while list.any().await["type"] != "heartbeat" {}
        }
        // It drives a runtime of its own.
        let aged = || set(&database, "acme", "goes", "received_at = now() - interval '91 days'");
        std::thread::scope(|scope| scope.spawn(aged).join().expect("aged"));
        for list in &mut lists {
            let mut told = list.next().await;
            while told["type"] == "run" {
                told = list.next().await;
            }
            assert_eq!(told, json!({"type": "run_removed", "run_id": "goes"}));
        }
    });
    for server in [&server, &other] {
        assert_eq!(get(server, &read, "/api/runs/goes").status, 404);
        assert_eq!(get(server, &read, "/api/runs").json()["total"], 1);
    }
    // Asked to stop in the midst of it, it stops.
    lengthen(&database, "acme", "goes", LONG);
    set(&database, "acme", "goes", "deleted_at = now() - interval '8 days'");
    wait_for("lines to go", || Some(lines_left(&database, "goes")).filter(|now| *now < LONG));
    assert_eq!((server.terminate(), other.terminate()), (Some(0), Some(0)));
    assert_eq!(lines_left(&database, "stays"), 1);
}

#[test]
fn the_job_refuses_a_role_that_could_reach_all_tenants_at_once() {
    let database = Database::fresh();
    let output = run(&["retention"], &[("KAHN_DATABASE_URL", &database.admin_dsn())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is a superuser"), "{}", text(&output.stderr));
    let output = run(&["retention"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("set KAHN_DATABASE_URL"), "{}", text(&output.stderr));
    let output = run(&["serve", "--retention-every", "0"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("--retention-every (KAHN_RETENTION_EVERY) is \"0\""),
        "{}",
        text(&output.stderr)
    );
}
