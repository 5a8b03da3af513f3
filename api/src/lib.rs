//! The Manager's HTTP/JSON API as types: what the Manager serves and the `patchbay` command reads.
//!
//! Served over a Unix socket ([`SOCKET`]), and over TCP where the Manager was told so: there every request needs a token
//! (`Authorization: Bearer TOKEN`), and its `Host` must be an address, `localhost` or one of the Manager's names. A request
//! that a web page of another origin makes is refused. Requests that change something must say their content type:
//! `application/toml` for a graph, `application/json` for everything else, whose body may be empty.
//!
//! | call | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`ManagerStatus`] |
//! | `POST /v1/plan` | a graph file's text | [`Plan`] |
//! | `PUT /v1/apps?seen=SEEN` | a graph file's text | [`Plan`], carried out; with `seen`, 409 unless that plan still holds |
//! | `GET /v1/apps` | | list of [`App`] |
//! | `POST /v1/apps/{app}/stop` | | [`Done`] |
//! | `POST /v1/apps/{app}/services/{service}/scale?replicas=N` | | [`Done`]; without `replicas` the load decides again |
//! | `POST /v1/apps/{app}/connections/{service.plug}/close` | | [`Done`] |
//! | `POST /v1/apps/{app}/connections/{service.plug}/redirect?on=BOOL` | | [`Done`]; further messages of its open sessions, through the kernel or over TCP |
//! | `GET /v1/nodes` | | list of [`Node`] |
//! | `GET /v1/instances` | | list of [`Instance`] |
//! | `POST /v1/nodes/{node}/drain` | | [`Done`] |
//! | `POST /v1/nodes/{node}/undrain` | | [`Done`] |
//! | `POST /v1/nodes/{node}/forget` | | [`Done`]; only of a lost node |
//! | `POST /v1/nodes/{node}/redirect?on=BOOL` | | [`Done`]; of all its sessions, also later ones |
//! | `POST /v1/instances/{id}/stop` | | [`Done`] |
//! | `POST /v1/instances/{id}/close` | | [`Done`], all its sessions |
//! | `POST /v1/instances/{id}/move?to=NODE` | | [`Done`] |
//! | `POST /v1/sessions/{id}/close` | | [`Done`] |
//! | `POST /v1/sessions/{id}/redirect?on=BOOL` | | [`Done`] |
//! | `GET /v1/sessions` | | list of [`Session`], counters freshly asked from the agents |
//! | `GET /v1/history/sessions/{id}` | | [`SessionHistory`], kept for the Manager's `--keep-history` |
//! | `GET /v1/history/instances/{id}` | | [`InstanceHistory`] |
//! | `GET /v1/history/nodes/{name}` | | [`NodeHistory`] |
//! | `GET /v1/instances/{id}/log?lines=N&after=MICROSECONDS` | | [`Log`], read on its node: the last lines, or those after a time |
//! | `GET /metrics` | | counts for Prometheus |
//! | `GET /v1/events?after=N&since_ms=T&kind=A,B&subject=TEXT&follow=true` | | [`Event`]s in their order, one JSON object a line; none is left out |
//!
//! `GET /v1/instances` and `GET /v1/sessions` take `ended=true` to list the ended ones too, and
//! `app=NAME`; they tell at most [`MAX_TOLD`] in the order of their ids, or fewer with `limit=N`, and with
//! `after=ID` those that follow: a list of as many as were asked for may have more behind it. Calls that are answered with [`Done`] take `dry_run=true` to say only what they would do;
//! they are answered when what they begin is on disk, so it goes on after a crash. A failure has an HTTP status of 4xx or 5xx and an [`Error`] as its body.

mod history;
mod visible;

pub use history::{InstanceChange, InstanceHistory, NodeHistory, SessionHistory};
use serde::{Deserialize, Serialize};
pub use visible::{visible, visible_lines};

/// The Unix socket of the HTTP API, unless set otherwise.
pub const SOCKET: &str = "/run/patchbay/manager.sock";
/// TCP port of the HTTP API by convention, where it is served over TCP at all.
pub const HTTP_PORT: u16 = 55580;

/// Instances or sessions in one answer at most; a larger `limit` counts as this.
pub const MAX_TOLD: usize = 1_000;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong, in a sentence.
    pub message: String,
    /// The problems found in a graph file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Kinds of events, by which they can be asked for.
