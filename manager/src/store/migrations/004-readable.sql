-- For people: the same rows with readable times (UTC), and the messages that sessions carried.
ALTER TABLE sessions ADD COLUMN sent_kernel_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN sent_tcp_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN received_kernel_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN received_tcp_messages INTEGER NOT NULL DEFAULT 0;
CREATE VIEW readable_sessions AS
SELECT id, app, source_service || '/' || source_instance || '.' || plug AS source,
    destination_service || '/' || destination_instance || '.' || socket AS destination,
    strftime('%Y-%m-%d %H:%M:%f', opened_ms / 1000.0, 'unixepoch') AS opened,
    strftime('%Y-%m-%d %H:%M:%f', closed_ms / 1000.0, 'unixepoch') AS closed, (closed_ms - opened_ms) / 1000.0 AS seconds,
    status, path, reason, sent_kernel_bytes + received_kernel_bytes AS kernel_bytes,
    sent_tcp_bytes + received_tcp_bytes AS tcp_bytes
FROM sessions;
CREATE VIEW readable_instances AS
SELECT id, app, service, node, address, sockets, state,
    strftime('%Y-%m-%d %H:%M:%f', created_ms / 1000.0, 'unixepoch') AS created,
    strftime('%Y-%m-%d %H:%M:%f', ended_ms / 1000.0, 'unixepoch') AS ended, reason, output
FROM instances;
CREATE VIEW readable_events AS
SELECT sequence, strftime('%Y-%m-%d %H:%M:%f', at_ms / 1000.0, 'unixepoch') AS at, kind, subject, text FROM events;
