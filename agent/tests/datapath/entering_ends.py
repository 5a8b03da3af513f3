"""Short connections that may enter the map at any moment, while their reader is often kept off its processor: every
byte comes, in order, and before the end."""
import os
import random
import select
import signal
import socket
import sys
import time

SESSIONS = 500
# How long the last one lives at most, which goes on until the input ends.
LAST = 60


def pattern(length):
    return bytes(i * 7 % 251 for i in range(length))


def interrupt(processor):
    """Takes the processor away for some milliseconds at a time."""
    os.sched_setaffinity(0, {processor})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while True:
        until = time.monotonic() + 0.003
        while time.monotonic() < until:
            pass
        time.sleep(0.001)


def read_all(listener, told):
    """Reads each connection to its end without ever waiting in a call, and tells what came."""
    for _ in range(SESSIONS):
        end, _ = listener.accept()
        end.setblocking(False)
        got = bytearray()
        while True:
            try:
                some = end.recv(65536)
            except BlockingIOError:
                continue
            if not some:
                break
            got += some
        right = got == pattern(len(got))
        os.write(told, f"{len(got)} {right}\n".encode())
        end.close()


def main():
    processors = sorted(os.sched_getaffinity(0))
    listener = socket.create_server(("127.0.0.1", 0))
    tells, told = os.pipe()
    children = []
    for role in (lambda: interrupt(processors[0]), lambda: read_all(listener, told)):
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {processors[0]})
            try:
                role()
            finally:
                os._exit(0)
        children.append(child)
    if len(processors) > 1:
        os.sched_setaffinity(0, set(processors[1:]))
    answers = os.fdopen(tells)
    try:
        for session in range(SESSIONS):
            end = socket.create_connection(listener.getsockname())
            end.setblocking(False)
            last = session == SESSIONS - 1
            until = time.monotonic() + (LAST if last else random.uniform(0.001, 0.006))
            sent = 0
            while time.monotonic() < until:
                if last and select.select([sys.stdin], [], [], 0.001)[0]:
                    break
                piece = pattern(sent % 251 + 100)[sent % 251:]
                try:
                    sent += end.send(piece)
                except BlockingIOError:
                    select.select([], [end], [])
                pause = time.monotonic() + 50e-6
                while time.monotonic() < pause:
                    pass
            end.shutdown(socket.SHUT_WR)
            answer = answers.readline().split()
            assert answer == [str(sent), "True"], (session, sent, answer)
            end.close()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


main()
