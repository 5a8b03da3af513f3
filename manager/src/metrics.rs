//! Counts for Prometheus: of the Manager's own work here, of peers in `server::COUNTERS`, of the state in
//! the core. They are put together when somebody asks.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::certificates::Certificates;
use crate::server;
use crate::shell::Handle;

/// Upper bounds of the commit times told, seconds.
const COMMIT_SECONDS: [f64; 9] = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0];

/// Counted where it happens.
#[derive(Debug)]
pub struct Metrics {
    /// How long each commit of rows took.
    pub commit_seconds: Histogram,
    /// Rows written.
    pub rows: Counter,
    /// Commits that SQLite refused; each is tried again.
    pub refused_writes: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            commit_seconds: Histogram::new(COMMIT_SECONDS),
            rows: Counter::default(),
            refused_writes: Counter::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Type {
    message: &'static str,
}

/// Whose a certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Holder {
    role: String,
    name: String,
}

/// Everything in the text form of OpenMetrics, which Prometheus reads.
pub async fn text(handle: &Handle, certificates: Option<&Certificates>) -> String {
    let mut registry = Registry::with_prefix("patchbay");
    of_peers(&mut registry);
    of_work(&mut registry, handle);
    of_certificates(&mut registry, certificates);
    of_state(&mut registry, handle).await;
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

fn of_peers(registry: &mut Registry) {
    let messages = Family::<Type, Counter>::default();
    for (kind, count) in server::COUNTERS.messages() {
        messages.get_or_create(&Type { message: kind.as_str() }).inc_by(count);
    }
    registry.register("messages_by_type", "Messages of agents that were understood, by type", messages);
    for (counter, count) in server::COUNTERS.all() {
        let metric: Counter = Counter::default();
        metric.inc_by(count);
        registry.register(counter.name(), counter.help(), metric);
    }
}

fn of_certificates(registry: &mut Registry, certificates: Option<&Certificates>) {
    let Some(certificates) = certificates else { return };
    let left = Family::<Holder, Gauge>::default();
    for one in certificates.list() {
        left.get_or_create(&Holder { role: one.role, name: one.name }).set(one.seconds_left);
    }
    let help = "Seconds until the certificate of the Manager, or of a connected node, ends";
    registry.register("certificate_seconds_left", help, left);
}

fn of_work(registry: &mut Registry, handle: &Handle) {
    let metrics = handle.metrics();
    registry.register("commit_seconds", "Time of a commit to the database", metrics.commit_seconds.clone());
    registry.register("rows_written", "Rows written to the database", metrics.rows.clone());
    let help = "Commits that the database refused; each is tried again";
    registry.register("writes_refused", help, metrics.refused_writes.clone());
    let (waiting, places) = handle.queue();
    gauge(registry, "queue", "Events that wait for the core", waiting);
    gauge(registry, "queue_places", "Events that may wait for the core", places);
    let writable = usize::from(handle.is_writable());
    gauge(
        registry,
        "database_writable",
        "Whether the database can be written; nothing is answered at 0",
        writable,
    );
}

/// The core says nothing while the database can't be written; then these are absent.
async fn of_state(registry: &mut Registry, handle: &Handle) {
    let Ok(status) = handle.ask(|core| core.status()).await else { return };
    gauge(registry, "nodes", "Nodes that are connected", status.nodes);
    gauge(registry, "apps", "Applications", status.apps);
    gauge(registry, "instances", "Instances that run", status.instances);
    gauge(registry, "sessions", "Open sessions", status.sessions);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: usize) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value as i64);
    registry.register(name, help, gauge);
}
