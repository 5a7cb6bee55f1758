//! Events: one JSON object a line. One parser for archives and for ingest; the caller chooses what to do with its verdict.

mod fields;
mod names;
mod one_pass;

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use fields::{Obj, Text};
pub use names::{AgentOutcome, AgentStatus, AuditResult, Kind, NodeStatus, Outcome};

use super::{MAX_DEPTH, Timestamp, id, line};

/// One event of a log; borrows from its line.
#[derive(Debug)]
pub struct Event<'a> {
    /// When the producer says it happened; order is the position in the log, never this.
    pub ts: Timestamp,
    /// The run it belongs to.
    pub run_id: Cow<'a, str>,
    /// What happened.
    pub body: EventBody<'a>,
}

/// What an event says, by its `event` name.
#[derive(Debug)]
pub enum EventBody<'a> {
    /// `run_start`: a CI run begins.
    RunStart(RunStart<'a>),
    /// `node_transition`: a node moves to another status.
    NodeTransition(NodeTransition<'a>),
    /// `node_attempt`: one attempt at a node and its checks.
    NodeAttempt(NodeAttempt<'a>),
    /// `run_end`: a CI run ends.
    RunEnd(RunEnd),
    /// `agent_run_start`: an agent begins.
    AgentRunStart(AgentRunStart<'a>),
    /// `agent_transition`: an agent moves to another status.
    AgentTransition(AgentTransition<'a>),
    /// `tool_invocation`: an agent called a tool.
    ToolInvocation(ToolInvocation<'a>),
    /// `audit_checkpoint`: an audit gave its result.
    AuditCheckpoint(AuditCheckpoint<'a>),
    /// `agent_run_end`: an agent ends.
    AgentRunEnd(AgentRunEnd<'a>),
    /// `heartbeat`: a sign of life.
    Heartbeat,
    /// Any other name with valid base fields: kept, served, not reduced.
    Unknown(Cow<'a, str>),
}

impl EventBody<'_> {
    /// Whether the name is not one of the contract's.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether a run's log may begin with this event.
    pub fn is_start(&self) -> bool {
        matches!(self, Self::RunStart(_) | Self::AgentRunStart(_))
    }
}

/// Fields of `run_start`.
#[derive(Debug, Deserialize)]
pub struct RunStart<'a> {
    /// How many nodes the producer means to walk.
    #[serde(deserialize_with = "fields::int")]
    pub total_nodes: u64,
    /// What started this run.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub parent: Option<Obj<Parent<'a>>>,
}

/// What started a run: it leads from a DAG node to the agent runs that it spawned, and back.
#[derive(Debug, Deserialize)]
pub struct Parent<'a> {
    /// The run that started this one.
    #[serde(borrow, deserialize_with = "fields::run_id")]
    pub run_id: Text<'a>,
    /// Its node.
    #[serde(borrow, default, deserialize_with = "fields::opt_node_id")]
    pub node_id: Option<Text<'a>>,
    /// The node's attempt.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub attempt: Option<u64>,
    /// The step, when an agent started it.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub step: Option<u64>,
}

/// Fields of `node_transition`.
#[derive(Debug, Deserialize)]
pub struct NodeTransition<'a> {
    /// The node that moves.
    #[serde(borrow, deserialize_with = "fields::node_id")]
    pub node_id: Text<'a>,
    /// Where the producer says it was.
    pub from: NodeStatus,
    /// Where it is now.
    pub to: NodeStatus,
    /// The attempt that begins; always there when it moves to running.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub attempt: Option<u64>,
    /// `<kind>[:<detail>]`.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub reason: Option<Text<'a>>,
}

/// Fields of `node_attempt`.
#[derive(Debug, Deserialize)]
pub struct NodeAttempt<'a> {
    /// The node.
    #[serde(borrow, deserialize_with = "fields::node_id")]
    pub node_id: Text<'a>,
    /// Which attempt, from 1.
    #[serde(deserialize_with = "fields::positive")]
    pub attempt: u64,
    /// How long it took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub duration_s: f64,
    /// Whether every `done_when` command exited 0.
    pub converged: bool,
    /// The wait before this attempt, in seconds; absent on attempt 1.
    #[serde(default, deserialize_with = "fields::opt_duration")]
    pub backoff_s: Option<f64>,
    /// The checks, in the order they ran.
    #[serde(borrow)]
    pub done_when_results: Vec<Obj<Check<'a>>>,
    /// Tokens and cost of this attempt.
    #[serde(default, deserialize_with = "fields::present")]
    pub usage: Option<Obj<Usage>>,
}

/// One `done_when` command and how it ended.
#[derive(Debug, Deserialize)]
pub struct Check<'a> {
    /// The command.
    #[serde(borrow)]
    pub cmd: Text<'a>,
    /// Its exit code.
    pub rc: i32,
    /// How long it took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub duration_s: f64,
    /// The last 4,096 characters of its output, when rc is not 0.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub tail: Option<Text<'a>>,
    /// Whether the tail was cut further.
    #[serde(default, deserialize_with = "fields::present")]
    pub truncated: Option<bool>,
}

/// Fields of `run_end`.
#[derive(Debug, Deserialize)]
pub struct RunEnd {
    /// What the producer declares.
    pub outcome: Outcome,
    /// Nodes done, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub done: u64,
    /// Nodes failed, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub failed: u64,
    /// Nodes blocked, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub blocked: u64,
    /// How long the run took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub total_duration_s: f64,
    /// Attempts, as declared.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub total_attempts: Option<u64>,
    /// Flake retries, as declared.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub flake_retries: Option<u64>,
    /// The producer's exit code; absent when 0.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub exit_code: Option<u64>,
}

/// Fields of `agent_run_start`.
#[derive(Debug, Deserialize)]
pub struct AgentRunStart<'a> {
    /// The agent.
    #[serde(borrow, deserialize_with = "fields::agent_id")]
    pub agent_id: Text<'a>,
    /// What it was asked to do.
    #[serde(borrow)]
    pub task: Text<'a>,
    /// The model it runs on.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub model: Option<Text<'a>>,
    /// What started this run.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub parent: Option<Obj<Parent<'a>>>,
}

/// Fields of `agent_transition`.
#[derive(Debug, Deserialize)]
pub struct AgentTransition<'a> {
    /// The agent.
    #[serde(borrow, deserialize_with = "fields::agent_id")]
    pub agent_id: Text<'a>,
    /// The step, from 0.
    #[serde(deserialize_with = "fields::int")]
    pub step: u64,
    /// Where the producer says it was.
    pub from: AgentStatus,
    /// Where it is now.
    pub to: AgentStatus,
    /// Why.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub reason: Option<Text<'a>>,
    /// Tokens and cost of this step.
    #[serde(default, deserialize_with = "fields::present")]
    pub usage: Option<Obj<Usage>>,
}

