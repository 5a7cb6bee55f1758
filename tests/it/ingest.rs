//! Ingest: exactly once, all or nothing, in both builds. If these fail, acknowledged evidence is lost, doubled or rewritten.

use crate::backend;
use crate::support::Kitchen;

fn start(run_id: &str) -> String {
    format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run_id}","event":"run_start","total_nodes":1}}"#) + "\n"
}

fn beat(run_id: &str, number: u32) -> String {
    format!(r#"{{"ts":"2026-04-24T10:00:{number:02}.000Z","run_id":"{run_id}","event":"heartbeat","n":{number}}}"#)
        + "\n"
}

fn events(kitchen: &Kitchen, run_id: &str) -> String {
    kitchen.get(&format!("/api/runs/{run_id}/events?limit=5000")).text()
}

#[test]
fn the_same_batch_sent_again_changes_nothing_and_says_so() {
    let kitchen = backend::empty();
    let batch = start("r") + &beat("r", 1) + &beat("r", 2);
    let first = kitchen.post("/v1/ingest/transitions", batch.as_bytes());
    assert_eq!(first.status, 200, "{}", first.text());
    let log_id = first.json()["runs"]["r"]["log_id"].as_str().expect("a log_id").to_owned();
    assert_eq!(
        first.text(),
        format!(r#"{{"accepted":3,"duplicates":0,"runs":{{"r":{{"next_seq":3,"log_id":"{log_id}"}}}},"warnings":[]}}"#)
    );
    let again = kitchen.post("/v1/ingest/transitions", batch.as_bytes());
    assert_eq!(
        again.text(),
        format!(r#"{{"accepted":0,"duplicates":3,"runs":{{"r":{{"next_seq":3,"log_id":"{log_id}"}}}},"warnings":[]}}"#)
    );
    assert_eq!(events(&kitchen, "r"), batch);
    // A part that overlaps, and goes on.
    let more = beat("r", 2) + &beat("r", 3);
    let grown = kitchen.post("/v1/ingest/transitions?from_seq=2", more.as_bytes()).json();
    assert_eq!(
        (&grown["accepted"], &grown["duplicates"], &grown["runs"]["r"]["next_seq"]),
        (&1.into(), &1.into(), &4.into())
    );
    assert_eq!(events(&kitchen, "r"), batch + &beat("r", 3));
}

#[test]
fn history_is_never_rewritten() {
    let kitchen = backend::empty();
    let batch = start("r") + &beat("r", 1);
    assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status, 200);
    let other = start("r") + &beat("r", 7) + &beat("r", 8);
    let refused = kitchen.post("/v1/ingest/transitions", other.as_bytes());
    assert_eq!(refused.problem(), (409, "conflict".into()));
    assert_eq!(refused.json()["seq"], 1);
    let gap = kitchen.post("/v1/ingest/transitions?from_seq=3", beat("r", 3).as_bytes());
    assert_eq!(gap.problem(), (409, "gap".into()));
    assert_eq!(gap.json()["next_seq"], 2);
    let nowhere = kitchen.post("/v1/ingest/transitions", beat("r", 3).as_bytes());
    assert_eq!(nowhere.problem(), (400, "from_seq_required".into()));
    assert_eq!(nowhere.json()["next_seq"], 2);
    assert_eq!(events(&kitchen, "r"), batch);
}

#[test]
fn a_batch_of_several_runs_is_all_or_nothing() {
    let kitchen = backend::empty();
    assert_eq!(kitchen.post("/v1/ingest/transitions", (start("b") + &beat("b", 1)).as_bytes()).status, 200);
    // c is new, b conflicts, a is new: nothing of it may stay.
    let batch = start("c") + &start("b") + &beat("b", 2) + &start("a");
    assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).problem(), (409, "conflict".into()));
    let rows = kitchen.get("/api/runs").json();
    assert_eq!(rows["total"], 1, "{rows}");
    assert_eq!(kitchen.get("/api/runs/c").problem(), (404, "unknown_run".into()));
    // Interleaved lines go each to its own run, in order.
    let batch = start("c") + &start("a") + &beat("c", 1) + &beat("a", 1) + &beat("c", 2);
    let done = kitchen.post("/v1/ingest/transitions", batch.as_bytes()).json();
    assert_eq!((&done["runs"]["a"]["next_seq"], &done["runs"]["c"]["next_seq"]), (&2.into(), &3.into()));
    assert_eq!(events(&kitchen, "c"), start("c") + &beat("c", 1) + &beat("c", 2));
    let two = kitchen.post("/v1/ingest/transitions?from_seq=0", (start("x") + &start("y")).as_bytes());
    assert_eq!(two.problem(), (400, "several_runs".into()));
}

