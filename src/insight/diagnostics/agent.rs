//! What agents tell: calls in circles, tools that fail, audits that fail or warn.

use std::collections::BTreeMap;

use super::evidence::{AgentLoop, AuditFound, Evidence, FailingAudit, FailingTool};
use super::words::{clipped, counted};
use super::{Finding, FindingKind, LISTED, Severity};
use crate::domain::event::AuditResult;
use crate::reduce::{AgentState, Audit};

/// A finding for each row of equal calls.
pub(super) fn loops(agent: &AgentState) -> Vec<Finding<'_>> {
    agent
        .loops
        .iter()
        .map(|row| Finding {
            kind: FindingKind::AgentLoop,
            severity: Severity::Warning,
            message: format!(
                "The agent called {} {} times in a row with the same input, from event {} on: {}.",
                clipped(&row.tool_name),
                row.calls,
                row.first_seq,
                clipped(&row.input_summary)
            ),
            node_ids: Vec::new(),
            steps: row.steps.clone(),
            seq: Some(row.first_seq),
            evidence: Evidence::AgentLoop(AgentLoop {
                tool_name: &row.tool_name,
                input_summary: &row.input_summary,
                calls: row.calls,
            }),
        })
        .collect()
}

/// A finding for each tool of which a call failed.
pub(super) fn failing_tools(agent: &AgentState) -> Vec<Finding<'_>> {
    let failing = agent.tools.iter().filter(|(_, tool)| tool.failed > 0);
    failing
        .map(|(tool_name, tool)| {
            let calls = tool.durations_s.len() as u64;
            let said = match tool.last_error.as_deref().map(str::trim) {
                None | Some("") => " nothing".to_owned(),
                Some(error) => format!(": {}", clipped(error)),
            };
            Finding {
                kind: FindingKind::FailingTool,
                severity: Severity::Warning,
                message: format!(
                    "{} failed in {} of {}; the last time it said{said}.",
                    clipped(tool_name),
                    tool.failed,
                    counted(calls, "call"),
                ),
                node_ids: Vec::new(),
                steps: tool.failed_steps.clone(),
                seq: tool.first_failed_seq,
                evidence: Evidence::FailingTool(FailingTool {
                    tool_name,
                    calls,
                    failed: tool.failed,
                    last_error: tool.last_error.as_deref(),
                }),
            }
        })
        .collect()
}

/// A finding for each checkpoint of which an audit failed or warned.
pub(super) fn failing_audits(agent: &AgentState) -> Vec<Finding<'_>> {
    let mut by_checkpoint: BTreeMap<&str, Vec<&Audit>> = BTreeMap::new();
    for audit in &agent.audits {
        by_checkpoint.entry(&audit.checkpoint_id).or_default().push(audit);
    }
    let mut findings = Vec::new();
    for (checkpoint_id, audits) in by_checkpoint {
        let found: Vec<&&Audit> = audits.iter().filter(|audit| audit.result != AuditResult::Pass).collect();
        let Some(first) = found.first() else { continue };
        let mut results: BTreeMap<AuditResult, u64> = AuditResult::ALL.iter().map(|&result| (result, 0)).collect();
        for audit in &audits {
            *results.entry(audit.result).or_default() += 1;
        }
        let of = |result| results.get(&result).copied().unwrap_or(0);
        let (failed, warned) = (of(AuditResult::Fail), of(AuditResult::Warn));
        let (severity, verb, times) =
            if failed > 0 { (Severity::Error, "failed", failed) } else { (Severity::Warning, "warned", warned) };
        let worst = if failed > 0 { AuditResult::Fail } else { AuditResult::Warn };
        let look_at = found.iter().find(|audit| audit.result == worst).map_or(first.seq, |audit| audit.seq);
        findings.push(Finding {
            kind: FindingKind::FailingAudit,
            severity,
            message: format!(
                "{checkpoint_id} {verb} in {times} of {}; look at its evidence in event {look_at}.",
                counted(audits.len() as u64, "audit"),
            ),
            node_ids: Vec::new(),
            steps: Vec::new(),
            seq: Some(first.seq),
            evidence: Evidence::FailingAudit(FailingAudit {
                checkpoint_id,
                results,
                audits: found
                    .iter()
                    .take(LISTED)
                    .map(|audit| AuditFound {
                        seq: audit.seq,
                        result: audit.result,
                        evidence: audit.evidence.as_deref(),
                        evidence_bytes: audit.evidence_bytes,
                    })
                    .collect(),
            }),
        });
    }
    findings
}
