"""What a fault is given to happen in: a server, witnesses in its room, and what measures it."""

from __future__ import annotations

import contextlib
import re
import selectors
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.helpers.census import Census, settle, take_census
from tests.helpers.certificates import tls_options
from tests.helpers.process import (
    AS_IT_IS,
    CHEAP_HASH,
    CHEAP_PASSWORD,
    PATIENCE,
    ServerProcess,
    altered_server,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.suite import name_of
from tests.helpers.talker import Talker
from tests.helpers.tls_socket import TlsSocket
from tests.long.faults.witnesses import PING, PONG, Trip, Witnesses

DELAY_LIMIT = 1.0  # seconds for a round trip; gross, as the machine may be busy with other things
BIG = "\N{GRINNING FACE}" * 256  # the longest message: 1,024 bytes
SMALL_BUFFER = 4096  # bytes; a client that has no more than that to read into stalls soon
LONG = "x" * 256  # the same in ASCII, which may be torn anywhere
STALLING_LINES = 3600  # of LONG: more than the kernel takes, and less than OUTBOX_LIMIT
FAREWELL = "The server is shutting down."
SAVED = "New user account created. Please login."
UNSAVED = "Denied. The account could not be saved."
BUSY = "Denied. The server is busy."
REFUSED = "Denied. User name or password incorrect."
REAL_PASSWORD = "Tom11"  # of REAL_HASH, which costs what a hash costs
REAL_HASH = (
    "$scrypt$ln=14,r=8,p=1$sigy4+/uH27ihw5RQjWu6w$o1hzSKet9euPQ8J7dMC5zflU3gsKP2NOF+/UnqUMVD4"
)

SMALL_DOOR = ("--max-clients", "100")  # options with which 100 may wait at the door, not 2,000

Number = TypeVar("Number", int, float)


def is_who(line: str) -> bool:
    return line.startswith(f"{PING}, {PONG}")


class Scene:
    """A server, and the witnesses in its room."""

    def __init__(self, stage: Stage, server: ServerProcess, pause: float, private: bool) -> None:
        self.stage = stage
        self.server = server
        self.witnesses = Witnesses(server, pause, private)
        self.talkers: list[Talker] = []
        self.statuses: tuple[int, ...] = (0,)  # that the server may end with
        self.witnesses.rounds(1)  # they are in

    def connect(self, *, receive_buffer: int = 0) -> Talker:
        self.talkers.append(self.server.connect(receive_buffer=receive_buffer))
        return self.talkers[-1]

    def connect_and_settle(self, source: str = "") -> Talker:
        """Connect until it lasts: over TLS, who is evicted within its handshake is told nothing."""
        while True:
            try:
                talker = self.server.connect(source=source)
                if isinstance(talker.socket, TlsSocket):
                    talker.socket.settle()
            except ConnectionError:
                continue
            self.talkers.append(talker)
            return talker

    def connect_from(self, source: str) -> Talker:
        """source: an address of its own: any 127.x.y.z is this machine."""
        self.talkers.append(self.server.connect(source=source))
        return self.talkers[-1]

    def login(self, userid: str, *, receive_buffer: int = 0) -> Talker:
        talker = self.connect(receive_buffer=receive_buffer)
        talker.send(f"login {userid} {CHEAP_PASSWORD}")
        talker.expect("login confirmed")
        return talker

    def census(self) -> Census:
        return take_census(self.server.pid)

    def cpu(self) -> float:
        return self.census().cpu

    @contextlib.contextmanager
    def fault(self, median: float = DELAY_LIMIT, worst: float = DELAY_LIMIT) -> Iterator[None]:
        """Measure what happens within: how long the room was delayed.

        median, worst: of a round trip, in seconds, to be kept in the full form. The quick form may
        run beside much else, so there it is enough if the delay is not gross.
        """
        self.stage.quiet += self.witnesses.rounds(self.stage.choose(3, 50))  # to compare with
        began = time.monotonic()
        yield
        trips = self.witnesses.since(began)
        self.stage.trips += trips
        if self.stage.quick:
            median, worst = 10 * median, DELAY_LIMIT
        times = [trip.seconds for trip in trips]
        assert max(times) < worst, f"the room was delayed by {max(times):.2f} s"
        middle = statistics.median(times)
        assert middle < median, f"the room was delayed by {middle:.3f} s, median"

    def settle(self, before: Census, *, more: int = 0) -> Census:
        """Wait until no thread and no descriptor is left of what came after `before`.

        more: of each, as every connection takes one thread and one descriptor.
        """
        return settle(self.server.pid, before, more=more)

    def shown(self, wanted: str, seconds: float = PATIENCE) -> str:
        """Wait until the server shows a line that this regular expression matches."""
        deadline = time.monotonic() + seconds

        def is_wanted(line: str) -> bool:
            assert time.monotonic() < deadline, f"never shown: {wanted}"
            return bool(re.fullmatch(wanted, line))

        return self.server.display.until(is_wanted, seconds)

    def hang_up(self) -> None:
        for talker in self.talkers:
            talker.close()
        self.talkers.clear()

    def stop(self, number: int = signal.SIGINT) -> float:
        """Stop the server; return how many seconds it took."""
        began = time.monotonic()
        self.server.process.send_signal(number)
        status = self.server.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        assert status == 0, f"status {status}"
        limit = self.stage.choose(3, 2)  # seconds; a fast row may run beside much else
        assert seconds < limit, f"stopping took {seconds:.1f} s"
        return seconds


@dataclass
class Stage:
    """How long a fault may take, and where its figures go."""

    quick: bool
    tls: bool = False  # all rooms are encrypted
    quiet: list[Trip] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def choose(self, quick: Number, full: Number) -> Number:
        return quick if self.quick else full

    def note(self, figure: str) -> None:
        self.notes.append(figure)

    def hash_cost(self) -> dict[str, object]:
        """Return the constants with which hashes cost nothing, where they are not the matter."""
        return {"HASH_COST": (1, 1, 1)} if self.quick else {}

    @contextlib.contextmanager
    def scene(
        self,
        userids: Sequence[str] = (),
        options: Sequence[str] = (),
        *,
        rate: int = 0,
        record: str = CHEAP_HASH,
        constants: Mapping[str, object] | None = None,
        first: str = "",
        patch: str = "",
        prefix: Sequence[str] = (),
        private: bool = False,
        folder: Path | None = None,
        tls: bool = False,
    ) -> Iterator[Scene]:
        """Run a server with witnesses; stop it afterwards and check that it was sound to the end.

        record: hash of the password of all users but the witnesses; constants: of server.py, to be
        other than they are; first, patch: see altered_server; prefix: command to run the server
        with; private: the witnesses talk to each other alone; folder: for users.txt; tls: the room
        is encrypted, as all are with --tls.
        """
        with (
            contextlib.nullcontext(folder) if folder else temporary_folder() as place,
            temporary_folder() as certificates,
        ):
            encryption = tls_options(certificates) if tls or self.tls else ()
            users = place / "users.txt"
            write_cheap_users(users, (PING, PONG))
            with users.open("a") as file:
                file.writelines(f"({userid}, {record})\n" for userid in userids)
            server = ServerProcess(
                users,
                ("--max-clients", "2000", "--rate", str(rate), *encryption, *options),
                program=[*prefix, *self._program(constants or {}, first, patch)],
            )
            scene = None
            try:
                scene = Scene(
                    self, server, max(self.choose(0.01, 0.02), 1.2 / rate if rate else 0), private
                )
                yield scene
            finally:
                if scene:
                    scene.witnesses.close()
                    scene.hang_up()
                status = server.stop()
            complaints = server.errors.all()
            assert not any("Traceback" in line for line in complaints), complaints
            assert status in scene.statuses, f"the server ended with status {status}"

    def _program(self, constants: Mapping[str, object], first: str, patch: str) -> Sequence[str]:
        if not (constants or first or patch):
            return AS_IT_IS
        for name, value in constants.items():
            if isinstance(value, int | float):
                self.note(f"with {name} = {value}")
        return altered_server(constants, first=first, patch=patch)


@dataclass(frozen=True)
class Fault:
    name: str
    promise: str  # which `build` asserts
    build: Callable[[Stage], None]
    fast: bool
    plain_only: str  # why it makes no sense over TLS, if that is so


def fault(
    promise: str, *, fast: bool = False, plain_only: str = ""
) -> Callable[[Callable[[Stage], None]], Fault]:
    """Make a fault of a function, named after it.

    fast: it is tested in the fast row as well, in short: it is quick, and does not measure CPU.
    """

    def make(build: Callable[[Stage], None]) -> Fault:
        return Fault(name_of(build), promise, build, fast, plain_only)

    return make


# --------------------------------------------------------------------------------------------------
# What more than one kind of fault needs.
# --------------------------------------------------------------------------------------------------


def overfill(talker: Talker, recipient: str) -> None:
    """Send so much that a recipient who does not read stalls, and return once it was read."""
    talker.send(*[f"send {recipient} {LONG}"] * STALLING_LINES, "who")
    talker.until(is_who)


def cpu_of_a_second(scene: Scene) -> float:
    began = scene.cpu()
    time.sleep(0.5)
    return 2 * (scene.cpu() - began)


def at_once(tasks: Sequence[Callable[[], object]]) -> None:
    """Do each in a thread of its own; raise what the first to fail raised."""
    failures = failures_of(tasks)
    if failures:
        raise failures[0]


def failures_of(tasks: Sequence[Callable[[], object]]) -> list[BaseException]:
    """Do each in a thread of its own; return what those that failed raised."""
    failures: list[BaseException] = []

    def attempt(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@contextlib.contextmanager
def meanwhile(*tasks: Callable[[threading.Event], object]) -> Iterator[None]:
    """Do each in a thread of its own, until the end of the block sets the event that it is given.

    A connection that fails ends the task, as those of strangers may; all else is raised here.
    """
    over = threading.Event()

    def attempt(task: Callable[[threading.Event], object]) -> None:
        with contextlib.suppress(OSError):
            task(over)

    doing = [partial(attempt, task) for task in tasks]
    thread = threading.Thread(target=lambda: failures.extend(failures_of(doing)), daemon=True)
    failures: list[BaseException] = []
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(4 * PATIENCE)
        assert not thread.is_alive(), "a task never ends"
    if failures:
        raise failures[0]


def again_and_again(task: Callable[[], object], over: threading.Event) -> None:
    """Do it until it is over, also if its connection fails."""
    while not over.is_set():
        with contextlib.suppress(OSError):
            task()


def pour(talkers: Sequence[Talker], data: bytes, over: threading.Event) -> int:
    """Send `data` again and again on each connection, as fast as it is taken; return the bytes.

    What comes in return is read and thrown away. It ends when it is over, or all have been closed.
    """
    sent = 0
    with selectors.DefaultSelector() as selector:
        for talker in talkers:
            talker.socket.setblocking(False)
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            selector.register(talker.socket, both, bytearray())
        while selector.get_map() and not over.is_set():
            for key, events in selector.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                left = key.data
                try:
                    if events & selectors.EVENT_READ and not connection.recv(65536):
                        raise ConnectionError
                    if events & selectors.EVENT_WRITE:
                        if not left:
                            left += data
                        count = connection.send(left)
                        del left[:count]
                        sent += count
                except BlockingIOError:
                    continue
                except OSError:
                    selector.unregister(connection)
    return sent


class Collector:
    """Reads a client's lines in a thread, to the end of the connection, and closes it."""

    def __init__(self, talker: Talker) -> None:
        self.collected: list[str] = []
        self.thread = threading.Thread(target=self._run, args=(talker,), daemon=True)
        self.thread.start()

    def _run(self, talker: Talker) -> None:
        with talker, contextlib.suppress(OSError):
            while (line := talker.line()) is not None:
                self.collected.append(line)

    def lines(self) -> list[str]:
        """Return all lines, once the connection has ended."""
        self.thread.join(2 * PATIENCE)
        assert not self.thread.is_alive(), "the connection never ends"
        return self.collected


def mebibytes(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def piped_into(*command: str) -> str:
    """Return a patch with which a child of the server reads its display, and passes it on."""
    return f"""
import subprocess
reader = subprocess.Popen({list(command)}, stdin=subprocess.PIPE)
print("reader:", reader.pid, file=sys.stderr, flush=True)
os.dup2(reader.stdin.fileno(), 1)
reader.stdin.close()
"""
