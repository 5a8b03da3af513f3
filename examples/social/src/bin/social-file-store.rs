//! The file store: streams to disk, with a size limit and a checksum; the whole state of the files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use patchbay_sdk::{Service, Session};
use sha2::{Digest, Sha256};
use social::calls::{FileCall, FileInfo, Refusal, serve};
use social::frames::{self, CHUNK_BYTES};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest file, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

static NEXT: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let folder = std::env::var("PATCHBAY_STATE").unwrap_or_else(|_| "file-store".into());
    let folder = Arc::new(PathBuf::from(folder).join("files"));
    std::fs::create_dir_all(folder.as_path())?;
    let socket = service.socket("api")?;
    let handle = move |session| {
        let folder = folder.clone();
        async move { answer(session, &folder).await }
    };
    service.run(serve(socket, handle)).await
}

async fn answer(mut session: Session, folder: &Path) -> io::Result<()> {
    while let Some(frame) = frames::read(&mut session).await? {
        match serde_json::from_slice(&frame)? {
            FileCall::Put(name) => {
                let stored = put(&mut session, folder, &name).await?;
                frames::write_json(&mut session, &stored).await?;
            }
            FileCall::Get(name) => get(&mut session, folder, &name).await?,
        }
    }
    Ok(())
}

/// Streams to a file of its own that gets its name when it is whole; what is refused is read to its end.
async fn put(session: &mut Session, folder: &Path, name: &str) -> io::Result<Result<FileInfo, Refusal>> {
    let part = folder.join(format!(".part-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let mut file = File::create(&part).await?;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    loop {
        let chunk = frames::read(session).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if chunk.is_empty() {
            break;
        }
        bytes += chunk.len() as u64;
        if bytes <= MAX_FILE_BYTES {
            hash.update(&chunk);
            file.write_all(&chunk).await?;
        }
    }
    if bytes > MAX_FILE_BYTES {
        tokio::fs::remove_file(&part).await?;
        return Ok(Err(Refusal::new(413, format!("a file has at most {MAX_FILE_BYTES} bytes"))));
    }
    file.flush().await?;
    let info = FileInfo { bytes, sha256: hex(&hash.finalize()) };
    tokio::fs::write(sum(folder, name), serde_json::to_vec(&info)?).await?;
    tokio::fs::rename(&part, folder.join(name)).await?;
    Ok(Ok(info))
}

async fn get(session: &mut Session, folder: &Path, name: &str) -> io::Result<()> {
    let (Ok(mut file), Ok(info)) =
        (File::open(folder.join(name)).await, tokio::fs::read(sum(folder, name)).await)
    else {
        let missing = Refusal::new(404, format!("there is no file `{name}`"));
        return frames::write_json(session, &Err::<FileInfo, _>(missing)).await;
    };
    let info: FileInfo = serde_json::from_slice(&info)?;
    frames::write_json(session, &Ok::<_, Refusal>(info)).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = file.read(&mut chunk).await?;
        frames::write(session, &chunk[..length]).await?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Where a file's checksum is; names from outside never start with a dot.
fn sum(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".sum-{name}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
