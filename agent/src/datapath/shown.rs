//! Looking at a session's messages, which tcpdump can't see once they are redirected.

use std::io;
use std::path::Path;

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::RawTracePoint;
use patchbay_ebpf_common::{self as common, SHOWN_BYTES, operation};
use tokio::io::unix::AsyncFd;

use super::leaving::run_control;
use super::load::describe;
use super::{Error, Unavailable, pins, raw};

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownMessage {
    /// The kernel programs' key of the session.
    pub session: u64,
    /// Nanoseconds since boot.
    pub time: u64,
    /// Bytes.
    pub size: u32,
    /// Whether the source sent it.
    pub from_source: bool,
    /// Whether it was redirected.
    pub redirected: bool,
    /// Its first bytes, as many as were asked for.
    pub bytes: Vec<u8>,
}

/// Somebody who looks at one session through what a running agent pinned.
pub struct Looker {
    control: RawTracePoint,
    ring: AsyncFd<RingBuf<MapData>>,
    session: u64,
}

impl Looker {
    /// Begins to look at a session, at no more than [`SHOWN_BYTES`] bytes of each message. Messages of the
    /// same session go to one looker only.
    ///
    /// # Errors
    /// No agent pinned its programs there, or the session is not known to it.
    pub fn begin(pins: &Path, session: u64, bytes: usize) -> Result<Self, Unavailable> {
        let fail = |error: &dyn std::error::Error| {
            Unavailable(format!("no agent's programs at {}: {}", pins.display(), describe(error)))
        };
        let pins = &pins::of_layout(pins, common::LAYOUT);
        let control = RawTracePoint::from_pin(pins.join(pins::PROGRAM)).map_err(|error| fail(&error))?;
        let map = MapData::from_pin(pins.join("SHOWN")).map_err(|error| fail(&error))?;
        let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(|error| fail(&error))?;
        let ring = raw::watch(ring).map_err(|error| fail(&error))?;
        let trace = 1 + bytes.min(SHOWN_BYTES) as u64;
        match run_control(&control, operation::TRACE, session, trace) {
            Ok(operation::UNKNOWN) => Err(Unavailable("the session has ended".into())),
            Ok(_) => Ok(Self { control, ring, session }),
            Err(error) => Err(fail(&error)),
        }
    }

    /// The next message; safe to cancel.
    ///
    /// # Errors
    /// The ring can't be watched any more.
    pub async fn next(&mut self) -> io::Result<ShownMessage> {
        loop {
            let mut guard = self.ring.readable_mut().await?;
            while let Some(item) = guard.get_inner_mut().next() {
                if let Some(shown) = raw::shown(&item).filter(|shown| shown.session == self.session) {
                    return Ok(read(&shown));
                }
            }
            guard.clear_ready();
        }
    }

    /// Whether the session still exists.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn is_open(&self) -> Result<bool, Error> {
        Ok(run_control(&self.control, operation::UNREAD, self.session, 0)? != operation::UNKNOWN)
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        let _ = run_control(&self.control, operation::TRACE, self.session, 0);
    }
}

fn read(shown: &common::Shown) -> ShownMessage {
    let length = (shown.length as usize).min(SHOWN_BYTES);
    ShownMessage {
        session: shown.session,
        time: shown.time,
        size: shown.size,
        from_source: shown.side == 0,
        redirected: shown.path == common::path::KERNEL,
        bytes: shown.bytes[..length].to_vec(),
    }
}
