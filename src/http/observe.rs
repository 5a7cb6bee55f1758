//! What is counted and told of each answer: its route, its status, how long it took. Nothing of what was asked for or sent is
//! in it, so no tenant's byte comes into a log or a metric by this way.

use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::{HttpMessage as _, web};

use super::error::ApiError;
use super::routes::{Matched, NO_ROUTE, patterns};
use crate::metrics::{METHODS, Metrics, Requests};
use crate::services::Services;

/// A request on its way.
pub(super) struct Observed {
    began: Instant,
    method: usize,
    counters: Option<(Arc<Requests>, Arc<Metrics>)>,
    is_told: bool,
}

impl Observed {
    /// A request that came just now.
    pub(super) fn begin(request: &ServiceRequest) -> Self {
        let services = request.app_data::<web::Data<Services>>();
        let own = request.app_data::<web::Data<Requests>>();
        Self {
            began: Instant::now(),
            method: number_of(request.method()),
            counters: own.zip(services).map(|(own, all)| (Arc::clone(own), Arc::clone(&all.metrics))),
            is_told: services.is_some_and(|services| services.access_log),
        }
    }

    /// It is answered with a problem.
    pub(super) fn problem<B>(&self, response: &ServiceResponse<B>, problem: &ApiError) {
        let Some((_, metrics)) = &self.counters else { return };
        metrics.note_problem(problem.code());
        let is_producers = route_of(response)
            .is_some_and(|route| patterns().get(route).is_some_and(|pattern| pattern.starts_with("/v1/ingest/")));
        if is_producers && self.method != GET && self.method != HEAD {
            metrics.note_rejected(problem.code());
        }
    }

    /// It is answered.
    pub(super) fn answer<B: MessageBody>(&self, id: &str, response: &ServiceResponse<B>) {
        let bytes = match response.response().body().size() {
            BodySize::Sized(bytes) => Some(bytes),
            BodySize::None => Some(0),
            BodySize::Stream => None,
        };
        self.note(id, (route_of(response), response.status().as_u16()), bytes);
    }

    /// Something broke on its way, and with it what was known of its route.
    pub(super) fn fault(&self, id: &str, problem: &ApiError) {
        if let Some((_, metrics)) = &self.counters {
            metrics.note_problem(problem.code());
        }
        self.note(id, (None, problem.status().as_u16()), None);
    }

    fn note(&self, id: &str, (route, status): (Option<usize>, u16), bytes: Option<u64>) {
        let took = self.began.elapsed();
        if let Some((own, _)) = &self.counters {
            own.note(route.unwrap_or(patterns().len()), (self.method, status), took);
        }
        if self.is_told {
            let route = route.and_then(|route| patterns().get(route)).unwrap_or(&NO_ROUTE);
            let method = METHODS.get(self.method).copied().unwrap_or_default();
            let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            let ms = took.as_secs_f64() * 1000.0;
            log::info!("answer id={id} method={method} route={route} status={status} bytes={bytes} ms={ms:.3}");
        }
    }
}

const GET: usize = 0;
const HEAD: usize = 1;

fn number_of(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

fn route_of<B>(response: &ServiceResponse<B>) -> Option<usize> {
    response.request().extensions().get::<Matched>().map(|matched| matched.0)
}
