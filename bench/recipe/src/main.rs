//! The plain recipe that most projects ship, as small as it can be: every connection's sockets go into
//! the map at ESTABLISHED, and every message is redirected.
//!
//! **Not safe.** It reorders bytes (TCP Fast Open, deferred accept), takes what a receiver does not read
//! without any limit, and breaks programs that use FIONREAD, splice, MSG_WAITALL or blocking reads beside
//! a writing thread. It is here to show what Patchbay's care costs, and for nothing else.
#![no_std]
#![no_main]

use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_INGRESS, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
};
use aya_ebpf::macros::{map, sk_msg, sock_ops};
use aya_ebpf::maps::SockHash;
use aya_ebpf::programs::{SkMsgContext, SockOpsContext};

const AF_INET: u32 = 2;
const SK_PASS: u32 = 1;

/// A connection seen from one of its ends; ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key {
    local: u32,
    remote: u32,
    local_port: u32,
    remote_port: u32,
}

#[map]
static RECIPE_SOCKETS: SockHash<Key> = SockHash::with_max_entries(65_536, 0);

#[sock_ops]
pub fn recipe_sock_ops(ctx: SockOpsContext) -> u32 {
    let established =
        matches!(ctx.op(), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB | BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB);
    if established && ctx.family() == AF_INET {
        let key = Key {
            local: ctx.local_ip4(),
            remote: ctx.remote_ip4(),
            local_port: ctx.local_port(),
            remote_port: u32::from_be(ctx.remote_port()),
        };
        // SAFETY: the context is valid while the program runs.
        let _ = RECIPE_SOCKETS.update(key, unsafe { &mut *ctx.ops }, u64::from(BPF_ANY));
    }
    1
}

#[sk_msg]
pub fn recipe_sk_msg(ctx: SkMsgContext) -> u32 {
    // SAFETY: the context is valid while the program runs.
    let message = unsafe { &*ctx.msg };
    let peer = Key {
        local: message.remote_ip4,
        remote: message.local_ip4,
        local_port: u32::from_be(message.remote_port),
        remote_port: message.local_port,
    };
    RECIPE_SOCKETS.redirect_msg(&ctx, peer, u64::from(BPF_F_INGRESS));
    SK_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
