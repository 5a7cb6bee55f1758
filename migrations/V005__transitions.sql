-- The log: the bytes of the lines as they came, those of one batch together in rows of about 64 KiB, joined by LF, under the seq
-- of the first. bytea, since jsonb re-encodes (and dies of \u0000). The server may add lines and read them, never change one.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.transitions (
  tenant_id uuid NOT NULL,
  run_id    text COLLATE "C" NOT NULL,
  seq       bigint NOT NULL CHECK (seq >= 0),
  lines     bytea NOT NULL,
  PRIMARY KEY (tenant_id, run_id, seq),
  FOREIGN KEY (tenant_id, run_id) REFERENCES public.runs (tenant_id, run_id)
);

-- Compressed by lz4 where this Postgres was built with it: measured, that takes in twice as much a second as its own pglz.
DO $lz4$
BEGIN
  ALTER TABLE public.transitions ALTER lines SET COMPRESSION lz4;
  ALTER TABLE public.runs ALTER summary SET COMPRESSION lz4, ALTER state SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
  NULL;
END
$lz4$;

ALTER TABLE public.transitions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.transitions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.transitions
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.transitions TO kahn_app;

RESET ROLE;
