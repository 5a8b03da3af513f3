//! The data path as the agent uses it: loaded, or absent with a reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use patchbay_agent_core::reports::Reports;
use patchbay_agent_core::{Declare, Event, Redirects};
use patchbay_ebpf_common::Reason;
use ssmmp::extension::{self, Switch, Switched};
use ssmmp::{InstanceId, Repeated};
use tracing::{debug, info, warn};

use crate::datapath::{self, Datapath, Declaration, Options, SessionEvent, SessionReport, Watch};
use crate::declared::{Declared, Pair};
use crate::instance_listener::Directory;
use crate::probe::Matrix;
use crate::socket_table;
use crate::unredirected::Unredirected;

// What comes again with every session, or every tick, while the machine is short of something.
static NOT_DECLARED: Repeated = Repeated::new();
static NOT_ENTERED: Repeated = Repeated::new();
static NOT_WITHDRAWN: Repeated = Repeated::new();
static NOT_OBSERVED: Repeated = Repeated::new();
static NOT_FOLLOWED: Repeated = Repeated::new();
static TABLE_FULL: Repeated = Repeated::new();
static NOT_LOOKED_AT: Repeated = Repeated::new();
static NOT_LET_OUT: Repeated = Repeated::new();
static NOT_COUNTED: Repeated = Repeated::new();
static NO_SOCKET_TABLE: Repeated = Repeated::new();

/// Tells of trouble that comes again, in powers of two.
fn told(trouble: &Repeated, tell: impl FnOnce(u64)) {
    if let Some(times) = crate::again(trouble) {
        tell(times);
    }
}

/// How often [`Redirection::tick`] is called.
pub const TICK: Duration = Duration::from_secs(1);
/// A connection whose other end does not show up leaves the map after this time.
const PAIRED_WITHIN: Duration = Duration::from_secs(1);
/// How often sessions on their way out are looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

enum Kind {
    Kernel(Box<Datapath>),
    Tcp(Unredirected, String),
}

/// The kernel part, if this node has one.
pub struct Redirection {
    kind: Kind,
    declared: Declared,
    /// Declarations whose programs are observed: until something is known of them, and as long as they are
    /// redirected.
    observed: BTreeSet<(InstanceId, SocketAddr)>,
    /// Declarations whose sessions are redirected whatever is seen: options that only TCP has take them back all the same.
    always: BTreeSet<(InstanceId, SocketAddr)>,
    /// Those of them that nothing is known of yet.
    learning: BTreeSet<(InstanceId, SocketAddr)>,
    observes: bool,
    /// What may be redirected once the self-test has passed; afterwards `None`.
    untested: Option<BTreeMap<(InstanceId, SocketAddr), Declare>>,
    /// Why nothing may be redirected, when it has failed.
    failure: Option<String>,
    /// Sessions known to have found a full table.
    refused: u64,
}

impl Redirection {
    /// Loads the data path; without it the node goes on, and says once what is missing. It sees and counts sessions
    /// at once, and redirects new ones only after the self-test [has passed](Self::tested).
    pub fn load(options: &Options) -> Self {
        match Datapath::load(options) {
            Ok(mut datapath) => {
                // Tried once now, so that a kernel that can't is known from the start.
                let observes =
                    datapath.observe(Watch::Everything).and_then(|()| datapath.observe(Watch::Nothing));
                if let Err(missing) = &observes {
                    warn!("only programs tested for it are redirected: {missing}");
                }
                let mut redirection = Self::new(Kind::Kernel(Box::new(datapath)));
                redirection.observes = observes.is_ok();
                redirection.untested = Some(BTreeMap::new());
                redirection
            }
            Err(missing) => {
                warn!("sessions of this node stay on TCP: {missing}");
                Self::new(Kind::Tcp(Unredirected::new(Reason::Unavailable), missing.to_string()))
            }
        }
    }

    /// A node whose people want no redirection.
    pub fn off() -> Self {
        let why = "switched off by --redirection".into();
        Self::new(Kind::Tcp(Unredirected::new(Reason::SwitchedOff), why))
    }

