"""Many receivers that never read: prints how many bytes their senders could give away, and that every
byte comes once they read."""
import json
import resource
import socket

RECEIVERS = 200
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
listener = socket.create_server(("127.0.0.1", 0), backlog=RECEIVERS)
pairs = []
for _ in range(RECEIVERS):
    source = socket.create_connection(listener.getsockname())
    pairs.append((source, listener.accept()[0]))
given = []
for source, _ in pairs:
    source.setblocking(False)
    count = 0
    try:
        while count < 64 << 20:
            count += source.send(bytes(65536))
    except BlockingIOError:
        pass
    given.append(count)
right = True
for (source, destination), count in zip(pairs, given):
    destination.settimeout(20)
    got = 0
    while got < count:
        got += len(destination.recv(1 << 20))
    right = right and got == count
print(json.dumps({"given": sum(given), "most": max(given), "right": right}))
