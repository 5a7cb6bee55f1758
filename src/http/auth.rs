//! A person's way in and out with a browser. What happens at each step is the door's affair; here it becomes HTTP.

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use serde_json::json;

use super::answer;
use super::error::{ApiError, title_of};
use super::pages::Ui;
use super::params::Params;
use super::principal::facts_of;
use super::problems::{escaped, wants_page};
use crate::contract::{Redirection, Refusal, SignStep};
use crate::services::Services;

/// On to the provider: a redirect. `return_to` is the path where the person goes on afterwards.
pub(super) async fn login(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let params = match Params::parse(request.query_string(), &["return_to"]) {
        Ok(params) => params,
        Err(error) => return Err(shown(&request, error)),
    };
    let step = SignStep::In { return_to: params.get("return_to").map(str::to_owned) };
    go_on(&request, services.access.sign(&facts_of(&request), step).await)
}

/// Back from the provider, which may add parameters of its own.
pub(super) async fn callback(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    let answer = form_urlencoded::parse(request.query_string().as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    go_on(&request, services.access.sign(&facts_of(&request), SignStep::Back { answer }).await)
}

/// Out. No redirect, since a page's script asks: it is told where to go on.
pub(super) async fn logout(request: HttpRequest, services: web::Data<Services>) -> Result<HttpResponse, ApiError> {
    Params::parse(request.query_string(), &[])?;
    let next = services.access.sign(&facts_of(&request), SignStep::Out).await?;
    let mut response = HttpResponse::Ok();
    keep(&mut response, &next);
    answer::written(response, &json!({"continue_at": next.location}))
}

/// On with the redirect.
fn go_on(request: &HttpRequest, next: Result<Redirection, Refusal>) -> Result<HttpResponse, ApiError> {
    next.map(redirect).map_err(|refusal| shown(request, refusal.into()))
}

/// What went wrong is a page for whoever came here with a browser: no script is there to read JSON.
fn shown(request: &HttpRequest, error: ApiError) -> ApiError {
    if !wants_page(request) {
        return error;
    }
    let (code, detail) = error.code_and_detail();
    let title = title_of(code);
    let main = format!(
        "<h1>{title}</h1>\n<p>{}</p>\n<p><a href=\"/auth/login\">Sign in again</a>, or see <a href=\"/problems/{}\">what that means</a>.</p>",
        escaped(detail),
        code.replace('_', "-"),
    );
    error.with_page(Ui::get().plain_page(&title, "", &main))
}

fn redirect(next: Redirection) -> HttpResponse {
    let mut response = HttpResponse::SeeOther();
    keep(&mut response, &next);
    response
        .insert_header((header::LOCATION, next.location))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .finish()
}

fn keep(response: &mut HttpResponseBuilder, next: &Redirection) {
    for cookie in &next.cookies {
        response.append_header((header::SET_COOKIE, cookie.as_str()));
    }
}
