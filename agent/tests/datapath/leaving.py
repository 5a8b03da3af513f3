"""A reader that pauses while its session leaves the map: what was sent before and after the pause comes, in order."""
import socket
import time

PAUSE = 3.0
FIRST = bytes(range(256)) * 400
THEN = b"then" * 1000

listener = socket.create_server(("127.0.0.1", 0))
source = socket.create_connection(listener.getsockname())
destination, _ = listener.accept()
source.sendall(FIRST)
time.sleep(PAUSE)
source.sendall(THEN)
source.close()
got = b""
while part := destination.recv(1 << 16):
    got += part
assert got == FIRST + THEN, (len(got), len(FIRST + THEN))
