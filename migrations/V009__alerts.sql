-- What was raised about a run. It goes when its run goes.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.alerts (
  tenant_id uuid NOT NULL,
  alert_id  uuid NOT NULL,
  run_id    text COLLATE "C" NOT NULL,
  kind      text COLLATE "C" NOT NULL,
  raised_at timestamptz NOT NULL DEFAULT now(),
  detail    text COLLATE "C" NOT NULL DEFAULT '',
  PRIMARY KEY (tenant_id, alert_id),
  FOREIGN KEY (tenant_id, run_id) REFERENCES public.runs (tenant_id, run_id) ON DELETE CASCADE
);
CREATE INDEX alerts_run ON public.alerts (tenant_id, run_id);

ALTER TABLE public.alerts ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.alerts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.alerts
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.alerts TO kahn_app;

RESET ROLE;
