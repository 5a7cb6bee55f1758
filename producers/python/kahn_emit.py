#!/usr/bin/env python3
"""Record a run of a DAG so that kahn can show it. One file to copy; Python 3.9 or newer, Linux or macOS.

    from kahn_emit import Run

    graph = {"version": 1, "nodes": [
        {"id": "build", "deliverable": "The program", "depends_on": [], "touches": ["src/**"],
         "done_when": ["cargo build"], "max_ralph_iters": 3},
        {"id": "test", "deliverable": "It works", "depends_on": ["build"], "touches": [], "done_when": ["cargo test"]},
    ]}

    with Run(".kahn/archive", "nightly-7", graph) as run:      # graph.json, run_start
        with run.node("build") as node:                        # pending, ready, running
            node.check("cargo build")                          # tried up to max_ralph_iters times, with backoff
        with run.node("test") as node:                         # blocked, when build failed
            node.check("cargo test")
    # run_end with the outcome that follows from the log, summary.json

Where work comes before each attempt (a prompt, an edit), say so:

        with run.node("build") as node:
            for attempt in node.attempts():
                ask_the_agent(attempt.number)
                attempt.check("cargo build")

`run.walk(work)` does that for every node of the graph in order; `run.emit` writes any single event. Threads may share a
run, and so may processes: `Run.join(archive, run_id)` gives the others the same run. From a shell:

    python3 kahn_emit.py run plan.json --archive .kahn/archive

Every event is one write to the end of `transitions.jsonl`. An event that could not be written is always an exception.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import concurrent.futures
import contextlib
import datetime
import errno
import itertools
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import fcntl

# ---- The log. From here to the end mark the text is the same in kahn_emit.py and kahn_agent_emit.py. ----

#: The longest line that an emitter writes, in bytes with its newline.
MAX_LINE = 64 * 1024
#: How much of a failing check's output is kept, in characters.
MAX_TAIL = 4096
#: The deepest nesting of a line, its own object counted.
MAX_DEPTH = 64
#: The largest integer that JSON readers agree on.
MAX_INT = 2**53 - 1

PathLike = Union[str, "os.PathLike[str]"]


class EmitError(Exception):
    """What this file raises."""


class BadEventError(EmitError, ValueError):
    """The event does not keep the contract; nothing was written."""


class NotWrittenError(EmitError, OSError):
    """The storage did not take it (disk full, say): the event is not in the log and never will be, unless it is emitted
    again. A fragment that it may have left is closed by the next event, and shown by kahn as a skipped line."""


class RunExistsError(EmitError):
    """There is a log under this run_id already, or one that kahn itself writes."""


Check = Callable[[Any], Any]


def _whole(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced, as UTF-8 wants it."""
    try:
        text.encode()
        return str(text)
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadEventError("must be a string")
    return _whole(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadEventError("must be true or false")
    return value


def _int(low: int = 0, high: int = MAX_INT) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadEventError(f"must be an integer from {low} to {high}")
        return int(value)

    return check


def _number(low: float = float("-inf"), high: float = float("inf")) -> Check:
    def check(value: Any) -> Union[int, float]:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadEventError("must be a number")
        try:
            if not low <= value <= high or float(value) in (float("inf"), float("-inf")):
                raise BadEventError(f"must be a finite number from {low} to {high}")
        except OverflowError:
            raise BadEventError("must be a finite number") from None
        return value

    return check


def _id(pattern: str) -> Check:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise BadEventError(f"must match ^{pattern}$, not {str(value)[:100]!r}")
        return str(value)

    return check


def _one_of(*names: str) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise BadEventError(f"must be one of {', '.join(names)}")
        return str(value)

    return check


def _any(value: Any, depth: int = 2) -> Any:
    """A value of a field that the contract does not know: anything that JSON can say."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, (int, float)):
        return _number()(value)
    if isinstance(value, (dict, list, tuple)) and depth > MAX_DEPTH:
        raise BadEventError(f"nests deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {_text(name): _any(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_any(item, depth + 1) for item in value]
    raise BadEventError(f"holds a {type(value).__name__}, which is not JSON")


def _record(**checks: Check) -> Check:
    """An object with these fields, in this order; a name that ends in `_` is optional, and may be None. Others pass."""
    known = {name.rstrip("_"): (check, name.endswith("_")) for name, check in checks.items()}

    def check(value: Any) -> Dict[str, Any]:
        if not isinstance(value, Mapping):
            raise BadEventError("must be an object")
        kept = {}
        for name, (check_field, is_optional) in known.items():
            given = value.get(name)
            if given is None and is_optional:
                continue
            if name not in value:
                raise BadEventError(f"{name} is missing")
            kept[name] = _named(name, check_field, given)
        for name, given in value.items():
            if name not in known:
                kept[_text(name)] = _named(name, _any, given)
        return kept

    return check


def _named(name: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except BadEventError as error:
        raise BadEventError(f"{name}: {error}") from None


_run_id = _id("[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
_node_id = _id("[a-z0-9][a-z0-9-]{0,63}")
_agent_id = _id("[a-z0-9][a-z0-9_-]{0,63}")
_checkpoint_id = _id("[a-z0-9][a-z0-9:._-]{0,127}")
_seconds = _number(low=0)
_node_status = _one_of("pending", "ready", "running", "done", "failed", "blocked")
_agent_status = _one_of(
    "thinking", "tool_call", "tool_result", "response", "reflect", "blocked-on-clarification", "converged", "failed"
)
_usage = _record(input_tokens_=_int(), output_tokens_=_int(), cost_usd_=_number())
_parent = _record(run_id=_run_id, node_id_=_node_id, attempt_=_int(), step_=_int())
_result = _record(cmd=_text, rc=_int(-(2**31), 2**31 - 1), duration_s=_seconds, tail_=_text, truncated_=_flag)


def _results(value: Any) -> List[Dict[str, Any]]:
    if not isinstance(value, (list, tuple)):
        raise BadEventError("must be a list")
    results = [_result(item) for item in value]
    for result in results:
        if result["rc"] == 0:
            result.pop("tail", None)
            result.pop("truncated", None)
        elif len(result.get("tail", "")) > MAX_TAIL:
            result.update(tail=result["tail"][-MAX_TAIL:], truncated=True)
    return results


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise BadEventError("must be an object")
    return _any(value)


def _nullable_agent_id(value: Any) -> Optional[str]:
    return None if value is None else _agent_id(value)


_EVENTS: Dict[str, Check] = {
    "run_start": _record(total_nodes=_int(), parent_=_parent),
    "node_transition": _record(
        node_id=_node_id, **{"from": _node_status}, to=_node_status, attempt_=_int(), reason_=_text
    ),
    "node_attempt": _record(
        node_id=_node_id,
        attempt=_int(1),
        duration_s=_seconds,
        converged=_flag,
        backoff_s_=_seconds,
        done_when_results=_results,
        usage_=_usage,
    ),
    "run_end": _record(
        outcome=_one_of("clean", "clean_with_flake", "partial", "stuck", "catastrophic"),
        done=_int(),
        failed=_int(),
        blocked=_int(),
        total_duration_s=_seconds,
        total_attempts_=_int(),
        flake_retries_=_int(),
        exit_code_=_int(),
    ),
    "agent_run_start": _record(agent_id=_agent_id, task=_text, model_=_text, parent_=_parent),
    "agent_transition": _record(
        agent_id=_agent_id, step=_int(), **{"from": _agent_status}, to=_agent_status, reason_=_text, usage_=_usage
    ),
    "tool_invocation": _record(
        agent_id=_agent_id,
        step=_int(),
        tool_name=_text,
        duration_s=_seconds,
        ok=_flag,
        input_summary_=_text,
        output_summary_=_text,
        error_=_text,
        usage_=_usage,
    ),
    "audit_checkpoint": _record(
        agent_id=_nullable_agent_id,
        checkpoint_id=_checkpoint_id,
        result=_one_of("pass", "fail", "warn"),
        duration_s=_seconds,
        evidence_=_object,
    ),
    "agent_run_end": _record(
        agent_id=_agent_id,
        outcome=_one_of("converged", "partial", "escaped", "aborted"),
        total_steps=_int(),
        total_tool_calls=_int(),
        total_audit_checkpoints=_int(),
        audits_passed=_int(),
        audits_failed=_int(),
        total_duration_s=_seconds,
        convergence_score_=_number(0, 1),
        usage_=_usage,
    ),
}

#: Texts that may lose their end where a line would be too long; a check's tail loses its beginning, before them.
_CUTTABLE = ("reason", "task", "input_summary", "output_summary", "error")


def now() -> str:
    """This moment as the contract writes it: UTC, milliseconds, 24 characters."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")[:23] + "Z"


