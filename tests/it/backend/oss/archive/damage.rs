//! Every bit of a small log flipped: what the server shows of each is what another reading of the same bytes gives.

use kahn::domain::Ledger;
use serde_json::Value;

use super::*;

/// A log with an event of each shape that this file's own reading knows.
fn log_of(run: &str) -> String {
    let moved = r#","node_id":"a","from":"ready","to":"running","attempt":1,"reason":null"#;
    text(&[
        line(run, "run_start", r#","total_nodes":2"#),
        line(run, "heartbeat", r#","n":"\u00e9""#),
        line(run, "node_transition", moved).replace(r#","reason":null"#, r#","reason":"x:y""#),
        line(run, "moon_phase", ""),
    ])
}

/// What became of each line, by rules written down here a second time and in another way than the server's.
fn read_again(run: &str, bytes: &[u8]) -> (Vec<Vec<u8>>, Ledger) {
    let mut pieces: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let torn = pieces.pop().unwrap_or_default();
    let mut ledger = Ledger { lines: pieces.len() as u64, pending: u64::from(!torn.is_empty()), ..Ledger::default() };
    ledger.lines += ledger.pending;
    let mut kept = Vec::new();
    for piece in pieces {
        let piece = piece.strip_suffix(b"\r").unwrap_or(piece);
        match verdict(run, piece) {
            Some(is_known) => {
                kept.push(piece.to_vec());
                ledger.kept += 1;
                ledger.unknown += u64::from(!is_known);
            }
            None => ledger.skipped += 1,
        }
    }
    (kept, ledger)
}

/// Whether the line is an event of this run, and then whether its name is known.
fn verdict(run: &str, line: &[u8]) -> Option<bool> {
    let value: Value = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
    let event = value.as_object()?;
    let string = |name: &str| event.get(name).and_then(Value::as_str);
    let whole = |name: &str| event.get(name).is_some_and(Value::is_u64);
    if !is_ts(string("ts")?) || string("run_id")? != run {
        return None;
    }
    const STATUSES: [&str; 6] = ["pending", "ready", "running", "done", "failed", "blocked"];
    match string("event")? {
        "" => None,
        "heartbeat" => Some(true),
        "run_start" => (whole("total_nodes") && !event.contains_key("parent")).then_some(true),
        "node_transition" => {
            let is_node = |id: &str| {
                let mut letters = id.bytes();
                letters.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
                    && letters.all(|next| next.is_ascii_lowercase() || next.is_ascii_digit() || next == b'-')
            };
            let is_reason = event.get("reason").is_none_or(Value::is_string);
            let (from, to) = (string("from")?, string("to")?);
            let is_moved = STATUSES.contains(&from) && STATUSES.contains(&to);
            let is_numbered = to != "running" || whole("attempt");
            (is_node(string("node_id")?) && is_reason && is_moved && is_numbered).then_some(true)
        }
        _ => Some(false),
    }
}

fn is_ts(ts: &str) -> bool {
    let shape: String = ts.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if shape != "0000-00-00T00:00:00.000Z" {
        return false;
    }
    let number = |range: std::ops::Range<usize>| ts[range].parse::<u32>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    year > 0 && (1..=days).contains(&day) && number(11..13) < 24 && number(14..16) < 60 && number(17..19) < 60
}

/// Serves these logs and compares each with the other reading.
async fn compare(logs: &[(String, Vec<u8>)]) {
    let home = Home::new();
    for (run, bytes) in logs {
        home.put_log(run, bytes);
    }
    let served = Served::open(&["--fixture-dir", home.archive().to_str().unwrap()]).await.unwrap();
    for (run, bytes) in logs {
        let shown = String::from_utf8_lossy(bytes);
        let (kept, ledger) = read_again(run, bytes);
        let limit = ReadLimit { lines: 1000, bytes: usize::MAX };
        let page = served.backend.store.read(&served.who, &id(run), 0, limit).await.unwrap();
        let problems = served.backend.store.problems(&served.who, &id(run)).await.unwrap();
        assert_eq!(page.is_some(), !kept.is_empty(), "{run}: {shown}");
        let Some(page) = page else { continue };
        let lines: Vec<&[u8]> = page.lines.iter().map(AsRef::as_ref).collect();
        assert_eq!(lines, kept, "{run}: {shown}");
        assert_eq!(page.log_id, Some(LogId::of_first_line(&kept[0])), "{run}");
        let problems = problems.unwrap();
        assert_eq!((problems.ledger, problems.items.len() as u64), (ledger, ledger.skipped), "{run}: {shown}");
        let loaded = served.backend.store.load(&served.who, &id(run)).await.unwrap().unwrap();
        assert_eq!((loaded.state.next_seq, loaded.state.unknown), (ledger.kept, ledger.unknown), "{run}: {shown}");
    }
}

/// If it failed, damage of one bit would be shown as something that no producer wrote, or would cost more than its line.
#[tokio::test]
async fn every_bit_of_a_log_flipped_costs_no_more_than_its_line() {
    let length = log_of("f00000").len();
    let logs: Vec<_> = (0..length * 8)
        .map(|at| {
            let run = format!("f{at:05}");
            let mut bytes = log_of(&run).into_bytes();
            bytes[at / 8] ^= 1 << (at % 8);
            (run, bytes)
        })
        .collect();
    compare(&logs).await;
}

/// The same of a log that was cut at any byte, and one of which any byte is missing.
#[tokio::test]
async fn every_byte_of_a_log_cut_or_lost_costs_no_more_than_its_line() {
    let length = log_of("f00000").len();
    let logs: Vec<_> = (0..2 * length)
        .map(|at| {
            let run = format!("f{at:05}");
            let mut bytes = log_of(&run).into_bytes();
            if at < length {
                bytes.truncate(at);
            } else {
                bytes.remove(at - length);
            }
            (run, bytes)
        })
        .collect();
    compare(&logs).await;
}
