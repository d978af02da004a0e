"""What the suites share: a real server process on a free port, and plain sockets as its clients."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server.py"
CLIENT = ROOT / "client.py"
USERS = ROOT / "users.txt"

PATIENCE = 15.0  # seconds until a missing event is a failure; no passing test waits for it

# Cheap to verify (2 blocks of scrypt), so that a thousand logins cost nothing. Password: "secret".
CHEAP_HASH = (
    "$scrypt$ln=1,r=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$NiUss+Ui7BmDduiM3yCR2oCf629FD+1j+oOf6rio8E4"
)
CHEAP_PASSWORD = "secret"


def child_environment() -> dict[str, str]:
    """Return the environment without what would hide a missing flush or change the output."""
    hidden = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "NO_COLOR")
    return {name: value for name, value in os.environ.items() if name not in hidden}


class LineReader:
    """Collects the lines of a stream in a thread, so that a test can wait for one."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seen: list[str] = []
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stream = stream
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for line in self._stream:
            self._news.put(line.decode().rstrip("\n"))
        self._news.put(None)

    def next(self, timeout: float = PATIENCE) -> str | None:
        """Return the next line, or None at the end of the stream. Raises queue.Empty."""
        line = self._news.get(timeout=timeout)
        if line is None:
            self._ended = True
        else:
            self.seen.append(line)
        return line

    def until(self, wanted: str | Callable[[str], bool], timeout: float = PATIENCE) -> str:
        """Return the first further line that is `wanted`, or for which it holds."""
        while True:
            line = self.next(timeout)
            if line is None:
                raise AssertionError(f"{wanted!r} never came; last lines: {self.seen[-5:]}")
            if line == wanted or (callable(wanted) and wanted(line)):
                return line

    def rest(self) -> list[str]:
        """Return all further lines, up to the end of the stream."""
        lines = []
        while (line := self.next()) is not None:
            lines.append(line)
        return lines

    def all(self) -> list[str]:
        """Return every line there was, up to the end of the stream."""
        if not self._ended:
            self.rest()
        return self.seen

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._stream.close()


class ServerProcess:
    """A server.py of our own, with a users file of our own."""

    def __init__(
        self,
        users: Path,
        options: Sequence[str] = (),
        *,
        program: Sequence[str] = (sys.executable, str(SERVER)),
    ) -> None:
        """program: what to run, such as server.py under a limit set by prlimit."""
        self.users = users
        self.process = subprocess.Popen(
            [*program, "--port", "0", "--users", str(users), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.display = LineReader(self.process.stdout)
        self.errors = LineReader(self.process.stderr)
        first = self.display.next()
        if first is None:
            raise AssertionError(f"the server did not start: {self.errors.rest()}")
        found = re.fullmatch(
            r"Chat room server on (.+):(\d+), room for \d+\. Ctrl-C stops it\.", first
        )
        assert found, first
        self.host = found.group(1).strip("[]")
        self.port = int(found.group(2))

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, **options: int) -> Talker:
        return Talker(self.host, self.port, **options)

    def login(self, userid: str, password: str = CHEAP_PASSWORD) -> Talker:
        talker = self.connect()
        talker.send(f"login {userid} {password}")
        talker.expect("login confirmed")
        return talker

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop the server, if it still runs, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.display.close()
            self.errors.close()


class Talker:
    """A client on a plain socket, a line at a time."""

    def __init__(self, host: str, port: int, *, receive_buffer: int = 0) -> None:
        """receive_buffer: bytes, as small as the kernel allows; 0 for the usual."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            self.socket.connect((host, port))
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

    def ask(self, command: str) -> str | None:
        self.send(command)
        return self.line()

    def rest(self) -> list[str]:
        """Return all further lines, up to the end of the connection."""
        lines = []
        while (line := self.line()) is not None:
            lines.append(line)
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
        self.socket.close()

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_cheap_users(path: Path, userids: Sequence[str]) -> None:
    """Write accounts whose password is CHEAP_PASSWORD and whose hash costs next to nothing."""
    path.write_text("".join(f"({userid}, {CHEAP_HASH})\n" for userid in userids))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chatroom-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def running_server(
    userids: Sequence[str] = ("Tom", "David", "Beth"), options: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Run a server whose users all have CHEAP_PASSWORD; stop it and check that it went well."""
    with temporary_folder() as folder:
        write_cheap_users(folder / "users.txt", userids)
        server = ServerProcess(folder / "users.txt", options)
        try:
            yield server
        finally:
            status = server.stop()
        assert status == 0, f"the server ended with status {status}: {server.errors.all()}"
