//! The table of routes.

use std::sync::LazyLock;

use actix_web::guard::{Guard, GuardContext};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{FromRequest, Handler, HttpRequest, Responder, Scope, guard, web};

use super::error::ApiError;
use super::{
    activity, aggregates, auth, billing, compare, diagnostics, feed, ingest, keys, list, meta, nodes, openapi, pages,
    problems, runs, scrape,
};

/// An address, and what it takes.
struct Route {
    /// In the order in which Allow lists them; GET brings HEAD along.
    methods: Vec<Method>,
    pattern: &'static str,
    services: Services,
}

/// What answers there.
#[expect(clippy::large_enum_variant, reason = "a few dozen of them, once a worker")]
enum Services {
    /// A route a method.
    Resource(Vec<actix_web::Route>),
    /// In the order in which they are tried.
    OfRun([Scope; 2]),
}

/// Every route of both builds.
#[rustfmt::skip]
fn all() -> Vec<Route> {
    vec![
        get("/healthz",                                meta::health),
        get("/readyz",                                 meta::ready),
        get("/metrics",                                scrape::metrics),
        get("/openapi.json",                           openapi::document),
        get("/docs",                                   openapi::docs),
        get("/problems/{code}",                        problems::problem),
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
        get("/auth/login",                             auth::login),
        get("/auth/callback",                          auth::callback),
        one(Method::POST, "/auth/logout",              auth::logout),
        get("/api/keys",                               keys::keys).or(Method::POST, keys::make),
        one(Method::DELETE, "/api/keys/{key_id}",      keys::revoke),
        one(Method::POST, "/api/keys/{key_id}/rotate", keys::rotate),
        get("/api/billing",                            billing::billing),
        get("/api/activity",                           activity::activity),
        one(Method::POST, "/v1/ingest/transitions",    ingest::transitions),
        get("/v1/ingest/runs/{run_id}",                ingest::position),
        one(Method::PUT, "/v1/ingest/runs/{run_id}/graph", ingest::put_graph),
        get("/ws/live",                                feed::live),
        get("/",                                       pages::index),
        get("/runs",                                   pages::index),
        get("/runs/{run_id}",                          pages::run),
        get("/agents",                                 pages::index),
        get("/agents/{agent_id}",                      pages::index),
        get("/audits",                                 pages::index),
        get("/nodes",                                  pages::index),
        get("/compare",                                pages::index),
        get("/settings",                               pages::index),
        get("/a/{hash}/{file:.*}",                     pages::asset),
    ]
}

/// Adds every route, and the answer to whatever is none.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    let mut routes: Vec<(usize, Route)> = all().into_iter().enumerate().collect();
    // Addresses are tried in this order, and a pattern costs far more than a comparison.
    routes.sort_by_key(|(_, route)| route.pattern.contains('{'));
    for (number, route) in routes {
        match route.services {
            Services::Resource(answers) => {
                let resource = web::resource(route.pattern).guard(Matched(number));
                let resource = resource.default_service(refused(&route.methods));
                config.service(answers.into_iter().fold(resource, actix_web::Resource::route));
            }
            Services::OfRun(scopes) => {
                scopes.into_iter().for_each(|scope| {
                    config.service(scope.guard(Matched(number)));
                });
            }
        }
    }
    config.default_service(web::to(nothing_here));
}

/// The number of the route that a request came to, in the order of the table. As the last guard of its route, it leaves itself
/// with the request: the library's own way to a route's pattern costs far more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matched(pub(super) usize);

impl Guard for Matched {
    fn check(&self, context: &GuardContext<'_>) -> bool {
        context.req_data_mut().insert(*self);
        true
    }
}

/// What stands for the pattern where an address is none of the table's.
pub(super) const NO_ROUTE: &str = "none";

/// The patterns of all routes, in the order of the table.
pub(super) fn patterns() -> &'static [&'static str] {
    static PATTERNS: LazyLock<Vec<&'static str>> =
        LazyLock::new(|| all().into_iter().map(|route| route.pattern).collect());
    &PATTERNS
}

const RUNS: &str = "/api/runs";
/// What is asked of one run begins with this.
const RUN: &str = "/api/runs/{run_id}";

