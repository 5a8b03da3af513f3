"""The same for asyncio: sessions as streams of an event loop, which waits for their descriptors.

    async with Service() as service:
        async for session in service.socket("names"):
            asyncio.ensure_future(greet(session))
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import AsyncIterator, Optional, Type

import patchbay

__all__ = ["Service", "Plug", "Socket", "Session"]


async def _readable(descriptor: int) -> None:
    """Waits until a descriptor is readable. One waiter for each at a time."""
    loop = asyncio.get_running_loop()
    ready: "asyncio.Future[None]" = loop.create_future()
    loop.add_reader(descriptor, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


class Service:
    """This service's instance, in a running event loop."""

    def __init__(self) -> None:
        self._service = patchbay.Service()

    async def __aenter__(self) -> "Service":
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Tells the agent that the instance ends."""
        self._service.close()

    def plug(self, name: str) -> "Plug":
        """A plug of this service."""
        return Plug(self._service.plug(name))

    def socket(self, name: str) -> "Socket":
        """A socket of this service; to be taken once."""
        return Socket(self._service.socket(name))

    async def shutdown_requested(self) -> None:
        """Waits until the instance is asked to end."""
        await _readable(self._service.fileno())


class Plug:
    """The client side of an abstract connection."""

    def __init__(self, plug: patchbay.Plug) -> None:
        self._plug = plug

    async def connect(self, timeout: Optional[float] = None) -> "Session":
        """A new session with whatever instance the Manager chooses."""
        loop = asyncio.get_running_loop()
        return Session(await loop.run_in_executor(None, self._plug.connect, timeout))


class Socket:
    """The server side of abstract connections."""

    def __init__(self, socket: patchbay.Socket) -> None:
        self._socket = socket

    async def accept(self) -> "Session":
        """The next session. Cancel safe."""
        while True:
            try:
                return Session(self._socket.accept(0))
            except BlockingIOError:
                await _readable(self._socket.fileno())

    async def __aiter__(self) -> AsyncIterator["Session"]:
        while True:
            yield await self.accept()


class Session:
    """A session; one task may read while another writes."""

    def __init__(self, session: patchbay.Session) -> None:
        session.settimeout(0)
        self._session = session
        self._woken: "set[asyncio.Future[None]]" = set()
        self._buffer = bytearray()

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    async def _ready(self) -> None:
        """Reader and writer wait for the same descriptor, and both look again."""
        loop = asyncio.get_running_loop()
        waiter: "asyncio.Future[None]" = loop.create_future()
        if not self._woken:
            loop.add_reader(self._session.fileno(), self._wake)
        self._woken.add(waiter)
        try:
            await waiter
        finally:
            self._woken.discard(waiter)
            if not self._woken and self._session._pointer is not None:
                loop.remove_reader(self._session.fileno())

    def _wake(self) -> None:
        for waiter in self._woken:
            if not waiter.done():
                waiter.set_result(None)

    async def read(self, size: int = 65_536) -> bytes:
        """At most so many bytes; none at the end. Cancel safe."""
        if self._buffer:
            found = bytes(self._buffer[:size])
            del self._buffer[:size]
            return found
        while True:
            try:
                return self._session.recv(size)
            except BlockingIOError:
                await self._ready()

    async def readexactly(self, size: int) -> bytes:
        """So many bytes; asyncio.IncompleteReadError if the end comes before."""
        found = bytearray()
        while len(found) < size:
            more = await self.read(size - len(found))
            if not more:
                raise asyncio.IncompleteReadError(bytes(found), size)
            found += more
        return bytes(found)

    async def readline(self, limit: int = 1 << 20) -> bytes:
        """Bytes up to a newline and with it, or up to the end; ValueError if it is longer than the limit."""
        line, looked = self._buffer, 0
        while True:
            end = line.find(b"\n", looked)
            if end >= 0:
                found = bytes(line[: end + 1])
                del line[: end + 1]
                return found
            looked = len(line)
            if looked > limit:
                raise ValueError(f"a line is longer than {limit} bytes")
            self._buffer = bytearray()
            try:
                more = await self.read()
            finally:
                line += self._buffer
                self._buffer = line
            if not more:
                found = bytes(line)
                del line[:]
                return found
            line += more

    async def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Writes everything, as fast as the peer reads."""
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[self._session.send(view[: 1 << 20]) :]
            except BlockingIOError:
                await self._ready()

    def finish(self) -> None:
        """Says that nothing follows."""
        self._session.finish()

    @property
    def close_requested(self) -> bool:
        """Whether the Manager asks to close it."""
        return self._session.close_requested

    @property
    def in_memory(self) -> bool:
        """Whether what is written goes through shared memory now."""
        return self._session.in_memory

    def close(self) -> None:
        """Closes it; the agent is told."""
        if self._woken:
            asyncio.get_running_loop().remove_reader(self._session.fileno())
            self._wake()
        self._session.close()
