//! The command line: one file a subcommand; the backend adds its own.

mod client;
mod completions;
mod diff;
mod mode;
mod named;
mod print;
mod push;
mod serve;
mod stop;
mod validate;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::backend;
use crate::config::{self, BootError};

/// See what your fleets of AI agents and prompt-DAG runs really did, and what to look at next
#[derive(Debug, Parser)]
#[command(name = "kahn", version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeOptions,
    /// State the mode that is expected; a binary of the other mode refuses to start [env: KAHN_MODE]
    #[arg(long, global = true, value_name = "MODE")]
    mode: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the dashboard, the API and the live feed (the default command)
    Serve(serve::ServeOptions),
    /// Send runs to a server; started again, it goes on where it stopped
    Push(push::PushOptions),
    /// Check logs and archives: every problem with file and line; exit 1 if there is any
    Validate(validate::ValidateOptions),
    /// Say what this binary is: mode, address, storage, auth, tenancy, limits, boot checks
    Mode(mode::ModeOptions),
    /// Print what a shell needs to complete kahn's commands and flags
    Completions(completions::CompletionsOptions),
    /// Compare two runs of an archive or of a server; exit 1 on --fail-on
    Diff(diff::DiffOptions),
    #[command(flatten)]
    Backend(backend::Command),
}

/// What `--version` prints behind the name: version and mode.
static VERSION: LazyLock<String> = LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), backend::MODE));

/// The definition of the command line, for what is made of it beside `--help`: completions, and the manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// What the log tells where nothing else is said.
const DEFAULT_LOG: &str = "warn,kahn=info,actix_http=off";

/// Runs the program: parse, check the mode, hand over, map an error to an exit code.
pub fn main() -> ExitCode {
    env_logger::Builder::new()
        .parse_filters(config::env("KAHN_LOG").as_deref().unwrap_or(DEFAULT_LOG))
        .parse_write_style(config::env("RUST_LOG_STYLE").as_deref().unwrap_or("auto"))
        .format(|out, record| {
            let (now, level) = (out.timestamp_seconds(), record.level());
            let style = out.default_level_style(level);
            writeln!(out, "[{now} {style}{level:<5}{style:#}] {}", one_line(&record.args().to_string()))
        })
        .init();
    let cli = parse();
    let done = check_mode(cli.mode.as_deref()).and_then(|()| match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(options)) => serve::run(&options),
        Some(Command::Push(options)) => push::run(&options),
        Some(Command::Validate(options)) => validate::run(&options),
        Some(Command::Mode(options)) => Ok(mode::run(&options)),
        Some(Command::Completions(options)) => Ok(completions::run(&options, &mut command())),
        Some(Command::Diff(options)) => diff::run(&options),
        Some(Command::Backend(command)) => command.run(serve::serve, serve::now),
    });
    done.unwrap_or_else(|error| {
        report(&error);
        ExitCode::from(error.exit_code())
    })
}

/// What was typed and what the environment says; ends the program where that is help or a mistake.
fn parse() -> Cli {
    let matches = without_empty_variables(command()).try_get_matches().unwrap_or_else(|error| {
        // Help names the variable of each flag, whatever it is set to.
        let is_help =
            matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        let help = if is_help { command().try_get_matches().err() } else { None };
        help.unwrap_or(error).exit()
    });
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command()).exit())
}

/// The same command line without the variables that are set to nothing: the parser would take that for a value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let is_empty = arg.get_env().is_some_and(config::is_set_to_nothing);
            if is_empty { arg.env(None::<&str>) } else { arg }
        })
        .mut_subcommands(without_empty_variables)
}

/// A message as one line that steers no terminal: some of its words may be a client's, a file's or a database's.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for character in message.chars() {
        // Marks that turn the direction of writing hide what stands behind them.
        let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[expect(clippy::print_stderr, reason = "a refusal goes to the person who typed the command")]
fn report(error: &BootError) {
    match error {
        BootError::Configuration(mistakes) => mistakes.iter().for_each(|mistake| eprintln!("error: {mistake}")),
        BootError::Failure(sentence) => eprintln!("error: {sentence}"),
    }
}

/// `--mode` and `KAHN_MODE` confirm the compiled mode; they cannot choose it.
fn check_mode(flag: Option<&str>) -> Result<(), BootError> {
    let stated = [("--mode", flag.map(str::to_owned)), ("KAHN_MODE", config::env("KAHN_MODE"))];
    let mistakes: Vec<String> = stated
        .into_iter()
        .filter_map(|(source, value)| Some((source, value?)))
        .filter(|(_, value)| value != backend::MODE)
        .map(|(source, value)| {
            let own = backend::MODE;
            match value.as_str() {
                "oss" | "cloud" => format!(
                    "{source} is {value}, but this binary is the {own} build; build the other one: cargo install kahn --features {value}"
                ),
                _ => format!("{source} is {value:?}, which is no mode; this binary is the {own} build: set {source} to {own}"),
            }
        })
        .collect();
    if mistakes.is_empty() { Ok(()) } else { Err(BootError::Configuration(mistakes)) }
}
