//! Who did what with a tenant's keys, plan and runs, and who came and went. An entry is written in the transaction of what it
//! tells, so neither is ever there without the other; the server may add entries and read them, and no more (V008).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{DatabaseError, Door, OfTenant, Query, TenantId, moment};
use crate::contract::{Activity, ActivityPosition, ActivityQuery, Principal, PrincipalKind, StoreError};
use crate::domain::Timestamp;
use crate::domain::id::sha256_hex;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    TenantProvisioned,
    KeyMade,
    KeyGivenAnEnd,
    KeyRevoked,
    PlanChanged,
    RetentionChanged,
    RunsDeleted,
    RunsRemoved,
    RunRestored,
    SignedIn,
    SignedOut,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::TenantProvisioned => "tenant_provisioned",
            Self::KeyMade => "key_made",
            Self::KeyGivenAnEnd => "key_given_an_end",
            Self::KeyRevoked => "key_revoked",
            Self::PlanChanged => "plan_changed",
            Self::RetentionChanged => "retention_changed",
            Self::RunsDeleted => "runs_deleted",
            Self::RunsRemoved => "runs_removed",
            Self::RunRestored => "run_restored",
            Self::SignedIn => "signed_in",
            Self::SignedOut => "signed_out",
        }
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Actor<'a> {
    /// Somebody who was let in.
    Principal(&'a Principal),
    /// Whoever runs the server, by this command.
    Command(&'static str),
}

impl Actor<'_> {
    fn text(self) -> String {
        match self {
            Self::Command(command) => command.to_owned(),
            Self::Principal(Principal { kind, user, .. }) => match kind {
                PrincipalKind::User => format!("user:{user}"),
                PrincipalKind::Client => format!("client:{user}"),
                // A key's name says already that it is one.
                PrincipalKind::ApiKey | PrincipalKind::Localhost => user.clone(),
            },
        }
    }
}

/// The most characters of an actor or a target as they are kept.
const LONGEST_TEXT: usize = 300;

/// A text as it is kept. A provider may name people as it likes: a text that Postgres does not take, or that is too long, is
/// kept as far as it can be, with enough of its hash to tell it from others that look the same.
fn kept(text: &str) -> String {
    if text.chars().count() <= LONGEST_TEXT && !text.contains('\0') {
        return text.to_owned();
    }
    let hash = sha256_hex(text.as_bytes());
    let shown: String = text.replace('\0', "\u{fffd}").chars().take(LONGEST_TEXT - 30).collect();
    format!("{shown}... (sha256 {})", hash.get(..8).unwrap_or_default())
}

/// Notes what this transaction does: who, what, with what. The one place that writes entries.
pub(crate) async fn note(
    transaction: &impl OfTenant,
    (actor, action, target): (Actor<'_>, Action, &str),
) -> Result<(), DatabaseError> {
    let sql = "INSERT INTO public.activity (tenant_id, activity_id, actor, action, target) VALUES ($1, $2, $3, $4, $5)";
    let (actor, target) = (kept(&actor.text()), kept(target));
    let entry = [
        (&transaction.tenant().0 as _, Type::UUID),
        (&Uuid::new_v4() as _, Type::UUID),
        (&actor as _, Type::TEXT),
        (&action.as_str() as _, Type::TEXT),
        (&target as _, Type::TEXT),
    ];
    transaction.rows(sql, &entry).await.map(drop)
}

/// Entries behind a place, newest first.
pub(super) async fn read(door: &Door, tenant: TenantId, wanted: &ActivityQuery) -> Result<Vec<Activity>, StoreError> {
    let limit = i64::from(wanted.limit);
    let of_tenant = (&tenant.0 as _, Type::UUID);
    let [rows] = match wanted.behind.as_ref().and_then(place) {
        None => {
            let sql = "SELECT at, activity_id, actor, action, target FROM activity WHERE tenant_id = $1 \
                       ORDER BY at DESC, activity_id DESC LIMIT $2";
            let parameters = [of_tenant, (&limit as _, Type::INT8)];
            door.read("activity", tenant, [Query { sql, parameters: &parameters }]).await?
        }
        Some((at, id)) => {
            let sql = "SELECT at, activity_id, actor, action, target FROM activity WHERE tenant_id = $1 \
                       AND (at, activity_id) < ($3, $4) ORDER BY at DESC, activity_id DESC LIMIT $2";
            let parameters =
                [of_tenant, (&limit as _, Type::INT8), (&at as _, Type::TIMESTAMPTZ), (&id as _, Type::UUID)];
            door.read("activity", tenant, [Query { sql, parameters: &parameters }]).await?
        }
    };
    Ok(rows.iter().map(entry).collect::<Result<_, _>>()?)
}

fn place(position: &ActivityPosition) -> Option<(SystemTime, Uuid)> {
    let at = UNIX_EPOCH.checked_add(Duration::from_micros(position.at_us))?;
    Some((at, Uuid::try_parse(&position.id).ok()?))
}

fn entry(row: &Row) -> Result<Activity, DatabaseError> {
    let at: SystemTime = row.try_get(0)?;
    let at_us = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Ok(Activity {
        at: moment(row, 0)?.unwrap_or(Timestamp::from_millis(0)),
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        target: row.try_get(4)?,
        position: ActivityPosition {
            at_us: u64::try_from(at_us).unwrap_or(u64::MAX),
            id: row.try_get::<_, Uuid>(1)?.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn a_text_that_cannot_be_kept_is_not_taken_for_another() {
        assert_eq!(kept("user:<b>\u{202e}"), "user:<b>\u{202e}");
        let (long, nul) = ("a".repeat(5000), "user:a\0");
        for (text, other) in [(&*long, &*"a".repeat(5001)), (nul, "user:a\u{fffd}")] {
            let own = kept(text);
            assert!(own.chars().count() <= 300 && !own.contains('\0'), "{own}");
            assert_ne!(own, kept(other));
            assert_ne!(own, other);
        }
    }
}
