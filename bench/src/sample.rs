//! What is measured: a value with its unit and which way is better.

use serde::{Deserialize, Serialize};

/// A kind of value. Cases share these, so that tables and charts can compare them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name in tables and in JSON.
    pub name: &'static str,
    /// What the value counts.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
}

impl Metric {
    /// Of which less is better.
    pub const fn less(name: &'static str, unit: Unit) -> Self {
        Self { name, unit, better: Better::Less }
    }

    /// Of which more is better.
    pub const fn more(name: &'static str, unit: Unit) -> Self {
        Self { name, unit, better: Better::More }
    }

    /// A measured value of it.
    pub fn sample(&self, value: f64) -> Sample {
        Sample { metric: self.name.to_owned(), unit: self.unit, better: self.better, value }
    }
}

/// The metrics that most cases have.
pub mod metrics {
    use super::{Metric, Unit};

    /// Bytes that arrived at the reading end.
    pub const THROUGHPUT: Metric = Metric::more("throughput", Unit::BytesPerSecond);
    /// Requests answered, or connections made.
    pub const RATE: Metric = Metric::more("rate", Unit::PerSecond);
    /// Half of the requests took no longer.
    pub const P50: Metric = Metric::less("p50", Unit::Nanoseconds);
    /// 99 % of the requests took no longer.
    pub const P99: Metric = Metric::less("p99", Unit::Nanoseconds);
    /// 99.9 % of the requests took no longer.
    pub const P999: Metric = Metric::less("p99.9", Unit::Nanoseconds);
    /// CPU time for each request, both ends and sidecars, kernel included.
    pub const CPU_REQUEST: Metric = Metric::less("cpu for each request", Unit::Nanoseconds);
    /// CPU time for each KiB, both ends and sidecars, kernel included.
    pub const CPU_KIB: Metric = Metric::less("cpu for each KiB", Unit::Nanoseconds);
    /// Context switches for each request, both ends and sidecars.
    pub const SWITCHES_REQUEST: Metric = Metric::less("context switches for each request", Unit::Count);
    /// Context switches for each MiB, both ends and sidecars.
    pub const SWITCHES_MIB: Metric = Metric::less("context switches for each MiB", Unit::Count);
    /// Resident memory of both ends and sidecars at its peak.
    pub const MEMORY: Metric = Metric::less("memory", Unit::Bytes);
    /// Kernel memory of all TCP sockets in the middle of the run.
    pub const SOCKET_MEMORY: Metric = Metric::less("kernel socket memory", Unit::Bytes);
    /// The share of the bytes that was redirected.
    pub const REDIRECTED: Metric = Metric::more("redirected", Unit::Percent);
}

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Time, in nanoseconds.
    Nanoseconds,
    /// Bytes in a second.
    BytesPerSecond,
    /// Something in a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Hundredths.
    Percent,
    /// A plain number.
    Count,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less.
    Less,
    /// More.
    More,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The metric's name.
    pub metric: String,
    /// What the value counts.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// The value.
    pub value: f64,
}

impl Unit {
    /// A value for people, with three digits.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Nanoseconds => scaled(value, &[(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")]),
            Self::BytesPerSecond => {
                scaled(value, &[(1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")])
            }
            Self::PerSecond => scaled(value, &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
            Self::Bytes => {
                let mib = 1_048_576.0;
                scaled(value, &[(1024.0 * mib, "GiB"), (mib, "MiB"), (1024.0, "KiB"), (1.0, "B")])
            }
            Self::Percent => format!("{} %", digits(value)),
            Self::Count => digits(value),
        }
    }
}

fn scaled(value: f64, steps: &[(f64, &str)]) -> String {
    let fitting = steps.iter().find(|(step, _)| value.abs() >= *step).or(steps.last());
    fitting.map_or_else(String::new, |(step, unit)| format!("{} {unit}", digits(value / step)))
}

fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_well() {
        assert_eq!(Unit::Nanoseconds.text(16_700.0), "16.7 µs");
        assert_eq!(Unit::BytesPerSecond.text(2.5e9), "2.50 GB/s");
        assert_eq!(Unit::Bytes.text(15_728_640.0), "15.0 MiB");
        assert_eq!(Unit::PerSecond.text(0.0), "0 /s");
        assert_eq!(Unit::Count.text(0.004), "0.00");
    }
}
