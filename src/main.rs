//! Parse, hand over, map an error to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    kahn::cli::main()
}
