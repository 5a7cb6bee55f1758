//! `kahn validate`: what in a log, an archive or a run folder is not as the contract says, each with file and line.
//!
//! It reads as the server does (the same reader, the same parser, the same fold), a line at a time, and writes nothing.

mod log;
mod summary;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap::builder::BoolishValueParser;
use serde::Serialize;

use self::log::LogCheck;
use super::named::open_all;
use super::print::{Lines, Progress};
use crate::archive_reader::{Archive, Found, GRAPH, LOG, LogFile, NamedLog, RUNS, ReaderError, RunFolder, SUMMARY};
use crate::config::BootError;
use crate::domain::Graph;
use crate::reduce::Summary;

/// Options of `kahn validate`.
#[derive(Debug, Clone, Args)]
pub(super) struct ValidateOptions {
    /// Archives (folders with runs/), run folders, and logs (transitions.jsonl)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print one JSON object a finding, and one that counts them at the end
    #[arg(long, env = "KAHN_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Severity {
    /// Not as the contract says: exit code 1.
    Fault,
    /// Allowed, and seldom meant.
    Warning,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Code {
    /// A line that no answer shows: it is skipped.
    SkippedLine,
    /// A last line without its newline.
    TornLine,
    /// An event whose name is not known.
    UnknownEvent,
    /// A breach of order, or an illegal move.
    Inconsistent,
    /// An end or start event says another figure than the log shows.
    Declared,
    /// A field where the contract has none, or past its limit.
    Form,
    /// A fault of graph.json.
    Graph,
    /// summary.json and the log differ.
    Summary,
    /// What no reader of the archive opens.
    NotOpened,
}

/// One thing that is not as it should be.
#[derive(Debug, Serialize)]
struct Finding<'a> {
    severity: Severity,
    code: Code,
    file: &'a str,
    /// From 1; null when it is about the whole file.
    line: Option<u64>,
    reason: String,
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Total {
    ok: bool,
    runs: u64,
    lines: u64,
    faults: u64,
    warnings: u64,
}

/// Tells a person or a program, and counts.
struct Report {
    lines_out: Lines,
    progress: Progress,
    is_json: bool,
    all_runs: u64,
    runs: u64,
    lines: u64,
    faults: u64,
    warnings: u64,
}

impl Report {
    fn tell(&mut self, finding: &Finding<'_>) {
        match finding.severity {
            Severity::Fault => self.faults += 1,
            Severity::Warning => self.warnings += 1,
        }
        self.progress.clear();
        if self.is_json {
            self.lines_out.json(finding);
            return;
        }
        let Finding { file, reason, .. } = finding;
        let at = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let warning = if finding.severity == Severity::Warning { "warning: " } else { "" };
        self.lines_out.say(&format!("{file}{at}: {warning}{reason}"));
    }

    fn show_progress(&mut self) {
        let Self { runs, all_runs, lines, progress, .. } = self;
        progress.show(|| format!("checking: {runs} of {all_runs} runs, {lines} lines"));
    }

    fn sum_up(mut self) -> ExitCode {
        self.progress.clear();
        let ok = self.faults == 0;
        let Self { runs, lines, faults, warnings, .. } = self;
        if self.is_json {
            self.lines_out.json(&Total { ok, runs, lines, faults, warnings });
        } else {
            let found = match (faults, warnings) {
                (0, 0) => "no faults".to_owned(),
                (0, _) => format!("no faults, {}", counted(warnings, "warning")),
                (_, 0) => counted(faults, "fault"),
                _ => format!("{}, {}", counted(faults, "fault"), counted(warnings, "warning")),
            };
            self.lines_out.say(&format!("{}, {}: {found}", counted(runs, "run"), counted(lines, "line")));
        }
        self.lines_out.flush();
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The findings of one file.
struct InFile<'a> {
    report: &'a mut Report,
    file: String,
}

impl InFile<'_> {
    fn fault(&mut self, code: Code, line: Option<u64>, reason: impl Into<String>) {
        self.tell(Severity::Fault, code, line, reason.into());
    }

    /// Faults that are counted and not told one by one.
    fn further(&mut self, code: Code, count: u64) {
        if count > 0 {
            self.fault(code, None, format!("{} beside those that are told one by one", counted(count, "more fault")));
            self.report.faults += count - 1;
        }
    }

    fn warning(&mut self, code: Code, line: Option<u64>, reason: impl Into<String>) {
        self.tell(Severity::Warning, code, line, reason.into());
    }

