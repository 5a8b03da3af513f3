//! Map keys, values and events, shared by the kernel programs and the agent.
//!
//! Everything is `repr(C)` without hidden padding, its size asserted: both sides read the same bytes.
#![no_std]

pub mod habit;
mod keys;
pub mod plug;
mod reason;

pub use habit::Habit;
pub use keys::*;
pub use reason::Reason;

/// One direction of a session, written by its sender's side only.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Direction {
    /// Keeps what each end writes on cache lines of its own: the other end's processor reads what is before.
    pub apart: [u64; 8],
    /// Bytes redirected.
    pub kernel_bytes: u64,
    /// Bytes over TCP.
    pub tcp_bytes: u64,
    /// Messages redirected, as the kernel program saw them.
    pub kernel_messages: u64,
    /// Messages over TCP, as the kernel program saw them.
    pub tcp_messages: u64,
    /// When something was last sent: monotonic nanoseconds in steps of some milliseconds, which costs least.
    pub last_activity: u64,
    /// How often the direction changed its path.
    pub switches: u32,
    /// 0 while nothing was sent, then one of [`path`].
    pub path: u32,
    /// The [`Reason`] for the latest message over TCP, or 0.
    pub reason: u32,
    /// 1 once a byte went over TCP, until one is redirected again.
    pub went_tcp: u32,
    /// Bytes of the present window: so many messages, after which the traffic is judged.
    pub window_bytes: u64,
    /// The other direction's messages when the window began.
    pub window_answered: u64,
    /// Messages of the present window.
    pub window_messages: u32,
    /// Those of its bytes that went over TCP.
    pub window_tcp: u32,
    /// Windows in a row of which a good part went over TCP.
    pub outrun: u32,
    /// Sending and receiving calls of the end that sends this direction, seen while it was observed.
    pub calls: u32,
    /// Messages that do not wait for the reader, because one has waited in vain.
    pub hurried: u32,
    /// The sequence number up to which bytes over TCP are counted.
    pub written: u32,
    /// What is left of a message whose first part was redirected, in bytes.
    pub rest: u32,
    /// Always zero.
    pub padding: u32,
}

/// Paths of a direction.
pub mod path {
    /// Redirected.
    pub const KERNEL: u32 = 1;
    /// Over TCP.
    pub const TCP: u32 = 2;
}

/// Number of the layout of all maps. It grows with every change of a key or a value, so that an agent never
/// reads another version's maps as its own.
pub const LAYOUT: u32 = 8;

/// The first bytes of a [`Session`], up to `leave`, which keep their places in every layout: the sessions of
/// an earlier version are followed by them.
pub const LASTING_BYTES: usize = 136;

/// A session as the kernel programs know it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Session {
    /// The connection.
    pub tuple: Tuple,
    /// Socket cookie of the source.
    pub source_cookie: u64,
    /// Socket cookie of the destination, 0 until it is known.
    pub destination_cookie: u64,
    /// Kernel address of the source's socket.
    pub source_socket: u64,
    /// Kernel address of the destination's socket, 0 until it is known.
    pub destination_socket: u64,
    /// Id of the cgroup that the destination's socket must belong to.
    pub destination_cgroup: u64,
    /// The source instance's id.
    pub source_instance: u64,
    /// The destination instance's id.
    pub destination_instance: u64,
    /// When the source was established, nanoseconds since boot.
    pub established: u64,
    /// The source's next sequence number when it was established.
    pub source_sequence: u32,
    /// The sequence number that the source expected next when it was established.
    pub source_expected: u32,
    /// Bits of [`state`].
    pub state: u32,
    /// 0, or the [`Reason`] why the session is not in the map.
    pub reason: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// 0, or the [`Reason`] to take the session back to TCP for good.
    pub leave: u32,
    /// The process that last received or sent at the source's and the destination's end, 0 while none was seen.
    pub users: [u32; 2],
    /// 0, or 1 + bytes of each message to be shown.
    pub trace: u32,
    /// [`Settings::watch`] when it was established.
    pub watch: u32,
    /// The [`Habit`] that `reason` or `leave` is about, or 0.
    pub about: u64,
    /// What each end was seen to do that is not on the list: the first [`habit::NAMED`] habits.
    pub habits: [[u64; habit::NAMED]; 2],
    /// Bytes that receiving calls of each end took, modulo 2^32, while it was observed.
    pub taken: [u32; 2],
    /// Where the kernel keeps whether TCP is short of memory, or 0.
    pub memory_pressure: u64,
    /// The session's key: no other session has it while the machine runs.
    pub key: u64,
    /// Bytes over TCP in each direction as TCP itself counted them when an end closed.
    pub carried: [u64; 2],
    /// The cookie of the destination's network namespace, 0 until it is known.
    pub destination_namespace: u64,
    /// The address at which the destination accepted, after whatever translated it; zero until it is known.
    pub accepted: AddressBytes,
    /// The other end's address as the destination has it.
    pub accepted_from: AddressBytes,
    /// The port at which the destination accepted, host byte order.
    pub accepted_port: u32,
    /// The other end's port as the destination has it, host byte order.
    pub accepted_from_port: u32,
    /// The sequence number of the FIN of an end that was closed with redirected bytes unread.
    pub reset_sequence: u32,
    /// The process that connected, where there are no declarations.
    pub source_process: u32,
    /// The process that began to listen, where there are no declarations.
    pub destination_process: u32,
    /// One of [`cause`], once both ends are closed.
    pub cause: u32,
    /// 1 while a person wants further messages to go over TCP.
    pub paused: u32,
    /// Bits of [`entry`].
    pub entry: u32,
    /// The program that connected, where there are no declarations.
    pub source_program: Program,
    /// The program that began to listen, where there are no declarations.
    pub destination_program: Program,
    /// From source to destination, then back.
    pub directions: [Direction; 2],
}

