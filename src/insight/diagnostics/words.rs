//! Words for messages: spans, lists of names, texts of producers made short and harmless.

/// How many names a sentence gives.
const NAMED: usize = 3;
/// How many characters of a producer's text a sentence gives.
const CLIPPED: usize = 120;

/// A span of time, as exact as a person wants it: `1.9 s`, `42 s`, `5m 56s`, `2h 05m`, `6d 3h`.
pub(super) fn span(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    let whole = seconds.round() as u64;
    match whole {
        0 if seconds <= 0.0 => "0 s".to_owned(),
        0..10 if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `a`, `a and b`, `a, b and c`, `a, b, c and 4 more`.
pub(super) fn names(names: &[&str]) -> String {
    let shown = if names.len() > NAMED + 1 { NAMED } else { names.len() };
    match (&names[..shown], names.len() - shown) {
        ([], _) => String::new(),
        ([one], 0) => (*one).to_owned(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (shown, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A producer's text on one line, its first [`CLIPPED`] characters; what could turn the sentence around is a space, and
/// spaces in a row are one.
pub(super) fn clipped(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text = text.trim();
    let shown: String = text.chars().take(CLIPPED).map(|c| if is_harmful(c) { ' ' } else { c }).collect();
    let mut line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().nth(CLIPPED).is_some() {
        line.push('…');
    }
    if line.is_empty() { "\"\"".to_owned() } else { line }
}
