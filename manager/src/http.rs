//! The HTTP/JSON API for people and the command (patchbay-api).

pub mod gate;
pub mod history;
pub mod metrics;
pub mod serve;
pub mod socket;
pub mod tokens;

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use patchbay_api as api;
use serde::Deserialize;
use ssmmp::InstanceId;
use tokio::sync::broadcast::error::RecvError;

use self::gate::Gate;
use crate::core::{Command, Event, Page, Refusal};
use crate::graph::Graph;
use crate::shell::{Handle, Input, NoAnswer};
use crate::store::History;

/// Events read from disk at once.
const EVENTS_AT_ONCE: u32 = 10_000;

/// A failed call.
struct Failure {
    status: StatusCode,
    error: api::Error,
    /// Where to ask instead.
    location: Option<String>,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.error)).into_response();
        if let Some(location) = self.location.and_then(|location| location.try_into().ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

impl From<NoAnswer> for Failure {
    fn from(reason: NoAnswer) -> Self {
        failure(StatusCode::SERVICE_UNAVAILABLE, reason.to_string())
    }
}

fn failure(status: StatusCode, message: String) -> Failure {
    Failure { status, error: api::Error { message, problems: Vec::new() }, location: None }
}

type Answer<T> = Result<Json<T>, Failure>;

/// All routes behind the gate.
pub fn routes(handle: &Handle, history: History, gate: Gate) -> Router {
    router(handle.clone())
        .merge(history::router(history))
        .merge(metrics::router(handle.clone()))
        // The gate has read the body, and bounded it.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(gate, gate::gate))
}

fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", post(plan))
        .route("/v1/apps", put(apply).get(apps))
        .route("/v1/apps/{app}/stop", post(stop_app))
        .route("/v1/apps/{app}/services/{service}/scale", post(scale))
        .route("/v1/apps/{app}/connections/{plug}/close", post(close_connection))
        .route("/v1/nodes", get(nodes))
        .route("/v1/instances", get(instances))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/undrain", post(undrain))
        .route("/v1/nodes/{node}/forget", post(forget))
        .route("/v1/instances/{id}/stop", post(stop_instance))
        .route("/v1/instances/{id}/close", post(close_instance))
        .route("/v1/instances/{id}/move", post(move_instance))
        .route("/v1/sessions/{id}/close", post(close_session))
        .route("/v1/sessions", get(sessions))
        .route("/v1/events", get(events))
        .fallback(|| async {
            failure(StatusCode::NOT_FOUND, "there is no such path; see the API's table".into())
        })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method".into())
        })
        .with_state(handle)
}

