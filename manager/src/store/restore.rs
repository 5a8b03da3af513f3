//! Rows as they are read back when the Manager starts.

use std::collections::HashMap;
use std::sync::Arc;

use patchbay_api::Traffic;
use rusqlite::{Connection, OptionalExtension as _, Row};
use ssmmp::{Address, InstanceId, MessageId, Name, Port};

use super::StoreError;
use patchbay_manager_core::graph::Graph;
use patchbay_manager_core::{
    ENDED_KEPT, Edge, InstanceRow, InstanceState, Leaving, Millis, NodeRow, SecretHash, ServiceRow, Session,
    SessionState,
};

const APPS: &str = "SELECT graph, applied_ms FROM apps WHERE stopped = 0";

const INSTANCES: &str = "
SELECT id, app, service, node, address, sockets, state, created_ms, program, recipe, leaving_to, leaving_why,
    replaces, reason, ended_ms, output
FROM instances WHERE ended_ms IS NULL
    OR id IN (SELECT id FROM instances WHERE ended_ms IS NOT NULL ORDER BY ended_ms DESC, id DESC LIMIT ?1)";

const SERVICES: &str = "SELECT app, service, scaled, home FROM services";

const NODES: &str = "SELECT address, name, secret_hash, first_ms FROM nodes";

const DRAINED: &str = "SELECT address FROM drained_nodes";

const SESSIONS: &str = "
SELECT id, app, message_id, source_instance, source_service, plug, source_address, source_port,
    destination_instance, destination_service, socket, destination_address, destination_port, new_port,
    opened_ms, path, reason,
    sent_kernel_bytes, sent_tcp_bytes, sent_kernel_messages, sent_tcp_messages, sent_memory_bytes,
    sent_memory_messages, received_kernel_bytes, received_tcp_bytes, received_kernel_messages,
    received_tcp_messages, received_memory_bytes, received_memory_messages
FROM sessions WHERE closed_ms IS NULL
ORDER BY id";

