//! All maps. Their sizes are set by the agent when it loads the programs.

use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type};
use aya_ebpf::helpers::generated::{bpf_map_delete_elem, bpf_probe_read_kernel};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use patchbay_ebpf_common::habit::NAMED;
use patchbay_ebpf_common::{
    ConnectionName, Declaration, DeclarationKey, DestinationKey, Event, Member, Session, Settings, SourceKey,
    Treatment, counter,
};

use crate::marks::Marks;

/// Sessions known at once, unless the agent sets another size.
const SESSIONS: u32 = 65_536;
/// Programs with their ports known at once; those that were not used for longest are forgotten, and treated as
/// new ones are.
const MAX_SOURCES: u32 = 16_384;
/// Containers of a scope that something is said of at once.
const MAX_CONTAINERS: u32 = 16_384;
/// Destinations outside the scope remembered at once; those that were not used for longest are forgotten.
const MAX_OUTSIDE: u32 = 4_096;
/// Accepting ends that came before their sources remembered at once.
const MAX_EARLY: u32 = 1_024;
/// Bytes of the ring for shown messages: a power of two of pages.
const SHOWN_RING_BYTES: u32 = 1 << 18;
/// Bytes of the event ring: a power of two of pages.
const EVENT_BYTES: u32 = 1 << 20;

/// Which sessions may come to be.
#[map]
pub static DECLARED: HashMap<DeclarationKey, Declaration> = HashMap::with_max_entries(SESSIONS, 0);

/// Sessions by their key.
#[map]
pub static KNOWN_SESSIONS: HashMap<u64, Session> = HashMap::with_max_entries(SESSIONS, 0);

/// A new session's record. It is filled where it stays: room that programs of a processor share would be written
/// by one while another is interrupted. Nobody takes it for a session before it is.
pub static NEW_SESSION: Session = {
    // SAFETY: all zero is a record.
    let mut session: Session = unsafe { core::mem::zeroed() };
    session.state = patchbay_ebpf_common::state::TENTATIVE;
    session
};

/// Keys of sessions whose accepting end is not known yet, 0 where two connections have the same name.
#[map]
pub static PENDING: HashMap<ConnectionName, u64> = HashMap::with_max_entries(SESSIONS, 0);

/// Connections whose accepting end of the scope was there first (TCP Fast Open); those that came first go first.
#[map]
pub static EARLY: LruHashMap<ConnectionName, u32> = LruHashMap::with_max_entries(MAX_EARLY, 0);

/// Sessions by a socket's kernel address.
#[map]
pub static MEMBERS: HashMap<u64, Member> = HashMap::with_max_entries(2 * SESSIONS, 0);

/// The sockets themselves, by their cookie.
#[map]
pub static SOCKETS: SockHash<u64> = SockHash::with_max_entries(2 * SESSIONS, 0);

/// What every socket of a session has of its own, as long as it lives.
#[btf_map]
pub static MARKS: Marks = Marks::new();

/// What happens to sessions of a program with a port.
#[map]
pub static SOURCES: LruHashMap<SourceKey, Treatment> = LruHashMap::with_max_entries(MAX_SOURCES, 0);

/// What happens to sessions of a cgroup of the scope, by its id; of others the settings say it.
#[map]
pub static CONTAINERS: HashMap<u64, Treatment> = HashMap::with_max_entries(MAX_CONTAINERS, BPF_F_NO_PREALLOC);

/// Destinations that were found outside the scope, and until when that holds, in nanoseconds since boot.
#[map]
pub static OUTSIDE: LruHashMap<DestinationKey, u64> = LruHashMap::with_max_entries(MAX_OUTSIDE, 0);

/// What is counted of all sessions, by [`counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);

/// Messages of sessions that somebody looks at; when it is full they are not shown.
#[map]
pub static SHOWN: RingBuf = RingBuf::with_byte_size(SHOWN_RING_BYTES, 0);

/// One entry.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// One entry: 1 while a person wants no redirection on this node, whatever the agent's settings say.
#[map]
pub static PAUSED: Array<u32> = Array::with_max_entries(1, 0);

/// Events for the agent; when it is full the event is lost and counted, and the agent looks at the records.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// A map that keeps habits with each socket, which an accepted one inherits: aya's has no way to say that.
#[repr(C)]
pub struct WithSocket {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const [u64; NAMED],
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers are never followed; they only carry types for whoever loads the map.
unsafe impl Sync for WithSocket {}

/// Options that were set on a socket and are not on the list.
#[btf_map]
pub static OPTIONS: WithSocket = WithSocket {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

/// A pointer as a number. The verifier lets nobody compute with a socket's pointer, but the kernel reads it from
/// this program's own stack as any other bytes. No map is on the way: a program may be interrupted by another one
/// on its processor, which would find the same place there.
#[inline(always)]
pub fn number_of<T>(pointer: *const T) -> u64 {
    let mut slot: *const T = core::ptr::null();
    let mut number: u64 = 0;
    // SAFETY: both are on the stack, of eight bytes; volatile, so that the pointer is really there.
    unsafe {
        core::ptr::write_volatile(&raw mut slot, pointer);
        bpf_probe_read_kernel((&raw mut number).cast(), 8, (&raw const slot).cast());
    }
    number
}

/// Takes a socket out of the map.
#[inline(always)]
pub fn delete_socket(cookie: u64) {
    // SAFETY: `SockHash` is a transparent map definition; the key lives until the call returns.
    let _ =
        unsafe { bpf_map_delete_elem((&raw const SOCKETS).cast_mut().cast(), (&raw const cookie).cast()) };
}

/// Counts one more, by [`counter`].
#[inline(always)]
pub fn count(number: u32) {
    if let Some(counted) = COUNTERS.get_ptr_mut(number) {
        // SAFETY: the entry is this processor's own while the program runs.
        unsafe { *counted += 1 };
    }
}

/// Tells the agent; false when the ring is full.
#[inline(always)]
pub fn tell(kind: u32, cause: u32, session: &Session) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(counter::EVENTS_LOST);
        return false;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved memory is of the event's size and ours until it is submitted.
    unsafe {
        (*event).kind = kind;
        (*event).cause = cause;
        (*event).session = *session;
    }
    entry.submit(0);
    true
}
