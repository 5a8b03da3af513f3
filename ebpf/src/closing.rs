//! A socket of a session closes: final counters, and what is left is forgotten.

use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{Session, cause, event, path, state};

use crate::ends::socket;
use crate::maps::{KNOWN_SESSIONS, MEMBERS, delete_socket, tell};
use crate::socket::Socket;
use crate::{habits, kernel, marks, pending, scope, unread};

/// States of a TCP socket (`BPF_TCP_*`).
const ESTABLISHED: u32 = 1;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const TIME_WAIT: u32 = 6;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

/// Handles a change of state of a socket that is watched.
#[inline(always)]
pub fn state_changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    let socket = socket(ctx);
    if matches!(new, FIN_WAIT1 | LAST_ACK) {
        finishes(socket);
        unread::ends(ctx);
    }
    if new != CLOSE {
        return;
    }
    if is_disconnected(socket, old)
        && let Some(mark) = marks::of(ctx)
        && mark.entered != 0
    {
        delete_socket(mark.entered);
    }
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let _ = MEMBERS.remove(&socket);
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs.
    let session = unsafe { &mut *session };
    let from_source = member.side == 0;
    session.state |= if from_source { state::SOURCE_CLOSED } else { state::DESTINATION_CLOSED };
    count_tcp(ctx, session, socket, old, from_source);
    let destination_open = session.destination_cookie != 0 && session.state & state::DESTINATION_CLOSED == 0;
    let source_open = session.state & state::SOURCE_CLOSED == 0;
    if source_open || destination_open {
        return;
    }
    end(session, cause_of(old, from_source));
}

/// The socket stops sending.
#[inline(always)]
fn finishes(socket: u64) {
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs.
    habits::finishes(unsafe { &mut *session }, socket, member.side == 0);
}

/// Both ends of a session are closed.
#[inline(always)]
fn end(session: &mut Session, cause: u32) {
    if session.destination_cookie == 0 {
        pending::forget(session);
    }
    session.cause = cause;
    session.directions[0].tcp_bytes = session.carried[0];
    session.directions[1].tcp_bytes = session.carried[1];
    if session.state & state::TENTATIVE != 0 {
        scope::found_outside(&scope::destination(&session.tuple));
    } else if session.state & state::TOLD == 0 || !tell(event::CLOSED, cause, session) {
        // The record stays until the agent has seen it.
        session.state |= state::ENDED;
        return;
    }
    let _ = KNOWN_SESSIONS.remove(&session.key);
}

/// Whether the program disconnected the socket (connect with AF_UNSPEC) or closed it without an end: TCP throws
/// away what is unread. It does not where the other end has reset or ended the connection, or it timed out.
#[inline(always)]
fn is_disconnected(socket: u64, old: u32) -> bool {
    matches!(old, ESTABLISHED | CLOSE_WAIT) && kernel::socket_error(socket) == Some(0)
}

/// What went over TCP, as TCP itself counted it at this end: the programs' own sizes of messages count what a
/// send took back because the socket's buffer was full, and miss the message after that.
#[inline(always)]
fn count_tcp(ctx: &SockOpsContext, session: &mut Session, socket: u64, old: u32, from_source: bool) {
    // SAFETY: the context is valid while the program runs.
    let (mut sent, mut received, unacknowledged) =
        unsafe { ((*ctx.ops).bytes_acked, (*ctx.ops).bytes_received, (*ctx.ops).snd_una) };
    // The numbers count the source's SYN as a byte, and each end's FIN.
    if from_source {
        sent = sent.saturating_sub(1);
    }
    let ended_here = matches!(old, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT | LAST_ACK | CLOSING);
    if ended_here && Socket::at(socket).write_sequence() == Some(unacknowledged) {
        sent = sent.saturating_sub(1);
    }
    if kernel::has_seen_end(socket) {
        received = received.saturating_sub(1);
    }
    let [there, back] = &mut session.carried;
    let (own, other) = if from_source { (there, back) } else { (back, there) };
    if *own < sent {
        *own = sent;
    }
    if *other < received {
        *other = received;
    }
    if session.reason != 0 {
        session.directions[0].path = path::TCP;
        session.directions[1].path = path::TCP;
    }
}

/// Who closed first, told by the state that the last socket was in.
#[inline(always)]
fn cause_of(old: u32, from_source: bool) -> u32 {
    let finished_here = matches!(old, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT | CLOSING);
    let finished_there = old == LAST_ACK;
    match (finished_here, finished_there) {
        (true, _) => {
            if from_source {
                cause::SOURCE_FINISHED
            } else {
                cause::DESTINATION_FINISHED
            }
        }
        (_, true) => {
            if from_source {
                cause::DESTINATION_FINISHED
            } else {
                cause::SOURCE_FINISHED
            }
        }
        _ => cause::BROKEN,
    }
}
