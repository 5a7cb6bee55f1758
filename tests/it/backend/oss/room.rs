//! The room that answers take, in the same app as the server's with the connection in the test's hand. If these fail, readers that
//! stop half way hold more than the server has, or room that nobody uses is never given back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::Bytes;
use async_trait::async_trait;
use kahn::backend::{MODE, Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Access, Part, Principal, PrincipalKind, Refusal, RequestFacts, Scope, Tenant};
use kahn::domain::RunId;
use kahn::services::{Asker, Services, Space, SystemClock};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A door that lets everybody in as the tenant of the name that they say.
struct ByName;

#[async_trait]
impl Access for ByName {
    fn screen(&self, _: &RequestFacts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn authenticate(&self, request: &RequestFacts) -> Result<Principal, Refusal> {
        let name = Arc::<str>::from(request.authorizations.first().ok_or(Refusal::NoCredentials)?.as_str());
        Ok(Principal {
            kind: PrincipalKind::Client,
            user: "somebody".to_owned(),
            tenant: Some(Tenant { id: Arc::clone(&name), name }),
            scopes: vec![Scope::Read, Scope::Ingest],
        })
    }
}

/// A server with a run whose events, graph and page are far over what counts as nothing.
async fn services(folder: &std::path::Path) -> Services {
    let options = Options::of_archive(folder);
    let config = Config::check(&Typed::default(), &Options::defaults(), &mut Vec::new());
    let backend = select_backend(&options, &config).await.expect("an archive");
    let services = Services::start(backend, Arc::new(SystemClock), MODE, &config);
    let who = services.access.authenticate(&RequestFacts::default()).await.expect("the operator");
    let run_id = RunId::parse("r").expect("a run_id");
    let start = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"run_start","total_nodes":1}"#.to_owned();
    let moves = (0..2000).map(|n| {
        format!(r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"r","event":"node_transition","node_id":"n{n}","from":"pending","to":"ready"}}"#)
    });
    let lines = std::iter::once(start).chain(moves).map(Bytes::from).collect();
    services.store.append(&who, vec![Part { run_id: run_id.clone(), from_seq: 0, lines }]).await.expect("appended");
    let graph = format!(r#"{{"version":1,"nodes":[],"padding":"{}"}}"#, "x".repeat(300_000));
    services.store.put_graph(&who, &run_id, graph.into()).await.expect("a graph");
    services
}

fn get(target: &str) -> actix_http::Request {
    TestRequest::get().uri(target).insert_header(("Host", "localhost")).to_request()
}

async fn take(body: &mut Pin<Box<BoxBody>>) -> Option<Bytes> {
    poll_fn(|context| body.as_mut().poll_next(context)).await.map(|piece| piece.expect("a piece"))
}

#[actix_web::test]
async fn an_answer_keeps_its_room_until_its_reader_has_all_of_it_or_leaves() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = services(folder.path()).await;
    let app = init_service(kahn::http::app(services.clone())).await;
    let stored: &Space = &services.stored_bytes;
    for (target, room) in [
        ("/api/runs/r/graph", stored),
        ("/api/runs/r/events?limit=5000", stored),
        ("/api/runs/r", &*services.answer_bytes),
    ] {
        let free = room.free();
        for leaves in [false, true] {
            let response = call_service(&app, get(target)).await;
            assert_eq!(response.status(), 200, "{target}");
            let mut body = Box::pin(response.into_body());
            let taken = free - room.free();
            assert!(taken > 64 * 1024, "{target} takes {taken}");
            let mut read = 0;
            while let Some(piece) = take(&mut body).await {
                read += piece.len();
                assert_eq!(free - room.free(), taken, "{target}: its reader has {read} of it");
                if leaves {
                    break;
                }
            }
            assert!(leaves || read == taken, "{target}: exactly its own bytes are counted: {read}, {taken}");
            drop(body);
            assert_eq!(room.free(), free, "{target} gave it back");
        }
    }
}