/// Applications that are not stopped.
pub fn apps(connection: &Connection) -> Result<Vec<(Graph, String, Millis)>, StoreError> {
    let mut statement = connection.prepare(APPS)?;
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

/// Instances that had not ended, and those that ended last, as many as are kept in memory.
pub fn instances(connection: &Connection) -> Result<Vec<InstanceRow>, StoreError> {
    let mut statement = connection.prepare(INSTANCES)?;
    let mut rows = statement.query([ENDED_KEPT])?;
    let mut instances = Vec::new();
    while let Some(row) = rows.next()? {
        let (node, sockets, state): (String, String, String) = (row.get(3)?, row.get(5)?, row.get(6)?);
        let sockets: Vec<(String, u16)> =
            serde_json::from_str(&sockets).map_err(|error| bad("instances", error.to_string()))?;
        let sockets = sockets
            .into_iter()
            .map(|(name, port)| Ok((Name::new(&name)?, Port(port))))
            .collect::<Result<_, String>>()
            .map_err(|problem| bad("instances", problem))?;
        let service = name(row, 2, "instances")?;
        // A row of an earlier schema has no program: then it is the service's own.
        let program = match row.get_ref(8)?.as_str().unwrap_or_default() {
            "" => service.clone(),
            _ => name(row, 8, "instances")?,
        };
        let leaving = match row.get_ref(10)?.as_str() {
            Ok(_) => {
                let why = row.get::<_, Option<String>>(11)?.unwrap_or_default();
                Some(Leaving { to: address(row, 10, "instances")?, why })
            }
            Err(_) => None,
        };
        let output: Option<String> = row.get(15)?;
        instances.push(InstanceRow {
            id: InstanceId(row.get(0)?),
            app: name(row, 1, "instances")?,
            service,
            address: address(row, 4, "instances")?,
            node,
            sockets,
            state: InstanceState::from_word(&state),
            created: row.get(7)?,
            ended: row.get(14)?,
            reason: row.get(13)?,
            output: output.unwrap_or_default().lines().map(str::to_owned).collect(),
            program,
            recipe: row.get(9)?,
            leaving,
            replaces: row.get::<_, Option<u64>>(12)?.map(InstanceId),
        });
    }
    Ok(instances)
}

/// What is kept of services besides their graphs.
pub fn services(connection: &Connection) -> Result<Vec<ServiceRow>, StoreError> {
    let mut statement = connection.prepare(SERVICES)?;
    let mut rows = statement.query([])?;
    let mut services = Vec::new();
    while let Some(row) = rows.next()? {
        let home = match row.get_ref(3)?.as_str() {
            Ok(_) => Some(address(row, 3, "services")?),
            Err(_) => None,
        };
        services.push(ServiceRow { app: row.get(0)?, service: row.get(1)?, scaled: row.get(2)?, home });
    }
    Ok(services)
}

/// Message ids below this may be in use.
pub fn message_ids(connection: &Connection) -> Result<Option<u64>, StoreError> {
    let row =
        connection.query_row("SELECT value FROM counters WHERE name = 'message_ids'", [], |row| row.get(0));
    Ok(row.optional()?)
}

/// Nodes that had registered: all are lost at first.
pub fn nodes(connection: &Connection) -> Result<Vec<NodeRow>, StoreError> {
    let mut statement = connection.prepare(NODES)?;
    let mut rows = statement.query([])?;
    let mut nodes = Vec::new();
    while let Some(row) = rows.next()? {
        let secret = row.get::<_, Option<String>>(2)?.map(|hash| {
            SecretHash::from_hex(&hash).ok_or_else(|| bad("nodes", "secret_hash is no hash".into()))
        });
        let (address, name, first) = (address(row, 0, "nodes")?, row.get(1)?, row.get(3)?);
        nodes.push(NodeRow { address, name, secret: secret.transpose()?, first });
    }
    Ok(nodes)
}

/// Nodes where nothing is executed.
pub fn drained(connection: &Connection) -> Result<Vec<Address>, StoreError> {
    let mut statement = connection.prepare(DRAINED)?;
    let mut rows = statement.query([])?;
    let mut drained = Vec::new();
    while let Some(row) = rows.next()? {
        drained.push(address(row, 0, "drained_nodes")?);
    }
    Ok(drained)
}

/// Sessions that had not ended, acknowledged or not, in the order of their numbers.
pub fn sessions(connection: &Connection) -> Result<Vec<Session>, StoreError> {
    let mut statement = connection.prepare(SESSIONS)?;
    let mut rows = statement.query([])?;
    let (mut sessions, mut shared) = (Vec::new(), Shared::default());
    while let Some(row) = rows.next()? {
        sessions.push(session(row, &mut shared)?);
    }
    Ok(sessions)
}

/// What many rows have in common is made once.
#[derive(Default)]
struct Shared {
    edges: HashMap<String, Arc<Edge>>,
    key: String,
    path: Option<Arc<str>>,
}

impl Shared {
    fn edge(&mut self, row: &Row<'_>) -> Result<Arc<Edge>, StoreError> {
        self.key.clear();
        for index in [1, 4, 5, 10, 9] {
            self.key.push_str(text(row, index, "sessions")?);
            self.key.push('\n');
        }
        if let Some(edge) = self.edges.get(&self.key) {
            return Ok(edge.clone());
        }
        let name = |index| name(row, index, "sessions");
        let edge = Arc::new(Edge {
            app: name(1)?,
            source: name(4)?,
            plug: name(5)?,
            socket: name(10)?,
            destination: name(9)?,
        });
        self.edges.insert(self.key.clone(), edge.clone());
        Ok(edge)
    }

    fn path(&mut self, row: &Row<'_>) -> Result<Arc<str>, StoreError> {
        let text = text(row, 15, "sessions")?;
        match &self.path {
            Some(path) if **path == *text => Ok(path.clone()),
            _ => Ok(self.path.insert(text.into()).clone()),
        }
    }
}

fn session(row: &Row<'_>, shared: &mut Shared) -> Result<Session, StoreError> {
    let address = |index| address(row, index, "sessions");
    let port = Port(row.get(7)?);
    Ok(Session {
        id: row.get(0)?,
        edge: shared.edge(row)?,
        // Only a session that waits for its acknowledgement needs it.
        message_id: MessageId::from(text(row, 2, "sessions")?.parse().unwrap_or(u64::MAX)),
        source: InstanceId(row.get(3)?),
        source_address: address(6)?,
        source_port: port,
        destination: InstanceId(row.get(8)?),
        destination_address: address(11)?,
        destination_port: Port(row.get(12)?),
        new_port: Port(row.get(13)?),
        state: if port.is_known() { SessionState::Open } else { SessionState::Pending },
        opened: row.get(14)?,
        closed: None,
        status: None,
        path: shared.path(row)?,
        reason: row.get::<_, Option<String>>(16)?.map(Arc::from),
        sent: traffic(row, 17)?,
        received: traffic(row, 23)?,
        details: None,
    })
}

fn traffic(row: &Row<'_>, at: usize) -> Result<Traffic, StoreError> {
    Ok(Traffic {
        kernel_bytes: row.get(at)?,
        tcp_bytes: row.get(at + 1)?,
        kernel_messages: row.get(at + 2)?,
        tcp_messages: row.get(at + 3)?,
        memory_bytes: row.get(at + 4)?,
        memory_messages: row.get(at + 5)?,
    })
}

fn text<'a>(row: &'a Row<'_>, index: usize, table: &'static str) -> Result<&'a str, StoreError> {
    row.get_ref(index)?.as_str().map_err(|error| bad(table, error.to_string()))
}

fn name(row: &Row<'_>, index: usize, table: &'static str) -> Result<Name, StoreError> {
    Name::new(text(row, index, table)?).map_err(|problem| bad(table, problem))
}

fn address(row: &Row<'_>, index: usize, table: &'static str) -> Result<Address, StoreError> {
    let text = text(row, index, table)?;
    let address: std::net::IpAddr =
        text.parse().map_err(|_| bad(table, format!("`{text}` is no address")))?;
    Ok(Address::from(address))
}

fn bad(table: &'static str, problem: String) -> StoreError {
    StoreError::Row { table, problem }
}
