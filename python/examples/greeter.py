"""Greets whoever's name comes in a line; a thread for each session. The greeter of examples/hello in Python."""

import threading

from patchbay import Service, Session


def greet(session: Session) -> None:
    with session, session.makefile() as lines:
        for name in lines:
            lines.write(b"hello, " + name)
            lines.flush()


def main() -> None:
    with Service() as service:
        names = service.socket("names")
        while not service.shutdown_requested:
            try:
                session = names.accept(timeout=0.1)
            except TimeoutError:
                continue
            threading.Thread(target=greet, args=[session], daemon=True).start()


main()
