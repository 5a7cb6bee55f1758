"""Writers with a ledger, readers and live clients, and the reckoning of what became of all that was acknowledged."""

import collections
import contextlib
import gzip
import hashlib
import http.client
import itertools
import json
import random
import re
import socket
import threading
import time

from blackbox.house import DICE, PATIENCE_S, Failure, ask, ask_and_leave, bearer, head, until
from blackbox.tenants import RUNS, graph, line


class Figures:
    """What a fault came to."""

    def __init__(self):
        self.repeats = self.acknowledged = self.lost = self.doubled = self.leaked = self.answers = 0
        self.repeated = self.settled = self.refused = self.cancelled = self.frames = 0
        self.slowest, self.wrong = 0.0, []

    def add(self, other):
        for name, value in vars(other).items():
            kept = vars(self)[name]
            vars(self)[name] = max(kept, value) if name == "slowest" else kept + value


class Load:
    """Writers of some tenants and the ledger of what they sent. `falters` says that a connection may break."""

    def __init__(self, kahn, tenants, falters):
        self.kahn, self.tenants, self.falters = kahn, tenants, falters
        self.figures, self.lock, self.closing = Figures(), threading.Lock(), threading.Event()
        self.cancels = 0.0
        # Whether a full disk may be what keeps a batch out (507), and how long a writer rests after each batch.
        self.may_be_full, self.rest_s = False, 0.0
        # After how many lines a writer leaves its run for a new one.
        self.longest_run = float("inf")
        # (tenant, run) -> how far its lines were sent; the batches that were acknowledged.
        self.sent, self.acknowledged, self.graphs = collections.Counter(), [], set()
        self.threads, numbers = [], itertools.count()
        for tenant in tenants:
            # Two writers share a run, and send the same lines in other batches.
            for run_id in (*RUNS, RUNS[-1]):
                self.spawn(self.write, tenant, run_id, next(numbers))
        self.writers = list(self.threads)

    def spawn(self, work, *arguments):
        def guarded():
            try:
                work(*arguments)
            except Exception as error:  # whatever it is, the part has failed
                self.blame(f"{work.__name__}{arguments[1:]}: {type(error).__name__}: {error}")
        thread = threading.Thread(target=guarded, daemon=True)
        self.threads.append(thread)
        thread.start()

    def blame(self, sentence):
        with self.lock:
            self.figures.wrong.append(sentence)

    def look(self, tenant, raw, what):
        """Searches what a tenant was told for marks of others."""
        with self.lock:
            self.figures.answers += 1
            if found := tenant.foreign_mark(raw):
                self.figures.leaked += 1
                self.figures.wrong.append(f"{what}: an answer to {tenant.mark} holds {found.decode()}")
            elif any(mark in raw for mark in tenant.own):
                tenant.seen[what] += 1

    def request(self, tenant, method, path, fields=(), body=None, what=None):
        """An answer that is one, or None where there was none and a client has to come again."""
        scope = "ingest" if path.startswith("/v1/") else "read"
        begun, port = time.monotonic(), self.kahn.port
        try:
            answer = ask(port, method, path, [*bearer(tenant.keys.get(scope)), *fields], body)
        except (OSError, http.client.HTTPException) as error:
            if not self.falters or isinstance(error, TimeoutError):
                self.blame(f"{method} {path}: {type(error).__name__}: {error}")
            time.sleep(0.02)
            return None
        with self.lock:
            self.figures.slowest = max(self.figures.slowest, time.monotonic() - begun)
        self.look(tenant, answer.raw(), what or path)
        away = answer.status in (429, 503) and answer.header("retry-after")
        if away or (answer.status == 507 and self.may_be_full):
            with self.lock:
                self.figures.refused += 1
            # Sooner than it says: a server has to bear that too.
            time.sleep(0.1)
            return None
        return answer

    # ---- writers

    def write(self, tenant, name, number):
        dice, run_id, seq, extra, left = random.Random(number), name, 0, 0, 0
        self.put_graph(tenant, run_id)
        while not self.closing.is_set():
            if seq >= self.longest_run:
                left += 1
                run_id, seq = f"{name}-n{left}", 0
                self.put_graph(tenant, run_id)
            if dice.random() < 0.1:
                # A batch of several new runs, which are all there or none.
                names = [f"{kind}-{number}-{extra}" for kind in ("steady", "agent", "Other")]
                extra += 1
                self.deliver(tenant, [(name, 0, dice.randrange(1, 9)) for name in names], dice)
            else:
                count = dice.choice((1, 3, 10, 30, dice.randrange(1, 200)))
                self.deliver(tenant, [(run_id, seq, seq + count)], dice)
                seq += count
            self.closing.wait(self.rest_s)

    def runs(self, tenant):
        """The runs with a graph: those that go on, and those that their writers left."""
        with self.lock:
            return sorted(run_id for owner, run_id in self.graphs if owner is tenant)

    def put_graph(self, tenant, run_id):
        body, path = graph(tenant.mark, run_id), f"/v1/ingest/runs/{run_id}/graph"
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer = self.request(tenant, "PUT", path, [("Content-Type", "application/json")], body, "PUT graph")
            if answer:
                if answer.status not in (200, 201):
                    self.blame(f"PUT {path}: {answer.status} {answer.code()}")
                with self.lock:
                    self.graphs.add((tenant, run_id))
                return
        raise Failure(f"the graph of {run_id} was not taken within {PATIENCE_S} s")

    def deliver(self, tenant, parts, dice):
        """Sends a batch until it is acknowledged."""
        lines = [line(tenant.mark, run_id, seq) for run_id, begin, end in parts for seq in range(begin, end)]
        with self.lock:
            for run_id, _, end in parts:
                self.sent[tenant, run_id] = max(self.sent[tenant, run_id], end)
        body = b"".join(text + dice.choice((b"\n", b"\r\n")) for text in lines)
        fields = [("Content-Type", "application/x-ndjson")]
        if dice.random() < 0.2 and len(body) < 100_000:
            body, fields = gzip.compress(body, 1), [*fields, ("Content-Encoding", "gzip")]
        path = "/v1/ingest/transitions" + (f"?from_seq={parts[0][1]}" if len(parts) == 1 else "")
        deadline, tries = time.monotonic() + PATIENCE_S, 0
        while time.monotonic() < deadline:
            tries += 1
            if DICE.random() < self.cancels:
                with contextlib.suppress(OSError):
                    ask_and_leave(self.kahn.port, "POST", path, [*bearer(tenant.keys.get("ingest")), *fields], body)
                with self.lock:
                    self.figures.cancelled += 1
                continue
            answer = self.request(tenant, "POST", path, fields, body, "POST batch")
            if answer is None:
                continue
            if answer.status != 200:
                self.blame(f"POST {parts}: {answer.status} {answer.body[:200]!r}")
                return
            self.acknowledge(tenant, parts, answer.json(), (len(lines), tries))
            return
        raise Failure(f"the batch {parts} was not acknowledged within {PATIENCE_S} s")

    def acknowledge(self, tenant, parts, told, sent):
        (lines, tries), figures = sent, self.figures
        with self.lock:
            figures.acknowledged += 1
            figures.repeated += tries > 1
            figures.settled += tries > 1 and told["accepted"] == 0
            self.acknowledged.append((tenant, parts))
            if told["accepted"] + told["duplicates"] != lines:
                figures.wrong.append(f"POST {parts}: {lines} lines were sent, and {told} was told")
            for run_id, _, end in parts:
                if told["runs"][run_id]["next_seq"] < end:
                    figures.wrong.append(f"POST {parts}: acknowledged, but the log ends before: {told}")

    def count(self):
        with self.lock:
            return self.figures.acknowledged

    def more(self, batches):
        """Waits for so many more acknowledged batches, and then for a moment of any length."""
        wanted = self.count() + batches
        until("batches are acknowledged", lambda: self.figures.wrong or self.count() >= wanted)
        time.sleep(DICE.uniform(0, 0.03))

    def close(self):
        """Lets every writer finish its batch."""
        self.closing.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE_S)
            if thread.is_alive():
                self.blame("a client did not end")

    # ---- what is there in the end

    def settle(self, postgres=None):
        """Holds every run against what was sent."""
        self.close()
        figures = self.figures
        stored = {}
        for tenant, run_id in self.sent:
            stored[tenant, run_id] = self.stored(tenant, run_id)
        lost, doubled, other = reckon(self.sent, self.acknowledged, stored)
        figures.lost, figures.doubled = lost, doubled
        figures.wrong += other
        for tenant, run_id in self.graphs:
            answer = self.kept(tenant, f"/api/runs/{run_id}/graph", "the graph in the end")
            if answer.body != graph(tenant.mark, run_id):
                figures.wrong.append(f"the graph of {run_id} is another one")
        for tenant in self.tenants if postgres else ():
            (counted,) = postgres.sql(
                f"SELECT coalesce(sum(events), 0) FROM usage JOIN tenants USING (tenant_id) WHERE name = '{tenant.mark}'")
            sent = sum(count for (owner, _), count in self.sent.items() if owner is tenant)
            if int(counted) != sent:
                figures.wrong.append(f"{tenant.mark} sent {sent} events, and {counted} are counted")
        if any("panicked" in said for said in self.kahn.lines):
            figures.wrong.append("kahn panicked")
        return figures

    def kept(self, tenant, path, what):
        def asked():
            return self.request(tenant, "GET", path, what=what)
        answer = until(path, asked)
        if answer.status != 200:
            raise Failure(f"GET {path}: {answer.status} {answer.body[:200]!r}")
        return answer

    def stored(self, tenant, run_id):
        """The lines of a run as they are told; its digest and its state have to say the same."""
        body, seq = b"", 0
        while True:
            answer = self.kept(tenant, f"/api/runs/{run_id}/events?from_seq={seq}&limit=5000", "events in the end")
            following = int(answer.header("kahn-next-seq"))
            body += answer.body
            if following == seq:
                break
            seq = following
        lines = body.split(b"\n")[:-1]
        position = self.kept(tenant, f"/v1/ingest/runs/{run_id}?digest=true", "position in the end").json()
        state = self.kept(tenant, f"/api/runs/{run_id}", "state in the end").json()
        told = (position["next_seq"], position["lines_sha256"], state["next_seq"], seq)
        if told != (len(lines), hashlib.sha256(body).hexdigest(), len(lines), len(lines)):
            self.blame(f"{run_id} of {tenant.mark}: {len(lines)} lines, but it is told {told}")
        return lines


