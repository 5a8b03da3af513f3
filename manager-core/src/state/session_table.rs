//! All sessions, with the indexes by which messages name them. They change only through here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use ssmmp::{InstanceId, MessageId, Port, Status};

use super::by_hash::ByHash;
use super::interned::Interned;
use super::session::{Session, SessionKey, SessionState};
use crate::inventory::ENDED_KEPT;
use crate::time::Millis;

/// How long an answered session may stay without its acknowledgement, milliseconds.
const ACKNOWLEDGE_WITHIN: Millis = 10_000;

/// The one owner of sessions.
#[derive(Debug, Default)]
pub struct SessionTable {
    /// Each shared with its row while that is written.
    all: BTreeMap<u64, Arc<Session>>,
    /// Acknowledged ones by what tells them apart; a closed one stays for late counters until its
    /// ports are used again.
    by_key: ByHash,
    /// Open ones by source and m.
    by_source: ByHash,
    pending: HashMap<(InstanceId, MessageId), u64>,
    /// How many of them a source has; one without any is not in it.
    pending_of: HashMap<InstanceId, usize>,
    /// Answered ones in their order; those that were acknowledged meanwhile are passed over.
    unacknowledged: VecDeque<(Millis, u64)>,
    /// In the order in which they ended.
    ended: VecDeque<u64>,
    open: usize,
    pub(crate) interned: Interned,
}

impl SessionTable {
    /// A session, open or remembered.
    pub fn get(&self, id: u64) -> Option<&Session> {
        self.all.get(&id).map(Arc::as_ref)
    }

    /// The row of one: the session as it is now.
    pub(crate) fn row(&self, id: u64) -> Option<Arc<Session>> {
        self.all.get(&id).cloned()
    }