/// Fields of `tool_invocation`.
#[derive(Debug, Deserialize)]
pub struct ToolInvocation<'a> {
    /// The agent.
    #[serde(borrow, deserialize_with = "fields::agent_id")]
    pub agent_id: Text<'a>,
    /// The step, from 0.
    #[serde(deserialize_with = "fields::int")]
    pub step: u64,
    /// The tool.
    #[serde(borrow)]
    pub tool_name: Text<'a>,
    /// How long it took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub duration_s: f64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What it was given.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub input_summary: Option<Text<'a>>,
    /// What it gave.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub output_summary: Option<Text<'a>>,
    /// What went wrong.
    #[serde(borrow, default, deserialize_with = "fields::present")]
    pub error: Option<Text<'a>>,
    /// Tokens and cost of this call.
    #[serde(default, deserialize_with = "fields::present")]
    pub usage: Option<Obj<Usage>>,
}

/// Fields of `audit_checkpoint`.
#[derive(Debug, Deserialize)]
pub struct AuditCheckpoint<'a> {
    /// The agent that was audited; null in a CI run.
    #[serde(borrow, default, deserialize_with = "fields::nullable_agent_id")]
    pub agent_id: Option<Text<'a>>,
    /// The audit, by custom `audit:<name>`.
    #[serde(borrow, deserialize_with = "fields::checkpoint_id")]
    pub checkpoint_id: Text<'a>,
    /// What it found.
    pub result: AuditResult,
    /// How long it took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub duration_s: f64,
    /// What it rests on: a JSON object, as it was written.
    #[serde(borrow, default, deserialize_with = "fields::opt_object")]
    pub evidence: Option<&'a RawValue>,
}

/// Fields of `agent_run_end`.
#[derive(Debug, Deserialize)]
pub struct AgentRunEnd<'a> {
    /// The agent.
    #[serde(borrow, deserialize_with = "fields::agent_id")]
    pub agent_id: Text<'a>,
    /// What the producer declares.
    pub outcome: AgentOutcome,
    /// Steps, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub total_steps: u64,
    /// Tool calls, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub total_tool_calls: u64,
    /// Audits, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub total_audit_checkpoints: u64,
    /// Audits passed, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub audits_passed: u64,
    /// Audits failed, as declared.
    #[serde(deserialize_with = "fields::int")]
    pub audits_failed: u64,
    /// How long the run took, in seconds.
    #[serde(deserialize_with = "fields::duration")]
    pub total_duration_s: f64,
    /// How far it converged, 0 to 1.
    #[serde(default, deserialize_with = "fields::opt_score")]
    pub convergence_score: Option<f64>,
    /// Tokens and cost of the whole run: each field wins over the sum of its parts.
    #[serde(default, deserialize_with = "fields::present")]
    pub usage: Option<Obj<Usage>>,
}

