//! Who gets memory: asks are matched by their connection, and counted. No I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use patchbay_agent_core::session_report::SessionReport;
use patchbay_shared_memory::{Observer, Side};
use ssmmp::{InstanceId, Name};

/// Asks of one instance that may wait for their other end.
pub const MAX_WAITING_OF_ONE: usize = 1_024;
/// Sessions with memory, and asks that wait, on one node: each is two mappings, of which a process may have 65,530.
pub const MAX_SESSIONS: usize = 16_384;

/// Bounds of memory, in bytes; a session counts as the size of its rings.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of the node.
    pub node: usize,
    /// Of one application.
    pub app: usize,
}

/// A connection: where it comes from, where it goes to.
pub type Ends = (SocketAddr, SocketAddr);

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The connection to its process.
    pub link: u64,
    /// Its own number of the session.
    pub number: u64,
    /// The instance that the process belongs to.
    pub instance: InstanceId,
}

/// What becomes of an ask.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The other end has not asked yet; see [`Broker::expire`].
    Wait,
    /// These have no memory, and why.
    Refuse(Vec<Asked>, String),
    /// Memory is to be made for a source and a destination: [`Broker::made`] or [`Broker::failed`] follows.
    Pair([Asked; 2]),
}

/// A session with memory.
#[derive(Debug)]
struct Shared {
    /// By side; `None` once that end has said that it is over, or its process has gone, or is not known.
    ends: [Option<Asked>; 2],
    app: Option<Name>,
    bytes: usize,
    observer: Option<Observer>,
    /// Bytes counted at the last look, and when they were others, monotonic nanoseconds.
    counted: u64,
    changed: u64,
}

#[derive(Debug)]
struct Waits {
    side: Side,
    asked: Asked,
    /// Tells it from an earlier one of the same connection.
    turn: u64,
}

/// All asks and sessions of a node.
#[derive(Debug)]
pub struct Broker {
    bounds: Bounds,
    ring_bytes: usize,
    /// Why nobody gets memory now.
    paused: Option<&'static str>,
    apps: HashMap<InstanceId, Option<Name>>,
    /// By source and where its destination listens: the destination, and why they get none.
    declared: HashMap<(InstanceId, SocketAddr), (InstanceId, Option<&'static str>)>,
    waiting: HashMap<Ends, Waits>,
    waiting_of: BTreeMap<InstanceId, usize>,
    sessions: HashMap<Ends, Shared>,
    /// The connections of all asks and sessions, by link and number.
    by_end: HashMap<(u64, u64), Ends>,
    used: usize,
    used_of: HashMap<Option<Name>, usize>,
    turns: u64,
}

fn place(side: Side) -> usize {
    usize::from(side == Side::Destination)
}

impl Broker {
    /// One with these bounds; each session takes two rings of so many bytes.
    pub fn new(bounds: Bounds, ring_bytes: usize) -> Self {
        Self {
            bounds,
            ring_bytes,
            paused: None,
            apps: HashMap::new(),
            declared: HashMap::new(),
            waiting: HashMap::new(),
            waiting_of: BTreeMap::new(),
            sessions: HashMap::new(),
            by_end: HashMap::new(),
            used: 0,
            used_of: HashMap::new(),
            turns: 0,
        }
    }

    /// The size of a session's rings, both together.
    fn session_bytes(&self) -> usize {
        2 * self.ring_bytes
    }

    /// An instance and its application.
    pub fn add(&mut self, id: InstanceId, app: Option<Name>) {
        self.apps.insert(id, app);
    }

    /// An instance is gone.
    pub fn remove(&mut self, id: InstanceId) {
        self.apps.remove(&id);
        self.declared.retain(|(source, _), (destination, _)| *source != id && *destination != id);
    }

    /// Sessions of a source with a destination may come to be; `refused` says why they get no memory. Returns who is to
    /// move to TCP.
    pub fn declare(
        &mut self,
        source: InstanceId,
        at: SocketAddr,
        destination: InstanceId,
        refused: Option<&'static str>,
    ) -> Vec<Asked> {
        self.declared.insert((source, at), (destination, refused));
        if refused.is_none() {
            return Vec::new();
        }
        let is_meant = |ends: &Ends, asked: &Asked| asked.instance == source && ends.1 == at;
        self.sessions
            .iter()
            .filter(|(ends, shared)| shared.ends[0].is_some_and(|asked| is_meant(ends, &asked)))
            .flat_map(|(_, shared)| shared.ends.into_iter().flatten())
            .collect()
    }

