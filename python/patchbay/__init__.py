"""What a Patchbay service in Python uses: its plugs and sockets as streams.

A service's code holds no protocol. `Service` reads how the agent has configured the instance; `service.plug(name).connect()`
gives a session with whatever instance the Manager chose, `service.socket(name).accept()` the other side. Where both ends are
on one node their bytes go through shared memory. `patchbay.aio` is the same for asyncio.

    with Service() as service:
        names = service.socket("names")
        while not service.shutdown_requested:
            session = names.accept(timeout=1)

Sessions are used by one thread at a time.
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import Iterator, Optional, Type

from ._library import FOREVER, call, library, milliseconds

__all__ = ["Service", "Plug", "Socket", "Session", "Error"]


class Error(OSError):
    """The Manager refused, the configuration is wrong, or a connection failed: `errno` and a text."""


class _Owned:
    """Something that libpatchbay made and takes back."""

    _give_back: str

    def __init__(self, pointer: int) -> None:
        self._pointer: Optional[int] = pointer

    def _at(self) -> int:
        if self._pointer is None:
            raise ValueError(f"this {type(self).__name__.lower()} is closed")
        return self._pointer

    def close(self) -> None:
        """Closes it; again does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            getattr(library, self._give_back)(pointer)

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self.close()

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()


class Service(_Owned):
    """This service's instance. One in a process."""

    _give_back = "patchbay_end"

    def __init__(self) -> None:
        super().__init__(call(Error, library.patchbay_start))

    def __enter__(self) -> "Service":
        return self

    def plug(self, name: str) -> "Plug":
        """A plug of this service."""
        return Plug(self, name)

    def socket(self, name: str) -> "Socket":
        """A socket of this service; to be taken once."""
        return Socket(call(Error, library.patchbay_listen, self._at(), name.encode()))

    @property
    def shutdown_requested(self) -> bool:
        """Whether the instance is asked to end: finish what is at hand and close the service."""
        return call(Error, library.patchbay_shutdown_requested, self._at()) != 0

    def fileno(self) -> int:
        """A descriptor that is readable once the instance is asked to end."""
        return call(Error, library.patchbay_service_fd, self._at())

    def set_overloaded(self, overloaded: bool) -> None:
        """Says whether this instance has as much work as it can do; the Manager then prefers others."""
        library.patchbay_set_overloaded(self._at(), int(overloaded))


class Plug:
    """The client side of an abstract connection."""

    def __init__(self, service: Service, name: str) -> None:
        self._service, self.name = service, name

    def connect(self, timeout: Optional[float] = None) -> "Session":
        """A new session with whatever instance the Manager chooses, within so many seconds."""
        at, name = self._service._at(), self.name.encode()
        return Session(call(Error, library.patchbay_connect, at, name, milliseconds(timeout)))


class Socket(_Owned):
    """The server side of abstract connections."""

    _give_back = "patchbay_socket_close"

    def __enter__(self) -> "Socket":
        return self

    def accept(self, timeout: Optional[float] = None) -> "Session":
        """The next session; TimeoutError after so many seconds, BlockingIOError after none."""
        return Session(call(Error, library.patchbay_accept, self._at(), milliseconds(timeout)))

    def __iter__(self) -> Iterator["Session"]:
        while True:
            yield self.accept()

    def fileno(self) -> int:
        """A descriptor that is readable when a session waits."""
        return call(Error, library.patchbay_socket_fd, self._at())


class Session(_Owned):
    """A session: read and written like a connected socket. Closing it tells the agent."""

    _give_back = "patchbay_close"

    def __enter__(self) -> "Session":
        return self

    def recv(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.recv_into(buffer)])

    def recv_into(self, buffer: "bytearray | memoryview") -> int:
        """Reads into a buffer; how many bytes, 0 at the end."""
        from ._library import writable

        return call(Error, library.patchbay_read, self._at(), writable(buffer), len(buffer))

    def send(self, data: "bytes | bytearray | memoryview") -> int:
        """Writes what there is room for; how many bytes."""
        data = bytes(data)
        return call(Error, library.patchbay_write, self._at(), data, len(data))

    def sendall(self, data: "bytes | bytearray | memoryview") -> None:
        """Writes everything."""
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view[: 1 << 20]) :]

    def finish(self) -> None:
        """Says that nothing follows; the peer reads what was written, then the end."""
        call(Error, library.patchbay_finish, self._at())

    def settimeout(self, timeout: Optional[float]) -> None:
        """How long reads and writes wait, in seconds: None for ever, 0 not at all (BlockingIOError)."""
        library.patchbay_set_timeout(self._at(), milliseconds(timeout))

    def fileno(self) -> int:
        """After BlockingIOError: try again, reading and writing, when this descriptor is readable."""
        return call(Error, library.patchbay_session_fd, self._at())

    def makefile(self) -> io.BufferedRWPair:
        """Buffered, with readline. Close the session itself."""
        raw = _Raw(self)
        return io.BufferedRWPair(raw, raw)

    @property
    def close_requested(self) -> bool:
        """Whether the Manager asks to close it: finish the message at hand, close it within 3 seconds, connect again."""
        return call(Error, library.patchbay_close_requested, self._at()) != 0

    @property
    def in_memory(self) -> bool:
        """Whether what is written goes through shared memory now."""
        return call(Error, library.patchbay_in_memory, self._at()) != 0


class _Raw(io.RawIOBase):
    def __init__(self, session: Session) -> None:
        self._session = session

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer) -> Optional[int]:  # type: ignore[override]
        try:
            return self._session.recv_into(buffer)
        except BlockingIOError:
            return None

    def write(self, data) -> Optional[int]:  # type: ignore[override]
        try:
            return self._session.send(data)
        except BlockingIOError:
            return None