pub const EVENT_KINDS: &[&str] = &[
    "app-applied",
    "app-stopped",
    "instance-ended",
    "instance-failed",
    "instance-leaving",
    "instance-overloaded",
    "instance-running",
    "instance-silent",
    "instance-starting",
    "instance-stays",
    "node-changed",
    "node-draining",
    "node-ended",
    "node-ending",
    "node-forgotten",
    "node-lost",
    "node-refused",
    "node-undrained",
    "node-up",
    "redirection-switched",
    "service-failing",
    "service-scaled",
    "service-unplaced",
    "session-closed",
    "session-forced",
    "session-opened",
    "session-refused",
];

/// One problem of a graph file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Line in the file, from 1.
    pub line: usize,
    /// Column in the line, from 1.
    pub column: usize,
    /// A problem that does not stop the graph from being applied.
    pub warning: bool,
}

/// The Manager itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// The Manager's version.
    pub version: String,
    /// Nodes registered now.
    pub nodes: usize,
    /// Applications.
    pub apps: usize,
    /// Running instances.
    pub instances: usize,
    /// Open sessions.
    pub sessions: usize,
    /// Its time, which its events have, milliseconds since 1970: it follows no setting of the clock.
    #[serde(default)]
    pub time_ms: u64,
    /// By how much the clock of its machine was set since it started, milliseconds.
    #[serde(default)]
    pub clock_set_ms: i64,
}

/// A certificate: the Manager's own, or what a connected agent has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Whom it names.
    pub name: String,
    /// `manager`, `node`, `person`, or `other`.
    pub role: String,
    /// Its serial number, hexadecimal digits.
    pub serial: String,
    /// When it ends, milliseconds since 1970.
    pub until_ms: u64,
    /// Seconds until then; below zero once it has ended.
    pub seconds_left: i64,
}

/// What applying a graph changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The application.
    pub app: String,
    /// One line for each change; empty when the application is so already.
    pub changes: Vec<Change>,
    /// What follows for instances and sessions, a sentence each, in their order.
    #[serde(default)]
    pub steps: Vec<String>,
    /// What works but deserves a look.
    pub warnings: Vec<Problem>,
    /// What this was seen from, in hexadecimal digits: `PUT /v1/apps?seen=…` carries out this plan or nothing.
    #[serde(default)]
    pub seen: String,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happens to it.
    pub action: Action,
    /// `service NAME` or `connection A.P → B.S`.
    pub subject: String,
    /// What differs, for a change.
    pub detail: String,
}

/// What happens to a part of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Add,
    /// It differs from before.
    Change,
    /// It goes; its instances are stopped.
    Remove,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: String,
    /// `running`, `starting`, `degraded` or `stopped`.
    pub state: String,
    /// Its services.
    pub services: Vec<Service>,
    /// Since when it is known, milliseconds since 1970.
    pub applied_ms: u64,
}

/// A service of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// `gateway`, `regular` or `baas`.
    pub kind: String,
    /// Running instances.
    pub running: usize,
    /// Fewest and most replicas.
    pub replicas: (u32, u32),
    /// The entry of the agents' repositories that is executed.
    #[serde(default)]
    pub program: String,
    /// Replicas that people asked for; without them the load decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<u32>,
    /// Why it can't run, when it can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When its next start is tried, while it waits for that, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
}

/// A node, that is its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's name.
    pub name: String,
    /// The agent's network address.
    pub address: String,
    /// `up`, `ending` (its agent has said that it ends), `ended`, or `lost`.
    pub state: String,
    /// Nothing is executed there, and what runs there moves away.
    #[serde(default)]
    pub draining: bool,
    /// Its agent's latest good answer, milliseconds since 1970; 0 for none.
    #[serde(default)]
    pub healthy_ms: u64,
    /// Services its agent can execute.
    pub services: Vec<String>,
    /// Running instances.
    pub instances: usize,
    /// `kernel`, or why sessions of this node are not redirected.
    pub redirection: String,
    /// Since when its connection stands or is lost, milliseconds since 1970.
    pub since_ms: u64,
    /// Its agent's version; empty when it has told none.
    #[serde(default)]
    pub version: String,
    /// How far its clock was ahead of the Manager's time when it last told, milliseconds.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
}

