//! Byte streams between two processes of one node through shared memory.
//!
//! A session has a TCP connection, and may get memory beside it: [`Offer::pair`] makes it, each process takes its part
//! with [`MemoryStream::new`] (tokio) or [`BlockingStream::new`], and from then on both read and write as before. Bytes
//! go through memory once both ends have it, and over TCP again after `move_to_tcp`; none is lost, doubled or
//! moved. `docs/shared-memory.md` says how, and what a peer that means harm can do: make its own session fail.
//!
//! ```no_run
//! # async fn example(tcp: tokio::net::TcpStream, agent: std::os::unix::net::UnixStream) -> std::io::Result<()> {
//! use patchbay_shared_memory::{DEFAULT_SPIN, MemoryStream, Offer};
//! use tokio::io::AsyncWriteExt as _;
//!
//! let offer = Offer::receive(&agent)?;
//! // Nothing was written or read yet.
//! let mut stream = MemoryStream::new(tcp, (0, 0), offer, DEFAULT_SPIN).map_err(|(_tcp, error)| error)?;
//! stream.write_all(b"hello").await?;
//! # Ok(())
//! # }
//! ```
#![cfg_attr(loom, allow(dead_code, reason = "the model checks rings, not what uses them"))]

#[cfg(not(loom))]
mod blocking;
mod bytes;
#[cfg(not(loom))]
mod endpoint;
mod error;
#[cfg(not(loom))]
pub mod handing;
mod layout;
#[cfg(not(loom))]
mod memory;
#[cfg(not(loom))]
mod message;
#[cfg(not(loom))]
mod observer;
#[cfg(not(loom))]
mod offer;
mod region;
pub mod ring;
#[cfg(not(loom))]
mod signal;
#[cfg(not(loom))]
mod spin;
#[cfg(not(loom))]
mod stream;
mod sync;

#[cfg(not(loom))]
pub use bytes::Byte;
pub use error::{PeerMisbehaved, Unusable};
pub use layout::{DEFAULT_RING_BYTES, End, MAX_RING_BYTES, MIN_RING_BYTES, Rings, Side};
#[cfg(not(loom))]
pub use {
    blocking::{BlockingStream, For},
    endpoint::Way,
    observer::{Count, Observer},
    offer::Offer,
    spin::{DEFAULT_SPIN, MAX_SPIN},
    stream::MemoryStream,
};
