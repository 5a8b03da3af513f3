"""Forwards connections: forward.py ADDRESS PORT TO_ADDRESS TO_PORT. It knows nothing of SSMMP."""
import socket
import sys
import threading


def copy(source, destination):
    while data := source.recv(65536):
        destination.sendall(data)
    destination.shutdown(socket.SHUT_WR)


def serve(user, to):
    with user, socket.create_connection(to) as back:
        thread = threading.Thread(target=copy, args=(user, back))
        thread.start()
        copy(back, user)
        thread.join()


listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=serve, args=(accepted, (sys.argv[3], int(sys.argv[4])))).start()
