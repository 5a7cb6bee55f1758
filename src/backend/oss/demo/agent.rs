//! A producer of agent runs, without the agent: plays a role act by act, and notes the events and their times.

use super::dice::Dice;
use super::event::{Body, Evidence, Parent, Usage};
use super::walk::paced;
use crate::domain::event::{AgentOutcome, AgentStatus, AuditResult};
use crate::domain::timestamp::millis_to_seconds;

/// What an agent does in a run.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) agent_id: &'static str,
    pub(super) task: &'static str,
    pub(super) model: &'static str,
    pub(super) acts: &'static [Act],
    pub(super) outcome: AgentOutcome,
    pub(super) score: f64,
}

/// One thing that an agent does; times in seconds at speed 1.
#[derive(Debug)]
pub(super) enum Act {
    /// A new step.
    Think(f64),
    /// Looks back.
    Reflect(f64),
    /// Tool, what it was given, how long it took, and what it gave or what went wrong.
    Tool(&'static str, &'static str, f64, Result<&'static str, &'static str>),
    /// Checkpoint, result, what was looked at, what was found.
    Audit(&'static str, AuditResult, &'static str, &'static str),
}

/// Plays the role; events by their time since the run began, in milliseconds.
pub(super) fn play(role: &'static Role, parent: Parent, pace: f64, dice: &mut Dice) -> Vec<(u64, Body)> {
    let start = Body::AgentRunStart { agent_id: role.agent_id, task: role.task, model: role.model, parent };
    let mut player = Player {
        role,
        pace,
        at_ms: 0,
        step: 0,
        status: AgentStatus::Thinking,
        usage: Usage::default(),
        events: vec![(0, start)],
    };
    for act in role.acts {
        player.act(act, dice);
    }
    player.finish()
}

struct Player {
    role: &'static Role,
    pace: f64,
    at_ms: u64,
    step: u64,
    status: AgentStatus,
    usage: Usage,
    events: Vec<(u64, Body)>,
}

impl Player {
    fn put(&mut self, body: Body) {
        self.events.push((self.at_ms, body));
        self.at_ms += paced(0.003, self.pace);
    }

    /// Lets time pass; returns how much, in milliseconds.
    fn pass(&mut self, seconds: f64, dice: &mut Dice) -> u64 {
        let took = paced(seconds * dice.between(0.8, 1.2), self.pace);
        self.at_ms += took;
        took
    }

    fn turn(&mut self, to: AgentStatus, usage: Option<Usage>) {
        let from = std::mem::replace(&mut self.status, to);
        let (agent_id, step) = (self.role.agent_id, self.step);
        self.put(Body::AgentTransition { agent_id, step, from, to, usage });
    }

    fn act(&mut self, act: &Act, dice: &mut Dice) {
        let agent_id = self.role.agent_id;
        match *act {
            Act::Think(seconds) => {
                if self.status != AgentStatus::Thinking {
                    self.step += 1;
                    self.turn(AgentStatus::Thinking, None);
                }
                self.pass(seconds, dice);
            }
            Act::Reflect(seconds) => {
                let usage = self.spend(dice);
                self.turn(AgentStatus::Reflect, Some(usage));
                self.pass(seconds, dice);
            }
            Act::Tool(tool_name, input_summary, seconds, result) => {
                let usage = self.spend(dice);
                self.turn(AgentStatus::ToolCall, Some(usage));
                let took = self.pass(seconds, dice);
                self.put(Body::ToolInvocation {
                    agent_id,
                    step: self.step,
                    tool_name,
                    duration_s: millis_to_seconds(took),
                    ok: result.is_ok(),
                    input_summary,
                    output_summary: result.ok(),
                    error: result.err(),
                });
                self.turn(AgentStatus::ToolResult, None);
            }
            Act::Audit(checkpoint_id, result, looked_at, found) => {
                let took = self.pass(0.2, dice);
                let (agent_id, duration_s) = (Some(agent_id), millis_to_seconds(took));
                let evidence = Evidence { looked_at, found };
                self.put(Body::AuditCheckpoint { agent_id, checkpoint_id, result, duration_s, evidence });
            }
        }
    }

    fn spend(&mut self, dice: &mut Dice) -> Usage {
        let usage = dice.usage(1);
        self.usage = self.usage.plus(usage);
        usage
    }

    fn finish(mut self) -> Vec<(u64, Body)> {
        let is_good = self.role.outcome == AgentOutcome::Converged;
        self.turn(if is_good { AgentStatus::Converged } else { AgentStatus::Failed }, None);
        let count = |wanted: fn(&Body) -> bool| self.events.iter().filter(|(_, body)| wanted(body)).count() as u64;
        let end = Body::AgentRunEnd {
            agent_id: self.role.agent_id,
            outcome: self.role.outcome,
            total_steps: self.step + 1,
            total_tool_calls: count(|body| matches!(body, Body::ToolInvocation { .. })),
            total_audit_checkpoints: count(|body| matches!(body, Body::AuditCheckpoint { .. })),
            audits_passed: count(|body| matches!(body, Body::AuditCheckpoint { result: AuditResult::Pass, .. })),
            audits_failed: count(|body| matches!(body, Body::AuditCheckpoint { result: AuditResult::Fail, .. })),
            total_duration_s: millis_to_seconds(self.at_ms),
            convergence_score: self.role.score,
            usage: self.usage,
        };
        self.put(end);
        self.events
    }
}
