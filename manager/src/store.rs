//! Current state and history in SQLite: rows that plain SQL can question.

use std::path::Path;
use std::sync::Arc;

use patchbay_api::Event;
use rusqlite::{Connection, OptionalExtension as _, params};
use ssmmp::{Address, InstanceId, MessageId, Name, Port};

use crate::core::{Core, Edge, Effect, Instance, InstanceState, Millis, Session, SessionState};
use crate::graph::Graph;

/// Newest events kept; older ones are removed.
const EVENTS_KEPT: u64 = 100_000;
/// The schema's version, in `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE apps (name TEXT PRIMARY KEY, graph TEXT NOT NULL, applied_ms INTEGER NOT NULL,
    stopped INTEGER NOT NULL);
CREATE TABLE instances (id INTEGER PRIMARY KEY, app TEXT NOT NULL, service TEXT NOT NULL, node TEXT NOT NULL,
    address TEXT NOT NULL, sockets TEXT NOT NULL, state TEXT NOT NULL, created_ms INTEGER NOT NULL,
    ended_ms INTEGER, reason TEXT, output TEXT);
CREATE INDEX instances_alive ON instances (state) WHERE ended_ms IS NULL;
CREATE TABLE sessions (id INTEGER PRIMARY KEY, app TEXT NOT NULL, message_id TEXT NOT NULL,
    source_instance INTEGER NOT NULL, source_service TEXT NOT NULL, plug TEXT NOT NULL,
    source_address TEXT NOT NULL, source_port INTEGER NOT NULL,
    destination_instance INTEGER NOT NULL, destination_service TEXT NOT NULL, socket TEXT NOT NULL,
    destination_address TEXT NOT NULL, destination_port INTEGER NOT NULL, new_port INTEGER NOT NULL,
    opened_ms INTEGER NOT NULL, closed_ms INTEGER, status INTEGER, path TEXT NOT NULL, reason TEXT,
    sent_kernel_bytes INTEGER NOT NULL, sent_tcp_bytes INTEGER NOT NULL,
    received_kernel_bytes INTEGER NOT NULL, received_tcp_bytes INTEGER NOT NULL);
CREATE INDEX sessions_open ON sessions (id) WHERE closed_ms IS NULL;
CREATE TABLE events (sequence INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL,
    subject TEXT NOT NULL, text TEXT NOT NULL);
";

