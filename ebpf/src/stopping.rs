//! Lets TCP stop a sender soon when its direction has gone over TCP, so that it comes back to redirection.
//!
//! Redirection has no backpressure of its own: what is over the budget goes over TCP, whose window stops the
//! sender. TCP alone would take megabytes, in its send buffer and in a window that grows, and let the sender go on
//! long before its reader has read all: a steady stream would never again find everything read, which is when it
//! may be redirected. So while a socket is in the map, it may have little unsent (TCP_NOTSENT_LOWAT) and promises
//! little (TCP_WINDOW_CLAMP): a sender that was stopped goes on when its reader is about to have read all.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
use aya_ebpf::helpers::generated::{bpf_getsockopt, bpf_setsockopt};
use aya_ebpf::programs::SockOpsContext;

use crate::ends::socket;
use crate::kernel;
use crate::maps::{KNOWN_SESSIONS, MEMBERS};

/// `IPPROTO_TCP`
const OF_TCP: i32 = 6;
/// `TCP_WINDOW_CLAMP`
const WINDOW_LIMIT: i32 = 10;
/// `TCP_NOTSENT_LOWAT`
const UNSENT_LIMIT: i32 = 25;
/// What a sender may have unsent, in bytes. An odd number, so that a limit of the program's own is not taken for
/// this one.
pub const UNSENT_BYTES: u32 = (16 << 10) + 1;
/// What a reader may promise to take, in bytes: two packets of the loopback device, because a packet that is larger
/// than the window waits for a timer.
const WINDOW_BYTES: u32 = 128 << 10;
/// No limit for the window but the receive buffer.
const WINDOW_FREE: u32 = 1 << 30;

/// The socket is about to send a packet: some bytes, or how much it promises to take. The kernel asks for those
/// that entered the map.
///
/// Whenever the limit of what is unsent is set, the kernel wakes who waits for the socket; a blocking read would
/// return EAGAIN (Linux 6.18). So a socket that may block has no such limit.
#[inline(always)]
pub fn packet(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&socket) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs.
    let reason = unsafe { (*session).reason };
    let blocks = !kernel::is_nonblocking(socket);
    if reason == 0 {
        // TCP lets it grow with what is read.
        if kernel::window_limit(socket) > WINDOW_BYTES {
            set_option(ctx, WINDOW_LIMIT, WINDOW_BYTES);
        }
        if !blocks && option(ctx, UNSENT_LIMIT) == 0 {
            set_option(ctx, UNSENT_LIMIT, UNSENT_BYTES);
        }
        return;
    }
    set_option(ctx, WINDOW_LIMIT, WINDOW_FREE);
    if option(ctx, UNSENT_LIMIT) == UNSENT_BYTES {
        if blocks {
            return;
        }
        set_option(ctx, UNSENT_LIMIT, 0);
    }
    let _ = ctx.set_cb_flags((ctx.cb_flags() & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG) as i32);
}

/// The value of one of TCP's options, 0 when it can't be read.
#[inline(always)]
fn option(ctx: &SockOpsContext, name: i32) -> u32 {
    let mut value: u32 = 0;
    // SAFETY: the kernel writes the four bytes.
    unsafe { bpf_getsockopt(ctx.as_ptr(), OF_TCP, name, (&raw mut value).cast(), 4) };
    value
}

#[inline(always)]
fn set_option(ctx: &SockOpsContext, name: i32, value: u32) {
    let mut value = value;
    // SAFETY: the kernel reads the four bytes.
    unsafe { bpf_setsockopt(ctx.as_ptr(), OF_TCP, name, (&raw mut value).cast(), 4) };
}
