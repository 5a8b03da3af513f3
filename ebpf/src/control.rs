//! What the agent asks of a session. It runs here, so that no record is overwritten from outside.

use patchbay_ebpf_common::{event, operation, state};

use crate::maps::{KNOWN_SESSIONS, tell};
use crate::socket::Socket;

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
            Socket::at(socket).unread_redirected().unwrap_or(0) & (u32::MAX >> 1)
        }
        operation::LEAVE => {
            if session.leave == 0 && session.reason == 0 {
                session.leave = value as u32;
                tell(event::LEAVING, 0, session);
            }
            0
        }
        operation::LEFT => {
            session.reason = session.leave;
            session.state = (session.state & !(state::PAIRED | state::SOURCE_IN)) | state::LEFT;
            0
        }
        operation::TRACE => {
            session.trace = value as u32;
            0
        }
        _ => operation::UNKNOWN,
    }
}
