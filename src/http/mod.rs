//! Questions over HTTP and WebSocket: the same routes in both builds.

mod activity;
mod aggregates;
mod answer;
mod app;
mod auth;
mod billing;
mod compare;
mod diagnostics;
mod error;
mod feed;
mod held;
mod ingest;
mod keys;
mod list;
mod meta;
mod moment;
mod nodes;
mod observe;
mod openapi;
mod pages;
mod params;
mod principal;
mod problems;
mod room;
mod routes;
mod runs;
mod scrape;
mod view;

pub use app::{app, serve};
pub use compare::comparison_json;
pub use error::ApiError;
pub use meta::LIMITS;
pub use problems::problem_codes;
pub use routes::route_table;