def _moment(ts: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z", ts):
        raise BadEventError(f"ts must be YYYY-MM-DDTHH:MM:SS.mmmZ, not {ts[:100]!r}")
    try:
        datetime.datetime.fromisoformat(ts[:23])
    except ValueError as error:
        raise BadEventError(f"ts: {error}") from None
    return ts


def _checked(event: str, fields: Mapping[str, Any]) -> Dict[str, Any]:
    """The fields as they go into the line."""
    if not isinstance(event, str) or not event:
        raise BadEventError("event must be a name")
    for name in ("ts", "run_id", "event"):
        if name in fields:
            raise BadEventError(f"{name} is no field of an event; the log sets it")
    if event == "audit_checkpoint":
        fields = {"agent_id": None, **fields}
    record: Dict[str, Any] = _named(event, _EVENTS.get(event, _record()), fields)
    if event == "node_transition" and (record["to"] == "running") != ("attempt" in record):
        raise BadEventError("node_transition: attempt goes with a move to running, and with no other")
    if event == "node_attempt":
        if record["attempt"] == 1 and "backoff_s" in record:
            raise BadEventError("node_attempt: there is no backoff before attempt 1")
        results = record["done_when_results"]
        if (results or record["converged"]) and record["converged"] != all(result["rc"] == 0 for result in results):
            raise BadEventError("node_attempt: an attempt converges when every check exits 0")
    if event == "run_end" and record.get("exit_code") == 0:
        del record["exit_code"]
    if _depth(record) > MAX_DEPTH:
        raise BadEventError(f"{event}: nests deeper than {MAX_DEPTH}")
    return record


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _encoded(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _cost(character: str) -> int:
    """The bytes that a character takes in a line."""
    if character in '"\\\b\f\n\r\t':
        return 2
    return 6 if character < " " else len(character.encode())


def _line(record: Dict[str, Any]) -> bytes:
    """The record's line: the longest tails are cut first, then the longest of its other texts, until it fits."""
    line = _encoded(record)
    if len(line) <= MAX_LINE:
        return line
    results = record.get("done_when_results", []) if record["event"] == "node_attempt" else []
    cut = _cut(record, [(result, "tail", result) for result in results if "tail" in result], from_end=True)
    if cut is None:
        texts = [(result, "cmd", record) for result in results]
        if record["event"] in _EVENTS:
            texts += [(record, name, record) for name in _CUTTABLE if name in record]
        cut = _cut(record, texts, from_end=False)
    if cut is None:
        raise BadEventError(f"{record['event']}: the line is over {MAX_LINE} bytes, and nothing more in it can be cut")
    return cut


def _cut(
    record: Dict[str, Any], slots: List[Tuple[Dict[str, Any], str, Dict[str, Any]]], *, from_end: bool
) -> Optional[bytes]:
    """Cuts the longest texts, each a (holder, name, what then says `truncated`), to one length; None if too little."""
    whole = [holder[name] for holder, name, _ in slots]
    marks = [mark for _, _, mark in slots]
    marked = [mark.get("truncated") for mark in marks]
    # The bytes that the first, the first two, ... characters take, from the side that is kept.
    sides = [text[: -MAX_LINE - 1 : -1] if from_end else text[:MAX_LINE] for text in whole]
    costs = [list(itertools.accumulate(map(_cost, side))) for side in sides]

    def at_most(most: int) -> bytes:
        for mark, was in zip(marks, marked):
            mark.pop("truncated", None)
            if was is not None:
                mark["truncated"] = was
        for (holder, name, mark), text, cost in zip(slots, whole, costs):
            kept = bisect.bisect_right(cost, most)
            if kept < len(text):
                mark["truncated"] = True
                text = text[len(text) - kept :] if from_end else text[:kept]
            holder[name] = text
        return _encoded(record)

    if len(at_most(0)) > MAX_LINE:
        return None
    fits, too_much = 0, MAX_LINE
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        if len(at_most(middle)) <= MAX_LINE:
            fits = middle
        else:
            too_much = middle
    return at_most(fits)


class Log:
    """The log of one run: `<archive>/runs/<run_id>/transitions.jsonl`, appended to by one write an event.

    With `new`, a log that is there already is a RunExistsError. Threads share one Log; each process opens its own
    (a forked child does so by itself). An advisory lock keeps the emitters of one log from standing in each other's
    events when a write was cut short; readers need none.
    """

    _all: "weakref.WeakSet[Log]" = weakref.WeakSet()

    def __init__(self, archive: PathLike, run_id: str, *, new: bool = False) -> None:
        self.run_id: str = _named("run_id", _run_id, run_id)
        self.folder = os.path.join(os.fspath(archive), "runs", self.run_id)
        self.path = os.path.join(self.folder, "transitions.jsonl")
        self.last_emitted = time.monotonic()
        self._mutex = threading.RLock()
        self._depth = 0
        self._owes_newline = False
        self._is_closed = False
        self._read_to = 0
        self._fd: Optional[int] = None
        try:
            os.makedirs(self.folder, exist_ok=True)
            if os.path.lexists(os.path.join(self.folder, ".kahn-writer")):
                raise RunExistsError(f"{self.folder}: kahn writes this run; send it events over HTTP")
            self._fd = self._open(os.O_EXCL if new else 0)
        except FileExistsError as error:
            raise RunExistsError(f"{self.path} is there already: a run_id names one run") from error
        except OSError as error:
            raise self._not_written(error) from error
        Log._all.add(self)

    def emit(self, event: str, /, *, ts: Optional[str] = None, **fields: Any) -> None:
        """Appends one event. Known events are checked; an optional field that is None is left out; other names pass.

        `ts` is now where none is given. Raises BadEventError (nothing written), or NotWrittenError.
        """
        record = _checked(event, fields)
        with self._mutex:
            stamp = now() if ts is None else _moment(ts)
            line = _line({"ts": stamp, "run_id": self.run_id, "event": _text(event), **record})
            with self.locked():
                self._append(line)
            self.last_emitted = time.monotonic()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps all other emitters of this log out, so that what is read inside is still so when it is answered."""
        with self._mutex:
            if self._is_closed:
                raise EmitError(f"{self.path}: the log is closed")
            if self._fd is None:
                self._fd = self._open(0)
            self._depth += 1
            try:
                if self._depth == 1:
                    # A file system without locks still appends whole lines.
                    with contextlib.suppress(OSError):
                        fcntl.flock(self._fd, fcntl.LOCK_EX)
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    with contextlib.suppress(OSError):
                        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def read_new(self) -> List[Dict[str, Any]]:
        """The events that were appended since the last call, by whomever; what is not a whole event is left out."""
        events = []
        with self.locked():
            assert self._fd is not None
            held = b""
            while True:
                block = os.pread(self._fd, 1 << 20, self._read_to + len(held))
                if not block:
                    break
                *lines, held = (held + block).split(b"\n")
                self._read_to += sum(len(line) + 1 for line in lines)
                for line in lines:
                    with contextlib.suppress(ValueError, RecursionError):
                        record = json.loads(line)
                        if isinstance(record, dict) and record.get("run_id") == self.run_id:
                            events.append(record)
        return events

    def close(self) -> None:
        """Ends the last line, waits until the log is on the disk, and lets it go."""
        with self._mutex:
            if self._is_closed:
                return
            try:
                if self._fd is not None:
                    with self.locked():
                        if self._owes_newline and self._is_torn():
                            os.write(self._fd, b"\n")
                    os.fsync(self._fd)
            except OSError as error:
                # A pipe or a device has nothing to wait for.
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise self._not_written(error) from error
            finally:
                self._is_closed = True
                if self._fd is not None:
                    os.close(self._fd)
                    self._fd = None

    def _open(self, flags: int) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | flags, 0o666)

    def _is_torn(self) -> bool:
        """Whether the last write, of whomever, was cut short: the log does not end in a newline."""
        assert self._fd is not None
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def _append(self, line: bytes) -> None:
        assert self._fd is not None
        sent = 0
        try:
            whole = b"\n" + line if self._is_torn() else line
            while sent < len(whole):
                written = os.write(self._fd, whole[sent:])
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
                sent += written
            self._owes_newline = False
        except OSError as error:
            if sent and sent == len(whole) - 1:
                # The event stands there whole; the next one, or close, ends its line.
                self._owes_newline = True
                return
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> NotWrittenError:
        return NotWrittenError(error.errno, error.strerror or str(error), self.path)

    def _after_fork(self) -> None:
        # The parent's threads are not here, and a lock on a descriptor that both hold would keep neither out.
        self._mutex, self._depth = threading.RLock(), 0
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _after_fork() -> None:
    for log in list(Log._all):
        log._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def parent_from_env() -> Optional[Dict[str, Any]]:
    """What started this process, where a recorded run did: the `parent` for a run of its own."""
    given = os.environ.get("KAHN_PARENT")
    try:
        return None if not given else _named("KAHN_PARENT", _parent, json.loads(given))
    except json.JSONDecodeError as error:
        raise BadEventError(f"KAHN_PARENT: {error}") from None


# ---- End of the common part. ----

#: How often a node is tried when its graph does not say.
DEFAULT_MAX_RALPH_ITERS = 6
#: The largest graph.json, in bytes and in nodes.
MAX_GRAPH, MAX_GRAPH_NODES = 8 * 1024 * 1024, 10_000

Work = Callable[["Attempt"], None]


class NodeStopped(EmitError):
    """Leaves the body of a `with run.node(...)`, which takes it: the node is blocked, or used up its attempts."""

    def __init__(self, node_id: str, reason: str) -> None:
        super().__init__(f"{node_id}: {reason}")
        self.node_id, self.reason = node_id, reason


class Run:
    """A run of a DAG, from `run_start` to `run_end` and summary.json; use it with `with`.

    `graph` is the object of graph.json, or the path of one, whose bytes are copied. Without one any node may be named,
    and nothing blocks. `max_backoff_s` = 0 makes retries follow at once. `echo` shows the output of checks as it comes.
    Leaving the `with` block by an exception declares the outcome `catastrophic` (SystemExit apart); a process that is
    killed leaves the log as it is, without run_end.
    """

    def __init__(
        self,
        archive: PathLike,
        run_id: str,
        graph: Union[Mapping[str, Any], PathLike, None] = None,
        *,
        total_nodes: Optional[int] = None,
        parent: Optional[Mapping[str, Any]] = None,
        max_backoff_s: float = 60.0,
        heartbeat_s: float = 60.0,
        echo: bool = True,
    ) -> None:
        text, nodes = _graph_of(graph)
        start: Dict[str, Any] = {"total_nodes": len(nodes) if total_nodes is None else total_nodes, "parent": parent}
        _checked("run_start", start)
        self._setup(Log(archive, run_id, new=True), nodes, (max_backoff_s, heartbeat_s, echo))
        self._is_owner, self._begun = True, time.monotonic()
        try:
            if text is not None:
                self._put_graph(text)
            self.log.emit("run_start", **start)
        except BaseException:
            # Nothing was recorded, so nothing stays.
            self.log.close()
            if os.path.getsize(self.log.path) == 0:
                os.unlink(self.log.path)
            raise

    @classmethod
    def join(
        cls,
        archive: PathLike,
        run_id: str,
        *,
        max_backoff_s: float = 60.0,
        heartbeat_s: float = 60.0,
        echo: bool = True,
    ) -> "Run":
        """The run that another process began, and will end when all others have left it."""
        run = cls.__new__(cls)
        folder = os.path.join(os.fspath(archive), "runs", _named("run_id", _run_id, run_id))
        if not os.path.exists(os.path.join(folder, "transitions.jsonl")):
            raise EmitError(f"{folder}: no run was begun there")
        path = os.path.join(folder, "graph.json")
        _, nodes = _graph_of(path if os.path.exists(path) else None)
        run._setup(Log(archive, run_id), nodes, (max_backoff_s, heartbeat_s, echo))
        run._is_owner = False
        return run

    def _setup(self, log: Log, nodes: Dict[str, Dict[str, Any]], settings: Tuple[float, float, bool]) -> None:
        self.log, self.nodes = log, nodes
        self.outcome: Optional[str] = None
        self.exit_code: Optional[int] = None
        self._max_backoff_s, self._heartbeat_s, self._echo = settings
        self._tally = _Tally(nodes)
        self._stopping = threading.Event()
        self._pid = os.getpid()

    def emit(self, event: str, /, **fields: Any) -> None:
        """Writes any one event; see Log.emit."""
        self.log.emit(event, **fields)

    def audit(
        self,
        checkpoint_id: str,
        result: str,
        duration_s: float = 0.0,
        evidence: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """An audit of the run: `pass`, `fail` or `warn`. By custom the id is `audit:<name>`."""
        self.emit(
            "audit_checkpoint",
            checkpoint_id=checkpoint_id,
            result=result,
            duration_s=duration_s,
            evidence=None if evidence is None else dict(evidence),
        )

    def heartbeat(self) -> None:
        """A sign of life; checks and backoffs that last give theirs by themselves."""
        self.emit("heartbeat")

    def node(self, node_id: str) -> "Node":
        """One node, to be worked on inside a `with` block."""
        if self.nodes and node_id not in self.nodes:
            raise BadEventError(f"{node_id!r} is not in the graph")
        return Node(self, node_id)

    def walk(self, work: Optional[Work] = None, *, jobs: int = 1) -> None:
        """Takes every node of the graph in the order of depends_on: for each attempt `work`, then its done_when.

        Up to `jobs` nodes at once, never two whose touches overlap, and those that are not parallel_safe alone.
        """
        left = list(self.nodes)
        running: Dict["concurrent.futures.Future[None]", str] = {}
        with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                while True:
                    for node_id in self._startable(left, list(running.values()), jobs):
                        left.remove(node_id)
                        running[pool.submit(self._walk_one, node_id, work)] = node_id
                    if not running:
                        return
                    ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in ended:
                        del running[future]
                        future.result()
            except BaseException:
                self._stopping.set()
                raise

    def finish(self, outcome: Optional[str] = None, exit_code: Optional[int] = None) -> None:
        """Ends the run, as leaving the `with` block does; its outcome follows from the log, where none is given."""
        if not self._is_owner or self.log._is_closed:
            raise EmitError(f"{self.log.run_id}: it was ended already, or is another process's to end")
        with self.log.locked():
            self._block_behind_failures()
            tally = self._refreshed()
            self.outcome = outcome or tally.outcome()
            self.exit_code = (0 if self.outcome.startswith("clean") else 1) if exit_code is None else exit_code
            self.log.emit("run_end", **tally.end_fields(self.outcome, time.monotonic() - self._begun, self.exit_code))
            summary = self._refreshed().summary(self.log.run_id)
        self.log.close()
        self._put("summary.json", json.dumps(summary, indent=2).encode() + b"\n")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        if os.getpid() != self._pid or self.log._is_closed:
            return
        if not self._is_owner:
            self.log.close()
        elif error is None:
            self.finish()
        elif isinstance(error, SystemExit):
            code = error.code
            self.finish(exit_code=0 if code is None else code & 0xFF if isinstance(code, int) else 1)
        else:
            # The error that broke the run is the one to raise.
            with contextlib.suppress(EmitError):
                self.finish("catastrophic", 130 if isinstance(error, KeyboardInterrupt) else 70)

    def _refreshed(self) -> "_Tally":
        for record in self.log.read_new():
            self._tally.fold(record)
        return self._tally

    def _move(self, node_id: str, before: str, after: str, **fields: Any) -> None:
        self.emit("node_transition", node_id=node_id, **{"from": before}, to=after, **fields)

    def _begin(self, node_id: str) -> bool:
        """Moves a node to its first attempt; false when it is blocked."""
        with self.log.locked():
            tally = self._refreshed()
            status = tally.status.get(node_id, "pending")
            if status in ("pending", "ready"):
                needs = self.nodes[node_id]["depends_on"] if self.nodes else []
                if any(tally.status[needed] in ("failed", "blocked") for needed in needs):
                    self._block_behind_failures()
                    return False
                waits = [f"{needed} ({tally.status[needed]})" for needed in needs if tally.status[needed] != "done"]
                if waits:
                    raise EmitError(f"{node_id} depends on {', '.join(waits)}")
                if status == "pending":
                    self._move(node_id, "pending", "ready")
                self._move(node_id, "ready", "running", attempt=1)
            elif status != "blocked":
                raise EmitError(f"{node_id} is {status} already")
            return status != "blocked"

    def _block_behind_failures(self) -> None:
        with self.log.locked():
            tally = self._refreshed()
            if "failed" not in tally.status.values():
                return
            failed: Dict[str, Dict[str, None]] = {}
            for node_id in _in_order(self.nodes):
                behind: Dict[str, None] = {}
                for needed in self.nodes[node_id]["depends_on"]:
                    behind.update(failed[needed])
                    if tally.status[needed] == "failed":
                        behind[needed] = None
                failed[node_id] = behind
            for node_id, behind in failed.items():
                if behind and tally.status[node_id] in ("pending", "ready"):
                    # As many as a line holds.
                    reason = "ancestor_failed:" + ",".join(list(behind)[:900])
                    self._move(node_id, tally.status[node_id], "blocked", reason=reason)

    def _startable(self, left: List[str], taken: Sequence[str], jobs: int) -> List[str]:
        """Those of `left` that may start now; it drops the blocked and moves what waits for nothing more to ready."""
        with self.log.locked():
            tally = self._refreshed()
            left[:] = [node_id for node_id in left if tally.status[node_id] in ("pending", "ready")]
            active = {node_id for node_id, status in tally.status.items() if status == "running"} | set(taken)
            chosen: List[str] = []
            for node_id in left:
                if any(tally.status[needed] != "done" for needed in self.nodes[node_id]["depends_on"]):
                    continue
                if tally.status[node_id] == "pending":
                    self._move(node_id, "pending", "ready")
                if len(taken) + len(chosen) < jobs and not any(
                    _excludes(self.nodes[node_id], self.nodes[other]) for other in active if other in self.nodes
                ):
                    active.add(node_id)
                    chosen.append(node_id)
            return chosen

    def _walk_one(self, node_id: str, work: Optional[Work]) -> None:
        with self.node(node_id) as node:
            for attempt in node.attempts():
                if work is not None:
                    work(attempt)
                attempt.check_all()

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping.is_set():
            rest = end - time.monotonic()
            if rest <= 0:
                return
            self._stopping.wait(min(rest, self._heartbeat_s))
            self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self.log.last_emitted >= self._heartbeat_s:
            # A sign of life that could not be written shows as the silence that it is; facts go by other events.
            with contextlib.suppress(NotWrittenError):
                self.heartbeat()

    def _execute(self, cmd: str, environment: Mapping[str, str]) -> Dict[str, Any]:
        """Runs a check by the shell and shows its output as it comes; its result."""
        begun = time.monotonic()
        if self._echo:
            _show(f"=== {cmd}\n".encode(errors="replace"))
        # 4,096 characters take 16 KiB at the most; one character more may have lost its beginning.
        tail: "collections.deque[bytes]" = collections.deque()
        held, total = 0, 0
        try:
            process = subprocess.Popen(
                cmd,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )
        except (OSError, ValueError) as error:
            rc, tail = 126, collections.deque([str(error).encode()])
        else:
            with process:
                try:
                    for block in self._output_of(process):
                        if self._echo:
                            _show(block)
                        tail.append(block)
                        held, total = held + len(block), total + len(block)
                        while held - len(tail[0]) >= 4 * MAX_TAIL + 4:
                            held -= len(tail.popleft())
                    rc = process.wait()
                except BaseException:
                    process.kill()
                    raise
            # As a shell says that a signal ended it.
            rc = 128 - rc if rc < 0 else rc
        duration_s = round(time.monotonic() - begun, 3)
        if self._echo:
            _show(f"--- {duration_s:.1f} s, exit code {rc}: {cmd}\n".encode(errors="replace"))
        result: Dict[str, Any] = {"cmd": cmd, "rc": rc, "duration_s": duration_s}
        if rc != 0:
            text = b"".join(tail).decode(errors="replace")
            result["tail"] = text[-MAX_TAIL:]
            if total > held or len(text) > MAX_TAIL:
                result["truncated"] = True
        return result

    def _output_of(self, process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
        assert process.stdout is not None
        fd = process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN | select.POLLHUP)
        has_ended = False
        while True:
            if poller.poll(100):
                block = os.read(fd, 1 << 16)
                if not block:
                    return
                yield block
            elif has_ended:
                # Somebody that it left behind holds the pipe open.
                return
            else:
                has_ended = process.poll() is not None
            self._beat()

    def _put_graph(self, text: bytes) -> None:
        path = os.path.join(self.log.folder, "graph.json")
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read() != text:
                    raise RunExistsError(f"{path} is there already, and is another graph")
        else:
            self._put("graph.json", text)

    def _put(self, name: str, text: bytes) -> None:
        """A whole file or none."""
        path = os.path.join(self.log.folder, name)
        draft = os.path.join(self.log.folder, f".{name}.{os.getpid()}")
        try:
            try:
                with open(draft, "wb") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
                raise
        except OSError as error:
            raise NotWrittenError(error.errno, error.strerror or str(error), path) from error


class Node:
    """One node of a run while it is worked on; made by Run.node, used with `with`.

    A body that works before its first check asks `blocked` first, or does that work in a loop over `attempts`.
    """

    def __init__(self, run: Run, node_id: str) -> None:
        self.run, self.id = run, node_id
        self.spec: Dict[str, Any] = run.nodes.get(node_id, {})
        #: Whether it may not run, since a node before it failed.
        self.blocked = False
        self._attempt: Optional[Attempt] = None
        self._commands: List[str] = []
        self._has_converged = False

    def check(self, *commands: str) -> None:
        """Runs the commands, and with them all earlier ones of this node again, until every one exits 0.

        When the node is blocked or its attempts are used up, the rest of the `with` block is left out.
        """
        if self.blocked:
            raise NodeStopped(self.id, "an ancestor failed")
        attempt = self._current()
        self._commands += commands
        has_passed = all(attempt.check(cmd) for cmd in commands)
        while not has_passed:
            attempt = self._next(attempt)
            has_passed = all(attempt.check(cmd) for cmd in self._commands)

    def attempts(self) -> Iterator["Attempt"]:
        """Attempts until one has every check at 0, with their backoff; none when the node is blocked."""
        while not self.blocked:
            attempt = self._current()
            yield attempt
            if attempt.has_passed:
                self._close(attempt)
                return
            self._next(attempt)

    def __enter__(self) -> "Node":
        self.blocked = not self.run._begin(self.id)
        if not self.blocked:
            self._attempt = Attempt(self, 1, None)
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> bool:
        stopped = error if isinstance(error, NodeStopped) and error.node_id == self.id else None
        if self.blocked:
            return stopped is not None
        if isinstance(error, NotWrittenError):
            return False
        try:
            if error is None and self._attempt is not None and not self._attempt.results:
                self.check(*self.spec.get("done_when", []))
        except NodeStopped as stop:
            stopped = stop
        if self._attempt is not None:
            self._close(self._attempt, is_broken=error is not None)
        if self._has_converged and error is None:
            self.run._move(self.id, "running", "done")
        else:
            broken = "gave_up" if error is None else f"error:{type(error).__name__}"
            self.run._move(self.id, "running", "failed", reason=stopped.reason if stopped else broken)
            self.run._block_behind_failures()
        return stopped is not None

    def _current(self) -> "Attempt":
        if self._attempt is None:
            raise EmitError(f"{self.id}: its attempts are over, or its `with` block is")
        return self._attempt

    def _close(self, attempt: "Attempt", *, is_broken: bool = False) -> None:
        self._attempt = None
        # One that broke before its first check did not converge; of any other the checks say so.
        self._has_converged = attempt.has_passed and not (is_broken and not attempt.results)
        self.run.emit(
            "node_attempt",
            node_id=self.id,
            attempt=attempt.number,
            duration_s=round(time.monotonic() - attempt.begun, 3),
            converged=self._has_converged,
            backoff_s=attempt.backoff_s,
            done_when_results=attempt.results,
            usage=attempt.usage,
        )

    def _next(self, attempt: "Attempt") -> "Attempt":
        """Ends an attempt that failed and begins the next."""
        self._close(attempt)
        if attempt.number >= self.spec.get("max_ralph_iters", DEFAULT_MAX_RALPH_ITERS):
            raise NodeStopped(self.id, "max_ralph_iters_reached")
        number = attempt.number + 1
        backoff_s = float(min(2 ** min(number - 1, 63), self.run._max_backoff_s))
        self.run._move(self.id, "running", "ready")
        self.run._wait(backoff_s)
        self.run._move(self.id, "ready", "running", attempt=number)
        if self.run._stopping.is_set():
            self._close(Attempt(self, number, backoff_s), is_broken=True)
            raise NodeStopped(self.id, "stopped")
        self._attempt = Attempt(self, number, backoff_s)
        return self._attempt


class Attempt:
    """One attempt at a node."""

    def __init__(self, node: Node, number: int, backoff_s: Optional[float]) -> None:
        self.node = node
        #: Which attempt, from 1.
        self.number = number
        #: The wait before it, in seconds; None before the first.
        self.backoff_s = backoff_s
        #: Its checks so far.
        self.results: List[Dict[str, Any]] = []
        #: Tokens and cost: {input_tokens, output_tokens, cost_usd}, each of them optional.
        self.usage: Optional[Dict[str, Any]] = None
        self.begun = time.monotonic()

    @property
    def has_passed(self) -> bool:
        """Whether every check so far exited 0."""
        return all(result["rc"] == 0 for result in self.results)

    @property
    def parent(self) -> Dict[str, Any]:
        """What a run that this attempt starts names as its parent; checks find it in KAHN_PARENT too."""
        return {"run_id": self.node.run.log.run_id, "node_id": self.node.id, "attempt": self.number}

    def check(self, cmd: str) -> bool:
        """Runs one command by the shell, once; whether it and every check before it exited 0."""
        cmd, begun = _text(cmd), time.monotonic()
        try:
            result = self.node.run._execute(cmd, {"KAHN_PARENT": json.dumps(self.parent)})
        except BaseException:
            # It was killed: nobody may take the checks before it for all of them.
            self.results.append({"cmd": cmd, "rc": 137, "duration_s": round(time.monotonic() - begun, 3)})
            raise
        self.results.append(_result(result))
        return self.has_passed

    def check_all(self) -> bool:
        """Runs the node's done_when, in order, up to the first that fails; whether all exited 0."""
        return all(self.check(cmd) for cmd in self.node.spec.get("done_when", []))

    def note(self, cmd: str, rc: int, duration_s: float, tail: Optional[str] = None) -> bool:
        """Notes a check that ran elsewhere; the same answer as check."""
        self.results.append(_result({"cmd": cmd, "rc": rc, "duration_s": duration_s, "tail": tail}))
        return self.has_passed


class _Tally:
    """What follows from the events of a run, by whichever process they were written."""

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        self.status: Dict[str, str] = {node_id: "pending" for node_id in nodes}
        self.attempts: Dict[str, int] = {}
        self.total_nodes = len(nodes)
        self.flake_retries = 0
        self._failed_attempts: Dict[str, int] = {}
        self._started: Optional[str] = None
        self._end: Dict[str, Any] = {}

    def fold(self, record: Mapping[str, Any]) -> None:
        event = record.get("event")
        try:
            _moment(_text(record.get("ts")))
            fields = {name: value for name, value in record.items() if name not in ("ts", "run_id", "event")}
            _EVENTS.get(_text(event), _record())(fields)
        except BadEventError:
            return
        self._started = self._started or record["ts"]
        if event == "run_start":
            self.total_nodes = record["total_nodes"]
        elif event == "node_transition":
            self.status[record["node_id"]] = record["to"]
        elif event == "node_attempt":
            node_id = record["node_id"]
            self.status.setdefault(node_id, "pending")
            self.attempts[node_id] = self.attempts.get(node_id, 0) + 1
            failed = self._failed_attempts.get(node_id, 0)
            if record["converged"]:
                self.flake_retries += failed
            self._failed_attempts[node_id] = 0 if record["converged"] else failed + 1
        elif event == "run_end":
            self._end = dict(record)

    def outcome(self) -> str:
        done = self._count("done")
        if done == max(len(self.status), self.total_nodes):
            return "clean_with_flake" if self.flake_retries else "clean"
        return "partial" if done else "stuck"

    def _count(self, status: str) -> int:
        return sum(1 for other in self.status.values() if other == status)

    def end_fields(self, outcome: str, total_duration_s: float, exit_code: int) -> Dict[str, Any]:
        return {
            "outcome": outcome,
            "done": self._count("done"),
            "failed": self._count("failed"),
            "blocked": self._count("blocked"),
            "total_duration_s": round(total_duration_s, 3),
            "total_attempts": sum(self.attempts.values()),
            "flake_retries": self.flake_retries,
            "exit_code": exit_code,
        }

    def summary(self, run_id: str) -> Dict[str, Any]:
        return {
            "run_id": run_id,
            "started": self._started,
            "ended": self._end.get("ts"),
            "duration_s": self._end.get("total_duration_s"),
            "outcome": self._end.get("outcome"),
            "total_nodes": self.total_nodes,
            "done": self._count("done"),
            "failed": self._count("failed"),
            "blocked": self._count("blocked"),
            "total_attempts": sum(self.attempts.values()),
            "flake_retries": self.flake_retries,
            "exit_code": self._end.get("exit_code", 0),
            "failed_nodes": [node_id for node_id, status in self.status.items() if status == "failed"],
            "node_attempts": self.attempts,
        }


def _texts(value: Any) -> List[str]:
    if not isinstance(value, (list, tuple)):
        raise BadEventError("must be a list")
    return [_text(item) for item in value]


_node = _record(
    id=_node_id,
    deliverable=_text,
    depends_on=_texts,
    touches=_texts,
    parallel_safe_=_flag,
    done_when=_texts,
    max_ralph_iters_=_int(),
    estimated_loc_=_int(),
)


def _graph_of(graph: Union[Mapping[str, Any], PathLike, None]) -> Tuple[Optional[bytes], Dict[str, Dict[str, Any]]]:
    """The bytes of graph.json, and its nodes in the file's order."""
    if graph is None:
        return None, {}
    text = None
    if not isinstance(graph, Mapping):
        with open(graph, "rb") as file:
            text = file.read(MAX_GRAPH + 1)
        graph = json.loads(text) if len(text) <= MAX_GRAPH else {}
    nodes: Dict[str, Dict[str, Any]] = {}
    whole = _any(graph, 1)
    if not isinstance(whole, dict) or whole.get("version") != 1 or not isinstance(whole.get("nodes"), list):
        raise BadEventError("graph: it is {version: 1, nodes: [...]}")
    for at, item in enumerate(whole["nodes"]):
        node = _named(f"graph: node {at + 1}", _node, item)
        if node["id"] in nodes or not node["done_when"]:
            raise BadEventError(f"graph: node {node['id']} stands twice, or has no done_when")
        nodes[node["id"]] = node
    _in_order(nodes)
    text = json.dumps(whole, ensure_ascii=False, indent=1).encode() + b"\n" if text is None else text
    if len(text) > MAX_GRAPH or len(nodes) > MAX_GRAPH_NODES:
        raise BadEventError(f"graph: over {MAX_GRAPH} bytes or {MAX_GRAPH_NODES} nodes")
    return text, nodes


def _in_order(nodes: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """The nodes, each behind what it depends on."""
    waits: Dict[str, int] = {}
    unblocks: Dict[str, List[str]] = {node_id: [] for node_id in nodes}
    for node_id, node in nodes.items():
        needs = set(node["depends_on"])
        waits[node_id] = len(needs)
        for needed in needs:
            if needed not in nodes:
                raise BadEventError(f"graph: node {node_id} depends on {needed}, which is not in it")
            unblocks[needed].append(node_id)
    order = [node_id for node_id, count in waits.items() if count == 0]
    for node_id in order:
        for other in unblocks[node_id]:
            waits[other] -= 1
            if waits[other] == 0:
                order.append(other)
    if len(order) < len(nodes):
        raise BadEventError(f"graph: a cycle among {', '.join(n for n in nodes if waits[n])}")
    return order


def _excludes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two nodes never run together."""
    if not one.get("parallel_safe", True) or not other.get("parallel_safe", True):
        return True
    prefixes = [[re.split(r"[*?\[{]", path, maxsplit=1)[0] for path in node["touches"]] for node in (one, other)]
    return any(a.startswith(b) or b.startswith(a) for a in prefixes[0] for b in prefixes[1])


def _show(block: bytes) -> None:
    out = getattr(sys.stdout, "buffer", None)
    if out is None:
        sys.stdout.write(block.decode(errors="replace"))
    else:
        sys.stdout.flush()
        out.write(block)
    sys.stdout.flush()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line. 0: every node is done; 1: not so; 2: a wrong plan or call; 3: it could not be recorded."""
    parser = argparse.ArgumentParser(description="Record a run of a DAG so that kahn can show it.")
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="walk a graph.json: run each node's done_when, in order")
    run_parser.add_argument("plan", help="a graph.json; it is copied into the run's folder")
    run_parser.add_argument("--archive", default=".kahn/archive", help="default: %(default)s")
    run_parser.add_argument("--run-id", help="default: the plan's name, the time and the process id")
    run_parser.add_argument("--jobs", type=int, default=1, help="nodes at once; default: %(default)s")
    run_parser.add_argument("--max-backoff", type=float, default=60.0, help="seconds before a retry, at most; 0: none")
    run_parser.add_argument("--quiet", action="store_true", help="do not show the output of checks")
    args = parser.parse_args(arguments)
    stem = re.sub("[^a-zA-Z0-9]+", "-", os.path.splitext(os.path.basename(args.plan))[0]).strip("-")[:36] or "run"
    run_id = args.run_id or f"{stem}-{now()[:19].replace('-', '').replace(':', '')}-{os.getpid()}"
    try:
        run = Run(
            args.archive,
            run_id,
            os.path.abspath(args.plan),
            parent=parent_from_env(),
            max_backoff_s=args.max_backoff,
            echo=not args.quiet,
        )
        with run:
            run.walk(jobs=max(1, args.jobs))
    except NotWrittenError as error:
        print(f"kahn_emit: not recorded: {error}", file=sys.stderr)
        return 3
    except (EmitError, OSError, ValueError) as error:
        print(f"kahn_emit: {error}", file=sys.stderr)
        return 2
    status = run._tally.status
    done = sum(1 for state in status.values() if state == "done")
    print(f"kahn_emit: {run.log.folder}: {run.outcome}, {done} of {len(status)} nodes done", flush=True)
    return 0 if run.outcome in ("clean", "clean_with_flake") else 1


if __name__ == "__main__":
    sys.exit(main())
