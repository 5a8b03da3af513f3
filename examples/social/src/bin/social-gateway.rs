//! The API gateway: HTTP for users, sessions to the services behind it. It keeps no state.

use std::io;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt as _;
use patchbay_sdk::{Service, Session, Socket};
use serde::Deserialize;
use social::calls::{Account, FileCall, FileInfo, LoginCall, Post, Refusal, call};
use social::frames::{self, CHUNK_BYTES};
use social::pool::Pool;

#[derive(Clone)]
struct Plugs {
    registration: Pool,
    login: Pool,
    posts: Pool,
    table: Pool,
    files: Pool,
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
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let plugs = Plugs {
        registration: Pool::new(service.plug("registration")?),
        login: Pool::new(service.plug("login")?),
        posts: Pool::new(service.plug("posts")?),
        table: Pool::new(service.plug("table")?),
        files: Pool::new(service.plug("files")?),
    };
    let router = Router::new()
        .route("/health", get(|| async { "ok" }))
        .route("/register", post(register))
        .route("/login", post(login))
        .route("/posts", post(add_post))
        .route("/table", get(table))
        .route("/files/{name}", put(upload).get(download))
        .with_state(plugs);
    let listener = Listener(service.socket("http")?);
    service.run(async { Ok(axum::serve(listener, router).await?) }).await
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
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    call::<()>(&plugs.posts, &Post { user, text, at_ms }).await?;
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
    let (mut session, _) = plugs.files.take().await.map_err(Refusal::from)?;
    let answer = send_file(&mut session, name, body).await.map_err(Refusal::from)?;
    plugs.files.keep(session);
    Ok(Json(answer?))
}

async fn send_file(session: &mut Session, name: String, body: Body) -> io::Result<Result<FileInfo, Refusal>> {
    frames::write_json(session, &FileCall::Put(name)).await?;
    let mut stream = body.into_data_stream();
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| io::Error::other(error.to_string()))?;
        for chunk in part.chunks(CHUNK_BYTES) {
            frames::write(session, chunk).await?;
        }
    }
    frames::write(session, b"").await?;
    frames::read_json(session).await
}

async fn download(State(plugs): State<Plugs>, Path(name): Path<String>) -> Result<Response, Failure> {
    let (mut session, _) = plugs.files.take().await.map_err(Refusal::from)?;
    let found: Result<FileInfo, Refusal> = async {
        frames::write_json(&mut session, &FileCall::Get(name)).await?;
        frames::read_json(&mut session).await
    }
    .await
    .map_err(Refusal::from)?;
    let info = match found {
        Ok(info) => info,
        Err(refusal) => {
            plugs.files.keep(session);
            return Err(refusal.into());
        }
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
