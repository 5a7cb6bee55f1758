//! What a tenant may ask for. If these fail, one tenant's noise is everybody's outage, or a client is told to come back and is
//! turned away again.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::Database;
use super::tenants::done;
use super::{serve, tenant};
use crate::feed::{Socket, block_on};
use crate::support::{Answer, METRICS_TOKEN, PATIENCE, Server, kahn, request, run, wait_for};

/// A database whose plans have these figures.
fn with_plan(rate_per_s: u32, burst: u32) -> Database {
    let database = Database::fresh();
    database.admin(&format!("UPDATE plans SET rate_per_s = {rate_per_s}, burst = {burst}"));
    database
}

fn get(server: &Server, key: &str) -> Answer {
    request(&server.url, ("GET", "/api/runs"), &[("authorization", &format!("Bearer {key}"))], None)
}

/// A batch of so many events of a run.
fn batch(run: &str, events: u64) -> String {
    let line = |seq| match seq {
        0 => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"run_start","total_nodes":1}}"#),
        _ => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"heartbeat","n":{seq}}}"#),
    };
    (0..events).map(|seq| line(seq) + "\n").collect()
}

fn bring(server: &Server, key: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str()), ("content-type", "application/x-ndjson")];
    request(&server.url, ("POST", "/v1/ingest/transitions"), &headers, Some(body.as_bytes()))
}

/// What a 429 says of the wait, the same in all places.
fn wait_of(answer: &Answer) -> u64 {
    assert_eq!(answer.problem(), (429, "rate_limited".into()));
    let wait = answer.json()["retry_after_s"].as_u64().expect("seconds");
    assert_eq!(answer.header("retry-after"), wait.to_string());
    assert!(answer.header("ratelimit").ends_with(&format!(";t={wait}")), "{}", answer.header("ratelimit"));
    wait
}

#[test]
fn a_burst_is_let_in_whole_and_then_the_wait_that_is_named_is_long_enough() {
    let database = with_plan(1, 5);
    let (_, read) = tenant(&database, "acme");
    let server = serve(&database);
    for left in (0..5).rev() {
        let answer = get(&server, &read);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("ratelimit-policy"), "\"requests\";q=5;w=5");
        let said = answer.header("ratelimit");
        // A slow machine may have got one back meanwhile.
        assert!(said.starts_with("\"requests\";r=") && said.contains(";t="), "{said}");
        assert!(said.starts_with(&format!("\"requests\";r={left};")) || left < 4, "{said}");
    }
    let refused =
        wait_for("the burst to be used up", || Some(get(&server, &read)).filter(|answer| answer.status != 200));
    let wait = wait_of(&refused);
    assert_eq!(wait, 1, "one comes back in a second");
    assert_eq!(refused.header("ratelimit"), "\"requests\";r=0;t=1");
    assert_eq!(refused.header("ratelimit-policy"), "\"requests\";q=5;w=5");
    std::thread::park_timeout(Duration::from_secs(wait));
    assert_eq!(get(&server, &read).status, 200, "it was said that this would be let in");
}

#[test]
fn a_noisy_tenant_takes_nothing_from_another_and_all_its_keys_share_what_it_has() {
    let database = with_plan(1, 20);
    let (ingest, read) = tenant(&database, "noisy");
    let said = done(&database, &["rotate-key", "noisy", "--scope", "read"]);
    let second = said.lines().find(|line| line.starts_with("kahn_live_sk_")).expect("a key");
    let (_, other) = tenant(&database, "quiet");
    let server = serve(&database);
    wait_for("the burst to be used up", || (get(&server, &read).status == 429).then_some(()));
    wait_of(&get(&server, second));
    // What it brings is counted apart: it came with no event yet.
    let answer = bring(&server, &ingest, &batch("r", 20));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("ratelimit-policy"), "\"events\";q=20;qu=\"events\";w=20");
    for _ in 0..10 {
        assert_eq!(get(&server, &other).status, 200, "the quiet tenant pays for the noisy one");
    }
}

