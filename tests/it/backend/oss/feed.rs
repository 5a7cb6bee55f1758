//! Logs that change under a live client, as files do. If these fail, it shows lines that are not in the log.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::feed::{Mirror, Socket, block_on};
use crate::support::Server;

struct Archive {
    folder: tempfile::TempDir,
}

impl Archive {
    fn new() -> (Self, Server) {
        let archive = Self::unserved();
        let server = archive.serve();
        (archive, server)
    }

    fn unserved() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("archive/runs/r")).expect("a run");
        Self { folder }
    }

    fn serve(&self) -> Server {
        Server::start(&["serve", "--bind", "127.0.0.1:0", "--archive", &self.root().display().to_string()], &[])
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn log(&self) -> PathBuf {
        self.root().join("runs/r/transitions.jsonl")
    }

    fn add(&self, bytes: &[u8]) {
        let mut log = fs::File::options().create(true).append(true).open(self.log()).expect("the log");
        log.write_all(bytes).expect("written");
    }

    /// Puts another log in its place, as an editor would.
    fn replace(&self, lines: &[String]) {
        let draft = self.folder.path().join("draft");
        fs::write(&draft, text(lines)).expect("written");
        fs::rename(draft, self.log()).expect("renamed");
    }
}

fn lines(name: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers
        .map(|n| {
            let event = if n == 0 { r#""run_start","total_nodes":1"# } else { r#""heartbeat""# };
            format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":{event},"of":"{name}","n":{n}}}"#)
        })
        .collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

async fn follow(archive: &Archive, server: &Server, first: &[String]) -> Mirror {
    archive.replace(first);
    follow_known(server, first).await
}

async fn follow_known(server: &Server, first: &[String]) -> Mirror {
    // The run is known once a list shows it.
    crate::support::wait_for("the run", || {
        let list = crate::support::request(&server.url, ("GET", "/api/runs"), &[], None).json();
        (list["items"][0]["next_seq"] == first.len()).then_some(())
    });
    let mut mirror = Mirror::of(Socket::open_at(&server.url, None).await, "r").await;
    mirror.until(first).await;
    mirror
}

#[test]
fn a_torn_line_is_told_when_it_is_whole() {
    let (archive, server) = Archive::new();
    block_on(async {
        let all = lines("a", 0..4);
        let mut mirror = follow(&archive, &server, &all[..2]).await;
        let (head, tail) = all[2].split_at(40);
        archive.add(head.as_bytes());
        mirror.socket.is_quiet().await;
        archive.add(format!("{tail}\nno event\n{}\n", all[3]).as_bytes());
        mirror.until(&all).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (0, vec![]));
    });
}

#[test]
fn another_log_is_told_from_its_start() {
    let (archive, server) = Archive::new();
    block_on(async {
        let mut mirror = follow(&archive, &server, &lines("a", 0..5)).await;
        // Longer, shorter, and cut within itself.
        for (number, next) in [lines("b", 0..9), lines("c", 0..3), lines("d", 0..5)].iter().enumerate() {
            archive.replace(next);
            mirror.until(next).await;
            assert_eq!(mirror.resets, number + 1);
        }
        let cut = lines("d", 0..2);
        fs::File::options()
            .write(true)
            .open(archive.log())
            .expect("the log")
            .set_len(text(&cut).len() as u64)
            .expect("cut");
        mirror.until(&cut).await;
        assert_eq!(mirror.resets, 4);
        // It goes on behind the cut.
        archive.add(text(&lines("e", 2..4)).as_bytes());
        mirror.until(&[cut, lines("e", 2..4)].concat()).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (4, vec![]));
    });
}

/// Lines of one log up to a seq, then lines of another one.
fn rewritten(from: usize, to: usize, name: &str) -> Vec<String> {
    [lines("a", 0..from), lines(name, from..to)].concat()
}

#[test]
fn a_log_that_begins_with_the_same_line_is_told_from_its_start() {
    let (archive, server) = Archive::new();
    block_on(async {
        let mut mirror = follow(&archive, &server, &lines("a", 0..2)).await;
        let log_id = mirror.log_id.clone();
        // Longer, as long, and with lines that stayed behind one that did not.
        let middle = [lines("a", 0..1), lines("d", 1..2), lines("c", 2..3)].concat();
        for (number, next) in [rewritten(1, 3, "b"), rewritten(1, 3, "c"), middle].iter().enumerate() {
            archive.replace(next);
            mirror.until(next).await;
            assert_eq!(mirror.resets, number + 1);
        }
        archive.add(text(&lines("d", 3..4)).as_bytes());
        mirror.until(&[lines("a", 0..1), lines("d", 1..2), lines("c", 2..3), lines("d", 3..4)].concat()).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.log_id, mirror.resets, mirror.errors), (log_id, 3, vec![]));
    });
}

