//! A real Kubernetes on this machine, with the chart in it: minutes of building once, so outside of `cargo xtask test`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::command::{progress, run as run_command};
use crate::{chart, setup, workspace};

/// Programs of the cluster and of its pods, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 13] = [
    ("go", "golang-go"),
    ("dpkg-source", "dpkg-dev"),
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("conntrack", "conntrack"),
    ("kubectl", "kubernetes-client"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("redis-server", "redis-server"),
    ("redis-benchmark", "redis-tools"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
];

/// How to run it.
#[derive(Args)]
pub struct Kubernetes {
    /// Take Patchbay's programs as they were built last
    #[arg(long)]
    no_build: bool,
    /// Where the cluster keeps what it has, while it runs
    #[arg(long, default_value = "/tmp/patchbay-kubernetes", value_name = "FOLDER")]
    folder: PathBuf,
    /// Only start the cluster, and leave it running until this is interrupted
    #[arg(long)]
    cluster: bool,
}

/// Starts the cluster, installs the chart, and looks what becomes of pods' sessions.
pub fn run(kubernetes: &Kubernetes) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a cluster needs namespaces, cgroups and kernel programs: run as root"
    );
    setup::install_programs(&PROGRAMS)?;
    setup::install_packages(&["containernetworking-plugins"])?;
    if !kubernetes.no_build {
        setup::run()?;
        setup::build()?;
    }
    let tests = workspace().join("tests/kubernetes");
    let built = cache().context("HOME is not set")?;
    progress(&format!("Kubernetes 1.20.2, built once in {} (about 8 CPU-minutes)", built.display()));
    run_command(Command::new(tests.join("build.sh")).arg(&built))?;
    let helm = chart::helm()?;
    let xtask = std::env::current_exe()?;
    if kubernetes.folder.exists() {
        bail!("{} is there: a cluster runs in it, or one was killed; remove it", kubernetes.folder.display());
    }
    progress("starting the cluster");
    let mut cluster = Command::new("python3")
        .arg(tests.join("cluster.py"))
        .arg("up")
        .arg(&kubernetes.folder)
        .arg("--bin")
        .arg(built.join("bin"))
        .arg("--xtask")
        .arg(&xtask)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = cluster.stdout.take().context("it is piped")?;
    let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| line == "ready");
    let result = match (ready, kubernetes.cluster) {
        (false, _) => {
            Err(anyhow::anyhow!("the cluster did not start; its logs are in {}", kubernetes.folder.display()))
        }
        (true, true) => {
            let script = tests.join("cluster.py").display().to_string();
            progress(&format!("python3 {script} in {} -- kubectl get nodes", kubernetes.folder.display()));
            cluster.wait()?;
            Ok(())
        }
        (true, false) => {
            let mut check = Command::new("python3");
            check.arg(tests.join("check.py")).arg(&kubernetes.folder);
            run_command(check.arg("--helm").arg(&helm).arg("--xtask").arg(&xtask))
        }
    };
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(cluster.id().cast_signed()),
        nix::sys::signal::SIGTERM,
    );
    cluster.wait()?;
    if result.is_ok() {
        std::fs::remove_dir_all(&kubernetes.folder)?;
    }
    result
}

/// Outside of the checkout: for every checkout of this machine.
fn cache() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/patchbay/kubernetes/1.20.2"))
}
