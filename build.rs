//! Stamps the commit that the binary was built from; never touches the network.

use std::path::Path;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=KAHN_COMMIT");
    // Where git keeps them, also in a linked work tree. A path that is not there would mean a new build every time.
    let kept = ["HEAD", "logs/HEAD"].into_iter().filter_map(|name| git(&["rev-parse", "--git-path", name]));
    for path in kept.filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    // The short hash of HEAD; a published package has no history.
    let commit = std::env::var("KAHN_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo:rustc-env=KAHN_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// What git says, or `None` outside a checkout.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