def reckon(sent, acknowledged, stored):
    """Batches that were acknowledged and are not there whole, lines that stand twice, and whatever else is not as sent."""
    doubled, other, missing = 0, [], {}
    for (tenant, run_id), count in sent.items():
        wanted = [line(tenant.mark, run_id, seq) for seq in range(count)]
        found = stored[tenant, run_id]
        times = collections.Counter(found)
        doubled += sum(number - 1 for number in times.values())
        missing[tenant, run_id] = {seq for seq, text in enumerate(wanted) if text not in times}
        if found != wanted:
            at = next((n for n, pair in enumerate(zip(found, wanted)) if pair[0] != pair[1]), min(len(found), count))
            other.append(f"{run_id} of {tenant.mark}: {len(found)} lines, {count} sent; they part at seq {at}")
    lost = sum(any(not missing[tenant, run_id].isdisjoint(range(begin, end)) for run_id, begin, end in parts)
               for tenant, parts in acknowledged)
    return lost, doubled, other


# ---------------------------------------------------------------- readers and live clients


def reads(load, tenant):
    """Every address that is read, for this tenant."""
    node, run_id = f"{tenant.mark}-{DICE.randrange(20)}", DICE.choice(load.runs(tenant) or RUNS)
    return (
        "/api/me", "/api/runs?limit=50", f"/api/runs?node_id={node}", f"/api/runs?agent_id={tenant.mark}", "/api/runs?sort=duration&kind=ci",
        f"/api/runs/{run_id}", f"/api/runs/{run_id}?at_seq={DICE.randrange(300)}", f"/api/runs/{run_id}/events?limit={DICE.randrange(1, 300)}",
        f"/api/runs/{run_id}/graph", f"/api/runs/{run_id}/problems", f"/api/runs/{run_id}/diagnostics", f"/api/runs/steady-0/nodes/{node}",
        "/api/compare?base=steady-0&head=steady-1", "/api/agent-runs/aggregate?window=all", "/api/audit-checkpoints/flakiness?window=all",
        "/api/nodes/flakiness?window=all", f"/v1/ingest/runs/{run_id}?digest=true", f"/runs/{run_id}", "/api/config",
    )


