//! Faults by seed: what is broken, when, and when it is mended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::signal::Signal;
use patchbay_testbed::{Cluster, Party};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Faults that may stand at the same time.
const AT_ONCE: usize = 2;
/// Pause between two faults, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 1_000..5_000;
/// How long what was killed stays away, in milliseconds.
const AWAY_MS: std::ops::Range<u64> = 0..3_000;
/// How long what was frozen or cut off stays so, in milliseconds: shorter and longer than what the
/// Manager bears.
const SILENT_MS: std::ops::Range<u64> = 500..9_000;

/// How long an agent may take to end when it is told to, with its instances: its `--stop-within`, and some.
const ENDED_WITHIN: Duration = Duration::from_secs(25);
/// How long a hand-over may take: the next agent tests the kernel first, on a machine that is busy.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks at what takes its time.
const LOOK: Duration = Duration::from_millis(200);

/// A kind of fault; the number is how often it is chosen among all.
const KINDS: [(Kind, u32); 14] = [
    (Kind::KillInstance, 6),
    (Kind::FreezeInstance, 2),
    (Kind::KillAgent, 3),
    (Kind::FreezeAgent, 2),
    (Kind::KillManager, 3),
    (Kind::FreezeManager, 2),
    (Kind::CutOff, 2),
    (Kind::KillNode, 2),
    (Kind::Move, 2),
    (Kind::Drain, 2),
    (Kind::StopAgent, 2),
    (Kind::HandOver, 3),
    (Kind::SecondAgent, 2),
    (Kind::RestartManager, 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    KillInstance,
    FreezeInstance,
    KillAgent,
    FreezeAgent,
    KillManager,
    FreezeManager,
    CutOff,
    KillNode,
    Move,
    Drain,
    StopAgent,
    HandOver,
    SecondAgent,
    RestartManager,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::KillInstance => "instance killed",
            Self::FreezeInstance => "instance frozen",
            Self::KillAgent => "agent killed, restarted",
            Self::FreezeAgent => "agent frozen",
            Self::KillManager => "Manager killed, restarted",
            Self::FreezeManager => "Manager frozen",
            Self::CutOff => "node's link down",
            Self::KillNode => "node killed, restarted",
            Self::Move => "instance moved",
            Self::Drain => "node drained, undrained",
            Self::StopAgent => "agent told to end, restarted",
            Self::HandOver => "agent handed over",
            Self::SecondAgent => "second agent refused",
            Self::RestartManager => "Manager told to end, restarted",
        }
    }
}

/// What ends a fault.
enum Mend {
    StartAgent(usize),
    StartManager,
    Thaw(Party),
    JoinAgain(usize),
    Undrain(usize),
    /// An agent was told to end at that time; it is started again so long after it has.
    Stopped(usize, Instant, Duration),
    /// An agent hands over since then.
    HandedOver(usize, Instant),
}

/// Breaks one thing after the other.
pub struct Faults {
    random: StdRng,
    next: Instant,
    /// When each standing fault is mended.
    standing: Vec<(Instant, Mend)>,
    done: BTreeMap<Kind, u32>,
    /// What a fault showed that should not be.
    pub wrong: Vec<String>,
    /// Processes that an agent left which had ended.
    pub orphans: Vec<String>,
}

