//! Connections of processes below an agent's cgroup that are no sessions: what its hooks cost them.

use std::time::Duration;

use anyhow::Result;

use crate::case::{Bench, Case, Measured, Pace};
use crate::ends::{Kind, Style, Work};
use crate::lab::Place;
use crate::matrix::cell::Cell;
use crate::matrix::way::Way;
use crate::sample::{Metric, Unit, metrics};
use crate::switch::Switch;

/// The case's name.
pub const CASE: &str = "footprint/foreign";
/// Without and with the agent.
pub const ALTERNATIVES: [&str; 2] = ["without the agent", "with the agent"];
/// A connection made, used once and closed, at the median.
pub const ESTABLISHMENT: Metric = Metric::less("establishment", Unit::Nanoseconds);
/// Ports of cells that are not in the matrix.
const NUMBER: usize = 1_000;

/// The case.
pub struct Foreign;

impl Case for Foreign {
    fn name(&self) -> String {
        CASE.into()
    }

    fn about(&self) -> String {
        "connections below the agent's cgroup that are no sessions: making one, and 64 B requests".into()
    }

    fn alternatives(&self) -> Vec<String> {
        ALTERNATIVES.map(String::from).to_vec()
    }

    fn rounds(&self, pace: &Pace) -> usize {
        // The differences are small.
        pace.rounds * 2
    }

    fn estimate(&self, pace: &Pace) -> Duration {
        2 * (pace.warm_up + pace.measure) + Duration::from_millis(250)
    }

    fn measure(&mut self, alternative: &str, bench: &Bench<'_>) -> Result<Measured> {
        let switch = match alternative == ALTERNATIVES[1] {
            true => Some(Switch::declared(bench, "nothing", 1)?),
            false => None,
        };
        let work = Work {
            kind: Kind::Short,
            size: 64,
            connections: 1,
            style: Style::Blocking,
            no_delay: true,
            warm_up: 0,
        };
        let mut commands: Vec<String> = switch.iter().map(|switch| switch.line.clone()).collect();
        let cell = Cell::new(NUMBER, Place::Namespaces, work.clone());
        let short = cell.run(Way::Tcp, bench, bench.pace.measure)?;
        let cell = Cell::new(NUMBER, Place::Namespaces, Work { kind: Kind::Request, ..work });
        let request = cell.run(Way::Tcp, bench, bench.pace.measure)?;
        switch.map(Switch::end).transpose()?;
        commands.extend(short.commands);
        commands.extend(request.commands);
        let of = |samples: &[crate::sample::Sample]| {
            samples.iter().find(|sample| sample.metric == metrics::P50.name).map(|sample| sample.value)
        };
        let establishment = of(&short.samples).map(|value| ESTABLISHMENT.sample(value));
        let afterwards = of(&request.samples).map(|value| metrics::P50.sample(value));
        Ok(Measured { samples: establishment.into_iter().chain(afterwards).collect(), commands })
    }
}
