//! Where cases run: cgroups and network namespaces with names of their own, so that whatever a killed
//! run left can be found and removed.

pub mod enter;
mod network;
mod program;
pub mod usage;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use patchbay_agent::datapath::cgroup2_mount;
pub use program::{Program, Running};

/// The cgroup above everything, below the cgroup v2 mount.
const CGROUP: &str = "patchbay-bench";
/// Files of programs that are not root's and can't see into the run's folder; removed with everything.
pub const SCRATCH: &str = "/tmp/patchbay-bench";
/// Held by a run.
const LOCK: &str = "/run/patchbay-bench.lock";
/// How long processes may take to be gone after they were killed.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Whose process it is: each has a cgroup of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Connects.
    Source,
    /// Accepts.
    Destination,
    /// The proxy beside the source.
    SourceSidecar,
    /// The proxy beside the destination.
    DestinationSidecar,
    /// Agents, Managers, switches: not part of the traffic.
    Control,
}

impl Role {
    const ALL: [Self; 5] =
        [Self::Source, Self::Destination, Self::SourceSidecar, Self::DestinationSidecar, Self::Control];

    /// Below [`CGROUP`]. What is redirected lives below `traffic`, all of it.
    fn cgroup(self) -> &'static str {
        match self {
            Self::Source => "traffic/source",
            Self::Destination => "traffic/destination",
            Self::SourceSidecar => "sidecars/source",
            Self::DestinationSidecar => "sidecars/destination",
            Self::Control => "control",
        }
    }

    /// The processor that it runs on, of so many. The two ends have one each; sidecars have their own
    /// where there are four, else they share their end's.
    fn core(self, cores: usize) -> Option<usize> {
        let own = cores >= 4;
        match self {
            Self::Source => Some(0),
            Self::Destination => Some(1 % cores),
            Self::SourceSidecar => Some(if own { 2 } else { 0 }),
            Self::DestinationSidecar => Some(if own { 3 } else { 1 % cores }),
            Self::Control => None,
        }
    }
}

/// Where the two ends are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Both in one network namespace.
    Loopback,
    /// In two network namespaces, joined by a bridge in a third that tracks connections.
    Namespaces,
}

impl Place {
    /// The name in cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Namespaces => "namespaces",
        }
    }

    /// Under which address an end is reached.
    pub fn address(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Loopback, _) => "127.0.0.1",
            (_, Role::Destination | Role::DestinationSidecar) => network::ADDRESSES[1],
            _ => network::ADDRESSES[0],
        }
    }

    /// The network namespace that an end lives in.
    pub fn namespace(self, role: Role) -> &'static str {
        match (self, role) {
            (Self::Namespaces, Role::Destination | Role::DestinationSidecar) => network::NODES[1],
            _ => network::NODES[0],
        }
    }
}

/// The cgroups and namespaces of a run; dropping it ends every process inside and removes them.
pub struct Lab {
    cgroup: PathBuf,
    folder: PathBuf,
    cores: usize,
    /// What the bridge's namespace filters with.
    pub filter: String,
    _lock: File,
}

impl Lab {
    /// Makes everything, after removing what a killed run left.
    ///
    /// # Errors
    /// Another run is there, or something can't be made.
    pub fn make(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        // Names in the kernel are the machine's, wherever a run's files are.
        let lock = File::create(LOCK).with_context(|| format!("{LOCK} can't be made"))?;
        lock.try_lock().context("another benchmark is running")?;
        let cgroup = cgroup2_mount()?.join(CGROUP);
        clean()?;
        for role in Role::ALL {
            fs::create_dir_all(cgroup.join(role.cgroup()))
                .with_context(|| format!("the cgroup {} can't be made", cgroup.display()))?;
        }
        let cores = std::thread::available_parallelism()?.get();
        let mut lab = Self { cgroup, folder: folder.to_owned(), cores, filter: String::new(), _lock: lock };
        lab.filter = network::make()?;
        Ok(lab)
    }

    /// The cgroup of a role's processes.
    pub fn cgroup(&self, role: Role) -> PathBuf {
        self.cgroup.join(role.cgroup())
    }

    /// The cgroup above both ends, which is what redirection is switched on for.
    pub fn traffic(&self) -> PathBuf {
        self.cgroup.join("traffic")
    }

    /// The cgroup above everything that is ours.
    pub fn everything(&self) -> &Path {
        &self.cgroup
    }

    /// Where files of this run are kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A program of a role in a place, not started yet.
    pub fn program(&self, role: Role, place: Place, program: impl AsRef<Path>) -> Program {
        Program::new(
            &self.cgroup(role),
            place.namespace(role),
            role.core(self.cores),
            program.as_ref(),
            &self.folder,
        )
    }

    /// This program itself in a role and a place.
    ///
    /// # Errors
    /// Its own file can't be found.
    pub fn own_program(&self, role: Role, place: Place) -> Result<Program> {
        let own = std::env::current_exe().context("this program's own file can't be found")?;
        Ok(self.program(role, place, own))
    }

    /// Where the processes of a role run, for people.
    pub fn pinning(&self) -> String {
        match self.cores {
            1 => "everything on one processor".into(),
            2 | 3 => {
                "source and its sidecar on processor 0, destination and its sidecar on processor 1".into()
            }
            _ => "source on processor 0, destination on 1, their sidecars on 2 and 3".into(),
        }
    }
}

/// Removes whatever a run made.
///
/// # Errors
/// Something can't be removed.
pub fn clean() -> Result<()> {
    let removed = remove(&cgroup2_mount()?.join(CGROUP)).and(network::remove());
    if Path::new(SCRATCH).exists() {
        fs::remove_dir_all(SCRATCH).with_context(|| format!("{SCRATCH} can't be removed"))?;
    }
    removed
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = clean() {
            eprintln!("error: {error:#}; `cargo xtask bench --clean` tries again");
        }
    }
}

/// Ends every process in a cgroup and those below it, and waits until they are gone.
///
/// # Errors
/// The kernel refuses, or a process does not go.
pub fn end_processes(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("the processes in {} can't be ended", cgroup.display()))?;
    let begun = Instant::now();
    while fs::read_to_string(cgroup.join("cgroup.events"))?.contains("populated 1") {
        if begun.elapsed() > GONE_WITHIN {
            bail!("processes in {} are still there after they were killed", cgroup.display());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Ends every process in a cgroup and removes it.
fn remove(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    end_processes(cgroup)?;
    let begun = Instant::now();
    while let Err(error) = remove_folders(cgroup) {
        if begun.elapsed() > GONE_WITHIN {
            bail!("the cgroup {} can't be removed: {error}", cgroup.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn remove_folders(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