#[test]
fn a_log_that_is_cut_and_written_again_is_told_from_its_start() {
    let (archive, server) = Archive::new();
    block_on(async {
        // It keeps the run in the list while its log is empty.
        fs::write(archive.root().join("runs/r/graph.json"), r#"{"version":1,"nodes":[]}"#).expect("a graph");
        let mut mirror = follow(&archive, &server, &lines("a", 0..3)).await;
        let log_id = mirror.log_id.clone();
        for (number, next) in [rewritten(1, 5, "b"), rewritten(2, 5, "c")].iter().enumerate() {
            // It is the same file all along.
            fs::write(archive.log(), text(next)).expect("written");
            mirror.until(next).await;
            assert_eq!(mirror.resets, number + 1);
        }
        archive.add(text(&lines("c", 5..6)).as_bytes());
        mirror.until(&rewritten(2, 6, "c")).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.log_id, mirror.resets, mirror.errors), (log_id, 2, vec![]));
    });
}

/// A tool that mirrors an archive puts another file with the same lines and more in a log's place.
#[test]
fn a_log_in_another_file_is_gone_on_with() {
    let (archive, server) = Archive::new();
    block_on(async {
        let mut mirror = follow(&archive, &server, &lines("a", 0..3)).await;
        for count in 4..8 {
            archive.replace(&lines("a", 0..count));
            mirror.until(&lines("a", 0..count)).await;
        }
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (0, vec![]));
    });
}

/// A run that has ended, whose last line is longer than the bytes that are compared to know a log again.
fn ended(name: &str) -> Vec<String> {
    let tail = "x".repeat(2000);
    let end = format!(
        r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_end","outcome":"stuck","done":0,"failed":0,"blocked":0,"total_duration_s":1,"tail":"{tail}"}}"#
    );
    [lines("a", 0..1), lines(name, 1..3), vec![end]].concat()
}

/// The state of a run that has ended is not held until somebody asks for it, and made anew then.
#[test]
fn a_state_that_is_folded_again_is_no_other_log() {
    let archive = Archive::unserved();
    archive.replace(&ended("a"));
    // The first server reads the log, the second one finds it in index.json.
    for _ in 0..2 {
        let server = archive.serve();
        block_on(async {
            let known = fs::read_to_string(archive.log()).expect("the log").lines().count();
            let all = [ended("a"), lines("a", 4..9)].concat();
            let mut mirror = follow_known(&server, &all[..known]).await;
            // It is read anew because it has grown and because its state is wanted, then only read on.
            for (at, seq) in (known..known + 2).enumerate() {
                archive.add(text(&lines("a", seq..seq + 1)).as_bytes());
                mirror.until(&all[..=seq]).await;
                if at == 0 {
                    let state = crate::support::request(&server.url, ("GET", "/api/runs/r"), &[], None);
                    assert_eq!(state.json()["next_seq"], seq + 1, "{}", state.text());
                }
            }
            mirror.socket.is_quiet().await;
            assert_eq!((mirror.resets, mirror.errors), (0, vec![]));
        });
        assert_eq!(server.terminate(), Some(0));
    }
    assert!(archive.root().join("index.json").exists());
}

#[test]
fn a_log_that_changes_while_its_state_is_not_held_is_told_from_its_start() {
    let archive = Archive::unserved();
    archive.replace(&ended("a"));
    for again in [false, true] {
        let server = archive.serve();
        block_on(async {
            let (first, second, third) = if again { ("c", "d", "e") } else { ("a", "b", "c") };
            let mut mirror = follow_known(&server, &ended(first)).await;
            // Its ends and its size stay.
            archive.replace(&ended(second));
            mirror.until(&ended(second)).await;
            assert_eq!(mirror.resets, 1);
            let log = fs::File::options().write(true).open(archive.log()).expect("the log");
            std::os::unix::fs::FileExt::write_all_at(&log, text(&ended(third)).as_bytes(), 0).expect("written");
            mirror.until(&ended(third)).await;
            mirror.socket.is_quiet().await;
            assert_eq!((mirror.resets, mirror.errors), (2, vec![]));
        });
        assert_eq!(server.terminate(), Some(0));
    }
}

