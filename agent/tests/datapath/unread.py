"""Bytes are unread when something ends: unread.py goes, where an end goes; prints what the other one sees;
unread.py leaves, where the session leaves the map meanwhile."""
import errno
import json
import os
import select
import signal
import socket
import sys
import time

WAIT = 0.4


def joined(v6=False):
    host, family = ("::1", socket.AF_INET6) if v6 else ("127.0.0.1", socket.AF_INET)
    with socket.create_server((host, 0), family=family) as server:
        c = socket.create_connection(server.getsockname()[:2])
        s, _ = server.accept()
    for end in (c, s):
        end.settimeout(3)
    for a, b in ((c, s), (s, c)):
        a.sendall(b"ping")
        assert b.recv(9) == b"ping"
    return c, s


def seen(end, reads=True):
    """What a program sees that reads until the end, and then sends."""
    poll = select.poll()
    poll.register(end, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    flags = poll.poll(0)[0][1]
    results = [flags]
    for call in (lambda: end.recv(99).decode(), lambda: end.recv(99).decode(), lambda: end.send(b"x"),
                 lambda: end.send(b"y")):
        try:
            results.append(call())
        except OSError as error:
            results.append(errno.errorcode[error.errno])
    return results


def closed(v6=False, source=False):
    c, s = joined(v6)
    here, there = (c, s) if source else (s, c)
    there.sendall(b"never read")
    here.recv(1, socket.MSG_PEEK)
    here.close()
    time.sleep(WAIT)
    return seen(there)


def closed_after_an_answer():
    """What was sent before can still be read."""
    c, s = joined()
    c.sendall(b"never read")
    s.recv(1, socket.MSG_PEEK)
    s.sendall(b"an answer")
    s.close()
    time.sleep(WAIT)
    return seen(c)


def closed_when_the_other_end_has_ended():
    c, s = joined()
    c.sendall(b"never read")
    c.shutdown(socket.SHUT_WR)
    s.recv(1, socket.MSG_PEEK)
    time.sleep(0.05)
    s.close()
    time.sleep(WAIT)
    return seen(c)


def closed_with_nothing_unread():
    c, s = joined()
    c.sendall(b"read")
    assert s.recv(9) == b"read"
    s.close()
    time.sleep(WAIT)
    return seen(c)


def killed():
    ready, go = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if child == 0:
            s, _ = server.accept()
            s.sendall(s.recv(9))
            s.recv(1, socket.MSG_PEEK)
            os.write(go, b"x")
            time.sleep(60)
        c = socket.create_connection(server.getsockname())
    c.settimeout(3)
    c.sendall(b"ping")
    assert c.recv(9) == b"ping"
    c.sendall(b"never read")
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    time.sleep(WAIT)
    return seen(c)


def a_waiting_reader():
    """It waits while the other end goes."""
    c, s = joined()
    c.sendall(b"never read")
    s.recv(1, socket.MSG_PEEK)
    if os.fork() == 0:
        # Its own copies, so that the close below is the last one.
        s.close()
        c.close()
        os._exit(0)
    os.wait()
    import threading
    threading.Timer(0.1, s.close).start()
    try:
        return c.recv(99).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


def leaves():
    """Both ends have something unread for some seconds; whatever becomes of the session, nothing is lost."""
    c, s = joined()
    data = bytes(range(256)) * 100
    for a in (c, s):
        a.sendall(data)
    time.sleep(4)
    for a in (c, s):
        got = b""
        while len(got) < len(data):
            got += a.recv(99_999)
        assert got == data
    for i in range(10):
        c.sendall(b"more")
        assert s.recv(9) == b"more"
        time.sleep(0.3)


def goes():
    print(json.dumps({
        "closed": closed(), "closed v6": closed(v6=True), "source": closed(source=True),
        "after an answer": closed_after_an_answer(), "ended": closed_when_the_other_end_has_ended(),
        "nothing unread": closed_with_nothing_unread(), "killed": killed(), "waiting": a_waiting_reader(),
    }, indent=1))


globals()[sys.argv[1]]()
