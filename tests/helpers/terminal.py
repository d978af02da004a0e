"""A pseudo-terminal with a client on it: type, wait for what it writes, look at its settings."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

from tests.helpers.fake_server import PATIENCE, FakeServer
from tests.helpers.process import CLIENT, child_environment

UP, DOWN, LEFT, DELETE = "\x1b[A", "\x1b[B", "\x1b[D", "\x1b[3~"
CTRL = {letter: chr(ord(letter) - 64) for letter in "ABCDEFGKLNPRUWYZ"}


class Terminal:
    """A pseudo-terminal with a client on it, as its session's leader."""

    def __init__(
        self,
        server: FakeServer,
        *,
        program: Sequence[str] = ("-m", "client"),
        columns: int = 80,
        echo: bool = True,
        environment: dict[str, str] | None = None,
        options: Sequence[str] = (),
        stdin: int | None = None,
        stdout: int | None = None,
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns)
        if not echo:  # as Emacs' shell has it
            self.set_echo(False)
        self.settings = termios.tcgetattr(self.slave)
        self.output = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.seen = 0  # characters of the output that were waited for
        self.process = subprocess.Popen(
            [sys.executable, *program, "--port", str(server.port), *options],
            stdin=self.slave if stdin is None else stdin,
            stdout=self.slave if stdout is None else stdout,
            stderr=self.slave,
            env=child_environment() | {"TERM": "xterm"} | (environment or {}),
            cwd=CLIENT.parent,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no threads)
        )
        server.accept()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def resize(self, columns: int, rows: int = 24) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def set_echo(self, on: bool) -> None:
        settings = termios.tcgetattr(self.slave)
        settings[3] = settings[3] | termios.ECHO if on else settings[3] & ~termios.ECHO
        termios.tcsetattr(self.slave, termios.TCSANOW, settings)

    def type(self, keys: str) -> None:
        data = keys.encode("utf-8", "surrogateescape")
        deadline = time.monotonic() + PATIENCE
        while data:
            _, can_write, _ = select.select([self.master], [self.master], [], PATIENCE)
            self.read(0)  # or the client could not write, and so would not read
            if can_write:
                data = data[os.write(self.master, data[:1024]) :]
            assert time.monotonic() < deadline, "the client does not read its keyboard"

    def read(self, timeout: float) -> bool:
        """Take in what the client writes; tell whether there was anything."""
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        self.output += self.decoder.decode(os.read(self.master, 65536))
        return True

    def expect(self, wanted: str) -> str:
        """Wait until `wanted` comes; return what came before it since the last time."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.output.find(wanted, self.seen)) < 0:
            left = deadline - time.monotonic()
            if left < 0 or not self.read(left):
                raise AssertionError(f"{wanted!r} never came: {self.output[self.seen :][-2000:]!r}")
        before = self.output[self.seen : found]
        self.seen = found + len(wanted)
        return before

    def status(self) -> int:
        """Wait for the client's end; return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self.read(0.01)
            if time.monotonic() > deadline:
                raise AssertionError(f"still running: {self.output[self.seen :][-2000:]!r}")
        while self.read(0):
            pass
        return self.process.returncode

    def is_sane(self) -> bool:
        return termios.tcgetattr(self.slave) == self.settings

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON
