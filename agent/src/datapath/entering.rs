//! Letting sessions into the map in mid-life: those of a program that was observed, and found clean, while they
//! were on TCP. A connection that lives for hours would else stay on TCP for as long.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use aya::Btf;
use aya::programs::Iter;
use aya::programs::iter::IterLink;
use nix::sched::{CloneFlags, setns};
use patchbay_ebpf_common::operation;

use super::load::{describe, program};
use super::{Datapath, Error, SessionReport, Unavailable};

/// The program that visits sockets.
const ENTER: &str = "patchbay_enter";
/// Network namespaces that are visited at most; sessions in others stay on TCP.
const MAX_NAMESPACES: usize = 1_024;

impl Datapath {
    /// Lets sessions into the map that are on TCP because their program was observed. The caller has found
    /// nothing harmful in them. Both ends' reads must never block, and they must have been observed from their first
    /// byte; the others stay on TCP. Returns how many are in. It takes about as long as reading the socket tables of their network namespaces.
    ///
    /// # Errors
    /// The kernel can't, or refused; then nothing has changed.
    pub fn enter(&mut self, sessions: &[SessionReport]) -> Result<usize, Error> {
        let mut wanted = Vec::new();
        for session in sessions {
            if self.control(operation::ENTER, session.key, 0)? == 1 {
                wanted.push(session);
            }
        }
        if wanted.is_empty() {
            return Ok(0);
        }
        let visited = self.visit_sockets();
        let mut entered = 0;
        for session in wanted {
            if self.control(operation::ENTERED, session.key, 0)? == 1 {
                entered += 1;
            } else {
                for cookie in session.sockets {
                    // One end alone may have gone in. Nothing was redirected to it.
                    let _ = self.sockets.remove(&cookie);
                }
            }
        }
        visited.map(|()| entered)
    }

    /// Runs the program for every TCP socket in the network namespaces of the cgroup's processes.
    fn visit_sockets(&mut self) -> Result<(), Error> {
        let fail = |error: &dyn std::error::Error| Error::Missing(describe(error));
        let mut namespaces = BTreeMap::new();
        find_namespaces(&self.options.cgroup, &mut namespaces);
        let visitor: &mut Iter =
            program(&mut self.programs, ENTER).map_err(|Unavailable(missing)| Error::Missing(missing))?;
        if visitor.fd().is_err() {
            let btf = Btf::from_sys_fs().map_err(|error| fail(&error))?;
            visitor.load("tcp", &btf).map_err(|error| fail(&error))?;
        }
        for namespace in namespaces.values() {
            let link = visitor.attach().map_err(|error| fail(&error))?;
            let link = visitor.take_link(link).map_err(|error| fail(&error))?;
            visit(link, namespace).map_err(Error::Missing)?;
        }
        Ok(())
    }
}

/// An iterator visits the network namespace of the thread that opens it, so this needs a thread of its own.
fn visit(link: IterLink, namespace: &File) -> Result<(), String> {
    let visited = std::thread::scope(|scope| {
        let visitor = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
            let mut sockets = link.into_file().map_err(|error| describe(&error))?;
            // The program writes nothing.
            sockets.read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
        });
        visitor.join().unwrap_or_else(|_| Err("its thread panicked".into()))
    });
    visited.map_err(|problem| format!("the sockets of a network namespace can't be visited: {problem}"))
}

/// The network namespaces of all processes in a cgroup and below, by their inode.
fn find_namespaces(cgroup: &Path, found: &mut BTreeMap<u64, File>) {
    for process in fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().lines() {
        // A process that ends meanwhile has no sockets.
        let path = format!("/proc/{process}/ns/net");
        if found.len() < MAX_NAMESPACES
            && let Ok(about) = fs::metadata(&path)
            && !found.contains_key(&about.st_ino())
            && let Ok(file) = File::open(&path)
        {
            found.insert(about.st_ino(), file);
        }
    }
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_namespaces(&below.path(), found);
        }
    }
}
