"""Tenants, and the lines that they write: each with a mark that nobody else may ever see."""

import collections
import datetime
import hashlib
import json

LONGEST_LINE = 1024 * 1024
# The runs that everybody has and goes on writing to.
RUNS = ("steady-0", "steady-1", "agent-0", "shared")


class Tenant:
    """A tenant with its mark, its keys, and what may never stand in an answer to it."""

    def __init__(self, mark, keys):
        self.mark, self.keys = mark, keys
        self.own, self.foreign = self.marks(), ()
        # How many answers of each shape held a mark of its own: where there is none, the search is blind.
        self.seen = collections.Counter()

    def marks(self):
        """What tells this tenant's bytes from another's: its mark, and ids that are hashes of its lines and graphs."""
        of_logs = (hashlib.sha256(line(self.mark, run_id, 0)).hexdigest()[:16] for run_id in RUNS)
        of_graphs = (hashlib.sha256(graph(self.mark, run_id)).hexdigest()[:16] for run_id in RUNS)
        return tuple(text.encode() for text in (self.mark, *of_logs, *of_graphs))

    def foreign_mark(self, raw):
        return next((mark for mark in self.foreign if mark in raw), None)


STARTED = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=10)


def line(mark, run_id, seq):
    """The line of a run at a seq: always the same, and each with the tenant's mark."""
    when = (STARTED + datetime.timedelta(milliseconds=seq)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    base = {"ts": when, "run_id": run_id}
    node = {"node_id": f"{mark}-{seq // 6 % 20}"}
    agent = {"agent_id": mark}
    if run_id.startswith("agent"):
        fields = agent_event(agent, seq)
    elif seq == 0:
        fields = {"event": "run_start", "total_nodes": 20, "parent": {"run_id": "steady-0", "node_id": f"{mark}-1"}}
    else:
        check = {"cmd": f"make {mark}", "rc": 1, "duration_s": 0.1, "tail": "\0 \u202e 🍳 \\ " + "é" * (seq % 40)}
        fields = (
            {"event": "note", "text": "🍳 \u202e", "n": seq},
            {"event": "node_transition", **node, "from": "pending", "to": "ready"},
            {"event": "node_transition", **node, "from": "ready", "to": "running", "attempt": 1},
            {"event": "node_attempt", **node, "attempt": 1, "duration_s": 0.5, "converged": False, "done_when_results": [check]},
            {"event": "node_transition", **node, "from": "running", "to": "failed"},
            {"event": "audit_checkpoint", "agent_id": None, "checkpoint_id": f"audit:{mark}", "result": "warn", "duration_s": 0},
        )[seq % 6]
    # Escapes (surrogates among them) and plain UTF-8 by turns; now and then as long as a line may be.
    written = json.dumps({**base, **fields, "mark": mark}, ensure_ascii=seq % 2 == 0).encode()
    return written + b" " * (LONGEST_LINE - len(written)) if seq % 700 == 399 else written


def agent_event(agent, seq):
    if seq == 0:
        return {"event": "agent_run_start", **agent, "task": "mend it", "parent": {"run_id": "steady-0"}}
    return (
        {"event": "agent_transition", **agent, "step": seq, "from": "thinking", "to": "tool_call"},
        {"event": "tool_invocation", **agent, "step": seq, "tool_name": "cargo", "duration_s": 0.1, "ok": seq % 4 == 0},
        {"event": "heartbeat"},
    )[seq % 3]


def graph(mark, run_id):
    spec = {"deliverable": run_id, "depends_on": [], "touches": [], "done_when": ["true"]}
    return json.dumps({"version": 1, "nodes": [{"id": f"{mark}-{n}", **spec} for n in range(20)]}).encode()
