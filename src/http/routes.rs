//! The table of routes.

use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, guard, web};

use super::error::ApiError;
use super::{feed, ingest, list, meta, pages, runs};

/// Every route of both builds.
#[rustfmt::skip]
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(get("/healthz",                                meta::health))
        .service(get("/readyz",                                 meta::ready))
        .service(get("/api/config",                             meta::config))
        .service(get("/api/me",                                 meta::me))
        .service(get("/api/runs",                               list::runs))
        .service(get("/api/runs/{run_id}",                      runs::state))
        .service(get("/api/runs/{run_id}/events",               runs::events))
        .service(get("/api/runs/{run_id}/graph",                runs::graph))
        .service(get("/api/runs/{run_id}/problems",             runs::problems))
        .service(one(Method::POST, "/v1/ingest/transitions",    ingest::transitions))
        .service(get("/v1/ingest/runs/{run_id}",                ingest::position))
        .service(one(Method::PUT, "/v1/ingest/runs/{run_id}/graph", ingest::put_graph))
        .service(get("/ws/live",                                feed::live))
        .service(get("/",                                       pages::index))
        .service(get("/a/{file}",                               pages::asset))
        .default_service(web::to(nothing_here));
}

/// A route that is read: GET, and HEAD without the body.
fn get<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = web::route().guard(guard::Any(guard::Get()).or(guard::Head())).to(handler);
    web::resource(path).route(reads).default_service(web::to(|| wrong_method("GET, HEAD")))
}

/// A route with one method that writes.
fn one<F, Args>(method: Method, path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let allow = if method == Method::PUT { "PUT" } else { "POST" };
    web::resource(path).route(web::method(method).to(handler)).default_service(web::to(move || wrong_method(allow)))
}

async fn wrong_method(allow: &'static str) -> Result<&'static str, ApiError> {
    let detail = format!("this address takes {allow}");
    Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).header(header::ALLOW, allow.into()))
}

async fn nothing_here(_: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::of_status(StatusCode::NOT_FOUND))
}
