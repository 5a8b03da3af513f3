//! Files on their way: checks the name, passes the frames on, keeps nothing.

use anyhow::Result;
use patchbay_sdk::{Service, Session};
use social::calls::{FileCall, FileInfo, Refusal, serve};
use social::frames;
use social::pool::Pool;

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let store = Pool::new(service.plug("store")?);
    let socket = service.socket("api")?;
    let handle = move |session| {
        let store = store.clone();
        async move { pass(session, &store).await }
    };
    service.run(serve(socket, handle)).await
}

async fn pass(mut user: Session, store: &Pool) -> std::io::Result<()> {
    while let Some(frame) = frames::read(&mut user).await? {
        let call: FileCall = serde_json::from_slice(&frame)?;
        let (FileCall::Put(name) | FileCall::Get(name)) = &call;
        let refusal = match (is_fit(name), store.take().await) {
            (false, _) => Refusal::new(400, "a file's name has no `/` and does not start with a dot"),
            (true, Err(error)) => Refusal::new(502, error.to_string()),
            (true, Ok((mut session, _))) => {
                frames::write(&mut session, &frame).await?;
                pass_frames(&call, &mut user, &mut session).await?;
                store.keep(session);
                continue;
            }
        };
        if matches!(call, FileCall::Put(_)) {
            while frames::read(&mut user).await?.is_some_and(|chunk| !chunk.is_empty()) {}
        }
        frames::write_json(&mut user, &Err::<FileInfo, _>(refusal)).await?;
    }
    Ok(())
}

/// A file goes up and its answer comes back, or the answer comes and the file after it.
async fn pass_frames(call: &FileCall, user: &mut Session, store: &mut Session) -> std::io::Result<()> {
    let lost = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    if matches!(call, FileCall::Put(_)) {
        loop {
            let chunk = frames::read(user).await?.ok_or_else(lost)?;
            frames::write(store, &chunk).await?;
            if chunk.is_empty() {
                break;
            }
        }
    }
    let answer = frames::read(store).await?.ok_or_else(lost)?;
    frames::write(user, &answer).await?;
    let found: Result<FileInfo, Refusal> = serde_json::from_slice(&answer)?;
    if matches!(call, FileCall::Get(_)) && found.is_ok() {
        loop {
            let chunk = frames::read(store).await?.ok_or_else(lost)?;
            frames::write(user, &chunk).await?;
            if chunk.is_empty() {
                break;
            }
        }
    }
    Ok(())
}

fn is_fit(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(['/', '\0']) && !name.starts_with('.')
}
