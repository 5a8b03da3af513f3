//! The kernel part of plugs' own addresses: connections to them are led to destinations while they are made, and
//! `getpeername` shows what the program named. Independent of redirection: other programs, maps and pins.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use patchbay_ebpf_common::plug::{self, PlugKey, PlugTarget};

use super::load::{describe, program};
use super::{Unavailable, bpf_fs, pins, report};

/// The kernel programs, built by `build.rs`.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/patchbay-plugs"));

/// The programs by the hook that each is attached to.
const HOOKS: [(&str, &str); 4] = [
    ("connect4", "patchbay_connect4"),
    ("connect6", "patchbay_connect6"),
    ("getpeername4", "patchbay_getpeername4"),
    ("getpeername6", "patchbay_getpeername6"),
];
/// The maps that are pinned.
const MAPS: [&str; 2] = ["TARGETS", "CONNECTED"];
/// What the names of the folders for pins begin with; a layout's number follows.
const FOLDER: &str = "plugs-";

/// A plug's own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlugAddress {
    /// Id of the instance's cgroup.
    pub cgroup: u64,
    /// Cookie of the network namespace that has the address.
    pub namespace: u64,
    /// The address, on loopback.
    pub at: SocketAddr,
}

impl PlugAddress {
    fn key(&self) -> PlugKey {
        PlugKey {
            cgroup: self.cgroup,
            namespace: self.namespace,
            address: report::address_bytes(self.at.ip()),
            port: u32::from(self.at.port()),
            padding: 0,
        }
    }
}

/// Where a plug's connections are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The instance's id.
    pub instance: u64,
    /// Where it listens.
    pub at: SocketAddr,
}

/// Owner of the programs for plugs, their maps and links. Without pins, dropping it takes the programs off.
pub struct PlugAddresses {
    targets: HashMap<MapData, PlugKey, PlugTarget>,
    programs: Ebpf,
    pins: Option<PathBuf>,
    /// Links that are not pinned, by cgroup.
    links: BTreeMap<u64, Vec<FdLink>>,
}

impl PlugAddresses {
    /// Loads the programs, or takes over an earlier agent's maps from below `pins`.
    ///
    /// # Errors
    /// Names exactly what this node lacks.
    pub fn load(pins: Option<&Path>) -> Result<Self, Unavailable> {
        let mut loader = EbpfLoader::new();
        let folder = match pins {
            Some(pins) => {
                pins::prepare_folder(pins)?;
                Some(prepare(pins)?)
            }
            None => None,
        };
        let paths: Vec<_> =
            folder.iter().flat_map(|folder| MAPS.map(|name| (name, folder.join(name)))).collect();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        let mut programs = loader.load(PROGRAMS).map_err(|error| Unavailable(describe(&error)))?;
        for (_, name) in HOOKS {
            let hook: &mut CgroupSockAddr = program(&mut programs, name)?;
            hook.load().map_err(|error| Unavailable(describe(&error)))?;
        }
        let targets = programs.take_map("TARGETS").ok_or_else(|| Unavailable("no map TARGETS".into()))?;
        let targets = HashMap::try_from(targets).map_err(|error| Unavailable(describe(&error)))?;
        Ok(Self { targets, programs, pins: folder, links: BTreeMap::new() })
    }

    /// Attaches the programs to an instance's cgroup, in place of an earlier agent's. They outlive this agent where
    /// there are pins, and never the cgroup.
    ///
    /// # Errors
    /// The kernel refused; what was attached is taken off again.
    pub fn attach(&mut self, id: u64, cgroup: &Path) -> Result<(), Unavailable> {
        let fail = |error: &dyn std::error::Error| {
            Unavailable(format!("at the cgroup {}: {}", cgroup.display(), describe(error)))
        };
        let file = File::open(cgroup).map_err(|error| fail(&error))?;
        let mut links = Vec::new();
        for (_, name) in HOOKS {
            let hook: &mut CgroupSockAddr = program(&mut self.programs, name)?;
            let link = hook.attach(&file, CgroupAttachMode::Single).map_err(|error| fail(&error))?;
            let link = hook.take_link(link).map_err(|error| fail(&error))?;
            let link: FdLink = link
                .try_into()
                .map_err(|_| Unavailable("the kernel has no links for cgroups (5.7)".into()))?;
            links.push(link);
        }
        let Some(folder) = &self.pins else {
            self.links.insert(id, links);
            return Ok(());
        };
        for ((hook, _), link) in HOOKS.iter().zip(links) {
            replace(&folder.join(pin_name(id, hook)), link)?;
        }
        Ok(())
    }

