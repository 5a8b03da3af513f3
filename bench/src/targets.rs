//! What redirection shall bring, and whether this run shows it.

use crate::footprint::{ESTABLISHMENT, idle};
use crate::matrix::way::Way;
use crate::run::results::{CaseResult, Results};
use crate::sample::{Metric, metrics};

/// A target, as ratios in one run unless the work says otherwise.
pub struct Target {
    /// The work.
    pub work: &'static str,
    /// What it is compared with.
    pub against: &'static str,
    /// What shall be reached.
    pub wanted: String,
    /// What was reached in the worst cell, by `auto` and by `always`; none when no case measured it.
    pub reached: Vec<Reached>,
}

/// What was reached.
pub struct Reached {
    /// By whom.
    pub by: &'static str,
    /// The value, for people.
    pub text: String,
    /// In which cell that was.
    pub cell: String,
    /// Whether it is what is wanted.
    pub good: bool,
}

/// Which way a limit lies.
#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    /// Of two values the one that is further from it.
    fn worse(self, one: f64, other: f64) -> bool {
        match self {
            Self::AtMost(_) => one > other,
            Self::AtLeast(_) => one < other,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit:.2}"),
            Self::AtLeast(limit) => format!("at least {limit:.2}"),
        }
    }
}

/// Redirection as its users get it.
const BOTH: [Way; 2] = [Way::Auto, Way::Always];
/// Requests that have a target: their sizes in names of cells.
const REQUESTS: [&str; 5] = ["64B", "512B", "4KiB", "16KiB", "64KiB"];
/// Writes of streams that have a target.
const WRITES: [&str; 4] = ["16KiB", "64KiB", "256KiB", "1MiB"];

/// All targets of this project.
pub fn all(results: &Results) -> Vec<Target> {
    let requests = |case: &CaseResult, place: &str| {
        let parts: Vec<&str> = case.name.split('/').collect();
        matches!(parts[..], ["matrix", at, "request", size] if at.contains(place) && REQUESTS.contains(&size))
    };
    let streams = |case: &CaseResult| {
        let parts: Vec<&str> = case.name.split('/').collect();
        matches!(parts[..], ["matrix", _, "stream", size] if WRITES.contains(&size))
    };
    let sidecars = [Way::Haproxy, Way::Nginx];
    let matrix = |case: &CaseResult| case.name.starts_with("matrix/");
    let work = "request/response 64 B to 64 KiB, p50";
    let p50 = &[metrics::P50];
    let at_most = Limit::AtMost;
    let mut targets = vec![
        ratio(results, work, "plain TCP, loopback", at_most(0.6), p50, &[Way::Tcp], &BOTH, |case| {
            requests(case, "loopback")
        }),
        ratio(
            results,
            "the same, between namespaces",
            "plain TCP there",
            at_most(0.45),
            p50,
            &[Way::Tcp],
            &BOTH,
            |case| requests(case, "namespaces"),
        ),
        ratio(
            results,
            "the same, on loopback",
            "Unix socket",
            at_most(1.0),
            p50,
            &[Way::Unix],
            &BOTH,
            |case| requests(case, "loopback"),
        ),
        ratio(
            results,
            "the same, everywhere",
            "either sidecar pair",
            at_most(0.25),
            p50,
            &sidecars,
            &BOTH,
            |case| requests(case, ""),
        ),
        ratio(
            results,
            "streams, writes of 16 KiB and more",
            "plain TCP",
            Limit::AtLeast(1.8),
            &[metrics::THROUGHPUT],
            &[Way::Tcp],
            &BOTH,
            streams,
        ),
        ratio(
            results,
            "every cell of the matrix, `auto`",
            "plain TCP",
            Limit::AtLeast(0.95),
            &[metrics::THROUGHPUT, metrics::RATE],
            &[Way::Tcp],
            &BOTH[..1],
            matrix,
        ),
        ratio(
            results,
            "CPU for each request",
            "plain TCP",
            at_most(0.65),
            &[metrics::CPU_REQUEST],
            &[Way::Tcp],
            &BOTH,
            |case| requests(case, ""),
        ),
    ];
    targets.push(foreign(results));
    targets.push(idle_agent(results));
    targets
}

/// The worst ratio in the cells that fit.
#[expect(clippy::too_many_arguments, reason = "one row of a table")]
fn ratio(
    results: &Results,
    work: &'static str,
    against: &'static str,
    limit: Limit,
    metrics: &[Metric],
    bases: &[Way],
    ways: &[Way],
    fits: impl Fn(&CaseResult) -> bool,
) -> Target {
    let mut reached = Vec::new();
    for way in ways {
        let mut worst: Option<(f64, &str)> = None;
        for case in results.cases.iter().filter(|case| fits(case)) {
            for (metric, base) in
                metrics.iter().flat_map(|metric| bases.iter().map(move |base| (metric, base)))
            {
                let Some(ratio) = case.ratio(metric.name, way.name(), base.name()) else { continue };
                if worst.is_none_or(|(known, _)| limit.worse(ratio.median, known)) {
                    worst = Some((ratio.median, &case.name));
                }
            }
        }
        reached.extend(worst.map(|(value, cell)| Reached {
            by: if *way == Way::Auto { "auto" } else { "always" },
            text: format!("{value:.2}"),
            cell: cell.trim_start_matches("matrix/").to_owned(),
            good: limit.holds(value),
        }));
    }
    Target { work, against, wanted: limit.text(), reached }
}

/// Connections that are not ours.
fn foreign(results: &Results) -> Target {
    let mut reached = Vec::new();
    for (metric, limit) in [(&ESTABLISHMENT, 1.02), (&metrics::P50, 1.005)] {
        let names = crate::footprint::FOREIGN;
        let found = results.case(crate::footprint::FOREIGN_CASE);
        reached.extend(found.and_then(|case| case.ratio(metric.name, names[1], names[0])).map(|ratio| {
            Reached {
                by: metric.name,
                text: format!("{:.3}", ratio.median),
                cell: String::new(),
                good: ratio.median <= limit,
            }
        }));
    }
    Target {
        work: "a connection that is not ours",
        against: "without the agent",
        wanted: "at most 1.02 times establishment, 1.00 afterwards".into(),
        reached,
    }
}

fn idle_agent(results: &Results) -> Target {
    let agent = results.case(idle::CASE).and_then(|case| case.alternative(idle::AGENT));
    let value =
        |metric: &Metric| agent.and_then(|agent| agent.middle(metric.name)).map(|middle| middle.median);
    let mut reached = Vec::new();
    for (metric, limit) in [(&idle::RESIDENT, 15.0 * 1024.0 * 1024.0), (&idle::CPU, 0.05)] {
        reached.extend(value(metric).map(|value| Reached {
            by: metric.name,
            text: metric.unit.text(value),
            cell: String::new(),
            good: value < limit,
        }));
    }
    Target { work: "agent, idle", against: "", wanted: "under 15 MiB resident, 0 % CPU".into(), reached }
}
