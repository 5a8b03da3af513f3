//! Rows as they are written. Columns are named, so that a new one does not shift the others.

use patchbay_api::Event;
use rusqlite::{Connection, params};
use ssmmp::Address;

use super::StoreError;
use patchbay_manager_core::{AppRow, InstanceRow, Millis, NodeRow, Row, SecretHash, ServiceRow, Session};

const SAVE_APP: &str = "
INSERT INTO apps (name, graph, applied_ms, stopped) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (name) DO UPDATE SET graph = ?2, applied_ms = ?3, stopped = ?4";

const SAVE_INSTANCE: &str = "
INSERT INTO instances (id, app, service, node, address, sockets, state, created_ms, ended_ms, reason, output,
    program, recipe, leaving_to, leaving_why, replaces)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
ON CONFLICT (id) DO UPDATE SET state = ?7, ended_ms = ?9, reason = ?10, output = ?11, leaving_to = ?14,
    leaving_why = ?15";

const SAVE_NODE: &str =
    "INSERT OR REPLACE INTO nodes (address, name, secret_hash, first_ms) VALUES (?1, ?2, ?3, ?4)";

const SAVE_SERVICE: &str = "
INSERT INTO services (app, service, scaled, home) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (app, service) DO UPDATE SET scaled = ?3, home = ?4";

const SAVE_INSTANCE_CHANGE: &str = "
INSERT INTO instance_changes (instance, at_ms, state, reason) SELECT ?1, ?2, ?3, ?4
WHERE ?3 IS NOT (SELECT state FROM instance_changes WHERE instance = ?1 ORDER BY at_ms DESC, change DESC LIMIT 1)";

const SAVE_SESSION: &str = "
INSERT INTO sessions (id, app, message_id, source_instance, source_service, plug, source_address, source_port,
    destination_instance, destination_service, socket, destination_address, destination_port, new_port,
    opened_ms, closed_ms, status, path, reason,
    sent_kernel_bytes, sent_tcp_bytes, received_kernel_bytes, received_tcp_bytes,
    sent_kernel_messages, sent_tcp_messages, received_kernel_messages, received_tcp_messages,
    sent_memory_bytes, sent_memory_messages, received_memory_bytes, received_memory_messages)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23,
    ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)
ON CONFLICT (id) DO UPDATE SET source_port = ?8, new_port = ?14, opened_ms = ?15, closed_ms = ?16, status = ?17,
    path = ?18, reason = ?19, sent_kernel_bytes = ?20, sent_tcp_bytes = ?21, received_kernel_bytes = ?22,
    received_tcp_bytes = ?23, sent_kernel_messages = ?24, sent_tcp_messages = ?25,
    received_kernel_messages = ?26, received_tcp_messages = ?27, sent_memory_bytes = ?28,
    sent_memory_messages = ?29, received_memory_bytes = ?30, received_memory_messages = ?31";

const SAVE_EVENT: &str =
    "INSERT INTO events (sequence, at_ms, kind, subject, text) VALUES (?1, ?2, ?3, ?4, ?5)";

/// Writes a row in place of an earlier one with its key.
pub fn save(connection: &Connection, row: &Row) -> Result<(), StoreError> {
    match row {
        Row::App(app) => save_app(connection, app),
        Row::Service(service) => save_service(connection, service),
        Row::Node(address, known, drained) => save_node(connection, *address, known.as_ref(), *drained),
        Row::MessageIds(reserved) => save_message_ids(connection, *reserved),
        Row::Instance(instance, at) => save_instance(connection, instance, *at),
        Row::Session(session) => save_session(connection, session),
    }
}

fn save_app(connection: &Connection, app: &AppRow) -> Result<(), StoreError> {
    connection.prepare_cached(SAVE_APP)?.execute(params![app.name, app.text, app.applied, app.stopped])?;
    Ok(())
}

fn save_instance(connection: &Connection, instance: &InstanceRow, at: Millis) -> Result<(), StoreError> {
    let sockets: Vec<(&str, u16)> =
        instance.sockets.iter().map(|(name, port)| (name.as_str(), port.0)).collect();
    connection.prepare_cached(SAVE_INSTANCE)?.execute(params![
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
        instance.program.as_str(),
        instance.recipe,
        instance.leaving.as_ref().map(|leaving| leaving.to.to_string()),
        instance.leaving.as_ref().map(|leaving| leaving.why.as_str()),
        instance.replaces.map(|id| id.0),
    ])?;
    connection.prepare_cached(SAVE_INSTANCE_CHANGE)?.execute(params![
        instance.id.0,
        at,
        instance.state.as_str(),
        instance.reason,
    ])?;
    Ok(())
}

fn save_service(connection: &Connection, row: &ServiceRow) -> Result<(), StoreError> {
    let home = row.home.map(|home| home.to_string());
    connection.prepare_cached(SAVE_SERVICE)?.execute(params![row.app, row.service, row.scaled, home])?;
    Ok(())
}

fn save_message_ids(connection: &Connection, reserved: u64) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO counters VALUES ('message_ids', ?1)")?
        .execute([reserved])?;
    Ok(())
}

fn save_node(
    connection: &Connection,
    address: Address,
    known: Option<&NodeRow>,
    drained: bool,
) -> Result<(), StoreError> {
    let statement = match drained {
        true => "INSERT OR IGNORE INTO drained_nodes (address) VALUES (?1)",
        false => "DELETE FROM drained_nodes WHERE address = ?1",
    };
    connection.prepare_cached(statement)?.execute([address.to_string()])?;
    let Some(node) = known else {
        connection.prepare_cached("DELETE FROM nodes WHERE address = ?1")?.execute([address.to_string()])?;
        return Ok(());
    };
    connection.prepare_cached(SAVE_NODE)?.execute(params![
        address.to_string(),
        node.name,
        node.secret.map(SecretHash::to_hex),
        node.first,
    ])?;
    Ok(())
}

fn save_session(connection: &Connection, session: &Session) -> Result<(), StoreError> {
    connection.prepare_cached(SAVE_SESSION)?.execute(params![
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
        session.sent.kernel_messages,
        session.sent.tcp_messages,
        session.received.kernel_messages,
        session.received.tcp_messages,
        session.sent.memory_bytes,
        session.sent.memory_messages,
        session.received.memory_bytes,
        session.received.memory_messages,
    ])?;
    Ok(())
}

/// Keeps an event, which has its number.
pub fn save_event(connection: &Connection, event: &Event) -> Result<(), StoreError> {
    connection.prepare_cached(SAVE_EVENT)?.execute(params![
        event.sequence,
        event.at_ms,
        event.kind,
        event.subject,
        event.text
    ])?;
    Ok(())
}