    /// Nobody gets memory from now on, or everybody again. Returns who is to move to TCP.
    pub fn pause(&mut self, why: Option<&'static str>) -> Vec<Asked> {
        self.paused = why;
        let all = self.sessions.values().flat_map(|shared| shared.ends.into_iter().flatten());
        if why.is_some() { all.collect() } else { Vec::new() }
    }

    /// The ends of an instance's session from this port.
    pub fn ends_of(&self, source: InstanceId, port: u16) -> Vec<Asked> {
        self.sessions
            .iter()
            .filter(|((from, _), _)| from.port() == port)
            .filter(|(_, shared)| shared.ends[0].is_some_and(|asked| asked.instance == source))
            .flat_map(|(_, shared)| shared.ends.into_iter().flatten())
            .collect()
    }

    /// An end of a connection asks, and has been seen to be one.
    pub fn ask(&mut self, asked: Asked, side: Side, ends: Ends) -> Decision {
        let refuse = |why: &str| Decision::Refuse(vec![asked], why.to_owned());
        if let Some(why) = self.paused {
            return refuse(why);
        }
        // The kernel has given its port again.
        self.release(&ends);
        let Some(first) = self.waiting.get(&ends) else { return self.wait(asked, side, ends) };
        if first.side == side {
            return refuse("this end has asked already");
        }
        let first = first.asked;
        self.take_waiting(&ends);
        let pair = if side == Side::Source { [asked, first] } else { [first, asked] };
        let [source, destination] = pair;
        let both = |why: String| Decision::Refuse(vec![asked, first], why);
        match self.declared.get(&(source.instance, ends.1)) {
            Some((declared, None)) if *declared == destination.instance => {}
            Some((_, Some(why))) => return both((*why).to_owned()),
            _ => return both("the session was not declared by the Manager".into()),
        }
        let (bytes, app) = (self.session_bytes(), self.apps.get(&source.instance).cloned().flatten());
        let used_of_app = self.used_of.get(&app).copied().unwrap_or(0);
        if self.used + bytes > self.bounds.node {
            return both(format!("the node's {} bytes of memory are used up", self.bounds.node));
        }
        if used_of_app + bytes > self.bounds.app {
            return both(format!("the application's {} bytes of memory are used up", self.bounds.app));
        }
        self.used += bytes;
        *self.used_of.entry(app.clone()).or_default() += bytes;
        self.sessions.insert(
            ends,
            Shared { ends: pair.map(Some), app, bytes, observer: None, counted: 0, changed: 0 },
        );
        for end in pair {
            self.by_end.insert((end.link, end.number), ends);
        }
        Decision::Pair(pair)
    }

    fn wait(&mut self, asked: Asked, side: Side, ends: Ends) -> Decision {
        let refuse = |why: &str| Decision::Refuse(vec![asked], why.to_owned());
        if self.waiting.len() + self.sessions.len() >= MAX_SESSIONS {
            return refuse("the node has as many sessions with memory as it may");
        }
        let of_one = self.waiting_of.entry(asked.instance).or_default();
        if *of_one >= MAX_WAITING_OF_ONE {
            return refuse("too many asks of this instance wait");
        }
        *of_one += 1;
        self.turns += 1;
        self.waiting.insert(ends, Waits { side, asked, turn: self.turns });
        self.by_end.insert((asked.link, asked.number), ends);
        Decision::Wait
    }

    /// The turn of the ask that waits for its other end.
    pub fn turn(&self, ends: &Ends) -> Option<u64> {
        self.waiting.get(ends).map(|waits| waits.turn)
    }

    /// The time for the other end to ask is over: who has waited in vain.
    pub fn expire(&mut self, ends: &Ends, turn: u64) -> Option<Asked> {
        (self.turn(ends) == Some(turn)).then(|| self.take_waiting(ends)).flatten()
    }

