//! The HTTP/JSON API for people and the command (patchbay-api).

pub mod history;

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use patchbay_api as api;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use crate::core::Event;
use crate::graph::{Graph, MAX_FILE_BYTES};
use crate::shell::{Handle, Input, NoAnswer};

/// Events read from disk at once.
const EVENTS_AT_ONCE: u32 = 10_000;

/// A failed call.
struct Failure(StatusCode, api::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<NoAnswer> for Failure {
    fn from(reason: NoAnswer) -> Self {
        failure(StatusCode::SERVICE_UNAVAILABLE, reason.to_string())
    }
}

fn failure(status: StatusCode, message: String) -> Failure {
    Failure(status, api::Error { message, problems: Vec::new() })
}

type Answer<T> = Result<Json<T>, Failure>;

/// All routes.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", post(plan))
        .route("/v1/apps", put(apply).get(apps))
        .route("/v1/apps/{app}/stop", post(stop_app))
        .route("/v1/nodes", get(nodes))
        .route("/v1/instances", get(instances))
        .route("/v1/instances/{id}/stop", post(stop_instance))
        .route("/v1/sessions", get(sessions))
        .route("/v1/events", get(events))
        .fallback(|| async {
            failure(StatusCode::NOT_FOUND, "there is no such path; see the API's table".into())
        })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method".into())
        })
        .layer(DefaultBodyLimit::max(MAX_FILE_BYTES + 1024))
        .with_state(handle)
}

#[derive(Deserialize)]
struct Filter {
    app: Option<String>,
    #[serde(default)]
    ended: bool,
}

async fn status(State(handle): State<Handle>) -> Answer<api::ManagerStatus> {
    Ok(Json(handle.ask(|core, _| core.status()).await?))
}

async fn apps(State(handle): State<Handle>) -> Answer<Vec<api::App>> {
    Ok(Json(handle.ask(|core, _| core.apps()).await?))
}

async fn nodes(State(handle): State<Handle>) -> Answer<Vec<api::Node>> {
    Ok(Json(handle.ask(|core, _| core.nodes()).await?))
}

async fn instances(State(handle): State<Handle>, Query(filter): Query<Filter>) -> Answer<Vec<api::Instance>> {
    Ok(Json(handle.ask(move |core, _| core.instances(filter.app.as_deref(), filter.ended)).await?))
}

async fn sessions(State(handle): State<Handle>, Query(filter): Query<Filter>) -> Answer<Vec<api::Session>> {
    handle.refresh().await?;
    Ok(Json(handle.ask(move |core, _| core.sessions(filter.app.as_deref(), filter.ended)).await?))
}

fn read(body: &Bytes) -> Result<(Graph, String, Vec<api::Problem>), Failure> {
    let text = std::str::from_utf8(body)
        .map_err(|_| failure(StatusCode::BAD_REQUEST, "the graph is not UTF-8".into()))?;
    match Graph::read(text) {
        Ok((graph, warnings)) => Ok((graph, text.to_owned(), warnings)),
        Err(problems) => {
            let message = format!("the graph has {} problem(s); nothing was changed", problems.len());
            Err(Failure(StatusCode::UNPROCESSABLE_ENTITY, api::Error { message, problems }))
        }
    }
}

async fn differences(handle: &Handle, graph: Graph) -> Result<(String, Vec<api::Change>), NoAnswer> {
    let app = graph.app.clone();
    let changes = handle
        .ask(move |core, _| {
            let running = core.app(&graph.app).filter(|app| !app.stopped);
            graph.changes_since(running.map(|app| &app.graph), &core.usual_policy())
        })
        .await?;
    Ok((app, changes))
}

async fn plan(State(handle): State<Handle>, body: Bytes) -> Answer<api::Plan> {
    let (graph, _, warnings) = read(&body)?;
    let (app, changes) = differences(&handle, graph).await?;
    Ok(Json(api::Plan { app, changes, warnings }))
}

async fn apply(State(handle): State<Handle>, body: Bytes) -> Answer<api::Plan> {
    let (graph, text, warnings) = read(&body)?;
    let (app, changes) = differences(&handle, graph.clone()).await?;
    handle.send(Input::Event(Event::Apply(graph, text))).await?;
    // Answered only when it is on disk.
    handle.ask(|_, _| ()).await?;
    Ok(Json(api::Plan { app, changes, warnings }))
}

async fn stop_app(State(handle): State<Handle>, Path(app): Path<String>) -> Answer<api::Stopped> {
    let name = app.clone();
    let counts =
        handle.ask(move |core, _| core.app(&name).map(|_| core.stop_counts(Some(&name), None))).await?;
    let Some(counts) = counts else {
        return Err(failure(StatusCode::NOT_FOUND, format!("there is no application `{app}`")));
    };
    handle.send(Input::Event(Event::StopApp(app))).await?;
    Ok(Json(counts))
}

async fn stop_instance(State(handle): State<Handle>, Path(id): Path<u64>) -> Answer<api::Stopped> {
    let counts = handle
        .ask(move |core, _| {
            let alive = core.instance(id).is_some_and(|instance| instance.state.is_alive());
            alive.then(|| core.stop_counts(None, Some(id)))
        })
        .await?;
    let Some(counts) = counts else {
        return Err(failure(StatusCode::NOT_FOUND, format!("there is no running instance {id}")));
    };
    handle.send(Input::Event(Event::StopInstance(ssmmp::InstanceId(id)))).await?;
    Ok(Json(counts))
}

#[derive(Deserialize)]
struct EventsQuery {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

/// Kept events as one JSON object a line, then, on request, the coming ones.
async fn events(State(handle): State<Handle>, Query(query): Query<EventsQuery>) -> Result<Response, Failure> {
    let receiver = handle.subscribe();
    let kept = handle
        .ask(move |_, store| store.events(query.after, EVENTS_AT_ONCE))
        .await?
        .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let last = kept.last().map_or(query.after, |event| event.sequence);
    let kept = futures_util::stream::iter(kept.into_iter().map(|event| line(&event)));
    let coming = futures_util::stream::unfold(receiver, move |mut receiver| async move {
        loop {
            return match receiver.recv().await {
                Ok(event) if event.sequence <= last => continue,
                Ok(event) => Some((line(&event), receiver)),
                // A reader that is too slow is cut off; it can go on with `after`.
                Err(RecvError::Lagged(_) | RecvError::Closed) => None,
            };
        }
    });
    let body = if query.follow { Body::from_stream(kept.chain(coming)) } else { Body::from_stream(kept) };
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

fn line(event: &api::Event) -> Result<String, Infallible> {
    Ok(serde_json::to_string(event).unwrap_or_default() + "\n")
}
