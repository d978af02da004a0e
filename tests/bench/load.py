"""The load generator of tests/bench: a crowd of users in one thread, in a process of its own.

    python -m tests.bench.load '{"port": 14850, "pid": 4711, "phase": "calm", ...}'

It reads with epoll, much at a time, and only counts what ends a line; where that must be fastest,
with the help of load.c. What it found it prints as JSON, with the CPU time that the server took
meanwhile and its own, to show that it was not the bottleneck. It fails with status 1 and a line on
standard error if fewer or more lines arrive than must, and connects to this machine only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE = 30.0  # seconds without any line until the missing ones are a failure
QUIET = 0.3  # seconds without any line: all that joining brings with it has arrived
READ_SIZE = 1 << 16
TEXT = "the quick brown fox jumps over it"
MARK = b"^"  # ends each message, and is in no other line, whatever the server


@dataclass(frozen=True)
class Job:
    """What to do; the command line's JSON."""

    port: int
    pid: int  # the server's, whose CPU time is taken
    phase: str
    dialect: str = "room"
    users: int = 200
    first: int = 0  # number of the first user
    password: str = "secret"
    at_once: int = 64  # logins on their way: less than a lobby holds
    lines: int = 0  # calm
    wait: float = 0.0  # calm: seconds before the first line
    pause: float = 0.0  # calm: seconds between lines
    seconds: float = 0.0  # busy, churn
    senders: int = 0  # busy
    each: int = 0  # busy: lines of one sender on their way
    library: str = ""  # load.c, compiled; without it all is done here
    tls: bool = False  # the library speaks TLS, which only it can


@dataclass(frozen=True)
class Dialect:
    """How a server is spoken to. Names have a fixed width and a fixed place in a line."""

    login: str
    confirmed: bytes
    message: str
    name: slice


DIALECTS = {
    "room": Dialect("login {name} {password}\n", b"login confirmed\n", "send all {}\n", slice(6)),
    "irc": Dialect(
        "NICK {name}\r\nUSER {name} 0 * :{name}\r\nJOIN #room\r\n",
        b" 366 ",
        "PRIVMSG #room :{}\r\n",
        slice(1, 7),
    ),
}

Findings = dict[str, float | list[float]]


class Failure(Exception):
    """The server did not do what it must; the text says what."""


def name_of(number: int) -> str:
    return f"u{number:05}"


@dataclass
class Meter:
    """Time passed, and CPU time: the server's, this process's, and the whole machine's; seconds.

    What the machine did beyond the two tells a run that others disturbed.
    """

    pid: int
    started: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        self.started = self._read()

    def _read(self) -> tuple[float, ...]:
        clock = (~self.pid << 3) | 2  # clock_getcpuclockid(3): all threads, in nanoseconds
        server, own = time.clock_gettime(clock), time.process_time()
        return time.perf_counter(), server, own, machine_busy()

    def findings(self) -> Findings:
        passed = (now - then for now, then in zip(self._read(), self.started, strict=True))
        return dict(zip(("seconds", "server_cpu", "load_cpu", "machine_cpu"), passed, strict=True))


class Secured:
    """A connection over TLS, which load.c speaks."""

    def __init__(self, library: ctypes.CDLL, connection: socket.socket) -> None:
        self.library = library
        self.connection = connection
        self.buffer = ctypes.create_string_buffer(READ_SIZE)

    def sendall(self, login: bytes) -> None:
        """Begin the handshake; the login is sent when that is done."""
        self.connection.setblocking(False)
        if self.library.secure(self.fileno(), login):
            raise Failure("a handshake could not be begun")

    def send(self, data: bytes) -> None:
        if self.library.put(self.fileno(), data, len(data)) != len(data):
            raise Failure("a line could not be sent")

    def fileno(self) -> int:
        return self.connection.fileno()

    def close(self) -> None:
        self.library.part(self.fileno())
        self.connection.close()

    def take(self) -> bytes:
        """Return all that has come, which may be nothing yet."""
        data = b""
        while (got := self.library.take(self.fileno(), self.buffer, READ_SIZE)) > 0:
            data += self.buffer.raw[:got]
        if got < 0:
            raise Failure("the server closed a connection")
        return data


