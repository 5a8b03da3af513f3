"""A web server that sends and takes bodies, and its client."""
import asyncio
import hashlib
import sys

from aiohttp import ClientSession, web

LARGE = 16 << 20
BODY = bytes(range(256)) * (LARGE >> 8)


async def get(request):
    return web.Response(body=BODY[: int(request.match_info["size"])])


async def put(request):
    taken = hashlib.sha256()
    async for part in request.content.iter_any():
        taken.update(part)
    return web.Response(text=taken.hexdigest())


def serve(port):
    app = web.Application(client_max_size=2 * LARGE)
    app.add_routes([web.get("/{size}", get), web.put("/", put)])
    web.run_app(app, host="127.0.0.1", port=port, print=None)


async def asks(port):
    at = f"http://127.0.0.1:{port}/"

    async def read(session, size):
        async with session.get(f"{at}{size}") as response:
            return await response.read()

    async with ClientSession() as session:
        print("small", sum([len(await read(session, 100 + i % 50)) for i in range(800)]))
        print("at once", sum(map(len, await asyncio.gather(*[read(session, 20_000) for _ in range(40)]))))
        for _ in range(4):
            print("got", hashlib.sha256(await read(session, LARGE)).hexdigest())
            async with session.put(at, data=BODY) as response:
                print("put", await response.text())


task, port = sys.argv[1:]
if task == "serve":
    serve(int(port))
else:
    asyncio.run(asks(port))