    /// An instance's cgroup is gone: its links and destinations are removed.
    pub fn detach(&mut self, id: u64) {
        self.links.remove(&id);
        if let Some(folder) = &self.pins {
            for (hook, _) in HOOKS {
                let _ = fs::remove_file(folder.join(pin_name(id, hook)));
            }
        }
        let gone: Vec<PlugKey> = self.targets.keys().flatten().filter(|key| key.cgroup == id).collect();
        for key in gone {
            let _ = self.targets.remove(&key);
        }
    }

    /// Leads a plug's connections to a destination: as long as it listens here, or elsewhere for so long from now.
    ///
    /// # Errors
    /// The table is full.
    pub fn lead(
        &mut self,
        address: &PlugAddress,
        to: Destination,
        within: Option<Duration>,
    ) -> Result<(), super::Error> {
        let target = PlugTarget {
            address: report::address_bytes(to.at.ip()),
            port: u32::from(to.at.port()),
            here: u32::from(within.is_none()),
            instance: to.instance,
            until: within.map_or(u64::MAX, |within| now().saturating_add(nanoseconds(within))),
        };
        Ok(self.targets.insert(address.key(), target, 0)?)
    }

    /// Leads a plug's connections nowhere: they reach its own address.
    ///
    /// # Errors
    /// The kernel refused; a plug that leads nowhere is no error.
    pub fn lead_nowhere(&mut self, address: &PlugAddress) -> Result<(), super::Error> {
        match self.targets.remove(&address.key()) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(call)) if call.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a plug's connections are led now.
    pub fn leads(&self, address: &PlugAddress) -> Option<Destination> {
        let target = self.targets.get(&address.key(), 0).ok()?;
        let at = report::address(target.address, target.port);
        (target.until > now()).then_some(Destination { instance: target.instance, at })
    }

    /// Removes what was pinned for plugs: their connections reach the agent from then on, if there is one.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn remove(pins: &Path) -> io::Result<()> {
        for folder in folders(pins) {
            remove_folder(&folder)?;
        }
        Ok(())
    }
}

/// Makes the folder of this layout; other layouts' are removed.
fn prepare(pins: &Path) -> Result<PathBuf, Unavailable> {
    let own = pins.join(format!("{FOLDER}{}", plug::LAYOUT));
    let fail = |folder: &Path, error: io::Error| {
        Unavailable(format!("the folder {} can't be changed: {error}", folder.display()))
    };
    for folder in folders(pins).iter().filter(|folder| **folder != own) {
        remove_folder(folder).map_err(|error| fail(folder, error))?;
    }
    bpf_fs::private_folder(&own).map_err(|error| fail(&own, error))?;
    Ok(own)
}

fn folders(pins: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER));
    named.map(|entry| entry.path()).collect()
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(folder)
}

/// Pins a link in place of an earlier agent's, so that no connection is missed.
fn replace(path: &Path, link: FdLink) -> Result<(), Unavailable> {
    let fail = |error: &dyn std::error::Error| {
        Unavailable(format!("pinning the link at {} failed: {}", path.display(), describe(error)))
    };
    // A BPF file system takes no names with a dot.
    let mut next = path.as_os_str().to_owned();
    next.push("_next");
    let next = PathBuf::from(next);
    let _ = fs::remove_file(&next);
    link.pin(&next).map_err(|error| fail(&error))?;
    if let Ok(earlier) = PinnedLink::from_pin(path) {
        drop(earlier.unpin().map_err(|error| fail(&error))?);
    }
    fs::rename(&next, path).map_err(|error| fail(&error))
}

fn pin_name(cgroup: u64, hook: &str) -> String {
    format!("{cgroup}-{hook}")
}

fn now() -> u64 {
    crate::boot_time().unwrap_or(u64::MAX)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
