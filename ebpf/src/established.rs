//! A connection is established: is it a session, and may its sockets enter the map?

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{
    ConnectionName, Declaration, DeclarationKey, DestinationKey, Mark, Member, Reason, Session, Tuple,
    counter, event, mode, state,
};

use crate::ends::{self, socket};
use crate::maps::{
    DECLARED, KNOWN_SESSIONS, MEMBERS, NEW_SESSION, SETTINGS, SOCKETS, count, delete_socket, tell,
};
use crate::pending::{self, Noted};
use crate::socket::Socket;
use crate::{habits, kernel, marks, scope};

/// Where a session's key has how often its source was connected before: cookies count up from 1.
const LIVES_SHIFT: u64 = 48;

/// The connecting end. It is always the first of the two, except with data of TCP Fast Open; then the session
/// stays on TCP. Where both ends open at once, neither is seen here.
#[inline(always)]
pub fn source(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    let Some(tuple) = ends::tuple(ctx) else { return };
    let Some(cgroup) = kernel::cgroup_id(socket) else { return };
    let key = DeclarationKey {
        source_cgroup: cgroup,
        address: tuple.destination,
        port: tuple.destination_port,
        padding: 0,
    };
    // SAFETY: the value is copied out at once; the agent replaces declarations whole.
    let declared = (unsafe { DECLARED.get(&key) }).copied();
    let Some((declaration, mark)) = (match declared {
        Some(declaration) => marks::of_or_new(ctx).map(|mark| (declaration, mark)),
        None => marks::of(ctx).and_then(|mark| Some((scope::declaration(&tuple, mark, cgroup)?, mark))),
    }) else {
        return;
    };
    let Some(session) = begin(ctx, socket, &tuple, &declaration, mark) else { return };
    // One acknowledged byte is the SYN; more is data of TCP Fast Open.
    // SAFETY: the context is valid while the program runs.
    let has_data = unsafe { (*ctx.ops).bytes_acked } > 1;
    let known = declared.is_some() || (has_data && pending::came_early(session));
    habits::inherited(ctx, socket, session, true);
    if session.reason == 0 {
        session.reason = session.leave;
    }
    // A program that is observed may be let in later, but not where something else forbids it.
    if session.reason == 0 || session.reason == Reason::Learning as u32 {
        let obstacle = obstacle(socket, &tuple, mark, session.source_cookie, has_data);
        if obstacle != 0 {
            session.reason = obstacle;
        }
    }
    if session.reason == 0 {
        match insert(ctx, mark, session.source_cookie) {
            true => session.state |= state::SOURCE_IN,
            false => session.reason = Reason::NotInserted as u32,
        }
    }
    if known {
        session.state = session.state & !state::TENTATIVE | state::TOLD;
    }
    let member = Member { session: session.key, side: 0, padding: 0 };
    if MEMBERS.insert(&socket, &member, 0).is_err() {
        forget(session);
        return;
    }
    match pending::note(session) {
        Noted::Alone => {}
        Noted::Several => take_out(session, Reason::Mispaired as u32),
        Noted::Full => {
            forget(session);
            return;
        }
    }
    watch(ctx, session);
    if known && !tell(event::ESTABLISHED, 0, session) {
        session.state &= !state::TOLD;
    }
}

/// The accepting end: it completes the pair, or the source leaves the map again.
#[inline(always)]
pub fn destination(ctx: &SockOpsContext) {
    let socket = socket(ctx);
    let here = Socket::at(socket);
    let (Some(write), Some(copied)) = (here.write_sequence(), here.copied_sequence()) else { return };
    let name = ConnectionName { source: copied, destination: write };
    let Some(key) = pending::take(&name) else {
        if kernel::is_fast_open(socket) {
            pending::note_early(&name);
        }
        return;
    };
    let Some(session) = KNOWN_SESSIONS.get_ptr_mut(&key) else { return };
    // SAFETY: the map's entry stays valid while the program runs. Only the one accepting end that has taken
    // the session's key writes these fields.
    let session = unsafe { &mut *session };
    // SAFETY: the helper only reads the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    session.destination_cookie = cookie;
    session.destination_socket = socket;
    session.accepted = ends::local(ctx).unwrap_or_default();
    session.accepted_port = ctx.local_port();
    session.accepted_from = ends::remote(ctx).unwrap_or_default();
    session.accepted_from_port = u32::from_be(ctx.remote_port());
    session.destination_namespace = ends::namespace(ctx);
    let mark = marks::of_or_new(ctx);
    if let Some(mark) = &mark {
        session.destination_program = mark.program;
        session.destination_process = mark.process;
    }
    let cgroup = kernel::cgroup_id(socket).unwrap_or_default();
    if scope::is_scope() && session.destination_instance == 0 {
        session.destination_instance = cgroup;
    }
    let member = Member { session: key, side: 1, padding: 0 };
    if MEMBERS.insert(&socket, &member, 0).is_err() && session.reason == 0 {
        session.reason = Reason::TableFull as u32;
    }
    watch(ctx, session);
    habits::inherited(ctx, socket, session, false);
    if session.reason == 0 && session.state & state::SOURCE_IN == 0 {
        session.reason = Reason::NotInserted as u32;
    }
    if session.reason == 0 || session.reason == Reason::Learning as u32 {
        let mismatch = mismatch(session, socket);
        if mismatch != 0 {
            session.reason = mismatch;
        }
    }
    if session.reason == 0
        && let Some(treatment) = scope::accepting(cgroup, &session.destination_program, session.accepted_port)
    {
        session.reason = treatment.refusal;
        session.about = treatment.about;
        // Whatever is seen of one end counts unless nobody of both cares.
        if treatment.mode == mode::AUTO {
            session.mode = mode::AUTO;
        }
    }
    if session.reason == 0 && !mark.is_some_and(|mark| insert(ctx, mark, cookie)) {
        session.reason = Reason::NotInserted as u32;
    }
    if session.reason == 0 {
        session.state |= state::PAIRED;
    } else {
        take_out(session, session.reason);
    }
    if session.state & state::TENTATIVE != 0 {
        session.state = session.state & !state::TENTATIVE | state::TOLD;
        scope::found_inside(&DestinationKey {
            namespace: session.destination_namespace,
            address: session.accepted,
            port: session.accepted_port,
            padding: 0,
        });
        if !tell(event::ESTABLISHED, 0, session) {
            session.state &= !state::TOLD;
        }
    }
}

