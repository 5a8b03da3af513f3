-- Nodes that have registered, connected or lost: their names outlive a restart, and so does what they are bound to.
CREATE TABLE nodes (address TEXT PRIMARY KEY, name TEXT NOT NULL, secret_hash TEXT, first_ms INTEGER NOT NULL) WITHOUT ROWID;