    /// All sessions, also remembered ones, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values().map(Arc::as_ref)
    }

    /// Those with larger ids than this one.
    pub fn after(&self, id: u64) -> impl Iterator<Item = &Session> {
        self.all.range((Bound::Excluded(id), Bound::Unbounded)).map(|(_, session)| session.as_ref())
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The session that answered a request that is not acknowledged yet.
    pub fn pending(&self, source: InstanceId, request: MessageId) -> Option<u64> {
        self.pending.get(&(source, request)).copied()
    }

    /// How many answered requests of a source are not acknowledged yet.
    pub fn pending_of(&self, source: InstanceId) -> usize {
        self.pending_of.get(&source).copied().unwrap_or(0)
    }

    fn take_pending(&mut self, source: InstanceId, request: MessageId) {
        if self.pending.remove(&(source, request)).is_none() {
            return;
        }
        if let Some(count) = self.pending_of.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.pending_of.remove(&source);
            }
        }
    }

    /// The session with a key.
    pub fn by_key(&self, key: SessionKey) -> Option<u64> {
        self.by_key.find(key).find(|id| self.get(*id).and_then(Session::key) == Some(key))
    }

    /// The only open session of a source with its port m; `None` when there are several.
    pub fn by_source(&self, source: InstanceId, port: Port) -> Option<u64> {
        let is_it = |id: &u64| {
            self.get(*id).is_some_and(|session| (session.source, session.source_port) == (source, port))
        };
        let mut same = self.by_source.find((source, port)).filter(is_it);
        let only = same.next();
        only.filter(|_| same.next().is_none())
    }

    /// The latest one of a request that was not acknowledged in time, as long as it is remembered.
    pub fn given_up(&self, source: InstanceId, request: MessageId) -> Option<&Session> {
        let is_it = |session: &&Session| {
            (session.source, session.message_id) == (source, request)
                && session.status == Some(Status::NO_ANSWER)
                && !session.source_port.is_known()
        };
        self.ended.iter().rev().filter_map(|id| self.get(*id)).find(is_it)
    }

    /// How many are answered or acknowledged and not over.
    pub fn living(&self) -> usize {
        self.open + self.pending.len()
    }

    /// A new session, answered or acknowledged.
    pub fn add(&mut self, session: Session) {
        let id = session.id;
        let session = self.shared(session);
        let opened = session.state == SessionState::Open;
        self.all.insert(id, session);
        if opened {
            self.index(id);
        }
    }

    /// Those read back from disk, in the order of their ids.
    pub fn restore(&mut self, sessions: impl Iterator<Item = Session>) {
        let mut all = Vec::with_capacity(sessions.size_hint().0);
        all.extend(sessions.map(|session| (session.id, self.shared(session))));
        // Each index is built at once: inserting one by one costs several times as much.
        self.all = all.into_iter().collect();
        let open = self.all.values().filter(|session| session.state == SessionState::Open);
        self.open = open.clone().count();
        self.by_source.fill(open.clone().map(|session| ((session.source, session.source_port), session.id)));
        self.by_key.fill(open.filter_map(|session| Some((session.key()?, session.id))));
    }

    /// Its texts become those of all others; one that is not acknowledged begins to wait.
    fn shared(&mut self, mut session: Session) -> Arc<Session> {
        session.edge = self.interned.edge(session.edge);
        session.path = self.interned.text(session.path);
        session.reason = session.reason.map(|reason| self.interned.text(reason));
        if session.state == SessionState::Pending {
            let asked = (session.source, session.message_id);
            if self.pending.insert(asked, session.id).is_none() {
                *self.pending_of.entry(session.source).or_default() += 1;
            }
            self.unacknowledged.push_back((session.opened + ACKNOWLEDGE_WITHIN, session.id));
        }
        Arc::new(session)
    }

    /// A session is acknowledged.
    pub fn acknowledge(&mut self, id: u64, now: Millis, port: Port, new_port: Port) -> Option<&Session> {
        let session = self.all.get_mut(&id).filter(|session| session.state == SessionState::Pending)?;
        let session = Arc::make_mut(session);
        let asked = (session.source, session.message_id);
        session.state = SessionState::Open;
        session.opened = now;
        session.source_port = port;
        session.new_port = if new_port.is_known() { new_port } else { session.destination_port };
        self.take_pending(asked.0, asked.1);
        self.index(id);
        self.get(id)
    }

    /// A session is over. `None` when it was so before; else what it was.
    pub fn close(&mut self, id: u64, now: Millis, status: Status) -> Option<SessionState> {
        let session = Arc::make_mut(self.all.get_mut(&id)?);
        let before = session.state;
        session.state = SessionState::Closed;
        session.closed = session.closed.or(Some(now));
        session.status = session.status.or(Some(status));
        let (source, message_id, port) = (session.source, session.message_id, session.source_port);
        match before {
            SessionState::Pending => self.take_pending(source, message_id),
            SessionState::Open => {
                self.open -= 1;
                self.by_source.remove((source, port), id);
            }
            SessionState::Closed => return None,
        }
        self.ended.push_back(id);
        Some(before)
    }

    /// Those that are over beyond [`ENDED_KEPT`] are on disk only, once they are there.
    pub fn forget_ended(&mut self) {
        while self.ended.len() > ENDED_KEPT {
            if let Some(oldest) = self.ended.pop_front() {
                self.forget(oldest);
            }
        }
    }

    /// What of a session no index is made of changes through this: its path and its counters.
    pub(crate) fn counters(&mut self, id: u64, change: impl FnOnce(&mut Session, &mut Interned)) {
        if let Some(session) = self.all.get_mut(&id).map(Arc::make_mut) {
            let before = session.state;
            change(session, &mut self.interned);
            debug_assert_eq!(before, session.state, "its state changes when it is acknowledged or closed");
        }
    }

    /// When to look again for sessions that are overdue for their acknowledgement.
    pub fn next_overdue(&self) -> Option<Millis> {
        self.unacknowledged.front().map(|(at, _)| *at)
    }

    /// Takes a session whose acknowledgement did not come in time.
    pub fn overdue(&mut self, now: Millis) -> Option<u64> {
        while let Some((at, id)) = self.unacknowledged.front().copied() {
            let pending = self.get(id).is_some_and(|session| session.state == SessionState::Pending);
            if pending && at > now {
                return None;
            }
            self.unacknowledged.pop_front();
            if pending {
                return Some(id);
            }
        }
        None
    }

    fn index(&mut self, id: u64) {
        let Some(session) = self.all.get(&id) else { return };
        let (source, port, key) = (session.source, session.source_port, session.key());
        self.open += 1;
        self.by_source.insert((source, port), id);
        let Some(key) = key else { return };
        if let Some(earlier) = self.by_key(key) {
            self.by_key.remove(key, earlier);
        }
        self.by_key.insert(key, id);
    }

    fn forget(&mut self, id: u64) {
        if let Some(key) = self.all.remove(&id).and_then(|session| session.key()) {
            self.by_key.remove(key, id);
        }
    }
}

#[cfg(test)]
impl SessionTable {
    /// Fails when an index disagrees with the sessions.
    pub(crate) fn assert_recount(&self) {
        let of = |state| self.iter().filter(move |session| session.state == state).collect::<Vec<_>>();
        let (open, pending) = (of(SessionState::Open), of(SessionState::Pending));
        assert_eq!((self.open, self.by_source.len()), (open.len(), open.len()));
        assert_eq!(self.pending.len(), pending.len());
        assert_eq!(self.pending_of.values().sum::<usize>(), pending.len());
        assert!(self.pending_of.values().all(|count| *count > 0));
        for session in pending {
            assert_eq!(self.pending(session.source, session.message_id), Some(session.id));
            assert!(self.unacknowledged.iter().any(|(_, id)| *id == session.id));
        }
        for session in &open {
            let end = |other: &Session| (other.source, other.source_port);
            let alone = open.iter().filter(|other| end(other) == end(session)).count() == 1;
            assert_eq!(self.by_source(session.source, session.source_port), alone.then_some(session.id));
        }
        let keys: std::collections::HashSet<_> = self.iter().filter_map(Session::key).collect();
        assert!(self.by_key.len() <= keys.len());
        for id in self.by_key.ids() {
            let key = self.get(id).and_then(Session::key).expect("an indexed session exists");
            assert_eq!(self.by_key(key), Some(id));
        }
        assert!(open.iter().all(|session| session.key().is_none_or(|key| self.by_key(key).is_some())));
        assert_eq!(self.ended.len(), of(SessionState::Closed).len());
    }
}
