"""The same in asyncio."""

import asyncio

from patchbay.aio import Service, Session


async def greet(session: Session) -> None:
    async with session:
        while name := await session.readline():
            await session.write(b"hello, " + name)


async def main() -> None:
    async with Service() as service:
        greeting = set()

        async def accept() -> None:
            async for session in service.socket("names"):
                task = asyncio.ensure_future(greet(session))
                greeting.add(task)
                task.add_done_callback(greeting.discard)

        accepting = asyncio.ensure_future(accept())
        await service.shutdown_requested()
        accepting.cancel()


asyncio.run(main())
