//! `kahn tenant set-plan`.

use std::io::Write;

use serde::Serialize;
use tokio_postgres::types::Type;

use super::{Database, TenantError, begin, enter, migrate, note};

/// A tenant's plan, and what of it is its own.
pub(crate) struct SetPlan {
    /// The tenant's name.
    pub(crate) name: String,
    /// The plan's.
    pub(crate) plan: String,
    /// What becomes of the tenant's own number of days.
    pub(crate) retention: Retention,
}

/// A tenant's own number of days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Stays as it is.
    AsItIs,
    /// The plan's number counts.
    Default,
    /// This one counts.
    Days(i32),
}

/// What holds now.
#[derive(Debug, Serialize)]
pub(crate) struct Planned {
    tenant: String,
    plan: String,
    /// What counts: the tenant's own days, or the plan's.
    retention_days: i32,
    plan_retention_days: i32,
    rate_per_s: i32,
    burst: i32,
}

impl Planned {
    /// What a person reads.
    pub(crate) fn tell(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let Self { tenant, plan, retention_days, plan_retention_days, rate_per_s, burst } = self;
        let instead = match retention_days == plan_retention_days {
            true => String::new(),
            false => format!(" (instead of the plan's {plan_retention_days})"),
        };
        writeln!(
            out,
            "tenant {tenant} is on plan {plan}: runs are kept {retention_days} days{instead}, {rate_per_s} a second, burst {burst} (events, and other requests)"
        )
    }
}

/// Sets the plan, and the tenant's own days as wanted.
pub(crate) async fn set_plan(database: &Database, wanted: &SetPlan) -> Result<Planned, TenantError> {
    const BY: &str = "kahn tenant set-plan";
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let plans = transaction
        .query_typed("SELECT plan, retention_days, rate_per_s, burst FROM public.plans ORDER BY plan", &[])
        .await?;
    let names: Vec<String> = plans.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let Some(plan) = names.iter().position(|name| *name == wanted.plan).and_then(|place| plans.get(place)) else {
        return Err(TenantError::NoPlan { plan: wanted.plan.clone(), plans: names });
    };
    let tenant = enter(&transaction, &wanted.name).await?;
    let of_tenant = (&tenant as _, Type::UUID);
    transaction
        .execute_typed(
            "UPDATE public.tenants SET plan = $2 WHERE tenant_id = $1",
            &[of_tenant.clone(), (&wanted.plan, Type::TEXT)],
        )
        .await?;
    note(&transaction, tenant, (BY, "plan_set", &wanted.plan)).await?;
    match wanted.retention {
        Retention::AsItIs => {}
        Retention::Default => {
            transaction
                .execute_typed("DELETE FROM public.retention WHERE tenant_id = $1", std::slice::from_ref(&of_tenant))
                .await?;
            note(&transaction, tenant, (BY, "retention_set", "default")).await?;
        }
        Retention::Days(days) => {
            transaction
                .execute_typed(
                    "INSERT INTO public.retention (tenant_id, days) VALUES ($1, $2) \
                     ON CONFLICT (tenant_id) DO UPDATE SET days = excluded.days, set_at = now()",
                    &[of_tenant.clone(), (&days, Type::INT4)],
                )
                .await?;
            note(&transaction, tenant, (BY, "retention_set", &days.to_string())).await?;
        }
    }
    let own = transaction.query_typed("SELECT days FROM public.retention WHERE tenant_id = $1", &[of_tenant]).await?;
    let own: Option<i32> = own.first().map(|row| row.try_get(0)).transpose()?;
    let plan_retention_days = plan.try_get(1)?;
    let planned = Planned {
        tenant: wanted.name.clone(),
        plan: wanted.plan.clone(),
        retention_days: own.unwrap_or(plan_retention_days),
        plan_retention_days,
        rate_per_s: plan.try_get(2)?,
        burst: plan.try_get(3)?,
    };
    transaction.commit().await?;
    Ok(planned)
}
