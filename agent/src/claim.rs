//! One agent at a time has a node, its state folder, its cgroup and its pins. Each is claimed by a lock that
//! the kernel releases when its holder ends, however it does (flock(2)); `/proc/locks` says whose it is.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};
use tracing::info;

/// How long a lock is waited for whose holder is dead: a child of it may be between fork and exec, where it
/// still has all descriptors.
pub const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// How long an agent that is asked to hand over may take.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(20);
/// Where locks are that have no folder of their own.
const LOCKS: &str = "/run/patchbay/locks";

/// The lock of a folder that nobody uses; `None` when somebody does, or it is gone.
pub fn unused(folder: &Path) -> Option<File> {
    let file = File::open(folder).ok()?;
    file.try_lock().ok()?;
    // Another may have been made under its name.
    let same = |found: &fs::Metadata| file.metadata().is_ok_and(|locked| locked.ino() == found.ino());
    fs::metadata(folder).ok().filter(same)?;
    Some(file)
}

/// What is claimed, for people, and what is locked for it.
#[derive(Debug, Clone)]
pub struct Thing {
    /// `the node a`, for people.
    pub name: String,
    /// A folder, or a file that is made.
    pub lock: PathBuf,
}

impl Thing {
    /// A folder that exists.
    pub fn folder(what: &str, folder: &Path) -> Self {
        Self { name: format!("{what} {}", folder.display()), lock: folder.to_owned() }
    }

    /// A node's name, in this network namespace.
    ///
    /// # Errors
    /// The namespace is not known, or the folder of locks can't be made.
    pub fn node(node: &str) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/net")?.ino();
        fs::create_dir_all(LOCKS)?;
        fs::set_permissions(LOCKS, fs::Permissions::from_mode(0o700))?;
        let safe: String = node.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let lock = Path::new(LOCKS).join(format!("node-{namespace}-{safe}"));
        Ok(Self { name: format!("the node {node}"), lock })
    }
}

