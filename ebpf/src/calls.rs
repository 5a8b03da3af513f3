//! The system call that the running task is in.

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};

use crate::kernel::{
    call_number_offset, first_argument_offset, fourth_argument_offset, second_argument_offset,
    task_flags_offset, third_argument_offset,
};

/// Calls that the lists below have room for.
const CALLS: usize = 8;
/// No system call's number.
pub const NONE: u32 = u32::MAX;
/// `PF_IO_WORKER`, `PF_USER_WORKER` and `PF_KTHREAD`: tasks of the kernel, in no system call.
const OF_THE_KERNEL: u32 = 0x10 | 0x4000 | 0x20_0000;
/// `msghdr.msg_controllen`, the same on all architectures of 64 bits.
const CONTROL_LENGTH: u64 = 40;

macro_rules! numbers {
    ($( $(#[$doc:meta])* $name:ident; )*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub static $name: [u32; CALLS] = [NONE; CALLS];
    )* };
}

numbers! {
    /// Calls by which programs receive, `recvfrom` first, set by the agent for its architecture.
    CALLS_RECEIVING;
    /// Calls by which programs send, first the two that tell the length in their third argument.
    CALLS_SENDING;
    /// Those of them with flags: `sendto` and `sendmmsg` in their fourth argument, `sendmsg` in its third.
    CALLS_WITH_FLAGS;
    /// Those of them that take bytes from memory, and so from no socket.
    CALLS_THAT_ONLY_SEND;
}

/// A list of the agent's.
#[inline(always)]
pub fn has(list: &'static [u32; CALLS], number: u32) -> bool {
    let mut index = 0;
    while index < CALLS {
        // SAFETY: inside the array; volatile, because the agent replaces its values at load time.
        if unsafe { core::ptr::read_volatile(&raw const list[index]) } == number {
            return true;
        }
        index += 1;
    }
    false
}

/// A system call and its arguments.
#[derive(Clone, Copy)]
pub struct Call {
    /// Its number; [`NONE`] outside of any, and for a task of the kernel, as io_uring's workers are. No `Option`: the kernel's check finds
    /// the compiler looking at the number that is not there.
    pub number: u32,
    is_of_the_kernel: bool,
    registers: *const u8,
}

impl Call {
    /// The running task's.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the helper may be called in every program for tracepoints; the task is one.
        unsafe { Self::of(bpf_get_current_task_btf()) }
    }

    /// A task's.
    ///
    /// # Safety
    ///
    /// The kernel's check of the program must know that it is a task.
    #[inline(always)]
    pub unsafe fn of(task: *mut task_struct) -> Self {
        // SAFETY: the caller's; programs for tracepoints and iterators may call the helper.
        let registers = unsafe { bpf_task_pt_regs(task) as *const u8 };
        let task = task.cast::<u8>();
        // SAFETY: the kernel has checked the places when it loaded the program.
        let flags: u32 = unsafe { read(task.cast_const(), task_flags_offset()) };
        if flags & OF_THE_KERNEL != 0 {
            return Self { number: NONE, is_of_the_kernel: true, registers };
        }
        // SAFETY: as above.
        let number = unsafe { read(registers, call_number_offset()) };
        Self { number, is_of_the_kernel: false, registers }
    }

    /// Whether it is a call that asks for no byte.
    #[inline(always)]
    pub fn is_empty_receive(self) -> bool {
        // SAFETY: inside the array; volatile, because the agent replaces its values at load time.
        let receive = unsafe { core::ptr::read_volatile(&raw const CALLS_RECEIVING[0]) };
        // SAFETY: the kernel has checked the place when it loaded the program.
        self.number == receive && unsafe { read::<u64>(self.registers, third_argument_offset()) } == 0
    }

    /// Whether it is a call that is seen to send no byte.
    #[inline(always)]
    pub fn is_empty_send(self) -> bool {
        // SAFETY: inside the array; volatile, because the agent replaces its values at load time.
        let (write, send) = unsafe {
            (
                core::ptr::read_volatile(&raw const CALLS_SENDING[0]),
                core::ptr::read_volatile(&raw const CALLS_SENDING[1]),
            )
        };
        if self.number != write && self.number != send {
            return false;
        }
        // SAFETY: the kernel has checked the place when it loaded the program.
        unsafe { read::<u64>(self.registers, third_argument_offset()) == 0 }
    }

    /// Whether it can take no byte out of a socket: it only sends, or the task was interrupted outside of any call. A task of
    /// the kernel, in no call, can.
    #[inline(always)]
    pub fn never_receives(self) -> bool {
        !self.is_of_the_kernel && (self.number == NONE || has(&CALLS_THAT_ONLY_SEND, self.number))
    }

    /// The flags of a sending call.
    #[inline(always)]
    pub fn send_flags(self) -> u32 {
        if self.number == NONE || !has(&CALLS_WITH_FLAGS, self.number) {
            return 0;
        }
        let at =
            if self.number == with_message() { third_argument_offset() } else { fourth_argument_offset() };
        // SAFETY: the kernel has checked the place when it loaded the program.
        unsafe { read(self.registers, at) }
    }

    /// Whether it is `sendmsg` with control data.
    #[inline(always)]
    pub fn has_control_data(self) -> bool {
        if self.number != with_message() {
            return false;
        }
        // SAFETY: as above; the second call checks the address itself.
        unsafe {
            let message: u64 = read(self.registers, second_argument_offset());
            bpf_probe_read_user((message + CONTROL_LENGTH) as *const u64).unwrap_or(0) != 0
        }
    }
}

/// The number of `sendmsg`: the first of [`CALLS_WITH_FLAGS`].
#[inline(always)]
fn with_message() -> u32 {
    // SAFETY: inside the array; volatile, because the agent replaces its values at load time.
    unsafe { core::ptr::read_volatile(&raw const CALLS_WITH_FLAGS[0]) }
}

/// # Safety
///
/// The kernel's check of the program must allow the read.
#[inline(always)]
unsafe fn read<T: Copy>(base: *const u8, offset: u64) -> T {
    // SAFETY: the caller's.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast()) }
}

/// An argument of the system call that a tracepoint of its own tells of.
#[inline(always)]
pub fn argument(context: *const core::ffi::c_void, index: usize) -> u64 {
    /// Before the arguments are a pointer of the kernel's and the call's number.
    const FIRST: usize = 16;
    // SAFETY: the kernel checks when it attaches the program that the call has so many arguments.
    unsafe { core::ptr::read_volatile(context.cast::<u8>().add(FIRST + 8 * index).cast()) }
}
