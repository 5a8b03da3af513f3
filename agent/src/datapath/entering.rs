//! Letting sessions into the map in mid-life: those of a program that was observed, and found clean, while they
//! were on TCP. A connection that lives for hours would else stay on TCP for as long.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Btf;
use aya::programs::Iter;
use aya::programs::iter::IterLink;
use nix::sched::{CloneFlags, setns};
use patchbay_ebpf_common::{Busy, Reason, operation};

use super::examining::namespace;
use super::load::{describe, program};
use super::{Datapath, Error, SessionReport, Unavailable, raw};

/// The program that visits sockets.
const ENTER: &str = "patchbay_enter";
/// The program that visits threads.
const TASKS: &str = "patchbay_tasks";
/// How long a thread may be busy before the sessions that wait for it are given up.
const ENTER_WITHIN: Duration = Duration::from_secs(60);
/// Network namespaces that are visited at most; sessions in others stay on TCP.
const MAX_NAMESPACES: usize = 1_024;

/// Sessions whose ends are in the map, while calls that began before may still be under way.
#[derive(Default)]
pub(super) struct Entering(BTreeMap<u64, Arrival>);

struct Arrival {
    report: SessionReport,
    since: Instant,
    /// Threads that have been busy ever since, with their time outside the kernel.
    busy: HashMap<u64, u64>,
}

impl Entering {
    pub(super) fn has(&self, key: u64) -> bool {
        self.0.contains_key(&key)
    }

    /// They leave as all others do.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Datapath {
    /// Lets sessions into the map that are on TCP because their program was observed. The caller has found
    /// nothing harmful in them. Both ends' reads must never block, and they must have been observed from their first
    /// byte; the others stay on TCP. Returns how many are in; [`Self::let_in`] redirects them. It takes about as long as
    /// reading the socket tables of their network namespaces. Only an agent that sees all processes can do it: none is
    /// let in from inside a PID namespace.
    ///
    /// # Errors
    /// The kernel can't, or refused; the sessions stay on TCP, those that were in the map already leave it again.
    pub fn enter(&mut self, sessions: &[SessionReport]) -> Result<usize, Error> {
        if sessions.is_empty() || namespace() != [0, 0] {
            return Ok(0);
        }
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
        let mut arrivals = Vec::new();
        for session in wanted {
            if self.control(operation::BOTH_IN, session.key, 0)? == 1 {
                arrivals.push(session);
            } else {
                for cookie in session.sockets {
                    // One end alone may have gone in. Nothing was redirected to it.
                    let _ = self.sockets.remove(&cookie);
                }
            }
        }
        if arrivals.is_empty() {
            return visited.map(|()| 0);
        }
        let busy = match self.busy() {
            Ok(busy) => busy,
            Err(error) => {
                // Whether a call is still under way can't be known: they leave again, by TCP as before.
                for session in arrivals {
                    self.begin(session, Some(Reason::Learning))?;
                }
                return Err(error);
            }
        };
        for session in &arrivals {
            let (report, since) = ((*session).clone(), Instant::now());
            self.entering.0.insert(session.key, Arrival { report, since, busy: busy.clone() });
        }
        visited.map(|()| arrivals.len())
    }

    /// Whether sessions are in the map and not yet redirected.
    pub fn is_entering(&self) -> bool {
        !self.entering.0.is_empty()
    }

    /// Redirects the sessions of which no call can be under way any more that began before they were in the map: each
    /// thread that was busy then has been seen waiting for something else, or outside the kernel. One that is busy for
    /// longer than a minute keeps them on TCP. To be called every now and then while [`Self::is_entering`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn let_in(&mut self) -> Result<(), Error> {
        if !self.is_entering() {
            return Ok(());
        }
        let now = self.busy()?;
        let mut done = Vec::new();
        for (key, arrival) in &mut self.entering.0 {
            arrival.busy.retain(|thread, before| now.get(thread) == Some(before));
            if arrival.busy.is_empty() || arrival.since.elapsed() > ENTER_WITHIN {
                done.push(*key);
            }
        }
        for key in done {
            let Some(arrival) = self.entering.0.remove(&key) else { continue };
            let refusal = (!arrival.busy.is_empty()).then_some(Reason::Learning);
            self.begin(&arrival.report, refusal)?;
        }
        Ok(())
    }

    /// Redirects a session whose ends are in the map, or has it leave again.
    fn begin(&mut self, report: &SessionReport, refusal: Option<Reason>) -> Result<(), Error> {
        let refusal = refusal.map_or(0, |reason| reason as u64);
        if self.control(operation::BEGIN, report.key, refusal)? != 1 {
            self.leaving.begin(report);
        }
        Ok(())
    }

    /// The threads of the machine that may be inside a call that never blocks, with their time outside the kernel.
    fn busy(&mut self) -> Result<HashMap<u64, u64>, Error> {
        let mut told = Vec::new();
        let link = self.visitor(TASKS, "task")?;
        let read = link.into_file().map(|mut threads| threads.read_to_end(&mut told));
        read.map_err(|error| missing(&error))?.map_err(|error| missing(&error))?;
        let busy = told.chunks_exact(size_of::<Busy>()).filter_map(raw::busy);
        Ok(busy.map(|busy| (busy.task, busy.user_time)).collect())
    }

    /// Runs the program for every TCP socket in the network namespaces of the cgroup's processes.
    fn visit_sockets(&mut self) -> Result<(), Error> {
        let mut namespaces = BTreeMap::new();
        find_namespaces(&self.options.cgroup, &mut namespaces);
        for namespace in namespaces.values() {
            let link = self.visitor(ENTER, "tcp")?;
            visit(link, namespace).map_err(Error::Missing)?;
        }
        Ok(())
    }

    /// A program that visits the kernel's objects of a kind, ready to be run once.
    fn visitor(&mut self, name: &str, kind: &str) -> Result<IterLink, Error> {
        let visitor: &mut Iter =
            program(&mut self.programs, name).map_err(|Unavailable(missing)| Error::Missing(missing))?;
        if visitor.fd().is_err() {
            let btf = Btf::from_sys_fs().map_err(|error| missing(&error))?;
            visitor.load(kind, &btf).map_err(|error| missing(&error))?;
        }
        let link = visitor.attach().map_err(|error| missing(&error))?;
        visitor.take_link(link).map_err(|error| missing(&error))
    }
}

fn missing(error: &dyn std::error::Error) -> Error {
    Error::Missing(describe(error))
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