/// A new session's record; `None` where it has no place.
#[inline(always)]
fn begin(
    ctx: &SockOpsContext,
    socket: u64,
    tuple: &Tuple,
    declaration: &Declaration,
    mark: &mut Mark,
) -> Option<&'static mut Session> {
    let here = Socket::at(socket);
    let copied = here.copied_sequence()?;
    // SAFETY: the context is valid while the program runs.
    let (acknowledged, bytes) = unsafe { ((*ctx.ops).snd_una, (*ctx.ops).bytes_acked) };
    // SAFETY: the helper only reads the context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let key = cookie | mark.lives << LIVES_SHIFT;
    mark.lives += 1;
    if KNOWN_SESSIONS.insert(&key, &NEW_SESSION, 0).is_err() {
        count(counter::TABLE_FULL);
        return None;
    }
    // SAFETY: the map's entry stays valid while the program runs; nobody else knows the key yet.
    let session = unsafe { &mut *KNOWN_SESSIONS.get_ptr_mut(&key)? };
    session.tuple = *tuple;
    session.source_cookie = cookie;
    session.key = key;
    session.source_socket = socket;
    session.source_program = mark.program;
    session.source_process = mark.process;
    session.destination_cgroup = declaration.destination_cgroup;
    session.source_instance = declaration.source_instance;
    session.destination_instance = declaration.destination_instance;
    // SAFETY: the helper has no arguments.
    session.established = unsafe { bpf_ktime_get_boot_ns() };
    // The SYN is the first of the bytes acknowledged; any more came with it.
    session.source_sequence = acknowledged.wrapping_sub(bytes as u32).wrapping_add(1);
    session.source_expected = copied;
    session.directions[0].written = session.source_sequence;
    session.directions[1].written = copied;
    session.reason = declaration.refusal;
    session.mode = declaration.mode;
    session.about = declaration.about;
    session.watch = SETTINGS.get(0).map_or(0, |settings| settings.watch);
    session.memory_pressure = kernel::memory_pressure(socket);
    Some(session)
}

/// Why the source must not enter the map, or 0.
#[inline(always)]
fn obstacle(socket: u64, tuple: &Tuple, mark: &Mark, cookie: u64, has_data: bool) -> u32 {
    if kernel::is_multipath(socket) {
        return Reason::Multipath as u32;
    }
    // Whoever restores a socket says what its sequence numbers are.
    if kernel::is_restored(socket) {
        return Reason::Restored as u32;
    }
    if mark.entered == cookie {
        return Reason::Reused as u32;
    }
    if tuple.source == tuple.destination && tuple.source_port == tuple.destination_port {
        return Reason::NotAccepted as u32;
    }
    if has_data {
        return Reason::FastOpen as u32;
    }
    0
}

/// Why the accepting socket, which has the name of the session's connection, is not its other end, or 0.
#[inline(always)]
fn mismatch(session: &Session, socket: u64) -> u32 {
    if session.leave != 0 {
        return session.leave;
    }
    // In a scope whoever is seen here belongs to it.
    let declared = session.destination_cgroup != 0;
    if declared && kernel::cgroup_id(socket) != Some(session.destination_cgroup) {
        return Reason::OtherInstance as u32;
    }
    if kernel::is_multipath(socket) {
        return Reason::Multipath as u32;
    }
    0
}

/// Puts the context's socket into the map, for the first time in its life.
#[inline(always)]
fn insert(ctx: &SockOpsContext, mark: &mut Mark, cookie: u64) -> bool {
    mark.entered = cookie;
    // SAFETY: the context is valid while the program runs.
    SOCKETS.update(cookie, unsafe { &mut *ctx.ops }, u64::from(BPF_NOEXIST)).is_ok()
}

/// Takes a session's source out of the map. Nothing has been redirected to it yet, so nothing is lost.
#[inline(always)]
pub fn take_out(session: &mut Session, reason: u32) {
    session.reason = reason;
    if session.state & state::SOURCE_IN != 0 {
        delete_socket(session.source_cookie);
        session.state &= !state::SOURCE_IN;
    }
}

/// Undoes a half-made record: a table is full.
#[inline(always)]
fn forget(session: &Session) {
    count(counter::TABLE_FULL);
    delete_socket(session.source_cookie);
    let _ = MEMBERS.remove(&session.source_socket);
    let _ = KNOWN_SESSIONS.remove(&session.key);
}

/// Asks for the socket's changes of state and, when it enters the map, for its packets.
#[inline(always)]
fn watch(ctx: &SockOpsContext, session: &Session) {
    let mut flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if session.reason == 0 {
        flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    }
    let _ = ctx.set_cb_flags(flags as i32);
}
