"""A row for each entry of the list of harmless habits (ebpf-common/src/habit.rs): each does it on both ends, at each
moment when programs do, and goes on with a conversation. Rows are named by what the entry is, so that
system_calls.rs finds one that is missing."""
import array
import ctypes
import fcntl
import os
import select
import socket
import struct
import time

from streams import outcome

WAIT = 0.02
LIMIT = 5
LIBC = ctypes.CDLL(None, use_errno=True)
ON = struct.pack("i", 1)
SECOND = struct.pack("ll", 1, 0)

# Level and number, and a value of each kind that programs use.
SET = {
    (1, 2): ON, (1, 6): ON, (1, 7): struct.pack("i", 65536), (1, 8): struct.pack("i", 65536), (1, 9): ON,
    (1, 10): ON, (1, 12): struct.pack("i", 4), (1, 13): struct.pack("ii", 1, 2), (1, 15): ON, (1, 20): SECOND, (1, 21): SECOND, (1, 66): SECOND, (1, 67): SECOND,
    (0, 1): struct.pack("i", 8), (0, 2): struct.pack("i", 64), (0, 11): ON, (0, 15): ON, (0, 24): ON,
    (6, 1): ON, (6, 2): struct.pack("i", 536), (6, 3): ON, (6, 4): struct.pack("i", 60), (6, 5): struct.pack("i", 10),
    (6, 6): struct.pack("i", 3), (6, 7): struct.pack("i", 2), (6, 8): struct.pack("i", 5), (6, 9): struct.pack("i", 1),
    (6, 12): ON, (6, 13): b"reno", (6, 18): struct.pack("i", 5000), (6, 23): struct.pack("i", 5),
    (6, 25): struct.pack("i", 16384),
    (41, 16): struct.pack("i", 64), (41, 25): ON, (41, 26): ON, (41, 67): struct.pack("i", 8), (41, 78): ON,
}
# Those that are only asked for; what differs from socket to socket is compared by its length.
GET = [(1, 3), (1, 4), (1, 30), (1, 38), (1, 39), (1, 57), (0, 80), (41, 80), (6, 11)]
# The data path sets it itself.
NOT_GOT = (6, 25)
BY_LENGTH = [(1, 57), (6, 11), (1, 7), (1, 8), (6, 2), (6, 12)]
IOCTL = [0x5421, 0x5451, 0x5450, 0x5401]
RECEIVE_FLAGS = [0x2, 0x40, 0x4000, 0x10000, 0x40000000]
SEND_FLAGS = [0x40, 0x4000, 0x8000]


def pair(family=socket.AF_INET, before=lambda end: None):
    """Two ends, the client's first bytes sent before it is accepted."""
    address = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    listener = socket.socket(family)
    before(listener)
    listener.bind((address, 0))
    listener.listen()
    a = socket.socket(family)
    before(a)
    a.settimeout(LIMIT)
    a.connect(listener.getsockname()[:2])
    a.sendall(b"first")
    b, _ = listener.accept()
    b.settimeout(LIMIT)
    listener.close()
    return a, b


def conversation(a, b):
    """What both ends see of small and large messages, looks at what is there, and the end."""
    seen = [b.recv(100).decode("latin-1")]
    b.sendall(b"answer")
    seen.append(a.recv(3).decode("latin-1"))
    poll = select.poll()
    poll.register(a, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    seen.append(poll.poll(0)[0][1])
    seen += [a.recv(9, socket.MSG_PEEK).decode("latin-1"), a.recv(9).decode("latin-1")]
    sent = bytes(range(256)) * 512
    a.settimeout(None), b.settimeout(None)
    a.setblocking(False), b.setblocking(False)
    got, left = b"", sent
    end = time.monotonic() + LIMIT
    while len(got) < len(sent) and time.monotonic() < end:
        try:
            left = left[a.send(left):]
        except BlockingIOError:
            pass
        try:
            got += b.recv(30000)
        except BlockingIOError:
            select.select([b], [], [], WAIT)
    seen.append(got == sent)
    a.shutdown(socket.SHUT_WR)
    select.select([b], [], [], LIMIT)
    seen.append(outcome(lambda: b.recv(1).decode("latin-1")))
    b.send(b"late")
    select.select([a], [], [], LIMIT)
    seen.append(outcome(lambda: a.recv(9).decode("latin-1")))
    b.close()
    a.settimeout(LIMIT)
    seen.append(outcome(lambda: a.recv(9).decode("latin-1")))
    return seen


def set_row(level, option, value):
    family = socket.AF_INET6 if level == 41 else socket.AF_INET

    def put(end):
        return outcome(lambda: end.setsockopt(level, option, value))

    def row():
        results = []
        early = []
        results.append(conversation(*pair(family, lambda end: early.append(put(end)))))
        ends = pair(family)
        late = [put(end) for end in ends]
        results.append(conversation(*ends))
        a, b = pair(family)
        b.sendall(b"unread")
        middle = [put(end) for end in (a, b)]
        seen = a.recv(6).decode("latin-1")
        return [early, late, middle, seen, conversation(a, b)] + results
    return row


def get_row(level, option):
    family = socket.AF_INET6 if level == 41 else socket.AF_INET

    def row():
        a, b = pair(family)
        b.sendall(b"unread")
        values = [outcome(lambda end=end: end.getsockopt(level, option, 16)) for end in (a, b)]
        # A congestion algorithm's name and the like; what was asked for disturbs nothing.
        shown = [len(value) if (level, option) in BY_LENGTH and isinstance(value, bytes) else repr(value)
                 for value in values]
        return [shown, a.recv(6).decode("latin-1"), conversation(a, b)]
    return row


def ioctl_row(request):
    def row():
        a, b = pair()
        values = []
        for end in (a, b):
            room = array.array("i", [1] + 31 * [0])
            values.append(outcome(lambda: fcntl.ioctl(end, request, room)))
        return [values, conversation(a, b)]
    return row


def receive(end, size, flags):
    room = ctypes.create_string_buffer(size)
    got = LIBC.recv(end.fileno(), room, size, flags)
    return room.raw[:got].decode("latin-1") if got >= 0 else os.strerror(ctypes.get_errno())


def send(end, data, flags):
    sent = LIBC.send(end.fileno(), data, len(data), flags)
    return sent if sent >= 0 else os.strerror(ctypes.get_errno())


def receive_row(flag):
    def row():
        a, b = pair()
        b.setblocking(False)
        seen = [receive(b, 3, flag), receive(b, 9, flag), receive(b, 9, flag)]
        while select.select([b], [], [], 0)[0]:
            b.recv(100)
        seen.append(receive(b, 9, flag))
        a.sendall(b"more")
        return seen + conversation(a, b)
    return row


def send_row(flag):
    def row():
        a, b = pair()
        seen = [send(a, b"12", flag), send(a, b"34", flag), send(a, b"56", 0)]
        time.sleep(WAIT)
        return seen + conversation(a, b)
    return row


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("parts", ctypes.POINTER(Part)),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("padding", ctypes.c_int), ("length", ctypes.c_uint32)]


