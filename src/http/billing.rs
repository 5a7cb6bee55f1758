//! What a tenant has agreed on and used.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};

use super::answer;
use super::error::ApiError;
use super::params::Params;
use super::principal::authorize;
use crate::contract::{Account, Scope};
use crate::services::Services;

pub(super) async fn billing(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let who = authorize(&services, &request, Scope::Admin).await?;
    Params::parse(request.query_string(), &[])?;
    answer::json(&request, &account(&services)?.billing(&who).await?)
}

/// The tenants' account; without tenants there is nothing at its addresses.
pub(super) fn account(services: &Services) -> Result<&Arc<dyn Account>, ApiError> {
    services.account.as_ref().ok_or_else(ApiError::only_in_cloud)
}
