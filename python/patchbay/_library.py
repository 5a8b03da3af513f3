"""libpatchbay.so, as ctypes sees it: beside this file in a wheel, else where PATCHBAY_LIBRARY says, else the system's."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Optional, Type

FOREVER = -1


def _load() -> ctypes.CDLL:
    beside = Path(__file__).with_name("libpatchbay.so")
    return ctypes.CDLL(
        os.environ.get("PATCHBAY_LIBRARY") or (str(beside) if beside.exists() else "libpatchbay.so"), use_errno=True
    )


library = _load()
_pointer, _int, _bytes, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
for _name, _result, _arguments in [
    ("patchbay_error", _bytes, []),
    ("patchbay_start", _pointer, []),
    ("patchbay_service_fd", _int, [_pointer]),
    ("patchbay_shutdown_requested", _int, [_pointer]),
    ("patchbay_set_overloaded", None, [_pointer, _int]),
    ("patchbay_end", None, [_pointer]),
    ("patchbay_connect", _pointer, [_pointer, _bytes, _int]),
    ("patchbay_listen", _pointer, [_pointer, _bytes]),
    ("patchbay_accept", _pointer, [_pointer, _int]),
    ("patchbay_socket_fd", _int, [_pointer]),
    ("patchbay_socket_close", None, [_pointer]),
    ("patchbay_read", ctypes.c_ssize_t, [_pointer, _pointer, _size]),
    ("patchbay_write", ctypes.c_ssize_t, [_pointer, _bytes, _size]),
    ("patchbay_finish", _int, [_pointer]),
    ("patchbay_set_timeout", None, [_pointer, _int]),
    ("patchbay_session_fd", _int, [_pointer]),
    ("patchbay_close_requested", _int, [_pointer]),
    ("patchbay_in_memory", _int, [_pointer]),
    ("patchbay_close", None, [_pointer]),
]:
    _function = getattr(library, _name)
    _function.restype, _function.argtypes = _result, _arguments


def call(kind: Type[OSError], function: Any, *arguments: Any) -> Any:
    """Calls; raises where it failed: what OSError makes of EAGAIN, ETIMEDOUT and EPIPE, else `kind`."""
    result = function(*arguments)
    if result is None or result == -1:
        code = ctypes.get_errno()
        text = (library.patchbay_error() or b"").decode(errors="replace")
        usual = OSError(code, text)
        raise usual if type(usual) is not OSError else kind(code, text)
    return result


def writable(buffer: "bytearray | memoryview") -> Any:
    """Where a buffer's bytes are."""
    return (ctypes.c_char * len(buffer)).from_buffer(buffer)


def milliseconds(seconds: Optional[float]) -> int:
    if seconds is None:
        return FOREVER
    return 0 if seconds <= 0 else max(1, int(seconds * 1000))
