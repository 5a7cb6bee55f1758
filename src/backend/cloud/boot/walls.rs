//! The walls as the catalogue has them: policies, keys, grants, functions, views. What only looks right is found by
//! `trial.rs`, what is right for most rows only by the words of the policy.

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{BootRefusal, required_tables};

/// A table with a tenant_id, and what has to be known of it to try its wall.
pub(super) struct TenantTable {
    /// Its name, as people write it.
    pub(super) name: String,
    /// Its name, as SQL takes it.
    pub(super) sql: String,
    /// Whether the server may add rows.
    pub(super) insertable: bool,
    /// A column that the server may update, if there is one.
    pub(super) updatable: Option<String>,
    /// The columns that a row cannot do without, and their types.
    pub(super) columns: Vec<String>,
    pub(super) types: Vec<String>,
    using: Option<String>,
    check: Option<String>,
}

impl TenantTable {
    /// How its policy is mended.
    pub(super) fn mend(&self) -> String {
        format!("create it again as migrations/{} does", file_of(&self.name))
    }
}

fn file_of(table: &str) -> &'static str {
    required_tables().find(|(name, _)| *name == table).map_or("V002__tenants.sql", |(_, file)| file)
}

/// Every table with a tenant_id is behind its wall, and nothing but the lookup role's own policy is a door in it.
pub(super) async fn tenant_tables(client: &Client) -> Result<Vec<TenantTable>, BootRefusal> {
    let rows = client
        .query_typed(
            "SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity, p.oid IS NOT NULL, \
               (SELECT o.polname::text FROM pg_catalog.pg_policy o WHERE o.polrelid = c.oid AND o.polname <> $1 \
                 AND o.polpermissive AND NOT (o.polcmd = 'r' AND o.polroles = ARRAY[to_regrole('kahn_lookup')::oid]) \
                 ORDER BY o.polname LIMIT 1), \
               format('public.%I', c.relname), \
               has_any_column_privilege(c.oid, 'INSERT'), \
               (SELECT format('%I', u.attname) FROM pg_catalog.pg_attribute u \
                WHERE u.attrelid = c.oid AND u.attnum > 0 AND NOT u.attisdropped \
                  AND has_column_privilege(c.oid, u.attnum, 'UPDATE') AND has_column_privilege(c.oid, u.attnum, 'SELECT') \
                ORDER BY u.attnum DESC LIMIT 1), \
               needed.names, needed.types, pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid) \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped \
             LEFT JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid AND p.polname = $1 AND p.polcmd = '*' \
               AND p.polpermissive AND p.polroles = '{0}' AND p.polqual IS NOT NULL AND p.polwithcheck IS NOT NULL \
             CROSS JOIN LATERAL ( \
               SELECT coalesce(array_agg(n.attname::text ORDER BY n.attnum), '{}') AS names, \
                 coalesce(array_agg(format_type(n.atttypid, NULL) ORDER BY n.attnum), '{}') AS types \
               FROM pg_catalog.pg_attribute n WHERE n.attrelid = c.oid AND n.attnum > 0 AND NOT n.attisdropped \
                 AND n.attnotnull AND NOT n.atthasdef AND n.attidentity = '' AND n.attname <> 'tenant_id') AS needed \
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f') ORDER BY c.relname",
            &[(&"tenant_isolation", Type::TEXT)],
        )
        .await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        let table = TenantTable {
            name: row.try_get(0)?,
            sql: row.try_get(5)?,
            insertable: row.try_get(6)?,
            updatable: row.try_get(7)?,
            columns: row.try_get(8)?,
            types: row.try_get(9)?,
            using: row.try_get(10)?,
            check: row.try_get(11)?,
        };
        let sql = &table.sql;
        let (lack, mend) = if !row.try_get::<_, bool>(1)? {
            ("does not have row-level security enabled", format!("run `ALTER TABLE {sql} ENABLE ROW LEVEL SECURITY`"))
        } else if !row.try_get::<_, bool>(2)? {
            (
                "does not force row-level security on its owner",
                format!("run `ALTER TABLE {sql} FORCE ROW LEVEL SECURITY`"),
            )
        } else if !row.try_get::<_, bool>(3)? {
            ("lacks its policy tenant_isolation", table.mend())
        } else if let Some(policy) = row.try_get::<_, Option<String>>(4)? {
            ("has a policy that is not kahn's", format!("run `DROP POLICY {policy} ON {sql}`"))
        } else {
            tables.push(table);
            continue;
        };
        return Err(BootRefusal::NoWall { table: table.name, lack, mend });
    }
    Ok(tables)
}

/// What the policy of every table says, but for parentheses and casts to text, which are the server's own additions.
const POLICY: &str = "tenant_id=NULLIFcurrent_setting'kahn.tenant_id',true,''::uuid";

