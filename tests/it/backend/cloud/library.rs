//! The backend without a server around it, for what HTTP cannot show: futures dropped half way, wake-ups, every list.

use std::net::TcpListener;
use std::sync::Arc;

use async_trait::async_trait;
use kahn::backend::{Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Access, Backend, Part, Principal, PrincipalKind, Refusal, RequestFacts, Scope, Tenant};
use kahn::domain::RunId;
use kahn::http;
use kahn::services::{Services, SystemClock};
use tokio::sync::oneshot;

use super::MODE;
use super::cluster::Database;

/// A door that lets everybody in as this principal.
struct Everybody(Principal);

#[async_trait]
impl Access for Everybody {
    fn screen(&self, _request: &RequestFacts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn authenticate(&self, _request: &RequestFacts) -> Result<Principal, Refusal> {
        Ok(self.0.clone())
    }
}

/// A server in this process, where everybody is this principal, for as long as it is asked.
pub(super) fn served(database: &Database, who: &Principal, ask: impl FnOnce(&str)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let (stop, stopped) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            actix_web::rt::System::new().block_on(async {
                let mut backend = open(database, 4).await;
                backend.access = Arc::new(Everybody(who.clone()));
                let config = Config::check(&Typed::default(), &Options::defaults(), &mut Vec::new());
                let services = Services::start(backend, Arc::new(SystemClock), MODE, &config);
                http::serve(listener, services, 100, async { drop(stopped.await) }).await.expect("it serves");
            });
        });
        // Dropped also when an assertion fails.
        let _stop = stop;
        ask(&url);
    });
}

/// An admin of a new tenant of this name.
pub(super) fn admin(database: &Database, name: &str) -> Principal {
    super::tenant(database, name);
    admin_of(database, name)
}

/// An admin of this tenant.
pub(super) fn admin_of(database: &Database, name: &str) -> Principal {
    let who = somebody_of(database, name);
    Principal { kind: PrincipalKind::User, user: "ada".to_owned(), scopes: vec![Scope::Admin], ..who }
}

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
    somebody_of(database, name)
}

fn somebody_of(database: &Database, name: &str) -> Principal {
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
