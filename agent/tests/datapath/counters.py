"""Sends in every way there is; prints how many bytes the kernel took from each end, all sessions together: counters.py ROUNDS."""
import os
import random
import select
import socket
import sys
import tempfile
import threading
import time

LIMIT = 20
BLOCK = bytes(random.Random(1).randbytes(1 << 20))


def joined():
    with socket.create_server(("127.0.0.1", 0)) as server:
        c = socket.create_connection(server.getsockname())
        s, _ = server.accept()
    c.settimeout(LIMIT)
    s.settimeout(LIMIT)
    return c, s


def whole(s):
    s.sendall(BLOCK[:300_000])
    return 300_000


def single_bytes(s):
    for _ in range(300):
        s.sendall(b"x")
    return 300


def pieces(s):
    """One call with many buffers."""
    return sum(s.sendmsg([BLOCK[:random.randrange(2000)] for _ in range(60)]) for _ in range(5))


def more(s):
    return sum(s.send(BLOCK[:random.randrange(1, 5000)], socket.MSG_MORE) for _ in range(40))


def file(s):
    with tempfile.TemporaryFile() as f:
        f.write(BLOCK)
        f.seek(0)
        return s.sendfile(f)


def no_waiting(s):
    """As servers do: until the buffer is full, then when there is room again."""
    total = 0
    while total < 3_000_000:
        try:
            # A Python socket with a time limit is non-blocking underneath.
            total += os.write(s.fileno(), BLOCK[:random.choice([100, 4096, 70_000, 1 << 20])])
        except BlockingIOError:
            assert select.select([], [s], [], LIMIT)[1]
    return total


def small_buffer(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return no_waiting(s)


WAYS = [whole, single_bytes, pieces, more, file, no_waiting, small_buffer]


def reader(s, slow, got, at):
    """Until the end."""
    while data := s.recv(65536):
        got[at] += len(data)
        if slow and random.random() < 0.2:
            time.sleep(0.002)


def session(totals, order):
    c, s = joined()
    slow = random.random() < 0.5
    sent, got = [], [0, 0]

    def send(end, at):
        done = [random.choice(WAYS)(end) for _ in range(order)]
        end.shutdown(socket.SHUT_WR)
        sent.append((at, sum(done)))

    threads = [threading.Thread(target=send, args=(c, 0)), threading.Thread(target=send, args=(s, 1)),
               threading.Thread(target=reader, args=(c, slow, got, 1)),
               threading.Thread(target=reader, args=(s, slow, got, 0))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 2
    for at, size in sent:
        assert got[at] == size, f"{got[at]} of {size} bytes arrived"
        totals[at] += size
    c.close()
    s.close()


random.seed(7)
totals = [0, 0]
for number in range(int(sys.argv[1])):
    session(totals, 1 + number % 4)
print(*totals)
