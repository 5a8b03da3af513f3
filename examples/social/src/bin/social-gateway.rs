//! The API gateway: HTTP for users, sessions to the services behind it. It keeps no state.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use patchbay_sdk::{Repeat, ResilientPlug, Service, Session, Socket};
use serde::Deserialize;
use social::calls::{Account, FileCall, FileInfo, LoginCall, Post, Refusal, call};
use social::frames::{self, CHUNK_BYTES};

/// How long a gateway that ends waits for one more request on connections that are kept.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// Files up to this length are held here, so that they can be passed again when a session ends.
const HELD_BYTES: usize = 1 << 20;

#[derive(Clone)]
struct Plugs {
    registration: ResilientPlug,
    login: ResilientPlug,
    posts: ResilientPlug,
    table: ResilientPlug,
    files: ResilientPlug,
}

/// A refusal as an HTTP answer.
struct Failure(Refusal);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::BAD_GATEWAY);
        (status, Json(serde_json::json!({ "error": self.0.message }))).into_response()
    }
}

/// Lets axum accept from a plain socket of the service.
struct Listener(Socket);

impl axum::serve::Listener for Listener {
    type Io = Session;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Session, SocketAddr) {
        loop {
            if let Ok(session) = self.0.accept().await {
                let (peer, _) = session.ends();
                return (session, peer);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let plugs = Plugs {
        registration: ResilientPlug::new(service.plug("registration")?),
        login: ResilientPlug::new(service.plug("login")?),
        posts: ResilientPlug::new(service.plug("posts")?),
        table: ResilientPlug::new(service.plug("table")?),
        files: ResilientPlug::new(service.plug("files")?),
    };
    let router = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/register", post(register))
        .route("/login", post(login))
        .route("/posts", post(add_post))
        .route("/table", get(table))
        .route("/files/{name}", put(upload).get(download))
        .with_state(plugs);
    let socket = service.socket("http")?;
    let ending = Arc::new(AtomicBool::new(false));
    let router = router.layer(middleware::map_response_with_state(ending.clone(), say_goodbye));
    let closed = socket.closed();
    let closed = async move {
        closed.await;
        ending.store(true, Ordering::Relaxed);
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let listener = Listener(socket);
    service.run(async { Ok(axum::serve(listener, router).with_graceful_shutdown(closed).await?) }).await
}

/// Tells a user who keeps a connection that it ends with this answer: then no request meets its end.
async fn say_goodbye(State(ending): State<Arc<AtomicBool>>, mut response: Response) -> Response {
    if ending.load(Ordering::Relaxed) {
        response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    }
    response
}

async fn register(State(plugs): State<Plugs>, Json(account): Json<Account>) -> Result<StatusCode, Failure> {
    call::<()>(&plugs.registration, &account).await?;
    Ok(StatusCode::CREATED)
}

async fn login(State(plugs): State<Plugs>, Json(account): Json<Account>) -> Result<Response, Failure> {
    let token: String = call(&plugs.login, &LoginCall::Login(account)).await?;
    Ok(Json(serde_json::json!({ "token": token })).into_response())
}

/// Whose token a request carries.
async fn user(plugs: &Plugs, headers: &HeaderMap) -> Result<String, Failure> {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(token) = token else {
        return Err(
            Refusal::new(401, "log in first: the header `Authorization: Bearer TOKEN` is missing").into()
        );
    };
    Ok(call(&plugs.login, &LoginCall::WhoIs(token.to_owned())).await?)
}

#[derive(Deserialize)]
struct Text {
    text: String,
}

async fn add_post(
    State(plugs): State<Plugs>,
    headers: HeaderMap,
    Json(Text { text }): Json<Text>,
) -> Result<StatusCode, Failure> {
    let user = user(&plugs, &headers).await?;
    let at_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    call::<()>(&plugs.posts, &Post { user, text, at_us }).await?;
    Ok(StatusCode::CREATED)
}

async fn table(State(plugs): State<Plugs>) -> Result<Json<Vec<Post>>, Failure> {
    Ok(Json(call(&plugs.table, &()).await?))
}

async fn upload(
    State(plugs): State<Plugs>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<FileInfo>, Failure> {
    user(&plugs, &headers).await?;
    let mut stream = body.into_data_stream();
    let (mut held, mut bytes) = (Vec::new(), 0);
    while bytes <= HELD_BYTES
        && let Some(part) = stream.next().await
    {
        let part = part.map_err(|error| Refusal::new(400, error.to_string()))?;
        bytes += part.len();
        held.push(part);
    }
    let call = FileCall::Put(name);
    if bytes <= HELD_BYTES {
        let put = plugs.files.exchange(Repeat::Safe, |session| {
            let (call, held) = (call.clone(), held.clone());
            Box::pin(async move {
                frames::write_json(session, &call).await?;
                write_parts(session, &held).await?;
                frames::write(session, b"").await?;
                frames::read_json::<Result<FileInfo, Refusal>>(session).await
            })
        });
        return Ok(Json(put.await.map_err(Refusal::from)??));
    }
    let mut session = plugs.files.open().await.map_err(Refusal::from)?;
    let put = async {
        frames::write_json(&mut session, &call).await?;
        write_parts(&mut session, &held).await?;
        while let Some(part) = stream.next().await {
            write_parts(&mut session, &[part.map_err(io::Error::other)?]).await?;
        }
        frames::write(&mut session, b"").await?;
        frames::read_json::<Result<FileInfo, Refusal>>(&mut session).await
    };
    let answer = put.await.map_err(Refusal::from)?;
    plugs.files.keep(session);
    Ok(Json(answer?))
}

async fn write_parts(session: &mut Session, parts: &[Bytes]) -> io::Result<()> {
    for chunk in parts.iter().flat_map(|part| part.chunks(CHUNK_BYTES)) {
        frames::write(session, chunk).await?;
    }
    Ok(())
}

async fn download(State(plugs): State<Plugs>, Path(name): Path<String>) -> Result<Response, Failure> {
    let call = FileCall::Get(name);
    let get = plugs.files.begin(Repeat::Safe, |session| {
        let call = call.clone();
        Box::pin(async move {
            frames::write_json(session, &call).await?;
            let found: Result<FileInfo, Refusal> = frames::read_json(session).await?;
            let is_small = found.as_ref().is_ok_and(|info| info.bytes <= HELD_BYTES as u64);
            let whole = if is_small { Some(read_whole(session).await?) } else { None };
            Ok((found, whole))
        })
    });
    let (session, (found, whole)) = get.await.map_err(Refusal::from)?;
    let info = match (found, whole) {
        (Err(refusal), _) => {
            plugs.files.keep(session);
            return Err(refusal.into());
        }
        (Ok(info), Some(whole)) => {
            plugs.files.keep(session);
            return Ok(([("x-sha256", info.sha256)], whole).into_response());
        }
        (Ok(info), None) => info,
    };
    let state = Some((session, plugs.files, info.bytes));
    let chunks = futures_util::stream::unfold(state, |state| async {
        let (mut session, pool, left) = state?;
        match next_chunk(&mut session, left).await {
            Ok((chunk, 0)) => {
                pool.keep(session);
                Some((Ok(chunk), None))
            }
            Ok((chunk, left)) => Some((Ok(chunk), Some((session, pool, left)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let headers = [("content-length", info.bytes.to_string()), ("x-sha256", info.sha256)];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

/// A small file to its end.
async fn read_whole(session: &mut Session) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let chunk = frames::read(session).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if chunk.is_empty() {
            return Ok(whole);
        }
        whole.extend_from_slice(&chunk);
    }
}

/// The next chunk and how many bytes are left. With the last one its end is read too: nobody asks for more
/// once all bytes have come.
async fn next_chunk(session: &mut Session, left: u64) -> io::Result<(Vec<u8>, u64)> {
    let chunk = frames::read(session).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let left = left.checked_sub(chunk.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
    if left == 0 && !chunk.is_empty() {
        frames::read(session).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    }
    Ok((chunk, left))
}
