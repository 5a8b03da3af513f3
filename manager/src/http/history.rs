//! History's calls: answered from the disk, a few at a time.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use patchbay_api as api;
use tokio::sync::Semaphore;

use super::{Answer, StatusCode, failure};
use crate::store::{History, StoreError};

/// Questions read from the disk at once; further ones wait.
const AT_ONCE: usize = 4;

#[derive(Clone)]
struct Reader {
    history: History,
    places: Arc<Semaphore>,
}

/// The routes below `/v1/history`.
pub fn router(history: History) -> Router {
    let reader = Reader { history, places: Arc::new(Semaphore::new(AT_ONCE)) };
    Router::new()
        .route("/v1/history/sessions/{id}", get(session))
        .route("/v1/history/instances/{id}", get(instance))
        .route("/v1/history/nodes/{name}", get(node))
        .with_state(reader)
}

async fn session(State(reader): State<Reader>, Path(id): Path<u64>) -> Answer<api::SessionHistory> {
    reader.read(move |history| history.session(id)).await
}

async fn instance(State(reader): State<Reader>, Path(id): Path<u64>) -> Answer<api::InstanceHistory> {
    reader.read(move |history| history.instance(id)).await
}

async fn node(State(reader): State<Reader>, Path(name): Path<String>) -> Answer<api::NodeHistory> {
    reader.read(move |history| history.node(&name)).await
}

impl Reader {
    async fn read<T: Send + 'static>(
        self,
        question: impl FnOnce(&History) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<T> {
        let _place = self.places.acquire().await;
        let history = self.history.clone();
        match tokio::task::spawn_blocking(move || question(&history)).await {
            Ok(Ok(answer)) => Ok(Json(answer)),
            Ok(Err(StoreError::Unknown(message))) => Err(failure(StatusCode::NOT_FOUND, message)),
            Ok(Err(error)) => {
                let message = format!("the history can't be read: {error}");
                Err(failure(StatusCode::INTERNAL_SERVER_ERROR, message))
            }
            Err(error) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }
}
