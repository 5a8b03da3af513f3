//! What the agent asks of a session. It runs here, so that no record is overwritten from outside.

use patchbay_ebpf_common::{Reason, Session, entry, event, operation, state};

use crate::maps::{KNOWN_SESSIONS, MEMBERS, SETTINGS, tell};
use crate::socket::Socket;
use crate::{habits, kernel, pending, scope};

/// Performs one of [`operation`]; returns its answer.
#[inline(always)]
pub fn perform(operation: u64, key: u64, value: u64) -> u32 {
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&key) else { return operation::UNKNOWN };
    // SAFETY: the map's entry stays valid while the program runs.
    let session = unsafe { &mut *session };
    match operation {
        operation::UNREAD => {
            let socket = if value == 0 { session.source_socket } else { session.destination_socket };
            // A socket without its part of the map has nothing redirected unread.
            return Socket::at(socket).unread_redirected().unwrap_or(0) & (u32::MAX >> 1);
        }
        operation::LEAVE => {
            if session.leave == 0 && (session.reason == 0 || session.state & state::PAIRED != 0) {
                session.leave = value as u32;
                tell(event::LEAVING, 0, session);
            }
        }
        operation::NEXT_TO_SEND => return kernel::next_to_send(session.source_socket).unwrap_or_default(),
        operation::NEXT_EXPECTED => return kernel::next_expected(session.source_socket).unwrap_or_default(),
        operation::LEFT => left(session),
        operation::PAUSE => session.paused = value as u32,
        operation::TRACE => session.trace = value as u32,
        operation::TOLD => session.state |= state::TOLD,
        operation::FORGET => {
            if session.state & state::ENDED != 0 {
                let _ = KNOWN_SESSIONS.remove(&key);
            }
        }
        operation::ENTER => return want(session),
        operation::BOTH_IN => {
            if session.entry != entry::SETTLING {
                session.entry = 0;
                return 0;
            }
            return 1;
        }
        operation::BEGIN => return begin(session, value as u32),
        _ => return operation::UNKNOWN,
    }
    0
}

/// Wants a session in the map that was observed from its first byte until now.
#[inline(always)]
fn want(session: &mut Session) -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return 0 };
    let closed = session.state & (state::SOURCE_CLOSED | state::DESTINATION_CLOSED) != 0;
    let observed = session.watch != 0 && session.watch == settings.watch;
    // Looked at once more with each socket's lock held; here, so that no end goes in, once and for all, without the other.
    let sockets = [session.source_socket, session.destination_socket];
    let blocks = !kernel::is_nonblocking(sockets[0]) || !kernel::is_nonblocking(sockets[1]);
    if session.reason != Reason::Learning as u32
        || session.entry != 0
        || session.leave != 0
        || session.destination_cookie == 0
        || session.state & state::TENTATIVE != 0
        || closed
        || !observed
        || blocks
    {
        return 0;
    }
    session.entry = entry::WANTED;
    1
}

/// Redirects a session from now on whose ends are both in the map, unless something speaks against it.
#[inline(always)]
fn begin(session: &mut Session, refusal: u32) -> u32 {
    if session.entry != entry::SETTLING || session.leave != 0 {
        return 0;
    }
    // Readers that block get nothing.
    session.directions[0].went_tcp = 1;
    session.directions[1].went_tcp = 1;
    session.leave = refusal;
    // From here on a habit that shows makes the session leave by itself; what showed before is looked for below.
    session.reason = 0;
    habits::weigh(session);
    session.entry = entry::ENTERED;
    if session.leave == 0 {
        return 1;
    }
    tell(event::LEAVING, 0, session);
    0
}

/// The session's sockets are out of the map.
#[inline(always)]
fn left(session: &mut Session) {
    session.reason = session.leave;
    session.state = (session.state & !(state::PAIRED | state::SOURCE_IN)) | state::LEFT;
    session.entry = 0;
    if session.state & state::TENTATIVE == 0 || session.leave != Reason::Unpaired as u32 {
        return;
    }
    // Nobody of the scope has accepted it: it is no session.
    scope::found_outside(&scope::destination(&session.tuple));
    pending::forget(session);
    let _ = MEMBERS.remove(&session.source_socket);
    let _ = KNOWN_SESSIONS.remove(&session.key);
}
