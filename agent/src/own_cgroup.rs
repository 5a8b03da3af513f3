//! A cgroup that this process makes for a program of its own: below the one it is in, so that limits, freezing
//! and kills of whoever started this process reach that program too. It is known to be in use by a lock on its
//! folder, which ends with this process however it ends; process ids say nothing across PID namespaces.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tracing::debug;

use crate::claim;
use crate::datapath::{members, own_cgroup};

/// What `exec` runs. What it left running goes on, wherever.
pub const EXEC: &str = "patchbay-exec-";
/// The self-test's other end. Nothing of it goes on.
pub const SELF_TEST: &str = "patchbay-probe-";
/// Names that are tried before it is said that none is free.
const NAMES: u32 = 64;
/// Cgroups that are looked through for what was left behind.
const MAX_LOOKED_THROUGH: usize = 10_000;
/// Levels of cgroups in cgroups that are looked through.
const MAX_DEPTH: usize = 32;

/// A cgroup of this process's own.
#[derive(Debug)]
pub struct OwnCgroup {
    /// Its folder.
    pub path: PathBuf,
    above: PathBuf,
    _in_use: File,
}

impl OwnCgroup {
    /// Makes one whose name begins so.
    ///
    /// # Errors
    /// This process's own cgroup can't be seen, or the kernel refuses.
    pub fn make(prefix: &str) -> Result<Self> {
        let above = own_cgroup()?;
        let process = std::process::id();
        for number in 0..NAMES {
            let name = if number == 0 { String::new() } else { format!("-{number}") };
            let path = above.join(format!("{prefix}{process}{name}"));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| {
                    format!("the cgroup {} can't be made (cgroup.max.descendants?)", path.display())
                })?,
            }
            // Somebody who clears up may have taken it for a left one meanwhile.
            let Some(in_use) = claim::unused(&path) else { continue };
            be_valid(&above, &path)?;
            return Ok(Self { path, above, _in_use: in_use });
        }
        bail!(
            "{} has {NAMES} cgroups {prefix}{process}* already: remove those that are empty",
            above.display()
        )
    }

    /// The file by which a process enters it.
    ///
    /// # Errors
    /// It is gone.
    pub fn entrance(&self) -> Result<File> {
        let file = self.path.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&file)
            .with_context(|| format!("{} can't be opened", file.display()))
    }

    /// Lets what is left in it go on in the cgroup above, and removes it with every empty cgroup in it. What its
    /// programs put into cgroups of their own stays there.
    pub fn dissolve(self) {
        // What begins meanwhile is found at the next look.
        for _ in 0..NAMES {
            let left = members(&self.path).unwrap_or_default();
            if left.is_empty() {
                break;
            }
            for process in left {
                // One that ends meanwhile needs no place.
                let _ = fs::write(self.above.join("cgroup.procs"), process);
            }
        }
        remove_empty(&self.path, 0);
    }
}

/// A cgroup among threaded ones can't have processes until it is threaded itself.
fn be_valid(above: &Path, path: &Path) -> Result<()> {
    let kind = fs::read_to_string(above.join("cgroup.type")).unwrap_or_default();
    if kind.contains("threaded") {
        fs::write(path.join("cgroup.type"), "threaded").with_context(|| {
            format!("{} can't become threaded, as {} is", path.display(), above.display())
        })?;
    }
    Ok(())
}

/// Removes the empty cgroups that killed processes left, anywhere below a mount of cgroup v2. Where a program
/// still runs, its cgroup stays until it has ended.
pub fn remove_left(mount: &Path) {
    let mut waiting = vec![mount.to_owned()];
    let mut looked_through = 0;
    while let Some(cgroup) = waiting.pop() {
        looked_through += 1;
        if looked_through > MAX_LOOKED_THROUGH {
            debug!("more than {MAX_LOOKED_THROUGH} cgroups: those left behind in the others stay");
            return;
        }
        for below in folders(&cgroup) {
            let name = below.file_name().unwrap_or_default().to_string_lossy();
            let (of_test, of_exec) = (name.starts_with(SELF_TEST), name.starts_with(EXEC));
            match (of_test || of_exec).then(|| claim::unused(&below)).flatten() {
                Some(_held) if of_test => {
                    let _ = fs::write(below.join("cgroup.kill"), "1");
                    remove_empty(&below, 0);
                }
                Some(_held) => remove_empty(&below, 0),
                None => waiting.push(below),
            }
        }
    }
}

/// Removes a cgroup and those in it, from the innermost on, as far as they are empty.
fn remove_empty(cgroup: &Path, depth: usize) {
    if depth < MAX_DEPTH {
        for below in folders(cgroup) {
            remove_empty(&below, depth + 1);
        }
    }
    // The kernel refuses while anything is in it.
    let _ = fs::remove_dir(cgroup);
}

fn folders(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}
