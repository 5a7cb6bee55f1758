//! A log of any bytes: no panic; a kept line reads the same again; the state of a log is that of a part and then the
//! rest, whatever was kept as JSON in between, and however the bytes came.
#![no_main]

use kahn::domain::{LineSplitter, Piece, RunId, Timestamp, parse_line};
use kahn::insight::diagnostics::{Look, diagnose};
use kahn::reduce::{RunState, Summary};
use kahn_fuzz::{fold_onto, lines_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|log: &[u8]| {
    let lines = lines_of(log);
    for line in &lines {
        if let Ok(event) = parse_line(line) {
            let again = parse_line(line).expect("a kept line is kept again");
            assert_eq!(format!("{event:?}"), format!("{again:?}"));
            assert!(serde_json::from_slice::<serde_json::Value>(line).is_ok() || has_what_value_refuses(line));
            assert_eq!(Timestamp::parse(&event.ts.to_string()), Some(event.ts));
            assert!(RunId::parse(&event.run_id).is_some());
        }
    }
    // The bytes in two pieces give the same lines.
    let cut = log.first().map_or(0, |byte| usize::from(*byte) * log.len() / 256);
    let mut pieces = Vec::new();
    let mut splitter = LineSplitter::default();
    for part in [&log[..cut], &log[cut..]] {
        splitter.push(part, |piece, _, _| {
            if let Piece::Line(line) = piece {
                pieces.push(line.to_vec());
            }
        });
    }
    assert_eq!(pieces, lines);

    let whole = fold_onto(RunState::default(), &lines);
    let middle = lines.len() / 2;
    let prefix = fold_onto(RunState::default(), &lines[..middle]);
    let kept = serde_json::to_string(&prefix).expect("a state prints");
    let kept: RunState = serde_json::from_str(&kept).expect("a state reads back");
    assert_eq!(kept, prefix);
    assert_eq!(fold_onto(kept, &lines[middle..]), whole);

    let summary = Summary::of(&RunId::parse("r").expect("a run_id"), &whole, None);
    let json = serde_json::to_string(&summary).expect("a summary prints");
    assert_eq!(serde_json::from_str::<Summary>(&json).expect("a summary reads back"), summary);
    let now = whole.last_event.unwrap_or(Timestamp::from_millis(0));
    let look = Look { state: &whole, graph: None, now, stall_after_ms: 900_000 };
    assert!(!diagnose(&look).verdict.is_empty());
});

/// A number that no f64 holds, or half a surrogate pair, passes in a field that no event defines.
fn has_what_value_refuses(line: &[u8]) -> bool {
    line.iter().any(u8::is_ascii_digit) || line.windows(2).any(|pair| pair == b"\\u")
}
