//! What an agent with another layout of the maps left behind: its programs keep its sessions until these
//! end, and take no new ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, SockHash};
use aya::programs::RawTracePoint;
use patchbay_ebpf_common::operation;
use tracing::{info, warn};

use super::leaving::{Generation, Leaving, run_control};
use super::load::describe;
use super::{Error, SessionReport, Unavailable, pins, raw, report};

/// The programs and maps of one earlier layout.
pub(super) struct Earlier {
    folder: PathBuf,
    declared: MapData,
    records: MapData,
    control: RawTracePoint,
    sockets: SockHash<MapData, u64>,
    /// Its sessions at the last look, without counters: the records' later parts are not known here.
    sessions: BTreeMap<u64, SessionReport>,
    leaving: Leaving,
}

impl Earlier {
    /// Everything of other layouts that is pinned; what can't be opened is left alone, and said.
    pub fn find(pins: &Path, layout: u32) -> Vec<Self> {
        let folders = pins::other_layouts(pins, layout);
        let opened = folders.into_iter().filter_map(|folder| match Self::open(&folder) {
            Ok(earlier) => Some(earlier),
            Err(problem) => {
                warn!("sessions of an earlier version can't be followed: {problem}");
                None
            }
        });
        opened.collect()
    }

    fn open(folder: &Path) -> Result<Self, Unavailable> {
        let fail = |error: &dyn std::error::Error| {
            Unavailable(format!("the pins at {}: {}", folder.display(), describe(error)))
        };
        let map = |name: &str| MapData::from_pin(folder.join(name)).map_err(|error| fail(&error));
        let sockets = SockHash::try_from(Map::SockHash(map("SOCKETS")?)).map_err(|error| fail(&error))?;
        let control = RawTracePoint::from_pin(folder.join(pins::PROGRAM)).map_err(|error| fail(&error))?;
        let mut earlier = Self {
            folder: folder.to_owned(),
            declared: map("DECLARED")?,
            records: map("KNOWN_SESSIONS")?,
            control,
            sockets,
            sessions: BTreeMap::new(),
            leaving: Leaving::default(),
        };
        earlier.sessions = earlier.read().map_err(|error| fail(&error))?;
        for session in earlier.sessions.values().filter(|s| s.leaving.is_some() && !s.outside) {
            earlier.leaving.begin(session);
        }
        Ok(earlier)
    }

    /// Its programs take no further sessions: nothing is declared to them any more.
    pub fn retire(&self) -> std::io::Result<()> {
        let declared = self.declared.fd();
        for key in raw::keys(declared.as_fd(), raw::sizes(&self.declared)?.0)? {
            raw::delete(declared.as_fd(), &key)?;
        }
        info!(sessions = self.sessions.len(), at = %self.folder.display(), "an earlier version keeps its sessions");
        Ok(())
    }

    /// The sessions that it still has.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionReport> {
        self.sessions.values()
    }

    /// Whether a session is one of its.
    pub fn has(&self, key: u64) -> bool {
        self.sessions.contains_key(&key)
    }

    /// Looks again; returns the sessions that have ended since.
    pub fn look(&mut self) -> std::io::Result<Vec<SessionReport>> {
        let now = self.read()?;
        let before = std::mem::replace(&mut self.sessions, now);
        Ok(before.into_values().filter(|session| !self.sessions.contains_key(&session.key)).collect())
    }

    /// Removes it once it has no session. Returns whether it is gone.
    pub fn remove_if_empty(&self) -> bool {
        if !self.sessions.is_empty() {
            return false;
        }
        match pins::remove_layout(&self.folder) {
            Ok(()) => info!(at = %self.folder.display(), "an earlier version's last session has ended"),
            Err(error) => warn!(at = %self.folder.display(), "an earlier version's pins stay: {error}"),
        }
        true
    }

    /// Takes a session back to TCP for good.
    pub fn leave(&mut self, session: &SessionReport, reason: u64) -> Result<(), Error> {
        self.control(operation::LEAVE, session.key, reason)?;
        self.leaving.begin(session);
        Ok(())
    }

    /// Lets sessions out that have nothing unread.
    pub fn let_out(&mut self) -> Result<(), Error> {
        self.leaving.let_out(&mut Generation { control: &self.control, sockets: &mut self.sockets })
    }

    /// Whether sessions are on their way out.
    pub fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The answer of the program that the agent calls.
    pub fn control(&self, operation: u64, key: u64, value: u64) -> Result<u32, Error> {
        run_control(&self.control, operation, key, value)
    }

    fn read(&self) -> std::io::Result<BTreeMap<u64, SessionReport>> {
        let records = self.records.fd();
        let (key_size, value_size) = raw::sizes(&self.records)?;
        let mut sessions = BTreeMap::new();
        for key in raw::keys(records.as_fd(), key_size)? {
            // One that ends meanwhile is left out.
            if let Some(session) =
                raw::look_up(records.as_fd(), &key, value_size)?.as_deref().and_then(raw::lasting)
            {
                // Every layout has 8 bytes as a session's key.
                let key = key.as_slice().try_into().map(u64::from_ne_bytes).unwrap_or_default();
                let report = SessionReport { uncounted: true, key, ..report::session(&session) };
                sessions.insert(key, report);
            }
        }
        Ok(sessions)
    }
}

/// Whether anything is pinned below a folder, of whatever layout.
pub fn is_pinned(pins: &Path) -> bool {
    fs::read_dir(pins)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("SOCKETS").exists()))
}
