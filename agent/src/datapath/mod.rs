//! The kernel part, loaded and spoken to: declares sessions before they exist, reads what became of
//! them, and never touches their data.
//!
//! Needs Linux 6.1 or later with BTF, cgroup v2, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root).

mod abandoned;
mod bpf_fs;
mod btf;
mod cgroup;
mod earlier;
mod entering;
mod examining;
mod leaving;
mod load;
mod lost;
mod middle_boxes;
mod mounts;
mod namespaces;
mod observing;
mod offsets;
mod paused;
mod pins;
mod plug_addresses;
mod raw;
mod report;
mod scope;
mod shown;
mod tracepoints;
mod unread;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use abandoned::Abandoned;
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use aya::programs::ProgramError;
use aya::programs::links::FdLink;
pub use bpf_fs::{
    BpfFolder, existing as existing_bpf_folders, folder as bpf_folder, mount_if_none as mount_bpf,
};
pub use cgroup::{cgroup_id, cgroup2_mount, cgroup2_mounts, is_gone, members, own_cgroup, pinned_places};
pub use earlier::is_pinned;
pub use observing::Watch;
pub use offsets::{RECEIVING_CALLS, SENDING_CALLS};
pub use patchbay_agent_core::session_report::{Cause, Path, SessionReport, Traffic};
use patchbay_ebpf_common as common;
pub use patchbay_ebpf_common::{Habit, Program, Reason, habit};
pub use paused::Switch;
pub use pins::prepare_folder as prepare_pins;
pub use plug_addresses::{Destination, PlugAddress, PlugAddresses};
pub use report::SessionEvent;
pub use scope::{Scope, Source, fixed_port};
pub use shown::{Looker, ShownMessage};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// The kernel programs, built by `build.rs`.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/patchbay-ebpf"));

/// The program that the agent calls.
const CONTROL: &str = "patchbay_control";

/// Sessions known at once, unless set otherwise; further ones stay on TCP uncounted.
pub const DEFAULT_SESSIONS_LIMIT: u32 = 65_536;
/// Unread redirected bytes allowed for each direction, unless set otherwise: what TCP's own send buffer may grow to
/// (`tcp_wmem`). Less counts where the receive buffer and half the send buffer hold less, which is 1.4 MiB at first.
/// Above it the direction goes over TCP, whose window stops the sender.
pub const DEFAULT_IN_FLIGHT_BYTES: u32 = 4 << 20;

/// How long events are gathered before they are taken together: many short connections wake the agent once.
const GATHERED: Duration = Duration::from_millis(2);

/// States of a record that is no session, or none any more.
const NO_SESSION: u32 = common::state::ENDED | common::state::TENTATIVE;

/// Why sessions can't be redirected on this node: what is missing and what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// The kernel refused an operation on a map.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table of declarations is full.
    #[error("the table of declared sessions is full ({0} entries)")]
    Full(u32),
    /// Another refusal.
    #[error("the kernel refused: {0}")]
    Map(#[from] MapError),
    /// The programs are of another build.
    #[error("{0}")]
    Missing(String),
    /// A program could not be run.
    #[error("the kernel refused: {0}")]
    Program(#[from] ProgramError),
}

/// How to load.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's cgroup; connections of processes below it are seen, no others.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned so that they outlive the agent; a folder in a bpffs, mounted
    /// there when it is none.
    pub pins: Option<PathBuf>,
    /// Sessions known at once.
    pub sessions_limit: u32,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size.
    pub in_flight_budget: u32,
    /// Redirects without declarations whatever stays inside the cgroup.
    pub scope: Option<Scope>,
    /// Bits of [`habit::tried`] that do not take a session of mode `auto` back to TCP.
    pub harmless: u32,
    /// Reads the kernel's structures like memory where the kernel can check that (Linux 6.2), which costs least.
    pub reads_like_memory: bool,
    /// Number of the maps' layout; another than the programs' own only to try an upgrade.
    pub layout: u32,
}

