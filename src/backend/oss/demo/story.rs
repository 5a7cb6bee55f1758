//! What happens in the demo: six days of releases and nightly runs, and the releases that play live.

use super::cast::{DRILL, LOOP, NIGHTLY, RELEASE, REPAIR, REVIEW};
use super::event::Evidence;
use super::walk::{Audit, Fate, Plan, Spawn};
use crate::domain::event::AuditResult;

/// How much slower the past went than the live runs do.
const PAST_PACE: f64 = 6.0;
/// When each past release began, in hours before now.
const RELEASES_BEGAN: [f64; 12] = [140.0, 127.0, 116.0, 104.0, 92.0, 80.0, 67.0, 55.0, 43.0, 30.0, 17.0, 4.0];
/// When each past night began, in hours before now.
const NIGHTS_BEGAN: [f64; 6] = [129.0, 105.0, 81.0, 57.0, 33.0, 9.0];
/// The number of the first past release.
const FIRST_RELEASE: usize = 319;
/// From this past release on, the backup fails.
const BACKUP_BREAKS: usize = 9;
/// Before this past release, the docs' links fail.
const LINKS_MENDED: usize = 3;

/// The past: when each run began, in hours before now, and how it went.
pub(super) fn past() -> Vec<(f64, Plan)> {
    let releases = RELEASES_BEGAN.iter().enumerate().map(|(at, began)| (*began, past_release(at)));
    let nights = NIGHTS_BEGAN.iter().enumerate().map(|(at, began)| (*began, night(at)));
    releases.chain(nights).collect()
}

/// The live release of this number, from 0: by turns one that fails and one that converges.
pub(super) fn live(number: usize, pace: f64) -> Plan {
    let run = FIRST_RELEASE + RELEASES_BEGAN.len() + number;
    if number.is_multiple_of(2) {
        let mut plan = release(run, pace, Fate::Converges(1), Fate::GivesUp);
        plan.agents = vec![
            spawn(format!("repair-{run}"), "api-events", 2, &REPAIR),
            spawn(format!("mend-backup-{run}"), "backup", 2, &LOOP),
            spawn(format!("review-{run}"), "ui-live", 1, &REVIEW),
        ];
        plan.audits.push(("spec", size_budget(AuditResult::Fail)));
        return plan;
    }
    let mut plan = release(run, pace, Fate::Converges(0), Fate::Converges(1));
    plan.agents = vec![
        spawn(format!("review-{run}"), "ui-live", 1, &REVIEW),
        spawn(format!("drill-{run}"), "restore-drill", 1, &DRILL),
    ];
    plan.audits.push(("spec", size_budget(AuditResult::Pass)));
    plan
}

fn past_release(at: usize) -> Plan {
    let run = FIRST_RELEASE + at;
    let is_flaky = at % 5 == 1 || at.is_multiple_of(3);
    let stream = Fate::Converges(u64::from(is_flaky));
    let backup = if at >= BACKUP_BREAKS { Fate::GivesUp } else { Fate::Converges(0) };
    let mut plan = release(run, PAST_PACE, stream, backup);
    if at < LINKS_MENDED {
        plan.fates.push(("docs", Fate::GivesUp));
    }
    let links = if at < LINKS_MENDED { AuditResult::Fail } else { AuditResult::Pass };
    plan.audits.push(("ui-shell", audit("audit:docs-links", links, "docs/**", "links that lead nowhere are counted")));
    let size = if at >= BACKUP_BREAKS { AuditResult::Fail } else { AuditResult::Pass };
    plan.audits.push(("spec", size_budget(size)));
    if is_flaky {
        plan.agents.push(spawn(format!("repair-{run}"), "api-events", 2, &REPAIR));
    }
    if at.is_multiple_of(2) {
        plan.agents.push(spawn(format!("review-{run}"), "ui-live", 1, &REVIEW));
    }
    plan
}

fn release(run: usize, pace: f64, stream: Fate, backup: Fate) -> Plan {
    Plan {
        run_id: format!("release-{run}"),
        nodes: RELEASE,
        fates: vec![("api-events", stream), ("backup", backup)],
        audits: vec![("plan", audit("audit:no-debug-output", AuditResult::Pass, "git diff", "no print left"))],
        agents: Vec::new(),
        pace,
    }
}

fn night(at: usize) -> Plan {
    let headers = audit("audit:licence-headers", AuditResult::Fail, "src/**", "2 files without a header");
    Plan {
        run_id: format!("night-{}", 41 + at),
        nodes: NIGHTLY,
        fates: vec![("soak", Fate::GivesUp), ("load-data", Fate::Converges(u64::from(at == 2)))],
        audits: vec![("fetch", headers)],
        agents: Vec::new(),
        pace: PAST_PACE,
    }
}

fn size_budget(result: AuditResult) -> Audit {
    let found = if result == AuditResult::Pass { "9.1 MB of 10 MB" } else { "10.6 MB of 10 MB" };
    audit("audit:size-budget", result, "target/release", found)
}

fn audit(checkpoint_id: &'static str, result: AuditResult, looked_at: &'static str, found: &'static str) -> Audit {
    Audit { checkpoint_id, result, evidence: Evidence { looked_at, found } }
}

fn spawn(run_id: String, node_id: &'static str, attempt: u64, role: &'static super::agent::Role) -> Spawn {
    Spawn { run_id, node_id, attempt, role }
}