#[test]
fn a_malformed_line_refuses_the_whole_batch_and_names_itself() {
    let kitchen = backend::empty();
    let good = start("r");
    let mut bad: Vec<(&str, Vec<u8>)> = vec![
        ("empty line", b"\n".to_vec()),
        ("not JSON", b"nope\n".to_vec()),
        ("not an object", b"[]\n".to_vec()),
        ("not UTF-8", b"\xff\n".to_vec()),
        ("NUL", b"\0\n".to_vec()),
        ("too deep", format!("{}{}\n", "[".repeat(65), "]".repeat(65)).into_bytes()),
        ("bad ts", br#"{"ts":"2026-04-24","run_id":"r","event":"x"}"#.to_vec()),
        ("hostile run_id", br#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"../../etc","event":"x"}"#.to_vec()),
        ("no event", br#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r"}"#.to_vec()),
        ("ill-typed", br#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_end","outcome":"fine"}"#.to_vec()),
        ("twice", br#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","run_id":"r","event":"x"}"#.to_vec()),
    ];
    for (_, line) in &mut bad {
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
    }
    for (what, line) in bad {
        let batch = [good.as_bytes(), &line, beat("r", 1).as_bytes()].concat();
        let refused = kitchen.post("/v1/ingest/transitions", &batch);
        assert_eq!(refused.problem(), (400, "malformed_line".into()), "{what}: {}", refused.text());
        assert_eq!(refused.json()["line"], 2, "{what}");
    }
    let torn = kitchen.post("/v1/ingest/transitions", (good.clone() + beat("r", 1).trim_end()).as_bytes());
    assert_eq!(torn.problem(), (400, "incomplete_line".into()));
    assert_eq!(kitchen.post("/v1/ingest/transitions", b"").problem(), (400, "empty_batch".into()));
    let long = format!(
        "{{\"ts\":\"2026-04-24T10:00:00.000Z\",\"run_id\":\"r\",\"event\":\"x\",\"v\":\"{}\"}}\n",
        "v".repeat(1 << 20)
    );
    let refused = kitchen.post("/v1/ingest/transitions", (good.clone() + &long).as_bytes());
    assert_eq!(refused.problem(), (413, "line_too_long".into()));
    assert_eq!(refused.json()["line"], 2);
    let many: String = (0..=10_000).map(|_| beat("r", 1)).collect();
    assert_eq!(
        kitchen.post("/v1/ingest/transitions?from_seq=0", many.as_bytes()).problem(),
        (413, "too_many_events".into())
    );
    let large = vec![b'x'; 8 * 1024 * 1024 + 1];
    assert_eq!(kitchen.post("/v1/ingest/transitions", &large).problem(), (413, "batch_too_large".into()));
    assert_eq!(kitchen.get("/api/runs").json()["total"], 0, "nothing was stored");
}

#[test]
fn only_events_as_ndjson_or_gzip_are_taken() {
    use std::io::Write as _;
    let kitchen = backend::empty();
    let batch = start("r");
    let send =
        |headers: &[(&str, &str)], body: &[u8]| kitchen.send("POST", "/v1/ingest/transitions", headers, Some(body));
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"] {
        let refused = send(&[("content-type", content_type)], batch.as_bytes());
        assert_eq!(refused.problem(), (415, "unsupported_media_type".into()), "{content_type}");
    }
    let ndjson = ("content-type", "application/x-ndjson");
    for coding in ["br", "zstd", "deflate", "gzip, gzip", "identity, gzip"] {
        let refused = send(&[ndjson, ("content-encoding", coding)], batch.as_bytes());
        assert_eq!(refused.problem(), (415, "unsupported_encoding".into()), "{coding}");
    }
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let coded = [ndjson, ("content-encoding", "gzip")];
    assert_eq!(send(&coded, b"not gzip").problem(), (400, "invalid_gzip".into()));
    let bomb = gzip(&vec![b' '; 32 * 1024 * 1024]);
    assert_eq!(send(&coded, &bomb).problem(), (413, "batch_too_large".into()));
    let sent = send(&coded, &gzip(batch.as_bytes()));
    assert_eq!(sent.status, 200, "{}", sent.text());
    assert_eq!(events(&kitchen, "r"), batch);
}

#[test]
fn lines_are_kept_byte_for_byte() {
    let kitchen = backend::empty();
    let odd = concat!(
        r#"{ "event" : "run_start", "run_id":"r", "ts":"2026-04-24T10:00:00.000Z","total_nodes":1 ,"z":1e2,"z":1.50, "a":"\u0000\u00e9 é 🍳" }"#,
        "\n",
        r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"deploy_marker","big":123456789012345678901234567890}"#,
        "\n"
    );
    let sent = odd.replace("}\n", "}\r\n");
    let done = kitchen.post("/v1/ingest/transitions", sent.as_bytes()).json();
    assert_eq!(done["warnings"], serde_json::json!([{"line": 2, "reason": "unknown event: deploy_marker"}]));
    assert_eq!(events(&kitchen, "r"), odd);
    let row = kitchen.get("/api/runs/r/problems").json();
    assert_eq!(row["ledger"], serde_json::json!({"lines": 2, "kept": 2, "skipped": 0, "pending": 0, "unknown": 1}));
    // The digest is computed from what is stored.
    let position = kitchen.get("/v1/ingest/runs/r?digest=true").json();
    assert_eq!(position["lines_sha256"], kahn::domain::id::sha256_hex(odd.as_bytes()));
}

/// A line is what stands between newlines less one CR: one more is its own, and comes back with it.
#[test]
fn a_cr_of_the_lines_own_is_kept_and_the_same_batch_again_is_no_conflict() {
    let mut kitchen = backend::empty();
    let batch = start("r").replace('\n', "\r\r\n") + &beat("r", 1) + &beat("r", 2).replace('\n', "\r\r\n");
    let kept = batch.replace("\r\r\n", "\r\n");
    for duplicates in [0, 3] {
        let done = kitchen.post("/v1/ingest/transitions", batch.as_bytes());
        assert_eq!(done.status, 200, "{}", done.text());
        assert_eq!(done.json()["duplicates"], duplicates);
        assert_eq!(events(&kitchen, "r"), kept);
    }
    kitchen.restart();
    assert_eq!(events(&kitchen, "r"), kept);
    let position = kitchen.get("/v1/ingest/runs/r?digest=true").json();
    assert_eq!(position["lines_sha256"], kahn::domain::id::sha256_hex(kept.as_bytes()));
}

/// A producer may send lines of 1 MiB for ever: what a run's page holds of them is bounded, and says what it leaves out.
#[test]
fn large_texts_and_evidence_stay_in_the_log_and_a_page_shows_their_beginning() {
    let kitchen = backend::empty();
    let large = "x".repeat(900_000);
    let head =
        |event: &str| format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"{event}","agent_id":"a""#);
    let start = format!(r#"{},"task":"{large}"}}"#, head("agent_run_start"));
    let call = format!(
        r#"{},"step":0,"tool_name":"{text}","duration_s":1,"ok":false,"input_summary":"{text}","error":"{text}"}}"#,
        head("tool_invocation"),
        text = &large[..300_000]
    );
    let audit = |evidence: &str| {
        format!(
            r#"{},"checkpoint_id":"lint","result":"fail","duration_s":1,"evidence":{{"found":"{evidence}"}}}}"#,
            head("audit_checkpoint")
        )
    };
    // 14 KiB each: more of them than a state keeps.
    let lines: Vec<String> =
        [start, call, audit(&large)].into_iter().chain((0..100).map(|_| audit(&"y".repeat(14 * 1024)))).collect();
    for (seq, line) in lines.iter().enumerate() {
        let sent = kitchen.post(&format!("/v1/ingest/transitions?from_seq={seq}"), format!("{line}\n").as_bytes());
        assert_eq!(sent.status, 200, "{}", sent.text());
    }
    let page = kitchen.get("/api/runs/r");
    assert!(page.body.len() < 2 * 1024 * 1024, "{} bytes", page.body.len());
    let page = page.json();
    let shown = |value: &serde_json::Value| value.as_str().map(|text| text.chars().count());
    assert_eq!(shown(&page["task"]), Some(4097), "and a sign that there is more");
    let tool = &page["agent"]["tools"][0];
    assert_eq!((shown(&tool["tool_name"]), shown(&tool["last_error"])), (Some(4097), Some(4097)));
    let audits = page["agent"]["audits"].as_array().expect("audits");
    let told = |audit: &serde_json::Value| (audit["evidence"].is_null(), audit["evidence_bytes"].as_u64());
    assert_eq!(told(&audits[0]), (true, Some(900_012)));
    assert_eq!(told(&audits[1]), (true, Some(14 * 1024 + 12)), "the oldest goes first");
    assert_eq!(told(&audits[100]), (false, None));
    let kept = audits.iter().filter(|audit| !audit["evidence"].is_null()).count();
    assert_eq!(kept, 1024 * 1024 / (14 * 1024 + 12), "1 MiB of it");
    // All of it stands in the log.
    let event = kitchen.get("/api/runs/r/events?from_seq=2&limit=1");
    assert_eq!(event.text(), lines[2].clone() + "\n");
    assert_eq!(kitchen.get("/api/runs/r/diagnostics").status, 200);
}

/// Promise 7 for graphs: memory stays bounded whatever one of 8 MiB says.
#[test]
fn a_large_graph_takes_little_memory_whatever_is_wrong_in_it() {
    let kitchen = backend::empty();
    let node = |id: &str, needs: &str| {
        format!(r#"{{"id":"{id}","deliverable":"","depends_on":[{needs}],"touches":[],"done_when":["x"]}}"#)
    };
    let dangling = node("a", &vec!["\"b\""; 2_090_000].join(","));
    let ids: Vec<String> = (0..600).map(|at| format!("\"n{at}\"")).collect();
    let all = ids.join(",");
    let cycles = ids.iter().map(|id| node(id.trim_matches('"'), &all)).collect::<Vec<_>>().join(",");
    let items = vec!["{}"; 2_500_000].join(",");
    let padding = format!(r#"{{"id":"a","pad":[{items}]}}"#);
    for (name, nodes) in [("dangling", dangling), ("cycles", cycles), ("padding", padding)] {
        let graph = format!(r#"{{"version":1,"nodes":[{nodes}]}}"#);
        assert!(graph.len() <= 8 * 1024 * 1024, "{name}: {} bytes", graph.len());
        let answer = kitchen.put(&format!("/v1/ingest/runs/{name}/graph"), graph.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert_eq!(kitchen.get(&format!("/api/runs/{name}")).status, 200);
        let peak = kitchen.server.peak_kib() / 1024;
        assert!(peak < 200, "{peak} MiB after {name}");
    }
}

#[test]
fn a_graph_is_written_once() {
    let kitchen = backend::empty();
    let path = "/v1/ingest/runs/r/graph";
    let graph =
        br#"{"version":1,"nodes":[{"id":"a","deliverable":"d","depends_on":[],"touches":[],"done_when":["true"]}]}"#;
    let made = kitchen.put(path, graph);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(kitchen.put(path, graph).status, 200);
    assert_eq!(kitchen.put(path, b"{}").problem(), (409, "graph_conflict".into()));
    assert_eq!(kitchen.get("/api/runs/r/graph").body, graph);
    let row = kitchen.get("/api/runs/r").json();
    assert_eq!(
        (&row["next_seq"], &row["phase"], &row["started"]),
        (&0.into(), &"live".into(), &serde_json::Value::Null)
    );
    assert_eq!(row["node_states"][0]["status"], "pending");
    for bad in [&b"[]"[..], b"", b"{", b"\xff"] {
        assert_eq!(kitchen.put("/v1/ingest/runs/s/graph", bad).problem(), (400, "invalid_graph".into()));
    }
    assert_eq!(kitchen.put("/v1/ingest/runs/-s/graph", graph).problem(), (400, "invalid_run_id".into()));
    let nodes = vec![r#"{"id":"n"}"#; 10_001].join(",");
    let large = format!(r#"{{"version":1,"nodes":[{nodes}]}}"#);
    assert_eq!(kitchen.put("/v1/ingest/runs/s/graph", large.as_bytes()).problem(), (413, "graph_too_large".into()));
    assert_eq!(kitchen.get("/api/runs").json()["total"], 1);
    // The events of the run come later.
    assert_eq!(kitchen.post("/v1/ingest/transitions", start("r").as_bytes()).status, 200);
    assert_eq!(kitchen.get("/api/runs/r").json()["nodes"]["pending"], 1);
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    let mut kitchen = backend::empty();
    let batch = start("r") + &beat("r", 1);
    assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status, 200);
    kitchen.server.kill();
    kitchen.restart();
    assert_eq!(events(&kitchen, "r"), batch);
    let again = kitchen.post("/v1/ingest/transitions", (batch.clone() + &beat("r", 2)).as_bytes()).json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&1.into(), &2.into()));
    assert_eq!(events(&kitchen, "r"), batch + &beat("r", 2));
}

#[test]
fn producers_that_send_the_same_events_at_once_store_them_once() {
    let kitchen = backend::empty();
    let batch: String = start("r") + &(1..60).map(|number| beat("r", number)).collect::<String>();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let url = kitchen.server.url.as_str();
        let headers = kitchen.producer_headers();
        let sends: Vec<_> = (0..8)
            .map(|_| {
                let (headers, batch) = (headers.clone(), batch.as_bytes());
                scope.spawn(move || {
                    let headers: Vec<(&str, &str)> =
                        headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    crate::support::request(url, ("POST", "/v1/ingest/transitions"), &headers, Some(batch))
                })
            })
            .collect();
        sends.into_iter().map(|send| send.join().expect("an answer").json()).collect()
    });
    let accepted: u64 = answers.iter().map(|answer| answer["accepted"].as_u64().expect("a count")).sum();
    assert_eq!(accepted, 60, "{answers:?}");
    assert_eq!(events(&kitchen, "r"), batch);
}

#[test]
fn a_page_of_events_is_bounded_in_bytes_and_says_where_it_goes_on() {
    let kitchen = backend::empty();
    let text = "x".repeat(700_000);
    let line = |number: usize| {
        format!(
            r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_start","total_nodes":{number},"v":"{text}"}}"#
        ) + "\n"
    };
    for from in [0, 10, 20] {
        let batch: String = (from..from + 10).map(line).collect();
        let path = format!("/v1/ingest/transitions?from_seq={from}");
        assert_eq!(kitchen.post(&path, batch.as_bytes()).status, 200);
    }
    let mut next = 0;
    let mut sizes = Vec::new();
    while next < 30 {
        let page = kitchen.get(&format!("/api/runs/r/events?from_seq={next}&limit=5000"));
        let count = page.body.iter().filter(|byte| **byte == b'\n').count();
        let expected: String = (next..next + count).map(line).collect();
        assert_eq!(page.text(), expected);
        next += count;
        sizes.push(count);
        assert_eq!(page.header("kahn-next-seq"), next.to_string());
        let link = if next < 30 {
            format!("</api/runs/r/events?from_seq={next}&limit=5000>; rel=\"next\"")
        } else {
            String::new()
        };
        assert_eq!(page.header("link"), link);
    }
    assert_eq!(sizes, [12, 12, 6], "a page ends with the line that passes 8 MiB");
    // Newlines count in neither build.
    let short = |number: usize| {
        let line = format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"s","event":"heartbeat","n":{number}}}"#);
        line.clone() + &" ".repeat(1685 - line.len()) + "\n"
    };
    for from in [0, 2500] {
        let batch: String = (from..from + 2500).map(short).collect();
        assert_eq!(kitchen.post(&format!("/v1/ingest/transitions?from_seq={from}"), batch.as_bytes()).status, 200);
    }
    let page = kitchen.get("/api/runs/s/events?limit=5000");
    assert_eq!(page.header("kahn-next-seq"), (8 * 1024 * 1024 / 1685 + 1).to_string());
    let moment = kitchen.get("/api/runs/r?at_seq=25").json();
    assert_eq!((&moment["at_seq"], &moment["next_seq"]), (&25.into(), &30.into()));
}

#[test]
fn bodies_in_flight_take_bounded_room_and_give_it_back() {
    use std::io::{Read as _, Write as _};
    let kitchen = backend::empty();
    let address = kitchen.server.url.strip_prefix("http://").expect("an address");
    let most = 8 * 1024 * 1024;
    let mut head = format!("POST /v1/ingest/transitions HTTP/1.1\r\nHost: {address}\r\nContent-Length: {most}\r\n");
    for (name, value) in kitchen.producer_headers() {
        head += &format!("{name}: {value}\r\n");
    }
    let almost = vec![b'x'; most - 1];
    let mut stalled = Vec::new();
    // 128 MiB are 16 such bodies: one of the next is refused, and nothing else comes of them.
    let refused = (0..40).find_map(|_| {
        let mut stream = std::net::TcpStream::connect(address).expect("a connection");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).expect("the head is taken");
        let is_taken = stream.write_all(&almost).is_ok();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).expect("a timeout");
        let mut answer = [0; 2000];
        let said = stream.read(&mut answer).map_or(0, |read| read);
        stalled.push(stream);
        (said > 0 || !is_taken).then(|| String::from_utf8_lossy(&answer[..said]).into_owned())
    });
    let refused = refused.expect("a refusal");
    assert!(stalled.len() > 8, "room for several: {}", stalled.len());
    assert!(
        refused.is_empty() || (refused.starts_with("HTTP/1.1 503") && refused.contains("ingest_busy")),
        "{refused}"
    );
    drop(stalled);
    let batch = start("r");
    crate::support::wait_for("the room to be given back", || {
        (kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status == 200).then_some(())
    });
}
