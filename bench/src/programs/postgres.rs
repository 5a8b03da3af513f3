//! PostgreSQL and pgbench.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{MEAN, Read, RealProgram, usual};
use crate::case::Bench;
use crate::lab::{Place, Program, Role, SCRATCH};

/// How long making a database may take.
const FILL_WITHIN: Duration = Duration::from_secs(60);

/// SELECT by key.
pub struct Pgbench;

impl Pgbench {
    /// Its user may not see into this project's folder.
    fn folder() -> PathBuf {
        PathBuf::from(SCRATCH).join("postgres")
    }

    /// Debian keeps the servers' programs in a folder for each version.
    fn programs() -> Result<PathBuf> {
        let versions = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
        let found = versions
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").exists());
        found.max().context("PostgreSQL has no initdb")
    }
}

impl RealProgram for Pgbench {
    fn name(&self) -> &'static str {
        "pgbench"
    }

    fn about(&self) -> String {
        "pgbench: SELECT by key, prepared, 8 connections".into()
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let folder = Self::folder();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let bin = Self::programs()?;
        // PostgreSQL refuses to be root's.
        let initdb = format!(
            "chown postgres {folder} && exec runuser -u postgres -- {bin}/initdb -D {folder}/data -A trust --no-sync",
            folder = folder.display(),
            bin = bin.display()
        );
        let output = Command::new("sh").args(["-c", &initdb]).output()?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let program = bench.lab.program(Role::Destination, Place::Loopback, "runuser");
        Ok(program
            .args(["-u", "postgres", "--"])
            .arg(bin.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "fsync=off",
                "-c",
                "unix_socket_directories=",
                "-c",
                "jit=off",
            ]))
    }

    fn fill(&self, bench: &Bench<'_>, port: u16) -> Result<()> {
        let port = port.to_string();
        let arguments = ["-h", "127.0.0.1", "-U", "postgres", "-p", &port, "-i", "-q", "-s", "1", "postgres"];
        let program = bench.lab.program(Role::Source, Place::Loopback, "pgbench");
        program.args(arguments).output(FILL_WITHIN).map(drop)
    }

    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let seconds = self.lasts(&bench.pace).as_secs().to_string();
        let program = bench.lab.program(Role::Source, Place::Loopback, "pgbench");
        let program = program.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
        Ok(program.args(["-S", "-M", "prepared", "-c", "8", "-j", "1", "-T", &seconds, "postgres"]))
    }

    /// `latency average = 0.200 ms`, `tps = 40000.0 (without initial connection time)`.
    fn read(&self, output: &str) -> Result<Read> {
        let value = |name: &str| -> Result<f64> {
            let line =
                output.lines().find_map(|line| line.strip_prefix(name)).context("a value is missing")?;
            Ok(line.split_whitespace().next().context("a number")?.parse()?)
        };
        let requests = value("number of transactions actually processed: ")?;
        let samples = usual(value("tps = ")?, &[(MEAN, value("latency average = ")? / 1e3)]);
        Ok(Read { samples, requests })
    }
}
