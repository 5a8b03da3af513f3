//! What programs do with their sockets that behaves differently once they are redirected.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use patchbay_ebpf_common::{Member, Reason, Session, event, habit, mode};

use crate::kernel;
use crate::maps::{KNOWN_SESSIONS, MEMBERS, SETTINGS, tell};
use crate::socket::Socket;

/// `MSG_OOB`
const URGENT: u64 = 0x1;
/// `MSG_DONTWAIT`, which the kernel adds for sockets that are non-blocking.
const DO_NOT_WAIT: u64 = 0x40;
/// `MSG_WAITALL`
const WAIT_ALL: u64 = 0x100;
/// `MSG_ZEROCOPY`
const ZERO_COPY: u64 = 0x400_0000;
/// `FIONREAD`
const UNREAD_SIZE: u64 = 0x541b;
/// `SHUT_WR`
const END_SENDING: u64 = 1;
/// `SIOCOUTQ`
const UNSENT_SIZE: u64 = 0x5411;
/// `IPPROTO_TCP`
const OF_TCP: u64 = 6;
/// `TCP_INQ`
const QUEUE_SIZE: u64 = 36;

/// A receiving call has ended.
#[inline(always)]
pub fn received(socket: u64, flags: u64) {
    let Some((member, session)) = find(socket) else { return };
    let side = side(member);
    call(session, side);
    let mut seen = 0;
    if flags & WAIT_ALL != 0 {
        seen |= habit::WAIT_ALL;
    }
    if flags & URGENT != 0 {
        seen |= habit::URGENT;
    }
    member.run = 0;
    if !matches!(Socket::at(socket).minimum_asked(), Some(..=1)) {
        seen |= habit::MINIMUM;
    }
    if flags & DO_NOT_WAIT == 0 {
        seen |= habit::BLOCKING;
        member.reader = thread();
        if member.writer != 0 && member.writer != member.reader {
            seen |= habit::CONCURRENT;
        }
    }
    remember(session, side, seen);
}

/// A sending call has ended.
#[inline(always)]
pub fn sent(socket: u64, taken: u64, flags: u64) {
    let Some((member, session)) = find(socket) else { return };
    let side = side(member);
    call(session, side);
    let mut seen = 0;
    if flags & URGENT != 0 {
        seen |= habit::URGENT;
    }
    if flags & ZERO_COPY != 0 {
        seen |= habit::ZERO_COPY;
    }
    // An error is negative, in 32 bits.
    if taken & 0x8000_0000 == 0 {
        member.run = member.run.saturating_add(taken as u32);
    }
    if member.run > habit::LONG_RUN_BYTES {
        seen |= habit::LONG_RUN;
    }
    member.writer = thread();
    if member.reader != 0 && member.reader != member.writer {
        seen |= habit::CONCURRENT;
    }
    remember(session, side, seen);
}

/// A system call begins.
#[inline(always)]
pub fn system_call(registers: u64, number: u64) {
    let (splice, shutdown) = (kernel::is_splice(number), kernel::is_shutdown(number));
    let setsockopt = kernel::is_setsockopt(number);
    if !splice && !shutdown && !setsockopt && !kernel::is_ioctl(number) {
        return;
    }
    let Some([descriptor, second, third]) = kernel::arguments(registers) else { return };
    let (second, third) = (second & 0xffff_ffff, third & 0xffff_ffff);
    let seen = if splice {
        habit::SPLICE
    } else if shutdown {
        if second != END_SENDING {
            return;
        }
        habit::HALF_CLOSE
    } else if setsockopt {
        if second != OF_TCP || third != QUEUE_SIZE {
            return;
        }
        habit::QUEUE_SIZE
    } else if second == UNREAD_SIZE {
        habit::UNREAD_SIZE
    } else if second == UNSENT_SIZE {
        habit::UNSENT_SIZE
    } else {
        return;
    };
    let Some(socket) = kernel::socket_of(descriptor & 0xffff_ffff) else { return };
    let Some((member, session)) = find(socket) else { return };
    remember(session, side(member), seen);
}

#[inline(always)]
fn find(socket: u64) -> Option<(&'static mut Member, &'static mut Session)> {
    let member = MEMBERS.get_ptr_mut(&socket)?;
    // SAFETY: the map's entry stays valid while the program runs; a lost update of a thread's number
    // only delays what is learned from it.
    let member = unsafe { &mut *member };
    let session = KNOWN_SESSIONS.get_ptr_mut(&member.session)?;
    // SAFETY: as above; the fields written here are written nowhere else.
    Some((member, unsafe { &mut *session }))
}

#[inline(always)]
fn side(member: &Member) -> usize {
    usize::from(member.side != 0)
}

#[inline(always)]
fn call(session: &mut Session, side: usize) {
    let direction = session.sent_by(side == 0);
    direction.calls = direction.calls.saturating_add(1);
}

#[inline(always)]
fn thread() -> u32 {
    (bpf_get_current_pid_tgid() & 0xffff_ffff) as u32
}

#[inline(always)]
fn remember(session: &mut Session, side: usize, seen: u32) {
    let new = seen & !session.habits[side];
    if new == 0 {
        return;
    }
    session.habits[side] |= new;
    let harmful = match SETTINGS.get(0) {
        Some(settings) => habit::is_harmful(session.habits[side], settings.harmful),
        None => true,
    };
    if harmful && session.mode == mode::AUTO && session.reason == 0 && session.leave == 0 {
        session.leave = Reason::Habit as u32;
    }
    tell(event::HABIT, 0, session);
}
