//! What a fresh machine lacks.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{exists, progress, run_quietly};
use crate::{toolchain, workspace};

/// Programs that building, the demo or the tests run, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 8] = [
    ("cc", "gcc"),
    ("ld", "binutils"),
    ("pkg-config", "pkg-config"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("redis-server", "redis-server"),
    ("dpkg-deb", "dpkg"),
];

/// Installs what is missing.
pub fn run() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| !exists(program)).collect();
    if !missing.is_empty() {
        install(&missing.iter().map(|(_, package)| *package).collect::<Vec<_>>())?;
    }
    toolchain::ensure(&progress)
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !exists("apt-get") {
        bail!("these programs are missing: {list}; install them with this machine's package manager");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "these packages are missing: {list}\nInstalling packages needs root. Run: sudo apt-get install -y {list}"
        );
    }
    progress(&format!("installing {list}"));
    run_quietly(Command::new("apt-get").args(["update", "-qq"]))?;
    // The servers are started by us, as instances, never as the machine's own services.
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    run_quietly(&mut install)
}

/// Builds everything in release mode.
pub fn build() -> Result<()> {
    progress("building Patchbay and its examples (release)");
    crate::command::run(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--workspace", "--bins", "--exclude", "xtask"])
            .current_dir(workspace()),
    )
}
