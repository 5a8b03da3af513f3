"""A table of small programs, each a function; prints what each saw as JSON. Run with redirection off and
on, the results must be equal, except for what system_calls.rs lists."""
import errno
import json
import os
import select
import socket
import struct
import sys
import threading
import time

from habit_rows import ROWS
from streams import fill, outcome, take

WAIT = 0.05
LIMIT = 5


def pair(v6=False, **options):
    listener = socket.create_server(("::1" if v6 else "127.0.0.1", 0),
                                    family=socket.AF_INET6 if v6 else socket.AF_INET)
    a = socket.create_connection(listener.getsockname()[:2])
    b, _ = listener.accept()
    listener.close()
    for end in (a, b):
        end.settimeout(LIMIT)
    return a, b


def blocking(end):
    """Blocks in the kernel, not in Python's poll."""
    end.settimeout(None)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", LIMIT, 0))
    return end


def later(action):
    def run():
        time.sleep(WAIT)
        action()
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def unread(end):
    import array
    import fcntl
    import termios
    value = array.array("i", [0])
    fcntl.ioctl(end, termios.FIONREAD, value)
    return value[0]


def echo():
    a, b = pair()
    a.sendall(b"ping")
    first = b.recv(100)
    b.sendall(b"pong")
    return [first.decode(), a.recv(100).decode()]


def echo_v6():
    a, b = pair(v6=True)
    a.sendall(b"ping")
    return b.recv(100).decode()


def pieces_join():
    a, b = pair()
    a.sendall(b"12")
    a.sendall(b"34")
    time.sleep(WAIT)
    return b.recv(100).decode()


def short_buffer():
    a, b = pair()
    a.sendall(b"123456")
    return [b.recv(2).decode() for _ in range(3)]


def peek():
    a, b = pair()
    a.sendall(b"123456")
    return [b.recv(4, socket.MSG_PEEK).decode(), b.recv(2).decode(), b.recv(9).decode()]


def peek_twice_grows():
    a, b = pair()
    a.sendall(b"12")
    first = b.recv(9, socket.MSG_PEEK).decode()
    a.sendall(b"34")
    time.sleep(WAIT)
    return [first, b.recv(9, socket.MSG_PEEK).decode(), b.recv(9).decode()]


def nothing_to_read():
    a, b = pair()
    b.setblocking(False)
    return outcome(lambda: b.recv(1))


def receive_timeout():
    a, b = pair()
    b.settimeout(None)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    return outcome(lambda: b.recv(1))


def end_after_data():
    a, b = pair()
    a.sendall(b"last")
    a.close()
    return [b.recv(9).decode(), b.recv(9).decode()]


def half_close_waits_in_poll():
    a, b = pair()
    a.sendall(b"request")
    a.shutdown(socket.SHUT_WR)
    request = b.recv(100) + b.recv(100)
    thread = later(lambda: b.sendall(b"answer"))
    answer = a.recv(100)
    thread.join()
    return [request.decode(), answer.decode()]


def half_close_waits_in_read():
    a, b = pair()
    a.shutdown(socket.SHUT_WR)
    thread = later(lambda: b.sendall(b"answer"))
    got = outcome(lambda: blocking(a).recv(100).decode())
    thread.join()
    return got


def reset_while(read):
    """What a reader sees that waits when the other end resets."""
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    thread = later(a.close)
    got = outcome(lambda: read(b))
    thread.join()
    return got


def reset_in_poll():
    return reset_while(lambda end: end.recv(1))


def reset_in_read():
    return reset_while(lambda end: blocking(end).recv(1))


def signal_in_read():
    """A signal whose handler asks for calls to go on: TCP's read waits on."""
    import signal
    import ctypes
    a, b = pair()
    b.settimeout(None)
    # Python's own handlers have the call begin anew, which would hide what it returns.
    room = ctypes.create_string_buffer(9)
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, False)
    reader = threading.get_ident()

    def act():
        signal.pthread_kill(reader, signal.SIGUSR1)
        time.sleep(WAIT)
        a.sendall(b"answer")
    thread = later(act)
    got = libc.recv(b.fileno(), room, 9, 0)
    thread.join()
    return room.raw[:got].decode() if got >= 0 else errno.errorcode[ctypes.get_errno()]


def peek_offset():
    so_peek_off = 42
    a, b = pair()
    b.setsockopt(socket.SOL_SOCKET, so_peek_off, 0)
    seen = b""
    for part in (b"one", b"two"):
        a.sendall(part)
        time.sleep(WAIT)
        seen += b.recv(9, socket.MSG_PEEK)
    return [seen.decode(), b.recv(9).decode()]


def thrown_away():
    import ctypes
    a, b = pair()
    a.sendall(b"0123456789")
    time.sleep(WAIT)
    libc = ctypes.CDLL(None, use_errno=True)
    got = libc.recv(b.fileno(), None, 4, socket.MSG_TRUNC)
    return [got, b.recv(9).decode()]


