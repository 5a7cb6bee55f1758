-- Plans belong to nobody: days that runs are kept, and the token bucket (ingest counts events, the rest requests).
-- Usage is counted per tenant and UTC day.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.plans (
  plan           text COLLATE "C" PRIMARY KEY,
  retention_days integer NOT NULL CHECK (retention_days > 0),
  rate_per_s     integer NOT NULL CHECK (rate_per_s > 0),
  burst          integer NOT NULL CHECK (burst > 0)
);
INSERT INTO public.plans (plan, retention_days, rate_per_s, burst) VALUES ('beta', 90, 1000, 20000);
GRANT SELECT ON public.plans TO kahn_app;

CREATE TABLE public.usage (
  tenant_id uuid NOT NULL REFERENCES public.tenants (tenant_id),
  day       date NOT NULL,
  events    bigint NOT NULL DEFAULT 0,
  bytes     bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, day)
);

ALTER TABLE public.usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.usage
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.usage TO kahn_app;
GRANT UPDATE (events, bytes) ON public.usage TO kahn_app;

RESET ROLE;
