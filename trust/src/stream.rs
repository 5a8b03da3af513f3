//! What is read of a peer, with errors in words and TLS where it was not expected told apart from nonsense.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::peer::{looks_like_tls, refusal};

/// How the end of a connection is told whose peer speaks TLS where nothing is known of it.
pub const SPEAKS_TLS: &str = "speaks TLS, and this end was started without --certificates";

/// The direction from a peer.
#[derive(Debug)]
pub struct Inward<R> {
    half: R,
    peer: &'static str,
    /// Nothing has come yet, of a peer that should speak without TLS.
    is_first: bool,
}

impl<R> Inward<R> {
    /// From a peer without TLS, called so for people.
    pub fn plain(half: R, peer: &'static str) -> Self {
        Self { half, peer, is_first: true }
    }

    /// From a peer over TLS.
    pub fn tls(half: R, peer: &'static str) -> Self {
        Self { half, peer, is_first: false }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Inward<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.half).poll_read(context, buffer));
        let is_first = std::mem::take(&mut self.is_first);
        Poll::Ready(match read {
            Ok(()) if is_first && looks_like_tls(&buffer.filled()[before..]) => {
                Err(io::Error::other(format!("{} {SPEAKS_TLS}", self.peer)))
            }
            // TLS that was not ended in form: every message ends in a way of its own.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) if error.get_ref().is_some() => Err(io::Error::other(refusal(&error, self.peer))),
            read => read,
        })
    }
}
