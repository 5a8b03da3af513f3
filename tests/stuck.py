"""Many receivers that never read: prints how many bytes their senders could give away, and that every
byte comes once they read."""
import json
import resource
import socket

from streams import fill, take

RECEIVERS = 200
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
listener = socket.create_server(("127.0.0.1", 0), backlog=RECEIVERS)
pairs = []
for _ in range(RECEIVERS):
    source = socket.create_connection(listener.getsockname())
    pairs.append((source, listener.accept()[0]))
given = [fill(source) for source, _ in pairs]
right = True
for (_, destination), count in zip(pairs, given):
    destination.settimeout(20)
    right = take(destination, count) == count and right
print(json.dumps({"given": sum(given), "most": max(given), "right": right}))
