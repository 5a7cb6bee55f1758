"""Record a run of one agent so that kahn can show it. One file to copy; Python 3.9 or newer, Linux or macOS.

    from kahn_agent_emit import AgentRun, parent_from_env

    with AgentRun(".kahn/archive", "fix-events-1", "coder", "Make `cargo test events` pass.",
                  model="m-large", parent=parent_from_env()) as agent:         # agent_run_start; it is thinking
        while not agent.is_over:
            plan, usage = think()
            with agent.tool("cargo test", input="events", usage=usage) as call:   # thinking -> tool_call
                call.output = run_the_tests()                                    # an exception: ok false, and goes on
            agent.audit("audit:no-secrets", "pass", 0.2, {"files": 2})
            if call.output == "14 passed":
                agent.end("converged", score=0.93)                               # agent_run_end
            else:
                agent.think()                                                    # tool_call -> tool_result -> thinking

A run that leaves the `with` block without `end` is `partial` (it never said that it converged), by an exception
`aborted`; one that is killed has no end event. `agent.emit` writes any single event. Threads may share an AgentRun;
other processes append to the same log by `Log(archive, run_id).emit(...)`. A check of a recorded DAG run passes what
started the agent in KAHN_PARENT; hand `agent.parent` on to what the agent starts.

Every event is one write to the end of `transitions.jsonl`. An event that could not be written is always an exception.
"""

from __future__ import annotations

import bisect
import contextlib
import datetime
import errno
import itertools
import json
import os
import re
import threading
import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

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


