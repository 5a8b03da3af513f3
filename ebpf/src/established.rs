//! A connection is established: is it a declared session, and may its sockets enter the map?

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{AddressBytes, DeclarationKey, Member, Reason, Session, Tuple, event, state};

use crate::maps::{BY_TUPLE, DECLARED, KNOWN_SESSIONS, MEMBERS, NEW_SESSION, SOCKETS, number_of, tell};
use crate::socket::Socket;
use crate::{kernel, listening};

/// IPv4.
pub const AF_INET: u32 = 2;
/// IPv6.
pub const AF_INET6: u32 = 10;

/// The connecting end. It is always the first of the two, except with TCP Fast Open and when both
/// ends open at once; then the session stays on TCP.
#[inline(always)]
pub fn source(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    let Some(tuple) = tuple(ctx, true) else { return };
    let Some(cgroup) = kernel::cgroup_id(socket) else { return };
    let key = DeclarationKey {
        source_cgroup: cgroup,
        address: tuple.destination,
        port: tuple.destination_port,
        padding: 0,
    };
    // SAFETY: the value is copied out at once; the agent replaces declarations whole.
    let (declaration, program) = match (unsafe { DECLARED.get(&key) }).copied() {
        Some(declaration) => (declaration, [0; 16]),
        None => match listening::in_scope(ctx, &tuple) {
            Some(found) => found,
            None => return,
        },
    };
    // SAFETY: the helper only reads the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let here = Socket::at(socket);
    let (Some(write), Some(copied)) = (here.write_sequence(), here.copied_sequence()) else {
        return;
    };

    let Some(room) = NEW_SESSION.get_ptr_mut(0) else { return };
    // SAFETY: the entry is this processor's own while the program runs, and any bytes are a record.
    let session = unsafe {
        core::ptr::write_bytes(room, 0, 1);
        &mut *room
    };
    session.tuple = tuple;
    session.source_program = program;
    session.source_cookie = cookie;
    session.source_socket = socket;
    session.destination_cgroup = declaration.destination_cgroup;
    session.source_instance = declaration.source_instance;
    session.destination_instance = declaration.destination_instance;
    // SAFETY: the helper has no arguments.
    session.established = unsafe { bpf_ktime_get_boot_ns() };
    session.source_sequence = write;
    session.source_expected = copied;
    session.reason = declaration.refusal;
    session.mode = declaration.mode;
    session.memory_pressure = kernel::memory_pressure(socket);
    if session.reason == 0 {
        session.reason = obstacle(ctx, socket, &tuple);
    }
    if session.reason == 0 {
        match insert(ctx, cookie) {
            true => session.state |= state::SOURCE_IN,
            false => session.reason = Reason::NotInserted as u32,
        }
    }
    let member = Member { session: cookie, side: 0, reader: 0, writer: 0, run: 0 };
    if KNOWN_SESSIONS.insert(&cookie, &*session, 0).is_err()
        || BY_TUPLE.insert(&tuple, &cookie, 0).is_err()
        || MEMBERS.insert(&socket, &member, 0).is_err()
    {
        forget(session);
        return;
    }
    watch(ctx);
    tell(event::ESTABLISHED, 0, session);
}

/// The accepting end: it completes the pair, or the source leaves the map again.
#[inline(always)]
pub fn destination(ctx: &SockOpsContext) {
    let Some(tuple) = tuple(ctx, false) else { return };
    // SAFETY: the value is copied out at once.
    let Some(key) = (unsafe { BY_TUPLE.get(&tuple) }).copied() else { return };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&key) else { return };
    // SAFETY: the map's entry stays valid while the program runs. Only this socket's one
    // establishment writes these fields.
    let session = unsafe { &mut *session };
    if session.destination_cookie != 0 {
        return;
    }
    let socket = socket(ctx);
    // SAFETY: the helper only reads the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    session.destination_cookie = cookie;
    session.destination_socket = socket;
    let member = Member { session: key, side: 1, reader: 0, writer: 0, run: 0 };
    if MEMBERS.insert(&socket, &member, 0).is_err() && session.reason == 0 {
        session.reason = Reason::NotInserted as u32;
    }
    watch(ctx);
    if session.reason == 0 {
        session.reason = mismatch(session, socket);
    }
    if session.reason == 0 && !insert(ctx, cookie) {
        session.reason = Reason::NotInserted as u32;
    }
    if session.reason == 0 {
        session.state |= state::PAIRED;
    } else if session.state & state::SOURCE_IN != 0 {
        take_out(session.source_cookie);
        session.state &= !state::SOURCE_IN;
    }
}