#[actix_web::test]
async fn an_answer_that_finds_no_room_is_refused_and_a_small_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = services(folder.path()).await;
    let app = init_service(kahn::http::app(services.clone())).await;
    let status = async |target: &str| {
        let response = call_service(&app, get(target)).await;
        let status = response.status().as_u16();
        let body = read_body(response).await;
        (status, String::from_utf8_lossy(&body).contains(r#""code":"answers_busy""#))
    };
    let all = |room: &Arc<Space>| {
        let mut claim = room.claim(Asker::Alone);
        claim.take(room.free()).expect("all of it");
        claim
    };
    let taken = (all(&services.answer_bytes), all(&services.stored_bytes));
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(status("/api/runs/r").await, (503, true));
    assert_eq!(begun.elapsed().as_secs(), 0);
    for target in ["/api/runs/r/graph", "/api/runs/r/events"] {
        let begun = tokio::time::Instant::now();
        assert_eq!(status(target).await, (503, true), "{target}");
        assert_eq!(begun.elapsed().as_secs(), 10, "{target} waited");
    }
    assert_eq!(status("/api/runs").await, (200, false));
    drop(taken);
    for target in ["/api/runs/r", "/api/runs/r/graph", "/api/runs/r/events"] {
        assert_eq!(status(target).await, (200, false), "{target}");
    }
}

fn get_as(name: &str, target: &str) -> actix_http::Request {
    TestRequest::get().uri(target).insert_header(("Authorization", name)).to_request()
}

#[actix_web::test]
async fn a_tenant_that_reads_nothing_of_what_it_asked_for_leaves_the_others_their_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut services = services(folder.path()).await;
    services.access = Arc::new(ByName);
    let app = init_service(kahn::http::app(services.clone())).await;
    tokio::time::pause();
    for (target, room) in [
        ("/api/runs/r/graph", &services.stored_bytes),
        ("/api/runs/r/events?limit=5000", &services.stored_bytes),
        ("/api/runs/r", &services.answer_bytes),
    ] {
        let free = room.free();
        let mut unread = Vec::new();
        // Until it is refused, or would have to wait.
        while let Ok(response) = timeout(Duration::from_secs(1), call_service(&app, get_as("greedy", target))).await
            && response.status() == 200
        {
            unread.push(response);
        }
        assert!(room.free() < free && room.free() >= free / 2, "{target}: {} of {free} are free", room.free());
        let others =
            [call_service(&app, get_as("other", target)).await, call_service(&app, get_as("third", target)).await];
        assert!(
            others.iter().all(|other| other.status() == 200),
            "{target}: {} were let in, and nobody else",
            unread.len()
        );
        drop((unread, others));
        assert_eq!(room.free(), free, "{target}");
        assert_eq!(call_service(&app, get_as("greedy", target)).await.status(), 200, "{target}");
    }
}

#[actix_web::test]
async fn an_answer_that_is_taken_too_slowly_is_taken_away_and_gives_its_room_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = services(folder.path()).await;
    let app = init_service(kahn::http::app(services.clone())).await;
    tokio::time::pause();
    for (target, room) in [
        ("/api/runs/r/graph", &services.stored_bytes),
        ("/api/runs/r/events?limit=5000", &services.stored_bytes),
        ("/api/runs/r", &services.answer_bytes),
    ] {
        let free = room.free();
        // One that takes nothing, and one that takes a step: at 64 KiB a second, that is a second more.
        for steps in [0, 1] {
            let response = call_service(&app, get(target)).await;
            let until = Instant::now() + Duration::from_secs(10 + steps);
            let mut body = Box::pin(response.into_body());
            for _ in 0..steps {
                assert!(take(&mut body).await.is_some(), "{target}");
            }
            sleep_until(until - Duration::from_millis(10)).await;
            assert!(room.free() < free, "{target}: too soon");
            sleep_until(until + Duration::from_millis(10)).await;
            assert_eq!(room.free(), free, "{target}: nobody else gets this room");
            let next = poll_fn(|context| body.as_mut().poll_next(context)).await;
            assert!(matches!(next, Some(Err(_))), "{target}: the connection goes on without its end");
        }
        // One that is as slow as may be.
        let response = call_service(&app, get(target)).await;
        let mut body = Box::pin(response.into_body());
        sleep(Duration::from_millis(9_900)).await;
        while take(&mut body).await.is_some() {
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(room.free(), free, "{target}");
    }
}

#[actix_web::test]
async fn an_answer_that_is_larger_than_all_the_room_passes_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut services = services(folder.path()).await;
    let who = services.access.authenticate(&RequestFacts::default()).await.expect("the operator");
    let start = r#"{"ts":"2026-04-24T10:00:00.000Z","run_id":"huge","event":"agent_run_start","agent_id":"a","task":"t","model":"m"}"#;
    // As long as a state keeps them: 32 KiB a tool.
    let text = "🍳".repeat(4080);
    let call = |number: usize| {
        Bytes::from(format!(
            r#"{{"ts":"2026-04-24T10:00:00.000Z","run_id":"huge","event":"tool_invocation","agent_id":"a","step":0,"tool_name":"{number}{text}","duration_s":1,"ok":false,"error":"{text}"}}"#
        ))
    };
    let lines: Vec<Bytes> = std::iter::once(Bytes::from_static(start.as_bytes())).chain((0..1600).map(call)).collect();
    let run_id = RunId::parse("huge").expect("a run_id");
    for (at, lines) in lines.chunks(200).enumerate() {
        let part = Part { run_id: run_id.clone(), from_seq: 200 * at as u64, lines: lines.to_vec() };
        services.store.append(&who, vec![part]).await.expect("appended");
    }
    tokio::time::pause();
    let operator = Arc::clone(&services.access);
    for access in [operator, Arc::new(ByName)] {
        services.access = access;
        let app = init_service(kahn::http::app(services.clone())).await;
        let free = services.answer_bytes.free();
        let ask = |target| {
            TestRequest::get().uri(target).insert_header(("Host", "localhost")).insert_header(("Authorization", "a"))
        };
        let alone = call_service(&app, ask("/api/runs/huge").to_request()).await;
        assert_eq!((alone.status().as_u16(), services.answer_bytes.free()), (200, 0));
        let mut body = Box::pin(alone.into_body());
        assert!(take(&mut body).await.is_some());
        let beside = call_service(&app, ask("/api/runs/r").to_request()).await;
        assert_eq!(beside.status(), 503, "all the room is taken");
        drop(body);
        assert_eq!(services.answer_bytes.free(), free);
    }
}
