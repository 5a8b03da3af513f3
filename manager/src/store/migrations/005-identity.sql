-- Who this Manager is. A copy of the database is the same Manager, at another epoch.
CREATE TABLE identity (id TEXT NOT NULL, epoch INTEGER NOT NULL);
INSERT INTO identity VALUES (lower(hex(randomblob(8))), 0);
