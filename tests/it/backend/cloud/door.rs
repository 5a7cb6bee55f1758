//! The door to tenants' data, against requests that are dropped at any moment, conflicts, and a database that is gone or silent.
//! Nearly always with a pool of one: whoever comes next gets the very connection that was left.

use std::future::poll_fn;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kahn::contract::{Backend, Principal, ReadLimit, Refusal, RequestFacts, Selection, StoreError};
use rustix::net::sockopt::set_socket_linger;

use super::boot::proxy;
use super::cluster::{APP_PASSWORD, Database, Gate, runtime};
use super::library::{open, open_at, part, run_id, somebody};
use super::{serve_with, tenant};
use crate::support::{Answer, PATIENCE, Server, everything, kahn, request, wait_for};

const GRAPH: &str = r#"{"version":1,"nodes":[{"id":"build","deliverable":"x","done_when":["true"]}]}"#;
const ALL: ReadLimit = ReadLimit { lines: 1000, bytes: usize::MAX };

/// How many of the server's connections wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'kahn_app' AND wait_event_type = 'Lock' \
                       AND datname = current_database()";

/// Drops a future at its n-th moment: after each poll once at once, once when it would be polled again. `None` when it had
/// not ended by then.
async fn dropped_at<T>(moment: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let (mut polls, at_once) = (moment.div_ceil(2), moment % 2 == 1);
    poll_fn(|context| {
        if polls == 0 {
            return Poll::Ready(None);
        }
        polls -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if polls == 0 && at_once => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// One of everything that the door is asked for.
async fn ask(backend: &Backend, who: &Principal, what: &str, run: &str) {
    let (store, run_id) = (&backend.store, run_id(run));
    match what {
        "list" => drop(store.list(who, &everything()).await),
        "summaries" => {
            let all = Selection { kind: None, of_agents: false, last_event_from: None };
            if let Ok(mut summaries) = store.summaries(who, all).await {
                while summaries.next().await.is_some() {}
            }
        }
        "summary" => drop(store.summary(who, &run_id).await),
        "load" => drop(store.load(who, &run_id).await),
        "spawned" => drop(store.spawned(who, &run_id).await),
        "read" => drop(store.read(who, &run_id, 0, ALL).await),
        "graph" => drop(store.graph(who, &run_id).await),
        "problems" => drop(store.problems(who, &run_id).await),
        "ready" => drop(store.ready().await),
        "append" => drop(store.append(who, vec![part(run, 0, 50), part(&format!("{run}-b"), 0, 50)]).await),
        "refused append" => drop(store.append(who, vec![part(run, 0, 5), part(&format!("{run}-b"), 9, 5)]).await),
        "put_graph" => drop(store.put_graph(who, &run_id, GRAPH.into()).await),
        other => panic!("{other}"),
    }
}

/// Two tenants and a key that belongs to nobody, on a database that notes whom its lookups come from: whose transaction
/// that is, and whether one was open already.
struct Scene {
    database: Database,
    a: Principal,
    b: Principal,
    asked: RequestFacts,
}

impl Scene {
    fn new() -> Self {
        let database = Database::fresh();
        let (a, b) = (somebody(&database, "a"), somebody(&database, "b"));
        let key = tenant(&database, "c").1;
        let asked = RequestFacts { authorizations: vec![format!("Bearer {key}")], ..RequestFacts::default() };
        database.admin(
            "CREATE TABLE public.noted (tenant text, is_first boolean); GRANT INSERT ON public.noted TO kahn_lookup; \
             CREATE OR REPLACE FUNCTION public.kahn_api_key_candidates(wanted_prefix text) \
               RETURNS TABLE (tenant_id uuid, tenant_name text, key_id uuid, scope text, key_sha256 bytea, \
                              expired boolean, revoked boolean, use_is_stale boolean) \
               LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN \
                 INSERT INTO public.noted VALUES (current_setting('kahn.tenant_id', true), \
                   pg_current_xact_id_if_assigned() IS NULL AND current_setting('transaction_isolation') = 'read committed'); END $$",
        );
        Self { database, a, b, asked }
    }

    /// Whoever comes next gets an answer in time, as nobody first and then as B.
    async fn next(&self, backend: &Backend, before: &str) {
        let next = async {
            assert_eq!(backend.access.authenticate(&self.asked).await, Err(Refusal::BadToken), "after {before}");
            let page = backend.store.list(&self.b, &everything()).await;
            let page = page.unwrap_or_else(|error| panic!("after {before}: {error:?}"));
            let names: Vec<&str> = page.items.iter().map(|run| run.run_id.as_str()).collect();
            assert_eq!(names, ["of-b"], "after {before}");
        };
        assert!(tokio::time::timeout(PATIENCE, next).await.is_ok(), "whoever came after {before} waited for ever");
    }

    /// Nobody's connection belonged to anybody, or was in the middle of something.
    fn nothing_was_left(&self) {
        let noted = self.database.admin("SELECT DISTINCT coalesce(tenant, ''), is_first FROM noted");
        assert_eq!(noted, [["", "t"]], "a connection came back with somebody's transaction");
        let idle = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND state LIKE 'idle in transaction%'",
            self.database.name
        );
        wait_for("every transaction to end", || (self.database.admin(&idle) == [["0"]]).then_some(()));
    }
}

#[test]
fn a_request_dropped_at_any_await_leaves_its_connection_to_the_next_one_clean() {
    let scene = Scene::new();
    runtime().block_on(async {
        let backend = open(&scene.database, 1).await;
        ask(&backend, &scene.a, "append", "kept").await;
        backend.store.append(&scene.b, vec![part("of-b", 0, 3)]).await.expect("stored");
        for what in [
            "list",
            "summaries",
            "summary",
            "load",
            "spawned",
            "read",
            "graph",
            "problems",
            "ready",
            "append",
            "refused append",
            "put_graph",
        ] {
            let is_write = ["append", "refused append", "put_graph"].contains(&what);
            let mut moment = 0;
            loop {
                let run = if is_write { format!("{}-{moment}", what.replace(' ', "-")) } else { "kept".to_owned() };
                let ended = dropped_at(moment, ask(&backend, &scene.a, what, &run)).await;
                scene.next(&backend, &format!("{what} at its moment {moment}")).await;
                if ended.is_some() {
                    break;
                }
                moment += 1;
            }
            // At least: not begun, sent and dropped at once, woken once.
            assert!(moment >= 2, "{what} ended at its moment {moment}");
        }
        // Whole batches or none; what was begun is there.
        let page = backend.store.list(&scene.a, &everything()).await.expect("an answer");
        for run in page.items.iter().filter(|run| !run.run_id.as_str().starts_with("put_graph")) {
            assert_eq!(run.next_seq, 50, "{}", run.run_id);
            let lines = backend.store.read(&scene.a, &run.run_id, 0, ALL).await.expect("an answer").expect("a run");
            assert_eq!(lines.lines.len(), 50, "{}", run.run_id);
        }
        let is_there = |name: &str| page.items.iter().any(|run| run.run_id.as_str() == name);
        assert!(!is_there("append-0"), "it was never polled");
        assert!(is_there("append-1") && is_there("append-1-b"), "a batch that was begun was not finished");
        assert!(!page.items.iter().any(|run| run.run_id.as_str().starts_with("refused")));
    });
    scene.nothing_was_left();
}

#[test]
fn a_request_dropped_while_it_connects_leaves_room_for_the_next_one() {
    let scene = Scene::new();
    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}' AND usename = 'kahn_app'",
        scene.database.name
    );
    let runtime = runtime();
    let backend = runtime.block_on(open(&scene.database, 1));
    runtime.block_on(backend.store.append(&scene.b, vec![part("of-b", 0, 3)])).expect("stored");
    for what in ["summary", "append"] {
        for moment in 0..24 {
            scene.database.admin(&cut);
            runtime.block_on(async {
                dropped_at(moment, ask(&backend, &scene.a, what, &format!("cut-{moment}"))).await;
                // The one that was cut off may be found out by whoever comes first.
                let deadline = Instant::now() + PATIENCE;
                while backend.store.ready().await.is_err() {
                    assert!(Instant::now() < deadline, "after {what} at its moment {moment}");
                }
                scene.next(&backend, &format!("{what} at its moment {moment}")).await;
            });
        }
    }
    scene.nothing_was_left();
}

