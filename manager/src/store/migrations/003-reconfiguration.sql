-- What instances were executed from, where they are to go, and what is kept of services and nodes.
ALTER TABLE instances ADD COLUMN program TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN recipe TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN leaving_to TEXT;
ALTER TABLE instances ADD COLUMN leaving_why TEXT;
ALTER TABLE instances ADD COLUMN replaces INTEGER;
CREATE TABLE services (app TEXT NOT NULL, service TEXT NOT NULL, scaled INTEGER, home TEXT,
    PRIMARY KEY (app, service)) WITHOUT ROWID;
CREATE TABLE drained_nodes (address TEXT PRIMARY KEY) WITHOUT ROWID;
