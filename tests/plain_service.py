"""An instance that speaks the 22 types and nothing else, word by word as a test tells it over a connection of its own:
`agent` connects to the agent, `say LINE` says something to it, `connect ADDRESS PORT` opens a connection and tells its
port, `exit CODE` ends. What the agent says is passed on behind `heard `."""

import os
import socket
import sys
import threading

_, instance, address, sockets, _ = sys.argv[-5:]
listeners = [socket.create_server((address, int(part.split(", ")[1]))) for part in sockets.split(" & ")]
control = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 30)
control.settimeout(None)
control.sendall(f"{instance}\n".encode())
agent, held = None, []


def hear(stream):
    for line in stream.makefile("r"):
        control.sendall(f"heard {line.strip()}\n".encode())
    control.sendall(b"lost\n")


for line in control.makefile("r"):
    word, _, rest = line.strip().partition(" ")
    if word == "agent":
        host, port = os.environ["SSMMP_AGENT"].rsplit(":", 1)
        agent = socket.create_connection((host, int(port)), 10)
        agent.settimeout(None)
        threading.Thread(target=hear, args=(agent,), daemon=True).start()
        control.sendall(b"connected\n")
    elif word == "say":
        agent.sendall(f"{rest}\n".encode())
    elif word == "connect":
        to, port = rest.split(" ")
        held.append(socket.create_connection((to, int(port)), 10))
        control.sendall(f"port {held[-1].getsockname()[1]}\n".encode())
    elif word == "exit":
        os._exit(int(rest))
