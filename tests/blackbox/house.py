"""The binaries, a private Postgres, servers over it, and requests: what may be started, killed and asked."""

import contextlib
import http.client
import json
import os
import pathlib
import queue
import random
import re
import secrets
import signal
import socket
import struct
import subprocess
import threading
import time

from blackbox.tenants import Tenant

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The longest that an answer may take with the database away: a wait for a connection, a connection, a statement.
SLOWEST_ANSWER_S = 30
# For whatever has to become true.
PATIENCE_S = 60
DICE = random.Random()
# Settings of a database that is to survive, and that tidies up after itself as one does; commits take 2 ms longer, so that
# there is something to hit.
DURABLE = (
    "-c autovacuum=on -c shared_buffers=128MB -c fsync=on -c full_page_writes=on -c synchronous_commit=on "
    "-c commit_delay=2000 -c commit_siblings=0"
)


class Failure(Exception):
    """What keeps a fault from being tried; one sentence."""


def until(what, look):
    """Asks until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise Failure(f"{what}: not within {PATIENCE_S} s")


# ---------------------------------------------------------------- processes


def clean_env(more):
    """Nothing of kahn's but what is given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KAHN_") and name != "PORT"}
    return {**kept, **more}


class Kahn:
    """A server that may be killed and started again; each time on another port."""

    def __init__(self, binary, arguments, env):
        self.command = [str(binary), "serve", "--bind", "127.0.0.1:0", *map(str, arguments)]
        self.env, self.lines, self.process, self.port = clean_env(env), [], None, None

    def start(self):
        self.process = subprocess.Popen(
            self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        ports = queue.Queue()
        threading.Thread(target=self.listen, args=(self.process.stderr, ports), daemon=True).start()
        try:
            self.port = ports.get(timeout=PATIENCE_S)
        except queue.Empty:
            self.port = None
        if self.port is None:
            raise Failure("kahn did not start; it said:\n" + "\n".join(self.lines[-20:]))
        return self

    def listen(self, said, ports):
        for line in said:
            line = line.decode("utf-8", "replace").rstrip()
            self.lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                ports.put(int(found[1]))
        ports.put(None)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.kill()

    def said(self, words):
        return sum(words in line for line in self.lines)


def children(pid):
    """The processes that this one started."""
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def go_on(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


class Postgres:
    """A private cluster, and what may be done to it. It goes when its standard input closes."""

    def __init__(self, folder):
        env = {**os.environ, "KAHN_CLUSTER_OPTIONS": DURABLE}
        self.process = subprocess.Popen(
            [ROOT / "tests/cluster", folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        line = self.process.stdout.readline()
        if not line:
            raise Failure("tests/cluster did not start a Postgres (its message stands above)")
        told = json.loads(line)
        self.admin_dsn, self.socket_dir, self.port = told["admin_dsn"], told["socket_dir"], told["port"]
        self.data = pathlib.Path(folder) / "data"
        # The server's own programs stand beside the one that runs.
        self.bin = pathlib.Path(os.readlink(f"/proc/{self.pid()}/exe")).parent

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(30)

    def pid(self):
        return int((self.data / "postmaster.pid").read_text().split("\n")[0])

    def sql(self, text, patience=PATIENCE_S):
        """Rows of a statement, each a string with | between its columns."""
        command = [self.bin / "psql", "-XAtqv", "ON_ERROR_STOP=1", "-h", self.socket_dir, "-p", str(self.port), "-U", "postgres"]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=patience, env={**os.environ, "PGDATABASE": "postgres"})
        if done.returncode != 0:
            raise Failure(f"psql: {done.stderr.strip()}")
        return done.stdout.splitlines()

    def restart(self):
        """Stops it without a checkpoint, if it runs, and starts it with the options that it had."""
        as_its_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--reset-env"] if os.geteuid() == 0 else []
        command = [*as_its_user, self.bin / "pg_ctl", "-D", self.data, "-l", self.data / "server.log", "-m", "immediate", "-w", "restart"]

        def is_up():
            return subprocess.run(command, cwd=self.data.parent, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=PATIENCE_S).returncode == 0
        # Processes of the one before may still hold its shared memory for a moment.
        until("Postgres starts again", is_up)

    def kill(self):
        os.kill(self.pid(), signal.SIGKILL)

    @contextlib.contextmanager
    def stopped(self):
        """It does not run meanwhile, and ends no connection: as a machine that hangs."""
        with contextlib.ExitStack() as stack:
            for pid in [self.pid(), *children(self.pid())]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stack.callback(go_on, pid)
            yield

    def kill_backend(self):
        of_kahn = "SELECT pid FROM pg_stat_activity WHERE usename = 'kahn_app' ORDER BY state = 'active' DESC, random() LIMIT 1"
        (pid,) = until("kahn has a connection", lambda: self.sql(of_kahn))
        os.kill(int(pid), signal.SIGKILL)

        def is_up():
            with contextlib.suppress(Failure):
                return self.sql("SELECT 1")
        until("Postgres has recovered", is_up)

    def cut(self, seconds):
        """Ends kahn's connections one by one, most of them in COMMIT; how many."""
        (cut,) = self.sql(f"""CREATE TEMP TABLE cut (n int);
            DO $$ DECLARE till timestamptz := clock_timestamp() + interval '{seconds} s'; cut int := 0; BEGIN
              WHILE clock_timestamp() < till LOOP
                PERFORM pg_stat_clear_snapshot();
                cut := cut + (SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
                  WHERE usename = 'kahn_app' AND state <> 'idle' AND random() < CASE query WHEN 'COMMIT' THEN 0.3 ELSE 0.005 END);
                PERFORM pg_sleep(0.002);
              END LOOP;
              INSERT INTO cut VALUES (cut); END $$;
            SELECT n FROM cut;""")
        return int(cut)


def make_tenant(cloud, postgres, work, name):
    mark = name + secrets.token_hex(4)
    keep = work / f"{mark}.env"
    for scope in ("ingest", "read"):
        run(cloud, "tenant", "provision", mark, "--org", mark, "--scope", scope, "--write-env", keep,
            env={"KAHN_ADMIN_DATABASE_URL": postgres.admin_dsn})
    kept = dict(row.split("=", 1) for row in keep.read_text().splitlines())
    # The rate of a plan is for people; here somebody is in a hurry.
    postgres.sql("UPDATE plans SET rate_per_s = 100000000, burst = 1000000000")
    return Tenant(mark, {"ingest": kept[f"KAHN_KEY_{mark.upper()}"], "read": kept[f"KAHN_READ_KEY_{mark.upper()}"]})


def run(binary, *arguments, env):
    done = subprocess.run([str(binary), *map(str, arguments)], env=clean_env(env), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode != 0:
        raise Failure(f"kahn {arguments[0]} failed with {done.returncode}:\n{done.stdout}{done.stderr}")


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """A disk of so many megabytes at this folder, which is gone in the end."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "kahn-faults", folder], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"a small disk needs the right to mount one: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # Even while somebody still has a file of it open.
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def filled(disk):
    """Nothing more fits on this disk meanwhile, though there was room when it began."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    try:
        yield
    finally:
        ballast.unlink()


class House:
    """The binaries and the database, and servers over them."""

    def __init__(self, oss, cloud, work, stack):
        self.oss, self.cloud, self.work, self.stack = oss, cloud, work, stack
        self.postgres = Postgres(work / "pg")
        stack.callback(self.postgres.close)
        password = secrets.token_hex(16)
        keep = work / "app.pw"
        keep.touch(mode=0o600)
        keep.write_text(password)
        run(cloud, "migrate", "--app-password-file", keep, env={"KAHN_ADMIN_DATABASE_URL": self.postgres.admin_dsn})
        self.dsn = f"postgres://kahn_app:{password}@127.0.0.1:{self.postgres.port}/postgres"

    def tenants(self):
        both = [make_tenant(self.cloud, self.postgres, self.work, name) for name in ("anna", "bert")]
        for own, other in (both, both[::-1]):
            own.foreign = other.own
        return both

    @contextlib.contextmanager
    def serving(self, pool=10, more=None):
        env = {"KAHN_AUTH": "keys-only", "KAHN_DATABASE_URL": self.dsn, "KAHN_AGENT_VIEWS": "on", **(more or {})}
        kahn = Kahn(self.cloud, ["--database-pool", pool], env)
        self.stack.callback(kahn.stop)
        yield kahn.start()
        kahn.stop()


# ---------------------------------------------------------------- asking


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, dict(response.getheaders()), response.read()

    def header(self, name):
        return next((value for given, value in self.headers.items() if given.lower() == name), None)

    def json(self):
        return json.loads(self.body)

    def raw(self):
        return repr((self.status, self.headers)).encode() + self.body

    def code(self):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return self.json()["code"]


def head(method, path, fields, body):
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *(f"{name}: {value}" for name, value in fields)]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def ask(port, method, path, fields=(), body=None):
    """One request over a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=SLOWEST_ANSWER_S) as stream:
        try:
            stream.sendall(head(method, path, fields, body) + (body or b""))
        except (BrokenPipeError, ConnectionResetError):
            # A refusal may come before all of a body is taken.
            pass
        response = http.client.HTTPResponse(stream, method=method)
        response.begin()
        return Answer(response)


def ask_and_leave(port, method, path, fields=(), body=None):
    """Ends the connection by RST at some moment between the request's first byte and the answer's last; what came till then."""
    whole = head(method, path, fields, body) + (body or b"")
    sent = whole if DICE.random() < 0.8 else whole[:DICE.randrange(len(whole))]
    got, leaves_at = b"", time.monotonic() + DICE.choice((0, *(DICE.uniform(0, most) for most in (0.01, 0.1, 0.1, 1))))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stream:
        stream.sendall(sent)
        with contextlib.suppress(TimeoutError):
            while (left := leaves_at - time.monotonic()) > 0:
                stream.settimeout(left)
                if not (part := stream.recv(4096)):
                    break
                got += part
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return got


def bearer(key):
    return [("Authorization", f"Bearer {key}")] if key else []