/// Why the source must not enter the map, or 0.
#[inline(always)]
fn obstacle(ctx: &SockOpsContext, socket: u64, tuple: &Tuple) -> u32 {
    if kernel::is_multipath(socket) {
        return Reason::Multipath as u32;
    }
    let mirrored = Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
        namespace: tuple.namespace,
    };
    // SAFETY: the value is copied out at once.
    if let Some(other) = (unsafe { BY_TUPLE.get(&mirrored) }).copied() {
        if let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&other) {
            take_out(other);
            // SAFETY: the map's entry stays valid while the program runs.
            unsafe { (*session).reason = Reason::NotAccepted as u32 };
        }
        return Reason::NotAccepted as u32;
    }
    if tuple.source == tuple.destination && tuple.source_port == tuple.destination_port {
        return Reason::NotAccepted as u32;
    }
    // One acknowledged byte is the SYN; more, or more written, is data of TCP Fast Open.
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.ops).bytes_acked } > 1 {
        return Reason::FastOpen as u32;
    }
    0
}

/// Why the accepting socket is not the declared other end, or 0.
#[inline(always)]
fn mismatch(session: &Session, socket: u64) -> u32 {
    if session.state & state::SOURCE_IN == 0 {
        return Reason::NotInserted as u32;
    }
    // In a scope whoever is seen here belongs to it.
    let declared = session.destination_cgroup != 0;
    if declared && kernel::cgroup_id(socket) != Some(session.destination_cgroup) {
        return Reason::OtherInstance as u32;
    }
    if kernel::is_multipath(socket) {
        return Reason::Multipath as u32;
    }
    // Two random initial sequence numbers agree: these are the two ends of one connection.
    let here = Socket::at(socket);
    if here.copied_sequence() != Some(session.source_sequence)
        || here.write_sequence() != Some(session.source_expected)
    {
        return Reason::Mispaired as u32;
    }
    0
}

#[inline(always)]
fn insert(ctx: &SockOpsContext, cookie: u64) -> bool {
    // SAFETY: the context is valid while the program runs.
    SOCKETS.update(cookie, unsafe { &mut *ctx.ops }, u64::from(BPF_NOEXIST)).is_ok()
}

/// Takes a socket out of the map. Nothing has been redirected to it yet, so nothing is lost.
#[inline(always)]
fn take_out(cookie: u64) {
    crate::maps::delete_socket(cookie);
}

/// Undoes a half-made record: a table is full.
#[inline(always)]
fn forget(session: &Session) {
    take_out(session.source_cookie);
    let _ = MEMBERS.remove(&session.source_socket);
    let _ = BY_TUPLE.remove(&session.tuple);
    let _ = KNOWN_SESSIONS.remove(&session.source_cookie);
}

/// Asks for the socket's changes of state.
#[inline(always)]
fn watch(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// The kernel address of the context's socket, 0 when it has none.
#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is valid while the program runs.
    number_of(unsafe { (*ctx.ops).__bindgen_anon_2.sk })
}

/// The connection from source to destination, seen from the source's or the destination's socket.
#[inline(always)]
fn tuple(ctx: &SockOpsContext, from_source: bool) -> Option<Tuple> {
    let (local, remote) = match ctx.family() {
        AF_INET => (mapped(ctx.local_ip4()), mapped(ctx.remote_ip4())),
        AF_INET6 => (local_ip6(ctx), remote_ip6(ctx)),
        _ => return None,
    };
    let local_port = ctx.local_port();
    let remote_port = u32::from_be(ctx.remote_port());
    let namespace = if is_loopback(&local) {
        // SAFETY: the helper only reads the context.
        unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
    } else {
        0
    };
    Some(match from_source {
        true => Tuple {
            source: local,
            destination: remote,
            source_port: local_port,
            destination_port: remote_port,
            namespace,
        },
        false => Tuple {
            source: remote,
            destination: local,
            source_port: remote_port,
            destination_port: local_port,
            namespace,
        },
    })
}

#[inline(always)]
pub fn mapped(address: u32) -> AddressBytes {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
pub fn is_loopback(address: &AddressBytes) -> bool {
    let v4 = address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] && address[12] == 127;
    v4 || *address == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
}

/// The verifier takes loads of 4 bytes only; volatile keeps the compiler from joining them.
macro_rules! ip6 {
    ($name:ident, $field:ident) => {
        #[inline(always)]
        pub fn $name(ctx: &SockOpsContext) -> AddressBytes {
            let mut bytes = [0; 16];
            let mut word = 0;
            while word < 4 {
                // SAFETY: the context is valid while the program runs.
                let value = unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).$field[word]) };
                let [a, b, c, d] = value.to_ne_bytes();
                bytes[4 * word] = a;
                bytes[4 * word + 1] = b;
                bytes[4 * word + 2] = c;
                bytes[4 * word + 3] = d;
                word += 1;
            }
            bytes
        }
    };
}
ip6!(local_ip6, local_ip6);
ip6!(remote_ip6, remote_ip6);
