//! The kernel programs of Patchbay.
//!
//! `sock_ops` sees connections of this node's instances become established and close, and puts both
//! sockets of a declared session into the map, or neither. `sk_msg` decides for every message whether
//! it is redirected. Tracepoints and a program for options observe what programs do.
#![no_std]
#![no_main]
// Its inline assembler; the toolchain allows it for this crate.
#![feature(asm_experimental_arch)]

mod calls;
mod closing;
mod control;
mod ends;
mod entering;
mod established;
mod habits;
mod kernel;
mod maps;
mod marks;
mod pending;
mod redirect;
mod scope;
mod shown;
mod socket;
mod stopping;
mod tasks;
mod unread;

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
    BPF_SOCK_OPS_WRITE_HDR_OPT_CB,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sockopt, raw_tracepoint, sk_msg, sock_ops, tracepoint};
use aya_ebpf::programs::{
    RawTracePointContext, SkMsgContext, SockContext, SockOpsContext, SockoptContext, TracePointContext,
};

/// `sk_action`: let the message go on, redirected if a target was set.
const SK_PASS: u32 = 1;

/// Sees the life of every TCP socket under the node's cgroup.
#[sock_ops]
pub fn patchbay_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => established::source(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established::destination(&ctx),
        BPF_SOCK_OPS_TCP_CONNECT_CB => scope::connecting(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => scope::listening(&ctx),
        BPF_SOCK_OPS_STATE_CB => closing::state_changed(&ctx),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => {
            stopping::packet(&ctx);
            unread::make_room(&ctx);
        }
        BPF_SOCK_OPS_WRITE_HDR_OPT_CB => unread::sign(&ctx),
        _ => {}
    }
    // The reply of the operations that are not ours stays what it was.
    1
}

/// Sees every socket under the node's cgroup that is closed.
#[cgroup_sock(sock_release)]
pub fn patchbay_released(ctx: SockContext) -> i32 {
    unread::released(ctx.sock);
    1
}

/// Sees every message sent on a socket in the map, under that socket's lock.
#[sk_msg]
pub fn patchbay_sk_msg(ctx: SkMsgContext) -> u32 {
    redirect::message(&ctx);
    // Never drop: what is not redirected goes over TCP.
    SK_PASS
}

/// Sees every receiving call on the node while programs are observed (tracepoint of Linux 6.3).
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn patchbay_received(ctx: RawTracePointContext) -> u32 {
    habits::received(ctx.arg(0), ctx.arg::<u64>(1) as i32, ctx.arg::<u64>(2) as u32);
    0
}

/// Sees every sending call on the node while programs are observed (tracepoint of Linux 6.3).
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn patchbay_sent(ctx: RawTracePointContext) -> u32 {
    habits::sent(ctx.arg(0), ctx.arg::<u64>(1) as i32);
    0
}

/// Sees the node's calls of `ioctl`, and of no other, while programs are observed; so do the three below.
#[tracepoint]
pub fn patchbay_ioctl(ctx: TracePointContext) -> u32 {
    habits::ioctl(&ctx);
    0
}

/// `getsockopt`
#[tracepoint]
pub fn patchbay_getsockopt(ctx: TracePointContext) -> u32 {
    habits::getsockopt(&ctx);
    0
}

/// `splice`
#[tracepoint]
pub fn patchbay_splice(ctx: TracePointContext) -> u32 {
    habits::splice(&ctx);
    0
}

/// `sendfile`
#[tracepoint]
pub fn patchbay_sendfile(ctx: TracePointContext) -> u32 {
    habits::sendfile(&ctx);
    0
}

/// Sees the options that the programs of the cgroup set, before the kernel does.
#[cgroup_sockopt(setsockopt)]
pub fn patchbay_setsockopt(ctx: SockoptContext) -> i32 {
    habits::option_set(&ctx);
    // The kernel goes on.
    1
}

/// Visits every TCP socket of a network namespace, when the agent lets sessions into the map.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
pub extern "C" fn patchbay_enter(ctx: *const entering::Visit) -> i32 {
    entering::visit(ctx);
    0
}

/// Visits every thread, when sessions have entered the map in mid-life.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn patchbay_tasks(ctx: *const tasks::Visit) -> i32 {
    tasks::visit(ctx);
    0
}

/// Called by the agent, attached nowhere. Written out, because aya's macro answers 0 whatever the function says.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub fn patchbay_control(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    control::perform(ctx.arg(0), ctx.arg(1), ctx.arg(2))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