/// Whatever comes to this address of a run. A resource would have the library try a regular expression for each pattern,
/// which costs more than all the rest of a held answer.
fn of_run(pattern: &'static str) -> Scope {
    let is_this = move |context: &GuardContext<'_>| fits(pattern, context.head().uri.path());
    web::scope(RUNS).guard(is_this)
}

/// Whether a path is one of this pattern: the same segments, and any text where the pattern has a name.
fn fits(pattern: &str, path: &str) -> bool {
    let mut given = path.split('/');
    let is_same = |wanted: &str, given: &str| if wanted.starts_with('{') { !given.is_empty() } else { wanted == given };
    pattern.split('/').all(|wanted| given.next().is_some_and(|given| is_same(wanted, given))) && given.next().is_none()
}

/// The run_id in the path.
pub(super) fn run_segment(request: &HttpRequest) -> &str {
    // Where a resource took the request, it named its segments.
    request.match_info().get("run_id").unwrap_or_else(|| segment(request, 3))
}

/// The node_id in the path of a run's node.
pub(super) fn node_segment(request: &HttpRequest) -> &str {
    segment(request, 5)
}

fn segment(request: &HttpRequest, at: usize) -> &str {
    // Percent signs are decoded in it, but those that stand for a slash.
    request.match_info().as_str().split('/').nth(at).unwrap_or_default()
}

/// Method and pattern of every route, in order; what is read by GET is read by HEAD too.
pub fn route_table() -> Vec<(String, &'static str)> {
    let routes = all().into_iter();
    routes.flat_map(|route| route.methods.into_iter().map(move |own| (own.to_string(), route.pattern))).collect()
}

/// A route that is read: GET, and HEAD without the body.
fn get<F, Args>(pattern: &'static str, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let reads = || guard::Any(guard::Get()).or(guard::Head());
    let methods = vec![Method::GET];
    let services = if pattern.starts_with(RUN) {
        let answered = of_run(pattern).guard(reads()).default_service(web::to(handler));
        Services::OfRun([answered, of_run(pattern).default_service(refused(&methods))])
    } else {
        Services::Resource(vec![web::route().guard(reads()).to(handler)])
    };
    Route { methods, pattern, services }
}

/// A route with one method that writes.
fn one<F, Args>(method: Method, pattern: &'static str, handler: F) -> Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    Route { methods: Vec::new(), pattern, services: Services::Resource(Vec::new()) }.or(method, handler)
}

impl Route {
    /// The same address with a method that writes, besides.
    fn or<F, Args>(mut self, method: Method, handler: F) -> Self
    where
        F: Handler<Args>,
        Args: FromRequest + 'static,
        F::Output: Responder + 'static,
    {
        if let Services::Resource(answers) = &mut self.services {
            answers.push(web::method(method.clone()).to(handler));
            self.methods.push(method);
        }
        self
    }
}

/// The answer to all other methods.
fn refused(methods: &[Method]) -> actix_web::Route {
    let allow: Vec<&str> = methods
        .iter()
        .flat_map(|method| if *method == Method::GET { vec!["GET", "HEAD"] } else { vec![method.as_str()] })
        .collect();
    let allow = allow.join(", ");
    web::to(move || wrong_method(allow.clone()))
}

async fn wrong_method(allow: String) -> Result<&'static str, ApiError> {
    let detail = format!("this address takes {allow}");
    Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).header(header::ALLOW, allow))
}

async fn nothing_here(_: HttpRequest) -> Result<&'static str, ApiError> {
    Err(ApiError::of_status(StatusCode::NOT_FOUND))
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_path_is_of_the_pattern_that_has_its_segments() {
        let node = "/api/runs/{run_id}/nodes/{node_id}";
        assert!(fits("/api/runs/{run_id}", "/api/runs/r1") && fits(node, "/api/runs/r1/nodes/a"));
        for path in ["/api/runs", "/api/runs/", "/api/runs/r1/", "/api/runs/r1/nodes", "/api/run/r1", "api/runs/r1"] {
            assert!(!fits("/api/runs/{run_id}", path), "{path}");
        }
        for path in [
            "/api/runs/r1",
            "/api/runs/r1/nodes",
            "/api/runs/r1/nodes/",
            "/api/runs/r1/nodes/a/b",
            "/api/runs//nodes/a",
        ] {
            assert!(!fits(node, path), "{path}");
        }
    }
}
