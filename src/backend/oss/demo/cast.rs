//! Who plays in the demo: the nodes of its two graphs and the agents that work on them.

use super::agent::{Act, Role};
use super::event::{Break, Node};
use crate::domain::event::AgentOutcome;
use crate::domain::event::AuditResult::{Fail, Pass, Warn};

/// A release: two branches from the plan, one of them over the storage, and a canary that needs all.
pub(super) const RELEASE: &[Node] = &[
    Node {
        id: "plan",
        deliverable: "Release plan, version bump and changelog heading",
        depends_on: &[],
        touches: &["Cargo.toml", "CHANGELOG.md"],
        parallel_safe: false,
        done_when: &["cargo metadata --format-version 1 --locked", "scripts/check-version.sh"],
        max_ralph_iters: 3,
        seconds: 6.0,
        breaks: Break { check: 1, rc: 1, tail: "CHANGELOG.md has no heading for this version\n" },
    },
    Node {
        id: "schema",
        deliverable: "Event schema with the new fields",
        depends_on: &["plan"],
        touches: &["schema/**"],
        parallel_safe: true,
        done_when: &["scripts/check-schema.sh", "cargo test schema::"],
        max_ralph_iters: 4,
        seconds: 7.0,
        breaks: Break { check: 0, rc: 1, tail: "schema/events.json: field `parent` is not described\n" },
    },
    Node {
        id: "api-runs",
        deliverable: "List and read runs",
        depends_on: &["schema"],
        touches: &["src/api/runs.rs"],
        parallel_safe: true,
        done_when: &["cargo check", "cargo test api::runs", "cargo clippy -- -D warnings"],
        max_ralph_iters: 6,
        seconds: 8.0,
        breaks: Break { check: 1, rc: 101, tail: "test api::runs::pages_do_not_overlap ... FAILED\n" },
    },
    Node {
        id: "storage",
        deliverable: "Append-only store with fsync before the answer",
        depends_on: &["schema"],
        touches: &["src/storage/**"],
        parallel_safe: true,
        done_when: &["cargo check", "cargo test storage::"],
        max_ralph_iters: 6,
        seconds: 9.0,
        breaks: Break { check: 1, rc: 101, tail: "test storage::survives_kill ... FAILED\n" },
    },
    Node {
        id: "ui-shell",
        deliverable: "Navigation, empty states and keyboard focus",
        depends_on: &["plan"],
        touches: &["ui/shell/**"],
        parallel_safe: true,
        done_when: &["npm run check", "npm test -- shell"],
        max_ralph_iters: 6,
        seconds: 8.0,
        breaks: Break { check: 1, rc: 1, tail: "shell.test.js: focus leaves the dialog\n" },
    },
    Node {
        id: "api-events",
        deliverable: "Event stream that resumes where a client stopped",
        depends_on: &["api-runs"],
        touches: &["src/api/events.rs"],
        parallel_safe: true,
        done_when: &["cargo check", "cargo test events::resume"],
        max_ralph_iters: 6,
        seconds: 9.0,
        breaks: Break {
            check: 1,
            rc: 101,
            tail: "test events::resume::after_a_gap ... FAILED\n\nassertion `left == right` failed: a frame came twice\n  left: 42\n right: 41\n",
        },
    },
    Node {
        id: "spec",
        deliverable: "OpenAPI document made from the routes",
        depends_on: &["api-runs"],
        touches: &["openapi/**"],
        parallel_safe: true,
        done_when: &["cargo run --bin openapi -- --check"],
        max_ralph_iters: 4,
        seconds: 6.0,
        breaks: Break { check: 0, rc: 1, tail: "openapi/openapi.json differs from the routes\n" },
    },
    Node {
        id: "backup",
        deliverable: "Hourly backup with a checksum for each file",
        depends_on: &["storage"],
        touches: &["scripts/backup/**"],
        parallel_safe: true,
        done_when: &["shellcheck scripts/backup/*.sh", "scripts/backup/run.sh --verify"],
        max_ralph_iters: 3,
        seconds: 12.0,
        breaks: Break {
            check: 1,
            rc: 4,
            tail: "verify: segment 0007: expected sha256 9f2c41d0, found 00000000\nverify: 1 of 31 segments differs\n",
        },
    },
    Node {
        id: "ui-live",
        deliverable: "Live page that follows a run",
        depends_on: &["ui-shell", "api-events"],
        touches: &["ui/live/**"],
        parallel_safe: true,
        done_when: &["npm run check", "npm test -- live"],
        max_ralph_iters: 6,
        seconds: 10.0,
        breaks: Break { check: 1, rc: 1, tail: "live.test.js: the last frame is not shown\n" },
    },
    Node {
        id: "docs",
        deliverable: "Handbook pages for what is new",
        depends_on: &["ui-shell", "spec"],
        touches: &["docs/**"],
        parallel_safe: true,
        done_when: &["mdbook build", "scripts/check-links.sh docs"],
        max_ralph_iters: 3,
        seconds: 7.0,
        breaks: Break { check: 1, rc: 1, tail: "docs/live.md: 3 links lead nowhere\n" },
    },
    Node {
        id: "restore-drill",
        deliverable: "A backup restored into an empty machine",
        depends_on: &["backup"],
        touches: &["scripts/restore/**"],
        parallel_safe: false,
        done_when: &["scripts/restore/drill.sh"],
        max_ralph_iters: 2,
        seconds: 8.0,
        breaks: Break { check: 0, rc: 1, tail: "drill: 2 runs are missing after the restore\n" },
    },
    Node {
        id: "canary",
        deliverable: "The release on one machine of ten, watched for errors",
        depends_on: &["ui-live", "restore-drill", "spec", "docs"],
        touches: &["deploy/**"],
        parallel_safe: false,
        done_when: &["scripts/canary.sh --minutes 5"],
        max_ralph_iters: 2,
        seconds: 9.0,
        breaks: Break { check: 0, rc: 1, tail: "canary: 14 errors in 5 minutes\n" },
    },
];

