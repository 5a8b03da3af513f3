//! Lets sessions into the map in mid-life, once what was observed of their programs says that they may.
//!
//! A session enters at ESTABLISHED because nobody can be reading then. Later a reader may wait inside TCP itself,
//! and would never see redirected bytes; so only sessions whose readers never block enter. A kernel iterator visits
//! every TCP socket of a network namespace with its lock held. The ends go in one after the other. A call that began in
//! TCP's own receiving function before, and waits for the socket's lock or for a processor, looks at TCP alone: it would
//! take what came over TCP, or its end, before what was redirected meanwhile. So nothing is redirected before every such
//! call has ended ([`crate::tasks`]), and then a direction only once all that went over TCP has been read.

use aya_ebpf::bindings::BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_STATE_CB_FLAG};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_map_update_elem, bpf_setsockopt, bpf_sk_storage_get,
};
use patchbay_ebpf_common::{Mark, Member, Session, entry, state};

use crate::kernel;
use crate::maps::{KNOWN_SESSIONS, MARKS, MEMBERS, SOCKETS, number_of};

/// `IPPROTO_TCP`
const OF_TCP: i32 = 6;
/// `TCP_BPF_SOCK_OPS_CB_FLAGS` (Linux 6.13): what the kernel asks about a socket.
const CALLBACKS: i32 = 1008;

/// The context of an iterator over TCP sockets (`struct bpf_iter__tcp`).
#[repr(C)]
pub struct Visit {
    meta: u64,
    socket: *mut core::ffi::c_void,
}

/// Visits one socket.
#[inline(always)]
pub fn visit(ctx: *const Visit) {
    // SAFETY: the context is valid while the program runs; volatile, so that what is checked is what is used.
    let socket = unsafe { core::ptr::read_volatile(&raw const (*ctx).socket) };
    if socket.is_null() {
        return;
    }
    let address = number_of(socket);
    // SAFETY: the value is copied out at once.
    let Some(member) = (unsafe { MEMBERS.get(&address) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&member.session) else { return };
    // SAFETY: the map's entry stays valid while the program runs; `entry` is written by the agent's calls only,
    // which come one after the other.
    let session = unsafe { &mut *session };
    if session.entry & entry::WANTED == 0 || session.leave != 0 {
        return;
    }
    // SAFETY: the socket is one, by the iterator's promise.
    let cookie = unsafe { bpf_get_socket_cookie(socket) };
    if may_enter(session, &member, address, cookie) && insert(socket, cookie) {
        session.entry |= if member.side == 0 { entry::SOURCE_IN } else { entry::DESTINATION_IN };
    } else {
        session.entry &= !entry::WANTED;
    }
    if session.entry & entry::BOTH_IN == entry::BOTH_IN {
        session.entry = entry::SETTLING;
        session.state |= state::PAIRED;
    }
}

/// Whether the socket may go in: it is the session's own, open, and reads on it never block.
#[inline(always)]
fn may_enter(session: &Session, member: &Member, address: u64, cookie: u64) -> bool {
    let own = if member.side == 0 { session.source_cookie } else { session.destination_cookie };
    let closed = session.state & (state::SOURCE_CLOSED | state::DESTINATION_CLOSED) != 0;
    cookie == own && !closed && kernel::is_nonblocking(address)
}

/// Puts the socket into the map, for the first time in its life.
#[inline(always)]
fn insert(socket: *mut core::ffi::c_void, cookie: u64) -> bool {
    // SAFETY: map and socket are valid; a new value is all zero, which is a mark.
    let mark = unsafe {
        bpf_sk_storage_get(
            (&raw const MARKS).cast_mut().cast(),
            socket,
            core::ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    // SAFETY: the value lives as long as its socket, whose lock the iterator has.
    let Some(mark) = (unsafe { mark.cast::<Mark>().as_mut() }) else { return false };
    if mark.entered != 0 {
        return false;
    }
    // SAFETY: `SockHash` is a transparent map definition; key and socket live until the call returns.
    let inserted = unsafe {
        bpf_map_update_elem(
            (&raw const SOCKETS).cast_mut().cast(),
            (&raw const cookie).cast(),
            socket,
            u64::from(BPF_NOEXIST),
        )
    };
    if inserted != 0 {
        return false;
    }
    mark.entered = cookie;
    let mut flags: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    // SAFETY: the kernel reads the four bytes. Where it has no such option, a stream that outruns its reader only
    // comes back later.
    unsafe { bpf_setsockopt(socket, OF_TCP, CALLBACKS, (&raw mut flags).cast(), 4) };
    true
}
