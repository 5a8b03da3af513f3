//! Questions about what was, answered from the disk on connections of their own, so that neither the core
//! nor a message waits for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use patchbay_api::{Event, Instance, InstanceChange, InstanceHistory, NodeHistory, Session, SessionHistory};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::StoreError;
use super::check::open_to_read;

/// How long a question may read.
const READS_WITHIN: Duration = Duration::from_secs(5);
/// SQLite's steps between two looks at the clock.
const STEPS: i32 = 10_000;
/// Sessions, instances and events told of at most, of each, the newest ones.
const TOLD: usize = 200;
/// A session's beginning is written anew when it is acknowledged: by so much the order of their numbers and
/// that of their times may differ, milliseconds.
const DISORDER_MS: u64 = 60_000;

const SESSION: &str = "
SELECT s.id, s.app, s.source_service, s.source_instance, s.plug, a.node, s.source_address, s.source_port,
    s.destination_service, s.destination_instance, s.socket, b.node, s.destination_address, s.destination_port,
    s.closed_ms, s.path, s.reason, s.sent_kernel_bytes, s.sent_tcp_bytes, s.sent_kernel_messages,
    s.sent_tcp_messages, s.received_kernel_bytes, s.received_tcp_bytes, s.received_kernel_messages,
    s.received_tcp_messages, s.opened_ms, s.status, s.sent_memory_bytes, s.sent_memory_messages,
    s.received_memory_bytes, s.received_memory_messages
FROM sessions s LEFT JOIN instances a ON a.id = s.source_instance
    LEFT JOIN instances b ON b.id = s.destination_instance";

const INSTANCE: &str = "
SELECT id, app, service, node, state, sockets, created_ms, ended_ms, reason, output, program FROM instances";

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only those from this moment on, milliseconds since 1970.
    pub since_ms: u64,
    /// Only of these kinds; all when there are none.
    pub kinds: Vec<String>,
    /// Only those whose subject contains this.
    pub subject: String,
}

impl EventFilter {
    /// Whether an event is wanted.
    pub fn admits(&self, event: &Event) -> bool {
        event.at_ms >= self.since_ms
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && event.subject.contains(&self.subject)
    }
}

/// Some events in their order.
#[derive(Debug)]
pub struct EventPage {
    /// Those that are wanted.
    pub events: Vec<Event>,
    /// All up to this number were looked at.
    pub last: u64,
    /// There may be more.
    pub is_more: bool,
}

/// A database's history.
#[derive(Debug, Clone)]
pub struct History {
    database: PathBuf,
}

impl History {
    /// Of the database in a file.
    pub fn new(database: &Path) -> Self {
        Self { database: database.to_owned() }
    }

    /// Wanted events behind a number, oldest first.
    ///
    /// # Errors
    /// Reading failed or took too long.
    pub fn events_after(
        &self,
        after: u64,
        limit: u32,
        filter: &EventFilter,
    ) -> Result<EventPage, StoreError> {
        let connection = self.open()?;
        // One moment for both questions.
        let moment = connection.unchecked_transaction()?;
        let newest = moment
            .query_row("SELECT max(sequence) FROM events", [], |row| row.get::<_, Option<u64>>(0))?
            .unwrap_or(after);
        let kinds: String = filter.kinds.iter().map(|kind| format!(",{kind},")).collect();
        let mut statement = moment.prepare(
            "SELECT sequence, at_ms, kind, subject, text FROM events
             WHERE sequence > ?1 AND at_ms >= ?2 AND (?3 = '' OR instr(?3, ',' || kind || ',') > 0)
                 AND instr(subject, ?4) > 0
             ORDER BY sequence LIMIT ?5",
        )?;
        let rows = statement
            .query_map(params![after, filter.since_ms, kinds, filter.subject, limit], super::event)?;
        let events: Vec<Event> = rows.collect::<Result<_, _>>()?;
        let is_more = events.len() == limit as usize;
        let last = if is_more { events.last().map_or(after, |event| event.sequence) } else { newest };
        Ok(EventPage { events, last, is_more })
    }