    fn tell(&mut self, severity: Severity, code: Code, line: Option<u64>, reason: String) {
        self.report.tell(&Finding { severity, code, file: &self.file, line, reason });
    }
}

/// What a person named.
enum Named {
    Archive(PathBuf, Archive),
    Log(PathBuf, NamedLog),
}

impl Named {
    fn open(path: &Path) -> Result<Self, ReaderError> {
        if path.is_file() {
            return Ok(Self::Log(path.to_owned(), NamedLog::open(path)?));
        }
        Ok(Self::Archive(path.to_owned(), Archive::open_archive_or_run(path)?))
    }
}

pub(super) fn run(options: &ValidateOptions) -> Result<ExitCode, BootError> {
    let named = open_all(&options.paths, Named::open)?;
    let mut report = Report {
        lines_out: Lines::stdout(),
        progress: Progress::stderr(),
        is_json: options.json,
        all_runs: 0,
        runs: 0,
        lines: 0,
        faults: 0,
        warnings: 0,
    };
    for one in &named {
        match one {
            Named::Archive(path, archive) => check_archive(path, archive, &mut report)?,
            Named::Log(path, log) => {
                report.all_runs += 1;
                let beside = path.parent().unwrap_or(Path::new(""));
                let files = Files { log: path.clone(), graph: beside.join(GRAPH), summary: None };
                check_run(log.folder(), || log.log(), &files, &mut report);
            }
        }
    }
    Ok(report.sum_up())
}

fn check_archive(path: &Path, archive: &Archive, report: &mut Report) -> Result<(), BootError> {
    let listing = archive.listing().map_err(|error| BootError::Failure(error.to_string()))?;
    for name in listing.others {
        let file = path.join(RUNS).join(name).display().to_string();
        let reason = "not a run folder: it is a link or a file, or its name is no run_id; it is left out";
        InFile { report, file }.warning(Code::NotOpened, None, reason);
    }
    report.all_runs += listing.run_ids.len() as u64;
    for run_id in &listing.run_ids {
        if report.lines_out.is_gone() {
            break;
        }
        let place = if archive.is_one_run() { path.to_owned() } else { path.join(RUNS).join(run_id.as_str()) };
        match archive.run(run_id) {
            Ok(Some(folder)) => {
                let files =
                    Files { log: place.join(LOG), graph: place.join(GRAPH), summary: Some(place.join(SUMMARY)) };
                check_run(&folder, || folder.log(), &files, report);
            }
            // It went away since it was listed.
            Ok(None) => {}
            Err(error) => {
                InFile { report, file: place.display().to_string() }.fault(Code::NotOpened, None, error.to_string());
            }
        }
    }
    Ok(())
}

/// Where a run's files are, as a person would write it.
struct Files {
    log: PathBuf,
    graph: PathBuf,
    /// `None` when the log alone was named.
    summary: Option<PathBuf>,
}

fn check_run(
    folder: &RunFolder,
    open_log: impl FnOnce() -> Result<Found<LogFile>, ReaderError>,
    files: &Files,
    report: &mut Report,
) {
    report.runs += 1;
    report.show_progress();
    let graph = check_graph(folder, &mut InFile { report, file: files.graph.display().to_string() });
    let mut in_log = InFile { report, file: files.log.display().to_string() };
    let mut check = LogCheck::new(graph.as_ref());
    match open_log() {
        Ok(Found::Nothing) => {}
        Ok(Found::NotRegular) => in_log.fault(Code::NotOpened, None, NOT_REGULAR),
        Ok(Found::File(log)) => check.read(folder.run_id(), &log, &mut in_log),
        Err(error) => in_log.fault(Code::NotOpened, None, error.to_string()),
    }
    let state = check.state();
    // The graph's hash plays no part here.
    let counted = Summary::of(folder.run_id(), state, graph.as_ref().map(|graph| (graph, "")));
    check.finish(&counted, &mut in_log);
    if let Some(file) = &files.summary {
        let mut in_summary = InFile { report, file: file.display().to_string() };
        match folder.summary() {
            Ok(Found::Nothing) => {}
            Ok(Found::NotRegular) => in_summary.fault(Code::NotOpened, None, NOT_REGULAR),
            Ok(Found::File(Ok(bytes))) => summary::compare(&bytes, check.state(), &counted, &mut in_summary),
            Ok(Found::File(Err(reason))) => in_summary.fault(Code::Summary, None, reason),
            Err(error) => in_summary.fault(Code::NotOpened, None, error.to_string()),
        }
    }
}

const NOT_REGULAR: &str = "a link or no regular file; it is not opened";

fn check_graph(folder: &RunFolder, in_graph: &mut InFile<'_>) -> Option<Graph> {
    match folder.graph() {
        Ok(Found::Nothing) => None,
        Ok(Found::NotRegular) => {
            in_graph.fault(Code::NotOpened, None, NOT_REGULAR);
            None
        }
        Ok(Found::File(file)) => match file.graph {
            Ok(graph) => {
                for fault in &graph.faults {
                    in_graph.fault(Code::Graph, None, fault);
                }
                in_graph.further(Code::Graph, graph.fault_count - graph.faults.len() as u64);
                Some(graph)
            }
            Err(reason) => {
                in_graph.fault(Code::Graph, None, reason);
                None
            }
        },
        Err(error) => {
            in_graph.fault(Code::NotOpened, None, error.to_string());
            None
        }
    }
}
