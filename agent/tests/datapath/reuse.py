"""Sockets, ports and descriptors that are used again: reuse.py CASE. Nothing of one connection is ever read on another."""
import array
import ctypes
import errno
import os
import socket
import sys
import threading
import time

HOST = "127.0.0.1"
LIMIT = 5
libc = ctypes.CDLL(None, use_errno=True)


def listener(port=0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((HOST, port))
    s.listen()
    s.settimeout(LIMIT)
    return s


def joined(server, client=None):
    client = client or socket.socket()
    client.settimeout(LIMIT)
    client.connect(server.getsockname())
    accepted, _ = server.accept()
    accepted.settimeout(LIMIT)
    return client, accepted


def disconnect(s):
    """connect(2) with AF_UNSPEC."""
    assert libc.connect(s.fileno(), (ctypes.c_char * 16)(), 16) == 0, os.strerror(ctypes.get_errno())


def wait_for_bytes(s):
    """Until something is there to be read."""
    s.recv(1, socket.MSG_PEEK)


def unread(s, size):
    """Until so many bytes are there to be read, redirected or not."""
    deadline = time.monotonic() + LIMIT
    while len(s.recv(size, socket.MSG_PEEK)) < size:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def ping(a, b):
    """Both directions carry something, so that what follows is redirected if it may be."""
    a.sendall(b"ping")
    assert b.recv(9) == b"ping"
    b.sendall(b"pong")
    assert a.recv(9) == b"pong"


def disconnected_with_bytes_unread():
    one, two = listener(), listener()
    c, s = joined(one)
    ping(c, s)
    s.sendall(b"secret of service one")
    unread(c, 21)
    disconnect(c)
    c, t = joined(two, c)
    t.sendall(b"hello from two")
    assert c.recv(99) == b"hello from two"
    c.sendall(b"hello to two")
    assert t.recv(99) == b"hello to two"
    try:
        assert s.recv(9) == b""
    except ConnectionResetError:
        pass


def disconnected_many_times():
    one, two = listener(), listener()
    c, s = joined(one)
    ping(c, s)
    for i in range(20):
        s.sendall(b"unread of round %d" % i)
        wait_for_bytes(c)
        disconnect(c)
        s.close()
        c, s = joined(two if i % 2 else one, c)
        c.sendall(b"question %d" % i)
        assert s.recv(99) == b"question %d" % i
        s.sendall(b"answer %d" % i)
        assert c.recv(99) == b"answer %d" % i


def ended_both_ways_then_connected_again():
    one, two = listener(), listener()
    c, s = joined(one)
    ping(c, s)
    s.sendall(b"left unread")
    unread(c, 11)
    c.shutdown(socket.SHUT_WR)
    assert s.recv(9) == b""
    s.close()
    time.sleep(0.05)
    disconnect(c)
    c, t = joined(two, c)
    t.sendall(b"hello from two")
    assert c.recv(99) == b"hello from two"


def what_came_before_the_end_can_be_read_after_it():
    one = listener()
    for first in range(2):
        c, s = joined(one)
        ping(c, s)
        if first:
            c.shutdown(socket.SHUT_WR)
            assert s.recv(9) == b""
        s.sendall(b"the last bytes")
        s.close()
        c.shutdown(socket.SHUT_WR) if not first else None
        time.sleep(0.05)
        assert c.recv(99) == b"the last bytes" and c.recv(99) == b""


def a_connected_socket_becomes_a_listening_one():
    one = listener()
    c, s = joined(one)
    ping(c, s)
    s.sendall(b"secret of the earlier connection")
    unread(c, 32)
    disconnect(c)
    c.bind((HOST, 0))
    c.listen()
    for _ in range(3):
        d, accepted = joined(c)
        d.sendall(b"for the new listener")
        assert accepted.recv(99) == b"for the new listener"
        accepted.sendall(b"answer")
        assert d.recv(99) == b"answer"


def an_accepted_socket_connects_elsewhere():
    one, two = listener(), listener()
    c, s = joined(one)
    ping(c, s)
    c.sendall(b"never read by anybody")
    unread(s, 21)
    disconnect(s)
    s, t = joined(two, s)
    t.sendall(b"hello from two")
    assert s.recv(99) == b"hello from two"
    s.sendall(b"hello to two")
    assert t.recv(99) == b"hello to two"


def copies_of_a_descriptor():
    c, s = joined(listener())
    ping(c, s)
    copy = s.dup()
    c.sendall(b"1")
    assert copy.recv(1) == b"1"
    c.sendall(b"23")
    unread(s, 2)
    s.close()
    assert copy.recv(1) == b"2"
    copy.sendall(b"back")
    assert c.recv(9) == b"back"
    assert copy.recv(1) == b"3"
    copy.close()
    assert c.recv(1) == b""


def handed_to_another_process():
    c, s = joined(listener())
    ping(c, s)
    c.sendall(b"before ")
    unread(s, 7)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    if os.fork() == 0:
        _, ancillary, _, _ = there.recvmsg(1, socket.CMSG_SPACE(4))
        got = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
        got.settimeout(LIMIT)
        data = b""
        while len(data) < 12:
            data += got.recv(99)
        got.sendall(b"child got " + data)
        os._exit(0)
    here.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [s.fileno()]))])
    s.close()
    c.sendall(b"after")
    assert c.recv(99) == b"child got before after"
    os.wait()
    assert c.recv(1) == b""


