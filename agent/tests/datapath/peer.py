"""One end of a session: peer.py serve|connect ADDRESS PORT WORK. Checks every byte by its position."""
import random
import select
import socket
import sys

ECHO, DUPLEX, HALF_CLOSE, SLOW = 4_000_000, 60_000_000, 700_000, 24_000_000
IPPROTO_MPTCP = 262
PATTERN = bytes(random.Random(7).randbytes(1 << 20))
DOUBLE = PATTERN + PATTERN


def piece(position, length):
    """The bytes that belong at a position of the stream, up to the pattern's length."""
    start = position % len(PATTERN)
    return DOUBLE[start : start + min(length, len(PATTERN))]


def check(position, data):
    while data:
        expected = piece(position, len(data))
        assert data[: len(expected)] == expected, f"wrong byte near {position}"
        position += len(expected)
        data = data[len(expected) :]


def receive(s, total, position=0):
    while position < total:
        data = s.recv(random.choice([1, 100, 4096, 65536, 1 << 20]))
        assert data, f"the stream ended at {position} of {total}"
        check(position, data)
        position += len(data)


def sizes():
    return random.choice([1, 7, 64, 1000, 4096, 16384, 65536, 200_000])


def echo(s, connecting):
    position = 0
    while position < ECHO:
        length = min(sizes(), ECHO - position)
        if connecting:
            s.sendall(piece(position, length))
            receive(s, position + length, position)
        else:
            data = s.recv(65536)
            assert data
            check(position, data)
            s.sendall(data)
            length = len(data)
        position += length


def duplex(s, _):
    s.setblocking(False)
    sent = received = 0
    while sent < DUPLEX or received < DUPLEX:
        wanted = [s] if sent < DUPLEX else []
        readable, writable, _ = select.select([s], wanted, [], 20)
        assert readable or writable, f"stalled at {sent} sent, {received} received"
        if readable and received < DUPLEX:
            data = s.recv(random.choice([100, 65536, 1 << 20]))
            assert data, f"the stream ended at {received}"
            check(received, data)
            received += len(data)
        if writable and sent < DUPLEX:
            try:
                sent += s.send(piece(sent, min(sizes(), DUPLEX - sent)))
            except BlockingIOError:
                pass


def half_close(s, connecting):
    if connecting:
        s.sendall(piece(0, HALF_CLOSE))
        s.shutdown(socket.SHUT_WR)
        receive(s, HALF_CLOSE)
    else:
        receive(s, HALF_CLOSE)
        assert s.recv(1) == b"", "the end of the stream follows the last byte"
        s.sendall(piece(0, HALF_CLOSE))


def slow_reader(s, connecting):
    if connecting:
        s.setblocking(False)
        sent = 0
        while True:
            _, writable, _ = select.select([], [s], [], 1)
            if not writable:
                break
            try:
                sent += s.send(piece(sent, 65536))
            except BlockingIOError:
                continue
            assert sent < SLOW, "nothing stops a sender whose receiver does not read"
        s.setblocking(True)
        while sent < SLOW:
            part = piece(sent, min(65536, SLOW - sent))
            s.sendall(part)
            sent += len(part)
        assert s.recv(1) == b"!"
    else:
        import time

        time.sleep(3)
        s.setblocking(False)
        received = 0
        while received < SLOW:
            readable, _, _ = select.select([s], [], [], 20)
            assert readable, f"stalled at {received}"
            data = s.recv(65536)
            check(received, data)
            received += len(data)
        s.setblocking(True)
        s.sendall(b"!")


def stay(s, connecting):
    """Echoes until the source's input ends."""
    if not connecting:
        while data := s.recv(65536):
            s.sendall(data)
        s.close()
        sys.exit()
    position = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        length = min(sizes(), 10_000)
        s.sendall(piece(position, length))
        receive(s, position + length, position)
        position += length


def with_itself(address):
    """A port that nobody listens at, connected to itself."""
    s = socket.socket()
    s.bind((address, 0))
    print(s.getsockname()[1], flush=True)
    sys.stdin.readline()
    s.connect(s.getsockname())
    s.settimeout(25)
    for position in range(0, 100_000, 10_000):
        s.sendall(piece(position, 10_000))
        receive(s, position + 10_000, position)
    s.close()


def main():
    role, address, port, work = sys.argv[1:]
    if work == "WithItself":
        with_itself(address)
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = IPPROTO_MPTCP if work == "Multipath" else 0
    connecting = role == "connect"
    if connecting:
        s = socket.socket(family, socket.SOCK_STREAM, protocol)
        s.connect((address, int(port)))
    else:
        listener = socket.socket(family, socket.SOCK_STREAM, protocol)
        listener.bind((address, 0))
        listener.listen()
        print(listener.getsockname()[1], flush=True)
        s, _ = listener.accept()
    s.settimeout(25) if work not in ("Duplex", "SlowReader") else None
    {"Echo": echo, "Duplex": duplex, "HalfClose": half_close, "SlowReader": slow_reader,
     "Stay": stay, "Multipath": echo}[work](s, connecting)
    if not connecting:
        # The source closes first, so that who ended the session is the same in every run.
        s.settimeout(25)
        assert s.recv(1) == b""
    s.close()


main()