def shape(path):
    """An address without what differs from one request to the next."""
    return re.sub(r"=[^&]*", "", re.sub(r"((steady-\d|agent-0|shared)(-n\d+)?|[a-z]+[0-9a-f]{8}-\d+)", "*", path))


def read(load, tenant):
    """Reads whatever there is, and leaves some of it."""
    while not load.closing.is_set():
        path = DICE.choice(reads(load, tenant))
        if DICE.random() < 0.35:
            key = tenant.keys.get("ingest" if path.startswith("/v1/") else "read")
            got = b""
            with contextlib.suppress(OSError):
                got = ask_and_leave(load.kahn.port, "GET", path, bearer(key))
            load.look(tenant, got, "cancelled")
            with load.lock:
                load.figures.cancelled += 1
            continue
        fields = [("Accept-Encoding", "gzip")] if DICE.random() < 0.2 else []
        answer = load.request(tenant, "GET", path, fields, what=shape(path))
        if answer and answer.header("content-encoding") == "gzip":
            load.look(tenant, gzip.decompress(answer.body), shape(path))
        if answer and answer.status not in (200, 404) and answer.code() != "invalid_at_seq":
            load.blame(f"GET {path}: {answer.status} {answer.body[:200]!r}")


class Live:
    """As much of a WebSocket client as is needed."""

    def __init__(self, port, key):
        self.stream, self.got = socket.create_connection(("127.0.0.1", port), timeout=10), b""
        upgrade = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "A" * 22 + "=="), *bearer(key)]
        self.stream.sendall(head("GET", "/ws/live", upgrade, None).replace(b"Connection: close", b"Connection: Upgrade"))
        while b"\r\n\r\n" not in self.got:
            self.receive()
        self.head, self.got = self.got.split(b"\r\n\r\n", 1)
        if b" 101 " not in self.head.split(b"\r\n")[0]:
            raise ConnectionError(f"no WebSocket: {self.head[:200]}")
        self.stream.settimeout(0.2)

    def receive(self):
        part = self.stream.recv(65536)
        if not part:
            raise ConnectionError("the socket ended")
        self.got += part

    def send(self, kind, payload):
        # A mask of zeros leaves the payload as it is.
        self.stream.sendall(bytes([0x80 | kind, 0x80 | len(payload)]) + bytes(4) + payload)

    def frames(self):
        """The text frames that have come; pings are answered."""
        with contextlib.suppress(TimeoutError):
            self.receive()
        while len(self.got) >= 2:
            length, start = self.got[1], 2
            if length > 125:
                start = 4 if length == 126 else 10
                if len(self.got) < start:
                    return
                length = int.from_bytes(self.got[2:start], "big")
            if len(self.got) < start + length:
                return
            kind, payload, self.got = self.got[0] & 0x0F, self.got[start:start + length], self.got[start + length:]
            if kind == 9:
                self.send(10, payload)
            elif kind == 8:
                raise ConnectionError(f"closed: {payload[:100]!r}")
            else:
                yield payload


