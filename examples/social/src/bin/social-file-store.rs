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
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// Longest file, in bytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// How a file's name begins that is not whole; names from outside never start with a dot.
const PART: &str = ".part-";
/// Length of a checksum.
const SUM_BYTES: usize = 32;

static NEXT: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Result<()> {
    let service = Service::start().await?;
    let folder = std::env::var("PATCHBAY_DATA").unwrap_or_else(|_| "file-store".into());
    let folder = Arc::new(PathBuf::from(folder).join("files"));
    std::fs::create_dir_all(folder.as_path())?;
    remove_parts(&folder)?;
    let socket = service.socket("api")?;
    let handle = move |session| {
        let folder = folder.clone();
        async move { answer(session, &folder).await }
    };
    service.run(serve(socket, handle)).await
}

/// What an earlier instance had not finished.
fn remove_parts(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PART) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn answer(mut session: Session, folder: &Path) -> io::Result<()> {
    let asked = session.close_requested();
    tokio::pin!(asked);
    while let Some(frame) = frames::read_unless(&mut session, asked.as_mut()).await? {
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

/// Streams to a file of its own that gets its name when it is whole and on disk; what is refused is read to
/// its end.
async fn put(session: &mut Session, folder: &Path, name: &str) -> io::Result<Result<FileInfo, Refusal>> {
    let part = folder.join(format!("{PART}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let result = receive(session, &part).await;
    match &result {
        Ok(Ok(_)) => {
            tokio::fs::rename(&part, folder.join(name)).await?;
            File::open(folder).await?.sync_all().await?;
        }
        _ => tokio::fs::remove_file(&part).await?,
    }
    result
}

async fn receive(session: &mut Session, part: &Path) -> io::Result<Result<FileInfo, Refusal>> {
    let mut file = File::create(part).await?;
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
        return Ok(Err(Refusal::new(413, format!("a file has at most {MAX_FILE_BYTES} bytes"))));
    }
    let sum = hash.finalize();
    file.write_all(&sum).await?;
    file.sync_all().await?;
    Ok(Ok(FileInfo { bytes, sha256: hex(&sum) }))
}

async fn get(session: &mut Session, folder: &Path, name: &str) -> io::Result<()> {
    let Ok((mut file, info)) = open(&folder.join(name)).await else {
        let missing = Refusal::new(404, format!("there is no file `{name}`"));
        return frames::write_json(session, &Err::<FileInfo, _>(missing)).await;
    };
    let mut left = info.bytes;
    frames::write_json(session, &Ok::<_, Refusal>(info)).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let length = file.read(&mut chunk[..wanted]).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        frames::write(session, &chunk[..length]).await?;
        left -= length as u64;
    }
    frames::write(session, b"").await
}

/// A stored file and what is known of it: its checksum stands behind its bytes, so that both appear at once.
async fn open(path: &Path) -> io::Result<(File, FileInfo)> {
    let mut file = File::open(path).await?;
    let bytes =
        file.metadata().await?.len().checked_sub(SUM_BYTES as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut sum = [0; SUM_BYTES];
    file.seek(io::SeekFrom::Start(bytes)).await?;
    file.read_exact(&mut sum).await?;
    file.rewind().await?;
    Ok((file, FileInfo { bytes, sha256: hex(&sum) }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