class AgentRun:
    """A run of one agent, from `agent_run_start` to `agent_run_end`; use it with `with`."""

    def __init__(
        self,
        archive: PathLike,
        run_id: str,
        agent_id: str,
        task: str,
        *,
        model: Optional[str] = None,
        parent: Optional[Mapping[str, Any]] = None,
    ) -> None:
        start: Dict[str, Any] = {"agent_id": agent_id, "task": task, "model": model, "parent": parent}
        _checked("agent_run_start", start)
        self.log = Log(archive, run_id, new=True)
        self.agent_id = agent_id
        #: Where the agent stands.
        self.status = "thinking"
        #: The step, from 0; the next one begins when it thinks again.
        self.step = 0
        #: The outcome that was declared; None before.
        self.outcome: Optional[str] = None
        self._begun = time.monotonic()
        self._pid = os.getpid()
        try:
            self.log.emit("agent_run_start", **start)
        except BaseException:
            # Nothing was recorded, so nothing stays.
            self.log.close()
            if os.path.getsize(self.log.path) == 0:
                os.unlink(self.log.path)
            raise

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.outcome is not None

    @property
    def parent(self) -> Dict[str, Any]:
        """What a run that this agent starts now names as its parent; as JSON, the value of KAHN_PARENT."""
        return {"run_id": self.log.run_id, "step": self.step}

    def emit(self, event: str, /, **fields: Any) -> None:
        """Writes any one event; see Log.emit."""
        self.log.emit(event, **fields)

    def heartbeat(self) -> None:
        """A sign of life while a step lasts; after 15 silent minutes a run counts as stalled."""
        self.emit("heartbeat")

    def move(self, to: str, *, reason: Optional[str] = None, usage: Optional[Mapping[str, Any]] = None) -> None:
        """Moves the agent to another status; `usage` is what the step took up to here."""
        with self.log.locked():
            fields: Dict[str, Any] = {"agent_id": self.agent_id, "step": self.step, "from": self.status, "to": to}
            self.emit("agent_transition", **fields, reason=reason, usage=usage)
            self.status = to

    def think(self, *, reason: Optional[str] = None, usage: Optional[Mapping[str, Any]] = None) -> None:
        """Begins the next step: the agent thinks, after it has read the result of a tool that it called."""
        with self.log.locked():
            if self.status == "tool_call":
                self.move("tool_result")
            if self.status != "thinking":
                self.step += 1
                try:
                    self.move("thinking", reason=reason, usage=usage)
                except EmitError:
                    self.step -= 1
                    raise

    @contextlib.contextmanager
    def tool(
        self, tool_name: str, input: Optional[str] = None, *, usage: Optional[Mapping[str, Any]] = None
    ) -> Iterator["Call"]:
        """One call of a tool: timed, and not ok when the block ends by an exception or sets `error`.

        `usage` is what the thinking before it took; the call's own goes to `call.usage`.
        """
        if self.status != "tool_call":
            self.move("tool_call", usage=usage)
        call, begun = Call(), time.monotonic()
        try:
            yield call
        except BaseException as error:
            call.error = call.error or f"{type(error).__name__}: {error}"
            raise
        finally:
            self.emit(
                "tool_invocation",
                agent_id=self.agent_id,
                step=self.step,
                tool_name=tool_name,
                duration_s=round(time.monotonic() - begun, 3),
                ok=call.error is None,
                input_summary=input,
                output_summary=call.output,
                error=call.error,
                usage=call.usage,
            )

    def audit(
        self,
        checkpoint_id: str,
        result: str,
        duration_s: float = 0.0,
        evidence: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """An audit of the agent: `pass`, `fail` or `warn`. By custom the id is `audit:<name>`."""
        self.emit(
            "audit_checkpoint",
            agent_id=self.agent_id,
            checkpoint_id=checkpoint_id,
            result=result,
            duration_s=duration_s,
            evidence=None if evidence is None else dict(evidence),
        )

    def end(
        self,
        outcome: str,
        *,
        score: Optional[float] = None,
        reason: Optional[str] = None,
        usage: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Ends the run: `converged`, `partial`, `escaped` (left its bounds, was stopped) or `aborted`.

        Each field of `usage` that is given wins over the sum of what the events said.
        """
        if self.is_over:
            raise EmitError(f"{self.log.run_id}: it has ended already")
        with self.log.locked():
            totals = _totals(self.log.read_new())
            fields: Dict[str, Any] = {
                "agent_id": self.agent_id,
                "outcome": outcome,
                **totals,
                "total_duration_s": round(time.monotonic() - self._begun, 3),
                "convergence_score": score,
                "usage": usage,
            }
            _checked("agent_run_end", fields)
            last = "converged" if outcome == "converged" else "failed"
            if self.status != last:
                self.move(last, reason=reason)
            self.emit("agent_run_end", **fields)
            self.outcome = outcome
        self.log.close()

    def __enter__(self) -> "AgentRun":
        return self

    def __exit__(self, kind: Any, error: Optional[BaseException], trace: Any) -> None:
        if os.getpid() != self._pid or self.is_over:
            return
        if error is None:
            self.end("converged" if self.status == "converged" else "partial")
        else:
            # The error that broke the run is the one to raise.
            with contextlib.suppress(EmitError):
                self.end("aborted", reason=f"error:{type(error).__name__}")
            self.log.close()


class Call:
    """One call of a tool, as its block describes it."""

    def __init__(self) -> None:
        #: What it gave.
        self.output: Optional[str] = None
        #: What went wrong; the call was ok when this is None.
        self.error: Optional[str] = None
        #: Tokens and cost: {input_tokens, output_tokens, cost_usd}, each of them optional.
        self.usage: Optional[Dict[str, Any]] = None


def _totals(records: List[Dict[str, Any]]) -> Dict[str, int]:
    """What the log says of the run, by whichever process it was written."""
    steps = [step for step in (record.get("step") for record in records) if isinstance(step, int)]
    audits = [record.get("result") for record in records if record.get("event") == "audit_checkpoint"]
    return {
        "total_steps": max(steps, default=-1) + 1,
        "total_tool_calls": sum(1 for record in records if record.get("event") == "tool_invocation"),
        "total_audit_checkpoints": len(audits),
        "audits_passed": audits.count("pass"),
        "audits_failed": audits.count("fail"),
    }
