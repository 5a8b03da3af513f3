//! What Prometheus reads.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::datapath::{Path, SessionReport};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    path: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayAndReason {
    path: &'static str,
    /// Empty in the kernel.
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Table {
    table: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// All metrics; each can be counted from anywhere.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    live: Family<WayAndReason, Gauge>,
    ended: Family<WayAndReason, Counter>,
    bytes: Family<Way, Counter>,
    switches: Counter,
    table: Family<Table, Gauge>,
    limit: Family<Table, Gauge>,
    uncounted: Counter,
    pods: Family<Kind, Gauge>,
    links: Family<Kind, Gauge>,
    self_test: Family<Kind, Gauge>,
    /// What ended sessions carried, in the kernel and over TCP, and how often they changed their path.
    carried: [AtomicU64; 3],
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("patchbay_agent");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION")), ("kernel", kernel())]);
        registry.register("build", "The agent's version and its kernel", version);
        let metrics = Self {
            registry: Registry::default(),
            live: Family::default(),
            ended: Family::default(),
            bytes: Family::default(),
            switches: Counter::default(),
            table: Family::default(),
            limit: Family::default(),
            uncounted: Counter::default(),
            pods: Family::default(),
            links: Family::default(),
            self_test: Family::default(),
            carried: Default::default(),
        };
        registry.register(
            "live_sessions",
            "Sessions that exist, by path and reason for TCP",
            metrics.live.clone(),
        );
        registry.register(
            "sessions",
            "Sessions that have ended, by path and reason for TCP",
            metrics.ended.clone(),
        );
        registry.register("bytes", "Bytes of sessions by the path that carried them", metrics.bytes.clone());
        let help = "How often directions of sessions changed their path";
        registry.register("path_switches", help, metrics.switches.clone());
        registry.register("table_entries", "Entries of the kernel programs' tables", metrics.table.clone());
        registry.register("table_limit", "Entries that a table may have", metrics.limit.clone());
        let help = "Connections that found the table of sessions full: they stay on TCP";
        registry.register("sessions_uncounted", help, metrics.uncounted.clone());
        let help = "Pods of this node: all that are known, and those that may be redirected";
        registry.register("pods", help, metrics.pods.clone());
        let help = "Whether the agent is connected: to its Manager, to the API server";
        registry.register("connected", help, metrics.links.clone());
        let help = "Whether the self-test passed on this kernel; absent while it has not been done";
        registry.register("self_test_passed", help, metrics.self_test.clone());
        // Each is there from the start, so that a rate is known from its first increase on.
        for path in ["kernel", "tcp"] {
            drop(metrics.bytes.get_or_create(&Way { path }));
            drop(metrics.live.get_or_create(&WayAndReason { path, reason: "" }));
            drop(metrics.ended.get_or_create(&WayAndReason { path, reason: "" }));
        }
        Self { registry, ..metrics }
    }
}

fn kernel() -> &'static str {
    static RELEASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    RELEASE.get_or_init(|| {
        nix::sys::utsname::uname()
            .map_or_else(|_| String::new(), |it| it.release().to_string_lossy().into_owned())
    })
}

fn way(report: &SessionReport) -> WayAndReason {
    match report.path {
        Path::Kernel => WayAndReason { path: "kernel", reason: "" },
        Path::Tcp(reason) => WayAndReason { path: "tcp", reason: reason.text() },
    }
}

fn sums(report: &SessionReport) -> [u64; 3] {
    let both = [report.sent, report.received];
    [
        both.iter().map(|traffic| traffic.kernel_bytes).sum(),
        both.iter().map(|traffic| traffic.tcp_bytes).sum(),
        both.iter().map(|traffic| u64::from(traffic.switches)).sum(),
    ]
}