#[test]
fn a_log_that_is_emptied_is_told_and_so_is_what_comes_then() {
    let (archive, server) = Archive::new();
    block_on(async {
        fs::write(archive.root().join("runs/r/graph.json"), r#"{"version":1,"nodes":[]}"#).expect("a graph");
        let mut mirror = follow(&archive, &server, &lines("a", 0..3)).await;
        fs::File::options().write(true).open(archive.log()).expect("the log").set_len(0).expect("cut");
        while mirror.resets == 0 {
            mirror.take().await;
        }
        assert!(mirror.log_id.is_null());
        archive.add(text(&lines("b", 0..2)).as_bytes());
        mirror.until(&lines("b", 0..2)).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (1, vec![]));
    });
}

#[test]
fn a_run_that_goes_away_and_comes_back_is_gone_on_with() {
    let (archive, server) = Archive::new();
    block_on(async {
        let first = lines("a", 0..3);
        let mut mirror = follow(&archive, &server, &first).await;
        let (run, aside) = (archive.root().join("runs/r"), archive.folder.path().join("aside"));
        let away = async |mirror: &mut Mirror, told: usize| {
            while mirror.errors.len() < told {
                mirror.take().await;
            }
        };
        fs::rename(&run, &aside).expect("renamed");
        away(&mut mirror, 1).await;
        fs::rename(&aside, &run).expect("renamed");
        archive.add(text(&lines("a", 3..4)).as_bytes());
        mirror.until(&lines("a", 0..4)).await;
        assert_eq!(mirror.resets, 0, "it is the same log");
        // Another log comes in its place.
        fs::remove_dir_all(&run).expect("removed");
        away(&mut mirror, 2).await;
        fs::create_dir(&run).expect("a run");
        archive.add(text(&lines("b", 0..6)).as_bytes());
        mirror.until(&lines("b", 0..6)).await;
        assert_eq!(mirror.resets, 1);
        // And one that begins like it.
        fs::remove_dir_all(&run).expect("removed");
        away(&mut mirror, 3).await;
        let last = [lines("b", 0..1), lines("c", 1..9)].concat();
        fs::create_dir(&run).expect("a run");
        archive.add(text(&last).as_bytes());
        mirror.until(&last).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (2, vec!["unknown_run".to_owned(); 3]));
    });
}

#[test]
fn what_kahn_keeps_for_itself_may_go_at_any_time() {
    let (archive, server) = Archive::new();
    block_on(async {
        let mut mirror = follow(&archive, &server, &lines("a", 0..3)).await;
        let kept: Vec<_> =
            fs::read_dir(archive.root()).expect("the archive").map(|entry| entry.expect("an entry").path()).collect();
        kept.iter().filter(|path| path.is_file()).for_each(|path| remove(path));
        archive.add(text(&lines("a", 3..5)).as_bytes());
        mirror.until(&lines("a", 0..5)).await;
        mirror.socket.is_quiet().await;
        assert_eq!((mirror.resets, mirror.errors), (0, vec![]));
    });
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("removed");
}

#[test]
fn a_run_that_is_deleted_leaves_the_list() {
    let (archive, server) = Archive::new();
    block_on(async {
        let _ = follow(&archive, &server, &lines("a", 0..3)).await;
        let mut socket = Socket::open_at(&server.url, None).await;
        socket.say(json!({"type": "subscribe_runs"})).await;
        assert_eq!(socket.any().await["type"], "heartbeat");
        fs::remove_dir_all(archive.root().join("runs/r")).expect("removed");
        assert_eq!(socket.next().await, json!({"type": "run_removed", "run_id": "r"}));
        socket.is_quiet().await;
    });
}

#[test]
fn a_killed_server_tells_the_new_log_after_it_came_back() {
    let (archive, mut server) = Archive::new();
    block_on(async {
        let mut mirror = follow(&archive, &server, &lines("a", 0..3)).await;
        mirror.socket.is_quiet().await;
        let log_id = mirror.log_id.clone();
        server.kill();
        archive.replace(&lines("b", 0..7));
        let server = server.again();
        let mut socket = Socket::open_at(&server.url, None).await;
        socket.say(json!({"type": "subscribe", "run_id": "r", "log_id": log_id, "from_seq": 3})).await;
        let reset = socket.next().await;
        assert_eq!((&reset["type"], &reset["run_id"]), (&json!("reset"), &json!("r")));
        let told: Vec<String> = socket.events(7).await.into_iter().map(|(_, line)| line).collect();
        assert_eq!(told, lines("b", 0..7));
        socket.is_quiet().await;
    });
}
