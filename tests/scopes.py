"""Both ends of some sessions, one after the other: scopes.py SESSIONS [PORT] [PAUSE]; a file's name as the last
argument is made once the first session is done."""
import socket
import sys
import time

sessions = int(sys.argv[1])
port = int(sys.argv[2]) if len(sys.argv) > 2 else 0
pause = float(sys.argv[3]) if len(sys.argv) > 3 else 0
listener = socket.create_server(("127.0.0.1", port))
for number in range(sessions):
    with socket.create_connection(listener.getsockname()) as source:
        destination, _ = listener.accept()
        with destination:
            source.sendall(b"ping")
            assert destination.recv(9) == b"ping"
            destination.sendall(b"pong")
            assert source.recv(9) == b"pong"
    if number == 0 and len(sys.argv) > 4:
        open(sys.argv[4], "w").close()
    time.sleep(pause)
print("well", flush=True)
