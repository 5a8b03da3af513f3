//! What a fresh machine lacks.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{exists, progress, run_quietly};
use crate::{toolchain, workspace};

/// Programs that building, the demo or the tests run, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 12] = [
    ("cc", "gcc"),
    ("ld", "binutils"),
    ("pkg-config", "pkg-config"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("redis-server", "redis-server"),
    ("dpkg-deb", "dpkg"),
    ("dig", "bind9-dnsutils"),
    ("faketime", "faketime"),
];

/// Installs what is missing.
pub fn run() -> Result<()> {
    install_programs(&PROGRAMS)?;
    toolchain::ensure(&progress)
}

/// Installs the packages of programs that are missing.
pub fn install_programs(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> =
        programs.iter().filter(|(program, _)| !exists(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// Installs packages that bring no program to look for.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    let installed = |package: &&str| run_quietly(Command::new("dpkg").args(["--status", *package])).is_ok();
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
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
    )?;
    progress("building libpatchbay (release)");
    crate::command::run(
        Command::new(env!("CARGO"))
            .args(["build", "--release", "--package", "patchbay-c"])
            .current_dir(workspace()),
    )
}