#[derive(Deserialize)]
struct Filter {
    app: Option<String>,
    #[serde(default)]
    ended: bool,
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

impl Filter {
    fn page(&self) -> Page {
        Page { after: self.after, limit: self.limit.unwrap_or(api::MAX_TOLD).min(api::MAX_TOLD) }
    }
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
    let page = filter.page();
    Ok(Json(handle.ask(move |core, _| core.instances(filter.app.as_deref(), filter.ended, page)).await?))
}

async fn sessions(State(handle): State<Handle>, Query(filter): Query<Filter>) -> Answer<Vec<api::Session>> {
    let page = filter.page();
    // Once for all pages: they are one answer.
    if page.after == 0 {
        handle.refresh().await?;
    }
    Ok(Json(handle.ask(move |core, _| core.sessions(filter.app.as_deref(), filter.ended, page)).await?))
}

fn read(body: &Bytes) -> Result<(Graph, String, Vec<api::Problem>), Failure> {
    let text = std::str::from_utf8(body)
        .map_err(|_| failure(StatusCode::BAD_REQUEST, "the graph is not UTF-8".into()))?;
    match Graph::read(text) {
        Ok((graph, warnings)) => Ok((graph, text.to_owned(), warnings)),
        Err(problems) => {
            let message = format!("the graph has {} problem(s); nothing was changed", problems.len());
            let error = api::Error { message, problems };
            Err(Failure { status: StatusCode::UNPROCESSABLE_ENTITY, error, location: None })
        }
    }
}

async fn differences(
    handle: &Handle,
    graph: Graph,
    warnings: Vec<api::Problem>,
) -> Result<api::Plan, NoAnswer> {
    handle
        .ask(move |core, _| {
            let running = core.app(&graph.app).filter(|app| !app.stopped);
            let changes = graph.changes_since(running.map(|app| &app.graph), &core.usual_policy());
            api::Plan { changes, steps: core.steps(&graph), warnings, app: graph.app }
        })
        .await
}

/// Refuses what another Manager owns, and says where that is (P3).
async fn require_own(handle: &Handle, app: &str, path: &str) -> Result<(), Failure> {
    let name = app.to_owned();
    let Some(owner) = handle.ask(move |core, _| core.ownership.of_app(&name).cloned()).await? else {
        return Ok(());
    };
    let message =
        format!("the application {app} belongs to the Manager {}: ask it at {}", owner.name, owner.http);
    let location = Some(format!("{}{path}", owner.http));
    Err(Failure { location, ..failure(StatusCode::TEMPORARY_REDIRECT, message) })
}

async fn plan(State(handle): State<Handle>, body: Bytes) -> Answer<api::Plan> {
    let (graph, _, warnings) = read(&body)?;
    require_own(&handle, &graph.app, "/v1/plan").await?;
    Ok(Json(differences(&handle, graph, warnings).await?))
}

async fn apply(State(handle): State<Handle>, body: Bytes) -> Answer<api::Plan> {
    let (graph, text, warnings) = read(&body)?;
    require_own(&handle, &graph.app, "/v1/apps").await?;
    let plan = differences(&handle, graph.clone(), warnings).await?;
    handle.send(Input::Event(Event::Apply(graph, text))).await?;
    // Answered only when it is on disk.
    handle.ask(|_, _| ()).await?;
    Ok(Json(plan))
}

#[derive(Deserialize)]
struct Dry {
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
struct MoveQuery {
    to: String,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
struct ScaleQuery {
    replicas: Option<u32>,
    #[serde(default)]
    dry_run: bool,
}

/// Carries a command out, or only says what it would do.
async fn command(handle: &Handle, command: Command, dry_run: bool) -> Answer<api::Done> {
    let answer = match dry_run {
        true => handle.ask(move |core, _| core.preview(&command)).await?,
        false => handle.command(command).await?,
    };
    answer.map(Json).map_err(|refusal| match refusal {
        Refusal::Unknown(text) => failure(StatusCode::NOT_FOUND, text),
        Refusal::Conflict(text) => failure(StatusCode::CONFLICT, text),
    })
}

type Parts<P, Q> = (State<Handle>, Path<P>, Query<Q>);

async fn stop_app((State(handle), Path(app), Query(query)): Parts<String, Dry>) -> Answer<api::Done> {
    command(&handle, Command::StopApp(app), query.dry_run).await
}

async fn scale(
    (State(handle), Path((app, service)), Query(query)): Parts<(String, String), ScaleQuery>,
) -> Answer<api::Done> {
    command(&handle, Command::Scale(app, service, query.replicas), query.dry_run).await
}

async fn close_connection(
    (State(handle), Path((app, plug)), Query(query)): Parts<(String, String), Dry>,
) -> Answer<api::Done> {
    command(&handle, Command::CloseConnection(app, plug), query.dry_run).await
}

async fn drain((State(handle), Path(node), Query(query)): Parts<String, Dry>) -> Answer<api::Done> {
    command(&handle, Command::Drain(node), query.dry_run).await
}

async fn undrain((State(handle), Path(node), Query(query)): Parts<String, Dry>) -> Answer<api::Done> {
    command(&handle, Command::Undrain(node), query.dry_run).await
}

async fn forget((State(handle), Path(node), Query(query)): Parts<String, Dry>) -> Answer<api::Done> {
    command(&handle, Command::Forget(node), query.dry_run).await
}

async fn stop_instance((State(handle), Path(id), Query(query)): Parts<u64, Dry>) -> Answer<api::Done> {
    command(&handle, Command::StopInstance(InstanceId(id)), query.dry_run).await
}

async fn close_instance((State(handle), Path(id), Query(query)): Parts<u64, Dry>) -> Answer<api::Done> {
    command(&handle, Command::CloseInstance(InstanceId(id)), query.dry_run).await
}

async fn move_instance((State(handle), Path(id), Query(query)): Parts<u64, MoveQuery>) -> Answer<api::Done> {
    command(&handle, Command::Move(InstanceId(id), query.to), query.dry_run).await
}

async fn close_session((State(handle), Path(id), Query(query)): Parts<u64, Dry>) -> Answer<api::Done> {
    command(&handle, Command::CloseSession(id), query.dry_run).await
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