def the_same_ends_again():
    """The same four numbers again and again, with an end in TIME_WAIT, and with bytes unread."""
    server = listener()
    mine = socket.socket()
    mine.bind((HOST, 0))
    port = mine.getsockname()[1]
    mine.close()
    for i in range(30):
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        c.bind((HOST, port))
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                c, s = joined(server, c)
                break
            except OSError as error:
                # The earlier one's reset may still be on its way.
                assert error.errno == errno.EADDRNOTAVAIL and time.monotonic() < deadline, error
                time.sleep(0.005)
        c.sendall(b"question %d" % i)
        assert s.recv(99) == b"question %d" % i
        s.sendall(b"answer %d" % i)
        assert c.recv(99) == b"answer %d" % i
        s.sendall(b"never read %d" % i)
        wait_for_bytes(c)
        # The accepting end is the one in TIME_WAIT, which lets a new connection in.
        s.shutdown(socket.SHUT_WR)
        time.sleep(0.002)
        c.recv(99) if i % 2 else None
        c.close()
        time.sleep(0.005)
        s.close()


def a_port_gets_another_program():
    server = listener()
    port = server.getsockname()[1]
    for i in range(10):
        c, s = joined(server)
        ping(c, s)
        s.sendall(b"unread %d" % i)
        wait_for_bytes(c)
        server.close()
        server = listener(port)
        d, t = joined(server)
        t.sendall(b"from listener %d" % i)
        assert d.recv(99) == b"from listener %d" % i
        assert c.recv(99) == b"unread %d" % i
        for end in (c, s, d, t):
            end.close()


def disconnected_while_the_other_end_sends():
    """Each service sends only its own letter, as fast as it can, while its client comes and goes."""
    deadline = time.monotonic() + 4
    servers = [listener(), listener()]

    def serve(server, letter):
        while time.monotonic() < deadline:
            try:
                s, _ = server.accept()
            except OSError:
                continue
            s.settimeout(0.05)
            try:
                while time.monotonic() < deadline:
                    s.sendall(letter * 512)
            except OSError:
                pass
            s.close()

    threads = [threading.Thread(target=serve, args=(servers[i // 2 % 2], b"AB"[i // 2 % 2:][:1]))
               for i in range(8)]
    for thread in threads:
        thread.start()
    wrong, rounds = [], [0]

    def come_and_go():
        c = socket.socket()
        while time.monotonic() < deadline - 0.2 and not wrong:
            at = rounds[0] % 2
            rounds[0] += 1
            try:
                c.settimeout(1)
                c.connect(servers[at].getsockname())
                for _ in range(3):
                    data = c.recv(4096)
                    other = b"AB"[1 - at:][:1]
                    if other in data:
                        wrong.append((at, data[:20]))
            except OSError:
                pass
            disconnect(c)

    clients = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients + threads:
        thread.join()
    assert not wrong, wrong
    assert rounds[0] > 50, rounds


globals()[sys.argv[1]]()