/// Lines of an instance's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// In their order.
    pub lines: Vec<LogLine>,
    /// More of them follow: they are asked for with `after` the last one's time.
    #[serde(default)]
    pub more: bool,
}

/// A line that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When its node read it, microseconds since 1970; another one for each line of an instance, in their order.
    pub at_us: u64,
    /// The text, as it was written; bytes that are no UTF-8 are U+FFFD.
    pub text: String,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id, unique in the cluster.
    pub id: u64,
    /// Its application.
    pub app: String,
    /// Its service.
    pub service: String,
    /// Its node.
    pub node: String,
    /// The entry of its agent's repository that it was executed from.
    #[serde(default)]
    pub program: String,
    /// `starting`, `running`, `stopping`, `failed` or `ended`.
    pub state: String,
    /// Why it will be replaced by another instance: it is moved, its node is drained, it is out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<String>,
    /// It answered 199: it gets no new sessions while another can take them.
    #[serde(default)]
    pub overloaded: bool,
    /// Which of its limits its node could not apply, and why, while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited: Option<String>,
    /// Its latest good answer, milliseconds since 1970; 0 for none.
    #[serde(default)]
    pub healthy_ms: u64,
    /// Ports of its sockets.
    pub sockets: Vec<(String, u16)>,
    /// Open sessions from its plugs and to its sockets.
    pub sessions: usize,
    /// Starts that failed in a row before this one.
    pub restarts: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it ended or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its last lines of output, for one that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The Manager's number for it.
    pub id: u64,
    /// The application.
    pub app: String,
    /// Who opened it.
    pub source: End,
    /// Who accepted it.
    pub destination: End,
    /// `open` or `closed`; in history also `pending`: answered and not acknowledged.
    pub state: String,
    /// `kernel`, `tcp`, or `unknown` while the agent has not told.
    pub path: String,
    /// Why it is not in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From source to destination.
    pub sent: Traffic,
    /// From destination to source.
    pub received: Traffic,
    /// When it was acknowledged, milliseconds since 1970.
    pub opened_ms: u64,
    /// When it ended, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_ms: Option<u64>,
    /// The status it ended with: 111 by business logic, 122 broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What the kernel says of each direction; absent until it has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// The directions of a session, as the kernel saw them last: from source to destination, then back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The path of the latest message: `kernel`, or why it went over TCP; `-` for none yet.
    pub paths: [String; 2],
    /// How often the path changed.
    pub switches: [u32; 2],
    /// Redirected bytes that were sent and not read yet.
    pub in_flight_bytes: [u32; 2],
    /// When something was last sent either way, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_ms: Option<u64>,
}

/// One end of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The service.
    pub service: String,
    /// The instance.
    pub instance: u64,
    /// The plug of a source, the socket of a destination.
    pub name: String,
    /// The node.
    pub node: String,
    /// Network address.
    pub address: String,
    /// The plug's local port, the socket's port.
    pub port: u16,
}

/// What one direction of a session carried, by path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes redirected in the kernel.
    pub kernel_bytes: u64,
    /// Bytes over TCP.
    pub tcp_bytes: u64,
    /// Messages (send calls) redirected in the kernel.
    pub kernel_messages: u64,
    /// Messages over TCP, as far as they were counted.
    pub tcp_messages: u64,
    /// Bytes through shared memory.
    pub memory_bytes: u64,
    /// Messages (writes) through shared memory.
    pub memory_messages: u64,
}

/// What a command began, or would begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// A sentence for people.
    pub text: String,
    /// Instances that will end.
    pub instances: usize,
    /// Sessions that are asked to close.
    pub sessions: usize,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, growing.
    pub sequence: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// `node-up`, `node-lost`, `app-applied`, `app-stopped`, `instance-starting`,
    /// `instance-running`, `instance-ended`, `instance-failed`, `session-opened`,
    /// `session-closed`, `session-forced`, `session-refused`, `service-unplaced`, `service-failing`,
    /// `service-scaled`, `instance-leaving`, `instance-overloaded`, `instance-silent`,
    /// `instance-stays`, `node-changed`, `node-draining`, `node-undrained`, `node-ending`, `node-ended`, `node-refused`, `certificate-expires`,
    /// `node-forgotten`, `redirection-switched`.
    pub kind: String,
    /// What it happened to: `instance 7 (posts)`, `node a`, `session 12`.
    pub subject: String,
    /// A sentence.
    pub text: String,
}
