-- Tenants, and the pattern that every tenant table follows:
--   tenant_id comes first in every key, since keys ignore row-level security (a key on anything else would tell one
--   tenant what another one has);
--   ENABLE and FORCE, so that the owner stands behind the wall too;
--   one policy for everybody, to read and to write. A custom setting is '' and not NULL after its transaction.
--
-- No foreign key to plans and no unique key on org_id for the first reason. Only `kahn tenant`, under a lock, writes
-- here; kahn_app cannot.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.tenants (
  tenant_id  uuid PRIMARY KEY,
  name       text COLLATE "C" NOT NULL,
  org_id     text COLLATE "C" NOT NULL,
  plan       text COLLATE "C" NOT NULL DEFAULT 'beta',
  -- Random; stands in the tenant's API keys and leads to them.
  key_prefix text COLLATE "C" NOT NULL CHECK (key_prefix ~ '^[0-9A-Za-z]{8}$'),
  -- True for the two that the boot checks try the walls with.
  reserved   boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX tenants_org_id ON public.tenants (org_id);

-- Before the wall stands: this migration has no tenant. The colon keeps these out of every token's org_id.
INSERT INTO public.tenants (tenant_id, name, org_id, key_prefix, reserved) VALUES
  ('00000000-0000-4000-8000-00000000000a', 'kahn-probe-a', 'probe:a', '0probe0a', true),
  ('00000000-0000-4000-8000-00000000000b', 'kahn-probe-b', 'probe:b', '0probe0b', true);

ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.tenants
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT ON public.tenants TO kahn_app;

-- What has to be known before a tenant is: the tenant of an org, and the list of tenants for jobs. A function of the
-- table's owner would find nothing under FORCE, so they belong to a role that has its own policy on just this table.
CREATE POLICY lookup ON public.tenants FOR SELECT TO kahn_lookup USING (true);
GRANT SELECT (tenant_id, org_id, reserved) ON public.tenants TO kahn_lookup;

RESET ROLE;
GRANT CREATE ON SCHEMA public TO kahn_lookup;
SET LOCAL ROLE kahn_lookup;

-- An org that two tenants claim has none: nobody is let into either.
CREATE FUNCTION public.kahn_tenant_of_org(wanted_org text) RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT (array_agg(t.tenant_id))[1] FROM public.tenants AS t
    WHERE t.org_id = wanted_org AND NOT t.reserved HAVING count(*) = 1
  $$;
REVOKE ALL ON FUNCTION public.kahn_tenant_of_org(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.kahn_tenant_of_org(text) TO kahn_app, kahn_owner;

CREATE FUNCTION public.kahn_tenant_ids() RETURNS SETOF uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.tenant_id FROM public.tenants AS t WHERE NOT t.reserved ORDER BY t.tenant_id
  $$;
REVOKE ALL ON FUNCTION public.kahn_tenant_ids() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.kahn_tenant_ids() TO kahn_app, kahn_owner;

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM kahn_lookup;