/// Each policy says what kahn's says, word for word. One that lets some rows through may pass the trial, which has few.
pub(super) fn policies(tables: &[TenantTable]) -> Result<(), BootRefusal> {
    let says_it = |expression: &Option<String>| {
        expression.as_ref().is_some_and(|text| text.replace("::text", "").replace(['(', ')', ' '], "") == POLICY)
    };
    match tables.iter().find(|table| !says_it(&table.using) || !says_it(&table.check)) {
        Some(table) => Err(BootRefusal::NoWall {
            table: table.name.clone(),
            lack: "has a policy tenant_isolation that says something else than kahn's",
            mend: table.mend(),
        }),
        None => Ok(()),
    }
}

/// Keys do not see the walls: one that does not begin with the tenant tells one tenant what another one has.
pub(super) async fn keys(client: &Client) -> Result<(), BootRefusal> {
    let rows = client
        .query_typed(
            "WITH walled AS (SELECT c.oid, c.relname, a.attnum FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped \
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')) \
             SELECT t.relname::text, k.conname::text, format('ALTER TABLE public.%I DROP CONSTRAINT %I', t.relname, k.conname) \
             FROM pg_catalog.pg_constraint k JOIN walled t ON k.conrelid = t.oid \
             LEFT JOIN walled f ON k.confrelid = f.oid \
             WHERE k.contype IN ('p', 'u', 'x', 'f') AND (k.conkey[1] <> t.attnum OR (f.oid IS NOT NULL AND k.confkey[1] <> f.attnum)) \
             UNION ALL \
             SELECT t.relname::text, i.relname::text, format('DROP INDEX public.%I', i.relname) \
             FROM pg_catalog.pg_index x JOIN walled t ON x.indrelid = t.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
             WHERE x.indisunique AND x.indkey[0] <> t.attnum \
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = x.indexrelid) \
             UNION ALL \
             SELECT t.relname::text, NULL, NULL FROM walled t \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index x WHERE x.indrelid = t.oid AND x.indisprimary) \
             ORDER BY 1, 2 LIMIT 1",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let table: String = row.try_get(0)?;
    Err(match row.try_get::<_, Option<String>>(1)? {
        Some(key) => BootRefusal::OpenKey { table, key, mend: row.try_get(2)? },
        None => BootRefusal::NoKey { file: file_of(&table), table },
    })
}

/// What the lookup role may read: as much as its three functions need.
const LOOKUP: [(&str, &[&str]); 2] = [
    ("tenants", &["tenant_id", "org_id", "reserved", "name"]),
    ("api_keys", &["tenant_id", "key_id", "prefix", "scope", "key_sha256", "expires_at", "revoked_at", "last_used_at"]),
];

/// Whether the server's role must not have this privilege, on this column or on the whole table. What is not named here
/// may be granted by a later release while this one still runs.
fn is_too_much(table: &str, column: Option<&str>, privilege: &str) -> bool {
    match (table, privilege) {
        (_, "SELECT") => false,
        (_, "TRUNCATE" | "REFERENCES" | "TRIGGER" | "MAINTAIN") | ("tenants" | "plans", _) => true,
        ("transitions", "UPDATE") | ("activity", "UPDATE" | "DELETE") | ("api_keys", "DELETE") => true,
        ("api_keys", "UPDATE") => !matches!(column, Some("expires_at" | "revoked_at" | "last_used_at")),
        _ => false,
    }
}

/// Nobody has a verb that reaches past the walls: neither the server's role and what it can become, nor the role of the
/// lookup functions, nor everybody.
pub(super) async fn grants(client: &Client, roles: &[String]) -> Result<(), BootRefusal> {
    let rows = client
        .query_typed(
            "SELECT g.relname::text, g.attname::text, coalesce(r.rolname::text, 'PUBLIC'), g.privilege_type::text, \
               format('REVOKE %s%s ON public.%I FROM %s', g.privilege_type, ' (' || quote_ident(g.attname) || ')', g.relname, \
                 CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END) \
             FROM (SELECT c.oid, c.relname, NULL::name AS attname, (aclexplode(c.relacl)).* FROM pg_catalog.pg_class c \
                   WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f') \
                   UNION ALL \
                   SELECT c.oid, c.relname, a.attname, (aclexplode(a.attacl)).* FROM pg_catalog.pg_class c \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped \
                   WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'f')) AS g \
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee \
             WHERE g.relname = 'plans' OR EXISTS (SELECT FROM pg_catalog.pg_attribute a \
               WHERE a.attrelid = g.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) \
             ORDER BY 1, 2, 3, 4",
            &[],
        )
        .await?;
    for row in rows {
        let (table, grantee, privilege): (String, String, String) = (row.try_get(0)?, row.try_get(2)?, row.try_get(3)?);
        let column: Option<String> = row.try_get(1)?;
        let column = column.as_deref();
        let is_fine = match grantee.as_str() {
            "PUBLIC" => false,
            "kahn_lookup" => {
                let columns = LOOKUP.iter().find(|(name, _)| *name == table).map_or(&[][..], |(_, columns)| columns);
                privilege == "SELECT" && column.is_some_and(|column| columns.contains(&column))
            }
            role => !roles.iter().any(|name| name == role) || !is_too_much(&table, column, &privilege),
        };
        if !is_fine {
            let column = column.map(|column| format!(" ({column})")).unwrap_or_default();
            let privilege = format!("{privilege}{column}");
            return Err(BootRefusal::TooMuch { role: grantee, privilege, table, mend: row.try_get(4)? });
        }
    }
    makers(client, roles).await
}

