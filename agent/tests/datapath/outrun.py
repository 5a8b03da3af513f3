"""A sender that outruns its reader: what is read is what was sent, and the limits on the sockets go as they came."""
import hashlib
import select
import socket
import sys
import time

ROUNDS = 6
UNSENT_LIMIT = 25  # TCP_NOTSENT_LOWAT
EAGER = 20 << 20


def ends():
    listener = socket.create_server(("127.0.0.1", 0))
    source = socket.create_connection(listener.getsockname())
    destination, _ = listener.accept()
    source.setblocking(False)
    destination.setblocking(False)
    return source, destination


def send(source, view):
    try:
        return source.send(view)
    except BlockingIOError:
        return 0


def drain(destination, hashed):
    total = 0
    while True:
        try:
            got = destination.recv(1 << 18)
        except BlockingIOError:
            return total
        hashed.update(got)
        total += len(got)


def rounds(write):
    """As much as is taken is sent, then all of it is read, again and again."""
    source, destination = ends()
    data = memoryview(bytes(range(256)) * (EAGER >> 8))
    sent, read = hashlib.sha256(), hashlib.sha256()
    # An edge: who was refused is told when there is room again.
    edge = select.epoll()
    edge.register(source, select.EPOLLOUT | select.EPOLLET)
    for _ in range(ROUNDS):
        at = 0
        while taken := send(source, data[at : at + write]):
            sent.update(data[at : at + taken])
            at += taken
            assert at < EAGER, "it takes all"
        edge.poll(0)
        here = drain(destination, read)
        assert edge.poll(5), "nobody was told that there is room"
        time.sleep(0.02)
        here += drain(destination, read)
        assert here == at, (here, at)
    assert sent.digest() == read.digest()
    return source, destination


def large_writes():
    rounds(EAGER)


def middle_writes():
    rounds(256 << 10)


def small_writes():
    rounds(16 << 10)


def stream(no_delay):
    source, destination = ends()
    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
    for i in range(1_000):
        source.send(bytes([i % 256]) * 512)
        if i % 8 == 7:
            drain(destination, hashlib.sha256())


def merged_writes():
    stream(0)


def separate_writes():
    stream(1)


def own_limit():
    source, destination = ends()
    source.setsockopt(socket.IPPROTO_TCP, UNSENT_LIMIT, 1 << 20)
    hashed = hashlib.sha256()
    while send(source, bytes(1 << 20)):
        pass
    drain(destination, hashed)
    assert source.getsockopt(socket.IPPROTO_TCP, UNSENT_LIMIT) == 1 << 20


CASES = (large_writes, middle_writes, small_writes, merged_writes, separate_writes, own_limit)

if __name__ == "__main__":
    {of.__name__: of for of in CASES}[sys.argv[1]]()
