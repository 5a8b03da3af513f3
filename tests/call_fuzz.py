"""Differential fuzzing of system calls: programs made by seed from everything on the list of harmless habits are run
with redirection off and on, and must see the same; one that does not is reduced to what it needs.

usage: call_fuzz.py compare AGENT SEED COUNT MODE    runs programs SEED, SEED + 1, ... under both, here as root
       call_fuzz.py run                              runs the programs on its standard input, as JSON"""
import errno
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time

from habit_rows import (GET, IOCTL, LIBC, RECEIVE_FLAGS, RECEIVING, SENDING, SEND_FLAGS, NOT_GOT, SET, BY_LENGTH, outcome,
                        ctypes, fcntl, array)

STEPS = 14
# What may be unread at once: programs must not meet the end of a buffer, whose size redirection adds to.
MOST_UNREAD = 12_000
# Differences after which nothing more is looked for: each takes a while to be reduced.
MOST_FOUND = 5
# TCP_ESTABLISHED and TCP_CLOSE_WAIT.
SENDING_STATES = [1, 8]
# Python's own file calls splice, and these programs do not.
ALLOWED = {"auto": ["--allow", "splice"]}
# Programs in one run.
BATCH = 200
# Values besides the table's: off, and a reset at the close.
MORE_VALUES = {(1, 13): [struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)], (6, 3): [struct.pack("i", 0)],
               (6, 12): [struct.pack("i", 0)], (1, 9): [struct.pack("i", 0)]}
# Buffers smaller than what may be unread, and options that only a listening socket takes.
NOT_IN_THE_MIDDLE = [(1, 2), (1, 15), (6, 23), (6, 9), (41, 26), (41, 67), (0, 24)]


def flags(random, listed):
    return sum(flag for flag in listed if random.random() < 0.3)


def generate(seed):
    """A program: a list of steps, each the end it is done at, what is done, and with what."""
    choose = random.Random(seed)
    steps = []
    for _ in range(choose.randrange(3, STEPS)):
        end = choose.randrange(2)
        kind = choose.choices(["send", "receive", "set", "get", "ioctl", "poll", "call", "shut", "close", "pause"],
                              [8, 8, 4, 2, 1, 4, 3, 1.5, 0.7, 0.5])[0]
        if kind == "send":
            steps.append([end, kind, choose.choice([0, 1, 5, 700, 3000]), flags(choose, SEND_FLAGS)])
        elif kind == "receive":
            steps.append([end, kind, choose.choice([1, 4, 900, 20000]), flags(choose, RECEIVE_FLAGS)])
        elif kind == "set":
            option = choose.choice([option for option in SET if option not in NOT_IN_THE_MIDDLE])
            value = choose.choice([SET[option]] + MORE_VALUES.get(option, []))
            steps.append([end, kind, list(option), value.hex()])
        elif kind == "get":
            steps.append([end, kind, list(choose.choice(GET + [option for option in SET if option != NOT_GOT]))])
        elif kind == "ioctl":
            steps.append([end, kind, choose.choice(IOCTL)])
        elif kind == "call":
            steps.append([end, kind, choose.choice(sorted(RECEIVING) + sorted(SENDING))])
        elif kind == "shut":
            steps.append([end, kind, choose.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])])
        else:
            steps.append([end, kind])
    return steps


