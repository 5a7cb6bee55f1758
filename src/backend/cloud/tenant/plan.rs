//! `kahn tenant set-plan`.

use std::io::Write;

use serde::Serialize;
use tokio_postgres::types::Type;

use super::{Action, Actor, Database, OfTenant as _, TenantError, begin, enter, migrate, note};

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
    const BY: Actor<'_> = Actor::Command("kahn tenant set-plan");
    let mut client = migrate::connect(database).await?;
    let transaction = begin(&mut client).await?;
    let plans = transaction
        .query_typed("SELECT plan, retention_days, rate_per_s, burst FROM public.plans ORDER BY plan", &[])
        .await?;
    let names: Vec<String> = plans.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let Some(plan) = names.iter().position(|name| *name == wanted.plan).and_then(|place| plans.get(place)) else {
        return Err(TenantError::NoPlan { plan: wanted.plan.clone(), plans: names });
    };
    let own = enter(&transaction, &wanted.name).await?;
    let of_tenant = (&own.tenant.0 as _, Type::UUID);
    // Only what changes is noted: each statement gives a row where it changed something.
    let sql = "UPDATE public.tenants SET plan = $2 WHERE tenant_id = $1 AND plan <> $2 RETURNING plan";
    if !own.rows(sql, &[of_tenant.clone(), (&wanted.plan as _, Type::TEXT)]).await?.is_empty() {
        note(&own, (BY, Action::PlanChanged, &wanted.plan)).await?;
    }
    match wanted.retention {
        Retention::AsItIs => {}
        Retention::Default => {
            let sql = "DELETE FROM public.retention WHERE tenant_id = $1 RETURNING days";
            if !own.rows(sql, std::slice::from_ref(&of_tenant)).await?.is_empty() {
                note(&own, (BY, Action::RetentionChanged, "default")).await?;
            }
        }
        Retention::Days(days) => {
            let sql = "INSERT INTO public.retention AS own (tenant_id, days) VALUES ($1, $2) ON CONFLICT (tenant_id) \
                       DO UPDATE SET days = excluded.days, set_at = now() WHERE own.days <> excluded.days RETURNING days";
            if !own.rows(sql, &[of_tenant.clone(), (&days as _, Type::INT4)]).await?.is_empty() {
                note(&own, (BY, Action::RetentionChanged, &days.to_string())).await?;
            }
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
