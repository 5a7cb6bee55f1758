-- The log, a row a line: the bytes as they came, without their LF. bytea, since jsonb re-encodes (and dies of \u0000).
-- The server may add lines and read them, never change one.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.transitions (
  tenant_id uuid NOT NULL,
  run_id    text COLLATE "C" NOT NULL,
  seq       bigint NOT NULL CHECK (seq >= 0),
  line      bytea NOT NULL,
  PRIMARY KEY (tenant_id, run_id, seq),
  FOREIGN KEY (tenant_id, run_id) REFERENCES public.runs (tenant_id, run_id)
);

ALTER TABLE public.transitions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.transitions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.transitions
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.transitions TO kahn_app;

RESET ROLE;
