//! What a socket has of its own (`BPF_MAP_TYPE_SK_STORAGE`, Linux 5.2; in sock_ops since 5.8): it goes with the
//! socket, so it needs no table, and nothing of an earlier socket at the same address is ever found.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_user, bpf_sk_storage_get,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::SockOpsContext;
use patchbay_ebpf_common::{ARGUMENT_BYTES, Mark, Program, arguments_hash};

use crate::kernel;
use crate::maps::MARKS;

/// `BPF_F_CLONE`: a listening socket's storage is copied for the sockets accepted from it.
const CLONE: usize = 1 << 9;

/// The map's definition, as the loader reads it from the programs' types; aya's own has no flag for copies.
#[repr(C)]
pub struct Marks {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Mark,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize | CLONE],
}

// SAFETY: the fields are placeholders that only the loader looks at.
unsafe impl Sync for Marks {}

impl Marks {
    pub const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

/// Room for the arguments of a process, and for whom they were read: a program may be interrupted by another one
/// on its processor.
#[repr(C)]
struct Arguments {
    reader: u64,
    bytes: [u8; ARGUMENT_BYTES],
}

#[map]
static ARGUMENTS: PerCpuArray<Arguments> = PerCpuArray::with_max_entries(1, 0);

/// The mark of the context's socket, if it has one.
#[inline(always)]
pub fn of(ctx: &SockOpsContext) -> Option<&'static mut Mark> {
    find(ctx, 0)
}

/// The mark of the context's socket, made if it has none; `None` when the kernel has no room for it.
#[inline(always)]
pub fn of_or_new(ctx: &SockOpsContext) -> Option<&'static mut Mark> {
    find(ctx, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn find(ctx: &SockOpsContext, flags: u64) -> Option<&'static mut Mark> {
    // SAFETY: the context is valid while the program runs; volatile, so that what is checked is what is used.
    let socket = unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if socket.is_null() {
        return None;
    }
    look_up(socket, flags)
}

/// The mark of a socket, if it has one.
#[inline(always)]
pub fn of_socket(socket: *mut bpf_sock) -> Option<&'static mut Mark> {
    look_up(socket, 0)
}

#[inline(always)]
fn look_up(socket: *mut bpf_sock, flags: u64) -> Option<&'static mut Mark> {
    // SAFETY: the map and the socket are valid; a new value is all zero, which is a mark.
    let mark = unsafe {
        bpf_sk_storage_get((&raw const MARKS).cast_mut().cast(), socket.cast(), core::ptr::null_mut(), flags)
    };
    // SAFETY: the value lives as long as its socket, whose lock the callers have.
    unsafe { mark.cast::<Mark>().as_mut() }
}

/// Notes which program has the socket: called in that program's own call.
#[inline(always)]
pub fn note_program(mark: &mut Mark) {
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    let (device, inode) = kernel::executable(task).unwrap_or_default();
    let name = kernel::program_name(task).unwrap_or_default();
    mark.program =
        Program { name, inode, arguments: arguments(task).unwrap_or_default(), device, padding: 0 };
    mark.process = kernel::process(task).unwrap_or_default();
}

#[inline(always)]
fn arguments(task: u64) -> Option<u64> {
    let (at, end) = kernel::arguments_of(task)?;
    let room = ARGUMENTS.get_ptr_mut(0)?;
    let mut length = end.saturating_sub(at);
    if length > ARGUMENT_BYTES as u64 {
        length = ARGUMENT_BYTES as u64;
    }
    // SAFETY: the room stays valid while the program runs, and the call checks the process's addresses itself.
    // Volatile, because somebody else may write it meanwhile: then nothing is known.
    unsafe {
        let reader = bpf_ktime_get_ns() ^ task;
        core::ptr::write_volatile(&raw mut (*room).reader, reader);
        let bytes = (&raw mut (*room).bytes).cast();
        if bpf_probe_read_user(bytes, ARGUMENT_BYTES as u32, at as *const _) != 0
            && bpf_probe_read_user(bytes, length as u32, at as *const _) != 0
        {
            return None;
        }
        let hash = arguments_hash(&(*room).bytes, length as usize);
        (core::ptr::read_volatile(&raw const (*room).reader) == reader).then_some(hash)
    }
}