/// Everything that was claimed; dropping it, or the end of this process, gives it back.
#[derive(Debug)]
pub struct Claim {
    held: Vec<(PathBuf, File)>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        for (path, file) in &self.held {
            // A lock's file goes while it is locked: whoever opened it before finds that it is gone.
            if file.metadata().is_ok_and(|found| found.is_file()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Why something can't be claimed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another agent has it.
    #[error(
        "{thing} belongs to a running agent, process {holder}: nothing was changed. End that one first \
         (SIGTERM); an agent with a Manager can be replaced instead, by `run --take-over`"
    )]
    Held {
        /// What.
        thing: String,
        /// Its holder's process id; `unknown` when it is not visible from here.
        holder: Holder,
    },
    /// It can't be locked at all.
    #[error("{thing} can't be claimed at {}: {error}", lock.display())]
    Failed {
        /// What.
        thing: String,
        /// Its lock.
        lock: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The process that has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(Option<i32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(process) => process.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

impl Holder {
    /// Whether it is known to live. One that is not visible may be of another container, or has just ended.
    fn lives(self) -> bool {
        self.0.is_some_and(|process| {
            !matches!(kill(Pid::from_raw(process), None), Err(nix::errno::Errno::ESRCH))
        })
    }
}

impl Claim {
    /// Claims all of it or nothing. With `take_over` a running agent that has some of it is asked to hand
    /// over (SIGQUIT) and waited for.
    ///
    /// # Errors
    /// A running agent has some of it; its process is named.
    pub async fn take(things: &[Thing], take_over: bool) -> Result<Self, Refused> {
        let mut claim = Self { held: Vec::new() };
        let begun = Instant::now();
        let mut asked = None;
        for thing in things {
            loop {
                // Of the time before the try: what was let go of while this process did not run is taken.
                let waited = begun.elapsed();
                let holder = match lock(thing)? {
                    Ok(file) => {
                        claim.held.push((thing.lock.clone(), file));
                        break;
                    }
                    Err(holder) => holder,
                };
                let refused = Refused::Held { thing: thing.name.clone(), holder };
                let within = match (holder.lives(), take_over) {
                    (false, _) => LEFT_WITHIN,
                    (true, true) => HANDED_OVER_WITHIN,
                    (true, false) => return Err(refused),
                };
                if holder.lives() && asked != holder.0 {
                    info!(process = %holder, "the running agent is asked to hand over");
                    let _ = holder.0.map(|process| kill(Pid::from_raw(process), Signal::SIGQUIT));
                    asked = holder.0;
                }
                if waited > within {
                    return Err(refused);
                }
                sleep(TRY_EVERY).await;
            }
        }
        Ok(claim)
    }

    /// Holds another claim too.
    pub fn join(&mut self, mut other: Self) {
        self.held.append(&mut other.held);
    }
}

/// Locks it, or says who has it.
fn lock(thing: &Thing) -> Result<Result<File, Holder>, Refused> {
    let failed = |error| Refused::Failed { thing: thing.name.clone(), lock: thing.lock.clone(), error };
    let file = match thing.lock.is_dir() {
        true => File::open(&thing.lock),
        false => OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&thing.lock),
    }
    .map_err(failed)?;
    match file.try_lock() {
        Ok(()) if is_at(&file, &thing.lock) => Ok(Ok(file)),
        // Its holder has just removed it.
        Ok(()) => lock(thing),
        Err(TryLockError::WouldBlock) => Ok(Err(holder_of(&file))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (own, there) = (file.metadata(), fs::metadata(path));
    own.is_ok_and(|own| there.is_ok_and(|there| (own.dev(), own.ino()) == (there.dev(), there.ino())))
}

/// Who has a file locked (proc_locks(5)).
fn holder_of(file: &File) -> Holder {
    let found = || {
        let own = file.metadata().ok()?;
        let device = (nix::sys::stat::major(own.dev()), nix::sys::stat::minor(own.dev()));
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let of = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let kind = words.next()?;
            let process = words.nth(2)?.parse::<i32>().ok()?;
            let mut place = words.next()?.split(':');
            let mut number = || u64::from_str_radix(place.next()?, 16).ok();
            let device = (number()?, number()?);
            let inode = place.next()?.parse::<u64>().ok()?;
            (kind == "FLOCK" && inode == own.ino() && process > 0).then_some((device, process))
        };
        let all: Vec<_> = locks.lines().filter_map(of).collect();
        // Some file systems show another device there; several have the same inode.
        let exact = all.iter().find(|(at, _)| *at == device);
        let only = all.first().filter(|_| all.len() == 1);
        exact.or(only).map(|(_, process)| *process)
    };
    Holder(found())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn things(folder: &Path) -> Vec<Thing> {
        fs::create_dir_all(folder.join("state")).expect("made");
        vec![
            Thing::folder("the state folder", &folder.join("state")),
            Thing { name: "the node x".into(), lock: folder.join("node") },
        ]
    }

    #[tokio::test]
    async fn a_second_claim_of_any_part_is_refused_and_names_the_first_ones_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let things = things(folder.path());
        let first = Claim::take(&things, false).await.expect("free");
        for thing in &things {
            let refused = Claim::take(std::slice::from_ref(thing), false).await.expect_err("taken");
            let said = refused.to_string();
            assert!(said.starts_with(&thing.name), "{said}");
            assert!(said.contains(&format!("process {}:", std::process::id())), "{said}");
        }
        drop(first);
        // Another test's child of this process may be between fork and exec.
        let begun = Instant::now();
        while let Err(refused) = Claim::take(&things, false).await {
            assert!(begun.elapsed() < LEFT_WITHIN, "free again: {refused}");
            sleep(TRY_EVERY).await;
        }
    }

    /// A killed agent's child that has not reached its exec still has the lock.
    #[tokio::test]
    async fn what_a_dead_holder_left_to_a_child_is_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let thing = things(folder.path()).remove(0);
        // The child ends when it is told: how fast Python ends on a busy machine is no matter of this test.
        let script = "import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
if os.fork(): print('locked', flush=True)
os.read(0, 1)
os._exit(0)";
        let mut holder = Command::new("python3")
            .args(["-c", script, &thing.lock.display().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let end_child = holder.stdin.take().expect("piped");
        let mut said = [0; 7];
        io::Read::read_exact(holder.stdout.as_mut().expect("piped"), &mut said).expect("it says so");
        Claim::take(std::slice::from_ref(&thing), false).await.expect_err("its holder lives");
        holder.kill().expect("killed");
        holder.wait().expect("ended");
        let things = [thing];
        let (taken, ()) = tokio::join!(Claim::take(&things, false), async {
            sleep(10 * TRY_EVERY).await;
            let locked = lock(&things[0]).expect("tried");
            assert!(locked.is_err(), "the child has it still");
            drop(end_child);
        });
        taken.expect("the child has ended");
    }
}