impl Faults {
    /// Nothing is broken yet.
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            next: Instant::now(),
            standing: Vec::new(),
            done: BTreeMap::new(),
            wrong: Vec::new(),
            orphans: Vec::new(),
        }
    }

    /// Mends what is due, and breaks the next thing when its time has come.
    pub fn step(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.mend_until(cluster, Instant::now())?;
        if Instant::now() < self.next || self.standing.len() >= AT_ONCE {
            return Ok(());
        }
        self.next = Instant::now() + self.milliseconds(PAUSE_MS);
        let kind = KINDS.choose_weighted(&mut self.random, |(_, weight)| *weight)?.0;
        if self.break_one(cluster, kind)? {
            *self.done.entry(kind).or_default() += 1;
        }
        Ok(())
    }

    /// Mends everything that still stands.
    pub fn mend_all(&mut self, cluster: &mut Cluster) -> Result<()> {
        // Mending one may take a look later on.
        while let Some(next) = self.standing.iter().map(|(at, _)| *at).min() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            self.mend_until(cluster, next)?;
        }
        Ok(())
    }

    /// How many there were of each kind, for people.
    pub fn counts(&self) -> BTreeMap<String, u32> {
        self.done.iter().map(|(kind, count)| (kind.text().to_owned(), *count)).collect()
    }

    fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    fn mend_until(&mut self, cluster: &mut Cluster, until: Instant) -> Result<()> {
        let (due, later) = std::mem::take(&mut self.standing).into_iter().partition(|(at, _)| *at <= until);
        self.standing = later;
        let due: Vec<(Instant, Mend)> = due;
        for (_, mend) in due {
            match mend {
                Mend::StartAgent(node) => cluster.start_agent(node)?,
                Mend::StartManager => cluster.start_manager()?,
                Mend::Stopped(node, since, away) => self.look_at_stopped(cluster, node, since, away)?,
                Mend::HandedOver(node, since) => self.look_at_handing_over(cluster, node, since),
                Mend::Thaw(party) => cluster.signal(&party, Signal::SIGCONT)?,
                Mend::JoinAgain(node) => cluster.join_again(node)?,
                Mend::Undrain(node) => {
                    let name = cluster.plan().nodes[node].0.clone();
                    // While the Manager is away there is nobody to tell: later, then.
                    if cluster.patchbay(&["undrain", &name]).is_err() {
                        let again = Instant::now() + Duration::from_secs(1);
                        self.standing.push((again, Mend::Undrain(node)));
                    }
                }
            }
        }
        Ok(())
    }

    /// An agent that was told to end leaves nothing and is started again.
    fn look_at_stopped(
        &mut self,
        cluster: &mut Cluster,
        node: usize,
        since: Instant,
        away: Duration,
    ) -> Result<()> {
        let ended = cluster.has_ended(node).unwrap_or_else(|wrong| {
            self.wrong.push(wrong.to_string());
            true
        });
        if ended {
            self.orphans.extend(cluster.left_on(node));
            self.standing.push((Instant::now() + away, Mend::StartAgent(node)));
        } else if since.elapsed() > ENDED_WITHIN {
            let name = &cluster.plan().nodes[node].0;
            self.wrong.push(format!("{name}: told to end, not ended in {} s", ENDED_WITHIN.as_secs()));
            cluster.kill_node(node)?;
            self.standing.push((Instant::now(), Mend::StartAgent(node)));
        } else {
            self.standing.push((Instant::now() + LOOK, Mend::Stopped(node, since, away)));
        }
        Ok(())
    }

    fn look_at_handing_over(&mut self, cluster: &mut Cluster, node: usize, since: Instant) {
        match cluster.has_handed_over(node) {
            Ok(true) => {}
            Ok(false) if since.elapsed() < HANDED_OVER_WITHIN => {
                self.standing.push((Instant::now() + LOOK, Mend::HandedOver(node, since)));
            }
            Ok(false) => {
                let name = &cluster.plan().nodes[node].0;
                self.wrong.push(format!("{name}: not handed over in {} s", HANDED_OVER_WITHIN.as_secs()));
            }
            Err(wrong) => self.wrong.push(wrong.to_string()),
        }
    }

    /// Whether the Manager, or a node's agent, is broken already.
    fn is_broken(&self, party: &Party) -> bool {
        self.standing.iter().any(|(_, mend)| match (mend, party) {
            (Mend::StartManager, Party::Manager) => true,
            (
                Mend::StartAgent(node)
                | Mend::JoinAgain(node)
                | Mend::Stopped(node, ..)
                | Mend::HandedOver(node, _),
                Party::Agent(other),
            ) => node == other,
            (Mend::Thaw(Party::Manager), Party::Manager) => true,
            (Mend::Thaw(Party::Agent(node)), Party::Agent(other)) => node == other,
            _ => false,
        })
    }

    /// Breaks something of this kind. False when there is nothing that it fits.
    fn break_one(&mut self, cluster: &mut Cluster, kind: Kind) -> Result<bool> {
        let node = self.random.random_range(0..cluster.plan().nodes.len());
        let victim = match kind {
            Kind::KillInstance | Kind::FreezeInstance => {
                let all = cluster.real_instances();
                let Some(instance) = all.choose(&mut self.random) else { return Ok(false) };
                Party::Instance(instance.clone())
            }
            Kind::KillManager | Kind::FreezeManager | Kind::RestartManager => Party::Manager,
            Kind::Move | Kind::Drain => return self.reconfigure(cluster, kind, node),
            _ => Party::Agent(node),
        };
        // One that is just starting has claimed nothing yet: the other one would be the first.
        let needs_first = matches!(kind, Kind::HandOver | Kind::SecondAgent);
        if self.is_broken(&victim) || needs_first && !is_up(cluster, node) {
            return Ok(false);
        }
        let (away, silent) = (self.milliseconds(AWAY_MS), self.milliseconds(SILENT_MS));
        let mut mend = |after: Duration, mend: Mend| self.standing.push((Instant::now() + after, mend));
        match kind {
            Kind::KillInstance => cluster.kill(&victim)?,
            Kind::KillAgent => {
                cluster.kill(&victim)?;
                mend(away, Mend::StartAgent(node));
            }
            Kind::KillManager => {
                cluster.kill(&victim)?;
                mend(away, Mend::StartManager);
            }
            Kind::KillNode => {
                cluster.kill_node(node)?;
                mend(away, Mend::StartAgent(node));
            }
            Kind::CutOff => {
                cluster.cut_off(node)?;
                mend(silent, Mend::JoinAgain(node));
            }
            Kind::FreezeInstance | Kind::FreezeAgent | Kind::FreezeManager => {
                cluster.signal(&victim, Signal::SIGSTOP)?;
                mend(silent, Mend::Thaw(victim));
            }
            Kind::StopAgent => {
                cluster.signal(&victim, Signal::SIGTERM)?;
                mend(LOOK, Mend::Stopped(node, Instant::now(), away));
            }
            Kind::HandOver => {
                cluster.replace_agent(node)?;
                mend(LOOK, Mend::HandedOver(node, Instant::now()));
            }
            Kind::SecondAgent => {
                if let Err(wrong) = cluster.start_second_agent(node) {
                    self.wrong.push(wrong.to_string());
                }
            }
            Kind::RestartManager => {
                if let Err(wrong) = cluster.stop_manager() {
                    self.wrong.push(wrong.to_string());
                    cluster.kill(&Party::Manager)?;
                }
                self.standing.push((Instant::now() + away, Mend::StartManager));
            }
            Kind::Move | Kind::Drain => {}
        }
        Ok(true)
    }

    /// What people do while everything else happens; the Manager may refuse it.
    fn reconfigure(&mut self, cluster: &Cluster, kind: Kind, node: usize) -> Result<bool> {
        let name = cluster.plan().nodes[node].0.clone();
        if kind == Kind::Drain {
            let done = cluster.patchbay(&["drain", &name, "--yes"]).is_ok();
            if done {
                let after = self.milliseconds(SILENT_MS);
                self.standing.push((Instant::now() + after, Mend::Undrain(node)));
            }
            return Ok(done);
        }
        let instances = cluster.instances().unwrap_or_default();
        let running: Vec<_> = instances.iter().filter(|i| i.state == "running" && i.node != name).collect();
        let Some(instance) = running.choose(&mut self.random) else { return Ok(false) };
        Ok(cluster.patchbay(&["move", &instance.id.to_string(), &name, "--yes"]).is_ok())
    }
}

/// Whether a node's agent is registered, as far as the Manager answers.
fn is_up(cluster: &Cluster, node: usize) -> bool {
    let name = &cluster.plan().nodes[node].0;
    cluster.nodes().is_ok_and(|nodes| nodes.iter().any(|found| found.name == *name && found.state == "up"))
}
