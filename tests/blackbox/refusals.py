"""What must be refused: in the words of the contract, and without a trace in any table."""

import gzip
import json
import secrets

from blackbox.house import Failure, ask, bearer
from blackbox.load import Figures
from blackbox.tenants import LONGEST_LINE, graph, line


def rows(postgres, tenants):
    """A digest of every row of these tenants, but for when keys were last used."""
    tables = postgres.sql("SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = oid WHERE attname = 'tenant_id' "
                          "AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY 1")
    named = ", ".join(f"'{tenant.mark}'" for tenant in tenants)
    each = (f"SELECT '{table}', count(*), md5(string_agg(row::text, ',' ORDER BY row::text)) FROM {table} AS row "
            f"WHERE tenant_id IN (SELECT tenant_id FROM tenants WHERE name IN ({named}));"
            for table in tables if table != "api_keys")
    return postgres.sql("".join(each))


def mistyped(key):
    return key[:-1] + ("x" if key[-1] != "x" else "y")


def bad_batches(own, other):
    """Batches that are refused: what for, the query, the body, status and code."""
    def at(seq, run="shared", **fields):
        return json.dumps({**json.loads(line(own.mark, run, seq)), **fields}).encode() + b"\n"

    first, second = at(0), at(1)
    new = at(0, "new")
    yield "conflict", "", first.replace(b"20,", b"21,"), 409, "conflict"
    yield "conflict on the last of several runs", "", new + first.replace(b"20,", b"21,"), 409, "conflict"
    yield "gap", "?from_seq=1000", second, 409, "gap"
    yield "gap in a run that only the other tenant has", "?from_seq=2", at(2, "only-bert"), 409, "gap"
    yield "no place", "", second, 400, "from_seq_required"
    yield "several runs at one place", "?from_seq=0", new + at(0, "new-2"), 400, "several_runs"
    yield "a tenant in the query", f"?tenant_id={other.mark}", new, 400, None
    yield "malformed behind good lines", "", new + at(1, "new") + b"{\n", 400, "malformed_line"
    yield "a run id that is none", "", at(0, "new", run_id="../new"), 400, "malformed_line"
    yield "a run id with a NUL", "", at(0, "new", run_id="new\0"), 400, "malformed_line"
    yield "a torn last line", "", new + second[:-1], 400, "incomplete_line"
    yield "nothing", "", b"", 400, "empty_batch"
    yield "a line over 1 MiB", "", new + at(1, "new", x="y" * LONGEST_LINE), 413, "line_too_long"
    yield "10,001 events", "?from_seq=0", at(1, "new") * 10_001, 413, "too_many_events"
    yield "over 8 MiB", "", new + (b" " * 900_000 + b"\n") * 10, 413, "batch_too_large"


def bad_keys(own, other):
    """Credentials that do not get in: what they are, the fields, status and code."""
    good, read_key = own.keys["ingest"], own.keys["read"]
    prefix = len("kahn_live_sk_")
    yield "none", [], 401, "no_credentials"
    yield "another scheme", [("Authorization", f"Basic {good}")], 401, "no_credentials"
    yield "one that only reads", bearer(read_key), 403, "insufficient_scope"
    yield "two", [*bearer(good), *bearer(good)], 401, "invalid_token"
    yield "over 8 KiB", bearer("k" * 9000), 401, "invalid_token"
    bad = {
        "mistyped": mistyped(good), "cut off": good[:-1], "with more behind": good + "a", "in capitals": good.upper(), "a part": good[:prefix],
        "the other tenant's prefix": good[:prefix] + other.keys["ingest"][prefix:prefix + 8] + good[prefix + 8:],
        "of a character that no key has": good[:30] + "-" + good[31:], "of another kind": good.replace("_sk_", "_pk_"),
        "shaped like a JWT": "e30.e30.e30", "shaped like a JWE": "a.b.c.d.e", "opaque": secrets.token_hex(20), "a quote": "kahn_live_sk_' OR 1=1--",
    }
    for what, key in bad.items():
        yield what, bearer(key), 401, "invalid_token"


