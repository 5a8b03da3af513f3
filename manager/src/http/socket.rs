//! The Unix socket of the HTTP API: root and the group `patchbay` may use it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};
use nix::unistd::Group;
use tracing::{info, warn};

/// Where it is unless set otherwise.
pub const PATH: &str = patchbay_api::SOCKET;
/// Whose members may use it besides root.
const GROUP: &str = "patchbay";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another Manager has it.
    #[error("another Manager{} listens at {}; choose another place with --socket", of(*.holder), path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The process, when that is known.
        holder: Option<u32>,
    },
    /// Something else is there.
    #[error("{} is no socket, and is left alone; choose another place with --socket", .0.display())]
    Other(PathBuf),
    /// It can't be made.
    #[error("{} can't be made: {error}; choose another place with --socket", path.display())]
    Unmade {
        /// The socket, its folder or its lock.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
}

fn of(holder: Option<u32>) -> String {
    holder.map(|process| format!(" (process {process})")).unwrap_or_default()
}

/// A socket that nobody else listens at; it is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Released by a kill, too.
    _lock: File,
}

impl Socket {
    /// Listens at a path, mode 0660. What an earlier Manager left there is replaced.
    ///
    /// # Errors
    /// Another Manager listens there, or it can't be made.
    pub fn listen(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let unmade = |path: &Path, error| SocketError::Unmade { path: path.to_owned(), error };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| unmade(folder, error))?;
        }
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(about) if about.file_type().is_socket() => {
                fs::remove_file(path).map_err(|error| unmade(path, error))?;
            }
            Ok(_) => return Err(SocketError::Other(path.to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unmade(path, error)),
        }
        // It never has another mode, not for a moment.
        let before = umask(Mode::from_bits_truncate(0o117));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener.map_err(|error| unmade(path, error))?;
        let socket = Self { path: path.to_owned(), _lock: lock };
        listener.set_nonblocking(true).map_err(|error| unmade(path, error))?;
        socket.give_to_group();
        Ok((socket, listener))
    }

    fn give_to_group(&self) {
        let given = match Group::from_name(GROUP) {
            Ok(Some(group)) => chown(&self.path, None, Some(group.gid.as_raw())),
            Ok(None) => {
                info!(
                    "only this user may use the socket: there is no group `{GROUP}` (groupadd --system {GROUP})"
                );
                return;
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = given {
            warn!("the group `{GROUP}` can't use the socket: {error}");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(path: &Path) -> Result<File, SocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = PathBuf::from(name);
    let unmade = |error| SocketError::Unmade { path: file.clone(), error };
    let mut open = OpenOptions::new();
    let mut lock = open.read(true).write(true).create(true).truncate(false).open(&file).map_err(unmade)?;
    match crate::store::lock(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            return Err(SocketError::InUse { path: path.to_owned(), holder: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(unmade(error)),
    }
    // Who holds it is only told.
    let _ =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_manager_is_refused_and_what_a_killed_one_left_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run/manager.sock");
        let (socket, listener) = Socket::listen(&path).expect("free");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = Socket::listen(&path).expect_err("taken").to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())) && error.contains("--socket"),
            "{error}"
        );
        // As after a kill: the file stays, the lock does not.
        let Socket { path: left, _lock: lock } = &socket;
        assert!(left.exists());
        lock.unlock().expect("released");
        drop(listener);
        let (again, _) = Socket::listen(&path).expect("free again");
        std::mem::forget(socket);
        drop(again);
        assert!(!path.exists());
        fs::write(&path, "mine").expect("written");
        assert!(matches!(Socket::listen(&path), Err(SocketError::Other(_))));
        assert_eq!(fs::read_to_string(&path).expect("left alone"), "mine");
    }
}
