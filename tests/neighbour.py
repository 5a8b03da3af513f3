"""A foreign user of the agent's hooks: attaches programs of its own to a cgroup and to loopback, counts what
they see, and ends when its input does. `insert` makes it put sockets into a socket map of its own too.

usage: neighbour.py CGROUP [insert]
Each line of input is answered with the counts so far, as JSON."""
import ctypes
import json
import os
import platform
import socket
import struct
import sys

NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
MAP_CREATE, LOOK_UP, PROG_LOAD, PROG_ATTACH, LINK_CREATE = 0, 1, 5, 8, 28
ARRAY, SOCKHASH = 2, 18
SCHED_CLS, SOCK_OPS, SK_MSG, SOCK_ADDR = 3, 13, 16, 18
AT_SOCK_OPS, AT_SK_MSG, AT_CONNECT4, AT_CONNECT6, AT_TCX_INGRESS = 3, 7, 10, 11, 46
MAP_LOOKUP, GET_COOKIE, SOCK_HASH_UPDATE = 1, 46, 70
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, *parts):
    attributes = b"".join(parts)
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 128))
    result = libc.syscall(NUMBER, command, buffer, len(buffer))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return result


def instruction(code, dst=0, src=0, offset=0, value=0):
    return struct.pack("<BBhi", code, dst | src << 4, offset, value)


def load_map(dst, descriptor):
    return instruction(0x18, dst, 1, 0, descriptor) + instruction(0)


def call(helper):
    return instruction(0x85, value=helper)


def count(counts, slot):
    """r6 stays the context."""
    return b"".join([
        instruction(0x62, 10, 0, -4, slot),
        load_map(1, counts),
        instruction(0xbf, 2, 10), instruction(0x07, 2, value=-4),
        call(MAP_LOOKUP),
        instruction(0x15, 0, 0, 2, 0),
        instruction(0xb7, 1, value=1),
        instruction(0xdb, 0, 1),
    ])


def put_in(sockets):
    return b"".join([
        instruction(0xbf, 1, 6),
        call(GET_COOKIE),
        instruction(0x7b, 10, 0, -16),
        instruction(0xbf, 1, 6),
        load_map(2, sockets),
        instruction(0xbf, 3, 10), instruction(0x07, 3, value=-16),
        instruction(0xb7, 4),
        call(SOCK_HASH_UPDATE),
    ])


def returning(value):
    return instruction(0xb7, 0, value=value) + instruction(0x95)


KEEP = instruction(0xbf, 6, 1)


def load(kind, code, attach=0):
    log = ctypes.create_string_buffer(1 << 16)
    code = ctypes.create_string_buffer(code, len(code))
    name = b"GPL\0"
    license = ctypes.create_string_buffer(name)
    head = struct.pack("<IIQQIIQII16sII", kind, len(code) // 8, ctypes.addressof(code),
                       ctypes.addressof(license), 1, len(log), ctypes.addressof(log), 0, 0, b"", 0, attach)
    try:
        return bpf(PROG_LOAD, head)
    except OSError:
        sys.stderr.write(log.value.decode())
        raise


def make_map(kind, key, value, entries):
    return bpf(MAP_CREATE, struct.pack("<IIII", kind, key, value, entries))


def link(program, target, attach):
    return bpf(LINK_CREATE, struct.pack("<IIII", program, target, attach, 0))


def main():
    cgroup = os.open(sys.argv[1], os.O_RDONLY)
    counts = make_map(ARRAY, 4, 8, 8)
    names = ["established", "connect4", "connect6", "messages", "packets"]
    body = count(counts, 0)
    if "insert" in sys.argv[2:]:
        sockets = make_map(SOCKHASH, 8, 4, 1024)
        verdict = load(SK_MSG, KEEP + count(counts, 3) + returning(1))
        bpf(PROG_ATTACH, struct.pack("<IIII", sockets, verdict, AT_SK_MSG, 0))
        body += put_in(sockets)
    # Only connections that become established, from either end.
    jump = len(body) // 8
    chosen = b"".join([
        KEEP,
        instruction(0x61, 2, 6, 0),
        instruction(0x15, 2, 0, 1, 4),
        instruction(0x55, 2, 0, jump, 5),
    ])
    links = [
        link(load(SOCK_OPS, chosen + body + returning(1)), cgroup, AT_SOCK_OPS),
        link(load(SOCK_ADDR, KEEP + count(counts, 1) + returning(1), AT_CONNECT4), cgroup, AT_CONNECT4),
        link(load(SOCK_ADDR, KEEP + count(counts, 2) + returning(1), AT_CONNECT6), cgroup, AT_CONNECT6),
    ]
    # -1: let the next program decide (TCX_NEXT, Linux 6.6).
    packets = load(SCHED_CLS, KEEP + count(counts, 4) + returning(-1))
    links.append(link(packets, socket.if_nametoindex("lo"), AT_TCX_INGRESS))
    print("ready", flush=True)
    for _ in sys.stdin:
        found = {}
        for slot, name in enumerate(names):
            key, value = ctypes.c_uint32(slot), ctypes.c_uint64()
            bpf(LOOK_UP, struct.pack("<IIQQ", counts, 0, ctypes.addressof(key), ctypes.addressof(value)))
            found[name] = value.value
        print(json.dumps(found), flush=True)


main()
