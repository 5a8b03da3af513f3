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
