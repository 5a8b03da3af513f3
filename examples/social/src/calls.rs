//! Calls between the application's own services: a frame of JSON there, one back.

use std::sync::Arc;

use patchbay_sdk::{Repeat, ResilientPlug, Service, Session, Socket};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frames;

/// A failure that a user gets to see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// As in HTTP.
    pub status: u16,
    /// A sentence.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::new(502, error.to_string())
    }
}

/// A name and a password.
#[derive(Debug, Serialize, Deserialize)]
pub struct Account {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// What login is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum LoginCall {
    /// A token for an account.
    Login(Account),
    /// Whose token this is.
    WhoIs(String),
}

/// A text by somebody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Post {
    /// Who.
    pub user: String,
    /// What.
    pub text: String,
    /// When, microseconds since 1970.
    pub at_us: u64,
}

/// What the file services are asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FileCall {
    /// Take a file: frames follow, an empty one ends it.
    Put(String),
    /// Give a file: frames follow the answer.
    Get(String),
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Calls another service, again when the session ends before the answer is here: all calls of this
/// application may be repeated.
///
/// # Errors
/// The other service's refusal, or no session.
pub async fn call<T: DeserializeOwned + Send>(
    plug: &ResilientPlug,
    request: &impl Serialize,
) -> Result<T, Refusal> {
    let request: Arc<[u8]> = serde_json::to_vec(request)?.into();
    let answer: Result<T, Refusal> = plug
        .exchange(Repeat::Safe, |session| {
            let request = request.clone();
            Box::pin(async move {
                frames::write(session, &request).await?;
                frames::read_json(session).await
            })
        })
        .await?;
    answer
}

/// Serves sessions of a socket, each in a task, until accepting fails for good.
///
/// # Errors
/// Never while the socket stands.
pub async fn serve<F>(
    socket: Socket,
    handle: impl Fn(Session) -> F + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let handle = Arc::new(handle);
    loop {
        match socket.accept().await {
            Ok(session) => {
                let handle = handle.clone();
                tokio::spawn(async move { handle(session).await });
            }
            Err(error) => {
                eprintln!("accepting failed: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// A whole service: it answers the calls at its socket `api` with what is behind one plug.
///
/// # Errors
/// It has no such plug or socket, or the agent is lost.
pub async fn run<Q, A, F>(
    plug: &str,
    reply: impl Fn(ResilientPlug, Q) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + Sync + 'static,
    F: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    let service = Service::start().await?;
    let plug = ResilientPlug::new(service.plug(plug)?);
    let socket = service.socket("api")?;
    let handle = move |session| {
        let (plug, reply) = (plug.clone(), reply.clone());
        answer(session, move |request| reply(plug.clone(), request))
    };
    service.run(serve(socket, handle)).await
}

/// Answers calls on a session until it ends or shall end; a call that has begun is answered.
///
/// # Errors
/// The session failed.
pub async fn answer<Q, A, F>(mut session: Session, handle: impl Fn(Q) -> F) -> std::io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
    F: Future<Output = Result<A, Refusal>>,
{
    let asked = session.close_requested();
    tokio::pin!(asked);
    while let Some(request) = frames::read_unless(&mut session, asked.as_mut()).await? {
        let answer = match serde_json::from_slice(&request) {
            Ok(request) => handle(request).await,
            Err(error) => Err(Refusal::new(400, error.to_string())),
        };
        frames::write_json(&mut session, &answer).await?;
    }
    Ok(())
}
