"""One connection that lives: requests and answers, half of them before its input ends, while it may enter the map."""
import os
import select
import socket
import sys
import time

ROUNDS = 4_000


def main(blocking):
    listener = socket.create_server(("127.0.0.1", 0))
    source = socket.create_connection(listener.getsockname())
    destination, _ = listener.accept()
    ends = (source, destination)
    for end in ends:
        end.setblocking(blocking)
    ready = select.epoll()
    for end in ends:
        ready.register(end, select.EPOLLIN)

    def receive(end, length):
        got = b""
        while len(got) < length:
            try:
                got += end.recv(length - len(got))
            except BlockingIOError:
                ready.poll()
        return got

    for i in range(ROUNDS):
        asked = bytes([i % 256]) * (1 + i % 900)
        source.send(asked)
        assert receive(destination, len(asked)) == asked, i
        destination.send(asked[::-1])
        assert receive(source, len(asked)) == asked[::-1], i
        if i % 100 == 0:
            time.sleep(0.01)
        if i == ROUNDS // 2:
            sys.stdin.read()


main(sys.argv[1] == "blocking")
