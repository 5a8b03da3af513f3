//! redis-server and redis-benchmark.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Read, RealProgram, usual};
use crate::case::{Bench, Pace};
use crate::lab::{Place, Program, Role};
use crate::sample::metrics::{P50, P99};

/// Requests in a quick run; many more fit into the same time when they are pipelined.
const REQUESTS: u32 = 30_000;

/// GET requests.
pub struct Redis {
    /// Requests sent before the first answer is waited for.
    pub pipeline: u32,
}

impl RealProgram for Redis {
    fn name(&self) -> &'static str {
        if self.pipeline == 1 { "redis" } else { "redis-pipelined" }
    }

    fn about(&self) -> String {
        match self.pipeline {
            1 => "redis-benchmark: GET of 64 B, 16 connections".into(),
            depth => format!("redis-benchmark: GET of 64 B, 16 connections, {depth} requests in a pipeline"),
        }
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let program = bench.lab.program(Role::Destination, Place::Loopback, "redis-server");
        Ok(program
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
            .arg(bench.lab.folder()))
    }

    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program> {
        let requests =
            REQUESTS * if self.pipeline == 1 { 1 } else { 6 } * if bench.pace.full { 4 } else { 1 };
        let program = bench.lab.program(Role::Source, Place::Loopback, "redis-benchmark");
        Ok(program
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", "get", "-d", "64", "-c", "16"])
            .args(["-n", &requests.to_string(), "-P", &self.pipeline.to_string(), "--csv"]))
    }

    fn lasts(&self, pace: &Pace) -> Duration {
        Duration::from_millis(if pace.full { 2_000 } else { 500 })
    }

    /// `"GET","95693.78","0.441","0.104","0.431","0.639","0.799","1.551"`: rate, then mean, least, p50, p95,
    /// p99 and longest in milliseconds.
    fn read(&self, output: &str) -> Result<Read> {
        let line = output.lines().find(|line| line.starts_with("\"GET\"")).context("a line for GET")?;
        let values: Vec<f64> =
            line.split(',').filter_map(|word| word.trim_matches('"').parse().ok()).collect();
        let at = |index: usize| values.get(index).copied().context("a value is missing");
        let (rate, p50, p99) = (at(0)?, at(3)? / 1e3, at(5)? / 1e3);
        Ok(Read { samples: usual(rate, &[(P50, p50), (P99, p99)]), requests: 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_benchmark_is_understood() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"95693.78\",\"0.441\",\"0.104\",\"0.431\",\"0.639\",\"0.799\",\"1.551\"\n";
        let read = Redis { pipeline: 1 }.read(text).expect("understood");
        let values: Vec<f64> = read.samples.iter().map(|sample| sample.value).collect();
        assert_eq!(values, [95_693.78, 431_000.0, 799_000.0]);
    }
}