def receive_nothing():
    import ctypes
    a, b = pair()
    b.setblocking(False)
    libc = ctypes.CDLL(None, use_errno=True)
    # Python's own recv of nothing is no call.
    got = libc.recv(b.fileno(), ctypes.create_string_buffer(1), 0, 0)
    return errno.errorcode[ctypes.get_errno()] if got < 0 else got


def send_nothing():
    """Before the end, also after the other one's: by every call, with bytes unread, between others."""
    a, b = pair()
    empty = [lambda end: end.send(b""), lambda end: os.write(end.fileno(), b""), lambda end: os.writev(end.fileno(), [b""]),
             lambda end: end.sendmsg([b"", b""])]
    seen = [outcome(lambda: send(a)) for send in empty]
    for send in empty:
        a.sendall(b"x")
        seen.append(outcome(lambda: send(a)))
    time.sleep(WAIT)
    seen.append(b.recv(9).decode())
    b.shutdown(socket.SHUT_WR)
    time.sleep(WAIT)
    seen += [outcome(lambda: send(a)) for send in empty]
    a.sendall(b"after")
    time.sleep(WAIT)
    return seen + [b.recv(9).decode(), outcome(lambda: a.recv(9).decode())]


def send_nothing_after_the_end():
    a, b = pair()
    a.shutdown(socket.SHUT_WR)
    return outcome(lambda: a.send(b""))


def shut_end_gets_more():
    a, b = pair()
    b.shutdown(socket.SHUT_RDWR)
    time.sleep(WAIT)
    first = outcome(lambda: a.send(b"x"))
    time.sleep(WAIT)
    return [first, outcome(lambda: a.send(b"x")), outcome(lambda: b.recv(9).decode())]


def error_told_by_send():
    a, b = pair()
    b.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    b.close()
    time.sleep(WAIT)
    return [outcome(lambda: a.send(b"x")), outcome(lambda: a.recv(9).decode()), outcome(lambda: a.recv(9).decode())]


def write_after_close():
    a, b = pair()
    b.close()
    time.sleep(WAIT)
    first = outcome(lambda: a.send(b"x"))
    time.sleep(WAIT)
    return [first, outcome(lambda: a.send(b"x"))]


def close_with_unread():
    a, b = pair()
    a.sendall(b"never read")
    time.sleep(WAIT)
    b.close()
    time.sleep(WAIT)
    return outcome(lambda: a.recv(1).decode())


def unread_size():
    a, b = pair()
    a.sendall(b"123456")
    time.sleep(WAIT)
    return unread(b)


def wait_all():
    a, b = pair()
    a.sendall(b"123")
    thread = later(lambda: a.sendall(b"456"))
    got = blocking(b).recv(6, socket.MSG_WAITALL).decode()
    thread.join()
    return got


def minimum():
    a, b = pair()
    a.sendall(b"123")
    time.sleep(WAIT)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 6)
    thread = later(lambda: a.sendall(b"456"))
    got = blocking(b).recv(6).decode()
    thread.join()
    return got


def urgent():
    a, b = pair()
    a.send(b"ab", socket.MSG_OOB)
    time.sleep(WAIT)
    return b.recv(9).decode()


def splice():
    import os
    a, b = pair()
    a.sendall(b"123456")
    time.sleep(WAIT)
    out, into = os.pipe()
    b.setblocking(False)
    return outcome(lambda: os.splice(b.fileno(), into, 6)) if hasattr(os, "splice") else "no splice"


def zero_copy():
    so_zerocopy, msg_zerocopy = 60, 0x4000000
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
    a.send(bytes(32768), msg_zerocopy)
    got = take(b, 32768)
    time.sleep(WAIT)
    completed = outcome(lambda: len(a.recvmsg(64, 128, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)[1]))
    return [got, completed]


def time_stamps():
    """When a message was sent, as latency tools ask (SO_TIMESTAMPING: TX_SOFTWARE, SOFTWARE, OPT_ID)."""
    a, b = pair()
    a.setsockopt(socket.SOL_SOCKET, 37, 2 | 16 | 128)
    a.sendall(b"hello")
    poll = select.poll()
    poll.register(a, 0)
    return [bool(poll.poll(1000)), b.recv(9).decode()]


def queue_size():
    tcp_inq = 36
    a, b = pair()
    b.setsockopt(socket.IPPROTO_TCP, tcp_inq, 1)
    a.sendall(b"123456")
    time.sleep(WAIT)
    data, told, _, _ = b.recvmsg(2, 64)
    return [data.decode()] + [struct.unpack("i", value)[0] for _, _, value in told]


def unsent_size():
    import array
    import fcntl
    import termios
    a, b = pair()
    a.setblocking(False)
    fill(a)
    value = array.array("i", [0])
    fcntl.ioctl(a, termios.TIOCOUTQ, value)
    return value[0] > 0


