//! What takes too long, with a clock that a test turns: the same app as the server's, in this process.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::test::{TestRequest, call_service, init_service, read_body, try_call_service};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use kahn::backend::{Options, select_backend};
use kahn::config::{Config, Typed};
use kahn::contract::{Access, Principal, Refusal, RequestFacts};
use kahn::services::{Services, SystemClock};

/// A door that lets everyone up to it and never says who they are.
struct Hangs;

#[async_trait]
impl Access for Hangs {
    fn screen(&self, _: &RequestFacts) -> Result<(), Refusal> {
        Ok(())
    }

    async fn authenticate(&self, _: &RequestFacts) -> Result<Principal, Refusal> {
        std::future::pending().await
    }
}

async fn services(archive: &std::path::Path, access: Option<Arc<dyn Access>>) -> Services {
    let options = Options::of_archive(archive);
    let config = Config::check(&Typed::default(), &Options::defaults(), &mut Vec::new());
    let mut backend = select_backend(&options, &config).await.expect("an archive");
    backend.access = access.unwrap_or(backend.access);
    Services::start(backend, Arc::new(SystemClock), "oss", &config)
}

/// If this failed, a handler that hangs would hold its connection for ever, and its answer would go out unguarded.
#[actix_web::test]
async fn an_answer_that_does_not_begin_in_a_minute_is_given_up_guarded() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = init_service(kahn::http::app(services(folder.path(), Some(Arc::new(Hangs))).await)).await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let request = TestRequest::get().uri("/api/runs").insert_header(("X-Request-Id", "late-1")).to_request();
    let error = try_call_service(&app, request).await.expect_err("it is given up");
    assert_eq!(begun.elapsed().as_secs(), 60);
    let response = error.error_response();
    assert_eq!(response.status(), 503);
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!((header("x-request-id"), header("retry-after")), ("late-1", "1"));
    assert_eq!((header("x-content-type-options"), header("cross-origin-resource-policy")), ("nosniff", "same-origin"));
    assert!(header("content-security-policy").contains("frame-ancestors 'none'"));
    assert_eq!(header("cross-origin-opener-policy"), "same-origin");
    let body = actix_web::body::to_bytes(response.into_body()).await.expect("a body");
    let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem");
    assert_eq!((&problem["code"], &problem["request_id"]), (&"request_timeout".into(), &"late-1".into()));
}

/// If this failed, clients that send a byte now and then would hold memory and connections for as long as they like.
#[actix_web::test]
async fn a_body_that_is_not_whole_in_half_a_minute_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = services(folder.path(), None).await;
    let room = Arc::clone(&services.ingest_bytes);
    let free = room.free();
    let app = init_service(kahn::http::app(services)).await;
    tokio::time::pause();
    for (method, uri, content_type) in [
        (actix_web::http::Method::POST, "/v1/ingest/transitions", "application/x-ndjson"),
        (actix_web::http::Method::PUT, "/v1/ingest/runs/r/graph", "application/json"),
    ] {
        let drops = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            Some((Ok::<_, actix_web::error::PayloadError>(actix_web::web::Bytes::from_static(b"{")), ()))
        })
        .boxed_local();
        let request = TestRequest::default().method(method).uri(uri).insert_header(("Host", "localhost"));
        let request = request.insert_header(("Content-Type", content_type)).to_request();
        let (request, _) = request.replace_payload(Payload::Stream { payload: drops });
        let begun = tokio::time::Instant::now();
        let response = call_service(&app, request).await;
        assert_eq!((response.status().as_u16(), begun.elapsed().as_secs()), (408, 30), "{uri}");
        let problem: serde_json::Value = serde_json::from_slice(&read_body(response).await).expect("a problem");
        assert_eq!(problem["code"], "body_timeout");
        assert_eq!(room.free(), free, "its room is given back");
    }
    assert!(!folder.path().join("runs").exists());
}
