//! `kahn tenant list`: every tenant with its plan and keys, and never a secret.

use std::io::Write;

use futures_util::future::join3;
use serde::Serialize;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Database, Key, TenantError, begin, migrate, moment, read_key};
use crate::domain::Timestamp;

/// A tenant.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    tenant: String,
    org: String,
    plan: String,
    /// The tenant's own days, or the plan's.
    retention_days: Option<i32>,
    made: Option<Timestamp>,
    keys: Vec<Key>,
}

impl Listed {
    /// What a person reads.
    pub(crate) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let at = |moment: &Option<Timestamp>| moment.map_or_else(|| "-".to_owned(), |moment| moment.to_string());
        let Self { tenant, org, plan, retention_days, made, keys } = self;
        let days = retention_days.map_or_else(|| "-".to_owned(), |days| days.to_string());
        writeln!(out, "{tenant}: org {org}, plan {plan}, runs kept {days} days, made {}", at(made))?;
        for key in keys {
            let Key { key_id, label, scope, prefix, created, expires, revoked, last_used } = key;
            writeln!(
                out,
                "  {key_id}  {scope:<6}  {label:<8} {prefix}  made {}  expires {}  revoked {}  last used {}",
                at(created),
                at(expires),
                at(revoked),
                at(last_used)
            )?;
        }
        Ok(())
    }
}

/// All tenants, by name.
pub(crate) async fn list(database: &Database) -> Result<Vec<Listed>, TenantError> {
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let rows = transaction.query_typed("SELECT tenant_id FROM public.kahn_tenant_ids() AS tenant_id", &[]).await?;
    let mut tenants = Vec::with_capacity(rows.len());
    for row in rows {
        tenants.extend(read(&transaction, row.try_get(0)?).await?);
    }
    tenants.sort_by(|one, other| one.tenant.cmp(&other.tenant));
    Ok(tenants)
}

/// One tenant, asked for as that tenant.
async fn read(transaction: &Transaction<'_>, tenant: Uuid) -> Result<Option<Listed>, TenantError> {
    let of_tenant = [(&tenant as _, Type::UUID)];
    // Sent together: a trip a tenant.
    let (set, rows, keys) = join3(
        transaction
            .execute_typed("SELECT set_config('kahn.tenant_id', $1, true)", &[(&tenant.to_string(), Type::TEXT)]),
        transaction.query_typed(
            "SELECT name, org_id, plan, coalesce(r.days, p.retention_days), created_at FROM public.tenants t \
             LEFT JOIN public.plans p USING (plan) LEFT JOIN public.retention r USING (tenant_id) WHERE t.tenant_id = $1",
            &of_tenant,
        ),
        transaction.query_typed(
            "SELECT key_id, label, scope, prefix, created_at, expires_at, revoked_at, last_used_at \
             FROM public.api_keys WHERE tenant_id = $1 ORDER BY created_at, key_id",
            &of_tenant,
        ),
    )
    .await;
    set?;
    let rows = rows?;
    let Some(row) = rows.first() else { return Ok(None) };
    let keys = keys?.iter().map(read_key).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Listed {
        tenant: row.try_get(0)?,
        org: row.try_get(1)?,
        plan: row.try_get(2)?,
        retention_days: row.try_get(3)?,
        made: moment(row, 4)?,
        keys,
    }))
}
