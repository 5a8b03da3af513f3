"""Runs a program that may make no Unix socket: socket(AF_UNIX, ...) fails with EPERM, by a seccomp filter."""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERROR = 0x7FFF0000, 0x00050000
SOCKET = {"x86_64": 41, "aarch64": 198}[platform.machine()]
AF_UNIX, EPERM = 1, 1

rows = [
    (LOAD, 0, 0, 0),  # the call's number
    (EQUAL, 0, 3, SOCKET),
    (LOAD, 0, 0, 16),  # its first argument
    (EQUAL, 0, 1, AF_UNIX),
    (RETURN, 0, 0, ERROR | EPERM),
    (RETURN, 0, 0, ALLOW),
]
code = b"".join(struct.pack("=HBBI", *row) for row in rows)
instructions = ctypes.create_string_buffer(code)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


program = Program(len(rows), ctypes.addressof(instructions))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
    PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
):
    raise OSError(ctypes.get_errno(), "no seccomp filter")
os.execv(sys.argv[1], sys.argv[1:])
