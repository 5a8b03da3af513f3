"""A gRPC service without generated code: bytes in, bytes out."""
import hashlib
import sys
from concurrent import futures

import grpc

PART = bytes(range(256)) * 256
PARTS = 128


def echo(request, context):
    return request


def download(request, context):
    for _ in range(int(request)):
        yield PART


def upload(parts, context):
    taken = hashlib.sha256()
    for part in parts:
        taken.update(part)
    return taken.hexdigest().encode()


def serve(at):
    handlers = {
        "echo": grpc.unary_unary_rpc_method_handler(echo),
        "download": grpc.unary_stream_rpc_method_handler(download),
        "upload": grpc.stream_unary_rpc_method_handler(upload),
    }
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t", handlers),))
    server.add_insecure_port(at)
    server.start()
    server.wait_for_termination()


def ask(at):
    with grpc.insecure_channel(at) as channel:
        call = channel.unary_unary("/t/echo")
        print("echo", sum(len(call(b"x" * (i % 200))) for i in range(1500)))
        for _ in range(3):
            got = hashlib.sha256()
            for part in channel.unary_stream("/t/download")(str(PARTS).encode()):
                got.update(part)
            print("download", got.hexdigest())
            print("upload", channel.stream_unary("/t/upload")(iter([PART] * PARTS)).decode())


if __name__ == "__main__":
    task, port = sys.argv[1:]
    {"serve": serve, "ask": ask}[task](f"127.0.0.1:{port}")
