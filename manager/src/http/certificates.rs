//! `GET /v1/certificates`: the Manager's, and those that connected agents have shown.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use patchbay_api as api;

use crate::certificates::Certificates;

/// The route; without certificates its list is empty.
pub(super) fn router(certificates: Option<Certificates>) -> Router {
    Router::new().route("/v1/certificates", get(list)).with_state(certificates)
}

async fn list(State(certificates): State<Option<Certificates>>) -> Json<Vec<api::Certificate>> {
    Json(certificates.map(|certificates| certificates.list()).unwrap_or_default())
}
