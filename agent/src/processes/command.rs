//! How an instance's process is started: arguments, environment, user, cgroup.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use patchbay_agent_core::Start;
use patchbay_agent_core::repository::{Entry, Kind, fill};
use tokio::process::Command;

use super::{Places, User};

pub(super) fn command(
    places: &Places,
    start: &Start,
    entry: &Entry,
    folder: &Path,
    data: Option<&Path>,
    user: &User,
) -> Command {
    let value = |placeholder: &str| match placeholder.split_once(':') {
        None if placeholder == "addr" => Some(start.address.to_string()),
        None if placeholder == "state" => Some(folder.display().to_string()),
        None if placeholder == "data" => data.map(|data| data.display().to_string()),
        Some(("port", socket)) => start.sockets.port(socket).map(|port| port.to_string()),
        Some((kind, plug)) => start.plug_addresses.get(plug).map(|at| match kind {
            "plug_addr" => at.ip().to_string(),
            "plug_port" => at.port().to_string(),
            _ => at.to_string(),
        }),
        None => None,
    };
    let mut command = Command::new(&entry.program);
    command.args(entry.arguments.iter().map(|argument| fill(argument, value)));
    if entry.kind == Kind::Native {
        command.args([start.service.as_str(), &start.id.to_string(), &start.address.to_string()]);
        command.args([start.sockets.encode(), start.plugs.encode()]);
    }
    // Nothing of the agent's own; what the entry says comes last but for what is Patchbay's.
    command.env_clear().envs(user.environment());
    command.envs(entry.environment.iter().map(|(name, text)| (name, fill(text, value))));
    command.env("SSMMP_AGENT", &places.agent).env("PATCHBAY_NODE", &places.node);
    command.env("PATCHBAY_STATE", folder).envs(data.map(|data| ("PATCHBAY_DATA", data)));
    command.envs(places.memory.iter().map(|memory| ("PATCHBAY_MEMORY", memory)));
    match &entry.working_directory {
        Some(directory) => command.current_dir(fill(directory, value)),
        None => command.current_dir(folder),
    };
    let (uid, gid) = user.owner();
    command.uid(uid.as_raw()).gid(gid.as_raw());
    command
}

/// The process leads a session of its own, by which its children are known, makes files as usual, and
/// inherits no descriptor that the agent may itself have inherited (close_range, Linux 5.11). To be called before
/// others of these.
#[expect(unsafe_code, reason = "what runs between fork and exec must be said to be safe there")]
pub fn begin_anew(command: &mut Command) {
    let begin = || {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        nix::unistd::setsid()?;
        // SAFETY: the call takes numbers; descriptors are closed by the exec, not now.
        match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock.
    unsafe { command.pre_exec(begin) };
}

/// The process enters its cgroup before it runs anything, so that all its sockets are made there.
#[expect(unsafe_code, reason = "what runs between fork and exec must be said to be safe there")]
pub fn enter_cgroup(command: &mut Command, members: File) {
    let enter = move || {
        // "0" is the writing process itself.
        nix::unistd::write(&members, b"0").map(drop).map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call on an open descriptor: no allocation, no lock.
    unsafe { command.pre_exec(enter) };
}

/// Lets a process inherit a descriptor; returns its number there.
#[expect(unsafe_code, reason = "what runs between fork and exec must be said to be safe there")]
pub(super) fn keep_open(command: &mut Command, file: BorrowedFd<'_>) -> Result<i32, String> {
    let inherited =
        file.try_clone_to_owned().map_err(|error| format!("a descriptor can't be passed on: {error}"))?;
    let number = inherited.as_raw_fd();
    let keep = move || {
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(&inherited, flags).map(drop).map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call on an open descriptor: no allocation, no lock.
    unsafe { command.pre_exec(keep) };
    Ok(number)
}
