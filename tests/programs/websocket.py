"""An echo of frames."""
import asyncio
import hashlib
import sys

import websockets


async def echo(socket):
    async for frame in socket:
        await socket.send(frame)


async def serve(port):
    async with websockets.serve(echo, "127.0.0.1", port, max_size=None, compression=None):
        await asyncio.Future()


async def ask(port):
    async with websockets.connect(f"ws://127.0.0.1:{port}", max_size=None, compression=None) as socket:
        total = 0
        for i in range(1000):
            await socket.send(b"x" * (i % 500))
            total += len(await socket.recv())
        print("small", total)
        frame = bytes(range(256)) * (20 << 12)
        for _ in range(4):
            await socket.send(frame)
            print("large", hashlib.sha256(await socket.recv()).hexdigest())


task, port = sys.argv[1:]
asyncio.run({"serve": serve, "ask": ask}[task](int(port)))
