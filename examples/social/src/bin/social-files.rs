//! Files on their way: checks the name, passes the frames on, keeps nothing.

use std::io;

use anyhow::Result;
use patchbay_sdk::{Error, Repeat, ResilientPlug, Service, Session};
use social::calls::{FileCall, FileInfo, Refusal, serve};
use social::frames;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let store = ResilientPlug::new(service.plug("store")?);
    let socket = service.socket("api")?;
    let handle = move |session| {
        let store = store.clone();
        async move { pass(session, &store).await }
    };
    service.run(serve(socket, handle)).await
}

async fn pass(mut user: Session, store: &ResilientPlug) -> io::Result<()> {
    let asked = user.close_requested();
    tokio::pin!(asked);
    while let Some(frame) = frames::read_unless(&mut user, asked.as_mut()).await? {
        match serde_json::from_slice(&frame)? {
            FileCall::Put(name) => put(&name, &frame, &mut user, store).await?,
            FileCall::Get(name) => get(&name, &frame, &mut user, store).await?,
        }
    }
    Ok(())
}

/// A file goes up and its answer comes back. When the store is lost meanwhile, so is the user's session:
/// only the user has the bytes to begin again.
async fn put(name: &str, frame: &[u8], user: &mut Session, store: &ResilientPlug) -> io::Result<()> {
    let opened = if is_fit(name) { store.open().await.map_err(no_session) } else { Err(unfit()) };
    let mut session = match opened {
        Ok(session) => session,
        Err(refusal) => {
            while !frames::read(user).await?.ok_or_else(lost)?.is_empty() {}
            return frames::write_json(user, &Err::<FileInfo, _>(refusal)).await;
        }
    };
    frames::write(&mut session, frame).await?;
    pass_frames(user, &mut session).await?;
    let answer = frames::read(&mut session).await?.ok_or_else(lost)?;
    store.keep(session);
    frames::write(user, &answer).await
}

/// The answer comes and the file after it.
async fn get(name: &str, frame: &[u8], user: &mut Session, store: &ResilientPlug) -> io::Result<()> {
    if !is_fit(name) {
        return frames::write_json(user, &Err::<FileInfo, _>(unfit())).await;
    }
    let asked = store
        .begin(Repeat::Safe, |session| {
            let frame = frame.to_vec();
            Box::pin(async move {
                frames::write(session, &frame).await?;
                frames::read(session).await?.ok_or_else(lost)
            })
        })
        .await;
    let (mut session, answer) = match asked {
        Ok(begun) => begun,
        Err(error) => return frames::write_json(user, &Err::<FileInfo, _>(no_session(error))).await,
    };
    frames::write(user, &answer).await?;
    let found: Result<FileInfo, Refusal> = serde_json::from_slice(&answer)?;
    if found.is_ok() {
        pass_frames(&mut session, user).await?;
    }
    store.keep(session);
    Ok(())
}

/// Passes frames on up to the empty one.
async fn pass_frames(from: &mut Session, to: &mut Session) -> io::Result<()> {
    loop {
        let chunk = frames::read(from).await?.ok_or_else(lost)?;
        frames::write(to, &chunk).await?;
        if chunk.is_empty() {
            return Ok(());
        }
    }
}

fn lost() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn no_session(error: Error) -> Refusal {
    Refusal::new(502, error.to_string())
}

fn unfit() -> Refusal {
    Refusal::new(400, "a file's name has no `/` and does not start with a dot")
}

fn is_fit(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['/', '\0']) && !name.starts_with('.')
}
