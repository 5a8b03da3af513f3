//! Which instance is behind a connection.

use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use ssmmp::InstanceId;

use crate::datapath::cgroup_id;
use crate::instance_listener::Directory;

/// The peer's process as a descriptor, since Linux 6.5.
const SO_PEERPIDFD: libc::c_int = 77;

/// The instance whose process has connected, by the process's cgroup or one above it.
///
/// # Errors
/// It is none, or has ended.
pub fn instance(connection: impl AsFd, cgroups: &Path, directory: &Directory) -> io::Result<InstanceId> {
    let process = process(connection.as_fd())?;
    let pid = getsockopt(&connection, PeerCredentials)?.pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    // Its number may have become another one's, unless it still runs.
    if let Some(process) = process {
        let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ended, PollTimeout::ZERO)? > 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the process has ended"));
        }
    }
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let id = |path: &Path| cgroup_id(&cgroups.join(path)).ok();
    let found = Path::new(own).ancestors().filter_map(id).find_map(|cgroup| directory.instance(cgroup));
    found.map(|(instance, _)| instance).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("process {pid} is of no instance of this node"),
        )
    })
}

/// A descriptor of the process that connected; `None` where the kernel has none.
#[expect(unsafe_code, reason = "no library has this option of sockets")]
fn process(connection: impl AsFd) -> io::Result<Option<OwnedFd>> {
    use std::os::fd::AsRawFd as _;

    let (mut number, mut length) = (0, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `length` bytes, which is the number's size.
    let result = unsafe {
        libc::getsockopt(
            connection.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    match (result, io::Error::last_os_error().raw_os_error()) {
        // SAFETY: the kernel has just made the descriptor for this process, and nobody else knows it.
        (0, _) => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
        (_, Some(libc::ENOPROTOOPT)) => Ok(None),
        (_, error) => Err(io::Error::from_raw_os_error(error.unwrap_or(0))),
    }
}