/// Tokens and cost. Sums of tokens saturate; cost is added in log order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Usage {
    /// Tokens read by the model.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub input_tokens: Option<u64>,
    /// Tokens written by the model.
    #[serde(default, deserialize_with = "fields::opt_int")]
    pub output_tokens: Option<u64>,
    /// Cost in US dollars.
    #[serde(default, deserialize_with = "fields::opt_number")]
    pub cost_usd: Option<f64>,
}

/// Reads one line (its bytes less LF and CR).
///
/// # Errors
///
/// The reason, as one short clause, when the line is malformed (domain contract, "What is malformed").
pub fn parse_line(bytes: &[u8]) -> Result<Event<'_>, String> {
    if bytes.is_empty() {
        return Err(line::EMPTY_LINE.into());
    }
    if memchr::memchr(0, bytes).is_some() {
        return Err("NUL byte".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to() + 1))?;
    if is_too_deep(bytes) {
        return Err(format!("nested deeper than {MAX_DEPTH}"));
    }
    // Nearly all lines are read in one pass; whatever is wrong or unusual is read in two, which say what it is.
    one_pass::read(text).map_or_else(|| two_passes(text), Ok)
}

/// The base fields first, wherever they stand; then what its name says that the event has.
fn two_passes(text: &str) -> Result<Event<'_>, String> {
    let Base { ts, run_id, event } = base(text)?;
    let body = match event.as_ref() {
        "run_start" => EventBody::RunStart(body(text, &event)?),
        "node_transition" => EventBody::NodeTransition(moved(body(text, &event)?)?),
        "node_attempt" => EventBody::NodeAttempt(body(text, &event)?),
        "run_end" => EventBody::RunEnd(body(text, &event)?),
        "agent_run_start" => EventBody::AgentRunStart(body(text, &event)?),
        "agent_transition" => EventBody::AgentTransition(body(text, &event)?),
        "tool_invocation" => EventBody::ToolInvocation(body(text, &event)?),
        "audit_checkpoint" => EventBody::AuditCheckpoint(body(text, &event)?),
        "agent_run_end" => EventBody::AgentRunEnd(body(text, &event)?),
        "heartbeat" => EventBody::Heartbeat,
        _ => EventBody::Unknown(event),
    };
    Ok(Event { ts, run_id, body })
}

/// A move to running always says which attempt begins.
fn moved(moved: NodeTransition<'_>) -> Result<NodeTransition<'_>, String> {
    if moved.to == NodeStatus::Running && moved.attempt.is_none() {
        return Err("node_transition: missing field `attempt` of a move to running".into());
    }
    Ok(moved)
}

struct Base<'a> {
    ts: Timestamp,
    run_id: Cow<'a, str>,
    event: Cow<'a, str>,
}

fn base(text: &str) -> Result<Base<'_>, String> {
    if !text.trim_start_matches([' ', '\t', '\r']).starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => "not an object".into(),
            Err(error) => format!("not JSON: {}", clause(&error)),
        });
    }
    let slots: Slots<'_> = serde_json::from_str(text).map_err(|error| format!("not JSON: {}", clause(&error)))?;
    if let Some(name) = slots.duplicate {
        return Err(format!("duplicate field: {name}"));
    }
    let ts = slots.ts.and_then(Slot::text).and_then(|t| Timestamp::parse(&t)).ok_or("no valid ts")?;
    let run_id = slots.run_id.and_then(Slot::text).filter(|t| id::is_run_id(t)).ok_or("no valid run_id")?;
    let event = slots.event.and_then(Slot::text).filter(|t| !t.is_empty()).ok_or("no valid event")?;
    Ok(Base { ts, run_id, event })
}

fn body<'a, T: Deserialize<'a>>(text: &'a str, event: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{event}: {}", clause(&error)))
}

/// The parser's words on one line; a line of a log has columns only, and a hostile value must not make them long.
fn clause(error: &serde_json::Error) -> String {
    const MOST: usize = 200;
    let words = error.to_string();
    let words = match words.rsplit_once(" at line ") {
        Some((words, place)) if error.line() > 0 => {
            let column = place.rsplit_once(' ').map_or(place, |(_, column)| column);
            let words: String = words.chars().take(MOST).collect();
            return format!("{words} at column {column}");
        }
        _ => words,
    };
    words.chars().take(MOST).collect()
}

