//! Answers that need not be made again: found in memory before anything is read, held once they are finished.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};

use super::answer;
use crate::contract::{About, Principal};
use crate::domain::Timestamp;
use crate::domain::id::sha256_hex;
use crate::memory::{Finished, Key, Span, Turn};
use crate::services::Services;

/// A question whose answer may be held. It is asked before anything is read, so that what is read is at least as new.
pub(super) struct Question<'a> {
    services: &'a Services,
    key: Key,
    revision: Option<u64>,
    /// What stands for now, unless the request says otherwise.
    pub(super) now: Timestamp,
}

impl<'a> Question<'a> {
    /// What this principal asks.
    pub(super) fn of(services: &'a Services, who: &Principal, target: &str, about: About<'_>) -> Self {
        let revision = services.store.revision(who, about);
        Self { services, key: Key::new(who, target), revision, now: services.clock.now() }
    }

    /// The answer, where it is held, and how long it stays so. The request was a good one then: no other one is held.
    pub(super) fn held(&self) -> Option<(Span, Arc<Finished>)> {
        self.services.memory.find(&self.key, self.revision?, self.now)
    }

    /// Waits until nobody else is making this answer, where it may be held. Then ask anew: it may be there by now.
    pub(super) async fn turn(&self) -> Option<Turn> {
        self.revision?;
        Some(self.services.memory.turn(&self.key).await)
    }

    /// Holds the answer over the span in which it is the same.
    pub(super) fn hold(self, span: Span, answer: Finished) -> Arc<Finished> {
        let answer = Arc::new(answer);
        if let Some(revision) = self.revision {
            self.services.memory.hold(self.key, revision, span, &answer);
        }
        answer
    }

    /// Finishes a JSON answer that names no moment, and holds it.
    pub(super) fn hold_json(self, span: Span, body: Vec<u8>) -> Arc<Finished> {
        self.hold(span, finished_json(body))
    }
}

/// A JSON answer that names no moment.
pub(super) fn finished_json(body: Vec<u8>) -> Finished {
    let etag = answer::etag(&sha256_hex(&body)).into();
    Finished { body: body.into(), etag, link: None, moment: None }
}

/// Path and query of a request: what a question is held under.
pub(super) fn target(request: &HttpRequest) -> &str {
    request.uri().path_and_query().map_or("", |target| target.as_str())
}

/// Sends a finished JSON answer.
pub(super) fn send(request: &HttpRequest, finished: &Finished) -> HttpResponse {
    let mut response = answer::head(request, finished.etag.clone());
    if let Some(link) = &finished.link {
        response.insert_header((header::LINK, link.as_str()));
    }
    match answer::roomy(request, finished.body.clone()) {
        Ok(body) => answer::finish(response, "application/json", body),
        Err(busy) => HttpResponse::from_error(busy),
    }
}

/// The query of a target.
pub(super) fn query(target: &str) -> &str {
    target.split_once('?').map_or("", |(_, query)| query)
}
