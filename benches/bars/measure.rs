//! Figures: medians, ratios of pairs, and the table that they go into.

use std::path::Path;
use std::time::{Duration, Instant};

/// One line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) limit: String,
    pub(crate) kahn: String,
    pub(crate) ratio: String,
    pub(crate) bar: String,
    pub(crate) verdict: Verdict,
}

/// Whether a figure reaches its bar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// There is nothing to measure, or no bar: why.
    Open(String),
}

impl Verdict {
    pub(crate) fn of(is_met: bool) -> Self {
        if is_met { Self::Met } else { Self::Missed }
    }
}

impl Row {
    /// A row whose bar is a ratio at most.
    pub(crate) fn at_most(what: &str, (limit, kahn): (String, String), ratio: f64, most: f64) -> Self {
        Self {
            what: what.into(),
            limit,
            kahn,
            ratio: format!("{ratio:.2}x"),
            bar: format!("<= {most}x"),
            verdict: Verdict::of(ratio <= most),
        }
    }

    /// A row whose bar is a ratio at least.
    pub(crate) fn at_least(what: &str, (limit, kahn): (String, String), ratio: f64, least: f64) -> Self {
        Self {
            what: what.into(),
            limit,
            kahn,
            ratio: format!("{ratio:.2}x"),
            bar: format!(">= {least}x"),
            verdict: Verdict::of(ratio >= least),
        }
    }

    /// A row that has no limit beside it, only a bar.
    pub(crate) fn absolute(what: &str, kahn: String, bar: &str, is_met: bool) -> Self {
        Self {
            what: what.into(),
            limit: "-".into(),
            kahn,
            ratio: "-".into(),
            bar: bar.into(),
            verdict: Verdict::of(is_met),
        }
    }

    /// A row that could not be measured.
    pub(crate) fn open(what: &str, why: impl Into<String>) -> Self {
        let dash = || "-".to_owned();
        Self {
            what: what.into(),
            limit: dash(),
            kahn: dash(),
            ratio: dash(),
            bar: dash(),
            verdict: Verdict::Open(why.into()),
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let verdict = match &self.verdict {
            Verdict::Met => "met".to_owned(),
            Verdict::Missed => "**MISSED**".to_owned(),
            Verdict::Open(why) => why.clone(),
        };
        let Self { what, limit, kahn, ratio, bar, .. } = self;
        format!("| {what} | {limit} | {kahn} | {ratio} | {bar} | {verdict} |")
    }
}

/// The head of the table.
pub(crate) const HEAD: &str = "| what | limit beside it | kahn | ratio | bar | |\n|---|---|---|---|---|---|";

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value at this share of the sorted ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (share * (sorted.len().saturating_sub(1)) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Both sides in turn, A B A B: what each gave, pair by pair.
pub(crate) fn pairs<A, B>(
    count: usize,
    mut limit: impl FnMut(usize) -> A,
    mut kahn: impl FnMut(usize) -> B,
) -> Vec<(A, B)> {
    (0..count).map(|at| (limit(at), kahn(at))).collect()
}

/// The median of kahn over limit, pair by pair.
pub(crate) fn ratio(pairs: &[(f64, f64)]) -> f64 {
    median(&pairs.iter().map(|(limit, kahn)| kahn / limit).collect::<Vec<_>>())
}

/// The medians of both sides.
pub(crate) fn sides(pairs: &[(f64, f64)], print: impl Fn(f64) -> String) -> (String, String) {
    let (limit, kahn): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    (print(median(&limit)), print(median(&kahn)))
}

/// Seconds that some work takes.
pub(crate) fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// A span for people.
pub(crate) fn span(seconds: f64) -> String {
    match seconds {
        _ if seconds.is_nan() => "-".into(),
        _ if seconds < 1e-3 => format!("{:.0} us", seconds * 1e6),
        _ if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// Bytes for people.
pub(crate) fn megabytes(bytes: f64) -> String {
    format!("{:.1} MB", bytes / 1e6)
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < patience, "{what} did not come within {patience:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How many rows reach their bars.
pub(crate) fn sum_up(rows: &[Row]) {
    let missed = rows.iter().filter(|row| row.verdict == Verdict::Missed).count();
    let met = rows.iter().filter(|row| row.verdict == Verdict::Met).count();
    println!("\n{met} met, {missed} missed, {} without a verdict", rows.len() - met - missed);
}

/// Puts the table between the marks of this name in docs/performance.md.
pub(crate) fn write_table(rows: &[Row], name: &str) {
    let marks = ["begin", "end"].map(|side| format!("<!-- {name}: {side} -->"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = std::fs::read_to_string(&path).expect("docs/performance.md");
    let (before, rest) = text.split_once(&marks[0]).expect("the first mark");
    let (_, after) = rest.split_once(&marks[1]).expect("the second mark");
    let lines: Vec<String> = rows.iter().map(Row::markdown).collect();
    let text = format!("{before}{}\n{HEAD}\n{}\n{}{after}", marks[0], lines.join("\n"), marks[1]);
    std::fs::write(&path, text).expect("docs/performance.md");
}
