//! The app factory: one function, for the program and for tests, in both builds.

use std::any::Any;
use std::future::Future;
use std::net::TcpListener;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Compress, Next, from_fn};
use actix_web::rt::net::TcpStream;
use actix_web::{App, Error, HttpMessage as _, HttpServer, web};

use super::error::ApiError;
use super::ingest::{announced_length, unsupported_encoding};
use super::observe::Observed;
use super::principal::{budget_fields, facts};
use super::routes::{patterns, routes};
use crate::services::Services;

/// The app over these services.
pub fn app(
    services: Services,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    let counted = services.metrics.worker(patterns().len());
    App::new()
        .app_data(web::Data::new(services))
        .app_data(web::Data::from(counted))
        .app_data(web::Data::new(RequestIds::new()))
        .configure(routes)
        .wrap(Compress::default())
        .wrap(from_fn(door))
        .wrap(from_fn(finish))
}

/// Seconds that open requests get to finish once the server stops.
const DRAIN_S: u64 = 30;

/// Serves at most so many connections at once on a bound listener; further ones wait outside. Goes on until `stop` is done; then tells the sockets, finishes what was read, and returns.
///
/// # Errors
///
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    services: Services,
    most_connections: usize,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let closing = services.clone();
    let stop = async move {
        stop.await;
        closing.close();
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    HttpServer::new(move || app(services.clone()))
        .on_connect(|stream, _| prepare(stream))
        .workers(workers)
        .max_connections((most_connections / workers).max(1))
        .client_request_timeout(HEAD_DEADLINE)
        .shutdown_signal(stop)
        .shutdown_timeout(DRAIN_S)
        .listen(listener)?
        .run()
        .await
}

/// How long a connection may wait for its first request: browsers open some ahead, and a busy machine is slow to use them.
const HEAD_DEADLINE: Duration = Duration::from_secs(20);

/// How long a peer may take nothing of what is sent to it, in milliseconds, before its connection is cut.
const UNREAD_MS: u32 = 60_000;

/// What every connection gets.
fn prepare(stream: &dyn Any) {
    let Some(stream) = stream.downcast_ref::<TcpStream>() else { return };
    // A frame of the feed is small, and the one before it may be unacknowledged for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        log::warn!("a connection sends small frames late: {error}");
    }
    bound_writes(stream);
}

/// Lets the system cut a connection whose peer does not read. The HTTP library waits for such a peer for ever, whatever
/// becomes of the answer.
#[cfg(target_os = "linux")]
fn bound_writes(stream: &TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_MS) {
        log::warn!("a connection has no bound on its writes: {error}");
    }
}

/// Only this system has such a bound.
#[cfg(not(target_os = "linux"))]
fn bound_writes(_: &TcpStream) {
    let _ = UNREAD_MS;
}

/// How long an answer may take to begin.
const REQUEST_DEADLINE: Duration = Duration::from_secs(60);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Headers on everything. Event text is hostile: no inline script or style, no other origin, no frame.
static HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin")),
    (header::CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin")),
];

/// The longest target, in bytes (api.md, limits).
const MAX_TARGET_BYTES: usize = 8 * 1024;
/// The most bytes of all header fields together, names and values.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Why a request is too large to be looked at.
fn oversize(request: &ServiceRequest) -> Option<ApiError> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET_BYTES {
        let detail = format!("the address is over {MAX_TARGET_BYTES} bytes");
        return Some(
            ApiError::new(StatusCode::URI_TOO_LONG, "target_too_long", detail).with("limit", MAX_TARGET_BYTES),
        );
    }
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (headers > MAX_HEADER_BYTES).then(|| {
        let detail = format!("the header fields are over {MAX_HEADER_BYTES} bytes");
        ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)
            .with("limit", MAX_HEADER_BYTES)
    })
}

/// The longest body of a request that brings no events and no graph.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024;

