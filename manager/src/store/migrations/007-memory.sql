-- What sessions carried through shared memory.
ALTER TABLE sessions ADD COLUMN sent_memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN sent_memory_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN received_memory_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN received_memory_messages INTEGER NOT NULL DEFAULT 0;
DROP VIEW readable_sessions;
CREATE VIEW readable_sessions AS
SELECT id, app, source_service || '/' || source_instance || '.' || plug AS source,
    destination_service || '/' || destination_instance || '.' || socket AS destination,
    strftime('%Y-%m-%d %H:%M:%f', opened_ms / 1000.0, 'unixepoch') AS opened,
    strftime('%Y-%m-%d %H:%M:%f', closed_ms / 1000.0, 'unixepoch') AS closed, (closed_ms - opened_ms) / 1000.0 AS seconds,
    status, path, reason, sent_kernel_bytes + received_kernel_bytes AS kernel_bytes,
    sent_tcp_bytes + received_tcp_bytes AS tcp_bytes, sent_memory_bytes + received_memory_bytes AS memory_bytes
FROM sessions;
