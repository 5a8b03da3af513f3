//! The kernel part, loaded and spoken to: declares sessions before they exist, reads what became of
//! them, and never touches their data.
//!
//! Needs Linux 6.1 or later with BTF, cgroup v2, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root).

mod btf;
mod cgroup;
mod offsets;
mod pins;
mod raw;
mod report;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use aya::maps::{Array, HashMap, MapData, MapError, RingBuf, SockHash};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};
pub use cgroup::{cgroup_id, cgroup2_mount};
use patchbay_ebpf_common as common;
pub use patchbay_ebpf_common::Reason;
pub use report::{Cause, Path, SessionEvent, SessionReport, Traffic};
use tokio::io::unix::AsyncFd;

/// The kernel programs, built by `build.rs`.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/patchbay-ebpf"));

/// Sessions known at once, unless set otherwise; further ones stay on TCP uncounted.
pub const DEFAULT_SESSIONS_LIMIT: u32 = 65_536;
/// Unread redirected bytes allowed for each direction, unless set otherwise. TCP lets a receive buffer
/// grow to about this size; above it the direction goes over TCP, whose window stops the sender.
pub const DEFAULT_IN_FLIGHT_BYTES: u32 = 1 << 20;

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
}

/// Owner of the loaded programs and their maps. Dropping it takes the programs off, unless they are
/// pinned.
pub struct Datapath {
    declared: HashMap<MapData, common::DeclarationKey, common::Declaration>,
    sessions: HashMap<MapData, u64, common::Session>,
    settings: Array<MapData, common::Settings>,
    events: AsyncFd<RingBuf<MapData>>,
    options: Options,
    // Keeps programs and links alive.
    _programs: Ebpf,
    _link: Option<FdLink>,
}

impl Datapath {
    /// Loads the programs, or takes over what an earlier agent pinned. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Names exactly what this node lacks.
    pub fn load(options: &Options) -> Result<Self, Unavailable> {
        let offsets = offsets::read()?;
        let cgroup = File::open(&options.cgroup).map_err(|error| {
            Unavailable(format!("the cgroup {} can't be opened: {error}", options.cgroup.display()))
        })?;
        if let Some(pins) = &options.pins {
            pins::prepare(pins)?;
        }
        let mut programs = Self::load_programs(options, &offsets)?;
        Self::attach_messages(&mut programs, options.pins.is_some())?;
        let link = Self::attach_connections(&mut programs, &cgroup, options)?;
        let events = RingBuf::try_from(take(&mut programs, "EVENTS")?).map_err(map_problem)?;
        let mut datapath = Self {
            declared: HashMap::try_from(take(&mut programs, "DECLARED")?).map_err(map_problem)?,
            sessions: HashMap::try_from(take(&mut programs, "KNOWN_SESSIONS")?).map_err(map_problem)?,
            settings: Array::try_from(take(&mut programs, "SETTINGS")?).map_err(map_problem)?,
            events: raw::watch(events)
                .map_err(|error| Unavailable(format!("the event ring can't be watched: {error}")))?,
            options: options.clone(),
            _programs: programs,
            _link: link,
        };
        datapath.set_redirection(true).map_err(|error| Unavailable(error.to_string()))?;
        Ok(datapath)
    }

