//! The HTTP/JSON API for people and the command (patchbay-api).

mod certificates;
pub mod events;
pub mod gate;
pub mod history;
mod log;
pub mod metrics;
pub mod serve;
pub mod socket;
pub mod tokens;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use patchbay_api as api;
use serde::Deserialize;
use ssmmp::InstanceId;

use self::gate::Gate;
use crate::certificates::Certificates;
use crate::shell::{self, Handle, NoAnswer};
use crate::store::History;
use patchbay_manager_core::{Apply, Command, Page, Redirected, Refusal};

/// Longest text of the framework's that is passed on, bytes.
const MAX_REASON_BYTES: usize = 4096;

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
pub fn routes(handle: &Handle, history: History, gate: Gate, certificates: Option<Certificates>) -> Router {
    router(handle.clone())
        .merge(certificates::router(certificates.clone()))
        .merge(history::router(history.clone()))
        .merge(events::router(handle.clone(), history))
        .merge(metrics::router(handle.clone(), certificates))
        // The gate has read the body, and bounded it.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::map_response(as_json))
        .layer(axum::middleware::from_fn_with_state(gate, gate::gate))
}

/// What the framework says of a query or a path that can't be read, as everything else is said.
async fn as_json(response: Response) -> Response {
    let is_text = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !is_text {
        return response;
    }
    let status = response.status();
    let text = axum::body::to_bytes(response.into_body(), MAX_REASON_BYTES).await.unwrap_or_default();
    failure(status, String::from_utf8_lossy(&text).into_owned()).into_response()
}

fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", post(plan))
        .route("/v1/apps", put(apply).get(apps))
        .route("/v1/apps/{app}/stop", post(stop_app))
        .route("/v1/apps/{app}/services/{service}/scale", post(scale))
        .route("/v1/apps/{app}/connections/{plug}/close", post(close_connection))
        .route("/v1/apps/{app}/connections/{plug}/redirect", post(redirect_connection))
        .route("/v1/nodes", get(nodes))
        .route("/v1/instances", get(instances))
        .route("/v1/nodes/{node}/drain", post(drain))
        .route("/v1/nodes/{node}/undrain", post(undrain))
        .route("/v1/nodes/{node}/forget", post(forget))
        .route("/v1/nodes/{node}/redirect", post(redirect_node))
        .route("/v1/instances/{id}/log", get(log::log))
        .route("/v1/instances/{id}/stop", post(stop_instance))
        .route("/v1/instances/{id}/close", post(close_instance))
        .route("/v1/instances/{id}/move", post(move_instance))
        .route("/v1/sessions/{id}/close", post(close_session))
        .route("/v1/sessions/{id}/redirect", post(redirect_session))
        .route("/v1/sessions", get(sessions))
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
    let status = handle.ask(|core| core.status()).await?;
    Ok(Json(api::ManagerStatus { time_ms: shell::now(), clock_set_ms: shell::clock_set(), ..status }))
}

async fn apps(State(handle): State<Handle>) -> Answer<Vec<api::App>> {
    Ok(Json(handle.ask(|core| core.apps()).await?))
}

async fn nodes(State(handle): State<Handle>) -> Answer<Vec<api::Node>> {
    Ok(Json(handle.ask(|core| core.nodes()).await?))
}

async fn instances(State(handle): State<Handle>, Query(filter): Query<Filter>) -> Answer<Vec<api::Instance>> {
    let page = filter.page();
    Ok(Json(handle.ask(move |core| core.instances(filter.app.as_deref(), filter.ended, page)).await?))
}

async fn sessions(State(handle): State<Handle>, Query(filter): Query<Filter>) -> Answer<Vec<api::Session>> {
    let page = filter.page();
    // Once for all pages: they are one answer.
    if page.after == 0 {
        handle.refresh().await?;
    }
    Ok(Json(handle.ask(move |core| core.sessions(filter.app.as_deref(), filter.ended, page)).await?))
}

fn read(body: &Bytes) -> Result<Apply, Failure> {
    let text = std::str::from_utf8(body)
        .map_err(|_| failure(StatusCode::BAD_REQUEST, "the graph is not UTF-8".into()))?;
    Apply::of_text(text).map_err(|problems| {
        let message = format!("the graph has {} problem(s); nothing was changed", problems.len());
        let error = api::Error { message, problems };
        Failure { status: StatusCode::UNPROCESSABLE_ENTITY, error, location: None }
    })
}

/// Refuses what another Manager owns, and says where that is (P3).
async fn require_own(handle: &Handle, app: &str, path: &str) -> Result<(), Failure> {
    let name = app.to_owned();
    let Some(owner) = handle.ask(move |core| core.ownership().of_app(&name).cloned()).await? else {
        return Ok(());
    };
    let message =
        format!("the application {app} belongs to the Manager {}: ask it at {}", owner.name, owner.http);
    let location = Some(format!("{}{path}", owner.http));
    Err(Failure { location, ..failure(StatusCode::TEMPORARY_REDIRECT, message) })
}

async fn plan(State(handle): State<Handle>, body: Bytes) -> Answer<api::Plan> {
    let Apply { graph, text, warnings, .. } = read(&body)?;
    require_own(&handle, &graph.app, "/v1/plan").await?;
    Ok(Json(handle.ask(move |core| core.plan(&graph, &text, warnings)).await?))
}

#[derive(Deserialize)]
struct Seen {
    /// What a plan said it had seen; another one is refused.
    seen: Option<String>,
}

async fn apply(
    State(handle): State<Handle>,
    Query(Seen { seen }): Query<Seen>,
    body: Bytes,
) -> Answer<api::Plan> {
    let apply = Apply { seen, ..read(&body)? };
    require_own(&handle, &apply.graph.app, "/v1/apps").await?;
    let applied = handle.apply(apply).await?;
    applied.map(Json).map_err(|refusal| failure(StatusCode::CONFLICT, refusal))
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

#[derive(Deserialize)]
struct RedirectQuery {
    on: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Carries a command out, or only says what it would do.
async fn command(handle: &Handle, command: Command, dry_run: bool) -> Answer<api::Done> {
    let answer = match dry_run {
        true => handle.ask(move |core| core.preview(&command)).await?,
        false => handle.command(command).await?,
    };
    answer.map(Json).map_err(refused)
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Unknown(text) => failure(StatusCode::NOT_FOUND, text),
        Refusal::Conflict(text) => failure(StatusCode::CONFLICT, text),
    }
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

async fn redirect_session(
    (State(handle), Path(id), Query(query)): Parts<u64, RedirectQuery>,
) -> Answer<api::Done> {
    command(&handle, Command::Redirect(Redirected::Session(id), query.on), query.dry_run).await
}

async fn redirect_connection(
    (State(handle), Path((app, plug)), Query(query)): Parts<(String, String), RedirectQuery>,
) -> Answer<api::Done> {
    command(&handle, Command::Redirect(Redirected::Connection(app, plug), query.on), query.dry_run).await
}

async fn redirect_node(
    (State(handle), Path(node), Query(query)): Parts<String, RedirectQuery>,
) -> Answer<api::Done> {
    command(&handle, Command::Redirect(Redirected::Node(node), query.on), query.dry_run).await
}
