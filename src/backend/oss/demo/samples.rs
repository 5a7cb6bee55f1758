//! The sample archive, embedded in the binary, moved so that its last event happened a few minutes ago.

use std::fs;
use std::io;
use std::path::Path;

use rust_embed::RustEmbed;

use crate::archive_reader::RUNS;
use crate::domain::{Timestamp, parse_line};

#[derive(RustEmbed)]
#[folder = "data/runs"]
struct Samples;

/// The sample of what a crash leaves behind; the demo shows sound logs.
const DAMAGED: &str = "torn-1/";

/// Writes the samples into an archive; the last of their events then stands at `until`.
pub(super) fn write(archive: &Path, until: Timestamp) -> io::Result<()> {
    let files: Vec<(String, String)> = Samples::iter()
        .filter(|name| !name.starts_with(DAMAGED))
        .filter_map(|name| Some((name.to_string(), String::from_utf8(Samples::get(&name)?.data.into_owned()).ok()?)))
        .collect();
    let times = files.iter().flat_map(|(_, text)| text.lines()).filter_map(ts_of);
    let Some(last) = times.max() else { return Ok(()) };
    let shift = until.millis() - last.millis();
    for (name, text) in &files {
        let path = archive.join(RUNS).join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, moved(text, shift))?;
    }
    Ok(())
}

fn ts_of(line: &str) -> Option<Timestamp> {
    Some(parse_line(line.as_bytes()).ok()?.ts)
}

/// The text with every timestamp that stands in quotes moved by so many milliseconds; all else stays as it is.
fn moved(text: &str, shift: i64) -> String {
    text.split('"')
        .map(|part| match Timestamp::parse(part) {
            Some(ts) => Timestamp::from_millis(ts.millis() + shift).to_string(),
            None => part.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\"")
}
