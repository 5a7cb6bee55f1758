//! Stamps the commit that the binary was built from; never touches the network.

use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn main() {
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    println!("cargo:rerun-if-env-changed=KAHN_COMMIT");
    let commit = std::env::var("KAHN_COMMIT").ok().or_else(head);
    println!("cargo:rustc-env=KAHN_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// The short hash of HEAD, or `None` outside a checkout (a published package has no history).
fn head() -> Option<String> {
    let out = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
