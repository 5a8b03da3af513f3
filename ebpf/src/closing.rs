//! A socket of a session closes: final counters, and what is left is forgotten.

use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{Session, cause, event, path, state};

use crate::established::socket;
use crate::maps::{BY_TUPLE, KNOWN_SESSIONS, MEMBERS, tell};

/// States of a TCP socket (`BPF_TCP_*`).
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const TIME_WAIT: u32 = 6;
const CLOSE: u32 = 7;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

/// Handles a change of state of a socket that is watched.
#[inline(always)]
pub fn state_changed(ctx: &SockOpsContext) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    if new != CLOSE {
        return;
    }
    let socket = socket(ctx);
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let _ = MEMBERS.remove(&socket);
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs.
    let session = unsafe { &mut *session };
    let from_source = member.side == 0;
    session.state |= if from_source { state::SOURCE_CLOSED } else { state::DESTINATION_CLOSED };
    if from_source {
        count_plain_tcp(ctx, session, old);
    }
    let destination_open = session.destination_cookie != 0 && session.state & state::DESTINATION_CLOSED == 0;
    let source_open = session.state & state::SOURCE_CLOSED == 0;
    if source_open || destination_open {
        return;
    }
    tell(event::CLOSED, cause_of(old, from_source), session);
    let _ = BY_TUPLE.remove(&session.tuple);
    let _ = KNOWN_SESSIONS.remove(&member.session);
}

/// A session that was never in the map has TCP's own counters.
#[inline(always)]
fn count_plain_tcp(ctx: &SockOpsContext, session: &mut Session, old: u32) {
    if session.reason == 0 {
        return;
    }
    // SAFETY: the context is valid while the program runs.
    let (acked, received) = unsafe { ((*ctx.ops).bytes_acked, (*ctx.ops).bytes_received) };
    // SYN and FIN count as a byte each.
    let finished = u64::from(is_orderly(old));
    session.directions[0].tcp_bytes = acked.saturating_sub(1 + finished);
    session.directions[1].tcp_bytes = received.saturating_sub(finished);
    session.directions[0].path = path::TCP;
    session.directions[1].path = path::TCP;
}

#[inline(always)]
fn is_orderly(old: u32) -> bool {
    matches!(old, FIN_WAIT1 | FIN_WAIT2 | TIME_WAIT | LAST_ACK | CLOSING)
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
