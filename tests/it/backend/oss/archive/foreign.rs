//! What is not kahn's: links, FIFOs and devices are not opened, other programs' runs are not written.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

#[tokio::test]
async fn links_fifos_and_devices_are_not_opened() {
    let home = Home::new();
    home.put_log("real", text(&lines("real", 2)));
    let outside = home.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    for name in ["transitions.jsonl", "graph.json"] {
        let bytes = if name == "graph.json" { GRAPH.to_owned() } else { text(&lines("linked", 2)) };
        std::fs::write(outside.join(name), bytes).unwrap();
    }
    symlink(&outside, home.run("linked")).unwrap();
    for (run, name) in [("log-link", "transitions.jsonl"), ("graph-link", "graph.json")] {
        std::fs::create_dir(home.run(run)).unwrap();
        symlink(outside.join(name), home.run(run).join(name)).unwrap();
    }
    std::fs::create_dir(home.run("zero")).unwrap();
    symlink("/dev/zero", home.log("zero")).unwrap();
    std::fs::create_dir(home.run("fifo")).unwrap();
    assert!(Command::new("mkfifo").arg(home.log("fifo")).status().unwrap().success());
    home.put("folder", "graph.json", GRAPH);
    std::fs::create_dir(home.log("folder")).unwrap();
    std::fs::write(home.archive().join("runs/file"), "").unwrap();
    home.put_log("bad name", text(&lines("r1", 1)));

    let served = home.open().await;
    assert_eq!(served.list(&everything()).await, ["real", "folder"]);
    for hidden in ["linked", "log-link", "graph-link", "zero", "fifo"] {
        assert_eq!(served.kept(hidden).await, None, "{hidden}");
    }
    let problems = served.problems("folder").await;
    assert_eq!(problems.items[0].reason, "transitions.jsonl is a link or no file; it is not opened");

    // A link that takes the place of what was served hides it.
    std::fs::rename(home.log("real"), outside.join("moved")).unwrap();
    symlink(outside.join("moved"), home.log("real")).unwrap();
    served.until("the run to go", || async { served.kept("real").await.is_none() }).await;
}

#[tokio::test]
async fn ingest_does_not_follow_links_either() {
    let home = Home::new();
    let outside = home.folder.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("log"), "").unwrap();
    std::fs::create_dir_all(home.archive().join("runs")).unwrap();
    symlink(&outside, home.run("folder-link")).unwrap();
    home.put("log-link", ".kahn-writer", "");
    symlink(outside.join("log"), home.log("log-link")).unwrap();
    std::fs::create_dir(home.run("mark-link")).unwrap();
    symlink(outside.join("log"), home.run("mark-link").join(".kahn-writer")).unwrap();
    home.put("graph-link", ".kahn-writer", "");
    symlink(outside.join("log"), home.run("graph-link").join("graph.json")).unwrap();

    let before = contents(&outside);
    let served = home.open().await;
    for run in ["folder-link", "log-link", "mark-link"] {
        let answer = served.append(vec![part(run, 0, &lines(run, 2))]).await;
        assert!(matches!(answer, Err(StoreError::ForeignLog { .. })), "{run}: {answer:?}");
    }
    for run in ["folder-link", "mark-link"] {
        let answer = served.put_graph(run, GRAPH).await;
        assert!(matches!(answer, Err(StoreError::ForeignLog { .. })), "{run}: {answer:?}");
    }
    let answer = served.put_graph("graph-link", GRAPH).await;
    assert!(matches!(answer, Err(StoreError::GraphConflict { .. })), "{answer:?}");
    assert_eq!(contents(&outside), before);
}

#[tokio::test]
async fn another_programs_runs_are_not_written() {
    let home = Home::new();
    home.put_log("with-log", text(&lines("with-log", 2)));
    home.put("with-graph", "graph.json", GRAPH);
    home.put_log("with-both", text(&lines("with-both", 2)));
    home.put("with-both", "graph.json", GRAPH);
    let served = home.open().await;
    let before = contents(&home.archive());
    for run in ["with-log", "with-graph", "with-both"] {
        // Whatever the batch: new lines, the same lines, a gap, another line.
        let other = vec![line(run, "run_start", r#","total_nodes":9"#)];
        for batch in [
            part(run, 0, &lines(run, 3)),
            part(run, 0, &lines(run, 2)),
            part(run, 9, &lines(run, 1)),
            part(run, 0, &other),
        ] {
            let own = part("mine", 0, &lines("mine", 1));
            let answer = served.append(vec![own, batch]).await;
            assert!(
                matches!(answer, Err(StoreError::ForeignLog { ref run_id }) if *run_id == id(run)),
                "{run}: {answer:?}"
            );
        }
    }
    assert!(matches!(served.put_graph("with-log", GRAPH).await, Err(StoreError::ForeignLog { .. })));
    for run in ["with-graph", "with-both"] {
        assert!(matches!(served.put_graph(run, "{}").await, Err(StoreError::ForeignLog { .. })));
        assert_eq!(served.put_graph(run, GRAPH).await.unwrap(), GraphPut::Same);
    }
    assert_eq!(contents(&home.archive()), before, "nothing of all this leaves a trace");
}

#[tokio::test]
async fn a_fixture_is_strictly_read_only() {
    let home = Home::new();
    home.put_log("r1", text(&lines("r1", 2)));
    home.put("r1", ".kahn-writer", "");
    home.put("r1", "graph.json", GRAPH);
    let before = contents(&home.archive());
    let served = Served::open(&["--fixture-dir", home.archive().to_str().unwrap()]).await.unwrap();
    assert!(served.backend.read_only);
    assert_eq!(served.kept("r1").await.unwrap(), lines("r1", 2));
    for batch in [part("r1", 0, &lines("r1", 3)), part("r1", 0, &lines("r1", 2)), part("new", 0, &lines("new", 1))] {
        assert!(matches!(served.append(vec![batch]).await, Err(StoreError::ReadOnly)));
    }
    assert!(matches!(served.put_graph("r1", GRAPH).await, Err(StoreError::ReadOnly)));
    assert_eq!(contents(&home.archive()), before);
}

#[tokio::test]
async fn a_second_server_on_the_archive_serves_it_read_only() {
    let home = Home::new();
    home.put_log("r1", text(&lines("r1", 1)));
    let first = home.open().await;
    let second = home.open().await;
    assert!(!first.backend.read_only && second.backend.read_only);
    assert!(matches!(second.append(vec![part("r2", 0, &lines("r2", 1))]).await, Err(StoreError::ReadOnly)));
    first.append(vec![part("r2", 0, &lines("r2", 1))]).await.unwrap();
    second.until_kept("r2", &lines("r2", 1)).await;

    // Where the archive was missing when both began, the first to write has it.
    let home = Home::new();
    let (first, second) = (home.open().await, home.open().await);
    second.append(vec![part("r2", 0, &lines("r2", 1))]).await.unwrap();
    assert!(matches!(first.append(vec![part("r2", 1, &[beat("r2", 1)])]).await, Err(StoreError::ReadOnly)));
}
