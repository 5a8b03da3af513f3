//! libpatchbay: [`patchbay_sdk::blocking`] for C. `include/patchbay.h` says what each function does; a test compiles C
//! against it.
//!
//! Pointers come from this library and go back to it; a function that fails sets errno and a text for this thread. No panic
//! leaves a function.
#![expect(unsafe_code, reason = "C hands pointers over")]
#![allow(clippy::missing_safety_doc, reason = "the header says what callers must keep to")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::time::Duration;

use patchbay_sdk::Error;
use patchbay_sdk::blocking::{BlockingService, BlockingSession, BlockingSocket};

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs what may fail; notes why it did.
fn noting<T>(failed: T, work: impl FnOnce() -> Result<T, Error>) -> T {
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return value,
        Ok(Err(error)) => error,
        Err(_) => Error::Io(io::Error::other("a mistake in libpatchbay: please report it")),
    };
    let code = match &error {
        Error::Io(error) => match (error.raw_os_error(), error.kind()) {
            (Some(code), _) => code,
            (None, io::ErrorKind::WouldBlock) => libc::EAGAIN,
            (None, io::ErrorKind::TimedOut) => libc::ETIMEDOUT,
            (None, io::ErrorKind::BrokenPipe) => libc::EPIPE,
            (None, io::ErrorKind::InvalidData) => libc::EPROTO,
            _ => libc::EIO,
        },
        Error::Configuration(_) | Error::Unknown { .. } => libc::EINVAL,
        Error::Refused { .. } => libc::ECONNREFUSED,
        Error::NoAnswer { .. } => libc::ETIMEDOUT,
        _ => libc::EIO,
    };
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    LAST.with_borrow_mut(|last| *last = text);
    // SAFETY: errno is this thread's own.
    unsafe { *libc::__errno_location() = code };
    failed
}

/// Negative is for ever.
fn time(milliseconds: c_int) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

/// A name from C.
unsafe fn text<'a>(name: *const c_char) -> Result<&'a str, Error> {
    let missing = || Error::Configuration("a name is NULL or not in UTF-8".into());
    if name.is_null() {
        return Err(missing());
    }
    // SAFETY: the caller hands over a string that ends with NUL.
    unsafe { CStr::from_ptr(name) }.to_str().map_err(|_| missing())
}

fn null() -> Error {
    Error::Io(io::Error::from_raw_os_error(libc::EFAULT))
}

/// What a pointer from C leads to.
unsafe fn at<'a, T>(pointer: *mut T) -> Result<&'a mut T, Error> {
    // SAFETY: the caller hands over what this library gave it, and uses it in one thread at a time.
    unsafe { pointer.as_mut() }.ok_or_else(null)
}

/// What a pointer from C leads to, which several threads may use at once.
unsafe fn shared<'a, T>(pointer: *const T) -> Result<&'a T, Error> {
    // SAFETY: the caller hands over what this library gave it.
    unsafe { pointer.as_ref() }.ok_or_else(null)
}

fn boxed<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Takes back what this library gave.
unsafe fn drop_at<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: made by `boxed`; the caller uses it no more.
        let value = unsafe { Box::from_raw(pointer) };
        let _ = catch_unwind(AssertUnwindSafe(move || drop(value)));
    }
}

/// Why the last function of this thread failed.
#[unsafe(no_mangle)]
pub extern "C" fn patchbay_error() -> *const c_char {
    LAST.with_borrow(|last| last.as_ptr())
}

/// Begins to be an instance.
#[unsafe(no_mangle)]
pub extern "C" fn patchbay_start() -> *mut BlockingService {
    noting(null_mut(), || BlockingService::start().map(boxed))
}

/// Readable once the instance is asked to end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_service_fd(service: *const BlockingService) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(service) }?.descriptor().as_raw_fd()))
}

/// Whether the instance is asked to end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_shutdown_requested(service: *const BlockingService) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(service) }?.is_shutdown_requested().into()))
}

