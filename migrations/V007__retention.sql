-- A tenant's own number of days, where it differs from the plan's. And the one right that retention needs beyond the
-- server's others: to delete, which works like all else within one tenant.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.retention (
  tenant_id uuid PRIMARY KEY REFERENCES public.tenants (tenant_id),
  days      integer NOT NULL CHECK (days > 0),
  set_at    timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE public.retention ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.retention FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.retention
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT ON public.retention TO kahn_app;

GRANT DELETE ON public.runs, public.transitions TO kahn_app;
-- Which runs are due, and which are past their grace. Partial for the reason that V004 gives.
CREATE INDEX runs_received ON public.runs (tenant_id, received_at) WHERE deleted_at IS NULL;
CREATE INDEX runs_deleted ON public.runs (tenant_id, deleted_at) WHERE deleted_at IS NOT NULL;

RESET ROLE;
