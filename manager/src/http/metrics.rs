//! `GET /metrics`, for Prometheus.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::certificates::Certificates;
use crate::metrics;
use crate::shell::Handle;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The route.
pub fn router(handle: Handle, certificates: Option<Certificates>) -> Router {
    Router::new().route("/metrics", get(text)).with_state((handle, certificates))
}

async fn text(State((handle, certificates)): State<(Handle, Option<Certificates>)>) -> impl IntoResponse {
    ([("content-type", CONTENT_TYPE)], metrics::text(&handle, certificates.as_ref()).await)
}