#[test]
fn a_batch_is_taken_whole_or_not_at_all_and_one_that_never_fits_says_so() {
    let database = with_plan(1, 10);
    let (ingest, read) = tenant(&database, "acme");
    let server = serve(&database);
    let never = bring(&server, &ingest, &batch("r", 11));
    assert_eq!(never.problem(), (413, "batch_too_large".into()));
    assert_eq!(never.json()["limit"], 10);
    assert_eq!(bring(&server, &ingest, &batch("r", 8)).status, 200, "what was refused took nothing");
    let refused = bring(&server, &ingest, &batch("s", 8));
    assert!((5..=6).contains(&wait_of(&refused)), "6 of 8 are missing: {}", refused.text());
    assert!(refused.header("ratelimit").starts_with("\"events\";r="), "{}", refused.header("ratelimit"));
    let authorization = format!("Bearer {read}");
    let gone = request(&server.url, ("GET", "/api/runs/s"), &[("authorization", &authorization)], None);
    assert_eq!(gone.status, 404, "a part of it was stored");
    // A batch sent again costs again: only reading it shows that it is one.
    wait_of(&bring(&server, &ingest, &batch("r", 8)));
}

#[test]
fn what_is_refused_after_reading_it_costs_as_well() {
    let database = with_plan(1, 3);
    let (ingest, _) = tenant(&database, "acme");
    let server = serve(&database);
    wait_for("batches that are none to use up the burst", || {
        let answer = bring(&server, &ingest, "no event\n");
        assert!([400, 429].contains(&answer.status), "{}", answer.text());
        (answer.status == 429).then_some(())
    });
}

/// A batch whose head is sent, and so many bytes of its body: no line of them ends.
fn begin(server: &Server, key: &str, (announced, sent): (usize, usize)) -> TcpStream {
    let address = server.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let head = format!(
        "POST /v1/ingest/transitions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {announced}\r\n\r\n"
    );
    // Whoever is refused meanwhile has its connection closed.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; sent]));
    stream
}

/// Bytes that batches may still take.
fn free_ingest_bytes(server: &Server) -> u64 {
    let authorization = format!("Bearer {METRICS_TOKEN}");
    let scraped = request(&server.url, ("GET", "/metrics"), &[("authorization", &authorization)], None).text();
    let line = scraped.lines().find(|line| line.starts_with("kahn_room_free_bytes{room=\"ingest\"}"));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).expect("a number")
}

#[test]
fn a_tenant_that_holds_its_batches_back_closes_ingest_for_nobody_else() {
    let database = Database::fresh();
    let ((greedy, _), (other, _)) = (tenant(&database, "greedy"), tenant(&database, "other"));
    let server = serve(&database);
    const LARGEST: usize = 8 << 20;
    let held: Vec<TcpStream> = (0..16).map(|_| begin(&server, &greedy, (LARGEST, LARGEST - 1))).collect();
    // Sixteen of them are all the room that there is; nothing more comes once it stands still.
    let mut before = None;
    let free = wait_for("what was sent to be read", || {
        let free = free_ingest_bytes(&server);
        let stands_still = before.replace(free) == Some(free);
        (free <= 72 << 20 && stands_still).then_some(free)
    });
    let answer = bring(&server, &other, &batch("r", 20));
    assert_eq!(answer.status, 200, "{free} bytes are free: {}", answer.text());
    drop(held);
    wait_for("all of it to be given back", || (free_ingest_bytes(&server) == 128 << 20).then_some(()));
    assert_eq!(bring(&server, &greedy, &batch("r", 20)).status, 200);
}