/// Why a body that brings no events and no graph is refused unread. Ingest has limits of its own.
fn unfit_body(request: &ServiceRequest) -> Option<ApiError> {
    let is_ingest =
        matches!(*request.method(), Method::POST | Method::PUT) && request.path().starts_with("/v1/ingest/");
    if is_ingest {
        return None;
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return Some(unsupported_encoding(&[]));
    }
    announced_length(request.headers()).is_some_and(|length| length > MAX_BODY_BYTES as u64).then(|| {
        ApiError::too_large("body_too_large", format!("the body is over {MAX_BODY_BYTES} bytes"), MAX_BODY_BYTES)
    })
}

/// Outermost: gives the request its id, writes problems with it, and puts the headers on.
async fn finish(
    ids: web::Data<RequestIds>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = ids.of(&request);
    let observed = Observed::begin(&request);
    // Where no response comes back the request is gone too, so its problem goes round the end of this function.
    let stray = |problem: ApiError| -> Error {
        observed.fault(&id, &problem);
        let problem = problem.answering(&id);
        let guarded = HEADERS.iter().fold(problem, |problem, (name, value)| {
            problem.header(name.clone(), value.to_str().unwrap_or_default().to_owned())
        });
        guarded.into()
    };
    let response = match tokio::time::timeout(REQUEST_DEADLINE, next.call(request)).await {
        Ok(Ok(response)) => response.map_into_boxed_body(),
        Ok(Err(error)) => {
            log::error!("request {id} failed on its way: {error}");
            return Err(stray(ApiError::of_status(error.error_response().status())));
        }
        Err(_) => {
            log::error!("request {id} was given up after {REQUEST_DEADLINE:?}");
            return Err(stray(ApiError::overloaded("request_timeout", "the answer took too long")));
        }
    };
    let status = response.status();
    let problem = match response.response().error().map(|error| error.as_error::<ApiError>()) {
        Some(Some(problem)) => Some(problem.clone()),
        // The HTTP library refused by itself: the same shape, no words of its own.
        _ if status.is_client_error() || status.is_server_error() => Some(ApiError::of_status(status)),
        _ => None,
    };
    let budget = budget_fields(&response.request().extensions());
    if let Some(problem) = &problem {
        observed.problem(&response, problem);
    }
    let mut response = match problem {
        Some(problem) => {
            if status.is_server_error() {
                log::error!("request {id} was answered {}: {problem}", status.as_u16());
            }
            response.into_response(problem.to_response(&id))
        }
        None => response,
    };
    let headers = response.headers_mut();
    for (name, value) in &HEADERS {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in budget.into_iter().flatten() {
        headers.insert(name, value);
    }
    let id_field = HeaderValue::try_from(id.as_str());
    if let Ok(value) = id_field {
        headers.insert(X_REQUEST_ID, value);
    }
    observed.answer(&id, &response);
    Ok(response)
}

/// Before routing: the limits of a request's head, and the door's rules on host and origin.
async fn door(
    services: web::Data<Services>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if let Some(refusal) = oversize(&request).or_else(|| unfit_body(&request)) {
        return Ok(request.error_response(refusal));
    }
    let facts = Arc::new(facts(request.head()));
    let verdict = services.access.screen(&facts);
    // Whoever asks who this is looks at the same.
    request.extensions_mut().insert(facts);
    match verdict {
        Ok(()) => Ok(next.call(request).await?.map_into_boxed_body()),
        Err(refusal) => Ok(request.error_response(ApiError::from(refusal))),
    }
}

/// Ids for the requests that bring none of their own.
struct RequestIds {
    start: u64,
    made: AtomicU64,
}

impl RequestIds {
    /// Starts anywhere: each worker has its own.
    fn new() -> Self {
        let mut random = [0; 8];
        // Without randomness the ids are only less useful.
        let _ = getrandom::fill(&mut random);
        Self { start: u64::from_ne_bytes(random), made: AtomicU64::new(0) }
    }

    /// The request's own X-Request-Id where that is fit to print, else a new one.
    fn of(&self, request: &ServiceRequest) -> String {
        let given = request.headers().get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let is_fit = |id: &str| {
            (1..=64).contains(&id.len()) && id.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
        };
        given.filter(|id| is_fit(id)).map_or_else(|| self.next(), str::to_owned)
    }

    /// Far from the one before, and none twice: an odd step meets every number.
    fn next(&self) -> String {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let made = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}", self.start.wrapping_add(made.wrapping_mul(STEP)))
    }
}
