//! All maps. Their sizes are set by the agent when it loads the programs.

use aya_ebpf::helpers::generated::bpf_map_delete_elem;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use patchbay_ebpf_common::{
    Declaration, DeclarationKey, Event, Listening, ListeningKey, Member, ProgramName, Session, Settings,
    SourceKey, Tuple,
};

/// Sessions known at once, unless the agent sets another size.
const SESSIONS: u32 = 65_536;
/// Listening sockets, connecting sockets and programs known at once.
const LISTENERS: u32 = 4_096;
/// Bytes of the ring for shown messages: a power of two of pages.
const SHOWN_RING_BYTES: u32 = 1 << 18;
/// Bytes of the event ring: a power of two of pages.
const EVENT_BYTES: u32 = 1 << 20;

/// Which sessions may come to be.
#[map]
pub static DECLARED: HashMap<DeclarationKey, Declaration> = HashMap::with_max_entries(SESSIONS, 0);

/// Sessions by the source's socket cookie.
#[map]
pub static KNOWN_SESSIONS: HashMap<u64, Session> = HashMap::with_max_entries(SESSIONS, 0);

/// Keys of sessions by their connection.
#[map]
pub static BY_TUPLE: HashMap<Tuple, u64> = HashMap::with_max_entries(SESSIONS, 0);

/// Sessions by a socket's kernel address.
#[map]
pub static MEMBERS: HashMap<u64, Member> = HashMap::with_max_entries(2 * SESSIONS, 0);

/// The sockets themselves, by their cookie.
#[map]
pub static SOCKETS: SockHash<u64> = SockHash::with_max_entries(2 * SESSIONS, 0);

/// Listening sockets of the scope.
#[map]
pub static LISTENING: HashMap<ListeningKey, Listening> = HashMap::with_max_entries(LISTENERS, 0);

/// Which program has a connecting socket of the scope, by the socket's kernel address.
#[map]
pub static CONNECTING: LruHashMap<u64, ProgramName> = LruHashMap::with_max_entries(LISTENERS, 0);

/// What happens to sessions of a program with a port.
#[map]
pub static SOURCES: HashMap<SourceKey, Listening> = HashMap::with_max_entries(LISTENERS, 0);

/// Messages of sessions that somebody looks at; when it is full they are not shown.
#[map]
pub static SHOWN: RingBuf = RingBuf::with_byte_size(SHOWN_RING_BYTES, 0);

/// Room to make a session's record, which is too large for the stack.
#[map]
pub static NEW_SESSION: PerCpuArray<Session> = PerCpuArray::with_max_entries(1, 0);

/// Room to turn a pointer into a number.
#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Events for the agent; when it is full the event is lost and the agent finds out by comparing.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// A pointer as a number. The verifier lets nobody compute with a socket's pointer; through a map it
/// becomes a number that `bpf_probe_read_kernel` takes.
#[inline(always)]
pub fn number_of<T>(pointer: *const T) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the entry is this processor's own while the program runs; volatile, so that the way
    // through memory stays.
    unsafe {
        core::ptr::write_volatile(scratch, pointer as u64);
        core::ptr::read_volatile(scratch)
    }
}

/// Takes a socket out of the map.
#[inline(always)]
pub fn delete_socket(cookie: u64) {
    // SAFETY: `SockHash` is a transparent map definition; the key lives until the call returns.
    let _ =
        unsafe { bpf_map_delete_elem((&raw const SOCKETS).cast_mut().cast(), (&raw const cookie).cast()) };
}

/// Tells the agent.
#[inline(always)]
pub fn tell(kind: u32, cause: u32, session: &Session) {
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        let event = entry.as_mut_ptr();
        // SAFETY: the reserved memory is of the event's size and ours until it is submitted.
        unsafe {
            (*event).kind = kind;
            (*event).cause = cause;
            (*event).session = *session;
        }
        entry.submit(0);
    }
}
