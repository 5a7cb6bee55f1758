//! What is shipped.

use std::fs;
use std::process::Command;

use crate::archives::Archives;
use crate::measure::{Row, megabytes};

/// The binary, stripped.
pub(crate) fn binary(archives: &mut Archives, rows: &mut Vec<Row>) {
    stripped(archives, rows, ("binary, stripped (oss)", 10.0));
}

/// The binary of this build, stripped, and how many megabytes it may have.
pub(crate) fn stripped(archives: &mut Archives, rows: &mut Vec<Row>, (what, most): (&str, f64)) {
    let stripped = archives.empty("stripped").join("kahn");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_kahn")).status();
    match done {
        Ok(status) if status.success() => {
            let bytes = fs::metadata(&stripped).expect("a file").len() as f64;
            rows.push(Row::absolute(what, megabytes(bytes), &format!("<= {most} MB"), bytes <= most * 1e6));
        }
        _ => rows.push(Row::open(what, "strip (binutils) is not here")),
    }
}
