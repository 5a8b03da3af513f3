//! Programs that nobody here wrote, with redirection off and on: their results must be equal.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::command::{output, progress};
use crate::{setup, workspace};

/// The first port of a case, in its own network namespace.
const PORT: &str = "7000";
/// Longest time of one run, in seconds. With `always` a program may wait for ever for what redirection
/// does not give it; that is why `auto` exists.
const LIMIT_SECONDS: &str = "400";
const LIMIT_SECONDS_ALWAYS: &str = "30";
/// Runs with `auto` before the one that counts: they learn.
const LEARNING_RUNS: usize = 2;
const LEARNING_RUNS_QUICK: usize = 1;
/// What a case begins a line with to say what its programs never do, although their files could.
const ALLOW: &str = "# allow: ";
/// Programs, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 18] = [
    ("javac", "default-jdk-headless"),
    ("nginx", "nginx"),
    ("wrk", "wrk"),
    ("iperf3", "iperf3"),
    ("haproxy", "haproxy"),
    ("socat", "socat"),
    ("rsync", "rsync"),
    ("h2load", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("openssl", "openssl"),
    ("pgbench", "postgresql-contrib"),
    ("node", "nodejs"),
    ("go", "golang-go"),
    ("memcached", "memcached"),
    ("mariadbd", "mariadb-server"),
    ("mariadb", "mariadb-client"),
    ("nats-server", "nats-server"),
    ("gunicorn", "gunicorn"),
];
/// Packages that bring libraries: of the machine's own Python, and of Go.
const LIBRARIES: [&str; 6] = [
    "python3-aiohttp",
    "python3-grpcio",
    "python3-memcache",
    "python3-pymysql",
    "python3-websockets",
    "golang-github-nats-io-go-nats-dev",
];
/// What to run.
#[derive(Args)]
pub struct Transparency {
    /// Only these cases
    cases: Vec<String>,
    /// Fewer runs of each case, none with `always`, and only CPython's tests of sockets
    #[arg(long)]
    quick: bool,
}

impl Transparency {
    /// What every run of the tests has time for.
    pub fn quick() -> Self {
        Self { cases: Vec::new(), quick: true }
    }
}

#[derive(Deserialize, Default)]
struct Report {
    ports: BTreeMap<u16, Port>,
}

#[derive(Deserialize)]
struct Port {
    sessions: u64,
    redirected: u64,
    kernel_bytes: u64,
    tcp_bytes: u64,
    reasons: BTreeMap<String, u64>,
}

struct Run {
    output: String,
    report: Report,
}

/// Runs the cases and prints one table: how many sessions were redirected, their bytes, and the share of these that
/// went through the kernel.
pub fn run(transparency: &Transparency) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("network namespaces are made and kernel programs loaded: run as root");
    }
    setup::install_programs(&PROGRAMS)?;
    setup::install_packages(&LIBRARIES)?;
    setup::run()?;
    setup::build()?;
    let folder = workspace().join("target/transparency");
    let _ = fs::remove_dir_all(&folder);
    let mut failed = 0;
    println!(
        "{:<12} {:>8} {:>12} {:>8} {:>7}  {:<26}  auto: result",
        "case", "seconds", "sessions", "MB", "in it", "always"
    );
    for case in cases(transparency)? {
        if case == "cpython" {
            setup::install_packages(&[&python_tests()?])?;
        }
        let begun = Instant::now();
        let profiles = folder.join(&case).join("profiles");
        let off = play(transparency, &folder, &case, "off", &profiles)?;
        let mut runs = Vec::new();
        let learning = if transparency.quick { LEARNING_RUNS_QUICK } else { LEARNING_RUNS };
        for _ in 0..=learning {
            runs.push(play(transparency, &folder, &case, "auto", &profiles)?);
        }
        let always = match transparency.quick {
            true => "not run".to_owned(),
            false => always_in_words(&off, &play(transparency, &folder, &case, "always", &profiles)?),
        };
        let verdict = judge(&off, &runs);
        let Some(on) = runs.pop() else { continue };
        failed += usize::from(verdict.is_err());
        let ports = on.report.ports.values();
        let sum = |field: fn(&Port) -> u64| ports.clone().map(field).sum::<u64>();
        let (kernel, tcp) = (sum(|port| port.kernel_bytes), sum(|port| port.tcp_bytes));
        println!(
            "{case:<12} {:>8.1} {:>12} {:>8.1} {:>6.1}%  {:<26}  {}",
            begun.elapsed().as_secs_f64(),
            format!("{}/{}", sum(|port| port.redirected), sum(|port| port.sessions)),
            (kernel + tcp) as f64 / 1e6,
            share(kernel, tcp),
            always,
            match (verdict, allowed(&case)?) {
                (Err(difference), _) => format!("DIFFERENT: {difference}"),
                (Ok(result), None) => result,
                (Ok(result), Some(allowed)) => format!("{result} (with --allow {allowed})"),
            },
        );
    }
    if failed > 0 {
        bail!("{failed} cases differ; logs are in {}", folder.display());
    }
    Ok(())
}