    /// A session, open or ended.
    ///
    /// # Errors
    /// There is none of this number, or reading failed or took too long.
    pub fn session(&self, id: u64) -> Result<SessionHistory, StoreError> {
        let connection = self.open()?;
        let session = connection
            .query_row(&format!("{SESSION} WHERE s.id = ?1"), [id], session)
            .optional()?
            .ok_or_else(|| StoreError::Unknown(format!("there is no session {id} in the kept history")))?;
        let events = events(&connection, &format!("session {id}"), session.opened_ms, session.closed_ms)?;
        Ok(SessionHistory { session, events })
    }

    /// An instance, its states and its sessions.
    ///
    /// # Errors
    /// There is none of this id, or reading failed or took too long.
    pub fn instance(&self, id: u64) -> Result<InstanceHistory, StoreError> {
        let connection = self.open()?;
        let mut instance = connection
            .query_row(&format!("{INSTANCE} WHERE id = ?1"), [id], instance)
            .optional()?
            .ok_or_else(|| StoreError::Unknown(format!("there is no instance {id} in the kept history")))?;
        let changes = connection
            .prepare("SELECT at_ms, state, reason FROM instance_changes WHERE instance = ?1 ORDER BY at_ms, change")?
            .query_map([id], |row| {
                Ok(InstanceChange { at_ms: row.get(0)?, state: row.get(1)?, reason: row.get(2)? })
            })?
            .collect::<Result<_, _>>()?;
        let (first, last) = numbers(
            &connection,
            ("sessions", "id", "opened_ms"),
            instance.created_ms,
            instance.ended_ms.unwrap_or(u64::MAX),
        )?;
        let mut sessions: Vec<Session> = connection
            .prepare(&format!(
                "{SESSION} WHERE s.id BETWEEN ?1 AND ?2 AND ?3 IN (s.source_instance, s.destination_instance)
                 ORDER BY s.id DESC LIMIT ?4"
            ))?
            .query_map(params![first, last, id, TOLD + 1], session)?
            .collect::<Result<_, _>>()?;
        let more_sessions = sessions.len() > TOLD;
        sessions.truncate(TOLD);
        sessions.reverse();
        instance.sessions = sessions.iter().filter(|session| session.closed_ms.is_none()).count();
        let subject = format!("instance {id} ({})", instance.service);
        let events = events(&connection, &subject, instance.created_ms, instance.ended_ms)?;
        Ok(InstanceHistory { instance, changes, sessions, more_sessions, events })
    }

    /// A node: when it came and went, and the newest instances it had.
    ///
    /// # Errors
    /// There is none of this name, or reading failed or took too long.
    pub fn node(&self, name: &str) -> Result<NodeHistory, StoreError> {
        let connection = self.open()?;
        let mut instances: Vec<Instance> = connection
            .prepare(&format!("{INSTANCE} WHERE node = ?1 ORDER BY created_ms DESC, id DESC LIMIT ?2"))?
            .query_map(params![name, TOLD + 1], instance)?
            .collect::<Result<_, _>>()?;
        let more_instances = instances.len() > TOLD;
        instances.truncate(TOLD);
        instances.reverse();
        let events = events(&connection, &format!("node {name}"), 0, None)?;
        if instances.is_empty() && events.is_empty() {
            return Err(StoreError::Unknown(format!("there is no node `{name}` in the kept history")));
        }
        Ok(NodeHistory { name: name.to_owned(), events, instances, more_instances })
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let connection = open_to_read(&self.database)?;
        let begun = Instant::now();
        connection.progress_handler(STEPS, Some(move || begun.elapsed() > READS_WITHIN));
        Ok(connection)
    }
}

