//! Lines of an instance's output, from its node's agent.

use axum::Json;
use axum::extract::{Path, Query, State};
use patchbay_api as api;
use serde::Deserialize;
use ssmmp::InstanceId;

use super::{Answer, refused};
use crate::shell::Handle;
use patchbay_manager_core::OutputQuestion;

/// Lines of one answer, unless fewer are asked for.
const LINES: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct LogQuery {
    after: Option<u64>,
    lines: Option<usize>,
}

/// `GET /v1/instances/{id}/log`.
pub(super) async fn log(
    (State(handle), Path(id), Query(query)): (State<Handle>, Path<u64>, Query<LogQuery>),
) -> Answer<api::Log> {
    let question = OutputQuestion {
        instance: InstanceId(id),
        after: query.after,
        lines: query.lines.unwrap_or(LINES).min(LINES),
    };
    handle.output(question).await?.map(Json).map_err(refused)
}
