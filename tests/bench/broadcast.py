"""The bare Python loop: what a chat room costs because it is written in Python, whatever it does.

A thread for each connection reads lines, and sends to everyone else under one lock. No checks, no
accounts, no display, no outboxes: a client that does not read stops everybody. The protocol and the
command line are those of broadcast.c.
"""

from __future__ import annotations

import socket
import sys
import threading

QUIET = sys.argv[1:] == ["quiet"]
lock = threading.Lock()
members: list[socket.socket] = []  # those who have logged in


def broadcast(sender: socket.socket, line: bytes) -> None:
    with lock:
        for member in members:
            if member is not sender:
                member.send(line)


def serve(connection: socket.socket) -> None:
    name = b""
    rest = b""
    while data := connection.recv(2048):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if name and line.startswith(b"send all "):
                broadcast(connection, name + b": " + line[9:] + b"\n")
            elif not name and line.startswith(b"login "):
                name = line.split()[1]
                with lock:
                    connection.send(b"login confirmed\n")
                    members.append(connection)
                if not QUIET:
                    broadcast(connection, name + b" joins.\n")


def run(connection: socket.socket) -> None:
    try:
        serve(connection)
    except ConnectionError:
        pass  # the other side is gone, which ends this connection as its end of file does
    finally:
        with lock:
            if connection in members:
                members.remove(connection)
        connection.close()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(f"broadcast on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=run, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
