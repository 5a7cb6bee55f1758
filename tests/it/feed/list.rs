//! The rows of the list as they change. If these fail, an open list shows what is not so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::{Value, json};

use super::limits::append_much;
use super::{Socket, append, block_on};
use crate::backend;
use crate::support::{Kitchen, wait_for};

/// A socket whose list is followed.
async fn listening(kitchen: &Kitchen, filters: Value) -> Socket {
    let mut socket = Socket::open(kitchen).await;
    subscribe(&mut socket, filters).await;
    socket
}

async fn subscribe(socket: &mut Socket, filters: Value) {
    socket.say(json!({"type": "subscribe_runs", "filters": filters})).await;
    let answer = socket.any().await;
    assert_eq!(answer["type"], "heartbeat", "{answer}");
}

fn post(kitchen: &Kitchen, from_seq: u64, lines: &[String]) {
    let batch: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let answer = kitchen.post(&format!("/v1/ingest/transitions?from_seq={from_seq}"), batch.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn event(run_id: &str, ts: &str, event: &str) -> String {
    format!(r#"{{"ts":"{ts}","run_id":"{run_id}","event":{event}}}"#)
}

const TS: &str = "2026-04-24T10:00:00.000Z";
const START: &str = r#""run_start","total_nodes":1"#;
const END: &str = r#""run_end","outcome":"stuck","done":0,"failed":1,"blocked":0,"total_duration_s":1"#;
const AGENT: &str = r#""agent_run_start","agent_id":"coder","task":"t""#;

fn start(kitchen: &Kitchen, run_id: &str) {
    post(kitchen, 0, &[event(run_id, TS, START)]);
}

fn end(kitchen: &Kitchen, run_id: &str) {
    post(kitchen, 1, &[event(run_id, TS, END)]);
}

/// What a frame of the list says: which run, and whether it is in the list.
fn said(frame: &Value) -> (String, bool) {
    match frame["type"].as_str() {
        Some("run") => (frame["row"]["run_id"].as_str().expect("a run_id").to_owned(), true),
        Some("run_removed") => (frame["run_id"].as_str().expect("a run_id").to_owned(), false),
        _ => panic!("{frame}"),
    }
}

/// Reads frames of the list until one says this; a row may be told in several states on the way, and other rows late.
async fn until(socket: &mut Socket, run_id: &str, is_in: bool, fits: impl Fn(&Value) -> bool) -> Value {
    loop {
        let frame = socket.next().await;
        if said(&frame) == (run_id.to_owned(), is_in) && fits(&frame["row"]) {
            return frame;
        }
    }
}

#[test]
fn a_row_is_told_as_the_list_shows_it() {
    let kitchen = backend::empty();
    block_on(async {
        let mut socket = listening(&kitchen, json!({})).await;
        start(&kitchen, "r");
        until(&mut socket, "r", true, |row| row["next_seq"] == 1).await;
        end(&kitchen, "r");
        let frame = until(&mut socket, "r", true, |row| row["next_seq"] == 2).await;
        assert_eq!(frame["row"], kitchen.get("/api/runs").json()["items"][0]);
        assert_eq!(frame["row"]["phase"], "ended");
        socket.is_quiet().await;
        socket.say(json!({"type": "unsubscribe_runs"})).await;
        start(&kitchen, "s");
        let mut other = listening(&kitchen, json!({})).await;
        start(&kitchen, "t");
        until(&mut other, "t", true, |_| true).await;
        socket.is_quiet().await;
    });
}

#[test]
fn a_row_is_told_four_times_a_second_at_most_and_its_last_state_always() {
    let kitchen = backend::empty();
    block_on(async {
        let mut socket = listening(&kitchen, json!({})).await;
        let begun = Instant::now();
        for seq in 0..60 {
            append(&kitchen, seq..seq + 1);
        }
        let mut frames = 1;
        while socket.next().await["row"]["next_seq"] != 60 {
            frames += 1;
        }
        let most = begun.elapsed().as_millis() / 250 + 2;
        assert!(frames <= most, "{frames} frames in {:?}", begun.elapsed());
        socket.is_quiet().await;
    });
}

#[test]
fn a_run_comes_into_the_list_and_leaves_it_as_the_filters_say() {
    let kitchen = backend::empty();
    start(&kitchen, "before");
    block_on(async {
        let mut live = listening(&kitchen, json!({"phase": "stalled", "kind": "ci"})).await;
        let mut ended = listening(&kitchen, json!({"phase": "ended", "outcome": "stuck"})).await;
        let mut named = listening(&kitchen, json!({"q": "efor", "window": "all"})).await;
        let mut other = listening(&kitchen, json!({"q": "elsewhere"})).await;
        let mut recent = listening(&kitchen, json!({"window": "24h"})).await;
        end(&kitchen, "before");
        until(&mut live, "before", false, |_| true).await;
        until(&mut ended, "before", true, |row| row["outcome"] == "stuck").await;
        until(&mut named, "before", true, |row| row["outcome"] == "stuck").await;
        until(&mut recent, "before", false, |_| true).await;
        start(&kitchen, "then");
        until(&mut live, "then", true, |_| true).await;
        end(&kitchen, "then");
        until(&mut live, "then", false, |_| true).await;
        // What was in a list when it began is not known, so it may be told that it is out; but once.
        until(&mut ended, "then", false, |_| true).await;
        until(&mut ended, "then", true, |_| true).await;
        named.is_quiet().await;
        other.is_quiet().await;
        live.is_quiet().await;
        post(&kitchen, 2, &[event("then", TS, r#""heartbeat""#)]);
        until(&mut ended, "then", true, |row| row["next_seq"] == 3).await;
        live.is_quiet().await;
    });
}

#[test]
fn filters_are_read_as_strictly_as_those_of_the_list() {
    let kitchen = backend::empty();
    block_on(async {
        let mut socket = Socket::open(&kitchen).await;
        for (filters, code) in [
            (r#"{"phase":"done"}"#, "unknown_phase"),
            (r#"{"kind":"x"}"#, "unknown_kind"),
            (r#"{"outcome":"good"}"#, "unknown_outcome"),
            (r#"{"window":"1h"}"#, "unknown_window"),
            (r#"{"agent_id":"A"}"#, "invalid_agent_id"),
            (r#"{"node_id":"A"}"#, "invalid_node_id"),
            (r#"{"parent":"/"}"#, "invalid_parent"),
            (r#"{"since":"yesterday"}"#, "invalid_since"),
            (r#"{"as_of":"2026-04-24T10:00:00.000Z"}"#, "unknown_parameter"),
            (r#"{"sort":"started"}"#, "unknown_parameter"),
            (r#"{"kind":"ci","kind":"ci"}"#, "duplicate_parameter"),
            (r#"{"kind":1}"#, "invalid_frame"),
            (r#"["kind"]"#, "invalid_frame"),
        ] {
            let text = format!(r#"{{"type":"subscribe_runs","filters":{filters}}}"#);
            socket.say_text(text).await;
            let error = socket.next().await;
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{filters}");
        }
        // Nothing is followed after a refusal.
        let mut good = listening(&kitchen, json!({})).await;
        start(&kitchen, "r");
        until(&mut good, "r", true, |_| true).await;
        socket.is_quiet().await;
    });
}

#[test]
fn agents_are_left_out_where_they_are_not_shown() {
    let kitchen = backend::empty_with(&["--agent-views", "off"]);
    block_on(async {
        let mut socket = listening(&kitchen, json!({})).await;
        post(&kitchen, 0, &[event("agent", TS, AGENT)]);
        start(&kitchen, "ci");
        until(&mut socket, "ci", true, |_| true).await;
        socket.is_quiet().await;
        socket.say(json!({"type": "subscribe_runs", "filters": {"kind": "agent"}})).await;
        assert_eq!(socket.next().await["code"], "agent_views_off");
    });
}

#[test]
fn a_run_that_falls_silent_is_told_to_be_stalled() {
    let kitchen = backend::empty_with(&["--stall-after", "3"]);
    let now = || kitchen.get("/api/config").json()["now"].as_str().expect("now").to_owned();
    block_on(async {
        post(&kitchen, 0, &[event("before", &now(), START)]);
        let mut live = listening(&kitchen, json!({"phase": "live"})).await;
        let mut all = listening(&kitchen, json!({})).await;
        post(&kitchen, 0, &[event("during", &now(), START)]);
        // One was live when the list began, the other came then; nothing happens to either but time.
        let mut stalled = BTreeMap::new();
        while stalled.len() < 2 {
            let frame = all.next().await;
            if frame["row"]["phase"] == "stalled" {
                stalled.insert(said(&frame).0, frame["row"]["next_seq"].clone());
            }
        }
        assert_eq!(stalled, BTreeMap::from([("before".into(), json!(1)), ("during".into(), json!(1))]));
        let mut gone = Vec::new();
        while gone.len() < 2 {
            let (run_id, is_in) = said(&live.next().await);
            if !is_in {
                gone.push(run_id);
            }
        }
        gone.sort();
        assert_eq!(gone, ["before", "during"]);
        // A sign of life brings it back.
        post(&kitchen, 1, &[event("before", &now(), r#""heartbeat""#)]);
        until(&mut live, "before", true, |row| row["phase"] == "live").await;
    });
}

#[test]
fn a_list_that_is_read_after_the_subscription_misses_nothing() {
    let kitchen = backend::empty();
    let runs = 400;
    let read = || -> BTreeSet<String> {
        let list = kitchen.get("/api/runs?limit=500").json();
        let items = list["items"].as_array().expect("rows");
        items.iter().map(|row| row["run_id"].as_str().expect("a run_id").to_owned()).collect()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..runs).for_each(|number| start(&kitchen, &format!("run{number}"))));
        block_on(async {
            let mut socket = Socket::open(&kitchen).await;
            // Some runs are stored before the subscription, some after.
            wait_for("some runs", || (read().len() > 20).then_some(()));
            subscribe(&mut socket, json!({})).await;
            let mut known = read();
            while known.len() < runs {
                let frame = socket.next().await;
                if frame["type"] == "resync" {
                    assert_eq!((&frame["run_id"], &frame["from_seq"]), (&Value::Null, &Value::Null));
                    known = read();
                } else {
                    known.insert(said(&frame).0);
                }
            }
        });
    });
}

#[test]
fn a_list_that_falls_far_behind_is_told_to_be_read_again() {
    let kitchen = backend::empty();
    let put = |runs: std::ops::Range<usize>, events: &[&str]| {
        let lines = |n| events.iter().map(move |fields| event(&format!("run{n}"), TS, fields) + "\n");
        let batch: String = runs.flat_map(lines).collect();
        assert_eq!(kitchen.post("/v1/ingest/transitions", batch.as_bytes()).status, 200);
    };
    put(0..300, &[START]);
    append_much(&kitchen, 0..2500);
    block_on(async {
        let mut socket = listening(&kitchen, json!({"q": "run"})).await;
        let mut healthy = listening(&kitchen, json!({"q": "run"})).await;
        // It does not read, and has more to read than the system holds for it.
        socket.say(json!({"type": "subscribe", "run_id": "r", "from_seq": 0})).await;
        while healthy.any().await["type"] != "heartbeat" {}
        // At most 256 rows wait for a list. One that takes them is told all, in two steps that both fit, however late it is served.
        let mut told = BTreeSet::new();
        for half in [0..150, 150..300] {
            let until = half.end;
            put(half, &[START, r#""heartbeat""#]);
            while told.len() < until {
                let frame = healthy.next().await;
                let (run_id, _) = said(&frame);
                told.extend((frame["row"]["next_seq"] == 2).then_some(run_id));
            }
        }
        // The other one is told that it missed them, unless the system held more for it than it should.
        let mut known = BTreeSet::new();
        while known.len() < 300 {
            let frame = socket.next().await;
            match frame["type"].as_str() {
                Some("resync") if frame["run_id"].is_null() => break,
                Some("event" | "resync") => {}
                _ => {
                    let (run_id, _) = said(&frame);
                    known.extend((frame["row"]["next_seq"] == 2).then_some(run_id));
                }
            }
        }
        // It goes on.
        post(&kitchen, 2, &[event("run0", TS, r#""heartbeat""#)]);
        while socket.next().await["row"]["next_seq"] != 3 {}
    });
}