/// The package with the tests of the machine's own CPython.
fn python_tests() -> Result<String> {
    let version = output(Command::new("/usr/bin/python3").arg("--version"))?;
    let mut parts = version.trim().trim_start_matches("Python ").split('.');
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
        bail!("/usr/bin/python3 does not say its version: {version}");
    };
    Ok(format!("libpython{major}.{minor}-testsuite"))
}

fn cases(transparency: &Transparency) -> Result<Vec<String>> {
    if !transparency.cases.is_empty() {
        return Ok(transparency.cases.clone());
    }
    let mut cases: Vec<String> = fs::read_dir(scripts())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.contains('.'))
        .collect();
    cases.sort();
    Ok(cases)
}

/// What a case says that its programs never do.
fn allowed(case: &str) -> Result<Option<String>> {
    let text = fs::read_to_string(scripts().join(case)).with_context(|| format!("{case} is no case"))?;
    Ok(text.lines().find_map(|line| line.strip_prefix(ALLOW)).map(str::to_owned))
}

fn scripts() -> PathBuf {
    workspace().join("tests/programs")
}

/// Runs one case in a network namespace of its own.
fn play(transparency: &Transparency, folder: &Path, case: &str, mode: &str, profiles: &Path) -> Result<Run> {
    let work = folder.join(case).join("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let report = folder.join(case).join(format!("{mode}.json"));
    let _ = fs::remove_file(&report);
    let limit = if mode == "always" { LIMIT_SECONDS_ALWAYS } else { LIMIT_SECONDS };
    let allow = allowed(case)?.filter(|_| mode == "auto");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec timeout \"$0\" \"$@\"", limit])
        .arg(workspace().join("target/release/patchbay-agent"))
        .args(["exec", "--quiet", "--mode", mode, "--state-dir"])
        .arg(profiles)
        .arg("--report")
        .arg(&report)
        .args(allow.iter().flat_map(|habit| ["--allow", habit]))
        .arg("--")
        .arg(scripts().join(case))
        .env("CASES", scripts())
        .env("PORT", PORT)
        .env("WORK", &work)
        .env("QUICK", if transparency.quick { "yes" } else { "" })
        .stdin(Stdio::null())
        .output()
        .context("unshare can't be run")?;
    let log = fs::read_to_string(work.join("log")).unwrap_or_default();
    fs::write(folder.join(case).join(format!("{mode}.log")), &log)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        text.push_str(&format!("ended with {}\n", output.status));
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    if !errors.trim().is_empty() {
        progress(&format!("{case}, {mode}: {}", errors.trim()));
    }
    let report = fs::read_to_string(&report).unwrap_or_default();
    Ok(Run { output: text, report: serde_json::from_str(&report).unwrap_or_default() })
}

/// The part of all bytes that went through the kernel, in percent: what sessions carry says more than how many
/// they are.
fn share(kernel: u64, tcp: u64) -> f64 {
    100.0 * kernel as f64 / (kernel + tcp).max(1) as f64
}

/// What redirection without any care would do; differences are what `auto` keeps programs from.
fn always_in_words(off: &Run, always: &Run) -> String {
    let ports = always.report.ports.values();
    let (kernel, tcp) = ports.fold((0, 0), |(k, t), port| (k + port.kernel_bytes, t + port.tcp_bytes));
    match (off.output == always.output, share(kernel, tcp).round()) {
        (true, share) => format!("equal, {share} % in it"),
        (false, _) if always.report.ports.is_empty() => "differs: it did not end".into(),
        (false, share) => format!("differs, {share} % in it"),
    }
}

/// Equal results, and redirected bytes or the reasons for none.
fn judge(off: &Run, runs: &[Run]) -> Result<String, String> {
    let on = runs.last().ok_or("it was not run")?;
    if off.output.is_empty() || off.output.contains("ended with") {
        return Err(format!("it fails without redirection: {}", off.output.trim()));
    }
    for run in runs {
        if run.output != off.output {
            let changed: Vec<String> = off
                .output
                .lines()
                .zip(run.output.lines())
                .filter(|(off, on)| off != on)
                .map(|(off, on)| format!("`{off}` became `{on}`"))
                .collect();
            return Err(if changed.is_empty() { run.output.clone() } else { changed.join("; ") });
        }
    }
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in on.report.ports.values().flat_map(|port| &port.reasons) {
        *reasons.entry(reason).or_default() += count;
    }
    let told: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let redirected: u64 = on.report.ports.values().map(|port| port.kernel_bytes).sum();
    match (redirected, told.is_empty()) {
        (0, true) => Err("nothing was redirected, without a reason".into()),
        (_, true) => Ok("equal".into()),
        _ => Ok(format!("equal; over TCP: {}", told.join(", "))),
    }
}