/// The database stumbles at so many of the next writes with this error; how often one was tried.
fn stumble(database: &Database, times: u32, code: &str) {
    database.admin(&format!(
        "CREATE SEQUENCE attempts; GRANT USAGE ON SEQUENCE attempts TO kahn_app; \
         CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF nextval('attempts') <= {times} THEN RAISE EXCEPTION 'made up' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$; \
         CREATE TRIGGER stumble BEFORE INSERT ON runs FOR EACH STATEMENT EXECUTE FUNCTION stumble()"
    ));
}

fn attempts(database: &Database) -> u32 {
    database.admin("SELECT last_value FROM attempts")[0][0].parse().expect("a number")
}

#[test]
fn a_transaction_that_lost_a_conflict_is_run_again_so_often_and_stores_once() {
    for (times, code, tried) in [(2, "40001", 3), (4, "40P01", 5), (1000, "40001", 5), (1, "55P03", 1), (1, "23514", 1)]
    {
        let database = Database::fresh();
        let a = somebody(&database, "a");
        let runtime = runtime();
        let backend = runtime.block_on(open(&database, 1));
        let store = &backend.store;
        stumble(&database, times, code);
        let done = runtime.block_on(store.append(&a, vec![part("r", 0, 50)]));
        match (tried > times, code) {
            (true, "40001" | "40P01") => assert_eq!(done.expect("stored").accepted, 50, "{code}"),
            (_, "23514") => assert!(matches!(done, Err(StoreError::Failed(_))), "{done:?}"),
            _ => assert!(matches!(done, Err(StoreError::Unavailable(_))), "{done:?}"),
        }
        assert_eq!(attempts(&database), tried, "{code}");
        database.admin("DROP TRIGGER stumble ON runs");
        let again = runtime.block_on(store.append(&a, vec![part("r", 0, 50)])).expect("stored");
        assert_eq!(again.accepted + again.duplicates, 50);
        let lines = runtime.block_on(store.read(&a, &run_id("r"), 0, ALL)).expect("an answer").expect("a run");
        assert_eq!(lines.lines, part("r", 0, 50).lines);
        assert_eq!(database.admin("SELECT events FROM usage"), [["50"]], "counted once");
    }
}