#[test]
fn a_body_that_breaks_off_costs_what_it_announced() {
    let database = with_plan(1, 3);
    let (ingest, _) = tenant(&database, "acme");
    let server = serve(&database);
    wait_for("bodies that break off to use up the burst", || {
        let mut stream = begin(&server, &ingest, (100, 50));
        stream.shutdown(Shutdown::Write).expect("half a connection");
        let mut heard = String::new();
        stream.read_to_string(&mut heard).expect("an answer");
        assert!(heard.starts_with("HTTP/1.1 400 ") || heard.starts_with("HTTP/1.1 429 "), "{heard}");
        heard.starts_with("HTTP/1.1 429 ").then_some(())
    });
}

#[test]
fn whoever_leaves_in_the_middle_of_a_body_pays_as_well() {
    let database = with_plan(1, 1000);
    let (ingest, _) = tenant(&database, "acme");
    let server = serve(&database);
    let left = || -> u64 {
        let answer = bring(&server, &ingest, &batch("r", 1));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.header("ratelimit").to_owned();
        said.split(";r=").nth(1).and_then(|rest| rest.split(';').next()?.parse().ok()).expect("a number")
    };
    let before = left();
    for _ in 0..20 {
        // At least eight events, as long as a line may be.
        let stream = begin(&server, &ingest, (8 << 20, 1 << 20));
        wait_for("some of it to be read", || (free_ingest_bytes(&server) < 128 << 20).then_some(()));
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a hard end");
        drop(stream);
        wait_for("it to be given back", || (free_ingest_bytes(&server) == 128 << 20).then_some(()));
    }
    // Each look costs an event itself.
    let mut looks = 0;
    wait_for("160 events to be paid", || {
        looks += 1;
        (left() + looks + 100 < before).then_some(())
    });
}

