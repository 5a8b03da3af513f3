//! Real programs, by their own benchmarks: a server, a client that measures it, and what the client says.

mod http;
mod iperf;
mod postgres;
mod program_case;
mod redis;
mod social;

use std::time::Duration;

use anyhow::Result;
use program_case::ProgramCase;

use crate::case::{Bench, Case, Pace};
use crate::lab::Program;
use crate::sample::{Metric, Sample, Unit, metrics};

/// How long a client works in a quick run.
const QUICK: Duration = Duration::from_secs(1);

/// A server and the client that measures it.
trait RealProgram {
    /// Its name in cases.
    fn name(&self) -> &'static str;
    /// What is done, in one line.
    fn about(&self) -> String;
    /// Whether a quick run has it.
    fn is_quick(&self) -> bool;
    /// Files and data that the server needs, and the server, in the destination's place.
    fn server(&self, bench: &Bench<'_>, port: u16) -> Result<Program>;
    /// Called once the server listens.
    fn fill(&self, _bench: &Bench<'_>, _port: u16) -> Result<()> {
        Ok(())
    }
    /// The client, for a port that is either the server's or a sidecar's.
    fn client(&self, bench: &Bench<'_>, port: u16) -> Result<Program>;
    /// How long the client works, about.
    fn lasts(&self, pace: &Pace) -> Duration {
        if pace.full { 3 * QUICK } else { QUICK }
    }
    /// What the client printed, as values.
    fn read(&self, output: &str) -> Result<Read>;
}

/// What a client said.
struct Read {
    samples: Vec<Sample>,
    /// Requests that the ends' processor time is divided by; 0 for none.
    requests: f64,
}

/// Mean latency, where a client tells no more.
const MEAN: Metric = Metric::less("mean", Unit::Nanoseconds);

/// All programs.
pub fn cases(pace: &Pace) -> Vec<Box<dyn Case>> {
    let programs: Vec<Box<dyn RealProgram>> = vec![
        Box::new(redis::Redis { pipeline: 1 }),
        Box::new(redis::Redis { pipeline: 16 }),
        Box::new(http::Wrk),
        Box::new(http::H2load),
        Box::new(postgres::Pgbench),
        Box::new(iperf::Iperf),
    ];
    let wanted = programs.into_iter().filter(|program| pace.full || program.is_quick());
    let mut cases: Vec<Box<dyn Case>> = wanted
        .enumerate()
        .map(|(number, program)| Box::new(ProgramCase::new(number, program)) as Box<dyn Case>)
        .collect();
    if pace.full {
        cases.push(Box::new(social::Social));
    }
    cases
}

/// Seconds as nanoseconds.
fn nanoseconds(seconds: f64) -> f64 {
    seconds * 1e9
}

/// The rate and the latencies of requests, the usual answer.
fn usual(rate: f64, latencies: &[(Metric, f64)]) -> Vec<Sample> {
    let mut samples = vec![metrics::RATE.sample(rate)];
    samples.extend(latencies.iter().map(|(metric, seconds)| metric.sample(nanoseconds(*seconds))));
    samples
}
