"""A real server process on a free port, with a users.txt of its own, as it is or with a change."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from tests.helpers import talker
from tests.helpers.talker import Talker

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server.py"
CLIENT = ROOT / "client.py"
USERS = ROOT / "users.txt"

Test = TypeVar("Test", bound=Callable[..., None])

PATIENCE = (
    talker.PATIENCE
)  # seconds until a missing event is a failure; no passing test waits for it

# Cheap to verify (2 blocks of scrypt), so that a thousand logins cost nothing. Password: "secret".
CHEAP_HASH = (
    "$scrypt$ln=1,r=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$NiUss+Ui7BmDduiM3yCR2oCf629FD+1j+oOf6rio8E4"
)
CHEAP_PASSWORD = "secret"


# Windows sends a Ctrl-C to all at a console, so also to the tests. There the signals come to the
# server alone: it is started with a thread that raises those that come in on standard input.
RAISE_SIGNALS = """
import signal, sys, threading
def raise_signals():
    for line in sys.stdin:
        signal.raise_signal(int(line))
threading.Thread(target=raise_signals, daemon=True).start()
"""
IS_WINDOWS = os.name == "nt"
# As modules: their byte code is kept, where each start of a script compiles 2,000 lines anew.
AS_IT_IS: tuple[str, ...] = (sys.executable, "-m", "server")
CLIENT_AS_IT_IS = (sys.executable, "-m", "client")
SIGNALLED_BY_LINES = (
    f"{RAISE_SIGNALS}import runpy\nrunpy.run_path({str(SERVER)!r}, run_name='__main__')"
)
if IS_WINDOWS:
    AS_IT_IS = (sys.executable, "-c", SIGNALLED_BY_LINES)


def child_environment() -> dict[str, str]:
    """Return the environment with the programs to be found, and without what would hide a missing
    flush or change the output."""
    hidden = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"PYTHONPATH": str(ROOT)}


def altered_server(
    constants: Mapping[str, object] | None = None, *, first: str = "", patch: str = ""
) -> list[str]:
    """Return the command that runs server.py with something about it changed.

    constants: of server.py, to be other than they are; first: Python to run before server.py is
    imported; patch: Python to run after that, which finds it as `server`. Both find `os` and `sys`.
    """
    first = RAISE_SIGNALS + first if IS_WINDOWS else first
    lines = ["import os, sys", first, f"sys.path.insert(0, {str(ROOT)!r})", "import server"]
    for name, value in (constants or {}).items():
        lines.append(f"assert hasattr(server, {name!r}), 'server.py has no {name}'")
        lines.append(f"server.{name} = {value!r}")
    # As server.py does it itself: an ordinary exit would first finish the hashes under way.
    end = "status = server.main()\nsys.stderr.flush()\nos._exit(status)"
    return [sys.executable, "-c", "\n".join([*lines, patch, end])]


def not_on_windows(reason: str) -> Callable[[Test], Test]:
    """Return a decorator for a test of what Windows does not have."""
    return unittest.skipIf(IS_WINDOWS, reason)


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
            self._news.put(line.decode().rstrip("\r\n"))
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
        program: Sequence[str] = AS_IT_IS,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        """program: what to run, such as what altered_server returns."""
        self.users = users
        # What talkers have to trust; empty without TLS.
        self.certificate = (
            options[options.index("--tls-cert") + 1] if "--tls-cert" in options else ""
        )
        self.takes_signals_as_lines = any(RAISE_SIGNALS in part for part in program)
        self.process = subprocess.Popen(
            [*program, "--port", "0", "--users", str(users), *options],
            stdin=subprocess.PIPE if self.takes_signals_as_lines else stdin,
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
            r"Chat room server on (.+):(\d+), room for \d+(, .*)?\. Ctrl-C stops it\.", first
        )
        assert found, first
        self.host = found.group(1).strip("[]")
        self.port = int(found.group(2))

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self, *, receive_buffer: int = 0, source: str = "") -> Talker:
        """Return a talker, over TLS if the room is encrypted; see Talker for the options."""
        return Talker(
            self.host,
            self.port,
            receive_buffer=receive_buffer,
            source=source,
            certificate=self.certificate,
        )

    def login(self, userid: str, password: str = CHEAP_PASSWORD) -> Talker:
        talker = self.connect()
        talker.send(f"login {userid} {password}")
        talker.expect("login confirmed")
        return talker

    def send_signal(self, number: int) -> None:
        if self.takes_signals_as_lines:
            assert self.process.stdin is not None
            self.process.stdin.write(f"{number}\n".encode())
            self.process.stdin.flush()
        else:
            self.process.send_signal(number)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Stop the server, if it still runs, and return its exit status."""
        if self.process.poll() is None:
            self.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.display.close()
            self.errors.close()


def write_cheap_users(path: Path, userids: Sequence[str]) -> None:
    """Write accounts whose password is CHEAP_PASSWORD and whose hash costs next to nothing."""
    path.touch(0o600)
    path.write_text("".join(f"({userid}, {CHEAP_HASH})\n" for userid in userids))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chatroom-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def serving(
    users: Path, options: Sequence[str] = (), *, program: Sequence[str] = AS_IT_IS
) -> Iterator[ServerProcess]:
    """Run a server on a users.txt; stop it and check that it went well."""
    server = ServerProcess(users, options, program=program)
    try:
        yield server
    finally:
        status = server.stop()
    complaints = server.errors.all()
    assert status == 0, f"the server ended with status {status}: {complaints}"
    assert not any("Traceback" in line for line in complaints), complaints


@contextlib.contextmanager
def running_server(
    userids: Sequence[str] = ("Tom", "David", "Beth"),
    options: Sequence[str] = (),
    *,
    program: Sequence[str] = AS_IT_IS,
) -> Iterator[ServerProcess]:
    """Run a server whose users all have CHEAP_PASSWORD; stop it and check that it went well."""
    with temporary_folder() as folder:
        write_cheap_users(folder / "users.txt", userids)
        with serving(folder / "users.txt", options, program=program) as server:
            yield server


def run_server(
    *options: str, program: Sequence[str] = AS_IT_IS, patience: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a server that ends by itself, to its end. patience: seconds."""
    return subprocess.run(
        [*program, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
        env=child_environment(),
        check=False,
    )


def shipped_users() -> bytes:
    """Return users.txt as it is shipped. Raises SkipTest where git does not know.

    The file beside server.py may have been in use: with accounts added, changed and removed, and
    with passwords in plain text that the next start will hash. It proves nothing.
    """
    if not shutil.which("git"):
        raise unittest.SkipTest("there is no git here")
    command = ["git", "show", f"HEAD:./{USERS.name}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if shown.returncode:
        raise unittest.SkipTest("this is no clone, so that nothing tells what was shipped")
    return shown.stdout


class ServerTest(unittest.TestCase):
    """Each test has a server of its own unless it says otherwise."""

    def start(
        self, *userids: str, options: Sequence[str] = (), program: Sequence[str] = AS_IT_IS
    ) -> ServerProcess:
        userids = userids or ("Tom", "David", "Beth")
        return self.enterContext(running_server(userids, options, program=program))

    def connect(self, running: ServerProcess) -> Talker:
        return self.enterContext(running.connect())

    def login(self, running: ServerProcess, *userids: str) -> list[Talker]:
        """Log users in one after the other, and have each hear of those after it."""
        talkers: list[Talker] = []
        for userid in userids:
            talkers.append(self.enterContext(running.login(userid)))
            for earlier in talkers[:-1]:
                earlier.expect(f"{userid} joins.")
        return talkers
