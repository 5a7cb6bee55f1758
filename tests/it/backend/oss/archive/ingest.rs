//! Ingest into the archive: aligned by content, exactly once, never rewriting.

use kahn::domain::Ledger;

use super::*;

#[tokio::test]
async fn a_new_run_is_marked_and_its_log_holds_the_lines() {
    let home = Home::new();
    let served = home.open().await;
    let all = lines("r1", 5);
    let appended = served.append(vec![part("r1", 0, &all[..3])]).await.unwrap();
    assert_eq!((appended.accepted, appended.duplicates, appended.runs[&id("r1")].next_seq), (3, 0, 3));
    let appended = served.append(vec![part("r1", 1, &all[1..])]).await.unwrap();
    assert_eq!((appended.accepted, appended.duplicates, appended.runs[&id("r1")].next_seq), (2, 2, 5));
    assert_eq!(served.kept("r1").await.unwrap(), all);
    let names: Vec<_> = contents(&home.archive())
        .into_iter()
        .map(|(path, bytes)| (path.strip_prefix(home.archive()).unwrap().display().to_string(), bytes.len()))
        .collect();
    let size = text(&all).len();
    assert_eq!(
        names,
        [
            ("runs".into(), 0),
            ("runs/r1".into(), 0),
            ("runs/r1/.kahn-writer".into(), 0),
            ("runs/r1/transitions.jsonl".into(), size)
        ]
    );
    assert_eq!(std::fs::read_to_string(home.log("r1")).unwrap(), text(&all));
}

#[tokio::test]
async fn the_same_batch_again_changes_nothing_and_what_does_not_fit_is_refused() {
    let home = Home::new();
    let served = home.open().await;
    let all = lines("r1", 2000);
    served.append(vec![part("r1", 0, &all)]).await.unwrap();
    let before = contents(&home.archive());

    let again = served.append(vec![part("r1", 0, &all)]).await.unwrap();
    assert_eq!((again.accepted, again.duplicates), (0, 2000));
    let inside = served.append(vec![part("r1", 700, &all[700..900])]).await.unwrap();
    assert_eq!((inside.accepted, inside.duplicates, inside.runs[&id("r1")].next_seq), (0, 200, 2000));

    let gap = served.append(vec![part("r1", 2001, &[beat("r1", 2001)])]).await;
    assert!(matches!(gap, Err(StoreError::Gap { next_seq: 2000, .. })), "{gap:?}");
    let gap = served.append(vec![part("never-seen", 3, &[beat("never-seen", 3)])]).await;
    assert!(matches!(gap, Err(StoreError::Gap { next_seq: 0, .. })), "{gap:?}");
    let mut other = all.clone();
    other[1234] = beat("r1", 9999);
    other.push(beat("r1", 2000));
    let conflict = served.append(vec![part("r1", 0, &other)]).await;
    assert!(matches!(conflict, Err(StoreError::Conflict { seq: 1234, .. })), "{conflict:?}");

    // All of a batch or nothing, and the first part that does not fit gives the error.
    let batch = vec![part("z", 0, &lines("z", 1)), part("r1", 5, &other[1230..]), part("a", 7, &lines("a", 1))];
    assert!(matches!(served.append(batch).await, Err(StoreError::Conflict { seq: 5, .. })));
    assert_eq!(contents(&home.archive()), before, "no refused batch leaves a trace");
}

