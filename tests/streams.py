"""What both scripts do with a sender that is stopped."""


def fill(source):
    """Sends until the socket takes no more, or far too much; returns how much it took."""
    source.setblocking(False)
    taken = 0
    try:
        while taken < 64 << 20:
            taken += source.send(bytes(65536))
    except BlockingIOError:
        pass
    return taken


def take(destination, expected):
    """Receives so much; returns how much came."""
    got = 0
    while got < expected:
        got += len(destination.recv(1 << 20))
    return got
