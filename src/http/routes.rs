//! The table of routes.

use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, Handler, HttpRequest, Resource, Responder, guard, web};

use super::error::ApiError;
use super::{aggregates, compare, diagnostics, feed, ingest, list, meta, nodes, pages, runs};

/// An address, and what it takes.
struct Route {
    method: Method,
    pattern: &'static str,
    resource: Resource,
}

/// Every route of both builds.
#[rustfmt::skip]
fn all() -> Vec<Route> {
    vec![
        get("/healthz",                                meta::health),
        get("/readyz",                                 meta::ready),
        get("/api/config",                             meta::config),
        get("/api/me",                                 meta::me),
        get("/api/runs",                               list::runs),
        get("/api/runs/{run_id}",                      runs::state),
        get("/api/runs/{run_id}/diagnostics",          diagnostics::diagnostics),
        get("/api/runs/{run_id}/nodes/{node_id}",      nodes::node),
        get("/api/runs/{run_id}/events",               runs::events),
        get("/api/runs/{run_id}/graph",                runs::graph),
        get("/api/runs/{run_id}/problems",             runs::problems),
        get("/api/compare",                            compare::compare),
        get("/api/agent-runs/aggregate",               aggregates::agents),
        get("/api/audit-checkpoints/flakiness",        aggregates::audits),
        get("/api/nodes/flakiness",                    aggregates::nodes),
        one(Method::POST, "/v1/ingest/transitions",    ingest::transitions),
        get("/v1/ingest/runs/{run_id}",                ingest::position),
        one(Method::PUT, "/v1/ingest/runs/{run_id}/graph", ingest::put_graph),
        get("/ws/live",                                feed::live),
        get("/",                                       pages::index),
        get("/runs",                                   pages::index),
        get("/runs/{run_id}",                          pages::index),
        get("/agents",                                 pages::index),
        get("/agents/{agent_id}",                      pages::index),
        get("/audits",                                 pages::index),
        get("/nodes",                                  pages::index),
        get("/compare",                                pages::index),
        get("/a/{hash}/{file:.*}",                     pages::asset),
    ]
}

/// Adds every route, and the answer to whatever is none.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let mut routes = all();
    // Addresses are tried in this order, and a pattern costs far more than a comparison.
    routes.sort_by_key(|route| route.pattern.contains('{'));
    for route in routes {
        config.service(route.resource);
    }
    config.default_service(web::to(nothing_here));
}

/// Method and pattern of every route, in order; what is read by GET is read by HEAD too.
pub fn route_table() -> Vec<(String, &'static str)> {
    all().into_iter().map(|route| (route.method.to_string(), route.pattern)).collect()
}

/// A route that is read: GET, and HEAD without the body.
fn get<F, Args>(pattern: &'static str, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = web::route().guard(guard::Any(guard::Get()).or(guard::Head())).to(handler);
    let resource = web::resource(pattern).route(reads).default_service(web::to(|| wrong_method("GET, HEAD")));
    Route { method: Method::GET, pattern, resource }
}

/// A route with one method that writes.
fn one<F, Args>(method: Method, pattern: &'static str, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let allow = if method == Method::PUT { "PUT" } else { "POST" };
    let route = web::method(method.clone()).to(handler);
    let resource = web::resource(pattern).route(route).default_service(web::to(move || wrong_method(allow)));
    Route { method, pattern, resource }
}

async fn wrong_method(allow: &'static str) -> Result<&'static str, ApiError> {
    let detail = format!("this address takes {allow}");
    Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).header(header::ALLOW, allow.into()))
}

async fn nothing_here(_: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::of_status(StatusCode::NOT_FOUND))
}