def more():
    a, b = pair()
    a.send(b"123", socket.MSG_MORE)
    time.sleep(WAIT)
    early = unread(b)
    a.send(b"456")
    time.sleep(WAIT)
    return [early, b.recv(9).decode()]


def cork():
    a, b = pair()
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    a.send(b"123")
    time.sleep(WAIT)
    early = unread(b)
    a.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    time.sleep(WAIT)
    return [early, b.recv(9).decode()]


def tcp_info_bytes():
    bytes_acked = slice(120, 128)
    a, b = pair()
    a.sendall(bytes(1000))
    take(b, 1000)
    time.sleep(WAIT)
    return struct.unpack("Q", a.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)[bytes_acked])[0]


def poll_states():
    a, b = pair()
    poll = select.poll()
    poll.register(b, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    states = [poll.poll(0)[0][1]]
    a.sendall(b"x")
    time.sleep(WAIT)
    states.append(poll.poll(0)[0][1])
    b.recv(1)
    states.append(poll.poll(0)[0][1])
    a.shutdown(socket.SHUT_WR)
    time.sleep(WAIT)
    states.append(poll.poll(0)[0][1])
    a.close()
    return states


def edge_events():
    a, b = pair()
    epoll = select.epoll()
    epoll.register(b, select.EPOLLIN | select.EPOLLET)
    seen = [len(epoll.poll(0))]
    a.sendall(b"1")
    time.sleep(WAIT)
    seen += [len(epoll.poll(0)), len(epoll.poll(0))]
    a.sendall(b"2")
    time.sleep(WAIT)
    seen += [len(epoll.poll(0)), b.recv(9).decode()]
    return seen


def scatter_gather():
    a, b = pair()
    sent = a.sendmsg([b"one", b"two", b"three"])
    buffers = [bytearray(4), bytearray(7)]
    time.sleep(WAIT)
    got = b.recvmsg_into(buffers)
    return [sent, got[0], got[2], [bytes(part).decode() for part in buffers]]


def zero_length():
    a, b = pair()
    sent = a.send(b"")
    b.setblocking(False)
    return [sent, outcome(lambda: b.recv(9))]


def truncated():
    a, b = pair()
    a.sendall(b"123456")
    time.sleep(WAIT)
    buffer = bytearray(2)
    return [b.recv_into(buffer, 2, socket.MSG_TRUNC), b.recv(9).decode()]


def stops_a_fast_sender():
    a, b = pair()
    sent = fill(a)
    return [sent < 64 << 20, take(b, sent) == sent]


def send_timeout():
    a, b = pair()
    a.settimeout(None)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 100_000))
    try:
        while True:
            a.send(bytes(1 << 20))
    except OSError as error:
        return errno.errorcode[error.errno]


def names():
    a, b = pair()
    return [a.getsockname() == b.getpeername(), a.getpeername() == b.getsockname(),
            a.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), a.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)]


def reuse_after_dup():
    a, b = pair()
    other = b.dup()
    a.sendall(b"12")
    first = b.recv(1).decode()
    b.close()
    return [first, other.recv(9).decode()]


def concurrent_reader_and_writer():
    a, b = pair()
    blocking(a), blocking(b)
    total, problems = 2 << 20, []

    def write(end):
        end.sendall(bytes(total))

    def read(end):
        got = 0
        while got < total:
            try:
                data = end.recv(65536)
            except OSError as error:
                problems.append(errno.errorcode[error.errno])
                continue
            got += len(data)

    threads = [threading.Thread(target=work, args=(end,)) for end in (a, b) for work in (write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(set(problems))


def sendfile():
    import os
    a, b = pair()
    with open(sys.argv[0], "rb") as file:
        length = os.fstat(file.fileno()).st_size
        thread = threading.Thread(target=lambda: a.sendfile(file))
        thread.start()
        got = b""
        while len(got) < length:
            got += b.recv(65536)
        thread.join()
    return got == open(sys.argv[0], "rb").read()


TABLE = [echo, echo_v6, pieces_join, short_buffer, peek, peek_twice_grows, nothing_to_read, receive_timeout,
         end_after_data, half_close_waits_in_poll, half_close_waits_in_read, reset_in_poll, reset_in_read, signal_in_read,
         peek_offset, thrown_away, receive_nothing, send_nothing,
         send_nothing_after_the_end, shut_end_gets_more, error_told_by_send,
         write_after_close, close_with_unread, unread_size, wait_all, minimum, urgent, splice, poll_states,
         edge_events, scatter_gather, zero_length, truncated, stops_a_fast_sender, send_timeout, names,
         reuse_after_dup, concurrent_reader_and_writer, sendfile, zero_copy, time_stamps, queue_size,
         unsent_size, more, cork, tcp_info_bytes]
rows = {row.__name__: row for row in TABLE} | ROWS
print(json.dumps({name: outcome(row) for name, row in rows.items()}))
