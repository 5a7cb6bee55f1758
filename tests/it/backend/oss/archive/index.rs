//! index.json is a hint that may lie or vanish: it saves reading, and never changes an answer where the files are not as it
//! says.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use kahn::contract::Loaded;

use super::*;

/// A run with a graph and audits, so that its summary has something of everything.
fn rich(run: &str) -> String {
    let mut log = lines(run, 3);
    log.push(line(run, "node_transition", r#","node_id":"a","from":"ready","to":"running","attempt":1"#));
    log.push(line(
        run,
        "node_attempt",
        r#","node_id":"a","attempt":1,"duration_s":2.5,"converged":false,"done_when_results":[{"cmd":"x","rc":1,"duration_s":0.1}],"usage":{"cost_usd":0.1}"#,
    ));
    log.push(line(
        run,
        "audit_checkpoint",
        r#","agent_id":null,"checkpoint_id":"audit:x","result":"warn","duration_s":0.1"#,
    ));
    text(&log) + "nonsense\n" + "torn"
}

impl Home {
    fn index(&self) -> PathBuf {
        self.archive().join("index.json")
    }

    /// The index as a server leaves it that has served this archive.
    async fn indexed(&self) -> String {
        let served = self.open().await;
        // What came just now is looked at twice before it is trusted.
        let settled = || async {
            let everything = served.list(&everything()).await;
            !everything.is_empty()
        };
        served.until("the runs", settled).await;
        drop(served);
        std::fs::read_to_string(self.index()).unwrap()
    }

    /// Everything that answers show of these runs, by a server that writes nothing.
    async fn shown(&self, runs: &[&str]) -> Vec<(Option<u64>, String)> {
        let served = Served::open(&["--fixture-dir", self.archive().to_str().unwrap()]).await.unwrap();
        let mut shown = Vec::new();
        for run in runs {
            let listed = served.backend.store.summary(&served.who, &id(run)).await.unwrap();
            let problems = served.backend.store.problems(&served.who, &id(run)).await.unwrap();
            let lines = served.kept(run).await;
            let attempts = listed.as_ref().map(|summary| summary.total_attempts);
            shown.push((attempts, format!("{listed:?} {problems:?} {lines:?}")));
        }
        shown
    }
}

/// The line of a run, changed and with the checksum that it then has.
fn with_entry(index: &str, run: &str, change: impl Fn(&str) -> String) -> String {
    let (head, _) = index.split_once('\n').unwrap();
    let own = format!("\"run_id\":\"{run}\"");
    assert_eq!(index.lines().filter(|line| line.contains(&own)).count(), 1, "{run} stands in the index");
    let lines = index.lines().map(|line| {
        if !line.contains(&own) {
            return line.to_owned();
        }
        let comma = if line.ends_with(',') { "," } else { "" };
        let entry = line.trim_end_matches(',').strip_suffix(']').unwrap().split_once(',').unwrap().1;
        let changed = change(entry);
        assert_ne!(changed, entry, "{run}: nothing was changed");
        format!("[\"{:08x}\",{changed}]{comma}", crc32fast::hash(format!("{head}{changed}").as_bytes()))
    });
    lines.map(|line| line + "\n").collect()
}

/// A summary that no log gives: where it is shown, the index was believed.
fn lie(entry: &str) -> String {
    entry.replace(r#""total_attempts":1"#, r#""total_attempts":77"#)
}

/// If this fails, every start reads every log; and the other tests here see nothing.
#[tokio::test]
async fn what_the_index_says_is_believed_where_the_files_are_as_it_says() {
    let home = Home::new();
    for run in ["r1", "r2"] {
        home.put_log(run, rich(run));
        home.put(run, "graph.json", GRAPH);
    }
    home.put("only-graph", "graph.json", GRAPH);
    home.put_log("grows", text(&lines("grows", 2)));
    let truth = home.shown(&["r1", "r2", "only-graph", "grows"]).await;
    let index = home.indexed().await;
    assert!(serde_json::from_str::<serde_json::Value>(&index).is_ok(), "it is JSON");
    assert_eq!(index.lines().count(), 6, "{index}");
    assert_eq!(home.shown(&["r1", "r2", "only-graph", "grows"]).await, truth);
    std::fs::write(home.index(), with_entry(&index, "r1", lie)).unwrap();
    let served = home.open().await;
    let summary = |run: &'static str| {
        let served = &served;
        async move { served.backend.store.summary(&served.who, &id(run)).await.unwrap().unwrap() }
    };
    assert_eq!((summary("r1").await.total_attempts, summary("r2").await.total_attempts), (77, 1));
    // A run's page is folded from its log, and what lists show is mended then.
    let load = |run: &'static str| {
        let served = &served;
        async move { served.backend.store.load(&served.who, &id(run)).await.unwrap().unwrap() }
    };
    let Loaded { summary: loaded, state, graph } = load("r1").await;
    assert_eq!((loaded.total_attempts, state.next_seq, graph.unwrap().nodes.len()), (1, 6, 1));
    assert_eq!(summary("r1").await.total_attempts, 1);
    // A run that the index knows goes on where it stopped.
    home.add("grows", beat("grows", 2) + "\n");
    served.until_kept("grows", &lines("grows", 3)).await;
}

#[tokio::test]
async fn an_entry_that_differs_in_any_condition_is_not_believed() {
    let conditions: &[(&str, &str, &str)] = &[
        ("log-size", r#""log":{"size":"#, r#""log":{"size":1"#),
        ("log-inode", r#","inode":"#, r#","inode":1"#),
        ("log-seconds", r#","modified":["#, r#","modified":[1"#),
        ("log-null", r#""log":{"#, r#""log":null,"old":{"#),
        ("graph-size", r#""graph":{"size":"#, r#""graph":{"size":1"#),
        ("graph-inode", r#""graph":{"size":88,"inode":"#, r#""graph":{"size":88,"inode":1"#),
        ("graph-null", r#""graph":{"#, r#""graph":null,"old":{"#),
        ("first-line", r#""ends":{"first":["#, r#""ends":{"first":[1"#),
        ("last-line", r#","last":["#, r#","last":[1"#),
        ("offset", r#""offset":"#, r#""offset":9"#),
        ("edge", r#""edge":["#, r#""edge":[9"#),
        ("other-run", r#""run_id":"other-run""#, r#""run_id":"../run-x""#),
        ("missing", r#""ledger":"#, r#""leger":"#),
    ];
    let home = Home::new();
    for (run, _, _) in conditions {
        home.put_log(run, rich(run));
        home.put(run, "graph.json", GRAPH);
    }
    assert!(GRAPH.len() > 88);
    let runs: Vec<&str> = conditions.iter().map(|(run, _, _)| *run).collect();
    let truth = home.shown(&runs).await;
    let mut index = home.indexed().await;
    for (run, from, to) in conditions {
        let from = from.replace("88", &GRAPH.len().to_string());
        let to = to.replace("88", &GRAPH.len().to_string());
        // A number gets a digit more, a hash another number: 1 before it, unless that is no number of its kind.
        index = with_entry(&index, run, |entry| {
            assert!(entry.contains(&from), "{run}: {entry}");
            let changed = lie(entry).replacen(&from, &to, 1);
            // A byte of a hash is at most 255.
            if run.ends_with("-line") { other_hash(entry, &lie(entry), &from) } else { changed }
        });
    }
    std::fs::write(home.index(), &index).unwrap();
    for ((run, shown), truth) in runs.iter().zip(home.shown(&runs).await).zip(truth) {
        assert_eq!(shown, truth, "{run} was believed");
    }
}

/// The entry with another first number in the list behind `mark`.
fn other_hash(entry: &str, lie: &str, mark: &str) -> String {
    let at = entry.find(mark).unwrap() + mark.len();
    let number: String = entry[at..].chars().take_while(char::is_ascii_digit).collect();
    let other = (number.parse::<u8>().unwrap() ^ 1).to_string();
    lie.replacen(&format!("{mark}{number}"), &format!("{mark}{other}"), 1)
}

/// The same from the other side: the index tells what was so, and the files have changed, each in one way.
#[tokio::test]
async fn a_file_that_changed_while_no_server_ran_is_read() {
    let runs = [
        "grown",
        "cut",
        "replaced",
        "touched",
        "first-line",
        "last-line",
        "torn-tail",
        "gone",
        "linked",
        "graph-gone",
        "graph-other",
        "graph-same-size",
        "graph-new",
        "same",
    ];
    let home = Home::new();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let put = |run: &str, name: &str, bytes: &str| {
        // In place, and the clock is set back: the same inode and mtime.
        home.put(run, name, bytes);
        File::options().write(true).open(home.run(run).join(name)).unwrap().set_modified(old).unwrap();
    };
    for run in runs {
        put(run, "transitions.jsonl", &rich(run));
        if run != "graph-new" {
            put(run, "graph.json", GRAPH);
        }
    }
    let mut index = home.indexed().await;
    for run in runs {
        index = with_entry(&index, run, lie);
    }
    std::fs::write(home.index(), index).unwrap();
    let aside = |run: &str, name: &str, bytes: &str| {
        put(run, "aside", bytes);
        std::fs::rename(home.run(run).join("aside"), home.run(run).join(name)).unwrap();
    };
    home.add("grown", "\n");
    put("cut", "transitions.jsonl", &text(&lines("cut", 2)));
    aside("replaced", "transitions.jsonl", &rich("replaced"));
    File::options().write(true).open(home.log("touched")).unwrap().set_modified(old + Duration::from_nanos(1)).unwrap();
    put("first-line", "transitions.jsonl", &rich("first-line").replacen(r#""total_nodes":2"#, r#""total_nodes":3"#, 1));
    put("last-line", "transitions.jsonl", &rich("last-line").replace("\ntorn", "\nt\nrn"));
    put("torn-tail", "transitions.jsonl", &rich("torn-tail").replace("\ntorn", "\ntor\n"));
    std::fs::remove_dir_all(home.run("gone")).unwrap();
    std::fs::rename(home.log("linked"), home.folder.path().join("elsewhere")).unwrap();
    symlink(home.folder.path().join("elsewhere"), home.log("linked")).unwrap();
    std::fs::remove_file(home.run("graph-gone").join("graph.json")).unwrap();
    aside("graph-other", "graph.json", GRAPH);
    put("graph-same-size", "graph.json", &GRAPH.replace(r#""id":"a""#, r#""id":"b""#));
    put("graph-new", "graph.json", GRAPH);
    let shown = home.shown(&runs).await;
    std::fs::remove_file(home.index()).unwrap();
    let truth = home.shown(&runs).await;
    for ((run, shown), truth) in runs.iter().zip(shown).zip(truth) {
        // The contract's conditions do not see another graph of the same size, inode and time; nor that nothing changed.
        let believed = ["graph-same-size", "same"].contains(run);
        assert_eq!(shown.0 == Some(77), believed, "{run}: {shown:?}");
        assert!(believed || shown == truth, "{run}: {shown:?} is not {truth:?}");
    }
}

#[test]
fn an_index_that_is_cut_anywhere_or_damaged_anywhere_changes_no_answer() {
    // To stop a server takes a while in which nothing is computed: several do so at once, each over its own archive.
    const THREADS: usize = 12;
    let work = |thread: usize| async move {
        let home = Home::new();
        for run in ["r1", "r2"] {
            home.put_log(run, rich(run));
            home.put(run, "graph.json", GRAPH);
        }
        let truth = home.shown(&["r1", "r2"]).await;
        let index = home.indexed().await.into_bytes();
        // Some file systems write a file out at once that is cut and filled again.
        let put = |bytes: &[u8]| {
            std::fs::remove_file(home.index()).unwrap();
            std::fs::write(home.index(), bytes).unwrap();
        };
        for at in (thread..index.len()).step_by(THREADS) {
            put(&index[..at]);
            assert_eq!(home.shown(&["r1", "r2"]).await, truth, "cut at {at}");
            let mut damaged = index.clone();
            damaged[at] ^= 1 << (at % 8);
            put(&damaged);
            assert_eq!(home.shown(&["r1", "r2"]).await, truth, "damaged at {at}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work(thread))
            });
        }
    });
}

#[tokio::test]
async fn whatever_stands_under_the_name_of_the_index_the_archive_is_served() {
    let home = Home::new();
    home.put_log("r1", rich("r1"));
    let truth = home.shown(&["r1"]).await;
    let index = home.indexed().await;
    let lying = with_entry(&index, "r1", lie);
    let head = index.lines().next().unwrap();
    let other_versions = ["\"format\":2", "\"reducer\":2", "\"kahn\":\"0"].map(|part| {
        assert!(head.contains(part), "{head}");
        let other = head.replace(part, &part.replace(['2', '0'], "3"));
        // With a checksum that fits the head, so that the head alone says no.
        with_entry(&lying.replacen(head, &other, 1), "r1", |entry| entry.replace("77", "78"))
    });
    let junk = [
        String::new(),
        "\n".into(),
        "null".into(),
        "{}".into(),
        "\0".repeat(3 << 20),
        "[".repeat(1 << 20),
        format!("{head}\n{}", "x".repeat(3 << 20)),
        format!("{head}\n{}", "\n".repeat(1 << 20)),
        // Nobody's checksum.
        lie(&index),
    ];
    for junk in junk.into_iter().chain(other_versions) {
        std::fs::write(home.index(), &junk).unwrap();
        assert_eq!(home.shown(&["r1"]).await, truth, "{:.80}", junk);
    }
    let outside = home.folder.path().join("outside");
    std::fs::write(&outside, &lying).unwrap();
    type Make = fn(&Path, &Path);
    let makes: [Make; 3] = [
        |index, _| std::fs::create_dir(index).unwrap(),
        |index, _| assert!(std::process::Command::new("mkfifo").arg(index).status().unwrap().success()),
        |index, outside| symlink(outside, index).unwrap(),
    ];
    for make in makes {
        std::fs::remove_file(home.index()).or_else(|_| std::fs::remove_dir(home.index())).unwrap();
        make(&home.index(), &outside);
        assert_eq!(home.shown(&["r1"]).await, truth);
        // A server that may write does not write through it, and serves whether or not it can write.
        home.add("r1", "\n");
        let served = home.open().await;
        assert_eq!(served.next_seq("r1").await, Some(6));
        drop(served);
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), lying);
        home.put_log("r1", rich("r1"));
    }
}

#[tokio::test]
async fn the_index_is_written_by_the_server_that_writes_the_archive_and_by_no_other() {
    let home = Home::new();
    home.put_log("r1", rich("r1"));
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(home.archive())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    drop(Served::open(&["--fixture-dir", home.archive().to_str().unwrap()]).await.unwrap());
    assert_eq!(names(), ["runs"], "a fixture is not written");
    let first = home.open().await;
    assert_eq!(first.next_seq("r1").await, Some(6));
    let second = home.open().await;
    assert_eq!(second.next_seq("r1").await, Some(6));
    drop(second);
    assert_eq!(names(), ["runs"], "the second server does not write it");
    // What a killed server left half made is no hindrance.
    std::fs::write(home.archive().join(".index.json.kahn-new"), "{").unwrap();
    drop(first);
    assert_eq!(names(), ["index.json", "runs"]);
    let index = std::fs::read(home.index()).unwrap();
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = inode(&home.index());
    let unchanged = home.open().await;
    assert_eq!(unchanged.next_seq("r1").await, Some(6));
    drop(unchanged);
    assert_eq!(inode(&home.index()), before, "what is known is not written again");
    // It may be deleted at any time.
    let served = home.open().await;
    std::fs::remove_file(home.index()).unwrap();
    home.add("r1", format!("\n{}\n", beat("r1", 9)));
    served.until("the line", || async { served.next_seq("r1").await == Some(7) }).await;
    drop(served);
    assert_ne!(std::fs::read(home.index()).unwrap(), index);
    assert_eq!(home.shown(&["r1"]).await[0].0, Some(1));
}
