//! Loading the programs, or taking over what an earlier agent pinned.

use std::collections::VecDeque;
use std::fs::File;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf, SockHash};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSock, RawTracePoint, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};
use patchbay_ebpf_common::CAST_CALL;
use tokio::io::unix::AsyncFd;

use super::earlier::Earlier;
use super::entering::Entering;
use super::examining::Examiner;
use super::leaving::Leaving;
use super::middle_boxes::MiddleBoxes;
use super::offsets::Kernel;
use super::{CONTROL, Datapath, Options, PROGRAMS, Unavailable, offsets, pins, raw};

impl Datapath {
    /// Loads the programs, or takes over what an earlier agent pinned. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Names exactly what this node lacks.
    pub fn load(options: &Options) -> Result<Self, Unavailable> {
        let kernel = offsets::read(options.reads_like_memory)?;
        let cgroup = File::open(&options.cgroup).map_err(|error| {
            Unavailable(format!("the cgroup {} can't be opened: {error}", options.cgroup.display()))
        })?;
        let mut earlier = Vec::new();
        if let Some(pins) = &options.pins {
            pins::prepare(pins, options.layout)?;
            earlier = Earlier::find(pins, options.layout);
        }
        let mut programs = Self::load_programs(options, &kernel)?;
        Self::attach_messages(&mut programs, options.pins.is_some())?;
        Self::load_control(&mut programs, options)?;
        let link = Self::attach_connections(&mut programs, &cgroup, options)?;
        Self::attach_released(&mut programs, &cgroup)?;
        let mut datapath = Self {
            declared: HashMap::try_from(take(&mut programs, "DECLARED")?).map_err(map_problem)?,
            sessions: HashMap::try_from(take(&mut programs, "KNOWN_SESSIONS")?).map_err(map_problem)?,
            sockets: SockHash::try_from(take(&mut programs, "SOCKETS")?).map_err(map_problem)?,
            settings: Array::try_from(take(&mut programs, "SETTINGS")?).map_err(map_problem)?,
            counters: PerCpuArray::try_from(take(&mut programs, "COUNTERS")?).map_err(map_problem)?,
            lost: 0,
            containers: HashMap::try_from(take(&mut programs, "CONTAINERS")?).map_err(map_problem)?,
            sources: HashMap::try_from(take(&mut programs, "SOURCES")?).map_err(map_problem)?,
            events: watched(&mut programs, "EVENTS")?,
            gathering: None,
            options: options.clone(),
            counts_unread: kernel
                .variables
                .iter()
                .any(|(name, at)| *name == "OFFSET_MSG_TOT_LEN" && *at != 0),
            leaving: Leaving::default(),
            entering: Entering::default(),
            middle_boxes: MiddleBoxes::default(),
            earlier,
            found: VecDeque::new(),
            observing: super::observing::Observing::default(),
            examiner: Examiner::new().map_err(|error| Unavailable(format!("no thread: {error}")))?,
            redirects: true,
            watched: 0,
            programs,
            _link: link,
        };
        datapath.set_redirection(true).map_err(|error| Unavailable(error.to_string()))?;
        // What an earlier agent was not told.
        datapath.find_untold().map_err(|error| Unavailable(error.to_string()))?;
        datapath.find_lost();
        // Only now: until the new programs are attached, the earlier ones take new sessions.
        for earlier in &datapath.earlier {
            earlier.retire().map_err(|error| Unavailable(format!("an earlier version's maps: {error}")))?;
        }
        raw::give_back_memory();
        Ok(datapath)
    }

    /// Attaches the programs to the cgroup's path again: it was removed, and was made again. Sessions inside it are
    /// as new ones, everything that was told to the kernel holds.
    ///
    /// # Errors
    /// The cgroup can't be opened, or the kernel refuses.
    pub fn attach_again(&mut self) -> Result<(), Unavailable> {
        let cgroup = File::open(&self.options.cgroup).map_err(|error| {
            Unavailable(format!("the cgroup {} can't be opened: {error}", self.options.cgroup.display()))
        })?;
        self._link = Self::attach_connections(&mut self.programs, &cgroup, &self.options)?;
        Ok(())
    }

