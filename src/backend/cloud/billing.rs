//! A tenant's plan and what it used, as [`super::append`] counted it.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::scope::{DatabaseError, Door, Query, TenantId};
use crate::contract::{Billing, StoreError, USAGE_DAYS, Usage};

/// The tenant's plan, what it gives, and what was used of it.
pub(super) async fn billing(door: &Door, tenant: TenantId) -> Result<Billing, StoreError> {
    let plan = Query {
        sql: "SELECT plan, coalesce(r.days, p.retention_days), p.rate_per_s, p.burst \
                  FROM tenants t JOIN plans p USING (plan) LEFT JOIN retention r USING (tenant_id) WHERE t.tenant_id = $1",
        parameters: &[(&tenant.0, Type::UUID)],
    };
    // The day is the one that `append` counts under, by the same clock.
    let usage = Query {
        sql: "SELECT to_char(day, 'YYYY-MM-DD'), events, bytes FROM usage \
                  WHERE tenant_id = $1 AND day > (now() AT TIME ZONE 'utc')::date - $2 ORDER BY day",
        parameters: &[(&tenant.0, Type::UUID), (&i32::try_from(USAGE_DAYS).unwrap_or(i32::MAX), Type::INT4)],
    };
    let [plans, days] = door.read("billing", tenant, [plan, usage]).await?;
    let plan = plans.first().ok_or_else(|| DatabaseError::Unreadable("the tenant's plan is none of plans".into()))?;
    Ok(Billing {
        plan: plan.try_get(0).map_err(DatabaseError::from)?,
        retention_days: count(plan, 1)?,
        rate_per_s: count(plan, 2)?,
        burst: count(plan, 3)?,
        usage: days.iter().map(read_day).collect::<Result<_, _>>()?,
    })
}

/// Postgres has no unsigned integers; the table's checks keep these above 0.
fn count(row: &Row, place: usize) -> Result<u32, DatabaseError> {
    Ok(u32::try_from(row.try_get::<_, i32>(place)?).unwrap_or(0))
}

fn read_day(row: &Row) -> Result<Usage, DatabaseError> {
    let sum = |place| Ok::<_, DatabaseError>(u64::try_from(row.try_get::<_, i64>(place)?).unwrap_or(0));
    Ok(Usage { day: row.try_get(0)?, events: sum(1)?, bytes: sum(2)? })
}
