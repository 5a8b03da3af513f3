//! The listeners: bounded in connections and in the time these may take.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt as _;
use tracing::debug;

use super::{At, Observed};

/// Connections to one listener at once; further ones are closed at once.
const MAX_CONNECTIONS: usize = 32;
/// How long a request's head may take, and how long a connection may stay without one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Largest head of a request, bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Pause after the listener failed, which it does when descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Flows told without --last.
const USUAL_FLOWS: usize = 20;

/// A listener; a Unix socket is removed when it is dropped.
#[derive(Debug)]
pub struct Listening(Option<PathBuf>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens and serves until the runtime ends.
///
/// # Errors
/// The place is taken, or can't be made.
pub async fn listen(at: &At, observed: &Arc<Observed>) -> Result<Listening> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    match at {
        At::Address(address) => {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("can't tell metrics at {address}; another program has it, or choose --observe")
            })?;
            let router = router(observed.clone());
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => enter(stream, &places, &router),
                        Err(error) => pause(&error).await,
                    }
                }
            });
            Ok(Listening(None))
        }
        At::Socket(path) => {
            let listener = bind(path)?;
            // Who talks to whom is for root only.
            let router = router(observed.clone()).merge(flows(observed.clone()));
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => enter(stream, &places, &router),
                        Err(error) => pause(&error).await,
                    }
                }
            });
            Ok(Listening(Some(path.clone())))
        }
    }
}

async fn pause(error: &io::Error) {
    debug!("a connection can't be accepted: {error}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// A socket of mode 0600, in the place of one that nobody listens at any more.
fn bind(path: &Path) -> Result<UnixListener> {
    let unmade = || {
        format!("the socket {} can't be made; choose another place with --observe unix:FILE", path.display())
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(unmade)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                bail!(
                    "another agent tells its metrics at {}; choose another place with --observe",
                    path.display()
                );
            }
            fs::remove_file(path).with_context(unmade)?;
        }
        Ok(_) => {
            bail!("{} is no socket, and is left alone; choose another place with --observe", path.display())
        }
        Err(_) => {}
    }
    // It never has another mode, not for a moment.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener.with_context(unmade)
}

fn enter<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    places: &Arc<Semaphore>,
    router: &Router,
) {
    if let Ok(place) = places.clone().try_acquire_owned() {
        tokio::spawn(serve(stream, router.clone(), place));
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, router: Router, _place: OwnedSemaphorePermit) {
    let service =
        service_fn(move |request: hyper::Request<Incoming>| router.clone().oneshot(request.map(Body::new)));
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        debug!("a connection ended: {error}");
    }
}

fn router(observed: Arc<Observed>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(observed)
}

fn flows(observed: Arc<Observed>) -> Router {
    Router::new().route("/flows", get(read_flows)).with_state(observed)
}

async fn metrics(State(observed): State<Arc<Observed>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], observed.metrics.text()).into_response()
}

async fn health(State(observed): State<Arc<Observed>>) -> Response {
    match observed.is_alive() {
        true => (StatusCode::OK, "ok\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop is stuck\n").into_response(),
    }
}

async fn readiness(State(observed): State<Arc<Observed>>) -> Response {
    let (ready, text) = observed.readiness();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

#[derive(Deserialize)]
struct Wanted {
    last: Option<usize>,
    #[serde(default)]
    follow: bool,
}

async fn read_flows(State(observed): State<Arc<Observed>>, Query(wanted): Query<Wanted>) -> Response {
    let reader = observed.flows.read(wanted.last.unwrap_or(USUAL_FLOWS), wanted.follow);
    let lines = futures_util::stream::unfold(reader, |mut reader| async move {
        let line = reader.line().await?;
        Some((Ok::<_, std::convert::Infallible>(line.to_string()), reader))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
}
