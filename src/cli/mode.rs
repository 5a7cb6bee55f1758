//! `kahn mode`: what this binary is, and what `kahn serve` would be with these flags and this environment. Opens nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;

use super::print::Lines;
use super::serve::ServeOptions;
use crate::{backend, http};

/// Options of `kahn mode`.
#[derive(Debug, Clone, Args)]
pub(super) struct ModeOptions {
    #[command(flatten)]
    serve: ServeOptions,
    /// Print one JSON object
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

#[derive(Debug, Serialize)]
struct ModeView {
    name: &'static str,
    version: &'static str,
    commit: &'static str,
    mode: &'static str,
    serves: &'static str,
    bind: String,
    reach: String,
    storage: String,
    auth: String,
    tenancy: &'static str,
    rate_limit: &'static str,
    agent_views: bool,
    stall_after_s: u64,
    limits: BTreeMap<&'static str, usize>,
    boot_checks: Vec<String>,
    /// Why `kahn serve` would refuse these flags and this environment.
    mistakes: Vec<String>,
}

pub(super) fn run(options: &ModeOptions) -> ExitCode {
    let mut mistakes = Vec::new();
    let config = options.serve.check(&mut mistakes);
    let described = options.serve.backend.describe(&config);
    let view = ModeView {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("KAHN_COMMIT"),
        mode: backend::MODE,
        serves: described.serves,
        bind: config.bind.to_string(),
        reach: described.reach,
        storage: described.storage,
        auth: described.auth,
        tenancy: described.tenancy,
        rate_limit: described.rate_limit,
        agent_views: config.agent_views,
        stall_after_s: config.stall_after_ms / 1000,
        limits: http::LIMITS
            .into_iter()
            .chain([("sockets", config.sockets.in_all), ("tenant_sockets", config.sockets.per_tenant)])
            .collect(),
        boot_checks: described.boot_checks,
        mistakes,
    };
    let mut lines = Lines::stdout();
    if options.json {
        lines.json(&view);
    } else {
        view.tell(&mut lines);
    }
    lines.flush();
    ExitCode::SUCCESS
}

impl ModeView {
    fn tell(&self, lines: &mut Lines) {
        let Self { name, version, commit, mode, .. } = self;
        lines.say(&format!("{name} {version} ({mode}), commit {commit}"));
        let agent_views = if self.agent_views { "shown" } else { "hidden" };
        for (what, said) in [
            ("serves", self.serves),
            ("bind", &format!("{}: {}", self.bind, self.reach)),
            ("storage", &self.storage),
            ("auth", &self.auth),
            ("tenancy", self.tenancy),
            ("rate limit", self.rate_limit),
            ("agents", agent_views),
            ("stalled", &format!("after {} s of silence", self.stall_after_s)),
        ] {
            lines.say(&format!("{what:<11} {said}"));
        }
        let limits: Vec<String> = self.limits.iter().map(|(what, most)| format!("{what} {most}")).collect();
        list(lines, "limits", &limits);
        list(lines, "boot checks", &self.boot_checks);
        if !self.mistakes.is_empty() {
            list(lines, "would refuse to start", &self.mistakes);
        }
    }
}

fn list(lines: &mut Lines, what: &str, items: &[String]) {
    lines.say(&format!("{what}:"));
    for item in items {
        lines.say(&format!("  {item}"));
    }
}
