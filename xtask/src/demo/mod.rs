//! The demo: two nodes, the social application, real input, and a report.

mod cluster;
mod drive;
mod files;
mod report;

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
pub use cluster::{clean_on_signals, without};
pub use drive::{Drive, run as run_drive};
pub use files::sha256;
use patchbay_api as api;
use patchbay_testbed::{Cluster, Party, Plan};
use report::{Driven, Report};

use crate::command::{output, progress};
use crate::{setup, workspace};

/// How long the application may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Users, unless said otherwise.
const USERS: usize = 50;
/// Files, unless said otherwise.
const FILES: usize = 200;

/// What the demo does.
#[derive(Args, Clone)]
pub struct Demo {
    /// Users that register, log in and post
    #[arg(long, default_value_t = USERS)]
    users: usize,
    /// Real files that go up and come down, besides one of 64 MiB
    #[arg(long, default_value_t = FILES)]
    files: usize,
    /// Leave everything running and print what to try next
    #[arg(long)]
    keep: bool,
    /// End what `--keep` (or a killed demo) left
    #[arg(long, conflicts_with = "keep")]
    clean: bool,
}

impl Default for Demo {
    fn default() -> Self {
        Self { users: USERS, files: FILES, keep: false, clean: false }
    }
}

/// Runs the demo from nothing to its report.
pub fn run(demo: &Demo) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the demo makes network namespaces and cgroups and loads kernel programs, which needs root. \
             Run: sudo cargo xtask demo"
        );
    }
    let folder = folder();
    std::fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.try_lock().context("another demo is running")?;
    let plan = cluster::plan()?;
    plan.clean()?;
    if demo.clean {
        progress("nothing of a demo is left");
        return Ok(());
    }
    setup::run()?;
    setup::build()?;
    cluster::clean_on_signals(&plan)?;
    let begun = Instant::now();
    progress("making two nodes (network namespaces patchbay-demo-a and -b) and starting Manager and agents");
    let cluster = Cluster::start(plan)?;
    let result = play(demo, &cluster, begun);
    if demo.keep && result.is_ok() {
        print_next_steps(&cluster);
        cluster.leave_running();
        return Ok(());
    }
    progress("cleaning up");
    let cleaned = cluster.plan().clean();
    result.and(cleaned)
}

/// Where the demo keeps its files.
fn folder() -> PathBuf {
    workspace().join("target/demo")
}

fn play(demo: &Demo, cluster: &Cluster, begun: Instant) -> Result<()> {
    progress("applying the social application");
    println!("{}", cluster.patchbay(&["apply", &graph()])?.trim());
    let gateway = wait_for_gateway(cluster)?;
    progress(&format!(
        "driving it through its gateway at {gateway}: {} users, {} files and one of 64 MiB, then latencies",
        demo.users, demo.files
    ));
    let agents: Vec<String> = [0, 1]
        .iter()
        .flat_map(|node| cluster.processes(&Party::Agent(*node)))
        .map(|process| process.to_string())
        .collect();
    let text = output(&mut cluster.plan().in_hub(&[
        &std::env::current_exe()?.display().to_string(),
        "drive",
        &gateway,
        "--users",
        &demo.users.to_string(),
        "--files",
        &demo.files.to_string(),
        "--agents",
        &agents.join(","),
    ]))?;
    let driven: Driven = serde_json::from_str(&text).context("the driver reports as JSON")?;
    let sessions: Vec<api::Session> = cluster.sessions()?;
    progress("sessions");
    println!("{}", cluster.patchbay(&["sessions"])?.trim_end());
    let report = Report::new(driven, &sessions, begun.elapsed());
    let file = folder().join("report.json");
    std::fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    report.print(&file);
    report.judge(&sessions)
}

fn wait_for_gateway(cluster: &Cluster) -> Result<String> {
    let begun = Instant::now();
    loop {
        if let Some(gateway) = cluster.running("gateway").first() {
            let nodes = cluster.nodes()?;
            let node =
                nodes.iter().find(|node| node.name == gateway.node).context("the gateway's node is known")?;
            return Ok(format!("http://{}:8080", node.address));
        }
        if begun.elapsed() > READY_WITHIN {
            let seen = cluster.patchbay(&["instances", "--ended"])?;
            bail!("the gateway did not start within {} s:\n{seen}", READY_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The graph file.
pub fn graph() -> String {
    workspace().join("examples/social/social.toml").display().to_string()
}

fn print_next_steps(cluster: &Cluster) {
    let bin = workspace().join("target/release");
    let hub = format!("nsenter --net={}", cluster.plan().hub_namespace().display());
    println!(
        "\nIt goes on running. Try:\n  export PATCHBAY_MANAGER=unix:{socket}\n  {bin}/patchbay sessions\n  \
         {bin}/patchbay events --follow\n  {bin}/patchbay stop --instance 1\n  {hub} python3 -c \"import urllib.request as u; \
         print(u.urlopen('http://{}:8080/table').read().decode())\"\n\
         Logs are in target/demo. End it with: cargo xtask demo --clean",
        Plan::address(0),
        bin = bin.display(),
        socket = cluster.plan().socket().display(),
    );
}
