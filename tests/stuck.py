"""Many receivers that never read: prints how many bytes their senders could give away, and that every
byte comes once they read."""
import json
import resource
import socket

from streams import fill, take

RECEIVERS = 1000
# So that all of them together stay far from the machine's limit for TCP (tcp_mem). These are the network
# namespace's own settings.
LARGEST_BUFFER = 256 << 10
for kind, usual in ("rmem", 131072), ("wmem", 16384):
    with open(f"/proc/sys/net/ipv4/tcp_{kind}", "w") as setting:
        setting.write(f"4096 {usual} {LARGEST_BUFFER}")
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
