//! The soak: the social application on three nodes while everything breaks, by seed; at the end every
//! write that a user was told is done is read back.

mod faults;
mod ledger;
mod report;
mod users;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use faults::Faults;
use ledger::Ledger;
use nix::sys::signal::Signal;
use patchbay_testbed::{Cluster, Party, Plan};
use report::Report;
use users::User;

use crate::command::{output, progress};
use crate::demo::{clean_on_signals, graph, without};
use crate::{setup, workspace};

/// Users at the same time.
const USERS: u64 = 4;
/// How long the application may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long everything may take to be as it should be after the last fault.
const REST_WITHIN: Duration = Duration::from_secs(90);
/// How long all agents may take to end at last: their `--stop-within`, and some.
const ENDED_WITHIN: Duration = Duration::from_secs(25);
/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(50);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// What the soak does.
#[derive(Args)]
pub struct Soak {
    /// How long things break
    #[arg(long, default_value_t = 10.0, value_name = "MINUTES")]
    pub minutes: f64,
    /// Which faults, and when; the machine's speed still has its part in it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Run the programs as they were built last
    #[arg(long)]
    pub no_build: bool,
}

/// Runs the soak from nothing to its report.
pub fn run(soak: &Soak) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the soak makes network namespaces and cgroups, which needs root. Run: sudo cargo xtask soak");
    }
    let folder = folder();
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.try_lock().context("another soak is running")?;
    let plan = plan()?;
    // Whatever a soak left that was killed itself.
    plan.clean()?;
    if !soak.no_build {
        setup::run()?;
        setup::build()?;
    }
    clean_on_signals(&plan)?;
    progress(&format!(
        "three nodes, {USERS} users, faults for {} minutes by seed {}; logs are in {}",
        soak.minutes,
        soak.seed,
        folder.display()
    ));
    for log in ["manager", "agent-a", "agent-b", "agent-c"] {
        let _ = fs::remove_file(folder.join(format!("{log}.log")));
    }
    let mut cluster = Cluster::start(plan)?;
    let report = play(soak, &mut cluster)?;
    let file = folder.join("report.json");
    fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    report.print(&file);
    progress("cleaning up");
    cluster.plan().clean()?;
    report.judge()
}

fn folder() -> PathBuf {
    workspace().join("target/soak")
}

/// Redis is on the first node and the files are on the second; everything else can run on all three.
fn plan() -> Result<Plan> {
    let all = fs::read_to_string(workspace().join("examples/social/repository.toml"))?;
    let nodes = [
        ("a", without(&all, "file-store")),
        ("b", without(&all, "redis")),
        ("c", without(&without(&all, "file-store"), "redis")),
    ];
    Ok(Plan {
        name: "patchbay-soak".into(),
        folder: folder(),
        programs: workspace().join("target/release"),
        nodes: nodes.map(|(name, repository)| (name.to_owned(), repository)).to_vec(),
        manager_flags: ["--health-interval=1", "--agent-grace=4"].map(str::to_owned).to_vec(),
        agent_flags: Vec::new(),
    })
}

