-- Who did what with a tenant's keys, plan and runs. Append-only for the server: it may add and read.
--
-- The clock is that of the statement, not of its transaction: what a transaction does one after the other stands in that order.
-- It is a clock all the same, so two entries may have one moment; the id then says which comes first, the same on every page.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.activity (
  tenant_id   uuid NOT NULL REFERENCES public.tenants (tenant_id),
  activity_id uuid NOT NULL,
  at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor       text COLLATE "C" NOT NULL,
  action      text COLLATE "C" NOT NULL,
  target      text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, activity_id)
);
CREATE INDEX activity_at ON public.activity (tenant_id, at, activity_id);

ALTER TABLE public.activity ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.activity FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.activity
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.activity TO kahn_app;

RESET ROLE;