/// What runs each night: its soak test has never passed.
pub(super) const NIGHTLY: &[Node] = &[
    Node {
        id: "fetch",
        deliverable: "A clean checkout with its dependencies",
        depends_on: &[],
        touches: &["work/**"],
        parallel_safe: false,
        done_when: &["scripts/fetch.sh --locked"],
        max_ralph_iters: 3,
        seconds: 5.0,
        breaks: Break { check: 0, rc: 6, tail: "could not resolve the mirror's name\n" },
    },
    Node {
        id: "load-data",
        deliverable: "A million events in an empty store",
        depends_on: &["fetch"],
        touches: &["data/**"],
        parallel_safe: true,
        done_when: &["scripts/load.sh --events 1000000"],
        max_ralph_iters: 3,
        seconds: 9.0,
        breaks: Break { check: 0, rc: 1, tail: "load: stopped at event 704512\n" },
    },
    Node {
        id: "fuzz-parsers",
        deliverable: "Ten minutes of fuzzing a parser",
        depends_on: &["fetch"],
        touches: &["fuzz/**"],
        parallel_safe: true,
        done_when: &["cargo fuzz run line -- -max_total_time=600"],
        max_ralph_iters: 2,
        seconds: 12.0,
        breaks: Break { check: 0, rc: 77, tail: "SUMMARY: libFuzzer: deadly signal\n" },
    },
    Node {
        id: "soak",
        deliverable: "A night under load without a growing heap",
        depends_on: &["load-data"],
        touches: &["soak/**"],
        parallel_safe: true,
        done_when: &["scripts/soak.sh --hours 6 --heap-limit 512M"],
        max_ralph_iters: 2,
        seconds: 14.0,
        breaks: Break { check: 0, rc: 137, tail: "soak: heap 519 MB after 5 h 12 min\nKilled\n" },
    },
    Node {
        id: "report",
        deliverable: "The night on one page",
        depends_on: &["soak", "fuzz-parsers"],
        touches: &["report/**"],
        parallel_safe: true,
        done_when: &["scripts/report.sh"],
        max_ralph_iters: 2,
        seconds: 4.0,
        breaks: Break { check: 0, rc: 1, tail: "report: no figures of the soak test\n" },
    },
];

const MODEL_LARGE: &str = "m-large";
const MODEL_SMALL: &str = "m-small";
const FLAKY_AUDIT: &str = "audit:tests-pass-twice";
const SCOPE_AUDIT: &str = "audit:diff-scope";
const TEST: &str = "cargo test events::resume";
const VERIFY: &str = "scripts/backup/run.sh --verify";

