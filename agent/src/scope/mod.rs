//! Redirection without a Manager: inside one cgroup, by who listens there.

mod exec;
mod pins;
mod standalone;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
pub use exec::{Exec, run as exec};
use pins::{Left, Pins};
pub use standalone::{Standalone, run as standalone};
pub use summary::Summary;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::core::habit_names;
use crate::core::profiles::{Endpoint, Ends, Profiles, Traffic};
use crate::datapath::{
    Datapath, Habit, Options, Reason, Scope, SessionEvent, SessionReport, Source, cgroup_id, cgroup2_mount,
};
use crate::own_cgroup;
use crate::profile_file::{self, Keeper};

/// How often what was seen becomes decisions.
const DECIDE_EVERY: Duration = Duration::from_millis(100);
/// A connection whose other end does not show up leaves the map after this time.
const PAIRED_WITHIN: Duration = Duration::from_secs(1);
/// Between a program's name and its port in the name of a profile.
const TO: &str = " to ";
/// Programs that connect, known at once; further ones stay on TCP.
const MAX_SOURCES: usize = 4_096;
/// How long sessions may take to leave the map in the end; a reader that never reads keeps its bytes.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// How long removing what killed ones left may delay the end.
const CLEAR_WITHIN: Duration = Duration::from_secs(1);
/// Where profiles are kept unless said otherwise.
pub const STATE: &str = "/var/lib/patchbay/scopes";

/// How connections inside the scope are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Redirect programs whose habits are known to be safe, and learn about the others
    Auto,
    /// Redirect from the first connection, whatever is seen
    Always,
    /// Redirect nothing, count all the same
    Off,
}

impl Mode {
    /// Why sessions with a new listening socket stay on TCP at first.
    fn refusal(self) -> Option<Reason> {
        match self {
            Self::Auto => Some(Reason::Learning),
            Self::Always => None,
            Self::Off => Some(Reason::SwitchedOff),
        }
    }
}

/// Whether to redirect, or why not, and what that is about.
type Verdict = (Result<(), Reason>, Habit);

/// One cgroup whose inner connections are redirected.
struct Runner {
    datapath: Datapath,
    left: Left,
    /// Removes cgroups that killed ones left.
    clearing: Option<JoinHandle<()>>,
    // Dropped after the data path, whose pins it removes.
    pins: Pins,
    cgroup: PathBuf,
    /// Its id while it is there and the programs are attached to it.
    attached: Option<u64>,
    /// Which program connects to which port, and what was told to the kernel of it.
    sources: BTreeMap<(String, u16), Option<Verdict>>,
    mode: Mode,
    /// Names the profiles of this scope.
    name: String,
    keeper: Keeper,
    profiles: Profiles,
    summary: Summary,
    decide: Interval,
    /// Sessions that were to enter the map while they lived, and are still on TCP.
    tried: BTreeSet<u64>,
}

impl Runner {
    fn load(options: Options, name: String, mode: Mode, state: &Path) -> Result<Self> {
        let cgroup = options.cgroup.clone();
        let profiles = profile_file::read(state);
        let scope = Scope { always: mode == Mode::Always, refusal: mode.refusal() };
        let left = Left::find();
        let pins = Pins::make().context("this node can't redirect")?;
        let options = Options { scope: Some(scope), pins: Some(pins.folder.clone()), ..options };
        let mut datapath = Datapath::load(&options).context("this node can't redirect")?;
        if mode == Mode::Auto {
            datapath.observe(true).context("use --mode always to redirect without learning")?;
        }
        let mut decide = interval(DECIDE_EVERY);
        decide.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut runner = Self {
            datapath,
            left,
            clearing: cgroup2_mount().ok().map(|at| spawn_blocking(move || own_cgroup::remove_left(&at))),
            pins,
            attached: cgroup_id(&cgroup).ok(),
            cgroup,
            sources: BTreeMap::new(),
            mode,
            name,
            keeper: Keeper::new(state.to_owned()),
            profiles,
            summary: Summary::default(),
            decide,
            tried: BTreeSet::new(),
        };
        runner.know_sources();
        runner.decide_sources()?;
        Ok(runner)
    }

