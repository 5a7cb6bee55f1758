//! `kahn diff`: two runs beside each other, for people, for programs, and as a gate.
//!
//! There is one comparison, that of `/api/compare`: a server is asked for it, and for a folder it is made here by the same
//! function. What is printed and what fails the gate are read from that answer.

mod answer;
mod folder;
mod gate;
mod page;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;

use self::answer::Answer;
use self::gate::Condition;
use super::client::{self, Client, ClientError, Purpose};
use super::print::Lines;
use crate::config::BootError;
use crate::domain::RunId;

/// The archive that is read when neither it nor a server is named.
const DEFAULT_ARCHIVE: &str = ".kahn/archive";

/// Options of `kahn diff`.
#[derive(Debug, Clone, Args)]
pub(super) struct DiffOptions {
    /// The run to compare with
    #[arg(value_name = "BASE")]
    base: String,
    /// The run to look at
    #[arg(value_name = "HEAD")]
    head: String,
    /// The archive that has both runs [default: .kahn/archive]
    #[arg(long, env = "KAHN_ARCHIVE", value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Ask the server at this address instead of reading an archive
    #[arg(long, env = "KAHN_FROM", value_name = "URL")]
    from: Option<String>,
    /// A file that holds the server's key; without it the key is KAHN_KEY of the environment
    #[arg(long, env = "KAHN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Exit 1 on any of these, separated by commas: regression, new-failure, slower:20% (a node, or the whole run, took that
    /// much and more than 5 s longer)
    #[arg(long, env = "KAHN_DIFF_FAIL_ON", value_name = "CONDITIONS")]
    fail_on: Option<String>,
    /// Print the answer of /api/compare
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Print Markdown, as for a comment on a pull request
    #[arg(long, env = "KAHN_DIFF_MARKDOWN", value_parser = BoolishValueParser::new())]
    markdown: bool,
}

/// Compares. The exit code is 0, or 1 when a condition of `--fail-on` holds; whatever keeps the comparison from being made
/// is 2, so that a gate never takes it for a finding.
pub(super) fn run(options: &DiffOptions) -> Result<ExitCode, BootError> {
    let question = Question::read(options)?;
    let json = match &question.server {
        Some(client) => ask(client, &question)?,
        None => {
            let archive = options.archive.clone().unwrap_or_else(|| DEFAULT_ARCHIVE.into());
            folder::compare(&archive, &question.base, &question.head)?
        }
    };
    let answer: Answer = serde_json::from_slice(&json).map_err(|error| match &question.server {
        Some(client) => refused(&client.strange(error.to_string())),
        None => BootError::configuration(format!("the comparison cannot be read back: {error}")),
    })?;
    let mut lines = Lines::stdout();
    match (options.json, options.markdown) {
        (true, _) => lines.json_bytes(&json),
        (_, true) => page::markdown(&answer).iter().for_each(|line| lines.say(line)),
        _ => page::text(&answer).iter().for_each(|line| lines.say(line)),
    }
    lines.flush();
    let held: Vec<String> = question.fail_on.iter().filter_map(|condition| condition.held(&answer)).collect();
    if held.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    tell(&held);
    Ok(ExitCode::FAILURE)
}

#[expect(clippy::print_stderr, reason = "why the gate fails is told beside the answer, which may be JSON")]
fn tell(held: &[String]) {
    held.iter().for_each(|sentence| eprintln!("fail-on: {sentence}"));
}

/// What was asked, without mistakes.
struct Question {
    base: RunId,
    head: RunId,
    server: Option<Client>,
    fail_on: Vec<Condition>,
}

impl Question {
    fn read(options: &DiffOptions) -> Result<Self, BootError> {
        let mut mistakes = Vec::new();
        let mut run_id = |name: &str, text: &str| {
            let run_id = RunId::parse(text);
            if run_id.is_none() {
                mistakes.push(format!("{name} is {text:?}, which is no run_id; give the run_id as lists show it"));
            }
            run_id
        };
        let (base, head) = (run_id("BASE", &options.base), run_id("HEAD", &options.head));
        if options.json && options.markdown {
            mistakes.push(
                "--json (KAHN_JSON) and --markdown (KAHN_DIFF_MARKDOWN) are both given; leave one of them out".into(),
            );
        }
        let fail_on = gate::read(options.fail_on.as_deref().unwrap_or_default(), &mut mistakes);
        match (base, head) {
            (Some(base), Some(head)) if mistakes.is_empty() => {
                let server = options
                    .from
                    .as_deref()
                    .map(|from| Client::new(Purpose::Diff, from, client::read_key(options.key_file.as_deref())?));
                Ok(Self { base, head, server: server.transpose()?, fail_on })
            }
            _ => Err(BootError::Configuration(mistakes)),
        }
    }
}

fn ask(client: &Client, question: &Question) -> Result<Vec<u8>, BootError> {
    let path = format!("/api/compare?base={}&head={}", question.base, question.head);
    client.get(&path).map_err(|error| match &error {
        ClientError::Refused(refusal) if refusal.problem.code == "unknown_run" => BootError::configuration(format!(
            "{error}; give run_ids that the server has and that the key may read ({} and {} were asked for)",
            question.base, question.head
        )),
        error => refused(error),
    })
}

fn refused(error: &ClientError) -> BootError {
    BootError::configuration(error.to_string())
}