/// Finds why the stream sends a frame twice, and mends it.
pub(super) const REPAIR: Role = Role {
    agent_id: "coder",
    task: "Make `cargo test events::resume` pass: after a gap the first frame comes twice.",
    model: MODEL_LARGE,
    outcome: AgentOutcome::Converged,
    score: 0.91,
    acts: &[
        Act::Think(0.8),
        Act::Tool("grep", "resume_from src/api", 0.3, Ok("src/api/events.rs:88: let from = client.resume_from();")),
        Act::Think(0.6),
        Act::Tool("read", "src/api/events.rs:70-130", 0.2, Ok("61 lines")),
        Act::Think(1.0),
        Act::Tool("edit", "src/api/events.rs: ask for the frame behind the last one", 0.4, Ok("1 line changed")),
        Act::Tool("cargo test", TEST, 1.6, Err("test events::resume::at_the_start ... FAILED")),
        Act::Audit(FLAKY_AUDIT, Fail, TEST, "1 of 2 runs failed"),
        Act::Reflect(0.7),
        Act::Think(0.8),
        Act::Tool("edit", "src/api/events.rs: nothing was seen yet at the start", 0.4, Ok("2 lines changed")),
        Act::Tool("cargo test", TEST, 1.6, Ok("9 passed")),
        Act::Audit(FLAKY_AUDIT, Pass, TEST, "2 of 2 runs passed"),
        Act::Audit(SCOPE_AUDIT, Pass, "git diff --stat", "1 file, 3 lines"),
    ],
};

/// Runs the same check five times and hopes.
pub(super) const LOOP: Role = Role {
    agent_id: "coder",
    task: "Make `scripts/backup/run.sh --verify` pass: one segment has no checksum.",
    model: MODEL_LARGE,
    outcome: AgentOutcome::Partial,
    score: 0.52,
    acts: &[
        Act::Think(0.7),
        Act::Tool("read", "scripts/backup/run.sh", 0.2, Ok("104 lines")),
        Act::Think(0.9),
        Act::Tool("edit", "scripts/backup/run.sh: wait for the copy before the checksum", 0.4, Ok("3 lines changed")),
        Act::Tool("shell", VERIFY, 0.9, Err("verify: 1 of 31 segments differs")),
        Act::Think(0.4),
        Act::Tool("shell", VERIFY, 0.9, Err("verify: 1 of 31 segments differs")),
        Act::Think(0.3),
        Act::Tool("shell", VERIFY, 0.9, Err("verify: 1 of 31 segments differs")),
        Act::Think(0.3),
        Act::Tool("shell", VERIFY, 0.9, Err("verify: 1 of 31 segments differs")),
        Act::Think(0.3),
        Act::Tool("shell", VERIFY, 0.9, Err("verify: 1 of 31 segments differs")),
        Act::Reflect(0.8),
        Act::Audit(FLAKY_AUDIT, Fail, VERIFY, "0 of 2 runs passed"),
        Act::Audit(SCOPE_AUDIT, Warn, "git diff --stat", "a file outside scripts/backup was opened"),
        Act::Audit("audit:no-debug-output", Pass, "git diff", "no print left"),
    ],
};

/// Reads a change and says what it thinks.
pub(super) const REVIEW: Role = Role {
    agent_id: "reviewer",
    task: "Review the live page: focus, empty states, what happens when the socket closes.",
    model: MODEL_SMALL,
    outcome: AgentOutcome::Converged,
    score: 0.94,
    acts: &[
        Act::Think(0.5),
        Act::Tool("git diff", "main...HEAD -- ui/live", 0.2, Ok("4 files, 212 lines")),
        Act::Think(1.2),
        Act::Tool("read", "ui/live/page.js", 0.2, Ok("180 lines")),
        Act::Think(1.4),
        Act::Tool("npm test", "live", 1.5, Ok("31 passed")),
        Act::Audit("audit:comments-answered", Pass, "review comments", "4 of 4 answered"),
        Act::Audit(SCOPE_AUDIT, Pass, "git diff --stat", "nothing was written"),
    ],
};

/// Tries the restore by hand.
pub(super) const DRILL: Role = Role {
    agent_id: "operator",
    task: "Restore the newest backup into an empty machine and count the runs.",
    model: MODEL_SMALL,
    outcome: AgentOutcome::Converged,
    score: 0.88,
    acts: &[
        Act::Think(0.6),
        Act::Tool("shell", "scripts/restore/drill.sh --plan", 0.5, Ok("31 segments, 1.2 GB")),
        Act::Think(0.5),
        Act::Tool("shell", "scripts/restore/drill.sh --run", 1.8, Ok("10,241 runs")),
        Act::Audit("audit:no-debug-output", Pass, "drill.log", "nothing private in it"),
    ],
};
