//! `kahn retention restore`: what was deleted is there again.

use std::fmt;

use serde::Serialize;
use tokio_postgres::types::Type;

use super::{Action, Actor, DatabaseError, Door, GRACE_HOURS, Query, RetentionError, TenantId, note, tenants};

/// Who `activity` says did it.
const RESTORED_BY: Actor<'_> = Actor::Command("kahn retention restore");

/// A run that is there.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    tenant: String,
    run_id: String,
    /// Whether it had been deleted.
    was_deleted: bool,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, run_id, was_deleted } = self;
        if *was_deleted {
            write!(f, "restored run {run_id} of tenant {tenant}; its days are counted from now")
        } else {
            write!(f, "run {run_id} of tenant {tenant} is not deleted")
        }
    }
}

/// Brings a run back that was deleted less than a week ago. Its days are counted anew: else the next job would delete it again.
pub(crate) async fn restore(door: &Door, tenant: &str, run_id: &str) -> Result<Restored, RetentionError> {
    let id = find(door, tenant).await?;
    let run = run_id.to_owned();
    let found: Result<Option<bool>, DatabaseError> = door
        .write("retention_restore", id, move |transaction| {
            let run = run.clone();
            Box::pin(async move {
                let restore = "UPDATE runs SET deleted_at = NULL, received_at = now(), changed = pg_current_xact_id() \
                               WHERE tenant_id = $1 AND run_id = $2 AND deleted_at > now() - make_interval(hours => $3)";
                let of_run = [(&id.0 as _, Type::UUID), (&run as _, Type::TEXT)];
                let in_grace = [of_run[0].clone(), of_run[1].clone(), (&GRACE_HOURS as _, Type::INT4)];
                if transaction.execute(restore, &in_grace).await? > 0 {
                    note(transaction, (RESTORED_BY, Action::RunRestored, &run)).await?;
                    return Ok(Some(true));
                }
                let there = "SELECT 1 FROM runs WHERE tenant_id = $1 AND run_id = $2 AND deleted_at IS NULL";
                let rows = transaction.query(there, &of_run).await?;
                Ok((!rows.is_empty()).then_some(false))
            })
        })
        .await;
    let (tenant, run_id) = (tenant.to_owned(), run_id.to_owned());
    match found? {
        Some(was_deleted) => Ok(Restored { tenant, run_id, was_deleted }),
        None => Err(RetentionError::Gone { tenant, run_id }),
    }
}

/// The tenant of this name. The server's role sees a tenant's name only as that tenant.
async fn find(door: &Door, name: &str) -> Result<TenantId, RetentionError> {
    let sql = "SELECT 1 FROM tenants WHERE tenant_id = $1 AND name = $2";
    for tenant in tenants(door).await? {
        let query = Query { sql, parameters: &[(&tenant.0, Type::UUID), (&name, Type::TEXT)] };
        let [rows] = door.read("tenant_name", tenant, [query]).await?;
        if !rows.is_empty() {
            return Ok(tenant);
        }
    }
    Err(RetentionError::NoTenant(name.to_owned()))
}