def refused(house):
    """Whatever must be refused is, in the words that it should be, and stores nothing."""
    anna, bert = house.tenants()
    figures, post, ndjson = Figures(), "/v1/ingest/transitions", ("Content-Type", "application/x-ndjson")
    with house.serving() as kahn:
        def tell(who, path, body):
            answer = ask(kahn.port, "POST", path, [*bearer(who.keys["ingest"]), ndjson], body)
            if answer.status != 200:
                raise Failure(f"POST {path}: {answer.status} {answer.body[:200]!r}")
            return answer.json()

        def whole(who, run_id):
            return b"".join(line(who.mark, run_id, seq) + b"\n" for seq in range(3))

        for who, run_id in ((anna, "shared"), (bert, "shared"), (bert, "only-bert"), (anna, "deleted"), (anna, "planned")):
            tell(who, post, whole(who, run_id))
        planned, json_body = "/v1/ingest/runs/planned/graph", ("Content-Type", "application/json")
        ask(kahn.port, "PUT", planned, [*bearer(anna.keys["ingest"]), json_body], graph(anna.mark, "planned"))
        house.postgres.sql("UPDATE runs SET deleted_at = now() WHERE run_id = 'deleted'")
        before = rows(house.postgres, (anna, bert))

        def must(what, request, status, code):
            nonlocal before
            answer = ask(kahn.port, *request)
            figures.repeats += 1
            if answer.status != status or code not in (None, answer.code()):
                figures.wrong.append(f"{what}: {answer.status} {answer.code()} instead of {status} {code}")
            if (found := bert.own[0] in answer.raw()):
                figures.leaked += found
            after = rows(house.postgres, (anna, bert))
            if after != before:
                figures.wrong.append(f"{what}: refused with {answer.status}, but rows changed: {before} {after}")
                before = after

        own = bearer(anna.keys["ingest"])
        for what, query, body, status, code in bad_batches(anna, bert):
            must(what, ("POST", post + query, [*own, ndjson], body), status, code)
        bomb = gzip.compress(whole(anna, "new") + b" " * 8_000_000)
        must("a gzip bomb", ("POST", post, [*own, ndjson, ("Content-Encoding", "gzip")], bomb), 413, "batch_too_large")
        must("another coding", ("POST", post, [*own, ndjson, ("Content-Encoding", "br")], whole(anna, "new")), 415, "unsupported_encoding")
        must("another type", ("POST", post, [*own, json_body], whole(anna, "new")), 415, "unsupported_media_type")
        for what, fields, status, code in bad_keys(anna, bert):
            must(f"a key: {what}", ("POST", post, [*fields, ndjson], whole(anna, "new")), status, code)
            must(f"a key: {what}", ("PUT", "/v1/ingest/runs/new/graph", [*fields, json_body], graph(anna.mark, "new")), status, code)
        must("a key in the query", ("POST", f"{post}?access_token={anna.keys['ingest']}", [ndjson], whole(anna, "new")), 401, "no_credentials")
        for path, body, status, code in (
            (planned, graph(anna.mark, "another"), 409, "graph_conflict"), ("/v1/ingest/runs/-new/graph", b"{}", 400, "invalid_run_id"),
            ("/v1/ingest/runs/new/graph", b"[]", 400, "invalid_graph"), ("/v1/ingest/runs/deleted/graph", b"{}", 410, "gone"),
            ("/v1/ingest/runs/new/graph", b'{"x":"' + b"y" * 8 * LONGEST_LINE + b'"}', 413, "graph_too_large"),
        ):
            must(f"PUT {path}", ("PUT", path, [*own, json_body], body), status, code)
        # Deleted is gone: for the same lines, for more of them, and beside a run that would fit.
        gone = b"".join(line(anna.mark, "deleted", seq) + b"\n" for seq in (3, 4))
        must("more of a deleted run", ("POST", f"{post}?from_seq=3", [*own, ndjson], gone), 410, "gone")
        must("a deleted run again", ("POST", post, [*own, ndjson], whole(anna, "new") + whole(anna, "deleted")), 410, "gone")
        must("where a deleted run goes on", ("GET", "/v1/ingest/runs/deleted", own), 404, "unknown_run")
        must("where the other tenant's run goes on", ("GET", "/v1/ingest/runs/only-bert", own), 404, "unknown_run")
        # A body that names the other tenant is a body: it is stored where the key belongs.
        named = {"tenant_id": house.postgres.sql(f"SELECT tenant_id FROM tenants WHERE name = '{bert.mark}'")[0], "tenant": bert.mark}
        theirs = json.dumps({**json.loads(line(anna.mark, "named", 0)), **named}).encode() + b"\n"
        tell(anna, post, theirs)
        (owner,) = house.postgres.sql(f"SELECT name FROM runs JOIN tenants USING (tenant_id) WHERE run_id = 'named' AND name IN ('{anna.mark}', '{bert.mark}')")
        if owner != anna.mark or rows(house.postgres, (anna, bert)) == before:
            figures.wrong.append(f"a body that names another tenant was stored for {owner}, or rows are not looked at")
    return figures
