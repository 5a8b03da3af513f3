//! `GET /metrics`, for Prometheus.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics;
use crate::shell::Handle;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The route.
pub fn router(handle: Handle) -> Router {
    Router::new().route("/metrics", get(text)).with_state(handle)
}

async fn text(State(handle): State<Handle>) -> impl IntoResponse {
    ([("content-type", CONTENT_TYPE)], metrics::text(&handle).await)
}
