//! Redirection without a Manager: inside one cgroup, by who listens there; where that is the pods', by what these say.

mod decisions;
mod exec;
mod node;
mod observing;
mod pins;
mod pods;
mod programs;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use decisions::Decisions;
pub use exec::{Exec, run as exec};
pub use node::{NodeMode, run as node};
use observing::Observing;
use patchbay_agent_core::habit_names;
use patchbay_agent_core::profiles::{Ends, Profiles, Traffic};
use pins::{Left, Pins};
use pods::Pods;
use ssmmp::extension::Allowance;
pub use summary::Summary;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::datapath::{
    Datapath, Options, Reason, Scope, SessionEvent, SessionReport, Watch, cgroup_id, cgroup2_mount,
};
use crate::own_cgroup;
use crate::profile_file::{self, Keeper};

/// How often what was seen becomes decisions.
const DECIDE_EVERY: Duration = Duration::from_millis(100);
/// A connection whose other end does not show up leaves the map after this time.
const PAIRED_WITHIN: Duration = Duration::from_secs(1);
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

/// What a person says of the programs inside the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Allow {
    /// The program's files call splice, and it never splices out of its sockets. One that does, with redirected bytes
    /// unread, has its connection broken off
    Splice,
}

impl Allow {
    fn what(self) -> Allowance {
        match self {
            Self::Splice => Allowance::Splice,
        }
    }
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
    decisions: Decisions,
    mode: Mode,
    keeper: Keeper,
    profiles: Profiles,
    summary: Summary,
    decide: Interval,
    /// Sessions that were to enter the map while they lived, and are still on TCP.
    tried: BTreeSet<u64>,
    /// Names the profiles of programs where there are no pods.
    name: String,
    /// Whose containers the ends are, where the cgroup is the pods'.
    pods: Option<Pods>,
    /// What is told of it all.
    observing: Option<Observing>,
}

impl Runner {
    fn load(options: Options, name: String, mode: Mode, allow: &[Allow], state: &Path) -> Result<Self> {
        ensure!(allow.is_empty() || mode == Mode::Auto, "--allow says something with --mode auto only");
        let cgroup = options.cgroup.clone();
        let profiles = profile_file::read(state);
        let scope = Scope { always: mode == Mode::Always, refusal: mode.refusal() };
        let left = Left::find();
        let pins = Pins::make().context("this node can't redirect")?;
        let options = Options { scope: Some(scope), pins: Some(pins.folder.clone()), ..options };
        let mut datapath = Datapath::load(&options).context("this node can't redirect")?;
        match mode {
            Mode::Auto => datapath
                .observe(Watch::Everything)
                .context("use --mode always to redirect without learning")?,
            Mode::Always => datapath.observe(Watch::Options).context("this node can't redirect")?,
            Mode::Off => {}
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
            decisions: Decisions::new(&name, allow.iter().map(|allow| allow.what()).collect(), &profiles),
            mode,
            keeper: Keeper::new(state.to_owned()),
            profiles,
            summary: Summary::default(),
            decide,
            tried: BTreeSet::new(),
            name,
            pods: None,
            observing: None,
        };
        runner.decide()?;
        Ok(runner)
    }

    /// Tells the kernel what has changed about programs.
    fn decide(&mut self) -> Result<()> {
        if self.mode == Mode::Auto {
            self.decisions.tell(&mut self.datapath, &self.profiles)?;
        }
        Ok(())
    }

    /// Works until dropped; safe to cancel.
    async fn work(&mut self) -> Result<()> {
        loop {
            tokio::select! {
                event = self.datapath.next_event() => self.told(&event?),
                news = pods::news(&mut self.pods) => self.hear(news),
                _ = self.decide.tick() => self.look()?,
            }
        }
    }

    fn told(&mut self, event: &SessionEvent) {
        self.look_for_unknown(event.report());
        if let Some(observing) = &self.observing {
            observing.told(event, self.pods.as_ref());
        }
        match event {
            SessionEvent::Established(report) => drop(self.ends(report)),
            SessionEvent::Closed(report, _) => {
                if report.sent.kernel_messages > 0 && report.leaving.is_none() {
                    self.remember_traffic(report, None);
                }
                self.learn(report, true);
                self.summary.add(report);
            }
            SessionEvent::Habit(report) => self.learn(report, false),
            SessionEvent::Leaving(report) if report.leaving.is_some_and(Traffic::counts) => {
                self.remember_traffic(report, report.leaving);
            }
            SessionEvent::Leaving(_) => {}
        }
    }