/// Says whether the instance has as much work as it can do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_set_overloaded(service: *const BlockingService, overloaded: c_int) {
    // SAFETY: as the header says.
    noting((), || {
        unsafe { shared(service) }?.set_overloaded(overloaded != 0);
        Ok(())
    });
}

/// Ends the instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_end(service: *mut BlockingService) {
    // SAFETY: as the header says.
    unsafe { drop_at(service) }
}

/// A new session of a plug.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_connect(
    service: *const BlockingService,
    plug: *const c_char,
    timeout_ms: c_int,
) -> *mut BlockingSession {
    // SAFETY: as the header says.
    noting(null_mut(), || {
        let (service, plug) = unsafe { (shared(service)?, text(plug)?) };
        service.connect(plug, time(timeout_ms)).map(boxed)
    })
}

/// A socket of the service.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_listen(
    service: *const BlockingService,
    socket: *const c_char,
) -> *mut BlockingSocket {
    // SAFETY: as the header says.
    noting(null_mut(), || {
        let (service, socket) = unsafe { (shared(service)?, text(socket)?) };
        service.socket(socket).map(boxed)
    })
}

/// The next session of a socket.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_accept(
    socket: *const BlockingSocket,
    timeout_ms: c_int,
) -> *mut BlockingSession {
    // SAFETY: as the header says.
    noting(null_mut(), || Ok(boxed(unsafe { shared(socket) }?.accept(time(timeout_ms))?)))
}

/// Readable when a session waits to be accepted.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_socket_fd(socket: *const BlockingSocket) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(socket) }?.descriptor().as_raw_fd()))
}

/// Stops accepting.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_socket_close(socket: *mut BlockingSocket) {
    // SAFETY: as the header says.
    unsafe { drop_at(socket) }
}

/// Reads.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_read(
    session: *mut BlockingSession,
    into: *mut u8,
    bytes: usize,
) -> libc::ssize_t {
    noting(-1, || {
        // SAFETY: as the header says.
        let session = unsafe { at(session) }?;
        if bytes == 0 {
            return Ok(0);
        }
        if into.is_null() {
            return Err(null());
        }
        // SAFETY: the caller hands over so many bytes, which are nobody else's; reading never looks at them.
        let into = unsafe { std::slice::from_raw_parts_mut(into, bytes.min(isize::MAX as usize)) };
        Ok(session.read(into)? as libc::ssize_t)
    })
}

/// Writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_write(
    session: *mut BlockingSession,
    from: *const u8,
    bytes: usize,
) -> libc::ssize_t {
    noting(-1, || {
        // SAFETY: as the header says.
        let session = unsafe { at(session) }?;
        if bytes == 0 {
            return Ok(0);
        }
        if from.is_null() {
            return Err(null());
        }
        // SAFETY: the caller hands over so many bytes.
        let from = unsafe { std::slice::from_raw_parts(from, bytes.min(isize::MAX as usize)) };
        Ok(session.write(from)? as libc::ssize_t)
    })
}

/// Says that nothing follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_finish(session: *mut BlockingSession) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || {
        unsafe { at(session) }?.end()?;
        Ok(0)
    })
}

/// How long reads and writes wait.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_set_timeout(session: *mut BlockingSession, timeout_ms: c_int) {
    // SAFETY: as the header says.
    noting((), || {
        unsafe { at(session) }?.set_timeout(time(timeout_ms));
        Ok(())
    });
}

/// Readable when there may be something to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_session_fd(session: *const BlockingSession) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(session) }?.descriptor().as_raw_fd()))
}

/// Whether the session is to be closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_close_requested(session: *const BlockingSession) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(session) }?.is_close_requested().into()))
}

/// Whether what is written goes through shared memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_in_memory(session: *const BlockingSession) -> c_int {
    // SAFETY: as the header says.
    noting(-1, || Ok(unsafe { shared(session) }?.is_in_memory().into()))
}

/// Closes a session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patchbay_close(session: *mut BlockingSession) {
    // SAFETY: as the header says.
    unsafe { drop_at(session) }
}
