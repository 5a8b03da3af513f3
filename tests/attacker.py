"""An instance that harms its agent as much as it can: floods of requests that it never reads the answers of,
garbage, half messages, and connections without number, each for a while, again and again."""

import os
import socket
import sys
import threading
import time

name, instance, address, sockets, plugs = sys.argv[-5:]
users = socket.create_server((address, int(sockets.split(", ")[1])))
host, port = os.environ["SSMMP_AGENT"].rsplit(":", 1)


def connect():
    connection = socket.create_connection((host, int(port)), 5)
    connection.settimeout(0.2)
    return connection


def flood(block, seconds):
    """Writes the same bytes without ever reading."""
    connection, until = connect(), time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            connection.sendall(block)
        except TimeoutError:
            pass


def request(number):
    return (f"type: session_request ~ message_id: {number} ~ sub_type: service_to_agent ~ source_service_name: {name}"
            f" ~ source_service_instance_id: {instance} ~ source_plug_name: p ~ dest_service_name: nothing"
            f" ~ dest_socket_name: s\n").encode()


requests = b"".join(request(n) for n in range(1, 2000))
garbage = bytes((n * 2654435761 >> 13) & 255 for n in range(8192))
long = b"type: session_request ~ message_id: 5 ~ x: " + b"y" * 1_000_000


def attack():
    while True:
        for step in (lambda: flood(requests, 0.4), lambda: flood(garbage, 0.2), lambda: flood(long, 0.2),
                     lambda: [connect() for _ in range(100)], lambda: flood(b"type: session", 0.1)):
            try:
                step()
            except OSError:
                pass


for _ in range(3):
    threading.Thread(target=attack, daemon=True).start()
while True:
    users.accept()
