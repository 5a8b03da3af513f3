//! iperf3.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Read, RealProgram};
use crate::case::Bench;
use crate::lab::{Place, Program, Role};
use crate::sample::metrics::THROUGHPUT;

/// One stream.
pub struct Iperf;

impl RealProgram for Iperf {
    fn name(&self) -> &'static str {
        "iperf3"
    }

    fn about(&self) -> String {
        "iperf3: one stream of 128 KiB writes".into()
    }

    fn is_quick(&self) -> bool {
        false
    }

    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let program = bench.lab.program(Role::Destination, Place::Loopback, "iperf3");
        Ok(program.args(["-s", "-p", &port.to_string()]))
    }

    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let seconds = self.lasts(&bench.pace).as_secs().to_string();
        let program = bench.lab.program(Role::Source, Place::Loopback, "iperf3");
        Ok(program.args(["-c", "127.0.0.1", "-p", &port.to_string(), "-t", &seconds, "-J"]))
    }

    fn read(&self, output: &str) -> Result<Read> {
        let value: Value = serde_json::from_str(output)?;
        let bits =
            value["end"]["sum_received"]["bits_per_second"].as_f64().context("no bits for each second")?;
        Ok(Read { samples: vec![THROUGHPUT.sample(bits / 8.0)], requests: 0.0 })
    }
}