#[tokio::test]
async fn a_batch_may_carry_several_runs() {
    let home = Home::new();
    let served = home.open().await;
    let runs = ["m", "b", "z", "a"];
    let batch = |count| runs.iter().map(|run| part(run, 0, &lines(run, count))).collect::<Vec<_>>();
    assert_eq!(served.append(batch(2)).await.unwrap().accepted, 8);
    let grown = served.append(batch(3)).await.unwrap();
    assert_eq!((grown.accepted, grown.duplicates, grown.runs.len()), (4, 8, 4));
    for run in runs {
        assert_eq!(served.kept(run).await.unwrap(), lines(run, 3));
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_taken_up() {
    let home = Home::new();
    let all = lines("r", 4).iter().map(|line| line.replace("\"r\"", "RUN")).collect::<Vec<_>>();
    let of = |run: &str| all.iter().map(|line| line.replace("RUN", &format!("\"{run}\""))).collect::<Vec<_>>();
    // Killed after mkdir; after the mark; after an empty log; within a line; before a line's newline; with a graph half made.
    std::fs::create_dir_all(home.run("empty")).unwrap();
    for run in ["marked", "no-lines", "torn", "no-newline", "half-graph"] {
        home.put(run, ".kahn-writer", "");
    }
    home.put_log("no-lines", "");
    home.put_log("torn", text(&of("torn")[..2]) + &of("torn")[2][..30]);
    home.put_log("no-newline", text(&of("no-newline")[..2]) + &of("no-newline")[2]);
    home.put("half-graph", ".graph.json.kahn-new", "{\"vers");
    let served = home.open().await;
    assert_eq!(served.next_seq("torn").await, Some(2));
    for (run, accepted) in
        [("empty", 4), ("marked", 4), ("no-lines", 4), ("torn", 2), ("no-newline", 1), ("half-graph", 4)]
    {
        let before = std::fs::read(home.log(run)).unwrap_or_default();
        let appended = served.append(vec![part(run, 0, &of(run))]).await.unwrap();
        assert_eq!((appended.accepted, appended.duplicates), (accepted, 4 - accepted), "{run}");
        assert_eq!(served.kept(run).await.unwrap(), of(run), "{run}");
        assert!(std::fs::read(home.log(run)).unwrap().starts_with(&before), "{run} was rewritten");
        assert!(home.run(run).join(".kahn-writer").is_file());
    }
    assert_eq!(served.problems("torn").await.ledger, Ledger { lines: 5, kept: 4, skipped: 1, ..Ledger::default() });
    assert_eq!(served.put_graph("half-graph", GRAPH).await.unwrap(), GraphPut::Created);
    assert!(!home.run("half-graph").join(".graph.json.kahn-new").exists());
}

#[tokio::test]
async fn a_graph_is_written_once() {
    let home = Home::new();
    let served = home.open().await;
    assert_eq!(served.put_graph("r1", GRAPH).await.unwrap(), GraphPut::Created);
    assert_eq!(served.put_graph("r1", GRAPH).await.unwrap(), GraphPut::Same);
    assert!(matches!(served.put_graph("r1", "{}").await, Err(StoreError::GraphConflict { .. })));
    assert_eq!(served.list(&everything()).await, ["r1"]);
    // The run is kahn's now: its log may follow.
    served.append(vec![part("r1", 0, &lines("r1", 2))]).await.unwrap();
    let loaded = served.backend.store.load(&served.who, &id("r1")).await.unwrap().unwrap();
    assert_eq!((loaded.summary.next_seq, loaded.graph.unwrap().nodes.len()), (2, 1));
    let mut names: Vec<_> =
        std::fs::read_dir(home.run("r1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".kahn-writer", "graph.json", "transitions.jsonl"]);
}

#[tokio::test]
async fn concurrent_appends_of_the_same_batch_are_exact() {
    let home = Home::new();
    let served = std::sync::Arc::new(home.open().await);
    for round in 0..5_usize {
        let tasks: Vec<_> = (0..16)
            .map(|at| {
                let served = std::sync::Arc::clone(&served);
                tokio::spawn(async move {
                    // Two runs in either order: locks that were taken as they come would wait in a circle.
                    let mut batch: Vec<_> = ["x", "y"].map(|run| part(run, 0, &lines(run, (round + 1) * 20))).into();
                    if at % 2 == 1 {
                        batch.reverse();
                    }
                    served.append(batch).await.unwrap()
                })
            })
            .collect();
        let (mut accepted, mut duplicates) = (0, 0);
        for task in tasks {
            let appended = task.await.unwrap();
            accepted += appended.accepted;
            duplicates += appended.duplicates;
        }
        assert_eq!((accepted, accepted + duplicates), (40, 16 * 40 * (round as u64 + 1)), "round {round}");
    }
    for run in ["x", "y"] {
        assert_eq!(std::fs::read_to_string(home.log(run)).unwrap(), text(&lines(run, 100)));
        assert_eq!(served.kept(run).await.unwrap(), lines(run, 100));
    }
}
