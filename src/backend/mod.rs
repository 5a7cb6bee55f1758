//! The one switch. Nothing outside this folder knows which kitchen it cooks for.
//!
//! Each twin gives the same names: `MODE`, `Options` (what its `serve` adds to the command line), `Command` (its own
//! subcommands) and `select_backend`. Where both features are on, cloud wins: the guarded mode.

cfg_if::cfg_if! {
    if #[cfg(feature = "cloud")] {
        #[path = "cloud/mod.rs"]
        mod imp;
    } else if #[cfg(feature = "oss")] {
        #[path = "oss/mod.rs"]
        mod imp;
    } else {
        compile_error!("kahn is built for one of two modes: cargo build --features oss, or cargo build --features cloud");
    }
}

pub use imp::{Command, MODE, Options, select_backend};