    fn load_programs(options: &Options, kernel: &Kernel) -> Result<Ebpf, Unavailable> {
        let mut loader = EbpfLoader::new();
        for (name, value) in &kernel.variables {
            loader.override_global(name, value, true);
        }
        for (name, numbers) in &kernel.calls {
            loader.override_global(name, &numbers[..], true);
        }
        let limit = options.sessions_limit;
        for map in ["DECLARED", "KNOWN_SESSIONS", "PENDING"] {
            loader.map_max_entries(map, limit);
        }
        for map in ["MEMBERS", "SOCKETS"] {
            loader.map_max_entries(map, limit.saturating_mul(2));
        }
        let paths: Vec<_> = match &options.pinned() {
            Some(pins) => pins::MAPS.iter().map(|name| (*name, pins.join(name))).collect(),
            None => Vec::new(),
        };
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        loader
            .load(&with_cast(kernel.cast))
            .map_err(|error| Unavailable(format!("{}{}", describe(&error), permission())))
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

    /// Loads the program that the agent calls, and pins it for those who look at messages.
    fn load_control(programs: &mut Ebpf, options: &Options) -> Result<(), Unavailable> {
        let program: &mut RawTracePoint = program(programs, CONTROL)?;
        program.load().map_err(|error| Unavailable(describe(&error)))?;
        if let Some(pins) = &options.pinned() {
            pins::replace_program(pins, program)?;
        }
        Ok(())
    }

    /// Attaches the program for closed sockets to the node's cgroup. It goes with the agent: nobody else would send
    /// the resets.
    fn attach_released(programs: &mut Ebpf, cgroup: &File) -> Result<(), Unavailable> {
        let program: &mut CgroupSock = program(programs, "patchbay_released")?;
        program.load().map_err(|error| Unavailable(describe(&error)))?;
        program
            .attach(cgroup, CgroupAttachMode::Single)
            .map_err(|error| Unavailable(describe(&error)))
            .map(drop)
    }

    /// Attaches the program for connections to the node's cgroup.
    fn attach_connections(
        programs: &mut Ebpf,
        cgroup: &File,
        options: &Options,
    ) -> Result<Option<FdLink>, Unavailable> {
        let program: &mut SockOps = program(programs, "patchbay_sock_ops")?;
        if program.fd().is_err() {
            program.load().map_err(|error| Unavailable(describe(&error)))?;
        }
        let link = program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| {
            Unavailable(format!("{} (is {} a cgroup v2?)", describe(&error), options.cgroup.display()))
        })?;
        let link = program.take_link(link).map_err(|error| Unavailable(describe(&error)))?;
        let link: FdLink =
            link.try_into().map_err(|_| Unavailable("the kernel has no links for cgroups (5.7)".into()))?;
        match &options.pinned() {
            Some(pins) => pins::replace_link(pins, link).map(|()| None),
            None => Ok(Some(link)),
        }
    }
}

fn watched(programs: &mut Ebpf, name: &str) -> Result<AsyncFd<RingBuf<MapData>>, Unavailable> {
    let ring = RingBuf::try_from(take(programs, name)?).map_err(map_problem)?;
    raw::watch(ring).map_err(|error| Unavailable(format!("the ring {name} can't be watched: {error}")))
}

fn take(programs: &mut Ebpf, name: &str) -> Result<aya::maps::Map, Unavailable> {
    programs.take_map(name).ok_or_else(|| missing(name))
}

pub(super) fn program<'a, T>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut T, Unavailable>
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
pub(super) fn describe(error: &dyn std::error::Error) -> String {
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
    without_middle(text)
}

/// A verifier's log says what is wrong at its end.
fn without_middle(text: String) -> String {
    const KEPT_LINES: usize = 4;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= 2 * KEPT_LINES {
        return text;
    }
    let (first, last) = (&lines[..1], &lines[lines.len() - KEPT_LINES..]);
    [first, &["…"], last].concat().join(" | ")
}

fn permission() -> &'static str {
    match nix::unistd::geteuid().is_root() {
        true => "",
        false => " (run the agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)",
    }
}

/// The programs' file with the number of the kernel's function in every call of it.
fn with_cast(number: u32) -> Vec<u8> {
    let marked = CAST_CALL.to_le_bytes();
    let mut programs = PROGRAMS.to_vec();
    let mut at = 0;
    while let Some(found) = programs[at..].windows(marked.len()).position(|bytes| bytes == marked) {
        at += found + marked.len();
        // The number is the upper half of the instruction.
        programs[at - 4..at].copy_from_slice(&number.to_le_bytes());
    }
    programs
}
