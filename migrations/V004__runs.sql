-- A row a run: what `reduce` made of its lines (summary and state, JSON that kahn wrote and can write again), the
-- graph's bytes, and the columns that lists filter and sort by, copied out of the summary. SQL computes nothing from them.
--
-- Times are milliseconds since 1970 as the events say them: no time zone, no rounding, negative for the years before.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.runs (
  tenant_id      uuid NOT NULL REFERENCES public.tenants (tenant_id),
  run_id         text COLLATE "C" NOT NULL,
  next_seq       bigint NOT NULL DEFAULT 0 CHECK (next_seq >= 0),
  log_id         text COLLATE "C",
  summary        text COLLATE "C" NOT NULL DEFAULT '',
  -- The state after the first `state_seq` lines; how many bytes (with LFs) the lines behind it are.
  state          text COLLATE "C" NOT NULL DEFAULT '',
  state_seq      bigint NOT NULL DEFAULT 0 CHECK (state_seq >= 0),
  tail_bytes     bigint NOT NULL DEFAULT 0 CHECK (tail_bytes >= 0),
  -- By which rules summary and state were made: those of others are made again from the lines.
  fold_version   integer NOT NULL DEFAULT 0,
  graph          bytea,
  graph_sha256   text COLLATE "C",
  received_at    timestamptz NOT NULL DEFAULT now(),
  deleted_at     timestamptz,
  -- The transaction that wrote this row last. What a reader has not seen yet is at or past the oldest transaction
  -- that was open when it last looked, so a poll by this column misses nothing.
  changed        xid8 NOT NULL DEFAULT pg_current_xact_id(),
  kind           text COLLATE "C",
  outcome        text COLLATE "C",
  outcome_rank   smallint,
  started        bigint,
  last_event     bigint,
  ended          boolean NOT NULL DEFAULT false,
  duration_s     double precision,
  agent_id       text COLLATE "C",
  parent_run_id  text COLLATE "C",
  parent_node_id text COLLATE "C",
  node_ids       text[] COLLATE "C" NOT NULL DEFAULT '{}',
  PRIMARY KEY (tenant_id, run_id)
);
-- Each of these is partial, so that a look for one run (by a statement, or by a foreign key's check) has the primary key as
-- its only way: before a new tenant's rows are counted in the statistics, an index that only begins with tenant_id looks as
-- good, and every line of a batch would then walk all of the tenant's runs.
CREATE INDEX runs_changed ON public.runs (tenant_id, changed) WHERE changed IS NOT NULL;
CREATE INDEX runs_started ON public.runs (tenant_id, started DESC NULLS LAST, run_id) WHERE deleted_at IS NULL;
CREATE INDEX runs_parent ON public.runs (tenant_id, parent_run_id) WHERE parent_run_id IS NOT NULL;

ALTER TABLE public.runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.runs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.runs
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE ON public.runs TO kahn_app;

RESET ROLE;