    /// The self-test has ended: what was declared meanwhile may be redirected, or nothing ever, sessions of an
    /// earlier agent included.
    pub fn tested(&mut self, result: anyhow::Result<Matrix>, directory: &Directory) {
        let Some(waiting) = self.untested.take() else { return };
        let Kind::Kernel(datapath) = &mut self.kind else { return };
        let passed = result.and_then(|matrix| {
            anyhow::ensure!(
                matrix.redirects,
                "it lost or reordered bytes, redirected none, or found no bound for unread ones"
            );
            datapath.set_harmless(matrix.harmless())?;
            Ok(matrix)
        });
        match passed {
            Ok(matrix) => {
                info!(kernel = matrix.kernel, milliseconds = matrix.milliseconds, "self-test done");
                for declare in waiting.values() {
                    self.declare(declare, directory);
                }
            }
            Err(error) => {
                warn!(
                    "the self-test failed, sessions of this node stay on TCP: {error:#}; `patchbay-agent probe` \
                     shows more"
                );
                if let Err(error) = datapath.refuse_all() {
                    warn!("an earlier agent's sessions can't be taken back to TCP: {error}");
                }
                self.failure = Some(format!("self-test failed: {error:#}"));
            }
        }
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            declared: Declared::default(),
            observed: BTreeSet::new(),
            always: BTreeSet::new(),
            learning: BTreeSet::new(),
            observes: false,
            untested: None,
            failure: None,
            refused: 0,
        }
    }

    /// Whether this node redirects, or why not, short.
    pub fn describe(&self) -> extension::Redirection {
        let why = match (&self.kind, &self.failure) {
            (Kind::Kernel(_), None) if self.untested.is_some() => "the self-test has not ended yet",
            (Kind::Kernel(_), None) => return extension::Redirection::Kernel,
            (Kind::Kernel(_), Some(why)) | (Kind::Tcp(_, why), _) => why,
        };
        extension::Redirection::Off(format!("off: {}", why.chars().take(160).collect::<String>()))
    }

    /// What the node can do, for its core; `harmless` are the bits of [`crate::datapath::habit::tried`] that
    /// redirection leaves as they are here.
    pub fn redirects(&self, harmless: u32) -> Redirects {
        Redirects {
            redirection: self.describe(),
            sees_all: matches!(self.kind, Kind::Kernel(_)),
            observes: self.observes,
            harmless,
        }
    }

    /// What the self-test leaves of a wish to redirect.
    fn permitted(&mut self, declare: &Declare) -> Result<(), Reason> {
        if let Some(waiting) = &mut self.untested {
            waiting.insert((declare.source, declare.at), declare.clone());
            return declare.redirect.and(Err(Reason::Untested));
        }
        match self.failure {
            Some(_) => declare.redirect.and(Err(Reason::Unavailable)),
            None => declare.redirect,
        }
    }

    /// Declares a session; a session that can't be declared stays on TCP.
    pub fn declare(&mut self, declare: &Declare, directory: &Directory) {
        let Some(source_cgroup) = directory.cgroup(declare.source) else { return };
        let declared =
            Pair { source: declare.source, destination: declare.destination, source_cgroup, at: declare.at };
        let redirect = self.permitted(declare);
        let datapath = match &mut self.kind {
            Kind::Kernel(datapath) => datapath,
            Kind::Tcp(sessions, _) => {
                sessions.declare(source_cgroup, declare);
                self.declared.insert(declared);
                return;
            }
        };
        let declaration = Declaration {
            source_cgroup,
            destination_cgroup: directory.cgroup(declare.destination).unwrap_or(0),
            destination: declare.at,
            source_instance: declare.source.0,
            destination_instance: declare.destination.0,
            redirect,
            about: declare.about,
            always: declare.always,
        };
        match datapath.declare(&declaration) {
            Ok(()) => {
                self.declared.insert(declared);
                if declare.observe {
                    self.observed.insert((declare.source, declare.at));
                }
                let declared = (declare.source, declare.at);
                match declare.always {
                    true => self.always.insert(declared),
                    false => self.always.remove(&declared),
                };
                self.set_observing();
                self.let_in(declare.source, declare.at, redirect);
            }
            Err(error) => told(&NOT_DECLARED, |times| warn!(times, "a session stays on TCP: {error}")),
        }
    }

    /// Sessions that live while their programs become known to be safe enter the map.
    fn let_in(&mut self, source: InstanceId, at: SocketAddr, redirect: Result<(), Reason>) {
        if redirect == Err(Reason::Learning) {
            self.learning.insert((source, at));
            return;
        }
        let Kind::Kernel(datapath) = &mut self.kind else { return };
        if !self.learning.remove(&(source, at)) || redirect.is_err() {
            return;
        }
        let sessions: Vec<SessionReport> = datapath
            .sessions()
            .unwrap_or_default()
            .into_iter()
            .filter(|session| session.source_instance == source.0 && session.destination == at)
            .collect();
        match datapath.enter(&sessions) {
            Ok(entered) => debug!(entered, of = sessions.len(), "sessions that live enter the map"),
            Err(error) => told(&NOT_ENTERED, |times| warn!(times, "sessions that live stay on TCP: {error}")),
        }
    }

    /// Takes over an earlier agent's declarations between instances that still run, and withdraws the
    /// others.
    pub fn adopt(&mut self, directory: &Directory) {
        let Kind::Kernel(datapath) = &mut self.kind else { return };
        let declarations = match datapath.declarations() {
            Ok(declarations) => declarations,
            Err(error) => {
                warn!("an earlier agent's declarations can't be read: {error}");
                return;
            }
        };
        for found in declarations {
            let (source, destination) =
                (InstanceId(found.source_instance), InstanceId(found.destination_instance));
            if directory.cgroup(source) == Some(found.source_cgroup) {
                self.declared.insert(Pair {
                    source,
                    destination,
                    source_cgroup: found.source_cgroup,
                    at: found.destination,
                });
            } else if let Err(error) = datapath.withdraw(found.source_cgroup, found.destination) {
                warn!("a declaration could not be withdrawn: {error}");
            }
        }
    }

    /// The sessions that the kernel knows.
    pub fn sessions(&self) -> Vec<SessionReport> {
        match &self.kind {
            Kind::Kernel(datapath) => datapath.sessions().unwrap_or_default(),
            Kind::Tcp(sessions, _) => sessions.sessions(),
        }
    }

    /// The sessions that exist, how many may, and how many found no place.
    pub fn table(&self) -> (Vec<SessionReport>, u32, u64) {
        (self.sessions(), datapath::DEFAULT_SESSIONS_LIMIT, self.refused)
    }

    /// Whether sessions are redirected.
    pub fn is_on(&self) -> bool {
        matches!(self.kind, Kind::Kernel(_)) && self.untested.is_none() && self.failure.is_none()
    }

    /// Takes back every declaration of an instance.
    pub fn withdraw(&mut self, id: InstanceId) {
        for Pair { source, source_cgroup: cgroup, at, .. } in self.declared.take(id) {
            self.observed.remove(&(source, at));
            self.always.remove(&(source, at));
            self.learning.remove(&(source, at));
            if let Some(waiting) = &mut self.untested {
                waiting.remove(&(source, at));
            }
            match &mut self.kind {
                Kind::Tcp(sessions, _) => sessions.withdraw(cgroup, at),
                Kind::Kernel(datapath) => {
                    if let Err(error) = datapath.withdraw(cgroup, at) {
                        told(&NOT_WITHDRAWN, |times| {
                            warn!(times, "a declaration could not be withdrawn: {error}");
                        });
                    }
                }
            }
        }
        self.set_observing();
    }

    /// Observes programs while there is one to learn about, or one that is redirected and could do something new.
    fn set_observing(&mut self) {
        let Kind::Kernel(datapath) = &mut self.kind else { return };
        let wanted = match (self.observed.is_empty(), self.always.is_empty()) {
            (false, _) => Watch::Everything,
            (true, false) => Watch::Options,
            (true, true) => Watch::Nothing,
        };
        if wanted != datapath.watch() {
            match datapath.observe(wanted) {
                Ok(()) => debug!(?wanted, "observing programs' habits"),
                Err(error) => told(&NOT_OBSERVED, |times| warn!(times, "{error}")),
            }
        }
    }

    /// What was seen so far of sessions that are observed.
    pub fn observed(&self) -> Vec<SessionReport> {
        match &self.kind {
            Kind::Kernel(datapath) if datapath.watch() == Watch::Everything => {
                datapath.sessions().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Follows sessions of earlier versions. To be called each [`TICK`].
    pub fn tick(&mut self) {
        self.set_observing();
        let Kind::Kernel(datapath) = &mut self.kind else { return };
        if let Err(error) = datapath.follow_earlier() {
            told(&NOT_FOLLOWED, |times| {
                warn!(times, "sessions of an earlier version can't be followed: {error}");
            });
        }
        let refused = datapath.refused_by_full_tables().unwrap_or(self.refused);
        if refused > self.refused {
            self.refused = refused;
            told(&TABLE_FULL, |times| {
                warn!(
                    times,
                    sessions = refused,
                    "a table of sessions was full: these are on TCP, and not counted"
                );
            });
        }
        if let Err(error) = datapath.leave_unpaired(PAIRED_WITHIN).and_then(|()| datapath.tell_middle_boxes())
        {
            told(&NOT_LOOKED_AT, |times| warn!(times, "sessions can't be looked at: {error}"));
        }
    }

    /// Whether sessions are on their way into the map or out of it.
    pub fn is_moving(&self) -> bool {
        matches!(&self.kind, Kind::Kernel(datapath) if datapath.is_leaving() || datapath.is_entering())
    }

    /// Lets sessions enter and leave the map that are on their way. To be called each [`LOOK_EVERY`] while there are any.
    pub fn move_sessions(&mut self) {
        if let Kind::Kernel(datapath) = &mut self.kind
            && let Err(error) = datapath.let_in().and_then(|()| datapath.let_out())
        {
            told(&NOT_LET_OUT, |times| warn!(times, "sessions can't enter or leave the map: {error}"));
        }
    }

    /// Switches redirection of further messages on or off.
    pub fn switch(&mut self, on: bool) {
        if let (true, Some(why)) = (on, &self.failure) {
            warn!("redirection can't be switched on: {why}");
            return;
        }
        match &mut self.kind {
            Kind::Kernel(datapath) => match datapath.set_redirection(on) {
                Ok(()) => info!(on, "redirection switched"),
                Err(error) => warn!("redirection can't be switched: {error}"),
            },
            Kind::Tcp(_, why) => warn!("redirection can't be switched: {why}"),
        }
    }

    /// Switches redirection of further messages, of the node or of some sessions, as a person wants it.
    pub fn pause(&mut self, switch: &Switch) {
        let Kind::Kernel(datapath) = &mut self.kind else {
            warn!("nothing is redirected on this node: there is nothing to switch");
            return;
        };
        let on = switch.on;
        let Switched::Sessions(named) = &switch.which else {
            match datapath.pause_node(!on) {
                Ok(()) => info!(on, "redirection was switched on request"),
                Err(error) => warn!("redirection can't be switched: {error}"),
            }
            return;
        };
        let sessions = datapath.sessions().unwrap_or_default();
        // One that has ended meanwhile needs nothing.
        for session in sessions.iter().filter(|session| named.iter().any(|named| session.is(named))) {
            let (source, destination) = (session.source, session.destination);
            match datapath.pause_session(session, !on) {
                Ok(()) => info!(on, %source, %destination, "a session was switched on request"),
                Err(error) => warn!("a session can't be switched: {error}"),
            }
        }
    }

    /// The next thing the kernel tells; never, when there is no kernel part.
    pub async fn next_event(&mut self) -> Event {
        match &mut self.kind {
            Kind::Tcp(sessions, _) => sessions.next_event().await,
            Kind::Kernel(datapath) => match datapath.next_event().await {
                Ok(SessionEvent::Established(report)) => Event::Established(report),
                Ok(SessionEvent::Closed(report, cause)) => Event::Closed(report, cause),
                Ok(SessionEvent::Habit(report)) => Event::Habit(report),
                Ok(SessionEvent::Leaving(report)) => Event::Leaving(report),
                Err(error) => {
                    warn!("the kernel's events can't be read any more: {error}");
                    std::future::pending().await
                }
            },
        }
    }

    /// The sessions that live, with their counters; nothing when they can't be read.
    pub fn counted(&mut self, told_before: &Reports) -> Option<Vec<SessionReport>> {
        match &mut self.kind {
            Kind::Tcp(sessions, _) => Some(sessions.sessions()),
            Kind::Kernel(datapath) => match datapath.sessions() {
                Ok(mut live) => {
                    add_plain_tcp(&mut live);
                    add_unread(datapath, &mut live, told_before);
                    Some(live)
                }
                Err(error) => {
                    told(&NOT_COUNTED, |times| {
                        warn!(times, "the sessions' counters can't be read: {error}");
                    });
                    None
                }
            },
        }
    }
}

/// Looks how much is unread in sessions where that may have changed.
fn add_unread(datapath: &mut Datapath, sessions: &mut [SessionReport], reports: &Reports) {
    for session in sessions.iter_mut().filter(|session| !session.outside && !session.uncounted) {
        if !reports.is_quiet(session)
            && let Ok([at_source, at_destination]) = datapath.unread(session)
        {
            session.in_flight = [at_destination, at_source];
        }
    }
}

/// Sessions that were never in the map are counted by TCP itself.
fn add_plain_tcp(sessions: &mut [SessionReport]) {
    let is_plain = |session: &SessionReport| session.outside;
    if !sessions.iter().any(is_plain) {
        return;
    }
    let carried = match socket_table::carried() {
        Ok(carried) => carried,
        Err(error) => {
            told(&NO_SOCKET_TABLE, |times| warn!(times, "the socket table can't be read: {error}"));
            return;
        }
    };
    let by_ends: HashMap<_, _> = carried.iter().map(|found| ((found.local, found.remote), found)).collect();
    for session in sessions.iter_mut().filter(|session| is_plain(session)) {
        if let Some(found) = by_ends.get(&(session.source, session.destination)) {
            session.sent.tcp_bytes = found.sent;
            session.received.tcp_bytes = found.received;
        }
    }
}
