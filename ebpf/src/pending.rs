//! Sessions whose accepting end is not known yet, by the name that their connection has at both ends.
//!
//! A connecting end is established before its accepting end is, because the accepting end waits for its
//! acknowledgement. So when an accepting end comes, its source has been here if it is one of ours, and any other
//! source of the same name has collided with it: then neither is joined.

use patchbay_ebpf_common::{ConnectionName, Reason, Session};

use crate::established::take_out;
use crate::maps::{EARLY, KNOWN_SESSIONS, PENDING};

/// `BPF_NOEXIST`
const ONLY_NEW: u64 = 1;
/// Instead of a key: two connections have the name.
const SEVERAL: u64 = 0;

/// What comes of noting a session.
pub enum Noted {
    /// Its accepting end will find it.
    Alone,
    /// Another connection has the same name: neither is joined.
    Several,
    /// The table is full.
    Full,
}

/// The name of a session's connection.
#[inline(always)]
pub fn name(session: &Session) -> ConnectionName {
    ConnectionName { source: session.source_sequence, destination: session.source_expected }
}

/// Notes a session under the name of its connection.
#[inline(always)]
pub fn note(session: &Session) -> Noted {
    let name = name(session);
    if PENDING.insert(&name, &session.key, ONLY_NEW).is_ok() {
        return Noted::Alone;
    }
    // SAFETY: the value is copied out at once.
    let Some(other) = (unsafe { PENDING.get(&name) }).copied() else { return Noted::Full };
    let _ = PENDING.insert(&name, &SEVERAL, 0);
    if let Some(other) = KNOWN_SESSIONS.get_ptr_mut(&other) {
        // SAFETY: the map's entry stays valid while the program runs. The session has no other end yet, so
        // nothing has been redirected.
        take_out(unsafe { &mut *other }, Reason::Mispaired as u32);
    }
    Noted::Several
}

/// Takes the key of the session whose connection has the name.
#[inline(always)]
pub fn take(name: &ConnectionName) -> Option<u64> {
    // SAFETY: the value is copied out at once.
    let key = (unsafe { PENDING.get(name) }).copied()?;
    if key == SEVERAL || PENDING.remove(name).is_err() {
        return None;
    }
    Some(key)
}

/// A session's accepting end will not come any more.
#[inline(always)]
pub fn forget(session: &Session) {
    let name = name(session);
    // SAFETY: the value is copied out at once.
    if let Some(key) = (unsafe { PENDING.get(&name) }).copied()
        && (key == session.key || key == SEVERAL)
    {
        let _ = PENDING.remove(&name);
    }
}

/// Notes an accepting end whose source is not there yet.
#[inline(always)]
pub fn note_early(name: &ConnectionName) {
    let _ = EARLY.insert(name, &0, 0);
}

/// Whether a session's accepting end came before its source.
#[inline(always)]
pub fn came_early(session: &Session) -> bool {
    EARLY.remove(&name(session)).is_ok()
}
