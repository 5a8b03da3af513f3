//! A socket is closed while redirected bytes are unread: TCP would reset the connection, so that the other end does
//! not take the loss for an end. Its kernel knows nothing of those bytes and sends a FIN.
//!
//! The agent sends the reset. Until it has come, the other end must not see the FIN: it carries a signature that
//! nobody asked for (RFC 2385), for which it is thrown away, and is sent again. Where no agent is there in time, the
//! FIN arrives without.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_reserve_hdr_opt, bpf_store_hdr_opt};
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::event;

use crate::ends::socket;
use crate::maps::{KNOWN_SESSIONS, MEMBERS, number_of, tell};
use crate::marks;
use crate::socket::Socket;

/// How long the other end waits for the agent's reset, in nanoseconds.
const RESET_WITHIN: u64 = 1_000_000_000;
/// Flags of a segment.
const FIN: u32 = 1;
const RESET: u32 = 4;
/// The option of RFC 2385: its kind and its length.
const SIGNATURE: u8 = 19;
const SIGNATURE_BYTES: u8 = 18;
/// Options take a multiple of 4 bytes.
const RESERVED_BYTES: u32 = 20;

/// The last descriptor of a socket is closed; the socket is still as it was.
#[inline(always)]
pub fn released(sock: *mut bpf_sock) {
    let Some(mark) = marks::of_socket(sock) else { return };
    if mark.entered != 0 && Socket::at(number_of(sock)).unread_redirected().is_some_and(|unread| unread != 0)
    {
        mark.refuses_until = now() + RESET_WITHIN;
    }
}

/// A socket is about to send its FIN.
#[inline(always)]
pub fn ends(ctx: &SockOpsContext) {
    if marks::of(ctx).is_none_or(|mark| mark.refuses_until == 0) {
        return;
    }
    let socket = socket(ctx);
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs.
    let session = unsafe { &mut *session };
    let Some(next) = Socket::at(socket).write_sequence() else { return };
    session.reset_sequence = next;
    if tell(event::UNREAD, member.side, session) {
        let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
        let _ = ctx.set_cb_flags(flags as i32);
    }
}

/// Makes room in a segment that is not to be taken.
#[inline(always)]
pub fn make_room(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs.
    let flags = unsafe { (*ctx.ops).skb_tcp_flags };
    let refused = marks::of(ctx).is_some_and(|mark| now() < mark.refuses_until);
    if refused && flags & FIN != 0 && flags & RESET == 0 {
        // SAFETY: as above.
        unsafe { bpf_reserve_hdr_opt(ctx.as_ptr().cast(), RESERVED_BYTES, 0) };
    }
}

/// Signs a segment that is not to be taken.
#[inline(always)]
pub fn sign(ctx: &SockOpsContext) {
    let mut option = [0u8; SIGNATURE_BYTES as usize];
    option[0] = SIGNATURE;
    option[1] = SIGNATURE_BYTES;
    // SAFETY: the context is valid while the program runs, the option until the call returns.
    unsafe {
        bpf_store_hdr_opt(ctx.as_ptr().cast(), option.as_ptr().cast(), u32::from(SIGNATURE_BYTES), 0);
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
