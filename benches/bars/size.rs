//! What is shipped.

use std::fs;
use std::process::Command;

use crate::archives::Archives;
use crate::measure::{Row, megabytes};

/// The binary, stripped.
pub(crate) fn binary(archives: &mut Archives, rows: &mut Vec<Row>) {
    const WHAT: &str = "binary, stripped (oss)";
    let stripped = archives.empty("stripped").join("kahn");
    let done = Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_kahn")).status();
    match done {
        Ok(status) if status.success() => {
            let bytes = fs::metadata(&stripped).expect("a file").len() as f64;
            rows.push(Row::absolute(WHAT, megabytes(bytes), "<= 10 MB", bytes <= 10e6));
        }
        _ => rows.push(Row::open(WHAT, "strip (binutils) is not here")),
    }
}
