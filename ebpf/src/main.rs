//! The kernel programs of Patchbay.
//!
//! `sock_ops` sees connections of this node's instances become established and close, and puts both
//! sockets of a declared session into the map, or neither. `sk_msg` decides for every message whether
//! it is redirected.
#![no_std]
#![no_main]

mod closing;
mod established;
mod kernel;
mod maps;
mod redirect;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
};
use aya_ebpf::macros::{sk_msg, sock_ops};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};

/// `sk_action`: let the message go on, redirected if a target was set.
const SK_PASS: u32 = 1;

/// Sees the life of every TCP socket under the node's cgroup.
#[sock_ops]
pub fn patchbay_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established::source(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established::destination(&ctx),
        BPF_SOCK_OPS_STATE_CB => closing::state_changed(&ctx),
        _ => {}
    }
    // The reply of the operations that are not ours stays what it was.
    1
}

/// Sees every message sent on a socket in the map, under that socket's lock.
#[sk_msg]
pub fn patchbay_sk_msg(ctx: SkMsgContext) -> u32 {
    redirect::message(&ctx);
    // Never drop: what is not redirected goes over TCP.
    SK_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