/// The newest events of a subject in a span of time, oldest first.
fn events(
    connection: &Connection,
    subject: &str,
    from_ms: u64,
    to_ms: Option<u64>,
) -> Result<Vec<Event>, StoreError> {
    let (first, last) =
        numbers(connection, ("events", "sequence", "at_ms"), from_ms, to_ms.unwrap_or(u64::MAX))?;
    let mut events: Vec<Event> = connection
        .prepare(
            "SELECT sequence, at_ms, kind, subject, text FROM events
             WHERE sequence BETWEEN ?1 AND ?2 AND subject = ?3 ORDER BY sequence DESC LIMIT ?4",
        )?
        .query_map(params![first, last, subject, TOLD], super::event)?
        .collect::<Result<_, _>>()?;
    events.reverse();
    Ok(events)
}

/// The numbers that rows of a span of time can have. Numbers and times grow together, so that no index of
/// times has to be kept: a few probes find the ends.
fn numbers(
    connection: &Connection,
    table: (&str, &str, &str),
    from_ms: u64,
    to_ms: u64,
) -> Result<(u64, u64), StoreError> {
    let first = first_since(connection, table, from_ms.saturating_sub(DISORDER_MS))?;
    let last = match to_ms.checked_add(DISORDER_MS) {
        Some(to) => first_since(connection, table, to)?,
        None => i64::MAX as u64,
    };
    Ok((first, last))
}

fn first_since(connection: &Connection, table: (&str, &str, &str), at_ms: u64) -> Result<u64, StoreError> {
    let (table, key, time) = table;
    let (mut low, mut high): (u64, u64) = connection.query_row(
        &format!("SELECT coalesce(min({key}), 0), coalesce(max({key}), 0) + 1 FROM {table}"),
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut probe = connection
        .prepare(&format!("SELECT {key}, {time} FROM {table} WHERE {key} >= ?1 ORDER BY {key} LIMIT 1"))?;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(u64, u64)> =
            probe.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((number, time)) if time < at_ms => low = number + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    let end = |at: usize| {
        Ok::<_, rusqlite::Error>(patchbay_api::End {
            service: row.get(at)?,
            instance: row.get(at + 1)?,
            name: row.get(at + 2)?,
            node: row.get::<_, Option<String>>(at + 3)?.unwrap_or_default(),
            address: row.get(at + 4)?,
            port: row.get(at + 5)?,
        })
    };
    let traffic = |at: usize, memory: usize| {
        Ok::<_, rusqlite::Error>(patchbay_api::Traffic {
            kernel_bytes: row.get(at)?,
            tcp_bytes: row.get(at + 1)?,
            kernel_messages: row.get(at + 2)?,
            tcp_messages: row.get(at + 3)?,
            memory_bytes: row.get(memory)?,
            memory_messages: row.get(memory + 1)?,
        })
    };
    let closed_ms: Option<u64> = row.get(14)?;
    let is_pending = closed_ms.is_none() && row.get::<_, u16>(7)? == 0;
    Ok(Session {
        id: row.get(0)?,
        app: row.get(1)?,
        source: end(2)?,
        destination: end(8)?,
        state: match (is_pending, closed_ms) {
            (true, _) => "pending".into(),
            (_, None) => "open".into(),
            _ => "closed".into(),
        },
        path: row.get(15)?,
        reason: row.get(16)?,
        sent: traffic(17, 27)?,
        received: traffic(21, 29)?,
        opened_ms: row.get(25)?,
        closed_ms,
        status: row.get(26)?,
        details: None,
    })
}

fn instance(row: &Row<'_>) -> rusqlite::Result<Instance> {
    let output: Option<String> = row.get(9)?;
    let output = output.unwrap_or_default();
    Ok(Instance {
        id: row.get(0)?,
        app: row.get(1)?,
        service: row.get(2)?,
        node: row.get(3)?,
        state: row.get(4)?,
        sockets: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
        program: row.get(10)?,
        leaving: None,
        overloaded: false,
        unlimited: None,
        healthy_ms: 0,
        sessions: 0,
        restarts: 0,
        created_ms: row.get(6)?,
        ended_ms: row.get(7)?,
        reason: row.get(8)?,
        output: output.lines().map(str::to_owned).collect(),
    })
}