/// Base fields as they stand, before they are judged.
#[derive(Default)]
struct Slots<'a> {
    ts: Option<Slot<'a>>,
    run_id: Option<Slot<'a>>,
    event: Option<Slot<'a>>,
    duplicate: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Slots<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotsVisitor;
        impl<'de> Visitor<'de> for SlotsVisitor {
            type Value = Slots<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut slots = Slots::default();
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let (slot, name) = match &*key {
                        "ts" => (&mut slots.ts, "ts"),
                        "run_id" => (&mut slots.run_id, "run_id"),
                        "event" => (&mut slots.event, "event"),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if slot.is_some() {
                        slots.duplicate = Some(name);
                    }
                    *slot = Some(map.next_value()?);
                }
                Ok(slots)
            }
        }
        deserializer.deserialize_map(SlotsVisitor)
    }
}

/// A value that should be a string.
enum Slot<'a> {
    Text(Cow<'a, str>),
    Other,
}

impl<'a> Slot<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Slot<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotVisitor;
        impl<'de> Visitor<'de> for SlotVisitor {
            type Value = Slot<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("any value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Slot::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Slot::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Slot::Other)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Slot::Other)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Slot::Other)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Slot::Other)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Slot::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Slot::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Slot::Other)
            }
        }
        deserializer.deserialize_any(SlotVisitor)
    }
}

/// Whether arrays and objects nest deeper than the limit; brackets inside strings do not count.
pub(crate) fn is_too_deep(bytes: &[u8]) -> bool {
    if memchr::memchr2_iter(b'{', b'[', bytes).take(MAX_DEPTH + 1).count() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Members of an object, sound and not: base fields, fields of each event, and what must not be taken.
    const MEMBERS: &[&str] = &[
        r#""ts":"2026-04-24T10:00:00.000Z""#,
        r#""ts":"2026-04-24""#,
        r#""ts":1"#,
        r#""run_id":"r-1""#,
        r#""run_id":"a b""#,
        r#""run\u005fid":"r-1""#,
        r#""event":"heartbeat""#,
        r#""event":"later""#,
        r#""event":"l\u0061ter""#,
        r#""event":"""#,
        r#""event":null"#,
        r#""event":"run_start""#,
        r#""event":"node_transition""#,
        r#""event":"audit_checkpoint""#,
        r#""event":"agent_transition""#,
        r#""total_nodes":3"#,
        r#""total_nodes":-3"#,
        r#""total\u005fnodes":3"#,
        r#""parent":{"run_id":"p","ts":"inside"}"#,
        r#""node_id":"a""#,
        r#""node_id":"n\u00e9""#,
        r#""from":"ready""#,
        r#""to":"running""#,
        r#""to":"done""#,
        r#""attempt":1"#,
        r#""attempt":null"#,
        r#""agent_id":null"#,
        r#""agent_id":"coder""#,
        r#""step":0"#,
        r#""from":"thinking""#,
        r#""to":"tool_call""#,
        r#""usage":{"cost_usd":0.1,"input_tokens":7}"#,
        r#""checkpoint_id":"lint""#,
        r#""result":"pass""#,
        r#""duration_s":-0.0"#,
        r#""duration_s":1e999"#,
        r#""evidence":{"event":[1,{}]}"#,
        r#""evidence":[]"#,
        r#""other":{"ts":[]}"#,
        r#""ot\ther":"\ud800""#,
        r#""unquoted":x"#,
    ];

    /// What one pass takes, two passes take, and read as the same event; whatever it does not take is theirs to judge.
    fn agree(line: &str) -> Result<(), TestCaseError> {
        if let Some(event) = one_pass::read(line) {
            prop_assert_eq!(Ok(format!("{event:?}")), two_passes(line).map(|event| format!("{event:?}")), "{}", line);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn one_pass_takes_nothing_that_two_would_read_otherwise(
            base in Just(vec![MEMBERS[0], MEMBERS[3]]),
            event in select(&MEMBERS[6..15]),
            more in vec(select(MEMBERS), 0..9),
            order in any::<prop::sample::Index>(),
            end in select(&["}", "} ", "}}", "", ",}", "}\n{}"][..]),
        ) {
            let mut members = [base, vec![event], more].concat();
            let turned = order.index(members.len());
            agree(&format!("{{{}{end}", members.join(",")))?;
            members.rotate_left(turned);
            agree(&format!("{{{}{end}", members.join(",")))?;
        }
    }

    /// The lines of every producer that is known here are usual ones: two passes over each would take twice as long.
    #[test]
    fn the_lines_of_the_samples_are_read_in_one_pass() {
        let mut read = 0;
        for run in std::fs::read_dir("data/runs").unwrap() {
            let log = std::fs::read(run.unwrap().path().join("transitions.jsonl")).unwrap_or_default();
            for line in log.split(|byte| *byte == b'\n').filter(|line| parse_line(line).is_ok()) {
                let line = std::str::from_utf8(line).unwrap();
                assert!(one_pass::read(line).is_some(), "{line}");
                agree(line).unwrap();
                read += 1;
            }
        }
        assert!(read > 600, "{read} lines");
    }
}