class Crowd:
    """Many connections: those whose lines are only counted, and the few whose lines matter."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.dialect = DIALECTS[job.dialect]
        self.counting = select.epoll()
        self.poller = select.epoll()  # the few; and whether any of the others is ready
        self.poller.register(self.counting, select.EPOLLIN)
        # By descriptor, in order of connecting.
        self.sockets: dict[int, socket.socket | Secured] = {}
        self.waiting: dict[int, bytes] = {}  # what arrived on a connection yet to be confirmed
        self.mark = b"\n"
        self.arrived = 0
        self.library = ctypes.CDLL(job.library) if job.library else None
        if self.library:
            self.library.sweep.restype = ctypes.c_long
        if self.library and job.tls:
            self.library.take.restype = ctypes.c_long

    def dial(self, number: int) -> None:
        """Connect and ask for login in one go."""
        connection = socket.create_connection(("127.0.0.1", self.job.port), PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        spoken: socket.socket | Secured = connection
        if self.job.tls:
            assert self.library is not None, "TLS needs load.c"
            spoken = Secured(self.library, connection)
        self.sockets[connection.fileno()] = spoken
        self.poller.register(connection, select.EPOLLIN)
        self.waiting[connection.fileno()] = b""
        login = self.dialect.login.format(name=name_of(number), password=self.job.password)
        spoken.sendall(login.encode())

    def hang_up(self, descriptor: int) -> None:
        self.sockets.pop(descriptor).close()

    def attend(self, descriptor: int) -> None:
        """Have read() yield what this connection gets, from here on."""
        self.counting.unregister(descriptor)
        self.poller.register(descriptor, select.EPOLLIN)

    def dismiss(self, descriptor: int) -> None:
        """Count what this connection gets, no more, from here on."""
        self.poller.unregister(descriptor)
        self.counting.register(descriptor, select.EPOLLIN)

    def read(self, patience: float = PATIENCE) -> Iterator[tuple[int, bytes]]:
        """Read once from each connection that is ready; yield what came where lines matter.

        Raises Failure if nothing comes for `patience` seconds, unless those are the caller's own.
        """
        events = self.poller.poll(patience, 4096)
        if not events and patience == PATIENCE:
            raise Failure(f"after {self.arrived} lines nothing more came")
        for descriptor, _ in events:
            if descriptor == self.counting.fileno():
                self.count(0)
                continue
            data = self._receive(descriptor)
            if descriptor in self.waiting:
                self._look_for_confirmation(descriptor, data)
            yield descriptor, data

    def count(self, patience: float) -> bool:
        """Read and count once from each of the many that is ready; return False if none was."""
        if self.library:
            counted = self.library.sweep(
                self.counting.fileno(), ord(self.mark), int(patience * 1000)
            )
            if counted == -1:
                raise Failure("the server closed a connection")
            self.arrived += max(0, counted)
            return bool(counted != -2)
        events = self.counting.poll(patience, 1024)
        for descriptor, _ in events:
            self._receive(descriptor)
        return bool(events)

    def _receive(self, descriptor: int) -> bytes:
        connection = self.sockets[descriptor]
        if isinstance(connection, Secured):
            data = connection.take()
        elif not (data := os.read(descriptor, READ_SIZE)):
            raise Failure("the server closed a connection")
        self.arrived += data.count(self.mark)
        return data

    def _look_for_confirmation(self, descriptor: int, data: bytes) -> None:
        self.waiting[descriptor] += data
        if self.dialect.confirmed in self.waiting[descriptor]:
            del self.waiting[descriptor]
            self.dismiss(descriptor)
        elif b"Denied" in self.waiting[descriptor]:
            raise Failure(f"a login failed: {self.waiting[descriptor]!r}")

    def join(self) -> None:
        """Log all users in, several at once, until the last is confirmed."""
        dialled = 0
        while dialled < self.job.users or self.waiting:
            while dialled < self.job.users and len(self.waiting) < self.job.at_once:
                self.dial(self.job.first + dialled)
                dialled += 1
            for _ in self.read():
                pass

    def gather(self, wanted: int) -> None:
        """Read until so many lines have arrived in all, and not one more."""
        while self.arrived < wanted:
            if not self.count(PATIENCE):
                raise Failure(f"{self.arrived} of {wanted} lines arrived, and no more")
        if self.arrived > wanted:
            raise Failure(f"{self.arrived} lines arrived instead of {wanted}")

    def rest(self, seconds: float) -> None:
        """Read what arrives for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            for _ in self.read(left):
                pass

    def settle(self) -> None:
        """Read until nothing more arrives, then count messages only."""
        while self.count(QUIET):
            pass
        self.mark = MARK
        self.arrived = 0

    def message(self) -> bytes:
        return self.dialect.message.format(TEXT + MARK.decode()).encode()