    fn remember_traffic(&mut self, report: &SessionReport, left: Option<Reason>) {
        if let Some(ends) = self.ends(report)
            && ends.tested == [false, false]
        {
            self.profiles.remember_traffic(&ends, left);
            self.keeper.changed();
        }
    }

    fn learn(&mut self, report: &SessionReport, ended: bool) {
        let Some(ends) = self.ends(report) else { return };
        let harmless = ends.allowed.besides(0);
        let both = [&ends.source, &ends.destination];
        let harmed = both.map(|end| self.profiles.harms(end, harmless));
        if !self.profiles.learn(&ends, report, ended) {
            return;
        }
        self.keeper.changed();
        for (end, harmed) in both.into_iter().zip(harmed) {
            if let (None, Some(habit)) = (harmed, self.profiles.harms(end, harmless))
                && let Some(said) = ends.allowed.disproved_by(habit)
            {
                warn!(program = %end, uses = habit_names::name(habit), "{said}, and does: it stays on TCP");
            }
        }
    }

    /// The ends of a session, where there is something to learn.
    fn ends(&mut self, report: &SessionReport) -> Option<Ends> {
        if self.mode != Mode::Auto {
            return None;
        }
        let owner = |cgroup| match &self.pods {
            None => Some(&*self.name),
            Some(pods) => pods.owner(cgroup),
        };
        let (ends, changed) = self.decisions.ends(report, &mut self.profiles, owner);
        if changed {
            self.keeper.changed();
        }
        Some(ends)
    }

    fn look(&mut self) -> Result<()> {
        self.follow_cgroup();
        self.follow_pods();
        let sessions = self.datapath.sessions()?;
        for session in &sessions {
            self.learn(session, false);
        }
        if let Some(observing) = &mut self.observing {
            observing.look(&sessions, &self.datapath, self.pods.as_ref());
        }
        self.datapath.leave_unpaired(PAIRED_WITHIN)?;
        self.datapath.tell_middle_boxes()?;
        self.datapath.let_in()?;
        self.datapath.let_out()?;
        self.left.look();
        self.keeper.write_if_due(&mut self.profiles);
        self.decide()?;
        self.let_in()
    }

    /// Sessions that live while their programs become known to be safe enter the map. Each is tried once.
    fn let_in(&mut self) -> Result<()> {
        if self.mode != Mode::Auto {
            return Ok(());
        }
        let learning = crate::datapath::Path::Tcp(Reason::Learning);
        let mut sessions = BTreeMap::new();
        for session in self.datapath.sessions()? {
            if session.path == learning
                && self.pods.as_ref().is_none_or(|pods| pods.let_in(&session))
                && let Some(ends) = self.ends(&session)
                && ends.tested == [false, false]
                && self.profiles.verdict(&ends, 0).is_ok()
            {
                sessions.insert(session.key, session);
            }
        }
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
        // Programs go on, and so do their new connections: they are none of this scope's any more.
        self.datapath.close_scope()?;
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
            // Those that were just being established.
            self.leave_late()?;
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

    fn leave_late(&mut self) -> Result<()> {
        for session in self.datapath.sessions()? {
            if !session.outside && session.leaving.is_none() {
                self.datapath.leave(&session, Reason::SwitchedOff)?;
            }
        }
        Ok(())
    }

    /// Reads what the kernel has told already.
    fn take_events(&mut self) {
        while let Some(event) = self.datapath.waiting_event() {
            self.told(&event);
        }
    }

    /// What keeps programs of this run on TCP, by their ends.
    fn learned(&self) -> BTreeMap<String, String> {
        let harmed = self.decisions.used().filter_map(|end| {
            let first = self.profiles.harms(end, self.decisions.allowed.besides(0))?;
            let habits = &self.profiles.endpoints.get(end)?.habits;
            let names: Vec<&str> = habits.iter().map(|seen| &*seen.name).collect();
            Some((end.to_string(), format!("{} ({})", names.join(", "), habit_names::advice(first))))
        });
        harmed.collect()
    }
}

fn base_name(program: &Path) -> String {
    program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