    fn take_waiting(&mut self, ends: &Ends) -> Option<Asked> {
        let asked = self.waiting.remove(ends)?.asked;
        self.by_end.remove(&(asked.link, asked.number));
        if let Some(of_one) = self.waiting_of.get_mut(&asked.instance) {
            *of_one -= 1;
            if *of_one == 0 {
                self.waiting_of.remove(&asked.instance);
            }
        }
        Some(asked)
    }

    /// A session's memory was made and handed out.
    pub fn made(&mut self, ends: &Ends, observer: Observer) {
        if let Some(shared) = self.sessions.get_mut(ends) {
            shared.observer = Some(observer);
        }
    }

    /// A session's memory could not be made, or not be handed out.
    pub fn failed(&mut self, ends: &Ends) {
        self.release(ends);
    }

    /// An end has memory from an earlier agent; `observe` looks at it.
    pub fn have(
        &mut self,
        asked: Asked,
        side: Side,
        ends: Ends,
        observe: impl FnOnce() -> Option<(Observer, usize)>,
    ) {
        if let Some(shared) = self.sessions.get_mut(&ends) {
            if shared.ends[place(side)].is_none() {
                shared.ends[place(side)] = Some(asked);
                self.by_end.insert((asked.link, asked.number), ends);
            }
            return;
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return;
        }
        let Some((observer, bytes)) = observe() else { return };
        let app = self.apps.get(&asked.instance).cloned().flatten();
        self.used += bytes;
        *self.used_of.entry(app.clone()).or_default() += bytes;
        let mut shared =
            Shared { ends: [None, None], app, bytes, observer: Some(observer), counted: 0, changed: 0 };
        shared.ends[place(side)] = Some(asked);
        self.sessions.insert(ends, shared);
        self.by_end.insert((asked.link, asked.number), ends);
    }

    /// An end says that its session is over.
    pub fn gone(&mut self, link: u64, number: u64) {
        let Some(ends) = self.by_end.remove(&(link, number)) else { return };
        let is_it = |asked: &Asked| (asked.link, asked.number) == (link, number);
        if self.waiting.get(&ends).is_some_and(|waits| is_it(&waits.asked)) {
            self.take_waiting(&ends);
        }
        let Some(shared) = self.sessions.get_mut(&ends) else { return };
        for end in &mut shared.ends {
            *end = end.take_if(|asked| !is_it(asked));
        }
        if shared.ends == [None, None] {
            self.release(&ends);
        }
    }

    /// A process has ended, or closed its connection.
    pub fn link_gone(&mut self, link: u64) {
        let numbers: Vec<u64> =
            self.by_end.keys().filter(|(of, _)| *of == link).map(|(_, number)| *number).collect();
        for number in numbers {
            self.gone(link, number);
        }
    }

    /// The session of this connection has ended.
    pub fn release(&mut self, ends: &Ends) -> Option<Observer> {
        let shared = self.sessions.remove(ends)?;
        for asked in shared.ends.into_iter().flatten() {
            self.by_end.remove(&(asked.link, asked.number));
        }
        self.used -= shared.bytes;
        if let Some(used) = self.used_of.get_mut(&shared.app) {
            *used -= shared.bytes;
            if *used == 0 {
                self.used_of.remove(&shared.app);
            }
        }
        shared.observer
    }

    /// Adds what went through memory to a session; `now` in monotonic nanoseconds.
    pub fn count(&mut self, session: &mut SessionReport, now: u64) {
        let Some(shared) = self.sessions.get_mut(&(session.source, session.destination)) else { return };
        let Some(observer) = &mut shared.observer else { return };
        let ways = [(Side::Source, &mut session.sent), (Side::Destination, &mut session.received)];
        let mut counted = 0;
        for (writer, traffic) in ways {
            let count = observer.count(writer);
            (traffic.memory_bytes, traffic.memory_messages) = (count.written, count.messages);
            counted += count.written;
        }
        session.memory = observer.is_in_use();
        if counted != shared.counted {
            (shared.counted, shared.changed) = (counted, now);
        }
        session.last_activity = session.last_activity.max(shared.changed);
    }

    /// Sessions with memory, and the bytes that they count as.
    pub fn used(&self) -> (usize, usize) {
        (self.sessions.len(), self.used)
    }
}