impl Options {
    /// The usual limits, for a cgroup.
    pub fn new(cgroup: PathBuf) -> Self {
        Self {
            cgroup,
            pins: None,
            sessions_limit: DEFAULT_SESSIONS_LIMIT,
            in_flight_budget: DEFAULT_IN_FLIGHT_BYTES,
            scope: None,
            harmless: 0,
            reads_like_memory: true,
            layout: common::LAYOUT,
        }
    }

    /// Where this layout's maps are pinned.
    fn pinned(&self) -> Option<PathBuf> {
        self.pins.as_deref().map(|pins| pins::of_layout(pins, self.layout))
    }
}

/// A session that may come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Declaration {
    /// Id of the source instance's cgroup.
    pub source_cgroup: u64,
    /// Id of the destination instance's cgroup; 0 when it is on another node.
    pub destination_cgroup: u64,
    /// Where the destination listens.
    pub destination: SocketAddr,
    /// The source instance's id.
    pub source_instance: u64,
    /// The destination instance's id.
    pub destination_instance: u64,
    /// Whether to redirect, or why not.
    pub redirect: Result<(), Reason>,
    /// What the reason is about, if it is [`Reason::Habit`].
    pub about: Habit,
    /// Whether it stays redirected whatever is seen.
    pub always: bool,
}

/// Owner of the loaded programs and their maps. Dropping it takes the programs off, unless they are
/// pinned.
pub struct Datapath {
    declared: HashMap<MapData, common::DeclarationKey, common::Declaration>,
    sessions: HashMap<MapData, u64, common::Session>,
    sockets: SockHash<MapData, u64>,
    settings: Array<MapData, common::Settings>,
    counters: PerCpuArray<MapData, u64>,
    /// Events known to be lost.
    lost: u64,
    containers: HashMap<MapData, u64, common::Treatment>,
    sources: HashMap<MapData, common::SourceKey, common::Treatment>,
    events: AsyncFd<RingBuf<MapData>>,
    /// Until when events are gathered, before they are taken together.
    gathering: Option<Instant>,
    options: Options,
    counts_unread: bool,
    leaving: leaving::Leaving,
    entering: entering::Entering,
    middle_boxes: middle_boxes::MiddleBoxes,
    earlier: Vec<earlier::Earlier>,
    /// What was found in the records, to be told.
    found: VecDeque<SessionEvent>,
    observing: observing::Observing,
    examiner: examining::Examiner,
    /// Whether messages are redirected now.
    redirects: bool,
    /// [`common::Settings::watch`]
    watched: u32,
    programs: Ebpf,
    // Keeps the link alive.
    _link: Option<FdLink>,
}

