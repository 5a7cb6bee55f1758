//! Every row of "What is malformed" for an archive, and torn files.

use kahn::domain::{Ledger, Problem};

use super::*;

#[tokio::test]
async fn each_malformed_line_is_skipped_and_accounted_for() {
    let run = "r1";
    let good = lines(run, 3);
    let deep = line(run, "heartbeat", &format!(r#","x":{}{}"#, "[".repeat(64), "]".repeat(64)));
    let deepest = line(run, "heartbeat", &format!(r#","x":{}{}"#, "[".repeat(63), "]".repeat(63)));
    let unknown = line(run, "moon_phase", r#","phase":"full""#);
    let long = line(run, "heartbeat", &format!(r#","x":"{}""#, "x".repeat(1024 * 1024)));
    let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
        (good[0].clone().into_bytes(), None),
        (b"".to_vec(), Some("empty line")),
        (b"{\"ts\":\"\xff\"}".to_vec(), Some("not UTF-8 at byte 8")),
        (b"{nonsense".to_vec(), Some("not JSON: key must be a string at column 2")),
        (b"[1]".to_vec(), Some("not an object")),
        (deep.into_bytes(), Some("nested deeper than 64")),
        (deepest.clone().into_bytes(), None),
        (good[1].replace('}', r#","event":"run_end"}"#).into_bytes(), Some("duplicate field: event")),
        (good[1].replace("10:00:00.000Z", "10:00:00Z").into_bytes(), Some("no valid ts")),
        (good[1].replace(r#""r1""#, r#""../r1""#).into_bytes(), Some("no valid run_id")),
        (good[1].replace(r#""heartbeat""#, "7").into_bytes(), Some("no valid event")),
        (line(run, "run_start", "").into_bytes(), Some("run_start: missing field `total_nodes` at column 67")),
        (
            line(run, "run_start", r#","total_nodes":"2""#).into_bytes(),
            Some("run_start: invalid type: string \"2\", expected u64 at column 84"),
        ),
        (unknown.clone().into_bytes(), None),
        (long.into_bytes(), Some("line over 1 MiB")),
        (beat("r2", 1).into_bytes(), Some("run_id differs from the folder's")),
        (vec![0; 4096], Some("NUL byte")),
        ([good[1].as_bytes(), b"\r"].concat(), None),
        (good[2].clone().into_bytes(), None),
    ];
    let home = Home::new();
    let mut log = b"\xEF\xBB\xBF".to_vec();
    for (line, _) in &cases {
        log.extend_from_slice(line);
        log.push(b'\n');
    }
    log.extend_from_slice(br#"{"ts":"2026-04-24T10:"#);
    home.put_log(run, &log);
    let served = home.open().await;

    let wanted: Vec<(u64, &str)> = (1..).zip(&cases).filter_map(|(n, (_, reason))| reason.map(|r| (n, r))).collect();
    let problems = served.problems(run).await;
    let got: Vec<(u64, &str)> =
        problems.items.iter().map(|problem| (problem.line.unwrap(), problem.reason.as_str())).collect();
    assert_eq!(got, wanted);
    let (all, skipped) = (cases.len() as u64, wanted.len() as u64);
    assert_eq!(problems.ledger, Ledger { lines: all + 1, kept: all - skipped, skipped, pending: 1, unknown: 1 });
    let kept = served.kept(run).await.unwrap();
    assert_eq!(kept, [good[0].clone(), deepest, unknown, good[1].clone(), good[2].clone()]);
}

#[tokio::test]
async fn more_problems_than_an_answer_lists_are_still_counted() {
    let home = Home::new();
    home.put_log("r1", format!("{}\n{}", start("r1"), "x\n".repeat(1500)));
    home.put("r1", "graph.json", "[]");
    let problems = home.open().await.problems("r1").await;
    assert_eq!((problems.items.len(), problems.truncated, problems.ledger.skipped), (1000, true, 1500));
    assert_eq!((problems.items[0].line, problems.items[1].line), (None, Some(2)));
}

#[tokio::test]
async fn an_archive_torn_at_any_byte_loses_no_whole_line() {
    let home = Home::new();
    let whole = |run: &str| text(&lines(run, 4));
    let count = whole("t0000").len();
    let name = |cut: usize| format!("t{cut:04}");
    for cut in 0..=count {
        home.put_log(&name(cut), &whole(&name(cut))[..cut]);
    }
    let served = home.open().await;
    for cut in 0..=count {
        let run = name(cut);
        let torn = whole(&run)[..cut].to_owned();
        let ends = torn.matches('\n').count();
        let kept = served.kept(&run).await.unwrap_or_default();
        assert_eq!(kept, lines(&run, 4)[..ends], "cut at {cut}");
        if ends > 0 {
            let pending = u64::from(!torn.ends_with('\n'));
            let ledger = served.problems(&run).await.ledger;
            let wanted = Ledger { lines: ends as u64 + pending, kept: ends as u64, pending, ..Ledger::default() };
            assert_eq!(ledger, wanted, "cut at {cut}");
        }
        home.add(&run, &whole(&run)[cut..]);
    }
    for cut in 0..=count {
        served.until_kept(&name(cut), &lines(&name(cut), 4)).await;
        assert_eq!(served.problems(&name(cut)).await.ledger, Ledger { lines: 4, kept: 4, ..Ledger::default() });
    }
}

#[tokio::test]
async fn a_malformed_graph_counts_as_absent_and_is_told() {
    let home = Home::new();
    home.put_log("r1", text(&lines("r1", 1)));
    home.put("r1", "graph.json", "{\"version\":1,");
    home.put("only-bad-graph", "graph.json", "nonsense");
    home.put("only-graph", "graph.json", GRAPH);
    let served = home.open().await;
    let store = &served.backend.store;
    assert_eq!(served.list(&everything()).await, ["r1", "only-graph"]);
    assert!(store.graph(&served.who, &id("r1")).await.unwrap().unwrap().is_none());
    assert!(store.graph(&served.who, &id("only-bad-graph")).await.unwrap().is_none());
    let Problem { line, reason } = served.problems("r1").await.items.remove(0);
    assert!(line.is_none() && reason.starts_with("graph.json is not one JSON object"), "{reason}");

    home.put("r1", "graph.json", GRAPH);
    served.until("the graph", || async { store.graph(&served.who, &id("r1")).await.unwrap().unwrap().is_some() }).await;
    assert_eq!(served.problems("r1").await.items, []);
    let loaded = store.load(&served.who, &id("r1")).await.unwrap().unwrap();
    assert_eq!(loaded.graph.unwrap().nodes.len(), 1);
    let file = store.graph(&served.who, &id("r1")).await.unwrap().unwrap().unwrap();
    assert_eq!((&file.bytes[..], Some(file.sha256)), (GRAPH.as_bytes(), loaded.summary.graph_sha256.clone()));

    std::fs::write(home.run("r1").join("graph.json"), " ".repeat(8 * 1024 * 1024) + "{}").unwrap();
    // It may be looked at half written, and is another fault then.
    let is_told = || async {
        let items = served.problems("r1").await.items;
        items.first().is_some_and(|problem| problem.reason == "graph.json is over 8 MiB")
    };
    served.until("the fault", is_told).await;
    assert!(store.graph(&served.who, &id("r1")).await.unwrap().unwrap().is_none());
}
