//! `GET /v1/events`: kept events page by page from the disk, in their order, then the coming ones. Whoever falls
//! behind, or asks for much, is served from the disk again until it has caught up: nothing is left out.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use patchbay_api as api;
use serde::Deserialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Failure, failure};
use crate::shell::Handle;
use crate::store::{EventFilter, History, StoreError};

/// Events read from the disk at once.
const PAGE: u32 = 1_000;
/// Readers of events at once; further ones are refused with 429.
const MAX_READERS: usize = 64;
/// Readers that read from the disk at once; further ones wait.
const AT_ONCE: usize = 4;

#[derive(Clone)]
struct Source {
    handle: Handle,
    history: History,
    readers: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

/// The route.
pub fn router(handle: Handle, history: History) -> Router {
    let (readers, reads) = (Arc::new(Semaphore::new(MAX_READERS)), Arc::new(Semaphore::new(AT_ONCE)));
    Router::new().route("/v1/events", get(events)).with_state(Source { handle, history, readers, reads })
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    since_ms: u64,
    /// Kinds, with commas between them.
    #[serde(default)]
    kind: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    follow: bool,
}

async fn events(State(source): State<Source>, Query(asked): Query<Asked>) -> Result<Response, Failure> {
    let place = source.readers.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{MAX_READERS} read events already; ask without `follow`, or later");
        failure(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    let kinds = asked.kind.split(',').map(str::trim).filter(|kind| !kind.is_empty());
    let filter = EventFilter {
        since_ms: asked.since_ms,
        kinds: kinds.map(str::to_owned).collect(),
        subject: asked.subject,
    };
    let mut reader = Reader {
        // From before the disk is read: what comes meanwhile is seen in one place or the other.
        coming: source.handle.subscribe(),
        source,
        filter,
        last: asked.after,
        is_behind: true,
        follows: asked.follow,
        read: VecDeque::new(),
        _place: place,
    };
    // The first page tells whether it can be read at all.
    reader
        .read_page()
        .await
        .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let lines = futures_util::stream::unfold(reader, |mut reader| async move {
        reader.next().await.map(|line| (line, reader))
    });
    Ok(([("content-type", "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Reader {
    source: Source,
    coming: Receiver<api::Event>,
    filter: EventFilter,
    /// All up to this number were told, or passed over.
    last: u64,
    /// There may be more on the disk.
    is_behind: bool,
    follows: bool,
    read: VecDeque<api::Event>,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(&mut self) -> Option<io::Result<String>> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Some(Ok(line(&event)));
            }
            if self.is_behind {
                // A broken answer is seen as one: the reader may go on with `after`.
                if let Err(error) = self.read_page().await {
                    return Some(Err(io::Error::other(error.to_string())));
                }
                continue;
            }
            if !self.follows {
                return None;
            }
            match self.coming.recv().await {
                Ok(event) if event.sequence <= self.last => {}
                Ok(event) if event.sequence == self.last + 1 => {
                    self.last = event.sequence;
                    if self.filter.admits(&event) {
                        return Some(Ok(line(&event)));
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_)) => self.is_behind = true,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    async fn read_page(&mut self) -> Result<(), StoreError> {
        let _turn = self.source.reads.acquire().await;
        let (history, filter, after) = (self.source.history.clone(), self.filter.clone(), self.last);
        let page = tokio::task::spawn_blocking(move || history.events_after(after, PAGE, &filter)).await;
        let page = page.map_err(|error| StoreError::Unknown(error.to_string()))??;
        self.is_behind = page.is_more;
        self.last = page.last.max(self.last);
        self.read = page.events.into();
        Ok(())
    }
}

fn line(event: &api::Event) -> String {
    serde_json::to_string(event).unwrap_or_default() + "\n"
}
