//! The tail reader notices what happens to files, and shows a log as it is.

use std::os::unix::fs::MetadataExt;

use super::*;

#[tokio::test]
async fn appended_lines_and_new_runs_appear() {
    let home = Home::new();
    home.put_log("r1", text(&lines("r1", 1)));
    let served = home.open().await;
    for count in 2..6 {
        home.add("r1", beat("r1", count - 1) + "\n");
        served.until_kept("r1", &lines("r1", count)).await;
    }
    home.put_log("r2", text(&lines("r2", 3)));
    served.until_kept("r2", &lines("r2", 3)).await;
    // A folder may hold only part of the files at any moment.
    std::fs::create_dir(home.run("r3")).unwrap();
    home.put_log("r3", "");
    home.add("r3", &start("r3")[..40]);
    home.add("r3", &start("r3")[40..]);
    home.add("r3", "\n");
    served.until_kept("r3", &lines("r3", 1)).await;
}

#[tokio::test]
async fn a_torn_line_is_pending_until_it_is_whole() {
    let home = Home::new();
    let long = line("r1", "heartbeat", &format!(r#","x":"{}""#, "y".repeat(300_000)));
    home.put_log("r1", text(&lines("r1", 1)) + &long[..100_000]);
    let served = home.open().await;
    assert_eq!(served.problems("r1").await.ledger.pending, 1);
    home.add("r1", &long[100_000..]);
    home.add("r1", "\n");
    served.until_kept("r1", &[start("r1"), long.clone()]).await;
    assert_eq!(served.problems("r1").await.ledger.pending, 0);

    // A torn line may be taken back.
    let whole = std::fs::metadata(home.log("r1")).unwrap().len();
    home.add("r1", "torn");
    served.until("the torn line", || async { served.problems("r1").await.ledger.pending == 1 }).await;
    OpenOptions::new().write(true).open(home.log("r1")).unwrap().set_len(whole).unwrap();
    served.until("no torn line", || async { served.problems("r1").await.ledger.pending == 0 }).await;

    // A line over the limit is not held while it grows, and what follows it is read.
    for _ in 0..20 {
        home.add("r1", "z".repeat(100_000));
    }
    served.until("the torn line", || async { served.problems("r1").await.ledger.pending == 1 }).await;
    home.add("r1", format!("{}\n{}\n", "z".repeat(100_000), beat("r1", 7)));
    served.until_kept("r1", &[start("r1"), long, beat("r1", 7)]).await;
    assert_eq!(served.problems("r1").await.items[0].reason, "line over 1 MiB");
}

#[tokio::test]
async fn a_replaced_or_truncated_log_is_read_anew() {
    let home = Home::new();
    let other = |count: usize| {
        let mut lines = lines("r1", count);
        lines[0] = line("r1", "run_start", r#","total_nodes":9"#);
        lines
    };
    home.put_log("r1", text(&lines("r1", 10)));
    let served = home.open().await;
    let log_id = || async {
        let limit = ReadLimit { lines: 1, bytes: 1 };
        served.backend.store.read(&served.who, &id("r1"), 0, limit).await.unwrap().and_then(|lines| lines.log_id)
    };
    let first = log_id().await;

    // Another file takes its place: shorter, equally long, longer.
    for count in [4, 4, 8, 12] {
        let aside = home.run("r1").join("aside");
        let lines = if count == 8 { lines("r1", count) } else { other(count) };
        std::fs::write(&aside, text(&lines)).unwrap();
        std::fs::rename(&aside, home.log("r1")).unwrap();
        served.until_kept("r1", &lines).await;
        assert_eq!(log_id().await == first, count == 8);
    }
    // The same file is cut, and grows again with other lines, past its old end.
    let inode = std::fs::metadata(home.log("r1")).unwrap().ino();
    std::fs::write(home.log("r1"), text(&other(3))).unwrap();
    served.until_kept("r1", &other(3)).await;
    std::fs::write(home.log("r1"), text(&lines("r1", 40))).unwrap();
    served.until_kept("r1", &lines("r1", 40)).await;
    // The first line stays and what follows is another: told by the bytes before the end.
    let mut forked = lines("r1", 60);
    forked[39] = beat("r1", 99);
    std::fs::write(home.log("r1"), text(&forked)).unwrap();
    served.until_kept("r1", &forked).await;
    // Rewritten to the same size.
    let mut same_size = forked.clone();
    same_size[0] = start("r1").replace(":2}", ":3}");
    std::fs::write(home.log("r1"), text(&same_size)).unwrap();
    served.until_kept("r1", &same_size).await;
    assert_eq!(std::fs::metadata(home.log("r1")).unwrap().ino(), inode);
    assert_eq!(served.problems("r1").await.ledger.lines, 60);
    // A log of nothing but damage, rewritten in place by a whole one.
    std::fs::write(home.log("r1"), "nonsense\n").unwrap();
    served.until("no kept line", || async { served.kept("r1").await.is_none() }).await;
    std::fs::write(home.log("r1"), text(&lines("r1", 5))).unwrap();
    served.until_kept("r1", &lines("r1", 5)).await;

    std::fs::remove_file(home.log("r1")).unwrap();
    served.until("the run to go", || async { served.kept("r1").await.is_none() }).await;
}

#[tokio::test]
async fn an_answer_never_mixes_two_logs() {
    let home = Home::new();
    let versions: Vec<Vec<String>> = (0..2)
        .map(|version| {
            (0..200)
                .map(|n| {
                    if n == 0 {
                        line("r1", "run_start", &format!(r#","total_nodes":{version}"#))
                    } else {
                        beat("r1", n * 10 + version)
                    }
                })
                .collect()
        })
        .collect();
    home.put_log("r1", text(&versions[0]));
    let served = home.open().await;
    let mut read = 0;
    for turn in 1..60_usize {
        let lines = &versions[turn % 2];
        // By turns a new file and the same one rewritten.
        if turn % 3 == 0 {
            std::fs::write(home.log("r1"), text(lines)).unwrap();
        } else {
            let aside = home.run("r1").join("aside");
            std::fs::write(&aside, text(lines)).unwrap();
            std::fs::rename(&aside, home.log("r1")).unwrap();
        }
        let limit = ReadLimit { lines: 500, bytes: usize::MAX };
        let page = served.backend.store.read(&served.who, &id("r1"), 100, limit).await.unwrap();
        // It may have been looked at while the file was cut to nothing, or written in part.
        let Some(page) = page.filter(|page| page.next_seq > 100) else { continue };
        read += 1;
        let got: Vec<_> = page.lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let version = versions.iter().find(|lines| page.log_id == Some(LogId::of_first_line(lines[0].as_bytes())));
        let wanted = version.and_then(|lines| lines.get(100..usize::try_from(page.next_seq).unwrap()));
        assert_eq!(Some(got.as_slice()), wanted, "turn {turn}");
    }
    assert!(read > 10, "{read} pages");
}

#[tokio::test]
async fn an_archive_may_come_go_and_come_back() {
    let home = Home::new();
    let served = home.open().await;
    assert_eq!(served.list(&everything()).await, [""; 0]);
    served.backend.store.ready().await.unwrap();
    home.put_log("r1", text(&lines("r1", 2)));
    served.until_kept("r1", &lines("r1", 2)).await;

    let away = home.folder.path().join("away");
    std::fs::rename(home.archive(), &away).unwrap();
    served.until("an empty list", || async { served.list(&everything()).await.is_empty() }).await;
    assert_eq!(served.kept("r1").await, None);
    home.put_log("r2", text(&lines("r2", 2)));
    served.until_kept("r2", &lines("r2", 2)).await;
    std::fs::remove_dir_all(home.archive()).unwrap();
    std::fs::rename(&away, home.archive()).unwrap();
    served.until_kept("r1", &lines("r1", 2)).await;
    served.until("one run", || async { served.list(&everything()).await == ["r1"] }).await;

    // What vanished may be written anew.
    std::fs::remove_dir_all(home.archive()).unwrap();
    served.until("an empty list", || async { served.list(&everything()).await.is_empty() }).await;
    let appended = served.append(vec![part("r1", 0, &lines("r1", 3))]).await.unwrap();
    assert_eq!(appended.accepted, 3);
    assert_eq!(served.kept("r1").await.unwrap(), lines("r1", 3));
}
