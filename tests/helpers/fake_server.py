"""A scripted server for the client's tests: it says what it is told to, true or not."""

from __future__ import annotations

import errno
import socket
import struct
import sys

PATIENCE = 10.0  # seconds until a missing event is a failure; no passing test waits for it


class FakeServer:
    """Listens on a free port; `accept` the client, then say and hear whatever the test wants."""

    def __init__(self, receive_buffer: int = 0) -> None:
        """receive_buffer: in bytes, as server.py has it; 0 for the system's own."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        if receive_buffer:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.listener.settimeout(PATIENCE)
        self.port: int = self.listener.getsockname()[1]
        self.connection: socket.socket | None = None
        self.received = b""

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        self.listener.close()

    def accept(self) -> None:
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(PATIENCE)

    @property
    def client(self) -> socket.socket:
        assert self.connection is not None, "no client yet"
        return self.connection

    def say(self, *lines: str) -> None:
        self.say_bytes("".join(f"{line}\n" for line in lines).encode())

    def say_bytes(self, data: bytes) -> None:
        self.client.sendall(data)

    def hear(self) -> str | None:
        """Return the next line that the client sends, None at its end of file."""
        while b"\n" not in self.received:
            data = self.client.recv(65536)
            if not data:
                assert not self.received, f"the end in the middle of a line: {self.received!r}"
                return None
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        return line.decode()

    def unheard(self) -> int:
        """Return how many bytes have arrived here and were not read. Not on Windows."""
        import fcntl
        import termios

        count = fcntl.ioctl(self.client, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def hear_all(self) -> list[str]:
        """Return all further lines up to the client's end of file."""
        lines = []
        while (line := self.hear()) is not None:
            lines.append(line)
        return lines

    def hear_reset(self) -> list[str]:
        """Return all further lines up to the client's reset; a plain end is a failure."""
        lines = []
        try:
            while (line := self.hear()) is not None:
                lines.append(line)
            self.client.getpeername()  # after an end that was read, this alone tells of a reset
        except ConnectionResetError:
            return lines
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                return lines
            raise
        raise AssertionError("the connection was closed without a reset")

    def die(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def reset(self) -> None:
        """Close the connection as a crashed server's kernel would."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.die()
