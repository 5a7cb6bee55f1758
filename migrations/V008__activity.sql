-- Who did what with a tenant's keys and settings. Append-only for the server: it may add and read.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.activity (
  tenant_id   uuid NOT NULL REFERENCES public.tenants (tenant_id),
  activity_id uuid NOT NULL,
  at          timestamptz NOT NULL DEFAULT now(),
  actor       text COLLATE "C" NOT NULL,
  action      text COLLATE "C" NOT NULL,
  target      text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, activity_id)
);
CREATE INDEX activity_at ON public.activity (tenant_id, at DESC, activity_id);

ALTER TABLE public.activity ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.activity FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.activity
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.activity TO kahn_app;

RESET ROLE;
