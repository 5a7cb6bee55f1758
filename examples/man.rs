//! Writes the manual pages of this build, made of the definitions that `--help` prints, into `man/<mode>/`:
//!
//! ```text
//! cargo run --example man
//! cargo run --example man --no-default-features --features cloud
//! ```
//!
//! The pages are kept in git, so that a package has them without building this; a test holds them against the definitions.

use std::io;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let folder = folder();
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir_all(&folder)?,
    }
    pages()?.into_iter().try_for_each(|(name, page)| std::fs::write(folder.join(name), page))
}

/// Where the pages of this build are.
pub(crate) fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "man", kahn::backend::MODE].iter().collect()
}

/// The name of each page's file, and the page: `kahn.1` and one for each command that is shown.
pub(crate) fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut kahn = kahn::cli::command().disable_help_subcommand(true);
    kahn.build();
    let shown = kahn.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let all = shown.map(|command| (format!("kahn-{}", command.get_name()), command));
    std::iter::once(("kahn".to_owned(), kahn.clone()))
        .chain(all)
        .map(|(name, command)| {
            let mut page = Vec::new();
            // clap keeps names for as long as the process lives.
            let named = command.name(&*name.clone().leak());
            clap_mangen::Man::new(named).date("").render(&mut page)?;
            Ok((format!("{name}.1"), page))
        })
        .collect()
}
