//! Runs written by hand, in which everything happens that can.

use serde_json::json;

use super::logs::{DAY, HOUR, Log, SECOND, Try, bad, epoch, good, graph};

/// Eight nightly runs; a letter of each word is what became of that node or checkpoint that night.
pub(crate) fn nights() -> Vec<Log> {
    let nodes = [
        ("stable", "DDDDDDDD"),
        ("flaky-by-retries", "DDRDDDDD"),
        ("recovered", "FFDDDDDD"),
        ("recovered-by-retries", "FDDRDDDD"),
        ("regressed", "DDDDDDFF"),
        ("broken", "FFFFFFFF"),
        ("flaky", "DFDFDFDF"),
        ("flaky-less", "DDFDDDDD"),
        ("few", "DDBBBBFF"),
        ("always-blocked", "BBBBBBBB"),
        ("never", "........"),
        ("unfinished", ".......~"),
    ];
    let checkpoints = [
        ("audit:stable", "P PP P P P P P P"),
        ("audit:regressed", "P P P PW P PF F F"),
        ("audit:recovered", "F F FP P P P P P"),
        ("audit:broken", "F F F F F F F F"),
        ("audit:flaky", "PF P FP P F P F P"),
        ("audit:flaky-less", "P P F P P P P P"),
        ("audit:few", "P F P P . . . ."),
        ("audit:warned", "W W W W W W W W"),
        ("audit:long", "PPPPP PPPPP PPPPP PPPPP PPPPP FPPPP PPWPP PPPPP"),
    ];
    (0..8)
        .map(|night| {
            let mut log = Log::ci(&format!("night-{night}"), epoch() + i64::try_from(night).expect("small") * DAY);
            for (node, word) in nodes {
                match word.as_bytes()[night] {
                    b'D' => log.node(node, &[good(10 * SECOND)], "done"),
                    b'R' => log.node(node, &[bad(8 * SECOND, "cargo test"), good(10 * SECOND)], "done"),
                    b'F' => log.node(node, &[bad(8 * SECOND, "cargo test"), bad(9 * SECOND, "cargo test")], "failed"),
                    b'B' => log.node(node, &[], "blocked"),
                    b'~' => log.node(node, &[bad(8 * SECOND, "cargo test")], "running"),
                    _ => {}
                }
            }
            for (checkpoint, word) in checkpoints {
                for letter in word.split(' ').nth(night).expect("a night").chars() {
                    match letter {
                        'P' => log.audit(checkpoint, "pass"),
                        'F' => log.audit(checkpoint, "fail"),
                        'W' => log.audit(checkpoint, "warn"),
                        _ => {}
                    }
                }
            }
            if night < 7 {
                log.end_ci("partial", 100.0);
            }
            log
        })
        .collect()
}

/// Agents with a reason to look at each, or none. A letter is the outcome of a run, a number its score in hundredths.
pub(crate) fn agents_at_work() -> Vec<Log> {
    let stories: [(&str, &str); 12] = [
        ("steady", "c90 c90 c91 c90 c92"),
        ("fell", "c90 c90 p90"),
        ("still-down", "c90 p50 p50"),
        ("dropped", "c90 c90 c90 c90 c90 c74"),
        ("held", "c90 c90 c90 c90 c90 c75"),
        ("dropped-from-old-heights", "c90 c90 c50 c50 c50 c50 c50 c40"),
        ("back-up", "c90 p50 c90"),
        ("flying", "c- ~"),
        ("new", "a-"),
        ("never-scored", "c- p- c-"),
        ("noisy", "eeeeeeeeeeeeeeeeeeeeeeee"),
        ("busy", "cccccccccccccccccccccccccccccc"),
    ];
    let mut logs = Vec::new();
    for (agent, story) in stories {
        let words: Vec<String> = if story.contains(' ') || story.len() < 4 {
            story.split(' ').map(str::to_owned).collect()
        } else {
            story.chars().map(|letter| format!("{letter}-")).collect()
        };
        for (at, word) in words.iter().enumerate() {
            let started = epoch() + i64::try_from(at).expect("small") * 7 * HOUR;
            let mut log = Log::agent(&format!("{agent}-{at}"), started, agent);
            log.events[0]["model"] = json!(if at % 2 == 0 { "m-small" } else { "m-large" });
            log.wait(SECOND);
            let outcome = match word.as_bytes()[0] {
                b'c' => "converged",
                b'p' => "partial",
                b'e' => "escaped",
                b'a' => "aborted",
                _ => {
                    log.push("heartbeat", json!({}));
                    logs.push(log);
                    continue;
                }
            };
            let score = word[1..].parse::<f64>().ok().map(|hundredths| hundredths / 100.0);
            log.end_agent(outcome, 10.0 + at as f64, score);
            logs.push(log);
        }
    }
    logs
}

/// Two runs between which everything happens to a node that can.
pub(crate) fn before_and_after() -> Vec<Log> {
    let spans: [(&str, i64, i64); 8] = [
        ("slower", 100_000, 120_001),
        ("slower-at-the-edge", 100_000, 120_000),
        ("slower-by-five-seconds", 20_000, 25_000),
        ("slower-by-a-hair-more", 20_000, 25_001),
        ("faster", 100_000, 79_999),
        ("faster-at-the-edge", 100_000, 80_000),
        ("same", 50_000, 50_500),
        ("other-checks", 50_000, 90_000),
    ];
    let mut base = Log::ci("before", epoch());
    let mut head = Log::ci("after", epoch() + DAY);
    for (node, was, is) in spans {
        base.node(node, &[good(was)], "done");
        head.node(node, &[good(is)], "done");
    }
    base.node("newly-failed", &[good(SECOND)], "done");
    head.node("newly-failed", &[bad(SECOND, "old"), Try { millis: SECOND, failing: vec!["new", "newer"] }], "failed");
    base.node("fails-otherwise", &[Try { millis: SECOND, failing: vec!["kept", "gone"] }], "failed");
    head.node("fails-otherwise", &[Try { millis: SECOND, failing: vec!["kept", "new"] }], "failed");
    base.node("newly-blocked", &[good(SECOND)], "done");
    head.node("newly-blocked", &[], "blocked");
    base.node("fixed", &[bad(SECOND, "old")], "failed");
    head.node("fixed", &[good(SECOND)], "done");
    base.node("unblocked", &[], "blocked");
    head.node("unblocked", &[bad(SECOND, "old"), good(SECOND)], "done");
    base.node("flakier", &[good(9 * SECOND)], "done");
    head.node("flakier", &[bad(SECOND, "old"), good(SECOND)], "done");
    base.node("less-flaky", &[bad(SECOND, "old"), good(SECOND)], "done");
    head.node("less-flaky", &[good(3 * SECOND)], "done");
    base.node("not-over", &[good(SECOND)], "done");
    head.node("not-over", &[bad(SECOND, "old")], "running");
    base.node("removed", &[good(SECOND)], "done");
    head.node("added", &[bad(SECOND, "old")], "failed");
    base.graph = Some(graph(&[("removed", &["true"]), ("other-checks", &["true"]), ("newly-blocked", &["true"])]));
    head.graph =
        Some(graph(&[("newly-blocked", &["true"]), ("added", &["true"]), ("other-checks", &["true", "false"])]));
    base.end_ci("clean_with_flake", 700.0);
    // Without a graph and without an end; and the same again.
    let mut third = head.clone();
    third.run_id = "after-without-graph".into();
    third.graph = None;
    third.events.iter_mut().for_each(|event| event["run_id"] = json!("after-without-graph"));
    head.end_ci("partial", 900.0);
    vec![base, head, third]
}