impl Datapath {
    /// Declares a session before it exists. Declaring it again replaces what was said.
    ///
    /// # Errors
    /// The table is full: the session will stay on TCP, uncounted.
    pub fn declare(&mut self, declaration: &Declaration) -> Result<(), Error> {
        let value = common::Declaration {
            destination_cgroup: declaration.destination_cgroup,
            source_instance: declaration.source_instance,
            destination_instance: declaration.destination_instance,
            refusal: declaration.redirect.err().map_or(0, |reason| reason as u32),
            mode: match declaration.always {
                true => common::mode::ALWAYS,
                false => common::mode::AUTO,
            },
            about: declaration.about.0,
        };
        let key = key(declaration.source_cgroup, declaration.destination);
        self.declared.insert(key, value, 0).map_err(|error| match &error {
            MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Error::Full(self.options.sessions_limit)
            }
            _ => Error::Map(error),
        })
    }

    /// The declarations that are in force, an earlier agent's too.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn declarations(&self) -> Result<Vec<Declaration>, Error> {
        self.declared
            .iter()
            .map(|entry| {
                let (key, value) = entry?;
                Ok(Declaration {
                    source_cgroup: key.source_cgroup,
                    destination_cgroup: value.destination_cgroup,
                    destination: report::address(key.address, key.port),
                    source_instance: value.source_instance,
                    destination_instance: value.destination_instance,
                    redirect: Reason::from_code(value.refusal).map_or(Ok(()), Err),
                    about: Habit(value.about),
                    always: value.mode == common::mode::ALWAYS,
                })
            })
            .collect()
    }

    /// Whether the kernel counts unread redirected bytes by themselves (`sk_psock.msg_tot_len`).
    pub fn counts_unread(&self) -> bool {
        self.counts_unread
    }

    /// Takes a declaration back; sessions that exist go on as they are.
    ///
    /// # Errors
    /// The kernel refused; a declaration that is not there is no error.
    pub fn withdraw(&mut self, source_cgroup: u64, destination: SocketAddr) -> Result<(), Error> {
        match self.declared.remove(&key(source_cgroup, destination)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(call)) if call.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says which bits of [`habit::tried`] do not keep a session of mode `auto` on TCP.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_harmless(&mut self, harmless: u32) -> Result<(), Error> {
        self.options.harmless = harmless;
        let on = self.settings.get(&0, 0)?.redirect != 0;
        self.set_redirection(on)
    }

    /// Redirects no further message, refuses every declared session, and takes the present ones back to TCP.
    ///
    /// # Errors
    /// The kernel refused; what was done holds.
    pub fn refuse_all(&mut self) -> Result<(), Error> {
        self.set_redirection(false)?;
        for declaration in self.declarations()? {
            let redirect = declaration.redirect.and(Err(Reason::Unavailable));
            self.declare(&Declaration { redirect, ..declaration })?;
        }
        self.leave_all()
    }

    /// Switches redirection of further messages on or off, in order and without loss.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_redirection(&mut self, on: bool) -> Result<(), Error> {
        self.redirects = on;
        self.set_settings()
    }

    fn set_settings(&mut self) -> Result<(), Error> {
        let scope = self.options.scope;
        let settings = common::Settings {
            redirect: u32::from(self.redirects),
            in_flight_budget: self.options.in_flight_budget,
            scope: u32::from(scope.is_some()),
            scope_refusal: scope.map_or(0, |scope| scope.refusal.map_or(0, |reason| reason as u32)),
            scope_mode: scope.map_or(0, |scope| scope.mode()),
            harmless: self.options.harmless,
            watch: self.watched,
            chosen_ports: scope::chosen_ports(),
            processes: examining::namespace(),
        };
        Ok(self.settings.set(0, settings, 0)?)
    }

    /// The sessions that exist now, with their counters.
    ///
    /// # Errors
    /// The kernel refused; a session that ends meanwhile is left out.
    pub fn sessions(&self) -> Result<Vec<SessionReport>, Error> {
        let mut reports = self.own_sessions()?;
        for report in &mut reports {
            self.examiner.add_to(report);
        }
        reports.extend(self.earlier.iter().flat_map(earlier::Earlier::sessions).cloned());
        Ok(reports)
    }

    fn own_sessions(&self) -> Result<Vec<SessionReport>, Error> {
        let living = self.records()?.into_iter().filter(|(_, record)| record.state & NO_SESSION == 0);
        Ok(living.map(|(report, _)| report).collect())
    }

    /// What the kernel programs keep, also of what is no session yet or has ended.
    fn records(&self) -> Result<Vec<(SessionReport, common::Session)>, Error> {
        // The kernel begins again at the first key when the one it stood at is gone: some come twice.
        let mut records = BTreeMap::new();
        for entry in self.sessions.iter() {
            match entry {
                Ok((key, session)) => {
                    records.insert(key, (report::session(&session), session));
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records.into_values().collect())
    }

    /// The next event; safe to cancel.
    ///
    /// # Errors
    /// The ring can't be watched any more.
    pub async fn next_event(&mut self) -> io::Result<SessionEvent> {
        loop {
            if let Some(event) = self.found.pop_front() {
                return Ok(event);
            }
            let mut guard = self.events.readable_mut().await?;
            // While events wait, the kernel programs wake nobody for the next ones.
            tokio::time::sleep_until(*self.gathering.get_or_insert_with(|| Instant::now() + GATHERED)).await;
            if let Some(mut event) = next_in(guard.get_inner_mut(), &mut self.leaving) {
                self.examiner.add_to(event.report_mut());
                return Ok(event);
            }
            guard.clear_ready();
            self.gathering = None;
            self.find_lost();
        }
    }

    /// The next event of those that wait already.
    pub fn waiting_event(&mut self) -> Option<SessionEvent> {
        if let Some(event) = self.found.pop_front() {
            return Some(event);
        }
        if let Some(mut event) = next_in(self.events.get_mut(), &mut self.leaving) {
            self.examiner.add_to(event.report_mut());
            return Some(event);
        }
        self.find_lost();
        self.found.pop_front()
    }

    /// Looks which sessions of earlier layouts have ended, which [`Self::next_event`] then tells, and removes
    /// the layouts that have none any more. To be called every now and then.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn follow_earlier(&mut self) -> io::Result<()> {
        for earlier in &mut self.earlier {
            // How it ended is in a ring whose layout is not known here.
            let ended = earlier.look()?.into_iter();
            self.found.extend(ended.map(|report| SessionEvent::Closed(report, Cause::SourceFinished)));
        }
        self.earlier.retain(|earlier| !earlier.remove_if_empty());
        Ok(())
    }

    /// Removes every trace that pinned programs left. Unread redirected bytes are lost: drain first.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(pins: &std::path::Path) -> io::Result<()> {
        pins::remove(pins)
    }
}

