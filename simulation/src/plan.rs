//! What a seed stands for: how large the cluster is, what goes wrong, and for how long.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::schedule::Millis;

/// Most agents of one run.
pub const MAX_AGENTS: usize = 50;
/// Most instances alive at once in one run.
pub const MAX_INSTANCES: usize = 2_000;

/// Faults that can be left out, to find the few that a failure needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A link is reset; what is on its way may be lost.
    LinkCut,
    /// A node and the Manager can't reach each other for a while.
    Partition,
    /// An agent is killed and started again.
    AgentCrash,
    /// The Manager is killed between two effects and started again.
    ManagerCrash,
    /// A node goes down with everything on it.
    NodeCrash,
    /// An instance is killed.
    InstanceCrash,
    /// A program is stopped and continued.
    Freeze,
    /// The Manager's clock jumps at its next start.
    ClockJump,
    /// Starts fail, hang or end early.
    BadStarts,
    /// Instances break the protocol.
    Misbehaviour,
    /// Messages take seconds now and then.
    Delays,
    /// The Manager's disk is full for a while.
    FullDisk,
    /// An agent leaves more unread than may wait, and is cut off.
    Unread,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::LinkCut,
        Self::Partition,
        Self::AgentCrash,
        Self::ManagerCrash,
        Self::NodeCrash,
        Self::InstanceCrash,
        Self::Freeze,
        Self::ClockJump,
        Self::BadStarts,
        Self::Misbehaviour,
        Self::Delays,
        Self::FullDisk,
        Self::Unread,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinkCut => "link-cut",
            Self::Partition => "partition",
            Self::AgentCrash => "agent-crash",
            Self::ManagerCrash => "manager-crash",
            Self::NodeCrash => "node-crash",
            Self::InstanceCrash => "instance-crash",
            Self::Freeze => "freeze",
            Self::ClockJump => "clock-jump",
            Self::BadStarts => "bad-starts",
            Self::Misbehaviour => "misbehaviour",
            Self::Delays => "delays",
            Self::FullDisk => "full-disk",
            Self::Unread => "unread",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything that is left open.
    pub seed: u64,
    /// Nodes, each with an agent.
    pub agents: usize,
    /// Instances that may be alive at once; sessions are opened only below it.
    pub instances: usize,
    /// What goes wrong.
    pub faults: Vec<FaultKind>,
    /// How long things go wrong, milliseconds.
    pub active: Millis,
    /// How long the cluster may take to come to rest after the last fault, milliseconds.
    pub rest: Millis,
    /// Between two faults on average, milliseconds.
    pub fault_every: Millis,
}

impl Plan {
    /// The run of a seed: mostly small clusters with all kinds of faults, a few large ones.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        let (agents, instances) = match seed % 500 {
            499 => (MAX_AGENTS, MAX_INSTANCES),
            n if n % 50 == 49 => (random.random_range(8..=20), 200),
            _ => (random.random_range(1..=4), random.random_range(6..=30)),
        };
        let mut faults: Vec<_> = FaultKind::ALL.into_iter().filter(|_| random.random_bool(0.5)).collect();
        if faults.is_empty() {
            faults.push(FaultKind::LinkCut);
        }
        Self {
            seed,
            agents,
            instances,
            faults,
            active: random.random_range(10_000..45_000),
            // Longer than the longest pause of a failing service, five minutes.
            rest: 420_000,
            fault_every: random.random_range(300..4_000),
        }
    }

    /// Whether a kind of fault happens.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.faults.contains(&kind)
    }

    /// The command that runs it again.
    pub fn command(&self) -> String {
        let usual = Self::of_seed(self.seed);
        let mut text = format!("cargo xtask simulate --seed {}", self.seed);
        if self.agents != usual.agents {
            text.push_str(&format!(" --agents {}", self.agents));
        }
        if self.instances != usual.instances {
            text.push_str(&format!(" --instances {}", self.instances));
        }
        if self.active != usual.active {
            text.push_str(&format!(" --active {}", self.active));
        }
        if self.faults != usual.faults {
            let names: Vec<_> = self.faults.iter().map(|kind| kind.name()).collect();
            text.push_str(&format!(
                " --faults {}",
                if names.is_empty() { "none".into() } else { names.join(",") }
            ));
        }
        text
    }

    /// Simpler runs that may fail the same way, the simplest first.
    pub fn simpler(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        if self.agents > 1 {
            plans.push(Self { agents: self.agents / 2, ..self.clone() });
        }
        if self.instances > 4 {
            plans.push(Self { instances: self.instances / 2, ..self.clone() });
        }
        if self.active > 4_000 {
            plans.push(Self { active: self.active * 2 / 3, ..self.clone() });
        }
        for kind in &self.faults {
            let faults = self.faults.iter().copied().filter(|other| other != kind).collect();
            plans.push(Self { faults, ..self.clone() });
        }
        plans
    }
}