#[test]
fn a_commit_without_an_answer_is_not_sent_again() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let runtime = runtime();
    let backend = runtime.block_on(open(&database, 1));
    // Within COMMIT, before it is decided; the server cannot know that.
    database.admin(
        "CREATE SEQUENCE attempts; GRANT USAGE ON SEQUENCE attempts TO kahn_app; \
         CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           PERFORM nextval('attempts'), pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON runs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cut()",
    );
    let done = runtime.block_on(backend.store.append(&a, vec![part("r", 0, 50)]));
    let Err(StoreError::Unavailable(reason)) = done else { panic!("{done:?}") };
    assert!(reason.to_string().starts_with("whether the transaction was committed is not known"), "{reason}");
    assert_eq!(attempts(&database), 1);
    database.admin("DROP TRIGGER cut ON runs");
    let again = runtime.block_on(backend.store.append(&a, vec![part("r", 0, 50)]));
    assert_eq!(again.expect("stored").accepted, 50);
}

#[test]
fn a_deadlock_costs_a_producer_nothing_but_time() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let tenant = &a.tenant.as_ref().expect("a tenant").id;
    let runtime = runtime();
    let backend = runtime.block_on(open(&database, 2));
    let append = |from| backend.store.append(&a, vec![part("run-1", from, 1), part("run-2", from, 1)]);
    runtime.block_on(append(0)).expect("stored");
    // Somebody takes the two in the other order, and has the longer patience.
    let other = Gate::new(&database.admin_dsn());
    let lock = |run: &str| {
        other.run(&format!("SELECT FROM runs WHERE tenant_id = '{tenant}' AND run_id = '{run}' FOR UPDATE"));
    };
    other.run("SET deadlock_timeout = '20s'; BEGIN");
    lock("run-2");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the server to wait", || (database.admin(WAITING) == [["1"]]).then_some(()));
            lock("run-1");
            other.run("COMMIT");
        });
        assert_eq!(runtime.block_on(append(1)).expect("stored").accepted, 2);
    });
}