/// Who makes a table owns it, and the owner of a table is past its wall.
async fn makers(client: &Client, roles: &[String]) -> Result<(), BootRefusal> {
    let rows = client
        .query_typed(
            "SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END \
             FROM (SELECT (aclexplode(nspacl)).* FROM pg_catalog.pg_namespace WHERE nspname = 'public') AS g \
             LEFT JOIN pg_catalog.pg_roles r ON r.oid = g.grantee \
             WHERE g.privilege_type = 'CREATE' AND (g.grantee = 0 OR r.rolname = ANY ($1)) LIMIT 1",
            &[(&roles, Type::TEXT_ARRAY)],
        )
        .await?;
    match rows.first() {
        Some(row) => Err(BootRefusal::Maker { role: row.try_get(0)? }),
        None => Ok(()),
    }
}

/// The functions that answer before a tenant is known, and the files that make them.
const FUNCTIONS: [(&str, &str); 3] = [
    ("kahn_tenant_of_org", "V002__tenants.sql"),
    ("kahn_tenant_ids", "V002__tenants.sql"),
    ("kahn_api_key_candidates", "V003__api_keys.sql"),
];

/// Each of the three functions is there, belongs to the lookup role and to nobody else, and means what it says.
pub(super) async fn functions(client: &Client) -> Result<(), BootRefusal> {
    let names: Vec<&str> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
    let rows = client
        .query_typed(
            "SELECT p.proname::text, p.oid::regprocedure::text, pg_get_userbyid(p.proowner)::text, p.prosecdef, \
               p.proconfig = ARRAY['search_path=pg_catalog, pg_temp'], \
               p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) g WHERE g.grantee = 0) \
             FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY ($1) ORDER BY 2",
            &[(&names, Type::TEXT_ARRAY)],
        )
        .await?;
    for (function, file) in FUNCTIONS {
        let mut is_there = false;
        for row in &rows {
            if row.try_get::<_, &str>(0)? != function {
                continue;
            }
            is_there = true;
            let signature: String = row.try_get(1)?;
            let (fault, mend) = if row.try_get::<_, &str>(2)? != "kahn_lookup" {
                ("does not belong to kahn_lookup", format!("ALTER FUNCTION {signature} OWNER TO kahn_lookup"))
            } else if !row.try_get::<_, bool>(3)? {
                ("is not SECURITY DEFINER", format!("ALTER FUNCTION {signature} SECURITY DEFINER"))
            } else if row.try_get::<_, Option<bool>>(4)? != Some(true) {
                (
                    "has another search_path than pg_catalog, pg_temp",
                    format!("ALTER FUNCTION {signature} SET search_path = pg_catalog, pg_temp"),
                )
            } else if row.try_get::<_, bool>(5)? {
                ("may be called by everybody", format!("REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"))
            } else {
                continue;
            };
            return Err(BootRefusal::Function { function, fault, mend: format!("run `{mend}`") });
        }
        if !is_there {
            let mend = format!("create it again as migrations/{file} does");
            return Err(BootRefusal::Function { function, fault: "is missing", mend });
        }
    }
    Ok(())
}

/// A view sees as its owner does, unless it says otherwise, and a materialized one has no wall at all.
pub(super) async fn views(client: &Client) -> Result<(), BootRefusal> {
    let rows = client
        .query_typed(
            "WITH RECURSIVE reached AS ( \
               SELECT c.oid FROM pg_catalog.pg_class c \
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped \
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') \
               UNION \
               SELECT w.ev_class FROM pg_catalog.pg_rewrite w \
               JOIN pg_catalog.pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid \
                 AND d.refclassid = 'pg_class'::regclass \
               JOIN reached ON d.refobjid = reached.oid) \
             SELECT v.oid::regclass::text, v.relkind = 'm' FROM reached JOIN pg_catalog.pg_class v USING (oid) \
             WHERE has_any_column_privilege(v.oid, 'SELECT') AND (v.relkind = 'm' OR (v.relkind = 'v' AND NOT EXISTS ( \
               SELECT FROM pg_options_to_table(v.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::bool))) \
             ORDER BY 1 LIMIT 1",
            &[],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let view: String = row.try_get(0)?;
    let mend = if row.try_get(1)? {
        format!("DROP MATERIALIZED VIEW {view}")
    } else {
        format!("ALTER VIEW {view} SET (security_invoker = true)")
    };
    Err(BootRefusal::View { view, mend })
}