def measure_join(crowd: Crowd) -> Findings:
    """All join at once: until each has seen all joins that come after its own."""
    users = crowd.job.users
    meter = Meter(crowd.job.pid)
    crowd.join()
    crowd.gather(users + users * (users - 1) // 2)
    return meter.findings()


def measure_calm(crowd: Crowd) -> Findings:
    """One line at a time, by each user in turn: the next one once all others have it."""
    crowd.join()
    crowd.settle()
    print("settled", flush=True)
    crowd.rest(crowd.job.wait)
    memory = resident_memory(crowd.job.pid)
    senders, others, message = list(crowd.sockets.values()), crowd.job.users - 1, crowd.message()
    latencies = []
    meter = Meter(crowd.job.pid)
    for number in range(crowd.job.lines):
        sent_at = time.perf_counter()
        senders[number % len(senders)].send(message)
        crowd.gather((number + 1) * others)
        latencies.append(time.perf_counter() - sent_at)
        if crowd.job.pause:
            crowd.rest(crowd.job.pause)
    return meter.findings() | {
        "latencies": latencies,
        "delivered": crowd.arrived,
        "memory": memory,
    }


def measure_busy(crowd: Crowd) -> Findings:
    """Several senders, each with some lines on their way all the time.

    The last user, who sends nothing, is the witness: a line that arrived there is replaced by the
    next. The time ends when every line has arrived everywhere.
    """
    crowd.join()
    crowd.settle()
    job, message, sent, tail = crowd.job, crowd.message(), 0, b""
    connections = list(crowd.sockets.values())
    senders = {name_of(number).encode(): connections[number] for number in range(job.senders)}
    witness = connections[-1].fileno()
    crowd.attend(witness)
    meter = Meter(job.pid)
    until = time.perf_counter() + job.seconds
    for sender in [*senders.values()] * job.each:
        sender.send(message)
        sent += 1
    while time.perf_counter() < until:
        for descriptor, data in crowd.read():
            if descriptor == witness:
                *lines, tail = (tail + data).split(b"\n")
                for line in lines:
                    senders[line[crowd.dialect.name]].send(message)
                sent += len(lines)
    crowd.dismiss(witness)
    crowd.gather(sent * (job.users - 1))
    return meter.findings() | {"delivered": crowd.arrived}


def measure_churn(crowd: Crowd) -> Findings:
    """Log in and hang up, again and again, in several connections; the rate once it is steady."""
    logins, number, meter, measured = 0, 0, None, 0
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < crowd.job.seconds + 1:
        if passed > 1 and meter is None:
            meter, measured = Meter(crowd.job.pid), logins
        while len(crowd.waiting) < crowd.job.at_once:
            crowd.dial(crowd.job.first + number % crowd.job.users)
            number += 1
        for descriptor, _ in crowd.read():
            if descriptor not in crowd.waiting:
                logins += 1
                crowd.hang_up(descriptor)
    assert meter is not None
    return meter.findings() | {"logins": logins - measured}


def machine_busy() -> float:
    """Return the CPU seconds that all cores have spent on something since the machine started."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split()[1:9]
    ticks = sum(map(int, (user, nice, system, *interrupts)))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_memory(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


PHASES: dict[str, Callable[[Crowd], Findings]] = {
    "join": measure_join,
    "calm": measure_calm,
    "busy": measure_busy,
    "churn": measure_churn,
}


def main() -> int:
    job = Job(**json.loads(sys.argv[1]))
    gc.disable()
    try:
        findings = PHASES[job.phase](Crowd(job))
    except (Failure, OSError) as failure:
        print(f"load: {job.phase} of {job.users} users: {failure}", file=sys.stderr)
        return 1
    print(json.dumps(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
