//! What is asked about the server itself.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::json;

use super::answer;
use super::error::ApiError;
use super::ingest::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_DECODED_BYTES};
use super::params::Params;
use super::principal::authenticate;
use super::view::{ConfigView, LimitsView};
use crate::domain::{MAX_GRAPH_BYTES, MAX_GRAPH_NODES, MAX_LINE_BYTES};
use crate::services::Services;

/// The most that ingest takes at once, by name; the same in both builds.
pub const LIMITS: [(&str, usize); 6] = [
    ("batch_events", MAX_BATCH_EVENTS),
    ("batch_bytes", MAX_BATCH_BYTES),
    ("decoded_bytes", MAX_DECODED_BYTES),
    ("line_bytes", MAX_LINE_BYTES),
    ("graph_bytes", MAX_GRAPH_BYTES),
    ("graph_nodes", MAX_GRAPH_NODES),
];

pub(super) async fn health(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    answer::json(&request, &json!({"status": "ok"}))
}

pub(super) async fn ready(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    services.store.ready().await?;
    answer::json(&request, &json!({"status": "ok"}))
}

pub(super) async fn config(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    answer::json(&request, &config_of(&services))
}

/// What a client must know first.
pub(super) fn config_of(services: &Services) -> ConfigView {
    let settings = services.settings;
    ConfigView {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("KAHN_COMMIT"),
        mode: settings.mode,
        read_only: settings.read_only,
        agent_views: settings.agent_views,
        windows: ["24h", "7d", "all"],
        stall_after_s: settings.stall_after_ms / 1000,
        limits: LimitsView { batch_events: MAX_BATCH_EVENTS, batch_bytes: MAX_BATCH_BYTES, line_bytes: MAX_LINE_BYTES },
        now: services.clock.now(),
        sign_in: services.access.offers_sign_in(),
    }
}

pub(super) async fn me(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authenticate(&services, &request).await?;
    Params::parse(request.query_string(), &[])?;
    #[derive(serde::Serialize)]
    struct MeView<'a> {
        kind: crate::contract::PrincipalKind,
        user: &'a str,
        tenant: Option<&'a str>,
        scopes: &'a [crate::contract::Scope],
    }
    let tenant = who.tenant.as_ref().map(|tenant| &*tenant.name);
    answer::json(&request, &MeView { kind: who.kind, user: &who.user, tenant, scopes: &who.scopes })
}
