//! Where a scope pins its maps, so that nothing unread is lost when it is killed; and what killed scopes left,
//! which the next one removes: a lock on the folder, which ends with its process, says whether one lives.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tracing::{debug, warn};

use crate::claim;
use crate::datapath::{Abandoned, Datapath, bpf_folder, existing_bpf_folders};

/// The folder of all scopes, in a BPF file system.
const FOLDER: &str = "patchbay-scopes";
/// Names that are tried before it is said that none is free.
const NAMES: u32 = 64;

/// A folder of this process's own.
pub struct Pins {
    /// The folder.
    pub folder: PathBuf,
    _in_use: File,
}

impl Pins {
    /// Makes one.
    ///
    /// # Errors
    /// There is no BPF file system to make it in, and none can be mounted.
    pub fn make() -> Result<Self> {
        let all = bpf_folder(FOLDER)?;
        let process = std::process::id();
        for number in 0..NAMES {
            let name = if number == 0 { process.to_string() } else { format!("{process}-{number}") };
            let folder = all.path.join(name);
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("{} can't be made", folder.display()))?,
            }
            // Another scope that clears up may have taken it for a left one meanwhile.
            let Some(in_use) = claim::unused(&folder) else { continue };
            return Ok(Self { folder, _in_use: in_use });
        }
        bail!("{} has {NAMES} folders of process {process} already", all.path.display())
    }
}

impl Drop for Pins {
    /// Removes it, unless a session still needs it.
    fn drop(&mut self) {
        let abandoned = Abandoned::open(&self.folder);
        if abandoned.is_none_or(|abandoned| !abandoned.is_used()) {
            remove(&self.folder);
        }
    }
}

/// What killed scopes left that could not be removed at once: it goes back to TCP first.
#[derive(Default)]
pub struct Left(Vec<(Abandoned, File)>);

impl Left {
    /// Finds it, and removes what no session needs.
    pub fn find() -> Self {
        let mut left = Self::default();
        for folder in existing_bpf_folders(FOLDER) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Some(dead) = claim::unused(&entry.path()) else { continue };
                match Abandoned::open(&entry.path()) {
                    Some(mut abandoned) if abandoned.is_used() => {
                        abandoned.begin_to_leave();
                        left.0.push((abandoned, dead));
                    }
                    _ => remove(&entry.path()),
                }
            }
        }
        left
    }

    /// Lets out what nobody has unread any more. To be called every now and then.
    pub fn look(&mut self) {
        self.0.retain_mut(|(abandoned, _)| {
            let used = abandoned.let_out();
            if !used {
                remove(abandoned.folder());
            }
            used
        });
    }
}

fn remove(folder: &std::path::Path) {
    match Datapath::detach(folder) {
        Ok(()) => debug!(at = %folder.display(), "pins removed"),
        Err(error) => warn!("the pins at {} can't be removed: {error}", folder.display()),
    }
}
