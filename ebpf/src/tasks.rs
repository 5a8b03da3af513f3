//! Tells which threads may be inside a call that reads: those that run, wait for a processor, or wait without being
//! disturbed, as for a socket's lock, unless they are seen outside of any call or in one that sends. A reading call that
//! never blocks waits in no other way.

use aya_ebpf::bindings::{seq_file, task_struct};
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_seq_write};
use patchbay_ebpf_common::Busy;

use crate::calls::Call;
use crate::kernel;
use crate::maps::number_of;

/// The context of an iterator over threads (`struct bpf_iter__task`).
#[repr(C)]
pub struct Visit {
    meta: *const Meta,
    task: *mut task_struct,
}

/// `struct bpf_iter_meta`
#[repr(C)]
struct Meta {
    output: *mut seq_file,
}

/// `TASK_INTERRUPTIBLE`, `__TASK_STOPPED`, `__TASK_TRACED` and `TASK_DEAD`: states that no reading call is in which
/// never blocks.
const ELSEWHERE: u32 = 1 | 4 | 8 | 0x80;
/// `TASK_UNINTERRUPTIBLE` and `TASK_RTLOCK_WAIT`
const FOR_A_LOCK: u32 = 2 | 0x1000;

/// Visits one thread.
#[inline(always)]
pub fn visit(ctx: *const Visit) {
    // SAFETY: the context is valid while the program runs; volatile, so that what is checked is what is used.
    let (meta, task) = unsafe {
        (core::ptr::read_volatile(&raw const (*ctx).meta), core::ptr::read_volatile(&raw const (*ctx).task))
    };
    // SAFETY: the helper has no arguments.
    let own = unsafe { bpf_get_current_task() };
    let address = number_of(task);
    // The agent's own thread is here, and nowhere else.
    if task.is_null() || address == own {
        return;
    }
    let Some((state, user_time)) = kernel::activity(address) else { return };
    if state & ELSEWHERE != 0 && state & FOR_A_LOCK == 0 {
        return;
    }
    // SAFETY: the task is one, by the iterator's promise.
    if unsafe { Call::of(task) }.never_receives() {
        return;
    }
    let busy = Busy { task: address, user_time };
    // SAFETY: the iterator's own output; the kernel calls again with the same thread when it has no room.
    unsafe { bpf_seq_write((*meta).output, (&raw const busy).cast(), size_of::<Busy>() as u32) };
}