def listen(load, tenant):
    """Follows the list and the runs that everybody writes to: every line once, in order, and nobody else's."""
    following = collections.Counter()
    deadline = None
    while True:
        try:
            live = Live(load.kahn.port, tenant.keys.get("read"))
            load.look(tenant, live.head, "handshake")
            live.send(1, b'{"type":"subscribe_runs"}')
            subscribed = set()
            while True:
                for run_id in set(load.runs(tenant)) - subscribed:
                    live.send(1, json.dumps({"type": "subscribe", "run_id": run_id, "from_seq": following[run_id]}).encode())
                    subscribed.add(run_id)
                for payload in live.frames():
                    load.look(tenant, payload, "frame")
                    hear(load, tenant, json.loads(payload), following)
                if load.closing.is_set():
                    # The writers still end their batches.
                    deadline = deadline or time.monotonic() + PATIENCE_S
                    ended = all(not thread.is_alive() for thread in load.writers)
                    behind = [run_id for run_id in load.runs(tenant) if following[run_id] < load.sent[tenant, run_id]]
                    if ended and not behind:
                        return
                    if time.monotonic() > deadline:
                        load.blame(f"a live client of {tenant.mark} never got the rest of {behind}: {dict(following)}")
                        return
        except OSError:
            # An unknown run, or a database that was away when it asked: it comes again with its seqs.
            time.sleep(0.1)


def hear(load, tenant, frame, following):
    if frame["type"] == "error":
        if frame["code"] not in ("unknown_run", "storage_unavailable"):
            load.blame(f"a live client was told {frame}")
        raise ConnectionError(frame["code"])
    if frame["type"] != "event":
        return
    run_id, seq = frame["run_id"], frame["seq"]
    wanted = line(tenant.mark, run_id, seq)
    told = len(wanted) == frame.get("bytes") if frame["line"] is None else frame["line"].encode() == wanted
    if seq != following[run_id] or not told:
        load.blame(f"a live client was told seq {seq} of {run_id} instead of {following[run_id]}, or another line")
    following[run_id] = seq + 1
    with load.lock:
        load.figures.frames += 1
