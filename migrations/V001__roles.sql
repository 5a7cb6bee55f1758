-- The three roles. Roles belong to the whole cluster while migrations run once a database, several at a time:
-- so each is made only when it is missing, and losing the race for one is no error.
--
--   kahn_owner   owns every table; nobody logs in as it
--   kahn_app     what the server logs in as; no way round row-level security; its password comes from
--                `kahn migrate --app-password-file`
--   kahn_lookup  owns the three functions that answer before a tenant is known, and sees only the tables they read

DO $roles$
DECLARE
  wanted record;
BEGIN
  -- NOSUPERUSER, NOBYPASSRLS, NOCREATEROLE and NOCREATEDB are what CREATE ROLE gives when nothing is said. They are
  -- left out because before Postgres 16 only a superuser may say them, and the owner of a managed database is none.
  -- The server looks at what the role really is each time it boots.
  FOR wanted IN SELECT * FROM (VALUES ('kahn_owner', 'NOLOGIN'), ('kahn_app', 'LOGIN'), ('kahn_lookup', 'NOLOGIN')) AS roles (name, login)
  LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted.name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I %s', wanted.name, wanted.login);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database's migration made it in this moment
      END;
    END IF;
  END LOOP;
END
$roles$;

-- Who migrates acts as the two owners below. A superuser may anyway; the owner of a managed database, who made
-- the roles just now, needs to be a member of them.
DO $membership$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['kahn_owner', 'kahn_lookup'] LOOP
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
       AND NOT EXISTS (
         SELECT FROM pg_auth_members m
         WHERE m.roleid = role_name::regrole AND m.member = current_user::regrole
           -- Postgres 16 makes the creator a member that may hand out the role, but not act as it.
           AND coalesce((to_jsonb(m) ->> 'set_option')::boolean, true))
    THEN
      BEGIN
        EXECUTE format('GRANT %I TO %I', role_name, current_user);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
      END;
    END IF;
  END LOOP;
END
$membership$;

-- Before Postgres 15 everybody may make tables in public, and who owns a table is outside its walls.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO kahn_owner;
GRANT USAGE ON SCHEMA public TO kahn_app, kahn_lookup;