impl Session {
    /// What one end was seen to do that is not on the list.
    #[inline(always)]
    pub fn habits_of(&mut self, source: bool) -> &mut [u64; habit::NAMED] {
        if source { &mut self.habits[0] } else { &mut self.habits[1] }
    }

    /// Bytes that one end's receiving calls took.
    #[inline(always)]
    pub fn taken_by(&mut self, source: bool) -> &mut u32 {
        if source { &mut self.taken[0] } else { &mut self.taken[1] }
    }

    /// What one end sends. No index is computed: the kernel's check of the programs can't follow it.
    #[inline(always)]
    pub fn sent_by(&mut self, source: bool) -> &mut Direction {
        if source { &mut self.directions[0] } else { &mut self.directions[1] }
    }
}

/// Operations of the program that the agent calls, with the session's key and a value.
pub mod operation {
    /// Unread redirected bytes at the end that the value names: 0 the source, 1 the destination.
    pub const UNREAD: u64 = 1;
    /// Take the session back to TCP; the value is the reason.
    pub const LEAVE: u64 = 2;
    /// The session has left the map.
    pub const LEFT: u64 = 3;
    /// Show messages; the value is [`super::Session::trace`].
    pub const TRACE: u64 = 4;
    /// The agent has heard of the session from its record, because the event was lost.
    pub const TOLD: u64 = 5;
    /// The agent has heard of the session's end from its record, which may go.
    pub const FORGET: u64 = 6;
    /// The next sequence number that the source will send.
    pub const NEXT_TO_SEND: u64 = 7;
    /// The next sequence number that the source expects.
    pub const NEXT_EXPECTED: u64 = 8;
    /// Further messages go over TCP, or not; the value is [`super::Session::paused`].
    pub const PAUSE: u64 = 9;
    /// Let a session into the map that is on TCP because its program was observed. The answer is 1 when nothing
    /// that is known of it speaks against it.
    pub const ENTER: u64 = 10;
    /// What became of it: 1 when both ends are in, 0 when it stays on TCP; then neither may stay in the map.
    pub const BOTH_IN: u64 = 11;
    /// Every call that began before both ends were in has ended: redirect from now on, or take the session back to TCP
    /// if the value is a reason. The answer is 1 when it is redirected.
    pub const BEGIN: u64 = 12;
    /// The answer for a session that is not known.
    pub const UNKNOWN: u32 = u32::MAX;
}

/// Bits of a session's state.
pub mod state {
    /// The source's socket is in the map.
    pub const SOURCE_IN: u32 = 1;
    /// Both sockets are in the map.
    pub const PAIRED: u32 = 2;
    /// The source's socket is closed.
    pub const SOURCE_CLOSED: u32 = 4;
    /// The destination's socket is closed.
    pub const DESTINATION_CLOSED: u32 = 8;
    /// Both sockets have left the map, and TCP counts.
    pub const LEFT: u32 = 16;
    /// The agent has been told that the session exists.
    pub const TOLD: u32 = 32;
    /// Both sockets are closed, and the agent has not been told.
    pub const ENDED: u32 = 64;
    /// It is a session only once its destination is found in the scope.
    pub const TENTATIVE: u32 = 128;
}

/// How far a session has come that enters the map in mid-life, as bits.
pub mod entry {
    /// The agent wants it in.
    pub const WANTED: u32 = 1;
    /// The source's socket is in.
    pub const SOURCE_IN: u32 = 2;
    /// The destination's socket is in.
    pub const DESTINATION_IN: u32 = 4;
    /// Both are in, and nothing is redirected before every call that began earlier has ended.
    pub const SETTLING: u32 = 8;
    /// It is redirected.
    pub const ENTERED: u32 = 16;
    /// Both sockets' bits.
    pub const BOTH_IN: u32 = SOURCE_IN | DESTINATION_IN;
}

/// A thread that may be inside a call.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    /// Its kernel address.
    pub task: u64,
    /// How long it has been outside the kernel. When this grows, every call that it was in has ended.
    pub user_time: u64,
}

