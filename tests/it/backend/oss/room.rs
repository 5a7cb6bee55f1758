//! The room that answers take, in the same app as the server's with the connection in the test's hand. If these fail, readers that
//! stop half way hold more than the server has, or room that nobody uses is never given back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::web::Bytes;
use kahn::backend::{MODE, Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Part, RequestFacts};
use kahn::domain::RunId;
use kahn::services::{Services, SystemClock};
use tokio::sync::Semaphore;

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
    let stored: &Semaphore = &services.stored_bytes;
    for (target, room) in [
        ("/api/runs/r/graph", stored),
        ("/api/runs/r/events?limit=5000", stored),
        ("/api/runs/r", &*services.answer_bytes),
    ] {
        let free = room.available_permits();
        for leaves in [false, true] {
            let response = call_service(&app, get(target)).await;
            assert_eq!(response.status(), 200, "{target}");
            let mut body = Box::pin(response.into_body());
            let taken = free - room.available_permits();
            assert!(taken > 64 * 1024, "{target} takes {taken}");
            let mut read = 0;
            while let Some(piece) = take(&mut body).await {
                read += piece.len();
                assert_eq!(free - room.available_permits(), taken, "{target}: its reader has {read} of it");
                if leaves {
                    break;
                }
            }
            assert!(leaves || read == taken, "{target}: exactly its own bytes are counted: {read}, {taken}");
            drop(body);
            assert_eq!(room.available_permits(), free, "{target} gave it back");
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
    let all = |room: &Arc<Semaphore>| {
        let count = u32::try_from(room.available_permits()).expect("a count");
        Arc::clone(room).try_acquire_many_owned(count).expect("all of it")
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