impl Metrics {
    /// A session has ended.
    pub fn ended(&self, report: &SessionReport) {
        self.ended.get_or_create(&way(report)).inc();
        for (sum, more) in self.carried.iter().zip(sums(report)) {
            sum.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// These sessions exist, of so many that may.
    pub fn live(&self, sessions: &[SessionReport], limit: u32) {
        let mut counts = std::collections::HashMap::<WayAndReason, i64>::new();
        let mut live = [0; 3];
        for session in sessions {
            *counts.entry(way(session)).or_default() += 1;
            live.iter_mut().zip(sums(session)).for_each(|(sum, more)| *sum += more);
        }
        self.live.clear();
        for path in ["kernel", "tcp"] {
            counts.entry(WayAndReason { path, reason: "" }).or_default();
        }
        for (way, count) in counts {
            self.live.get_or_create(&way).set(count);
        }
        let [kernel, tcp, switches] =
            [0, 1, 2].map(|index| self.carried[index].load(Ordering::Relaxed) + live[index]);
        // What has just ended is for a moment in neither sum: a counter never goes back.
        self.bytes.get_or_create(&Way { path: "kernel" }).inner().fetch_max(kernel, Ordering::Relaxed);
        self.bytes.get_or_create(&Way { path: "tcp" }).inner().fetch_max(tcp, Ordering::Relaxed);
        self.switches.inner().fetch_max(switches, Ordering::Relaxed);
        let table = Table { table: "sessions" };
        self.table.get_or_create(&table).set(i64::try_from(sessions.len()).unwrap_or(i64::MAX));
        self.limit.get_or_create(&table).set(i64::from(limit));
    }

    /// So many connections found the table full since the programs were loaded.
    pub fn uncounted(&self, connections: u64) {
        self.uncounted.inner().fetch_max(connections, Ordering::Relaxed);
    }

    /// Pods of this node, and those that may be redirected.
    pub fn pods(&self, (all, redirected): (usize, usize)) {
        for (kind, count) in [("all", all), ("redirected", redirected)] {
            self.pods.get_or_create(&Kind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether the agent is connected to `manager`, or to `api-server`.
    pub fn connected(&self, kind: &'static str, is: bool) {
        set(&self.links, kind, is);
    }

    /// The self-test has ended.
    pub fn self_test(&self, passed: bool) {
        set(&self.self_test, "redirection", passed);
    }

    /// Everything in the text form of OpenMetrics, which Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

fn set(family: &Family<Kind, Gauge>, kind: &'static str, is: bool) {
    let gauge: &Gauge<i64, AtomicI64> = &family.get_or_create(&Kind { kind });
    gauge.set(i64::from(is));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Reason, Traffic};

    #[test]
    fn sessions_and_bytes_are_counted_by_path_and_never_go_back() {
        let metrics = Metrics::default();
        let mut report = SessionReport::between(1, 2, "127.0.0.1:80".parse().expect("an address"));
        report.path = Path::Kernel;
        report.sent = Traffic { kernel_bytes: 7, ..Traffic::default() };
        let line = |wanted: &str| {
            let text = metrics.text();
            assert!(text.lines().any(|line| line == wanted), "{wanted} in {text}");
        };
        line("patchbay_agent_bytes_total{path=\"kernel\"} 0");
        metrics.live(std::slice::from_ref(&report), 10);
        line("patchbay_agent_live_sessions{path=\"kernel\",reason=\"\"} 1");
        metrics.live(&[], 10);
        line("patchbay_agent_bytes_total{path=\"kernel\"} 7");
        line("patchbay_agent_live_sessions{path=\"kernel\",reason=\"\"} 0");
        metrics.ended(&report);
        report.path = Path::Tcp(Reason::Learning);
        metrics.ended(&report);
        metrics.live(&[], 10);
        line("patchbay_agent_bytes_total{path=\"kernel\"} 14");
        line("patchbay_agent_sessions_total{path=\"tcp\",reason=\"program being observed\"} 1");
        line("patchbay_agent_table_limit{table=\"sessions\"} 10");
        metrics.connected("manager", true);
        line("patchbay_agent_connected{kind=\"manager\"} 1");
    }
}
