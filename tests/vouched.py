"""A program whose own file calls splice: sessions from which it is learned, then some at whose end it does so, if told to.
usage: vouched.py none|splice"""
import os
import select
import socket
import sys
import time

from streams import outcome

LEARN, LATE, LIMIT = 70, 4, 3

listener = socket.create_server(("127.0.0.1", 0))


def take(end, length):
    got = b""
    while len(got) < length and select.select([end], [], [], LIMIT)[0]:
        got += end.recv(length - len(got))
    return got


def splice(end):
    out, into = os.pipe()
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        moved = outcome(lambda: os.splice(end.fileno(), into, 6))
        if moved != "EAGAIN":
            return os.read(out, moved).decode() if isinstance(moved, int) else moved
        time.sleep(0.01)
    return "nothing"


for session in range(LEARN + LATE):
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.setblocking(False), server.setblocking(False)
    for _ in range(5):
        client.send(b"question")
        take(server, 8)
        server.send(b"answer")
        take(client, 6)
    if session >= LEARN:
        client.send(b"unread")
        time.sleep(0.05)
        print(splice(server) if sys.argv[1] == "splice" else take(server, 6).decode())
        time.sleep(0.3)
    client.close(), server.close()
    time.sleep(0.5 if session == LEARN - 1 else 0.005)