#[test]
fn what_a_socket_subscribes_to_costs_requests() {
    let database = with_plan(1, 5);
    let (_, read) = tenant(&database, "acme");
    let server = serve(&database);
    block_on(async {
        let mut socket = Socket::open_at(&server.url, Some(format!("Bearer {read}"))).await;
        let of_run = json!({"type": "subscribe", "run_id": "r", "from_seq": 0});
        for (asked, run_id, let_in) in [
            (of_run.clone(), json!("r"), json!({"type": "error", "code": "unknown_run"})),
            (json!({"type": "subscribe_runs"}), Value::Null, json!({"type": "heartbeat"})),
        ] {
            let mut said = Value::Null;
            for _ in 0..50 {
                socket.say(asked.clone()).await;
                said = socket.any().await;
                if said["code"] == "rate_limited" {
                    break;
                }
                assert_eq!((&said["type"], &said["code"]), (&let_in["type"], &let_in["code"]), "{said}");
            }
            assert_eq!(
                (&said["type"], &said["code"], &said["run_id"]),
                (&json!("error"), &json!("rate_limited"), &run_id)
            );
            assert!(said["detail"].as_str().is_some_and(|detail| detail.contains("requests are used up")), "{said}");
        }
        // The socket goes on, and what is asked again once there is enough is let in.
        let until = Instant::now() + PATIENCE;
        loop {
            socket.say(of_run.clone()).await;
            let said = socket.next().await;
            if said["code"] == "unknown_run" {
                break;
            }
            assert!(said["code"] == "rate_limited" && Instant::now() < until, "{said}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// Sends a head alone; what comes back before any body, up to the first whole head that is final.
fn head_alone(server: &Server, key: &str, (length, expect): (u64, &str)) -> String {
    let address = server.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let head = format!(
        "POST /v1/ingest/transitions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {length}\r\n{expect}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the head is taken");
    let mut heard = String::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece).expect("an answer to the head");
        heard.push_str(&String::from_utf8_lossy(&piece[..read]));
        let last = heard.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        if read == 0 || last.contains("\r\n\r\n") {
            return last.to_owned();
        }
    }
}

#[test]
fn a_batch_that_cannot_be_let_in_is_refused_before_it_is_sent() {
    let database = with_plan(1, 4);
    let (ingest, _) = tenant(&database, "acme");
    let server = serve(&database);
    for expect in ["", "Expect: 100-continue\r\n"] {
        // No line is over 1 MiB, so these are five at least.
        let heard = head_alone(&server, &ingest, (5 << 20, expect));
        assert!(heard.starts_with("HTTP/1.1 413 "), "{expect:?}: {heard}");
    }
    assert_eq!(bring(&server, &ingest, &batch("r", 4)).status, 200);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let heard = head_alone(&server, &ingest, (4 << 20, expect));
        assert!(heard.starts_with("HTTP/1.1 429 "), "{expect:?}: {heard}");
        assert!(heard.to_ascii_lowercase().contains("\r\nretry-after: "), "{heard}");
    }
}

#[test]
fn where_limits_are_counted_one_process_runs() {
    let settings = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/railway.toml")).expect("the file");
    let of = |name: &str| -> Vec<&str> {
        let lines = settings.lines().filter_map(|line| line.split_once(" = "));
        lines.filter(|(left, _)| left.trim() == name).map(|(_, right)| right.trim()).collect()
    };
    assert_eq!(of("numReplicas"), ["1"], "two replicas let twice as much in");
    assert!(!settings.contains("multiRegionConfig"), "each region has replicas of its own");
    assert_eq!(of("healthcheckPath"), ["\"/readyz\""]);
    assert_eq!(of("preDeployCommand"), ["[\"kahn migrate\"]"]);
    let drained: u64 = of("drainingSeconds").concat().parse().expect("a number, not a string");
    assert!(drained > 30, "what was read is cut off");
    // And whoever runs it elsewhere is told.
    let database = Database::fresh();
    let told = run(&["mode"], &[("KAHN_DATABASE_URL", &database.app_dsn()), ("KAHN_AUTH", "keys-only")]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("counted in this one process"));
    let mut command = kahn(
        &["serve", "--bind", "127.0.0.1:0"],
        &[("KAHN_DATABASE_URL", &database.app_dsn()), ("KAHN_AUTH", "keys-only")],
    );
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let said = BufReader::new(child.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let said: Vec<String> = said.take_while(|line| !line.contains("listens on")).collect();
    let _ = child.kill();
    let _ = child.wait();
    assert!(said.iter().any(|line| line.contains("hold for one replica")), "{said:#?}");
}

#[test]
fn a_plan_that_was_set_holds_within_seconds() {
    let database = with_plan(1, 3);
    database.admin("INSERT INTO plans VALUES ('large', 400, 5000, 70000)");
    let (_, read) = tenant(&database, "acme");
    let server = serve(&database);
    wait_for("the burst to be used up", || (get(&server, &read).status == 429).then_some(()));
    done(&database, &["set-plan", "acme", "large"]);
    let began = Instant::now();
    let answer = wait_for("the new plan", || {
        Some(get(&server, &read)).filter(|answer| answer.header("ratelimit-policy").contains("q=70000"))
    });
    assert!(began.elapsed() < Duration::from_secs(12), "it took {:?}", began.elapsed());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit-policy"), "\"requests\";q=70000;w=14");
}

#[test]
fn a_database_that_cannot_tell_the_plan_stops_nobody_whose_plan_is_known() {
    let database = with_plan(1, 1000);
    let (_, read) = tenant(&database, "acme");
    let (_, late) = tenant(&database, "late");
    let server = serve(&database);
    assert_eq!(get(&server, &read).status, 200);
    database.admin("REVOKE SELECT ON plans FROM kahn_app");
    assert_eq!(get(&server, &late).problem(), (503, "credentials_unavailable".into()), "its plan was never known");
    let began = Instant::now();
    wait_for("the plan to be asked for again", || {
        let answer = get(&server, &read);
        assert_eq!(answer.status, 200, "{}", answer.text());
        (began.elapsed() > Duration::from_secs(11)).then_some(())
    });
}