class Run:
    """Two ends and what is done with them."""

    def __init__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        a = socket.create_connection(listener.getsockname())
        b, _ = listener.accept()
        listener.close()
        self.ends = [a, b]
        self.count = 0
        self.unread = [0, 0]
        self.broken = [False, False]
        for end in self.ends:
            end.setblocking(False)
            # Else TCP may keep bytes until others are acknowledged, and redirection does not.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def bytes(self, length):
        """Bytes that differ from all others nearby."""
        self.count += length
        return bytes((self.count + 7 * index) % 251 for index in range(length))

    def step(self, end, kind, *what):
        own = self.ends[end]
        if own is None:
            return "closed"
        if self.broken[end] and kind != "close":
            # An error that a send told is told once more there: a row of its own.
            return "broken"
        room = MOST_UNREAD - self.unread[1 - end]
        if kind == "send":
            length, flag = what
            if length > room:
                return "full"
            # After the end a send of nothing is a row of its own.
            if not length and own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] not in SENDING_STATES:
                return "ended"
            data = self.bytes(length)
            sent = LIBC.send(own.fileno(), data, length, flag | socket.MSG_NOSIGNAL)
            self.unread[1 - end] += max(sent, 0)
            if sent > 0 and flag & socket.MSG_MORE:
                # TCP keeps it for the next one, redirection does not: both have sent it after that.
                self.unread[1 - end] += max(LIBC.send(own.fileno(), b"more", 4, socket.MSG_NOSIGNAL), 0)
            if sent < 0 and ctypes.get_errno() in (errno.ECONNRESET, errno.EPIPE):
                self.broken[end] = True
                return ctypes.get_errno()
            return sent if sent >= 0 else ctypes.get_errno()
        if kind == "receive":
            length, flag = what
            data = ctypes.create_string_buffer(max(length, 1))
            got = LIBC.recv(own.fileno(), data, length, flag)
            if got >= 0 and not flag & socket.MSG_PEEK:
                self.unread[end] -= got
            return data.raw[:got].hex() if got >= 0 else ctypes.get_errno()
        if kind == "set":
            (level, option), value = what
            result = outcome(lambda: own.setsockopt(level, option, bytes.fromhex(value)))
            if (level, option) == (socket.IPPROTO_TCP, socket.TCP_CORK):
                outcome(lambda: own.setsockopt(level, option, 0))
            return result
        if kind == "get":
            level, option = what[0]
            value = outcome(lambda: own.getsockopt(level, option, 16))
            by_length = (level, option) in BY_LENGTH
            return repr(len(value) if by_length and isinstance(value, bytes) else value)
        if kind == "ioctl":
            return outcome(lambda: fcntl.ioctl(own, what[0], array.array("i", [1] + 31 * [0])))
        if kind == "call":
            name = what[0]
            if name in SENDING and room < 600:
                return "full"
            call = RECEIVING.get(name) or SENDING[name]
            result = outcome(lambda: call(own))
            if result in ("ECONNRESET", "EPIPE"):
                self.broken[end] = True
            if name in SENDING and isinstance(result, int):
                self.unread[1 - end] += 6 if name == "sendmmsg" else result
            return result
        if kind == "shut":
            # What comes after that goes over TCP; a receive takes no bytes of both paths at once.
            rest = None if what[0] == socket.SHUT_WR else self.rest(end)
            return [rest, outcome(lambda: own.shutdown(what[0]))]
        if kind == "close":
            return self.close(end)
        if kind == "pause":
            time.sleep(0.002)
            return None
        poll = select.poll()
        poll.register(own, select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLPRI)
        return poll.poll(0)

    def close(self, end):
        """Reads what is there first: closing with unread bytes is a row of its own."""
        rest = self.rest(end)
        if self.broken[end]:
            rest = "broken"
        self.ends[end].close()
        self.ends[end] = None
        return rest

    def rest(self, end):
        got = b""
        while True:
            data = outcome(lambda: self.ends[end].recv(65536))
            if not isinstance(data, bytes) or not data:
                return [got.hex(), data if isinstance(data, str) else "end"]
            got += data

    def end(self):
        time.sleep(0.001)
        return [self.rest(end) if self.ends[end] and not self.broken[end] else "closed" for end in (0, 1)]


def run(program):
    both = Run()
    results = []
    for step in program:
        result = both.step(*step)
        if step[1] == "poll" and isinstance(result, list):
            result = [events for _, events in result]
        results.append(result)
        # What one end did has reached the other before the next step.
        time.sleep(0.0005)
    results.append(both.end())
    for end in both.ends:
        if end:
            end.close()
    return results


def run_under(agent, mode, programs):
    """The programs' results with redirection in a mode, in a network namespace of their own, and the bytes that were
    redirected."""
    with tempfile.TemporaryDirectory() as state:
        report = os.path.join(state, "report.json")
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" "$@"', agent, "exec", "--quiet", "--mode",
             mode, "--state-dir", state, "--report", report, *ALLOWED.get(mode, []), "--", sys.executable, __file__, "run"],
            input=json.dumps(programs), stdout=subprocess.PIPE, text=True, check=True)
        ports = json.load(open(report))["ports"].values()
        return json.loads(done.stdout), sum(port["kernel_bytes"] for port in ports)


def differ(agent, mode, program):
    """Whether a program sees something else, three times in a row: what depends on the moment is no difference."""
    return all(run_under(agent, "off", [program])[0] != run_under(agent, mode, [program])[0] for _ in range(3))


def reduce(agent, mode, program):
    """Leaves out whatever is not needed for the difference."""
    index = 0
    while index < len(program):
        shorter = program[:index] + program[index + 1:]
        if differ(agent, mode, shorter):
            program = shorter
        else:
            index += 1
    return program


def compare(agent, seed, count, mode):
    found, redirected = 0, 0
    for first in range(seed, seed + count, BATCH):
        seeds = range(first, min(first + BATCH, seed + count))
        programs = [generate(seed) for seed in seeds]
        off, _ = run_under(agent, "off", programs)
        on, size = run_under(agent, mode, programs)
        redirected += size
        for seed_of, program, plain, other in zip(seeds, programs, off, on):
            if plain == other or not differ(agent, mode, program):
                continue
            found += 1
            least = reduce(agent, mode, program)
            print(f"seed {seed_of}: {json.dumps(least)}")
            for name in ("off", mode):
                print(f"  {name}: {run_under(agent, name, [least])[0][0]}", flush=True)
            if found >= MOST_FOUND:
                return 1
    print(f"{count} programs from seed {seed}, {redirected} bytes redirected, {found} differences")
    return 1 if found or not redirected else 0


if __name__ == "__main__":
    if sys.argv[1] == "run":
        print(json.dumps([run(program) for program in json.load(sys.stdin)]))
    else:
        sys.exit(compare(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