    fn load_programs(options: &Options, offsets: &[(&'static str, u32)]) -> Result<Ebpf, Unavailable> {
        let mut loader = EbpfLoader::new();
        for (name, value) in offsets {
            loader.override_global(name, value, true);
        }
        let limit = options.sessions_limit;
        for map in ["DECLARED", "KNOWN_SESSIONS", "BY_TUPLE"] {
            loader.map_max_entries(map, limit);
        }
        for map in ["MEMBERS", "SOCKETS"] {
            loader.map_max_entries(map, limit.saturating_mul(2));
        }
        let paths: Vec<_> = match &options.pins {
            Some(pins) => pins::MAPS.iter().map(|name| (*name, pins.join(name))).collect(),
            None => Vec::new(),
        };
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        loader.load(PROGRAMS).map_err(|error| Unavailable(format!("{}{}", describe(&error), permission())))
    }

    /// Attaches the program for messages to the socket map.
    fn attach_messages(programs: &mut Ebpf, keep: bool) -> Result<(), Unavailable> {
        let sockets = programs.map("SOCKETS").ok_or_else(|| missing("SOCKETS"))?;
        let sockets: SockHash<_, u64> = SockHash::try_from(sockets).map_err(map_problem)?;
        let fd = sockets.fd().try_clone().map_err(|error| Unavailable(describe(&error)))?;
        let program: &mut SkMsg = program(programs, "patchbay_sk_msg")?;
        program.load().map_err(|error| Unavailable(describe(&error)))?;
        let link = program.attach(&fd).map_err(|error| Unavailable(describe(&error)))?;
        if keep {
            // aya would detach it when the agent ends; the map holds it as long as the map lives.
            let link = program.take_link(link).map_err(|error| Unavailable(describe(&error)))?;
            std::mem::forget(link);
        }
        Ok(())
    }

    /// Attaches the program for connections to the node's cgroup.
    fn attach_connections(
        programs: &mut Ebpf,
        cgroup: &File,
        options: &Options,
    ) -> Result<Option<FdLink>, Unavailable> {
        let program: &mut SockOps = program(programs, "patchbay_sock_ops")?;
        program.load().map_err(|error| Unavailable(describe(&error)))?;
        let link = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| {
            Unavailable(format!("{} (is {} a cgroup v2?)", describe(&error), options.cgroup.display()))
        })?;
        let link = program.take_link(link).map_err(|error| Unavailable(describe(&error)))?;
        let link: FdLink =
            link.try_into().map_err(|_| Unavailable("the kernel has no links for cgroups (5.7)".into()))?;
        match &options.pins {
            Some(pins) => pins::replace_link(pins, link).map(|()| None),
            None => Ok(Some(link)),
        }
    }

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
            padding: 0,
        };
        let key = key(declaration.source_cgroup, declaration.destination);
        self.declared.insert(key, value, 0).map_err(|error| match &error {
            MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(libc::E2BIG) => {
                Error::Full(self.options.sessions_limit)
            }
            _ => Error::Map(error),
        })
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

    /// Switches redirection of further messages on or off, in order and without loss.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_redirection(&mut self, on: bool) -> Result<(), Error> {
        let settings =
            common::Settings { redirect: u32::from(on), in_flight_budget: self.options.in_flight_budget };
        Ok(self.settings.set(0, settings, 0)?)
    }

    /// The sessions that exist now, with their counters.
    ///
    /// # Errors
    /// The kernel refused; a session that ends meanwhile is left out.
    pub fn sessions(&self) -> Result<Vec<SessionReport>, Error> {
        let mut reports = Vec::new();
        for entry in self.sessions.iter() {
            match entry {
                Ok((_, session)) => reports.push(SessionReport::read(&session)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reports)
    }

    /// The next event; safe to cancel.
    ///
    /// # Errors
    /// The ring can't be watched any more.
    pub async fn next_event(&mut self) -> io::Result<SessionEvent> {
        loop {
            let mut guard = self.events.readable_mut().await?;
            while let Some(item) = guard.get_inner_mut().next() {
                if let Some(event) = raw::event(&item)
                    && let Some(event) = SessionEvent::read(&event)
                {
                    return Ok(event);
                }
            }
            guard.clear_ready();
        }
    }

    /// Removes every trace that pinned programs left. Unread redirected bytes are lost: drain first.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(pins: &std::path::Path) -> io::Result<()> {
        pins::remove(pins)
    }
}

fn key(source_cgroup: u64, destination: SocketAddr) -> common::DeclarationKey {
    common::DeclarationKey {
        source_cgroup,
        address: report::address_bytes(destination.ip()),
        port: u32::from(destination.port()),
        padding: 0,
    }
}

fn take(programs: &mut Ebpf, name: &str) -> Result<aya::maps::Map, Unavailable> {
    programs.take_map(name).ok_or_else(|| missing(name))
}

fn program<'a, T>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Unavailable>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program>,
{
    programs.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Unavailable {
    Unavailable(format!("the kernel programs hold no {name}: agent and programs are of different builds"))
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn map_problem(error: MapError) -> Unavailable {
    Unavailable(describe(&error))
}

/// An error with all its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn permission() -> &'static str {
    match nix::unistd::geteuid().is_root() {
        true => "",
        false => " (run the agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
    }
}
