//! What programs do with their sockets: whatever is not on the list is noted, and keeps them on TCP.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_pidns_info, bpf_sock};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_ns_current_pid_tgid, bpf_sk_storage_get};
use aya_ebpf::programs::{SockOpsContext, SockoptContext, TracePointContext};
use patchbay_ebpf_common::habit::{
    self, IPPROTO_TCP, NAMED, SO_ATTACH_FILTER, SO_MAX_PACING_RATE, SO_PEEK_OFF, SO_RCVLOWAT,
    SO_TIMESTAMPING, SOL_SOCKET, TCP_ULP, manner, receive_flag,
};
use patchbay_ebpf_common::{Habit, Member, Reason, Session, event, mode, state};

use crate::calls::{self, CALLS_RECEIVING, CALLS_SENDING, Call, argument, has};
use crate::kernel;
use crate::maps::{KNOWN_SESSIONS, MEMBERS, OPTIONS, SETTINGS, number_of, tell};
use crate::socket::Socket;

/// Options longer than this reach the kernel only if the program says that it left them alone (a page).
const MAX_SEEN_OPTION: i32 = 4_096;

/// A receiving call has ended.
#[inline(always)]
pub fn received(socket: u64, result: i32, flags: u32) {
    let Some((member, session)) = find(socket) else { return };
    let source = member.side == 0;
    count_call(session, source);
    if result > 0 && flags & receive_flag::PEEK == 0 {
        let taken = session.taken_by(source);
        *taken = taken.wrapping_add(result as u32);
    }
    note(session, source, Habit::received_with(flags));
    if flags & receive_flag::DO_NOT_WAIT == 0 {
        note(session, source, Habit::manner(manner::BLOCKS));
    }
    if !matches!(Socket::at(socket).minimum_asked(), Some(..=1)) {
        note(session, source, Habit::set(SOL_SOCKET, SO_RCVLOWAT));
    }
    let call = Call::current();
    // Without bytes and without an end a call gives nothing only if it asks for nothing.
    if result <= 0 && (call.is_empty_receive() || (result == 0 && !Socket::at(socket).is_at_its_end())) {
        note(session, source, Habit::manner(manner::EMPTY));
    }
    if call.number == calls::NONE {
        note(session, source, Habit::manner(manner::RING));
    } else if !has(&CALLS_RECEIVING, call.number) {
        note(session, source, Habit::call(call.number));
    }
}

/// A sending call has ended.
#[inline(always)]
pub fn sent(socket: u64, result: i32) {
    let Some((member, session)) = find(socket) else { return };
    let source = member.side == 0;
    count_call(session, source);
    let call = Call::current();
    if call.number == calls::NONE {
        note(session, source, Habit::manner(manner::RING));
    } else if !has(&CALLS_SENDING, call.number) {
        note(session, source, Habit::call(call.number));
    }
    note(session, source, Habit::sent_with(call.send_flags()));
    // Before that a send of no byte gives 0 over TCP too.
    if result <= 0 && Socket::at(socket).has_stopped_sending() && (result == 0 || call.is_empty_send()) {
        note(session, source, Habit::manner(manner::NOTHING_SENT));
    }
    if call.has_control_data() {
        note(session, source, Habit::manner(manner::CONTROL_DATA));
    }
}

/// A system call on a descriptor begins.
#[inline(always)]
fn on_descriptor(descriptor: u64, habit: Habit) {
    if habit == Habit::NONE {
        return;
    }
    let Some(socket) = kernel::socket_of(descriptor & 0xffff_ffff) else { return };
    let Some((member, session)) = find(socket) else { return };
    note(session, member.side == 0, habit);
}

/// `ioctl` begins.
#[inline(always)]
pub fn ioctl(ctx: &TracePointContext) {
    on_descriptor(argument(ctx.as_ptr(), 0), Habit::ioctl(argument(ctx.as_ptr(), 1) as u32));
}

/// `getsockopt` begins.
#[inline(always)]
pub fn getsockopt(ctx: &TracePointContext) {
    let (level, option) = (argument(ctx.as_ptr(), 1) as u32, argument(ctx.as_ptr(), 2) as u32);
    on_descriptor(argument(ctx.as_ptr(), 0), Habit::got(level, option));
}

