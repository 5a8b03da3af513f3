"""Listeners and sessions that come and go: tables.py churn LISTENERS SESSIONS | hold SESSIONS."""
import socket
import sys
import time


def listener():
    return socket.create_server(("127.0.0.1", 0), backlog=128)


def session(server):
    c = socket.create_connection(server.getsockname())
    s, _ = server.accept()
    return c, s


def churn(listeners, sessions):
    """Each session carries 7 bytes there and 5 back; prints how long the first and the last tenth took."""
    each = sessions // listeners
    times = []
    for i in range(listeners):
        begun = time.monotonic()
        with listener() as server:
            for _ in range(each):
                c, s = session(server)
                c.sendall(b"request")
                assert s.recv(9) == b"request"
                s.sendall(b"reply")
                assert c.recv(9) == b"reply"
                c.close()
                s.close()
        times.append(time.monotonic() - begun)
    tenth = listeners // 10
    print(sum(times[:tenth]), sum(times[-tenth:]))


def hold(sessions):
    server = listener()
    held = []
    for _ in range(sessions):
        c, s = session(server)
        c.sendall(b"request")
        assert s.recv(9) == b"request"
        held.append((c, s))


globals()[sys.argv[1]](*map(int, sys.argv[2:]))
