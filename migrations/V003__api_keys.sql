-- API keys: the SHA-256 of the whole key, never the key. Two live ones a tenant make a rotation: the old one gets an end.

SET LOCAL ROLE kahn_owner;

CREATE TABLE public.api_keys (
  tenant_id    uuid NOT NULL REFERENCES public.tenants (tenant_id),
  key_id       uuid NOT NULL,
  prefix       text COLLATE "C" NOT NULL,
  label        text COLLATE "C" NOT NULL,
  scope        text COLLATE "C" NOT NULL CHECK (scope IN ('ingest', 'read')),
  key_sha256   bytea NOT NULL CHECK (octet_length(key_sha256) = 32),
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz,
  revoked_at   timestamptz,
  last_used_at timestamptz,
  PRIMARY KEY (tenant_id, key_id)
);
CREATE INDEX api_keys_prefix ON public.api_keys (prefix);

ALTER TABLE public.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.api_keys
  USING (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid)
  WITH CHECK (tenant_id = NULLIF(current_setting('kahn.tenant_id', true), '')::uuid);
GRANT SELECT, INSERT ON public.api_keys TO kahn_app;
GRANT UPDATE (expires_at, revoked_at, last_used_at) ON public.api_keys TO kahn_app;

CREATE POLICY lookup ON public.api_keys FOR SELECT TO kahn_lookup USING (true);
GRANT SELECT (tenant_id, key_id, prefix, scope, key_sha256, expires_at, revoked_at, last_used_at)
  ON public.api_keys TO kahn_lookup;
GRANT SELECT (name) ON public.tenants TO kahn_lookup;

RESET ROLE;
GRANT CREATE ON SCHEMA public TO kahn_lookup;
SET LOCAL ROLE kahn_lookup;

-- All keys of a prefix, dead ones too: the caller compares hashes, then asks whether the one that fits is alive, and
-- its log can say why a key was refused. The database's clock decides.
CREATE FUNCTION public.kahn_api_key_candidates(wanted_prefix text)
  RETURNS TABLE (tenant_id uuid, tenant_name text, key_id uuid, scope text, key_sha256 bytea, expired boolean, revoked boolean, use_is_stale boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.tenant_id, t.name, k.key_id, k.scope, k.key_sha256,
           coalesce(k.expires_at <= now(), false), k.revoked_at IS NOT NULL,
           coalesce(k.last_used_at < now() - interval '1 minute', true)
    FROM public.api_keys AS k JOIN public.tenants AS t ON t.tenant_id = k.tenant_id
    WHERE k.prefix = wanted_prefix AND NOT t.reserved
  $$;
REVOKE ALL ON FUNCTION public.kahn_api_key_candidates(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.kahn_api_key_candidates(text) TO kahn_app, kahn_owner;

RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM kahn_lookup;
