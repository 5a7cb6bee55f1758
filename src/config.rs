//! What both builds configure. The whole of it is checked before anything opens, and every mistake is told at once.

use std::ffi::OsStr;
use std::net::SocketAddr;

use clap::Args;

/// Options of `kahn serve` that both builds have, as they were typed.
#[derive(Debug, Clone, Default, Args)]
pub struct Typed {
    /// Address and port to listen on [default: 127.0.0.1:8080 in oss, 0.0.0.0:$PORT in cloud]
    #[arg(long, env = "KAHN_BIND", value_name = "ADDR")]
    pub bind: Option<String>,
    /// Seconds of silence after which a live run counts as stalled [default: 900]
    #[arg(long, env = "KAHN_STALL_AFTER", value_name = "SECONDS")]
    pub stall_after: Option<String>,
    /// Show agents and audits
    #[arg(long, env = "KAHN_AGENT_VIEWS", value_name = "on|off")]
    pub agent_views: Option<String>,
    /// Tell the log of each answer: request id, method, route, status, bytes, milliseconds [default: off]
    #[arg(long, env = "KAHN_ACCESS_LOG", value_name = "on|off")]
    pub access_log: Option<String>,
    /// Live clients at once, over all tenants [default: 12000]
    #[arg(long, env = "KAHN_MAX_SOCKETS", value_name = "N")]
    pub max_sockets: Option<String>,
    /// Live clients of one tenant at once; there are no tenants in oss [default: 2000]
    #[arg(long, env = "KAHN_MAX_TENANT_SOCKETS", value_name = "N")]
    pub max_tenant_sockets: Option<String>,
}

/// A server that a backend's own subcommand asks for: the one that `kahn serve` starts, over these options.
pub struct Serving<'a, O> {
    /// What both builds configure.
    pub typed: Typed,
    /// What the mode adds.
    pub options: O,
    /// Whether it ends when its terminal goes, as it does when it is asked to stop. (`kahn serve` leaves that to the system,
    /// so that nohup holds.)
    pub is_ended_by_hangup: bool,
    /// Called once, when the address was told and requests are answered.
    pub listening: Box<dyn FnOnce() + 'a>,
}

/// What a mode says where nothing was typed.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The address to listen on.
    pub bind: String,
    /// Whether agents and audits are shown.
    pub agent_views: bool,
}

/// A configuration without mistakes.
#[derive(Debug, Clone)]
pub struct Config {
    /// The one address that is listened on.
    pub bind: SocketAddr,
    /// Silence after which a live run counts as stalled, in milliseconds.
    pub stall_after_ms: u64,
    /// Whether agents and audits are shown.
    pub agent_views: bool,
    /// Whether each answer is told to the log.
    pub access_log: bool,
    /// How many clients may listen.
    pub sockets: SocketLimits,
}

/// How many clients may listen at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketLimits {
    /// Over all tenants.
    pub in_all: usize,
    /// Of one tenant, where there are tenants.
    pub per_tenant: usize,
}

/// Why the program does not start. Each sentence says what is wrong and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Usage or configuration: exit code 2. One sentence a mistake.
    #[error("{}", .0.join("\n"))]
    Configuration(Vec<String>),
    /// Anything else: exit code 1.
    #[error("{0}")]
    Failure(String),
}

impl BootError {
    /// One mistake of usage or configuration.
    pub fn configuration(sentence: impl Into<String>) -> Self {
        Self::Configuration(vec![sentence.into()])
    }

    /// The exit code it ends the program with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 2,
            Self::Failure(_) => 1,
        }
    }
}

const DEFAULT_STALL_AFTER_S: u64 = 900;
const DEFAULT_MAX_SOCKETS: usize = 12_000;
const DEFAULT_MAX_TENANT_SOCKETS: usize = 2_000;

impl Config {
    /// The silence after which a live run counts as stalled where nothing else is said, in milliseconds.
    pub fn default_stall_after_ms() -> u64 {
        DEFAULT_STALL_AFTER_S * 1000
    }

    /// Checks what was typed; a mistake adds its sentence to `mistakes` and the default stands in for it.
    pub fn check(typed: &Typed, defaults: &Defaults, mistakes: &mut Vec<String>) -> Self {
        let wanted = typed.bind.as_deref().unwrap_or(&defaults.bind);
        let bind = wanted.parse().unwrap_or_else(|_| {
            mistakes.push(format!(
                "--bind (KAHN_BIND) is {wanted:?}, which is no address and port; write it as --bind 127.0.0.1:8080"
            ));
            SocketAddr::from(([127, 0, 0, 1], 8080))
        });
        let stall_after_s = match typed.stall_after.as_deref().map(|text| (text, text.parse::<u32>())) {
            None => DEFAULT_STALL_AFTER_S,
            Some((_, Ok(seconds))) if seconds > 0 => u64::from(seconds),
            Some((text, _)) => {
                mistakes.push(format!(
                    "--stall-after (KAHN_STALL_AFTER) is {text:?}, which is no whole number of seconds from 1; write it as --stall-after 900"
                ));
                DEFAULT_STALL_AFTER_S
            }
        };
        let mut switch = |typed: &Option<String>, (flag, variable): (&str, &str), default: bool| match typed.as_deref()
        {
            None => default,
            Some("on") => true,
            Some("off") => false,
            Some(text) => {
                mistakes.push(format!("{flag} ({variable}) is {text:?}; write it as {flag} on, or off"));
                default
            }
        };
        let agent_views = switch(&typed.agent_views, ("--agent-views", "KAHN_AGENT_VIEWS"), defaults.agent_views);
        let access_log = switch(&typed.access_log, ("--access-log", "KAHN_ACCESS_LOG"), false);
        let mut count = |typed: &Option<String>, name: &str, default: usize| match typed {
            None => default,
            Some(text) => text.parse().ok().filter(|count| *count > 0).unwrap_or_else(|| {
                mistakes
                    .push(format!("{name} is {text:?}, which is no whole number from 1; leave it out for {default}"));
                default
            }),
        };
        let sockets = SocketLimits {
            in_all: count(&typed.max_sockets, "--max-sockets (KAHN_MAX_SOCKETS)", DEFAULT_MAX_SOCKETS),
            per_tenant: count(
                &typed.max_tenant_sockets,
                "--max-tenant-sockets (KAHN_MAX_TENANT_SOCKETS)",
                DEFAULT_MAX_TENANT_SOCKETS,
            ),
        };
        Self { bind, stall_after_ms: stall_after_s * 1000, agent_views, access_log, sockets }
    }
}

/// A variable of the environment; `None` when it is not set or empty.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable is set, and to nothing: a manifest that has no value for it writes it so, and means that it is not set.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn is_set_to_nothing(name: &OsStr) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}