#[test]
fn a_database_that_falls_silent_is_given_up_and_comes_back() {
    let database = Database::fresh();
    let a = somebody(&database, "a");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    std::thread::spawn(move || {
        proxy(listener, move |bytes| if silent.load(Ordering::Relaxed) { Vec::new() } else { bytes });
    });
    runtime().block_on(async {
        let backend = open_at(&database.tcp_dsn(APP_PASSWORD, port), 2).await;
        let store = &backend.store;
        store.append(&a, vec![part("r", 0, 5)]).await.expect("stored");
        // One of the two is used, the other one is new.
        is_silent.store(true, Ordering::Relaxed);
        let (began, all) = (Instant::now(), everything());
        let (read, written) = tokio::join!(store.list(&a, &all), store.append(&a, vec![part("r", 5, 5)]));
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
        assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
        assert!(began.elapsed() < Duration::from_secs(28), "{:?}", began.elapsed());
        is_silent.store(false, Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while store.append(&a, vec![part("r", 5, 5)]).await.is_err() {
            assert!(Instant::now() < deadline, "it did not come back");
        }
        assert_eq!(store.summary(&a, &run_id("r")).await.expect("an answer").expect("a run").next_seq, 10);
    });
}

#[test]
fn what_the_database_was_asked_is_told_when_the_server_ends() {
    let database = Database::fresh();
    let (_, key) = tenant(&database, "a");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let dsn = database.app_dsn();
    let env = [("KAHN_DATABASE_URL", dsn.as_str()), ("KAHN_AUTH", "keys-only"), ("KAHN_LOG", "info")];
    let mut child = kahn(&["serve", "--bind", "127.0.0.1:0"], &env)
        .stderr(std::fs::File::create(&path).expect("a file"))
        .spawn()
        .expect("the binary starts");
    let told = || std::fs::read_to_string(&path).expect("text");
    let url = wait_for("the server", || {
        told().lines().find_map(|line| Some(line.split_once("listens on ")?.1.trim().to_owned()))
    });
    for _ in 0..3 {
        let answer = request(&url, ("GET", "/api/runs"), &[("authorization", &format!("Bearer {key}"))], None);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    wait_for("the server to end", || child.try_wait().expect("a child"));
    let told = told();
    let counts = told.lines().find_map(|line| line.split_once("database calls: ")).expect(&told).1;
    assert!(counts.contains("list: 3 in 0."), "{counts}");
    assert!(!counts.contains("failed") && !counts.contains("unknown"), "{counts}");
}

/// A request whose client is gone before the answer, without a goodbye.
struct Broken(TcpStream);

impl Broken {
    fn send(server: &Server, bytes: &[u8]) -> Self {
        let address = server.url.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.write_all(bytes).expect("it is taken");
        Self(stream)
    }

    fn reset(self) {
        set_socket_linger(&self.0, Some(Duration::ZERO)).expect("a reset instead of a goodbye");
    }
}

fn raw(method: &str, path: &str, key: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: kahn\r\nauthorization: Bearer {key}\r\ncontent-type: application/x-ndjson\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn get(server: &Server, key: &str, path: &str) -> Answer {
    request(&server.url, ("GET", path), &[("authorization", &format!("Bearer {key}"))], None)
}

#[test]
fn a_client_that_resets_its_connection_leaves_the_next_tenant_nothing_of_its_own() {
    let database = Database::fresh();
    let (ingest_a, read_a) = tenant(&database, "a");
    let (ingest_b, read_b) = tenant(&database, "b");
    let server = serve_with(&database, &["--database-pool", "1"]);
    let lines = |from: u64, count: u64, run: &str| -> Vec<u8> {
        part(run, from, count).lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect()
    };
    let ingest = |key: &str, body: &[u8]| {
        let headers = [("authorization", format!("Bearer {key}")), ("content-type", "application/x-ndjson".to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(body)).status, 200);
    };
    ingest(&ingest_a, &lines(0, 2, "same"));
    ingest(&ingest_b, &lines(0, 3, "same"));
    let of_b = |when: &str| {
        // A write first: in a transaction that somebody left it would be refused, or end up with that one.
        ingest(&ingest_b, &lines(0, 3, "same"));
        let answer = get(&server, &read_b, "/api/runs/same/events");
        assert_eq!((answer.status, answer.body), (200, lines(0, 3, "same")), "{when}");
    };
    of_b("before");

    let gate = Gate::new(&database.admin_dsn());
    let next = raw("POST", "/v1/ingest/transitions?from_seq=2", &ingest_a, &lines(2, 50, "same"));
    let read = raw("GET", "/api/runs/same/events", &read_a, b"");
    let list = raw("GET", "/api/runs", &read_a, b"");
    for (lock, sent) in [
        ("SELECT FROM runs FOR UPDATE", &next),
        ("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE", &read),
        ("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE", &list),
    ] {
        gate.run("BEGIN");
        gate.run(lock);
        let before = server.descriptors();
        let client = Broken::send(&server, sent);
        wait_for("the request to be in the middle", || (database.admin(WAITING) == [["1"]]).then_some(()));
        client.reset();
        wait_for("the request to be dropped", || (server.descriptors() <= before).then_some(()));
        std::thread::scope(|scope| {
            scope.spawn(|| of_b(lock));
            gate.run("COMMIT");
        });
    }
    // The batch whose sender had gone is whole, or not there.
    wait_for("the batch that was begun", || {
        let events = get(&server, &read_a, "/api/runs/same/events");
        let stored = events.text().lines().count();
        assert!([2, 52].contains(&stored), "{stored}");
        (stored == 52).then_some(())
    });

    // And at every other moment: part of a request, all of it, with and without somebody behind.
    for turn in 0..60_u64 {
        let batch = raw("POST", "/v1/ingest/transitions", &ingest_a, &lines(0, 50, &format!("turn-{turn}")));
        for (at, whole) in [&batch, &read, &list].into_iter().enumerate() {
            let length = if turn % 2 == 0 { whole.len() } else { whole.len() * (turn as usize + 1) / 61 };
            let client = Broken::send(&server, &whole[..length]);
            if at as u64 == turn % 3 {
                of_b("while a request is under way");
            }
            client.reset();
        }
        of_b("after three resets");
    }
    for run in get(&server, &read_a, "/api/runs?limit=500").json()["items"].as_array().expect("a list") {
        let name = run["run_id"].as_str().expect("a name");
        let stored = get(&server, &read_a, &format!("/api/runs/{name}/events")).text().lines().count();
        assert_eq!(stored, if name == "same" { 52 } else { 50 }, "{name}");
    }
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    wait_for("every transaction to end", || (database.admin(idle) == [["0"]]).then_some(()));
}
