//! Pages of a log and of the list.

use kahn::contract::{ListQuery, SortKey};

use super::*;

#[tokio::test]
async fn a_log_is_read_from_any_seq_with_any_limit() {
    let home = Home::new();
    let all = lines("r1", 300);
    // Damage between the kept lines moves no seq.
    let log: String = all.iter().map(|line| format!("{line}\nnonsense\r\n\n")).collect();
    home.put_log("r1", log);
    let served = home.open().await;
    let read = |from_seq, lines, bytes| {
        let served = &served;
        async move {
            let limit = ReadLimit { lines, bytes };
            let page = served.backend.store.read(&served.who, &id("r1"), from_seq, limit).await.unwrap().unwrap();
            assert_eq!(page.next_seq, 300);
            page.lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect::<Vec<_>>()
        }
    };
    for from in 0..=301 {
        assert_eq!(read(from as u64, 2, usize::MAX).await, all[all.len().min(from)..all.len().min(from + 2)]);
    }
    assert_eq!(read(u64::MAX, 2, usize::MAX).await, [""; 0]);
    assert_eq!(read(10, usize::MAX, usize::MAX).await, all[10..]);
    // The first line always comes; the one that passes the bytes is the last.
    assert_eq!(read(10, 100, 0).await, all[10..11]);
    let two = all[10].len() + all[11].len();
    assert_eq!(read(10, 100, two - 1).await, all[10..12]);
    assert_eq!(read(10, 100, two).await, all[10..13]);
}

fn run_at(run: &str, minute: usize, parent: Option<&str>) -> String {
    let parent =
        parent.map(|parent| format!(r#","parent":{{"run_id":"{parent}","node_id":"n-{run}"}}"#)).unwrap_or_default();
    line(run, "run_start", &format!(r#","total_nodes":1{parent}"#)).replace("10:00:00", &format!("10:{minute:02}:00"))
}

#[tokio::test]
async fn lists_are_ordered_filtered_and_paged() {
    let home = Home::new();
    for (at, run) in ["b", "a", "d", "c", "e"].iter().enumerate() {
        // b and a start together, d and c too.
        home.put_log(run, run_at(run, at / 2, None) + "\n");
    }
    home.put("no-log", "graph.json", GRAPH);
    home.put("also-no-log", "graph.json", GRAPH);
    let served = home.open().await;
    let newest = ["e", "c", "d", "a", "b", "also-no-log", "no-log"];
    assert_eq!(served.list(&everything()).await, newest);
    let rising = ListQuery { order: Order::Asc, ..everything() };
    assert_eq!(served.list(&rising).await, ["a", "b", "c", "d", "e", "also-no-log", "no-log"]);
    for order in [Order::Desc, Order::Asc] {
        let all = served.list(&ListQuery { order, ..everything() }).await;
        for sort in [Sort::Started, Sort::Duration, Sort::Outcome] {
            let all = if sort == Sort::Started {
                all.clone()
            } else {
                served.list(&ListQuery { order, sort, ..everything() }).await
            };
            for limit in 1..=7 {
                let (mut by_offset, mut by_key) = (Vec::new(), Vec::new());
                let mut key: Option<SortKey> = None;
                loop {
                    let position = ListPosition::Offset(by_offset.len() as u64);
                    let page = ListQuery { order, sort, limit, position, ..everything() };
                    let at_offset = served.list(&page).await;
                    let position = key.clone().map_or(ListPosition::Offset(0), ListPosition::After);
                    let page = ListQuery { position, ..page };
                    let answer = served.backend.store.list(&served.who, &page).await.unwrap();
                    assert_eq!(answer.total, 7);
                    by_offset.extend(at_offset);
                    by_key.extend(answer.items.iter().map(|row| row.run_id.to_string()));
                    assert_eq!(answer.more, by_key.len() < 7);
                    let Some(last) = answer.items.last().filter(|_| answer.more) else { break };
                    key = Some(sort.key(last));
                }
                assert_eq!((&by_offset, &by_key), (&all, &all), "{sort:?} {order:?} {limit}");
            }
        }
    }
    let mut some = everything();
    some.filter.q = Some("o-l".into());
    some.limit = 1;
    let page = served.backend.store.list(&served.who, &some).await.unwrap();
    assert_eq!((page.total, page.more, page.items[0].run_id.as_str()), (2, true, "also-no-log"));
}

#[tokio::test]
async fn children_are_found_from_their_parent() {
    let home = Home::new();
    for (run, minute) in [("late", 9), ("early-b", 1), ("early-a", 1)] {
        home.put_log(run, run_at(run, minute, Some("boss")) + "\n");
    }
    let served = home.open().await;
    let spawned = || async {
        let spawned = served.backend.store.spawned(&served.who, &id("boss")).await.unwrap();
        spawned
            .into_iter()
            .map(|child| format!("{} {}", child.run_id, child.node_id.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    assert_eq!(spawned().await, ["early-a n-early-a", "early-b n-early-b", "late n-late"]);
    std::fs::remove_dir_all(home.run("early-b")).unwrap();
    served.until("one child less", || async { spawned().await == ["early-a n-early-a", "late n-late"] }).await;
}
