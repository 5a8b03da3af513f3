//! What instances write to their standard output and error: bounded whatever they write, kept line by line
//! with its time, and independent of the agent's life.
//!
//! An instance writes to a named pipe. Its own descriptor is open for reading too, so that it never gets
//! SIGPIPE, whoever else comes and goes. A process of its own, the keeper, reads the pipe until the last
//! writer has gone, and outlives the agent; an agent that finds none starts one.

mod keeper;
mod line;
mod old;
mod read;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

pub use keeper::keep;
use nix::sys::stat::Mode;
pub use old::{KEPT_FOR, MAX_ENDED, remove_old};
pub use read::{Lines, MAX_LINES, read_of};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::private::Owner;
use crate::processes::{begin_anew, enter_cgroup};

/// Bytes of one output file; a longer one is renamed, and a new one begun.
pub const FILE_BYTES: u64 = 4 << 20;
/// Earlier output files of one instance that are kept besides the present one.
pub const EARLIER_FILES: u32 = 3;
/// Bytes of one line; what is longer becomes several lines.
pub const LINE_BYTES: usize = 8 << 10;
/// How long the last output of an instance that has ended is waited for: until then its end is told to nobody.
const DRAINED_WITHIN: Duration = Duration::from_millis(150);
/// Between two looks whether it is there.
const DRAINED_CHECK: Duration = Duration::from_millis(5);

/// One instance's output.
#[derive(Debug, Clone)]
pub struct Output {
    /// The named pipe.
    pipe: PathBuf,
    /// The present file of lines; earlier ones are beside it.
    log: PathBuf,
    /// The cgroup that keepers are in: not the instance's, which ends with it, and not the agent's.
    keepers: PathBuf,
}

impl Output {
    /// Of an instance whose folder this is.
    pub fn of(folder: &Path, node_cgroup: &Path) -> Self {
        Self { pipe: with(folder, "out"), log: with(folder, "log"), keepers: keepers(node_cgroup) }
    }

    /// Makes the pipe and starts its keeper. Returns the instance's end, twice.
    ///
    /// # Errors
    /// The pipe can't be made, or no keeper be started.
    pub fn begin(&self, (uid, gid): Owner) -> io::Result<(File, File)> {
        let _ = fs::remove_file(&self.pipe);
        nix::unistd::mkfifo(&self.pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Whoever opens /dev/stdout anew needs to own it.
        chown(&self.pipe, Some(uid.as_raw()), Some(gid.as_raw()))?;
        let end = OpenOptions::new().read(true).write(true).open(&self.pipe)?;
        self.ensure_keeper()?;
        Ok((end.try_clone()?, end))
    }

    /// Starts a keeper if there is none.
    ///
    /// # Errors
    /// There is no pipe, or no keeper can be started.
    pub fn ensure_keeper(&self) -> io::Result<()> {
        let Some(pipe) = self.unkept()? else { return Ok(()) };
        fs::create_dir_all(&self.keepers)?;
        let members = OpenOptions::new().write(true).open(self.keepers.join("cgroup.procs"))?;
        // The agent's own program, also when another version has been installed over it.
        let mut command = Command::new("/proc/self/exe");
        command.arg("keep-output").arg(&self.log).env_clear().current_dir("/");
        command.stdin(pipe).stdout(Stdio::null()).stderr(Stdio::null());
        begin_anew(&mut command);
        enter_cgroup(&mut command, members);
        // Nobody waits for it but the runtime, which buries it.
        command.spawn().map(drop)
    }

    /// The pipe's reading end, locked for a keeper; `None` when there is one.
    fn unkept(&self) -> io::Result<Option<File>> {
        let pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.pipe)?;
        match pipe.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty());
        nix::fcntl::fcntl(&pipe, flags)?;
        Ok(Some(pipe))
    }

    /// The instance has ended: waits until its last output is kept, and removes the pipe.
    pub async fn finish(&self) {
        let begun = Instant::now();
        while matches!(self.unkept(), Ok(None)) && begun.elapsed() < DRAINED_WITHIN {
            sleep(DRAINED_CHECK).await;
        }
        let _ = fs::remove_file(&self.pipe);
    }

    /// Its last lines, without their times.
    pub fn last_lines(&self) -> Vec<String> {
        read::last_lines(&self.log)
    }
}

/// The cgroup of a node's keepers.
pub fn keepers(node_cgroup: &Path) -> PathBuf {
    node_cgroup.join("outputs")
}

/// A file beside an instance's folder. Names may hold dots.
pub fn with(folder: &Path, ending: &str) -> PathBuf {
    let mut path = folder.to_path_buf().into_os_string();
    path.push(".");
    path.push(ending);
    path.into()
}

/// An earlier file of lines: the larger the number, the older.
fn earlier(log: &Path, number: u32) -> PathBuf {
    with(log, &number.to_string())
}
