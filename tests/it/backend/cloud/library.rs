//! The backend without a server around it, for what HTTP cannot show: futures dropped half way, wake-ups, every list.

use kahn::backend::{Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Backend, Part, Principal, PrincipalKind, Scope, Tenant};
use kahn::domain::RunId;

use super::cluster::Database;

/// A backend over this database with so many connections.
pub(super) async fn open(database: &Database, pool: usize) -> Backend {
    open_at(&database.app_dsn(), pool).await
}

/// The same over any way to it.
pub(super) async fn open_at(dsn: &str, pool: usize) -> Backend {
    let mut mistakes = Vec::new();
    let config = Config::check(&Typed::default(), &Options::defaults(), &mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    select_backend(&Options::keys_only(dsn, pool), &config).await.expect("the checks pass")
}

/// Somebody of a new tenant of this name.
pub(super) fn somebody(database: &Database, name: &str) -> Principal {
    super::tenant(database, name);
    let id = database.admin(&format!("SELECT tenant_id FROM tenants WHERE name = '{name}'"))[0][0].clone();
    Principal {
        kind: PrincipalKind::ApiKey,
        user: "test".to_owned(),
        tenant: Some(Tenant { id: id.into(), name: name.into() }),
        scopes: vec![Scope::Read, Scope::Ingest],
    }
}

pub(super) fn run_id(text: &str) -> RunId {
    RunId::parse(text).expect("a run_id")
}

/// A part of `lines` lines of this run, from this seq.
pub(super) fn part(run: &str, from_seq: u64, lines: u64) -> Part {
    let line = |seq: u64| match seq {
        0 => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"run_start","total_nodes":1}}"#),
        _ => format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"{run}","event":"heartbeat","n":{seq}}}"#),
    };
    let lines = (from_seq..from_seq + lines).map(|seq| line(seq).into()).collect();
    Part { run_id: run_id(run), from_seq, lines }
}