/// The sessions of an agent, by what it pinned.
///
/// # Errors
/// No agent pinned its maps there.
pub fn pinned_sessions(pins: &std::path::Path) -> Result<Vec<SessionReport>, Unavailable> {
    let fail = |error: &dyn std::error::Error| {
        Unavailable(format!("no agent's maps at {}: {}", pins.display(), load::describe(error)))
    };
    let map = MapData::from_pin(pins::of_layout(pins, common::LAYOUT).join("KNOWN_SESSIONS"))
        .map_err(|error| fail(&error))?;
    let sessions: HashMap<_, u64, common::Session> =
        HashMap::try_from(aya::maps::Map::HashMap(map)).map_err(|error| fail(&error))?;
    let living = sessions.iter().flatten().filter(|(_, session)| session.state & NO_SESSION == 0);
    Ok(living.map(|(_, session)| report::session(&session)).collect())
}

fn key(source_cgroup: u64, destination: SocketAddr) -> common::DeclarationKey {
    common::DeclarationKey {
        source_cgroup,
        address: report::address_bytes(destination.ip()),
        port: u32::from(destination.port()),
        padding: 0,
    }
}

/// The next event in the ring; a session that is to leave the map is noted.
fn next_in(ring: &mut RingBuf<MapData>, leaving: &mut leaving::Leaving) -> Option<SessionEvent> {
    loop {
        let item = ring.next()?;
        let event = raw::event(&item);
        if let Some(event) = event.filter(|event| event.kind == common::event::UNREAD) {
            unread::reset(&event.session, event.cause == 0);
            continue;
        }
        if let Some(event) = event.filter(|event| event.kind == common::event::BREAK_OFF) {
            unread::break_off(&event.session);
        }
        if let Some(event) = event.as_ref().and_then(SessionEvent::read) {
            let ended = matches!(event, SessionEvent::Closed(..));
            if event.report().leaving.is_some() && !event.report().outside && !ended {
                leaving.begin(event.report());
            }
            return Some(event);
        }
    }
}