/// `splice` begins: its first argument is where bytes come from.
///
/// It sees nothing of redirected bytes. Where some are unread it would wait for ever, or take bytes over TCP that come
/// after them: then nothing more may go over TCP before the agent has broken the connection off.
#[inline(always)]
pub fn splice(ctx: &TracePointContext) {
    let Some(socket) = kernel::socket_of(argument(ctx.as_ptr(), 0) & 0xffff_ffff) else { return };
    let Some((member, session)) = find(socket) else { return };
    let (source, habit) = (member.side == 0, this_call(ctx));
    let was_redirected = session.sent_by(!source).kernel_messages != 0;
    let is_unread = Socket::at(socket).unread_redirected().is_some_and(|unread| unread != 0);
    if session.state & state::LEFT == 0 && was_redirected && is_unread {
        add(session.habits_of(source), habit);
        tell(event::BREAK_OFF, 0, session);
    } else {
        note(session, source, habit);
    }
}

/// `sendfile` begins: its second argument is where bytes come from.
#[inline(always)]
pub fn sendfile(ctx: &TracePointContext) {
    on_descriptor(argument(ctx.as_ptr(), 1), this_call(ctx));
}

/// The call that the tracepoint tells of.
#[inline(always)]
fn this_call(ctx: &TracePointContext) -> Habit {
    /// Behind a pointer of the kernel's.
    const NUMBER: usize = 8;
    // SAFETY: every system call's tracepoint has its number there.
    Habit::call(unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u8>().add(NUMBER).cast()) })
}

/// An option of a TCP socket is about to be set, on whatever socket of the cgroup: what a listening socket has
/// is inherited by those that it accepts.
#[inline(always)]
pub fn option_set(ctx: &SockoptContext) {
    let option = ctx.sockopt;
    // SAFETY: the context is valid while the program runs.
    let (level, name, length) = unsafe { ((*option).level, (*option).optname, (*option).optlen) };
    if length > MAX_SEEN_OPTION {
        // SAFETY: as above; the kernel then takes the program's own bytes.
        unsafe { (*option).optlen = 0 };
    }
    let habit = Habit::set(level as u32, name as u32);
    if habit == Habit::NONE {
        return;
    }
    // SAFETY: as above.
    let socket = unsafe { (*option).__bindgen_anon_1.sk };
    // SAFETY: the socket lives while one of its options is set.
    if socket.is_null() || unsafe { (*socket).protocol } != IPPROTO_TCP {
        return;
    }
    if let Some(set) = options(socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) {
        add(set, habit);
    }
    if let Some((member, session)) = find(number_of(socket)) {
        note(session, member.side == 0, habit);
    }
}

/// What was set on the socket itself or on the one that accepted it, at its establishment.
#[inline(always)]
pub fn inherited(ctx: &SockOpsContext, socket: u64, session: &mut Session, source: bool) {
    // SAFETY: the context is valid while the program runs.
    let known = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if !known.is_null()
        && let Some(set) = options(known, 0)
    {
        let mut index = 0;
        while index < NAMED {
            note(session, source, Habit(set[index]));
            index += 1;
        }
    }
    // Multipath TCP is an upper layer too, and says so itself.
    if kernel::is_multipath(socket) {
        return;
    }
    // What was set before anybody looked shows in the socket itself.
    let here = Socket::at(socket);
    if here.read::<u64>(kernel::filter_offset()) != Some(0) {
        note(session, source, Habit::set(SOL_SOCKET, SO_ATTACH_FILTER));
    }
    if here.read::<u64>(kernel::upper_layer_offset()) != Some(0) {
        note(session, source, Habit::set(IPPROTO_TCP, TCP_ULP));
    }
    if !matches!(here.read::<i32>(kernel::peek_offset_offset()), Some(..0)) {
        note(session, source, Habit::set(SOL_SOCKET, SO_PEEK_OFF));
    }
    if here.read::<u64>(kernel::pacing_rate_offset()) != Some(u64::MAX) {
        note(session, source, Habit::set(SOL_SOCKET, SO_MAX_PACING_RATE));
    }
    if here.read::<u32>(kernel::time_stamps_offset()) != Some(0) {
        note(session, source, Habit::set(SOL_SOCKET, SO_TIMESTAMPING));
    }
}