/// Which session a socket belongs to, by the socket's kernel address.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// The session's key.
    pub session: u64,
    /// 0 the source, 1 the destination.
    pub side: u32,
    /// Always zero.
    pub padding: u32,
}

/// What can be changed while the programs run.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// 1 to redirect, 0 to send over TCP.
    pub redirect: u32,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size.
    pub in_flight_budget: u32,
    /// 1 when every connection inside the programs' cgroup is a session, declared or not.
    pub scope: u32,
    /// For programs of the scope that nothing is said of: 0, or the [`Reason`] to stay on TCP.
    pub scope_refusal: u32,
    /// For programs of the scope that nothing is said of: one of [`mode`].
    pub scope_mode: u32,
    /// Bits of [`habit::tried`] that redirection leaves as they are on this kernel.
    pub harmless: u32,
    /// Another number each time that programs begin to be observed, 0 while they are not.
    pub watch: u32,
    /// The first and, in the upper half, the last port that the system chooses for who wants any.
    pub chosen_ports: u32,
    /// Device and inode of the agent's PID namespace, 0 in the first one of the system.
    pub processes: [u64; 2],
}

/// The call of `bpf_rdonly_cast` as it stands in the programs' file: a call of a kernel function (`0x85` with 2 as
/// its source register) whose number, the upper half, is put in by the agent when it loads them.
pub const CAST_CALL: u64 = 0x5b1d_ca57_0000_2085;

/// A message of a session that is shown.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    /// The session's key.
    pub session: u64,
    /// Nanoseconds since boot.
    pub time: u64,
    /// The message's size.
    pub size: u32,
    /// 0 from the source, 1 from the destination.
    pub side: u32,
    /// One of [`path`].
    pub path: u32,
    /// How many of the bytes below are the message's first.
    pub length: u32,
    /// The message's first bytes.
    pub bytes: [u8; SHOWN_BYTES],
}

/// Bytes of a message that can be shown.
pub const SHOWN_BYTES: usize = 64;

/// Something the kernel programs tell.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// One of [`event`].
    pub kind: u32,
    /// For a closed session one of [`cause`].
    pub cause: u32,
    /// The session at that moment.
    pub session: Session,
}

/// Kinds of events.
pub mod event {
    /// The source is connected.
    pub const ESTABLISHED: u32 = 1;
    /// The session is over.
    pub const CLOSED: u32 = 2;
    /// A habit was seen for the first time in this session.
    pub const HABIT: u32 = 3;
    /// The session is to leave the map.
    pub const LEAVING: u32 = 4;
    /// An end was closed while redirected bytes were unread; the event's cause is 0 for the source, 1 for the
    /// destination.
    pub const UNREAD: u32 = 5;
    /// An end splices out of its socket, which would take bytes over TCP before redirected ones that are unread: the
    /// connection can only be broken off.
    pub const BREAK_OFF: u32 = 6;
}

/// What is counted of all sessions, by the number of the counter.
pub mod counter {
    /// Events that did not fit into the ring: the agent looks at the sessions' records instead.
    pub const EVENTS_LOST: u32 = 0;
    /// Sessions that found a table full: they stay on TCP, without a record.
    pub const TABLE_FULL: u32 = 1;
    /// Sockets of the scope that began to listen.
    pub const LISTENED: u32 = 2;
    /// How many counters there are.
    pub const COUNT: u32 = 3;
}

/// Why a session ended.
pub mod cause {
    /// The source closed first.
    pub const SOURCE_FINISHED: u32 = 1;
    /// The destination closed first.
    pub const DESTINATION_FINISHED: u32 = 2;
    /// A reset, a time-out or an error.
    pub const BROKEN: u32 = 3;
}

const _: () = {
    assert!(size_of::<Direction>() == 168);
    assert!(
        size_of::<Session>()
            == 48 + 8 * 8 + 10 * 4 + 8 + 16 * habit::NAMED + 16 + 24 + 16 + 56 + 2 * 40 + 2 * 168
    );
    assert!(core::mem::offset_of!(Session, source_cookie) == 48);
    assert!(core::mem::offset_of!(Session, source_instance) == 88);
    assert!(core::mem::offset_of!(Session, leave) == LASTING_BYTES - 4);
    assert!(size_of::<Member>() == 16);
    assert!(size_of::<Settings>() == 48);
    assert!(size_of::<Shown>() == 32 + SHOWN_BYTES);
    assert!(size_of::<Event>() == 8 + size_of::<Session>());
};

#[cfg(feature = "user")]
mod user {
    use super::*;

    macro_rules! pod {
        ($($name:ty),*) => { $(
            // SAFETY: repr(C), plain integers, no padding (sizes asserted above): any bytes are a value.
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(DeclarationKey, Declaration, Treatment, Program, SourceKey, Tuple, ConnectionName, DestinationKey);
    pod!(Mark, Direction, Session, Member, Settings, Busy, Event, Shown);
}