def messages(rooms):
    parts = [(Part * 1)(Part(ctypes.addressof(room), len(room))) for room in rooms]
    return (Message * len(rooms))(*[Message(parts=part, count=1) for part in parts]), parts


def receive_many(end):
    rooms = [ctypes.create_string_buffer(4) for _ in range(3)]
    headers, _parts = messages(rooms)
    got = LIBC.recvmmsg(end.fileno(), headers, 3, 0x10000 | 0x40, None)
    return [got] + [rooms[index].raw[:headers[index].length].decode("latin-1") for index in range(max(got, 0))]


def send_many(end):
    rooms = [ctypes.create_string_buffer(part, len(part)) for part in (b"one", b"two")]
    headers, _parts = messages(rooms)
    return LIBC.sendmmsg(end.fileno(), headers, 2, 0)


def from_file(end):
    with open(__file__, "rb") as file:
        return os.sendfile(end.fileno(), file.fileno(), 0, 500)


def from_pipe(end):
    out, into = os.pipe()
    os.write(into, b"piped")
    return os.splice(out, end.fileno(), 5)


RECEIVING = {
    "read": lambda end: os.read(end.fileno(), 9).decode("latin-1"),
    "readv": lambda end: os.readv(end.fileno(), [bytearray(2), bytearray(9)]),
    "recv": lambda end: end.recv(9).decode("latin-1"),
    "recvmsg": lambda end: end.recvmsg(9, 64)[0].decode("latin-1"),
    "recvmmsg": receive_many,
}
SENDING = {
    "write": lambda end: os.write(end.fileno(), b"written"),
    "writev": lambda end: os.writev(end.fileno(), [b"one", b"two"]),
    "send": lambda end: end.send(b"sent"),
    "sendmsg": lambda end: end.sendmsg([b"one", b"two"]),
    "sendmmsg": send_many,
    "sendfile": from_file,
    "splice": from_pipe,
}


def receiving_row(call):
    def row():
        a, b = pair()
        b.setblocking(False)
        seen = [outcome(lambda: call(b))]
        seen.append(outcome(lambda: call(b)))
        a.sendall(b"more")
        seen.append(outcome(lambda: call(b)))
        a.sendall(b"and more")
        return seen + conversation(a, b)
    return row


def sending_row(call):
    def row():
        a, b = pair()
        seen = [outcome(lambda: call(a))]
        time.sleep(WAIT)
        return seen + [b.recv(1000).decode("latin-1")] + [outcome(lambda: call(b)), a.recv(1000).decode("latin-1")]
    return row


ROWS = {}
ROWS.update({f"set {level} {option}": set_row(level, option, value) for (level, option), value in SET.items()})
ROWS.update({f"get {level} {option}": get_row(level, option) for level, option in list(SET) + GET
             if (level, option) != NOT_GOT})
ROWS.update({f"ioctl {request:#x}": ioctl_row(request) for request in IOCTL})
ROWS.update({f"receive {flag:#x}": receive_row(flag) for flag in RECEIVE_FLAGS})
ROWS.update({f"send {flag:#x}": send_row(flag) for flag in SEND_FLAGS})
ROWS.update({f"receives by {name}": receiving_row(call) for name, call in RECEIVING.items()})
ROWS.update({f"sends by {name}": sending_row(call) for name, call in SENDING.items()})
