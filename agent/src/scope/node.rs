//! `node`: redirection inside a cgroup that exists already, until it is ended: between the pods of a node as these
//! say, or of any cgroup.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use patchbay_logging::LogFormat;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Allow, Mode, Observing, Pods, Runner, STATE, base_name};
use crate::claim::{Claim, Thing};
use crate::datapath::{Options, cgroup2_mount, cgroup2_mounts};
use crate::observe::{self, At, Observed};
use crate::pods::{Redirect, api, cgroups};
use crate::require_root;

/// Connections between the pods of this node, or inside any cgroup.
#[derive(Args)]
pub struct NodeMode {
    /// The pods' cgroup, or with `--pods off` any, below the cgroup v2 mount or as a whole path [default: the cgroup
    /// `kubepods` or `kubepods.slice`, wherever it is]
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Whether pods and namespaces say what is redirected, by their annotation `patchbay.dev/redirect`
    #[arg(long, default_value = "api", value_enum)]
    pods: Source,
    /// When to redirect where nobody says anything [default: never with pods, auto without]
    #[arg(long, value_enum, value_name = "WHEN")]
    redirect: Option<Redirect>,
    /// This node's name as the API server has it; the host's name if absent
    #[arg(long, env = "PATCHBAY_NODE", value_name = "NAME")]
    node: Option<String>,
    /// With auto, let programs do what their files could, because they are known not to; one that is seen to do it
    /// goes back to TCP for good
    #[arg(long, value_enum, value_name = "HABIT")]
    allow: Vec<Allow>,
    /// Unread redirected bytes allowed for each direction; 0 for the receiver's buffer size
    #[arg(long, default_value_t = crate::datapath::DEFAULT_IN_FLIGHT_BYTES, value_name = "BYTES")]
    in_flight_bytes: u32,
    /// Where what was learned of programs is kept
    #[arg(long, default_value = STATE, value_name = "FOLDER")]
    state_dir: PathBuf,
    /// Also write what went which way as JSON when it ends
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where to tell metrics and health: a port of the loopback device, ADDRESS:PORT, unix, or unix:FILE; may be given
    /// several times. Flows are told over Unix sockets only
    #[arg(long, value_name = "WHERE", value_parser = At::read)]
    observe: Vec<At>,
    /// Log lines for people or for programs
    #[arg(long, default_value = "text", value_enum)]
    pub log_format: LogFormat,
}

/// Where it is said which pods there are.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// The API server says it
    Api,
    /// There are none: everything in the cgroup is one
    Off,
}

impl NodeMode {
    fn cgroup(&self) -> Result<PathBuf> {
        let cgroup = match &self.cgroup {
            // A whole path replaces the mount when joined.
            Some(cgroup) => cgroup2_mount()?.join(cgroup),
            None if self.pods == Source::Off => {
                bail!("with --pods off --cgroup PATH says inside which cgroup")
            }
            None => {
                let mounts = cgroup2_mounts()?;
                ensure!(
                    !mounts.is_empty(),
                    "{}",
                    cgroup2_mount().map_or_else(|error| error.to_string(), |_| String::new())
                );
                cgroups::find_root(&mounts).map_err(anyhow::Error::msg)?
            }
        };
        ensure!(cgroup.join("cgroup.procs").exists(), "{} is no cgroup v2", cgroup.display());
        Ok(cgroup)
    }

    fn name(&self) -> Result<String> {
        match &self.node {
            Some(node) => Ok(node.clone()),
            None => Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned()),
        }
    }
}

/// Redirects until SIGINT or SIGTERM, then takes everything back to TCP.
///
/// # Errors
/// There is no such cgroup, another agent has it, or this node can't redirect.
pub async fn run(arguments: &NodeMode) -> Result<()> {
    require_root("kernel programs are loaded")?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cgroup = arguments.cgroup()?;
    let _claim = Claim::take(&[Thing::folder("the cgroup", &cgroup)], false).await?;
    let node = arguments.name()?;
    let with_pods = arguments.pods == Source::Api;
    let observed = Observed::new(if with_pods { &["datapath", "api-server"] } else { &["datapath"] });
    let mut listening = Vec::new();
    for at in &arguments.observe {
        listening.push(observe::listen(at, &observed).await?);
    }
    let usual = arguments.redirect.unwrap_or(if with_pods { Redirect::Never } else { Redirect::Auto });
    let mode = match usual {
        _ if with_pods => Mode::Auto,
        Redirect::Auto => Mode::Auto,
        Redirect::Always => Mode::Always,
        Redirect::Never => Mode::Off,
    };
    let options = Options { in_flight_budget: arguments.in_flight_bytes, ..Options::new(cgroup.clone()) };
    let mut runner = Runner::load(options, base_name(&cgroup), mode, &arguments.allow, &arguments.state_dir)?;
    if with_pods {
        let watched = api::begin(&node).await.context("the pods of this node can't be watched")?;
        runner.decisions.by_image();
        runner.pods = Some(Pods::new(cgroup.clone(), usual, watched));
    }
    runner.observing = Some(Observing::new(observed.clone(), node));
    observed.set("datapath", Ok(()));
    info!(cgroup = %cgroup.display(), "ready: new connections inside are redirected");
    tokio::select! {
        failed = runner.work() => failed?,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    observed.set("datapath", Err("the agent ends".into()));
    info!("taking sessions back to TCP");
    runner.end().await?;
    print!("{}", runner.summary.text());
    if let Some(file) = &arguments.report {
        runner.summary.write(file)?;
    }
    drop(listening);
    Ok(())
}