/// An end of a session on TCP stops sending: were all bytes that it has read so far seen to be received?
#[inline(always)]
pub fn finishes(session: &mut Session, socket: u64, source: bool) {
    let watch = SETTINGS.get(0).map_or(0, |settings| settings.watch);
    let [there, back] = &session.directions;
    // Of multipath TCP another socket is read.
    let is_whole = session.reason != 0 && session.reason != Reason::Multipath as u32;
    if !is_whole || watch == 0 || session.watch != watch || there.kernel_messages + back.kernel_messages != 0
    {
        return;
    }
    let begun = if source { session.source_expected } else { session.source_sequence };
    let taken = *session.taken_by(source);
    let Some(copied) = Socket::at(socket).copied_sequence() else { return };
    // The other end's FIN counts as a byte.
    if copied.wrapping_sub(begun).wrapping_sub(taken) > 1 {
        note(session, source, Habit::manner(manner::UNSEEN));
    }
}

/// The options that were set on a socket and are not on the list.
#[inline(always)]
fn options(socket: *mut bpf_sock, flags: u64) -> Option<&'static mut [u64; NAMED]> {
    // SAFETY: a map of this kind, and a socket that lives while the program runs.
    let set = unsafe {
        bpf_sk_storage_get(
            (&raw const OPTIONS).cast_mut().cast(),
            socket.cast(),
            core::ptr::null_mut(),
            flags,
        )
    };
    // SAFETY: the storage stays valid while the program runs; a lost update only delays what is noted.
    unsafe { set.cast::<[u64; NAMED]>().as_mut() }
}

#[inline(always)]
fn find(socket: u64) -> Option<(&'static Member, &'static mut Session)> {
    let member = MEMBERS.get_ptr(&socket)?;
    // SAFETY: the map's entry stays valid while the program runs.
    let member = unsafe { &*member };
    let session = KNOWN_SESSIONS.get_ptr_mut(&member.session)?;
    // SAFETY: as above; a lost update of what is written here only delays what is noted.
    Some((member, unsafe { &mut *session }))
}

#[inline(always)]
fn count_call(session: &mut Session, source: bool) {
    let direction = session.sent_by(source);
    direction.calls = direction.calls.saturating_add(1);
    let process = process();
    if source {
        session.users[0] = process;
    } else {
        session.users[1] = process;
    }
}

/// The running process, in the agent's PID namespace; 0 when it is not of it.
#[inline(always)]
fn process() -> u32 {
    let Some(settings) = SETTINGS.get(0) else { return 0 };
    let [device, inode] = settings.processes;
    if inode == 0 {
        return (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    let mut found = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the room is of the size that is told.
    let failed = unsafe {
        bpf_get_ns_current_pid_tgid(device, inode, &raw mut found, size_of::<bpf_pidns_info>() as u32)
    };
    if failed == 0 { found.tgid } else { 0 }
}

/// Puts a habit among those of an end. False when it is there already, or there is no room for more.
#[inline(always)]
fn add(noted: &mut [u64; NAMED], habit: Habit) -> bool {
    let mut index = 0;
    while index < NAMED {
        if noted[index] == habit.0 {
            return false;
        }
        if noted[index] == 0 {
            noted[index] = habit.0;
            return true;
        }
        index += 1;
    }
    false
}

/// Notes a habit; one that can harm takes a session of mode `auto` back to TCP, and of any mode one whose effect only
/// TCP has.
#[inline(always)]
fn note(session: &mut Session, source: bool, habit: Habit) {
    if habit != Habit::NONE && add(session.habits_of(source), habit) {
        noted(session, habit);
    }
}

/// Takes a session back to TCP if something was noted that can harm.
#[inline(always)]
pub fn weigh(session: &mut Session) {
    let harmless = SETTINGS.get(0).map_or(0, |settings| settings.harmless);
    let mut index = 0;
    while index < NAMED {
        let noted = [session.habits[0][index], session.habits[1][index]];
        for habit in noted {
            if habit != 0 && Habit(habit).harms(harmless) && session.leave == 0 {
                session.leave = Reason::Habit as u32;
                session.about = habit;
            }
        }
        index += 1;
    }
}

/// Once for each habit: a function of its own keeps the programs small.
#[inline(never)]
fn noted(session: &mut Session, habit: Habit) {
    let harmless = SETTINGS.get(0).map_or(0, |settings| settings.harmless);
    let leaves = habit.needs_tcp() || (session.mode == mode::AUTO && habit.harms(harmless));
    if leaves && session.reason == 0 && session.leave == 0 {
        session.leave = Reason::Habit as u32;
        session.about = habit.0;
    }
    if session.state & state::TENTATIVE == 0 {
        tell(event::HABIT, 0, session);
    }
}
