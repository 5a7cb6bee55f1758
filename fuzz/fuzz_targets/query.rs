//! GET of any target, and lists with a cursor of any bytes: an answer or a problem, never a 5xx; a cursor that an answer
//! gave is one.
#![no_main]

use actix_web::body::to_bytes;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kahn_fuzz::Server;
use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;

// Never dropped: at the end of the process nothing is left that it could be dropped with.
thread_local!(static SERVER: &'static Server = Box::leak(Box::default()));

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((first, rest)) = data.split_first() else { return Corpus::Reject };
    let target = if *first == b'#' {
        format!("/api/runs?limit=3&cursor={}", URL_SAFE_NO_PAD.encode(rest))
    } else {
        let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
        text.to_owned()
    };
    SERVER.with(|server| server.block_on(ask(server, &target)))
});

async fn ask(server: &Server, target: &str) -> Corpus {
    let Some(request) = Server::request(target) else { return Corpus::Reject };
    let Some(answer) = server.ask(request).await else { return Corpus::Reject };
    let status = answer.status();
    assert!(!status.is_server_error(), "{status} of {target}");
    let is_list = target.starts_with("/api/runs?");
    if !is_list && status.is_success() {
        return Corpus::Keep;
    }
    let body = to_bytes(answer.into_body()).await.expect("a body");
    if status.is_client_error() && !body.is_empty() {
        let problem: Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert_eq!(problem["status"], status.as_u16(), "{target}");
    }
    if is_list && status.is_success() {
        let list: Value = serde_json::from_slice(&body).expect("a list is JSON");
        if let Some(cursor) = list["next_cursor"].as_str() {
            let next = Server::request(&format!("/api/runs?cursor={cursor}")).expect("a target");
            let answer = server.ask(next).await.expect("an answer");
            assert_eq!(answer.status(), 200, "the cursor that {target} gave");
        }
    }
    Corpus::Keep
}