fn play(soak: &Soak, cluster: &mut Cluster) -> Result<Report> {
    cluster.patchbay(&["apply", &graph()])?;
    cluster.wait("the gateway runs", READY_WITHIN, |cluster| !cluster.running("gateway").is_empty())?;
    let (ledger, stop, mut faults) = (Ledger::default(), AtomicBool::new(false), Faults::new(soak.seed));
    let plan = cluster.plan().clone();
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(60.0 * soak.minutes);
    let at_rest_after = std::thread::scope(|scope| {
        for number in 0..USERS {
            let (plan, ledger, stop) = (&plan, &ledger, &stop);
            scope.spawn(move || match User::new(plan, ledger, soak.seed * 1000 + number) {
                Ok(mut user) => user.work(&format!("s{}-u{number}", soak.seed), stop),
                Err(error) => ledger.failed(format!("{error:#}")),
            });
        }
        let result = break_things(cluster, &mut faults, &ledger, end).and_then(|()| rest(cluster));
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let mut report = Report {
        seed: soak.seed,
        seconds: begun.elapsed().as_secs(),
        faults: faults.counts(),
        at_rest_after_seconds: at_rest_after.as_secs_f64(),
        kernel_bytes: cluster
            .sessions()?
            .iter()
            .map(|session| session.sent.kernel_bytes + session.received.kernel_bytes)
            .sum(),
        ..Report::default()
    };
    report.of_users(&ledger.entries());
    progress(&format!(
        "reading back {} registrations, {} posts and {} files",
        report.acknowledged_registrations, report.acknowledged_posts, report.acknowledged_files
    ));
    read_back(cluster, &ledger, &mut report)?;
    end_all(cluster, &mut faults)?;
    report.wrong.append(&mut faults.wrong);
    report.orphans = faults.orphans;
    Ok(report)
}

fn break_things(cluster: &mut Cluster, faults: &mut Faults, ledger: &Ledger, end: Instant) -> Result<()> {
    let mut next_line = Instant::now() + PROGRESS;
    while Instant::now() < end {
        faults.step(cluster)?;
        if Instant::now() > next_line {
            next_line += PROGRESS;
            let (entries, count) = (ledger.entries(), faults.counts().values().sum::<u32>());
            let answered = entries.ok + entries.retried;
            progress(&format!(
                "{count} faults; {answered} requests answered, {} of them when asked again, {} given up",
                entries.retried, entries.failed
            ));
        }
        std::thread::sleep(STEP);
    }
    faults.mend_all(cluster)
}

/// Waits until all is as it should be: nodes up, what is believed is what runs.
fn rest(cluster: &Cluster) -> Result<Duration> {
    let begun = Instant::now();
    let rested = cluster.wait("everything is as it should be after the last fault", REST_WITHIN, |cluster| {
        cluster.nodes().is_ok_and(|nodes| nodes.iter().all(|node| node.state == "up"))
            && cluster.difference().is_none()
    });
    rested.with_context(|| cluster.difference().unwrap_or_else(|| "a node is not up".into()))?;
    Ok(begun.elapsed())
}

/// Has every agent end in order: nothing is left then.
fn end_all(cluster: &mut Cluster, faults: &mut Faults) -> Result<()> {
    for node in 0..cluster.plan().nodes.len() {
        cluster.signal(&Party::Agent(node), Signal::SIGTERM)?;
    }
    for node in 0..cluster.plan().nodes.len() {
        if let Err(wrong) = cluster.ended(node, ENDED_WITHIN) {
            faults.wrong.push(format!("{wrong:#}"));
        }
        faults.orphans.extend(cluster.left_on(node));
    }
    Ok(())
}

/// Asks for everything that was acknowledged.
fn read_back(cluster: &Cluster, ledger: &Ledger, report: &mut Report) -> Result<()> {
    let posts = posts_in_redis(cluster)?;
    let entries = ledger.entries();
    let (users, files) = (entries.users.clone(), entries.files.clone());
    let missing = entries.posts.iter().filter(|text| !posts.contains(*text));
    report.lost.extend(missing.map(|text| format!("lost: the post {text}")));
    report.read_back = entries.posts.len() + users.len() + files.len();
    drop(entries);
    let plan = cluster.plan().clone();
    let found = Ledger::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut user = match User::new(&plan, &found, 0) {
                Ok(user) => user,
                Err(error) => return found.wrong(format!("{error:#}")),
            };
            for name in &users {
                if user.log_in(name).is_none() {
                    found.wrong(format!("lost: the registration of {name}"));
                }
            }
            for file in &files {
                user.check_file(file);
            }
        });
    });
    let found = found.entries();
    report.lost.extend(found.wrong.iter().chain(&found.errors).cloned());
    Ok(())
}

/// The texts of all posts, as Redis has them.
fn posts_in_redis(cluster: &Cluster) -> Result<HashSet<String>> {
    let redis = cluster.running("redis").into_iter().next().context("Redis runs")?;
    let node = cluster.plan().nodes.iter().position(|(name, _)| *name == redis.node).context("its node")?;
    let port = redis.sockets.first().context("its port")?.1.to_string();
    let address = Plan::address(node);
    let text = output(&mut cluster.plan().in_hub(&[
        "redis-cli",
        "-h",
        &address,
        "-p",
        &port,
        "ZRANGE",
        "posts",
        "0",
        "-1",
    ]))?;
    let texts = text.lines().filter_map(|line| {
        let post: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(post["text"].as_str()?.to_owned())
    });
    Ok(texts.collect())
}
