//! Stamps the commit that the binary was built from, and packs the description of the API; never touches the network.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

#[expect(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn main() -> std::io::Result<()> {
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
    pack("src/http/openapi.json")
}

/// Leaves a file for the binary at a seventh of its size.
#[expect(clippy::disallowed_methods, reason = "build scripts are configured by the environment")]
fn pack(path: &str) -> std::io::Result<()> {
    println!("cargo:rerun-if-changed={path}");
    let folder = std::env::var_os("OUT_DIR").ok_or(std::io::ErrorKind::NotFound)?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&std::fs::read(path)?)?;
    std::fs::write(Path::new(&folder).join("openapi.json.gz"), packed.finish()?)
}

/// What git says, or `None` outside a checkout.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
