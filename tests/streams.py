"""What several scripts do."""
import errno


def outcome(call):
    """What a call returns, or the name of its error."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


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
