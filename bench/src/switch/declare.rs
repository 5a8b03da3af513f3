//! The agent's data path for one declared session between two cgroups, which may be in two network
//! namespaces: what an agent does for two instances, without a Manager.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use patchbay_agent::datapath::{
    Datapath, Declaration, Options, Reason, SessionEvent, SessionReport, Watch, cgroup_id,
};
use patchbay_agent::profile_file;
use patchbay_agent::scope::Summary;
use patchbay_agent_core::allowance::Allowed;
use patchbay_agent_core::profiles::{Endpoint, Ends, Profiles, Traffic};
use tokio::signal::unix::{SignalKind, signal};

/// How often what was seen becomes decisions, as in the agent.
const DECIDE_EVERY: Duration = Duration::from_millis(100);

/// What to redirect.
#[derive(Args)]
pub struct Declare {
    #[arg(long, value_enum)]
    mode: Mode,
    /// The cgroup above both ends
    #[arg(long)]
    traffic: PathBuf,
    #[arg(long)]
    source: PathBuf,
    #[arg(long)]
    destination: PathBuf,
    /// Where the destination listens
    #[arg(long)]
    at: SocketAddr,
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long)]
    report: PathBuf,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    Auto,
    Always,
    /// The programs are loaded and nothing is declared.
    Nothing,
}

struct Host<'a> {
    declare: &'a Declare,
    datapath: Datapath,
    profiles: Profiles,
    ends: Ends,
    summary: Summary,
    /// What was declared last.
    verdict: Option<Result<(), Reason>>,
}

/// Redirects until SIGTERM, then writes what went which way.
pub fn run(declare: &Declare) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut host = Host::load(declare)?;
        let mut terminate = signal(SignalKind::terminate())?;
        println!("ready");
        tokio::select! {
            failed = host.work() => failed?,
            _ = terminate.recv() => {}
        }
        host.end().await
    })
}

impl<'a> Host<'a> {
    fn load(declare: &'a Declare) -> Result<Self> {
        std::fs::create_dir_all(&declare.state_dir)?;
        let datapath = Datapath::load(&Options::new(declare.traffic.clone()))?;
        let port = declare.at.port();
        let ends = Ends {
            source: Endpoint::new(&"bench", &format!("to {port}")),
            destination: Endpoint::new(&"bench", &format!("at {port}")),
            tested: [false, false],
            allowed: Allowed::default(),
        };
        let profiles = profile_file::read(&declare.state_dir);
        let mut host = Self { declare, datapath, profiles, ends, summary: Summary::default(), verdict: None };
        if declare.mode == Mode::Auto {
            host.datapath.observe(Watch::Everything)?;
        }
        host.decide()?;
        Ok(host)
    }

    /// Declares what is known by now.
    fn decide(&mut self) -> Result<()> {
        let verdict = match self.declare.mode {
            Mode::Nothing => return Ok(()),
            Mode::Always => Ok(()),
            Mode::Auto => self.profiles.verdict(&self.ends, 0),
        };
        if self.verdict != Some(verdict) {
            self.datapath.declare(&Declaration {
                source_cgroup: cgroup_id(&self.declare.source)?,
                destination_cgroup: cgroup_id(&self.declare.destination)?,
                destination: self.declare.at,
                source_instance: 1,
                destination_instance: 2,
                redirect: verdict,
                about: self.profiles.about(&self.ends, 0),
                always: self.declare.mode == Mode::Always,
            })?;
            self.verdict = Some(verdict);
        }
        Ok(())
    }

    async fn work(&mut self) -> Result<()> {
        let mut decide = tokio::time::interval(DECIDE_EVERY);
        loop {
            tokio::select! {
                event = self.datapath.next_event() => self.told(&event?),
                _ = decide.tick() => {
                    for session in self.datapath.sessions()? {
                        self.learn(&session, false);
                    }
                    self.datapath.let_out()?;
                    self.decide()?;
                }
            }
        }
    }

    fn told(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Established(_) => {}
            SessionEvent::Closed(report, _) => {
                if report.sent.kernel_messages > 0 && report.leaving.is_none() {
                    self.profiles.remember_traffic(&self.ends, None);
                }
                self.learn(report, true);
                self.summary.add(report);
            }
            SessionEvent::Habit(report) => self.learn(report, false),
            SessionEvent::Leaving(report) => {
                if report.leaving.is_some_and(Traffic::counts) {
                    self.profiles.remember_traffic(&self.ends, report.leaving);
                }
            }
        }
    }

    fn learn(&mut self, report: &SessionReport, ended: bool) {
        if self.declare.mode == Mode::Auto {
            self.profiles.learn(&self.ends, report, ended);
        }
    }

    async fn end(mut self) -> Result<()> {
        while let Some(event) = self.datapath.waiting_event() {
            self.told(&event);
        }
        // By key, because a session that is in the table may have told of its end meanwhile.
        let open: BTreeMap<u64, SessionReport> =
            self.datapath.sessions()?.into_iter().map(|report| (report.key, report)).collect();
        for report in open.values() {
            self.summary.add(report);
        }
        profile_file::write(&self.declare.state_dir, &mut self.profiles).context("profiles can't be kept")?;
        self.summary.write(&self.declare.report)
    }
}
