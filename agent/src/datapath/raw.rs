//! The places where the kernel's bytes and descriptors are trusted without the compiler's help, and the calls
//! for maps whose keys and values are known by their sizes only.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::maps::{MapData, RingBuf};
use patchbay_ebpf_common::{Busy, Event, LASTING_BYTES, Session, Shown};
use tokio::io::unix::AsyncFd;

/// Watches the ring for new events.
#[expect(unsafe_code, reason = "tokio asks for a descriptor that stays the same while it is watched")]
pub fn watch(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor and returns the same one until it is dropped.
    unsafe { AsyncFd::register(ring) }.map_err(Into::into)
}

/// Gives memory back that was needed once, to read the kernel's types: the allocator would keep 12 MiB of it.
#[expect(unsafe_code, reason = "no library has this call")]
pub fn give_back_memory() {
    // SAFETY: the call takes no pointers; what is in use stays.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Reads an event from the ring's bytes.
pub fn event(bytes: &[u8]) -> Option<Event> {
    read(bytes)
}

/// Reads a shown message from the ring's bytes.
pub fn shown(bytes: &[u8]) -> Option<Shown> {
    read(bytes)
}

/// Reads one of the threads that may be inside a call.
pub fn busy(bytes: &[u8]) -> Option<Busy> {
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

/// What every layout has of a session's record; the rest is zero.
#[expect(unsafe_code, reason = "the kernel's bytes become a plain structure of integers")]
pub fn lasting(bytes: &[u8]) -> Option<Session> {
    let mut session = Session::default();
    let beginning = bytes.get(..LASTING_BYTES)?;
    // SAFETY: the record is plain integers, larger than what is copied, and any bytes are a value of it.
    unsafe {
        std::ptr::copy_nonoverlapping(beginning.as_ptr(), (&raw mut session).cast(), LASTING_BYTES);
    }
    Some(session)
}

/// Commands of `bpf(2)`.
const LOOK_UP_ELEMENT: libc::c_long = 1;
const DELETE_ELEMENT: libc::c_long = 3;
const NEXT_KEY: libc::c_long = 4;

/// `union bpf_attr` of the commands for a map's elements.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    /// Where a value or the next key is written.
    value: u64,
    flags: u64,
}

/// Sizes of a map's keys and values, in bytes.
pub fn sizes(map: &MapData) -> io::Result<(usize, usize)> {
    let info = map.info().map_err(io::Error::other)?;
    Ok((info.key_size() as usize, info.value_size() as usize))
}

/// All keys of a map.
pub fn keys(map: BorrowedFd<'_>, size: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut next = vec![0; size];
        let after = keys.last().map_or(std::ptr::null(), Vec::as_ptr);
        match element(NEXT_KEY, map, after, next.as_mut_ptr()) {
            Ok(()) => keys.push(next),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(error),
        }
    }
}

/// The value of a key of the map's own size; `None` when there is none.
pub fn look_up(map: BorrowedFd<'_>, key: &[u8], size: usize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; size];
    match element(LOOK_UP_ELEMENT, map, key.as_ptr(), value.as_mut_ptr()) {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes a key of the map's own size; one that is not there is no error.
pub fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    match element(DELETE_ELEMENT, map, key.as_ptr(), std::ptr::null_mut()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "aya has no maps of sizes that are known at run time only")]
fn element(command: libc::c_long, map: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> io::Result<()> {
    let descriptor = map.as_raw_fd().cast_unsigned();
    let attributes = Element { map: descriptor, padding: 0, key: key as u64, value: value as u64, flags: 0 };
    // SAFETY: the callers' buffers are of the map's own sizes, which the kernel reads and writes; null is
    // given only where it is taken as absent.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attributes, size_of::<Element>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
