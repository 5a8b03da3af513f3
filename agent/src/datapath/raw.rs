//! The two places where the kernel's bytes and descriptors are trusted without the compiler's help.

use std::io;

use aya::maps::{MapData, RingBuf};
use patchbay_ebpf_common::{Event, Shown};
use tokio::io::unix::AsyncFd;

/// Watches the ring for new events.
#[expect(unsafe_code, reason = "tokio asks for a descriptor that stays the same while it is watched")]
pub fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor and returns the same one until it is dropped.
    unsafe { AsyncFd::register(ring) }.map_err(Into::into)
}

/// Reads an event from the ring's bytes.
pub fn event(bytes: &[u8]) -> Option<Event> {
    read(bytes)
}

/// Reads a shown message from the ring's bytes.
pub fn shown(bytes: &[u8]) -> Option<Shown> {
    read(bytes)
}

#[expect(unsafe_code, reason = "the kernel's bytes become a plain structure of integers")]
fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: the length was checked, any bytes are a value of it, and the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