/// Why the database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    /// It was written by a newer Manager.
    #[error("the database has schema version {0}, this Manager knows {SCHEMA_VERSION}: use a newer Manager")]
    Newer(i64),
    /// A row can't be understood.
    #[error("a row of {table} can't be understood: {problem}")]
    Row {
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The database and its only user.
pub struct Store {
    connection: Connection,
    sequence: u64,
}

impl Store {
    /// Opens the database, made if it is not there, in write-ahead mode.
    ///
    /// # Errors
    /// It can't be opened, is no database, or is of a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            0 => {
                connection.execute_batch(SCHEMA)?;
                connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            }
            SCHEMA_VERSION => {}
            newer => return Err(StoreError::Newer(newer)),
        }
        let sequence = connection
            .query_row("SELECT max(sequence) FROM events", [], |row| row.get::<_, Option<u64>>(0))?
            .unwrap_or(0);
        Ok(Self { connection, sequence })
    }

    /// Counts the Manager's starts, so that message ids never repeat.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn next_epoch(&self) -> Result<u64, StoreError> {
        Ok(self.connection.query_row(
            "INSERT INTO counters VALUES ('epoch', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1
             RETURNING value",
            [],
            |row| row.get(0),
        )?)
    }

    /// Gives the core what an earlier run wrote down.
    ///
    /// # Errors
    /// SQLite refused, or a row is not understood.
    pub fn restore(&self, core: &mut Core) -> Result<(), StoreError> {
        let last = |table: &str| {
            self.connection
                .query_row(&format!("SELECT max(id) FROM {table}"), [], |row| row.get::<_, Option<u64>>(0))
        };
        let (last_instance, last_session) = (last("instances")?.unwrap_or(0), last("sessions")?.unwrap_or(0));
        core.restore(self.apps()?, self.instances()?, self.sessions()?, last_instance, last_session);
        Ok(())
    }

    fn apps(&self) -> Result<Vec<(Graph, String, Millis)>, StoreError> {
        let mut statement =
            self.connection.prepare("SELECT graph, applied_ms FROM apps WHERE stopped = 0")?;
        let rows: Vec<(String, Millis)> =
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
        rows.into_iter()
            .map(|(text, applied)| match Graph::read(&text) {
                Ok((graph, _)) => Ok((graph, text, applied)),
                Err(problems) => {
                    let problem = problems.first().map(|p| p.message.clone()).unwrap_or_default();
                    Err(StoreError::Row { table: "apps", problem })
                }
            })
            .collect()
    }

    fn instances(&self) -> Result<Vec<Instance>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, app, service, node, address, sockets, state, created_ms FROM instances
             WHERE ended_ms IS NULL",
        )?;
        let rows = statement.query_map([], |row| {
            let text = |index| row.get::<_, String>(index);
            Ok((row.get(0)?, text(1)?, text(2)?, text(3)?, text(4)?, text(5)?, text(6)?, row.get(7)?))
        })?;
        rows.map(|row| {
            let (id, app, service, node, address_text, sockets, state, created) = row?;
            let bad = |problem: String| StoreError::Row { table: "instances", problem };
            let sockets: Vec<(String, u16)> =
                serde_json::from_str(&sockets).map_err(|e| bad(e.to_string()))?;
            let sockets = sockets
                .into_iter()
                .map(|(name, port)| Ok((Name::new(&name)?, Port(port))))
                .collect::<Result<_, String>>()
                .map_err(bad)?;
            let (app, service) = (Name::new(&app).map_err(bad)?, Name::new(&service).map_err(bad)?);
            let state = InstanceState::from_word(&state);
            let address =
                address(&address_text).ok_or_else(|| bad(format!("`{address_text}` is no address")))?;
            Ok(Instance::restored(InstanceId(id), app, service, address, node, sockets, state, created))
        })
        .collect()
    }

    fn sessions(&self) -> Result<Vec<Session>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, app, message_id, source_instance, source_service, plug, source_address, source_port,
             destination_instance, destination_service, socket, destination_address, destination_port, new_port,
             opened_ms, path, reason FROM sessions WHERE closed_ms IS NULL AND source_port > 0",
        )?;
        let bad = |problem: &str| {
            rusqlite::Error::InvalidColumnType(0, format!("sessions: {problem}"), rusqlite::types::Type::Text)
        };
        let rows = statement.query_map([], |row| {
            let name = |index| Name::new(&row.get::<_, String>(index)?).map_err(|problem| bad(&problem));
            let place = |index| address(&row.get::<_, String>(index)?).ok_or_else(|| bad("no address"));
            let message_id: String = row.get(2)?;
            Ok(Session {
                id: row.get(0)?,
                edge: Arc::new(Edge {
                    app: name(1)?,
                    source: name(4)?,
                    plug: name(5)?,
                    socket: name(10)?,
                    destination: name(9)?,
                }),
                message_id: MessageId::from(message_id.parse::<u64>().unwrap_or(u64::MAX)),
                source: InstanceId(row.get(3)?),
                source_address: place(6)?,
                source_port: Port(row.get(7)?),
                destination: InstanceId(row.get(8)?),
                destination_address: place(11)?,
                destination_port: Port(row.get(12)?),
                new_port: Port(row.get(13)?),
                state: SessionState::Open,
                opened: row.get(14)?,
                closed: None,
                status: None,
                path: row.get::<_, String>(15)?.into(),
                reason: row.get::<_, Option<String>>(16)?.map(Arc::from),
                sent: patchbay_api::Traffic::default(),
                received: patchbay_api::Traffic::default(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Writes the rows of all effects in one transaction and numbers the events.
    ///
    /// # Errors
    /// SQLite refused; then nothing was written and nothing may be spoken.
    pub fn write(&mut self, core: &Core, effects: &mut [Effect]) -> Result<(), StoreError> {
        if !effects.iter().any(is_row) {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        let mut sequence = self.sequence;
        for effect in effects {
            match effect {
                Effect::SaveApp(name) => save_app(&transaction, core, name)?,
                Effect::SaveInstance(id) => save_instance(&transaction, core, *id)?,
                Effect::SaveSession(id) => save_session(&transaction, core, *id)?,
                Effect::Publish(event) => {
                    sequence += 1;
                    event.sequence = sequence;
                    save_event(&transaction, event)?;
                }
                Effect::Send(..) | Effect::Close(_) | Effect::Refreshed(_) => {}
            }
        }
        if let Some(old) = sequence.checked_sub(EVENTS_KEPT) {
            transaction.prepare_cached("DELETE FROM events WHERE sequence <= ?1")?.execute([old])?;
        }
        transaction.commit()?;
        self.sequence = sequence;
        Ok(())
    }

    /// Kept events behind a sequence number, oldest first.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn events(&self, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT sequence, at_ms, kind, subject, text FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
        )?;
        let rows = statement.query_map(params![after, limit], |row| {
            Ok(Event {
                sequence: row.get(0)?,
                at_ms: row.get(1)?,
                kind: row.get(2)?,
                subject: row.get(3)?,
                text: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// SQLite refused.
    pub fn check(&self) -> Result<(), StoreError> {
        self.connection.query_row("SELECT 1", [], |_| Ok(())).optional()?;
        Ok(())
    }
}

fn is_row(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::SaveApp(_) | Effect::SaveInstance(_) | Effect::SaveSession(_) | Effect::Publish(_)
    )
}

fn address(text: &str) -> Option<Address> {
    text.parse::<std::net::IpAddr>().ok().map(Address::from)
}

fn save_app(connection: &Connection, core: &Core, name: &str) -> Result<(), StoreError> {
    let Some(app) = core.app(name) else { return Ok(()) };
    connection.prepare_cached("INSERT OR REPLACE INTO apps VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        name,
        app.text,
        app.applied,
        app.stopped
    ])?;
    Ok(())
}

fn save_instance(connection: &Connection, core: &Core, id: InstanceId) -> Result<(), StoreError> {
    let Some(instance) = core.instance(id.0) else { return Ok(()) };
    let sockets: Vec<(&str, u16)> =
        instance.sockets.iter().map(|(name, port)| (name.as_str(), port.0)).collect();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO instances VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            instance.id.0,
            instance.app.as_str(),
            instance.service.as_str(),
            instance.node,
            instance.address.to_string(),
            serde_json::to_string(&sockets).unwrap_or_default(),
            instance.state.as_str(),
            instance.created,
            instance.ended,
            instance.reason,
            instance.output.join("\n"),
        ])?;
    Ok(())
}

fn save_session(connection: &Connection, core: &Core, id: u64) -> Result<(), StoreError> {
    let Some(session) = core.session(id) else { return Ok(()) };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14,
             ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)",
        )?
        .execute(params![
            session.id,
            session.edge.app.as_str(),
            session.message_id.as_str(),
            session.source.0,
            session.edge.source.as_str(),
            session.edge.plug.as_str(),
            session.source_address.to_string(),
            session.source_port.0,
            session.destination.0,
            session.edge.destination.as_str(),
            session.edge.socket.as_str(),
            session.destination_address.to_string(),
            session.destination_port.0,
            session.new_port.0,
            session.opened,
            session.closed,
            session.status.map(ssmmp::Status::code),
            session.path,
            session.reason,
            session.sent.kernel_bytes,
            session.sent.tcp_bytes,
            session.received.kernel_bytes,
            session.received.tcp_bytes,
        ])?;
    Ok(())
}

fn save_event(connection: &Connection, event: &Event) -> Result<(), StoreError> {
    connection.prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        event.sequence,
        event.at_ms,
        event.kind,
        event.subject,
        event.text
    ])?;
    Ok(())
}
