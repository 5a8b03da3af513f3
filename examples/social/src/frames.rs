//! Frames: a length of four bytes, then so many bytes. An empty frame ends a file.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// Bytes of a file in one frame.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Writes one frame with a single write.
///
/// # Errors
/// The frame is too long, or the session failed.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is too long"));
    }
    let mut frame = Vec::with_capacity(4 + bytes.len());
    frame.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    frame.extend_from_slice(bytes);
    stream.write_all(&frame).await
}

/// Reads one frame; `None` when the stream ended before it.
///
/// # Errors
/// The frame is too long, or the session failed.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    read_unless(stream, std::future::pending()).await
}

/// Reads one frame; `None` too when something else comes before its first byte.
///
/// # Errors
/// As [`read()`].
pub async fn read_unless(
    stream: &mut (impl AsyncRead + Unpin),
    other: impl Future<Output = ()>,
) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 4];
    let begun = tokio::select! {
        biased;
        length = stream.read(&mut head) => length?,
        () = other => return Ok(None),
    };
    if begun == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[begun..]).await?;
    let length = u32::from_be_bytes(head) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

/// Writes a value as a frame of JSON.
///
/// # Errors
/// As [`write()`].
pub async fn write_json(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    write(stream, &serde_json::to_vec(value)?).await
}

/// Reads a frame of JSON; the end of the stream is an error here.
///
/// # Errors
/// As [`read()`], or the frame is not such a value.
pub async fn read_json<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let bytes = read(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let (mut a, mut b) = tokio::io::duplex(1 << 21);
        write(&mut a, b"").await.expect("fits");
        write(&mut a, &[7; CHUNK_BYTES]).await.expect("fits");
        assert!(write(&mut a, &vec![0; MAX_FRAME_BYTES + 1]).await.is_err());
        a.write_all(&u32::MAX.to_be_bytes()).await.expect("fits");
        assert_eq!(read(&mut b).await.expect("a frame"), Some(Vec::new()));
        assert_eq!(read(&mut b).await.expect("a frame").map(|f| f.len()), Some(CHUNK_BYTES));
        assert!(read(&mut b).await.is_err(), "too long a frame is refused before it is read");
    }

    #[tokio::test]
    async fn a_frame_that_has_begun_is_read_whatever_else_comes() {
        let (mut a, mut b) = tokio::io::duplex(64);
        assert_eq!(read_unless(&mut b, async {}).await.expect("nothing"), None);
        a.write_all(&[0, 0]).await.expect("fits");
        let rest = async {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            a.write_all(&[0, 1, 7]).await.expect("fits");
        };
        let (frame, ()) = tokio::join!(read_unless(&mut b, async {}), rest);
        assert_eq!(frame.expect("a frame"), Some(vec![7]));
    }
}