    /// Programs that were learned about earlier are decided before they connect.
    fn know_sources(&mut self) {
        let prefix = format!("{}.", self.name);
        let known = self.profiles.endpoints.keys().filter_map(|end| {
            let end = end.to_string();
            let (program, port) = end.strip_prefix(&prefix)?.rsplit_once(TO)?;
            Some((program.to_owned(), port.parse().ok()?))
        });
        self.sources = known.map(|source| (source, None)).collect();
    }

    /// Tells the kernel what has changed about programs that connect.
    fn decide_sources(&mut self) -> Result<()> {
        if self.mode != Mode::Auto {
            return Ok(());
        }
        let profiles = &self.profiles;
        for ((program, port), told) in &mut self.sources {
            let ends = ends_at(&self.name, program, *port);
            let (verdict, about) = (profiles.verdict(&ends, 0), profiles.about(&ends, 0));
            if *told != Some((verdict, about)) {
                self.datapath.set_source(Source::named(program, *port), verdict.err(), about)?;
                *told = Some((verdict, about));
            }
        }
        Ok(())
    }

    /// Works until dropped; safe to cancel.
    async fn work(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                event = self.datapath.next_event() => self.told(&event?),
                _ = self.decide.tick() => self.look()?,
            }
        }
    }

    fn told(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Established(report) => {
                let source = (report.program.clone(), report.destination.port());
                if self.mode == Mode::Auto && self.sources.len() < MAX_SOURCES {
                    self.sources.entry(source).or_default();
                }
            }
            SessionEvent::Closed(report, _) => {
                if report.sent.kernel_messages > 0 && report.leaving.is_none() {
                    let ends = self.ends(report);
                    self.profiles.remember_traffic(&ends, None);
                }
                self.learn_and_keep(report, true);
                self.summary.add(report);
            }
            SessionEvent::Habit(report) => self.learn_and_keep(report, false),
            SessionEvent::Leaving(report) if report.leaving.is_some_and(Traffic::counts) => {
                let ends = self.ends(report);
                self.profiles.remember_traffic(&ends, report.leaving);
                self.keeper.changed();
            }
            SessionEvent::Leaving(_) => {}
        }
    }

    fn learn_and_keep(&mut self, report: &SessionReport, ended: bool) {
        if self.learn(report, ended) {
            self.keeper.changed();
        }
    }

    /// Whether there was anything to learn.
    fn learn(&mut self, report: &SessionReport, ended: bool) -> bool {
        let ends = self.ends(report);
        self.mode == Mode::Auto && self.profiles.learn(&ends, report, ended)
    }

    fn ends(&self, report: &SessionReport) -> Ends {
        ends_at(&self.name, &report.program, report.destination.port())
    }

    fn look(&mut self) -> Result<()> {
        self.follow_cgroup();
        let mut learned = false;
        for session in self.datapath.sessions()? {
            learned |= self.learn(&session, false);
        }
        self.datapath.leave_unpaired(PAIRED_WITHIN)?;
        self.datapath.tell_middle_boxes()?;
        if learned {
            self.keeper.changed();
        }
        self.datapath.let_out()?;
        self.left.look();
        self.keeper.write_if_due(&mut self.profiles);
        self.decide_sources()?;
        self.let_in()
    }

    /// Sessions that live while their programs become known to be safe enter the map. Each is tried once.
    fn let_in(&mut self) -> Result<()> {
        if self.mode != Mode::Auto {
            return Ok(());
        }
        let learning = crate::datapath::Path::Tcp(Reason::Learning);
        let sessions: BTreeMap<u64, SessionReport> = self
            .datapath
            .sessions()?
            .into_iter()
            .filter(|session| {
                session.path == learning && self.profiles.verdict(&self.ends(session), 0).is_ok()
            })
            .map(|session| (session.key, session))
            .collect();
        let tried = std::mem::replace(&mut self.tried, sessions.keys().copied().collect());
        let ready: Vec<SessionReport> =
            sessions.into_values().filter(|session| !tried.contains(&session.key)).collect();
        if let Err(error) = self.datapath.enter(&ready) {
            warn!("sessions that live stay on TCP: {error}");
        }
        Ok(())
    }

    /// A cgroup goes and comes back under its name when its container starts again.
    fn follow_cgroup(&mut self) {
        let found = cgroup_id(&self.cgroup).ok();
        if found == self.attached {
            return;
        }
        let at = self.cgroup.display().to_string();
        if self.attached.take().is_some() {
            warn!(cgroup = at, "the cgroup was removed: nothing is redirected until it is made again");
        }
        if found.is_none() {
            return;
        }
        match self.datapath.attach_again() {
            Ok(()) => {
                self.attached = found;
                info!(cgroup = at, "the cgroup is there again and watched");
            }
            // Gone once more: the next look sees what becomes of it.
            Err(_) if cgroup_id(&self.cgroup).ok() != found => {}
            Err(error) => warn!(cgroup = at, "the cgroup is there again, and can't be watched: {error}"),
        }
    }

    /// Takes all sessions back to TCP, so that nothing is lost when the programs go.
    async fn end(&mut self) -> Result<()> {
        self.datapath.set_redirection(false)?;
        let deadline = tokio::time::Instant::now() + LEAVE_WITHIN;
        self.datapath.leave_all()?;
        while self.datapath.sessions()?.iter().any(|session| !session.outside) {
            if tokio::time::timeout_at(deadline, self.decide.tick()).await.is_err() {
                warn!(
                    "a program does not read what was redirected to it; what is unread waits for it at {}",
                    self.pins.folder.display()
                );
                break;
            }
            self.datapath.let_out()?;
        }
        if let Some(clearing) = self.clearing.take() {
            let _ = tokio::time::timeout(CLEAR_WITHIN, clearing).await;
        }
        self.take_events();
        self.keeper.write_at_last(&mut self.profiles);
        for session in self.datapath.sessions()? {
            self.summary.add(&session);
        }
        self.summary.uncounted = self.datapath.refused_by_full_tables()?;
        Ok(())
    }

    /// Reads what the kernel has told already.
    fn take_events(&mut self) {
        while let Some(event) = self.datapath.waiting_event() {
            self.told(&event);
        }
    }

    fn learned(&self) -> BTreeMap<String, String> {
        let used: Vec<Endpoint> = self
            .summary
            .ports
            .keys()
            .flat_map(|port| {
                let programs = self.sources.keys().filter(move |(_, to)| to == port);
                programs.map(|(program, port)| ends_at(&self.name, program, *port))
            })
            .flat_map(|ends| [ends.source, ends.destination])
            .collect();
        self.profiles
            .endpoints
            .iter()
            .filter(|(endpoint, _)| used.contains(endpoint))
            .filter_map(|(endpoint, profile)| {
                let first = self.profiles.harms(endpoint, 0)?;
                let names: Vec<&str> = profile.habits.iter().map(|seen| &*seen.name).collect();
                Some((endpoint.to_string(), format!("{} ({})", names.join(", "), habit_names::advice(first))))
            })
            .collect()
    }
}

/// The profiles of a connection: those of the program that connects to a port and of the port.
fn ends_at(scope: &str, program: &str, port: u16) -> Ends {
    Ends {
        source: Endpoint::new(&scope, &format!("{program}{TO}{port}")),
        destination: Endpoint::new(&scope, &format!("at {port}")),
        tested: [false, false],
    }
}

fn base_name(program: &Path) -> String {
    program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
