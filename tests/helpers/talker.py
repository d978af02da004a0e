"""A plain socket as a client of the server, a line at a time."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
import time
from collections.abc import Callable

from tests.helpers.tls_socket import TlsSocket

PATIENCE = 15.0  # seconds until a missing event is a failure; no passing test waits for it


class Talker:
    """A client on a plain socket, a line at a time."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        receive_buffer: int = 0,
        source: str = "",
        certificate: str = "",
    ) -> None:
        """receive_buffer: bytes, as small as the kernel allows; 0 for the usual. source: an address
        of this machine's to come from. certificate: of a server with TLS, a file.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            if source:
                self.socket.bind((source, 0))
            self.socket.connect((host, port))
            if certificate:
                self.socket = TlsSocket(self.socket, trusting(certificate), host)
        except OSError:
            self.socket.close()
            raise
        self.buffer = b""

    @property
    def address(self) -> str:
        """As the server shows it."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, *lines: str) -> None:
        self.send_bytes("".join(f"{line}\n" for line in lines).encode())

    def send_bytes(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> str | None:
        """Return the next line, or None at the end. Raises TimeoutError or ConnectionError."""
        while b"\n" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                assert not self.buffer, f"the end in the middle of a line: {self.buffer!r}"
                return None
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def expect(self, *lines: str) -> None:
        """Hold the next lines to what they must be, to the letter."""
        for wanted in lines:
            got = self.line()
            assert got == wanted, f"wanted {wanted!r}, got {got!r}"

    def until(self, wanted: str | Callable[[str], bool]) -> list[str]:
        """Return the lines up to the first that is `wanted`, or for which it holds."""
        lines = []
        deadline = time.monotonic() + 4 * PATIENCE  # as others may go on talking for ever
        while (line := self.line()) is not None and time.monotonic() < deadline:
            lines.append(line)
            if line == wanted or (callable(wanted) and wanted(line)):
                return lines
        raise AssertionError(f"{wanted!r} never came; last lines: {lines[-5:]}")

    def ask(self, command: str) -> str | None:
        self.send(command)
        return self.line()

    def rest(self) -> list[str]:
        """Return all further lines, up to the end of the connection."""
        lines = []
        deadline = time.monotonic() + 4 * PATIENCE
        while (line := self.line()) is not None:
            lines.append(line)
            assert time.monotonic() < deadline, f"it never ends; last lines: {lines[-5:]}"
        return lines

    def finish(self) -> None:
        """Say that nothing more will come, but go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def close(self) -> None:
        if isinstance(self.socket, TlsSocket):
            with contextlib.suppress(OSError):  # it is gone already
                self.socket.setblocking(False)
                self.finish()
        self.socket.close()

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def trusting(certificate: str) -> ssl.SSLContext:
    """Return what trusts this certificate, a file, and no other, wherever its server listens."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    return context
