"""Every fault that a chat server may meet, built for real, and what it does to everybody else.

    python -m tests.long.faults                      all of them in full, some 10 minutes
    python -m tests.long.faults --quick              all of them in short, about a minute
    python -m tests.long.faults never-reads floods   only these

Each fault has a server process of its own. In its room two witnesses play ping-pong from a third
process: the longest round trip while the fault lasts is how much it delayed the room, and stands in
the table beside the longest of as many in the quiet before. The faults are in one table at the end
of this file.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import queue
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.helpers.process import (
    CHEAP_HASH,
    CHEAP_PASSWORD,
    PATIENCE,
    ROOT,
    SERVER,
    LineReader,
    ServerProcess,
    Talker,
    child_environment,
    temporary_folder,
    write_cheap_users,
)

PING, PONG = "Anna", "Bert"  # the witnesses
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


class Skipped(Exception):
    """The fault cannot be built here; the text says why."""


# --------------------------------------------------------------------------------------------------
# Figures of a process, from /proc.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Census:
    threads: int
    descriptors: int
    memory: int  # bytes, resident
    cpu: float  # seconds so far


def census(process: int) -> Census:
    folder = Path(f"/proc/{process}")
    if not folder.exists():
        raise Skipped("there is no /proc to count in")
    memory = re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())
    assert memory
    times = (folder / "stat").read_text().rpartition(")")[2].split()
    cpu = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    threads, descriptors = (len(os.listdir(folder / name)) for name in ("task", "fd"))
    return Census(threads, descriptors, int(memory[1]) * 1024, cpu)


def eventually(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for what no event tells."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def mebibytes(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


# --------------------------------------------------------------------------------------------------
# Witnesses: two users in a process of their own, so that they measure the server and not us.
# --------------------------------------------------------------------------------------------------


def play(host: str, port: str, pause: str, recipient: str) -> None:
    """Be the two witnesses: print when each round trip began and how long it took, in seconds."""
    heard = "" if recipient == "all" else f" (to {recipient})"
    over = contextlib.suppress(AssertionError, OSError)  # the server has stopped
    with over, Talker(host, int(port)) as ping, Talker(host, int(port)) as pong:
        for talker, userid in ((ping, PING), (pong, PONG)):
            talker.send(f"login {userid} {CHEAP_PASSWORD}")
            read_until(talker, "login confirmed")
        for number in itertools.count():
            began = time.monotonic()
            ping.send(f"send {recipient} {number}")
            read_until(pong, f"{PING}{heard}: {number}")
            pong.send(f"send {PING} {number}")
            read_until(ping, f"{PONG} (to {PING}): {number}")
            print(began, time.monotonic() - began, flush=True)
            time.sleep(float(pause))


@dataclass(frozen=True)
class Trip:
    began: float  # monotonic seconds, the same in all processes
    seconds: float


class Witnesses:
    def __init__(self, server: ServerProcess, pause: float, private: bool) -> None:
        arguments = (server.host, str(server.port), str(pause), PONG if private else "all")
        self.process = run_here("play", arguments)
        assert self.process.stdout is not None
        self.reader = LineReader(self.process.stdout)
        self.trips: list[Trip] = []

    def watch(self, enough: Callable[[], bool]) -> None:
        while not enough():
            line = self.reader.next(2 * PATIENCE)
            assert line is not None, "the witnesses were disturbed"
            began, seconds = line.split()
            self.trips.append(Trip(float(began), float(seconds)))

    def rounds(self, count: int) -> list[Trip]:
        start = len(self.trips)
        self.watch(lambda: len(self.trips) >= start + count)
        return self.trips[start:]

    def since(self, moment: float) -> list[Trip]:
        """Return the trips that were under way at some time between `moment` and now."""
        now = time.monotonic()
        self.watch(lambda: bool(self.trips) and self.trips[-1].began > now)
        return [trip for trip in self.trips if trip.began + trip.seconds > moment]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.reader.close()


def run_here(
    function: str, arguments: Sequence[str], prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Run a function of this module in another process."""
    code = f"import sys; from tests.long.faults import {function}; {function}(*sys.argv[1:])"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=child_environment(),
    )


# --------------------------------------------------------------------------------------------------
# Stage and scene: what a fault is given to happen in.
# --------------------------------------------------------------------------------------------------


def read_until(talker: Talker, wanted: str | Callable[[str], bool]) -> list[str]:
    """Return the lines up to the first that is `wanted`, or for which it holds."""
    lines = []
    deadline = time.monotonic() + 4 * PATIENCE  # as others may go on talking
    while (line := talker.line()) is not None and time.monotonic() < deadline:
        lines.append(line)
        if line == wanted or (callable(wanted) and wanted(line)):
            return lines
    raise AssertionError(f"{wanted!r} never came; last lines: {lines[-5:]}")


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

    def login(self, userid: str, *, receive_buffer: int = 0) -> Talker:
        talker = self.connect(receive_buffer=receive_buffer)
        talker.send(f"login {userid} {CHEAP_PASSWORD}")
        talker.expect("login confirmed")
        return talker

    def census(self) -> Census:
        return census(self.server.pid)

    def cpu(self) -> float:
        return self.census().cpu

    @contextlib.contextmanager
    def fault(self) -> Iterator[None]:
        """Measure what happens within: how long the room was delayed."""
        self.stage.quiet += self.witnesses.rounds(self.stage.choose(5, 50))  # to compare with
        began = time.monotonic()
        yield
        trips = self.witnesses.since(began)
        self.stage.trips += trips
        worst = max(trip.seconds for trip in trips)
        assert worst < DELAY_LIMIT, f"the room was delayed by {worst:.1f} s"

    def settle(self, before: Census) -> None:
        """Wait until no thread and no descriptor is left of what came after `before`."""

        def has_settled() -> bool:
            now = self.census()
            return (now.threads, now.descriptors) == (before.threads, before.descriptors)

        eventually(has_settled, f"all threads and descriptors back: {before}, {self.census()}")

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
        assert seconds < 2, f"stopping took {seconds:.1f} s"
        return seconds


@dataclass
class Stage:
    """How long a fault may take, and where its figures go."""

    quick: bool
    quiet: list[Trip] = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def choose(self, quick: int, full: int) -> int:
        return quick if self.quick else full

    def note(self, figure: str) -> None:
        self.notes.append(figure)

    @contextlib.contextmanager
    def scene(
        self,
        userids: Sequence[str] = (),
        options: Sequence[str] = (),
        *,
        rate: int = 0,
        record: str = CHEAP_HASH,
        constants: Mapping[str, object] | None = None,
        patch: str = "",
        prefix: Sequence[str] = (),
        private: bool = False,
        folder: Path | None = None,
    ) -> Iterator[Scene]:
        """Run a server with witnesses; stop it afterwards and check that it was sound to the end.

        record: hash of the password of all users but the witnesses; constants: of server.py, to be
        other than they are; patch: Python for the server's process to run first; prefix: command
        to run the server with; private: the witnesses talk to each other alone; folder: for
        users.txt.
        """
        with contextlib.nullcontext(folder) if folder else temporary_folder() as place:
            users = place / "users.txt"
            write_cheap_users(users, (PING, PONG))
            with users.open("a") as file:
                file.writelines(f"({userid}, {record})\n" for userid in userids)
            server = ServerProcess(
                users,
                ("--max-clients", "2000", "--rate", str(rate), *options),
                program=[*prefix, *self._program(constants or {}, patch)],
            )
            scene = None
            try:
                scene = Scene(self, server, max(0.02, 1.2 / rate if rate else 0), private)
                yield scene
            finally:
                if scene:
                    scene.witnesses.close()
                    scene.hang_up()
                status = server.stop()
            complaints = server.errors.all()
            assert not any("Traceback" in line for line in complaints), complaints
            assert status in scene.statuses, f"the server ended with status {status}"

    def _program(self, constants: Mapping[str, object], patch: str) -> list[str]:
        if not constants and not patch:
            return [sys.executable, str(SERVER)]
        for name, value in constants.items():
            if isinstance(value, int):
                self.note(f"with {name} = {value}")
        settings = "".join(f"server.{name} = {value!r}\n" for name, value in constants.items())
        start = f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nimport server\n"
        return [sys.executable, "-c", f"{start}{settings}{patch}\nsys.exit(server.main())"]


# --------------------------------------------------------------------------------------------------
# Clients that do not do their part.
# --------------------------------------------------------------------------------------------------


def never_reads(stage: Stage) -> None:
    with stage.scene(("Slow", "Tom")) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        scene.login("Slow", receive_buffer=SMALL_BUFFER)
        sent = 0
        with scene.fault():
            answers: list[str] = []
            while "Denied. Slow is not in the chat room." not in answers:
                tom.send(*[f"send Slow {BIG}"] * 32, "who")
                answers = read_until(tom, is_who)
                sent += 32 * len(BIG.encode())
                assert sent < 8 << 20, "it is never dropped"
        assert sent > 1 << 20, f"dropped after {sent} bytes"
        scene.shown(r"Slow logout \(not reading\)\.")
        scene.settle(before)
        grown = scene.census().memory - before.memory
        assert grown < 16 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(f"dropped after {mebibytes(sent)}; memory +{mebibytes(max(0, grown))}")


def stalls(stage: Stage) -> None:
    seconds = stage.choose(1, 30)
    names = [f"Slow{number}" for number in range(20)]
    constants = {"STALL_SECONDS": seconds} if stage.quick else {}
    with stage.scene((*names, "Tom"), constants=constants) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        slow = [scene.login(name, receive_buffer=SMALL_BUFFER) for name in names]
        quiet_cpu = cpu_of_a_second(scene)
        with scene.fault():
            overfill(tom, "all")
            began, stalled_cpu = time.monotonic(), cpu_of_a_second(scene)
            # The first of them reads a byte a second: that opens no window, so it is no progress.
            dripping = threading.Thread(target=drip, args=(slow[0], seconds))
            dripping.start()
            for _ in names:
                scene.shown(r"Slow\d+ logout \(not reading\)\.", seconds + PATIENCE)
            lasted = time.monotonic() - began
            dripping.join()
        assert seconds / 2 < lasted < seconds + 5, f"dropped after {lasted:.1f} s"
        assert stalled_cpu < quiet_cpu + 0.1, f"{stalled_cpu:.2f} s of CPU a second, stalled"
        scene.settle(before)
        stage.note(
            f"20 stalled for {lasted:.1f} s, one of them reading a byte a second; server CPU "
            f"{stalled_cpu:.2f} s a second meanwhile, {quiet_cpu:.2f} before (all of it ping-pong)"
        )


def overfill(talker: Talker, recipient: str) -> None:
    """Send so much that a recipient who does not read stalls, and return once it was read."""
    talker.send(*[f"send {recipient} {LONG}"] * STALLING_LINES, "who")
    read_until(talker, is_who)


def cpu_of_a_second(scene: Scene) -> float:
    began = scene.cpu()
    time.sleep(0.5)
    return 2 * (scene.cpu() - began)


def drip(talker: Talker, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline and talker.socket.recv(1):
            time.sleep(1)


def half_lines(stage: Stage) -> None:
    names = [f"Half{number}" for number in range(50)]
    with stage.scene(names) as scene:
        talkers = [scene.login(name) for name in names]
        with scene.fault():
            for talker in talkers:
                talker.send_bytes(b"send all hel")
            before = scene.cpu()
            scene.witnesses.rounds(50)
            spent = scene.cpu() - before
        talkers[0].send("lo")
        read_until(talkers[1], "Half0: hello")
        stage.note(f"50 of them; server CPU {spent:.2f} s in 50 round trips")


def resets(stage: Stage) -> None:
    names = [f"Rst{number}" for number in range(stage.choose(50, 500))]
    with stage.scene(names) as scene:
        before = scene.census()
        talkers = [scene.login(name) for name in names]
        with scene.fault():
            for talker in talkers:
                talker.send("send all going", "who")
                talker.reset()
            for _ in names:
                scene.shown(r"Rst\d+ logout \(connection lost\)\.")
        scene.settle(before)
        stage.note(f"{len(names)} at once; all threads and descriptors back")


def half_closes(stage: Stage) -> None:
    names = [f"Half{number}" for number in range(stage.choose(20, 200))]
    with stage.scene((*names, "Tom")) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        with scene.fault():
            for name in names:
                with scene.connect() as talker:
                    talker.send(f"login {name} {CHEAP_PASSWORD}", f"send Tom {BIG}", "who")
                    talker.finish()
                    answers = [line for line in talker.rest() if not line.startswith(f"{PING}: ")]
                everyone = f"{PING}, {PONG}, {name}, Tom"
                assert answers == ["login confirmed", everyone, f"{name} left."], answers
                read_until(tom, f"{name} left.")
        scene.settle(before)
        stage.note(f"{len(names)} of them got every reply that they were owed")


# --------------------------------------------------------------------------------------------------
# Peers that vanish without a word: a network namespace whose cable is pulled.
# --------------------------------------------------------------------------------------------------

OUTSIDE, INSIDE = (f"10.231.{os.getpid() % 251}.{end}" for end in (1, 2))
SHORT_KEEPALIVE = (
    ("TCP_KEEPIDLE", 2),
    ("TCP_KEEPINTVL", 1),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", 5000),
)
# Prints what the kernel was really told about each connection.
SHOW_OPTIONS = """
import socket
def configure(connection, configure=server.configure):
    configure(connection)
    told = [connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    told += [connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in (
        "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")]
    print("options:", *told, file=sys.stderr, flush=True)
server.configure = configure
"""


def keepalive(stage: Stage) -> None:
    with stage.scene(patch=SHOW_OPTIONS) as scene:
        with scene.fault():
            scene.connect()
        told = scene.server.errors.until(lambda line: line.startswith("options: "))
        options = [int(word) for word in told.split()[1:]]
        alive, no_delay, idle, interval, count, user_timeout = options
        assert alive, told
        assert no_delay, told
        # Data sent to a dead peer silences keepalive, so that at worst one follows the other.
        worst = idle + interval * count + user_timeout / 1000
        assert user_timeout > 0, told
        assert worst <= 120, f"a dead peer may be found after {worst:.0f} s"
        stage.note(f"probes after {idle} s, {count} of them {interval} s apart")
        stage.note(f"unacknowledged data given up after {user_timeout / 1000:.0f} s")


def vanishes(stage: Stage) -> None:
    constants: dict[str, object] = {"KEEPALIVE": SHORT_KEEPALIVE} if stage.quick else {}
    limit = 15 if stage.quick else 125
    with (
        cable() as (namespace, pull),
        stage.scene(
            ("Idle", "Busy", "Tom"), ("--host", OUTSIDE), constants=constants, private=True
        ) as scene,
    ):
        tom = scene.login("Tom")
        before = scene.census()
        enter = ("ip", "netns", "exec", namespace)
        port = str(scene.server.port)
        peers = [run_here("sit", (OUTSIDE, port, name), enter) for name in ("Idle", "Busy")]
        try:
            scene.shown("(Idle|Busy) login\\.")
            scene.shown("(Idle|Busy) login\\.")
            with scene.fault():
                pull()
                began = time.monotonic()
                tom.send("send Busy are you there?")
                for _ in peers:
                    left = max(0.1, began + limit - time.monotonic())
                    gone = scene.shown(r"\w+ logout \(connection lost\)\.", left)
                    stage.note(f"{gone.split()[0]} gone after {time.monotonic() - began:.0f} s")
        finally:
            for peer in peers:
                peer.kill()
                peer.communicate()
        scene.settle(before)
        if stage.quick:
            stage.note("with keepalive after 2 s and TCP_USER_TIMEOUT of 5 s")


def sit(host: str, port: str, userid: str) -> None:
    """Be a client that only reads."""
    with Talker(host, int(port)) as talker:
        talker.socket.settimeout(None)
        talker.send(f"login {userid} {CHEAP_PASSWORD}")
        talker.rest()


@contextlib.contextmanager
def cable() -> Iterator[tuple[str, Callable[[], None]]]:
    """Lay a cable to a network namespace; yield the name of that, and what pulls the cable."""
    namespace, near, far = (f"chat{end}{os.getpid()}" for end in "xyz")
    if not shutil.which("ip") or not administer("netns", "add", namespace):
        raise Skipped("network namespaces are not permitted here")
    inside = ("-n", namespace)
    try:
        for command in (
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace),
            ("addr", "add", f"{OUTSIDE}/30", "dev", near),
            ("link", "set", near, "up"),
            (*inside, "addr", "add", f"{INSIDE}/30", "dev", far),
            (*inside, "link", "set", far, "up"),
        ):
            if not administer(*command):
                raise Skipped(f"not permitted here: ip {' '.join(command)}")
        yield namespace, lambda: pull_cable(namespace, far)
    finally:
        administer("link", "del", near)
        administer("netns", "del", namespace)


def pull_cable(namespace: str, device: str) -> None:
    assert administer("-n", namespace, "link", "set", device, "down")


def administer(*command: str) -> bool:
    return subprocess.run(["ip", *command], capture_output=True, check=False).returncode == 0


# --------------------------------------------------------------------------------------------------
# The door: connections that do not log in, and logins that fail or are many.
# --------------------------------------------------------------------------------------------------


def lobby(stage: Stage) -> None:
    with stage.scene() as scene:
        before = scene.census()
        with scene.fault():
            oldest, *waiting = [scene.connect() for _ in range(101)]
            oldest.expect(BUSY)
            assert oldest.line() is None
            assert waiting[0].ask("who") == "Denied. Please login first."
            most = scene.census()
            for _ in range(stage.choose(300, 3000)):
                scene.connect()
                waiting.pop(0).expect(BUSY)
                waiting.append(scene.talkers[-1])
                scene.talkers.pop(0).close()
        scene.settle(most)
        scene.hang_up()
        scene.settle(before)
        stage.note(f"then {stage.choose(300, 3000)} more: never over 100 threads at the door")


def login_deadline(stage: Stage) -> None:
    seconds = stage.choose(1, 10)
    with stage.scene(constants={"LOGIN_SECONDS": seconds}) as scene:
        with scene.fault():
            busy, silent = scene.connect(), scene.connect()
            began = time.monotonic()
            silent.send_bytes(b"login An")
            farewell = f"Denied. No login within {seconds} seconds."
            while (answer := busy.ask("who")) != farewell:
                assert answer == "Denied. Please login first.", answer
                time.sleep(0.05)
            lasted = time.monotonic() - began
            assert busy.line() is None
            silent.expect(farewell)
            assert silent.line() is None
        assert seconds - 0.1 < lasted < seconds + 2, f"{lasted:.1f} s"
        stage.note(f"a busy and a silent one closed after {lasted:.1f} s")


def wrong_passwords(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        with scene.fault():
            talker = scene.connect()
            began = time.monotonic()
            talker.send(*["login Tom wrong"] * 4)
            talker.expect(*[REFUSED] * 3, "Denied. Too many failed logins.")
            assert talker.line() is None
            lasted = time.monotonic() - began
        assert lasted > 2.9, f"{lasted:.1f} s"
        stage.note(f"3 tries took {lasted:.1f} s")


def guessing(stage: Stage) -> None:
    refused = re.compile(r"Denied\. Too many failed logins, try again in ([1-6]) seconds\.")
    with stage.scene(("Tom",), record=REAL_HASH) as scene:
        with scene.fault():
            for talker in [scene.connect() for _ in range(5)]:
                talker.send("login Tom wrong", "login Tom wrong")
            for talker in scene.talkers:
                talker.expect(REFUSED, REFUSED)
            before = scene.cpu()
            latest = scene.connect()
            for _ in range(100):  # the right password, too: or it could still be guessed
                assert refused.fullmatch(latest.ask(f"login Tom {REAL_PASSWORD}") or "")
            spent = scene.cpu() - before
            assert spent < 100 * cpu_of_a_hash() / 4, f"{spent:.2f} s of CPU: it hashes"
            assert log_in_from("127.0.0.2", scene) == b"login confirmed\n"
        stage.note(f"100 tries cost {spent:.2f} s of server CPU, one hash {cpu_of_a_hash():.2f} s")


def cpu_of_a_hash() -> float:
    import hashlib

    began = time.process_time()
    hashlib.scrypt(b"secret", salt=bytes(16), n=2**14, r=8, p=1, maxmem=1 << 25)
    return time.process_time() - began


def log_in_from(host: str, scene: Scene) -> bytes:
    address = (scene.server.host, scene.server.port)
    with socket.create_connection(address, PATIENCE, source_address=(host, 0)) as connection:
        connection.sendall(f"login Tom {REAL_PASSWORD}\n".encode())
        return connection.makefile("rb").readline()


# Keeps count of the hashes that go on at a time.
COUNT_HASHES = """
import threading
lock, going_on, most = threading.Lock(), 0, 0
def derive_key(*arguments, derive_key=server.derive_key):
    global going_on, most
    with lock:
        going_on += 1
        if going_on > most:
            most = going_on
            print("at once:", most, file=sys.stderr, flush=True)
    try:
        return derive_key(*arguments)
    finally:
        with lock:
            going_on -= 1
server.derive_key = derive_key
"""


def logins_at_once(stage: Stage) -> None:
    count = stage.choose(40, 200)
    names = [f"User{number}" for number in range(count)]
    with stage.scene(names, record=REAL_HASH, patch=COUNT_HASHES) as scene:
        tries: list[int] = []
        with scene.fault():
            began = time.monotonic()
            at_once([partial(persist, scene, name, tries) for name in names])
            lasted = time.monotonic() - began
        scene.stop()
        told = [line.split() for line in scene.server.errors.all()]
        most = max(int(words[-1]) for words in told if words[:2] == ["at", "once:"])
        cores = len(os.sched_getaffinity(0))
        assert most <= cores, f"{most} hashes at once on {cores} cores"
        stage.note(f"{count} in after {lasted:.1f} s, at most {most} hashes at once")
        stage.note(f"{sum(tries) - count} times told to be busy, and back a second later")


def persist(scene: Scene, userid: str, tries: list[int]) -> None:
    """Log in, again after a second whenever the server is busy; add how many tries it took."""
    for count in itertools.count(1):
        talker = scene.connect()
        with contextlib.suppress(OSError):  # it was reset: the server has too many to talk to
            if talker.ask(f"login {userid} {REAL_PASSWORD}") == "login confirmed":
                tries.append(count)
                return
        time.sleep(random.uniform(0.5, 1.5))


def at_once(tasks: Sequence[Callable[[], object]]) -> None:
    """Do each in a thread of its own; raise what the first to fail raised."""
    failures: list[BaseException] = []

    def attempt(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(task,), daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def evicted_newusers(stage: Stage) -> None:
    """Ask for accounts from connections that are then evicted: nobody waits for those hashes."""
    count = stage.choose(300, 1000)
    with stage.scene() as scene:
        before = scene.census()
        with scene.fault():
            for number in range(count):
                scene.connect().send(f"newuser Mike{number} secret")
            for talker in scene.talkers[: count - 100]:
                with contextlib.suppress(OSError):  # reset, as what it sent was not read
                    assert talker.rest()[-1] == BUSY
            began = time.monotonic()
            most = scene.census().threads
            # A hash takes 20 ms or more, so those of the evicted would take seconds.
            limit = before.threads + 110
            eventually(lambda: scene.census().threads < limit, "the queue is gone", 1)
            scene.hang_up()
            scene.settle(before)
            lasted = time.monotonic() - began
        stage.note(f"{count} requests at once; {most} threads, all gone after {lasted:.1f} s")


# --------------------------------------------------------------------------------------------------
# Shortage: descriptors, threads, disk.
# --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def limited(process: int, name: str, amount: int) -> Iterator[None]:
    """Hold a running process to a soft limit for a while."""
    import resource

    if not hasattr(resource, "prlimit"):
        raise Skipped("the limits of a running process cannot be changed here")
    what = getattr(resource, name)
    soft, hard = resource.prlimit(process, what)
    resource.prlimit(process, what, (amount, hard))
    try:
        yield
    finally:
        resource.prlimit(process, what, (soft, hard))


def out_of_descriptors(stage: Stage) -> None:
    seconds = stage.choose(1, 10)
    with stage.scene() as scene:
        before = scene.census()
        with scene.fault(), limited(scene.server.pid, "RLIMIT_NOFILE", before.descriptors + 5):
            talkers = [scene.connect() for _ in range(10)]
            scene.shown(r"New connections have to wait: Too many open files\.")
            spent = -scene.cpu()
            time.sleep(seconds)  # it tries once a second
            spent += scene.cpu()
            assert spent < 0.4 * seconds, f"{spent:.2f} s of CPU in {seconds} s: it spins"
            for talker in talkers[:5]:
                talker.close()
            scene.shown(r"Accepting connections again\.")
            assert talkers[-1].ask("who") == "Denied. Please login first."
        scene.hang_up()
        scene.settle(before)
        stage.note(f"server CPU {spent:.2f} s in {seconds} s without; served when they are back")


def out_of_threads(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        before = scene.census()
        status = Path(f"/proc/{scene.server.pid}/status").read_text()
        size = int((re.search(r"VmSize:\s+(\d+) kB", status) or ["", "0"])[1]) * 1024
        refused = 0
        with scene.fault(), limited(scene.server.pid, "RLIMIT_AS", size):
            while not refused:
                refused += scene.connect().line() == BUSY
            scene.shown(r"Connection refused: can't start new thread\.")
        scene.hang_up()
        scene.login("Tom")
        scene.hang_up()
        scene.settle(before)
        stage.note("no memory for another stack; the next in once there is some")


def disk_full(stage: Stage) -> None:
    with small_disk() as disk, stage.scene(("Tom",), folder=disk) as scene:
        users = scene.server.users
        with users.open("a") as file:  # up to just before the next page: it must take a new one
            file.write("#" * (4050 - users.stat().st_size) + "\n")
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            with contextlib.suppress(OSError), (disk / "filler").open("wb", 0) as filler:
                while True:
                    filler.write(bytes(4096))
            assert talker.ask("newuser Mike secret") == UNSAVED
            scene.shown("Account Mike not saved: No space left on device")
            assert users.read_bytes() == before, "a part of the line stayed"
            (disk / "filler").unlink()
            assert talker.ask("newuser Mike secret") == SAVED
        assert users.read_bytes().startswith(before + b"(Mike, $scrypt$")
        stage.note("a tmpfs filled to the brim")


def file_too_large(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        users = scene.server.users
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            with limited(scene.server.pid, "RLIMIT_FSIZE", len(before) + 30):
                assert talker.ask("newuser Mike secret") == UNSAVED
                assert users.read_bytes() == before, "a part of the line stayed"
            assert talker.ask("newuser Mike secret") == SAVED
            users.unlink()
            with limited(scene.server.pid, "RLIMIT_FSIZE", 30):
                assert talker.ask("newuser Jane secret") == UNSAVED
            assert talker.ask("newuser Jane secret") == SAVED
        assert accounts_in(users) == [PING, PONG, "Tom", "Mike", "Jane"]
        stage.note("torn after 30 bytes, mended; the same with the whole file to be written")


def accounts_in(users: Path) -> list[str]:
    return re.findall(r"^\((\w+), \$scrypt\$[^)]+\)$", users.read_text(), re.MULTILINE)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    with temporary_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise Skipped("mounting a small disk is not permitted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)


def read_only(stage: Stage) -> None:
    prefix: Sequence[str] = ()
    if os.geteuid() == 0:  # who may write to every file, unless that is taken away
        if not shutil.which("setpriv"):
            raise Skipped("no setpriv, without which root may write everywhere")
        taken = "-dac_override,-dac_read_search"
        prefix = ("setpriv", f"--bounding-set={taken}", f"--inh-caps={taken}")
    with stage.scene(("Tom",), prefix=prefix) as scene:
        users = scene.server.users
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            users.chmod(0o400)
            assert talker.ask("newuser Mike secret") == UNSAVED
            shown = scene.shown("Account Mike not saved: .*")
            assert users.read_bytes() == before
            scene.login("Tom")
            users.chmod(0o600)
            assert talker.ask("newuser Mike secret") == SAVED
        assert accounts_in(users) == [PING, PONG, "Tom", "Mike"]
        stage.note(f"shown: {shown.partition(': ')[2]}; logins go on; saved once it may be written")


def users_lost(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        users = scene.server.users
        talker = scene.connect()
        with scene.fault():
            users.unlink()
            assert talker.ask("newuser Mike secret") == SAVED
            assert accounts_in(users) == [PING, PONG, "Tom", "Mike"]
            users.unlink()
            talker.ask("who")  # its session is there, and with it all descriptors that it takes
            with limited(scene.server.pid, "RLIMIT_NOFILE", scene.census().descriptors):
                assert talker.ask("newuser Jane secret") == UNSAVED
            assert talker.ask("newuser Jane secret") == SAVED
            saved = accounts_in(users)
            assert saved == [PING, PONG, "Tom", "Mike", "Jane"], f"only {saved} are left"
        assert users.stat().st_mode & 0o777 == 0o600
        stage.note("also when descriptors run out in the middle of it")


def users_edited(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        users = scene.server.users
        talker = scene.connect()
        with scene.fault():
            with users.open("a") as file:
                file.write("(Jane, secret)")
            assert talker.ask("newuser Mike secret") == SAVED
            assert accounts_in(users) == [PING, PONG, "Tom", "Jane", "Mike"]
            text = users.read_text()
            replacement = users.with_name("replacement")  # as editors do it
            replacement.write_text(f"# replaced\n{text}(Rosa, secret)\n")
            replacement.replace(users)
            assert talker.ask("newuser Luis secret") == SAVED
            assert accounts_in(users)[-3:] == ["Mike", "Rosa", "Luis"]
            assert "secret" not in users.read_text()
            users.write_text(f"{users.read_text()}nonsense\n\n")
            assert talker.ask("newuser Olga secret") == UNSAVED
            scene.shown(r"Account Olga not saved: users\.txt:\d+: .*")
        scene.login("Rosa")
        scene.login("Tom")
        stage.note("appended to, and replaced; malformed: nothing saved, logins go on")


# --------------------------------------------------------------------------------------------------
# Display and log. ServerProcess wants to read the first line of the display; where there is none,
# the log takes its place, in the form of the display.
# --------------------------------------------------------------------------------------------------

LOG_AS_DISPLAY = "server.log_format = server.display_format"
# A child reads the display, and passes it on.
PIPED_INTO = """
import subprocess
reader = subprocess.Popen({command}, stdin=subprocess.PIPE)
print("reader:", reader.pid, file=sys.stderr, flush=True)
os.dup2(reader.stdin.fileno(), 1)
reader.stdin.close()
"""


def talk(scene: Scene, count: int) -> None:
    """Have Tom say so many lines to himself, all of which the server shows."""
    with scene.login("Tom") as tom:
        for _ in range(0, count, 100):  # or he would be dropped for not reading
            tom.send(*[f"send Tom {LONG}"] * 100, "who")
            read_until(tom, is_who)
        tom.send("logout")
        read_until(tom, "Tom left.")


def display_closed(stage: Stage) -> None:
    shell = ("sh", "-c", 'exec "$@" 3>&1 >&-', "sh")
    log = ("--log", "/dev/fd/3")
    with stage.scene(("Tom",), log, patch=LOG_AS_DISPLAY, prefix=shell) as scene:
        with scene.fault():
            talk(scene, 200)
        scene.shown(r"Tom logout\.")


def display_abandoned(stage: Stage) -> None:
    patch = PIPED_INTO.format(command=["head", "-n", "1"])
    with temporary_folder() as folder:
        log = folder / "log"
        with stage.scene(("Tom",), ("--log", str(log)), patch=patch) as scene:
            assert scene.server.display.next() is None
            with scene.fault():
                talk(scene, 200)
            eventually(lambda: "Tom logout." in log.read_text(), "the log goes on")
            assert "The display cannot be written: Broken pipe." in log.read_text()


def display_stuck(stage: Stage) -> None:
    count = stage.choose(25_000, 50_000)
    patch = PIPED_INTO.format(command=["cat"])
    with stage.scene(("Tom",), patch=patch) as scene:
        cat = int(scene.server.errors.until(lambda line: "reader: " in line).split()[1])
        before = scene.census()
        with scene.fault():
            os.kill(cat, signal.SIGSTOP)
            try:
                talk(scene, count)
                grown = scene.census().memory - before.memory
            finally:
                os.kill(cat, signal.SIGCONT)
            missed = scene.shown(r"\(\d+ lines not shown\)")
            talk(scene, 1)
            scene.shown(r"Tom logout\.")
        assert grown < 64 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(
            f"{count} lines of 256 characters; then {missed}; memory +{mebibytes(max(0, grown))}"
        )


def log_full(stage: Stage) -> None:
    if not Path("/dev/full").exists():
        raise Skipped("there is no /dev/full")
    with stage.scene(("Tom",), ("--log", "/dev/full")) as scene:
        with scene.fault():
            scene.shown(r"The log cannot be written: No space left on device\.")
            talk(scene, 200)
        scene.shown(r"Tom logout\.")


# --------------------------------------------------------------------------------------------------
# Floods.
# --------------------------------------------------------------------------------------------------


def flood(stage: Stage) -> None:
    lines = [f"line {number}" for number in range(stage.choose(50, 200))]
    with stage.scene(("Tom", "Beth"), rate=10) as scene:
        tom, beth = scene.login("Tom"), scene.login("Beth")
        with scene.fault():
            began = time.monotonic()
            tom.send(*[f"send Beth {line}" for line in lines])
            beth.socket.settimeout(PATIENCE + len(lines) / 10)
            got = read_until(beth, f"Tom (to Beth): {lines[-1]}")
            lasted = time.monotonic() - began
        heard = [line for line in got if line.startswith("Tom ")]
        assert heard == [f"Tom (to Beth): {line}" for line in lines]
        assert lasted > (len(lines) - 22) / 10 - 0.1, f"{lasted:.1f} s"
        stage.note(f"{len(lines)} lines at once took {lasted:.1f} s, none lost")


def flood_unlimited(stage: Stage) -> None:
    count = stage.choose(10_000, 100_000)
    senders = ("Tom", "Beth", "David")
    with stage.scene((*senders, "Rosa")) as scene:
        rosa = scene.login("Rosa")
        with scene.fault():
            began = time.monotonic()
            talkers = [scene.login(name) for name in senders]
            heard = dict.fromkeys(senders, 0)
            pour = [
                partial(say_numbers, talker, count, partial(heard.__getitem__, sender))
                for talker, sender in zip(talkers, senders, strict=True)
            ]
            at_once([*pour, partial(count_numbers, rosa, heard, count)])
            lasted = time.monotonic() - began
        stage.note(f"{len(senders) * count} lines in {lasted:.1f} s, none lost, all in order")


def say_numbers(talker: Talker, count: int, heard: Callable[[], int]) -> None:
    """Send numbered lines as fast as they are taken, reading what comes in return.

    heard: how many of them the listener has heard; a Python that is 1 MiB behind would be dropped,
    and rightly so.
    """
    reader = threading.Thread(target=read_until, args=(talker, is_who))
    reader.start()
    for number in range(0, count, 500):
        eventually(partial(has_heard, heard, number - 500), "the listener comes along")
        talker.send(*[f"send all {n}" for n in range(number, number + 500)])
    talker.send("who")
    reader.join()


def has_heard(heard: Callable[[], int], count: int) -> bool:
    return heard() >= count


def count_numbers(talker: Talker, heard: dict[str, int], count: int) -> None:
    """Read until each sender has said all numbers up to `count`, in order."""
    while any(number < count for number in heard.values()):
        sender, _, message = (talker.line() or "").partition(": ")
        if sender in heard:
            assert message == str(heard[sender]), f"{sender} lost {heard[sender]}"
            heard[sender] += 1


def endless_line(stage: Stage) -> None:
    size = stage.choose(2 << 20, 16 << 20)
    with stage.scene(rate=10) as scene:
        before = scene.census()
        talker = scene.connect()
        talker.socket.settimeout(4 * PATIENCE)
        with scene.fault():
            began = time.monotonic()
            for _ in range(0, size, 65536):
                talker.send_bytes(bytes(65536))
            talker.send("")
            talker.expect("Denied. Line longer than 2048 bytes.")
            assert talker.ask("who") == "Denied. Please login first."
            lasted = time.monotonic() - began
            now = scene.census()
        grown = now.memory - before.memory
        assert grown < 4 << 20, f"memory grew by {mebibytes(grown)}"
        spent = now.cpu - before.cpu
        stage.note(f"{mebibytes(size)} of NUL took {lasted:.1f} s and {spent:.2f} s of server CPU")
        stage.note(f"memory +{mebibytes(max(0, grown))}; the connection lives on")


def garbage(stage: Stage) -> None:
    source = random.Random(14)
    size = stage.choose(1 << 20, 16 << 20)
    with stage.scene(("Tom",)) as scene:
        talker = scene.connect()
        before = scene.cpu()
        with scene.fault():
            reader = threading.Thread(target=read_until, args=(talker, "login confirmed"))
            reader.start()
            for _ in range(0, size, 65536):
                talker.send_bytes(source.randbytes(65536))
            talker.send("", f"login Tom {CHEAP_PASSWORD}")
            reader.join(4 * PATIENCE)
            assert not reader.is_alive()
        scene.shown(r"Tom login\.")
        stage.note(f"{mebibytes(size)}, server CPU {scene.cpu() - before:.1f} s; then it logs in")


def flood_after_logout(stage: Stage) -> None:
    """Log out without reading what is owed, and go on sending: nothing of it counts any more."""
    with stage.scene(("Slow", "Tom"), rate=5000) as scene:
        tom, slow = scene.login("Tom"), scene.login("Slow", receive_buffer=SMALL_BUFFER)
        with scene.fault():
            overfill(tom, "Slow")
            slow.send("logout")
            scene.shown(r"Slow logout\.")
            sending = threading.Thread(target=pour_empty_lines, args=(slow,), daemon=True)
            sending.start()
            spent = cpu_of_a_second(scene)
            slow.reset()
            sending.join(PATIENCE)
        assert spent < 0.3, f"{spent:.2f} s of CPU a second"
        stage.note(f"server CPU {spent:.2f} s a second")


def pour_empty_lines(talker: Talker) -> None:
    with contextlib.suppress(OSError):
        while True:
            talker.send_bytes(b"\n" * 65536)


# --------------------------------------------------------------------------------------------------
# Stopping.
# --------------------------------------------------------------------------------------------------


def stop_while_stalled(stage: Stage) -> None:
    names = [f"Slow{number}" for number in range(20)]
    with stage.scene((*names, "Tom", "Beth")) as scene:
        tom, beth = scene.login("Tom"), scene.login("Beth")
        for name in names:
            scene.login(name, receive_buffer=SMALL_BUFFER)
        reading = Collector(beth)
        with scene.fault():
            overfill(tom, "all")
        seconds = scene.stop(signal.SIGTERM)
        lines = reading.lines()
        assert lines.count(f"Tom: {LONG}") == STALLING_LINES
        assert lines[-1] == FAREWELL, lines[-1]
        stage.note(f"SIGTERM, {len(names)} stalled: gone after {seconds:.1f} s")


class Collector:
    """Reads a client's lines in a thread, to the end of the connection."""

    def __init__(self, talker: Talker) -> None:
        self.collected: list[str] = []
        self.thread = threading.Thread(target=self._run, args=(talker,), daemon=True)
        self.thread.start()

    def _run(self, talker: Talker) -> None:
        with contextlib.suppress(OSError):
            while (line := talker.line()) is not None:
                self.collected.append(line)

    def lines(self) -> list[str]:
        """Return all lines, once the connection has ended."""
        self.thread.join(2 * PATIENCE)
        assert not self.thread.is_alive(), "the connection never ends"
        return self.collected


def stop_mid_flood(stage: Stage) -> None:
    times = stage.choose(1, 10)
    seconds = [stop_a_flood(stage, (signal.SIGINT, signal.SIGTERM)[n % 2]) for n in range(times)]
    stage.note(f"{times} times: gone after {max(seconds):.1f} s at most")


def stop_a_flood(stage: Stage, number: int) -> float:
    with stage.scene(("Tom", "Beth", "Rosa", "Luis"), rate=2000) as scene:
        readers = [Collector(scene.login(name)) for name in ("Rosa", "Luis")]
        senders = [scene.login(name) for name in ("Tom", "Beth")]
        echoes = [Collector(talker) for talker in senders]
        with scene.fault():
            for talker in senders:
                threading.Thread(target=pour, args=(talker,), daemon=True).start()
            scene.shown("Beth: line 300")
        seconds = scene.stop(number)
        said = [line for line in scene.server.display.all() if is_of_the_flood(line)]
        for reader in readers:
            lines = reader.lines()
            heard = [line for line in lines if is_of_the_flood(line)]
            assert heard == said, f"heard {len(heard)} lines of {len(said)}"
            assert lines[-1] == FAREWELL, lines[-1]
        for echo in echoes:
            assert echo.lines()[-1] == FAREWELL, echo.lines()[-1]
    return seconds


def is_of_the_flood(line: str) -> bool:
    return line.startswith(("Tom: ", "Beth: "))


def pour(talker: Talker) -> None:
    """Send lines as fast as they are taken, until the connection ends."""
    with contextlib.suppress(OSError):
        for number in itertools.count():
            talker.send_bytes(f"send all line {number}\n".encode())


def stop_mid_login(stage: Stage) -> None:
    names = [f"User{number}" for number in range(60)]
    with stage.scene(names, record=REAL_HASH) as scene:
        users = [Collector(scene.connect()) for _ in names]
        with scene.fault():
            for name, talker in zip(names, scene.talkers, strict=True):
                if name.endswith("7"):
                    talker.send(f"newuser New{name} secret")
                else:
                    talker.send(f"login {name} {REAL_PASSWORD}")
            scene.shown(r"User\d+ login\.")
        seconds = scene.stop()
        for user in users:
            assert user.lines()[-1] == FAREWELL, user.lines()
        shown = scene.server.display.all()
        wrong = [line for line in shown if line.startswith("Login failed")]
        assert not wrong, f"nobody gave a wrong password: {wrong[0]}"
        stage.note(f"{len(names)} logins and accounts under way: gone after {seconds:.1f} s")


def stop_twice(stage: Stage) -> None:
    with stage.scene(("Slow", "Tom")) as scene:
        tom = scene.login("Tom")
        scene.login("Slow", receive_buffer=SMALL_BUFFER)
        with scene.fault():
            overfill(tom, "Slow")
        scene.server.process.send_signal(signal.SIGINT)
        scene.shown(FAREWELL)
        began = time.monotonic()
        scene.server.process.send_signal(signal.SIGINT)
        status = scene.server.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        assert seconds < 0.5, f"the second Ctrl-C took {seconds:.1f} s"
        scene.statuses = (0, -signal.SIGINT)
        stage.note(f"gone {seconds * 1000:.0f} ms after the second Ctrl-C, status {status}")


def stop_all_stuck(stage: Stage) -> None:
    patch = PIPED_INTO.format(command=["cat"])
    with temporary_folder() as folder:
        log = folder / "log"
        os.mkfifo(log)
        unread = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with stage.scene(("Slow", "Tom"), ("--log", str(log)), patch=patch) as scene:
                cat = int(scene.server.errors.until(lambda line: "reader: " in line).split()[1])
                scene.login("Slow", receive_buffer=SMALL_BUFFER)
                try:
                    with scene.fault():
                        os.kill(cat, signal.SIGSTOP)
                        overfill(scene.login("Tom"), "Slow")
                    seconds = scene.stop()
                finally:
                    os.kill(cat, signal.SIGCONT)
        finally:
            os.close(unread)
    stage.note(f"gone after {seconds:.1f} s")


# --------------------------------------------------------------------------------------------------
# One door: however a session ends, nothing of it is left.
# --------------------------------------------------------------------------------------------------

GUESTS = [f"User{number}" for number in range(6)]  # fewer than clients, so that they take over
NARROW = {"OUTBOX_LIMIT": 20_000, "SEND_BUFFER": 4608, "LOBBY": 8}  # so that all happens often


class Guest:
    """A client that comes and goes in every way there is, drawn from a seed."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.server = server
        self.source = random.Random(seed)
        self.loiterers: list[Talker] = []

    def visit(self, rounds: int) -> None:
        """Come and go so many times, or until the server is gone."""
        for _ in range(rounds):
            try:
                self.visit_once()
            except ConnectionRefusedError:
                break
            except OSError:
                continue
        for talker in self.loiterers:
            talker.close()

    def visit_once(self) -> None:
        ways = (self.close, self.reset, self.log_out, self.finish, self.move, self.stall, self.wait)
        way, userid = self.source.choice(ways), self.source.choice(GUESTS)
        with self.server.connect() as talker:
            talker.send(f"login {userid} {CHEAP_PASSWORD}")
            if self.source.random() < 0.8:  # the rest does not wait to be in
                talker.line()
            way(talker, userid)

    def close(self, talker: Talker, userid: str) -> None:
        talker.send("who", f"send {userid} to myself")

    def reset(self, talker: Talker, userid: str) -> None:
        talker.send("who")
        talker.reset()

    def log_out(self, talker: Talker, userid: str) -> None:
        talker.send("logout", "who", "logout")
        talker.rest()

    def finish(self, talker: Talker, userid: str) -> None:
        talker.send("who")
        talker.finish()
        talker.rest()

    def move(self, talker: Talker, userid: str) -> None:
        with self.server.connect() as other:
            other.send(f"login {userid} {CHEAP_PASSWORD}")
            talker.rest()

    def stall(self, talker: Talker, userid: str) -> None:
        with self.server.connect(receive_buffer=SMALL_BUFFER) as other:
            other.send(f"login {userid} {CHEAP_PASSWORD}", *[f"send {userid} {BIG}"] * 100, "who")
            talker.rest()

    def wait(self, talker: Talker, userid: str) -> None:
        """Leave connections at the door, until they or others are evicted."""
        self.loiterers.append(self.server.connect())
        if len(self.loiterers) > 3:
            self.loiterers.pop(0).close()


def one_door(stage: Stage) -> None:
    rounds = stage.choose(25, 400)
    with stage.scene((*GUESTS, "Tom"), constants=NARROW) as scene:
        tom = scene.login("Tom")
        heard = Collector(tom)
        before = scene.census()
        with scene.fault():
            guests = [Guest(scene.server, seed) for seed in range(8)]
            at_once([partial(guest.visit, rounds) for guest in guests])
            scene.settle(before)
        tom.send("who")
        guests = [Guest(scene.server, seed) for seed in range(8, 16)]
        visits = [partial(guest.visit, sys.maxsize) for guest in guests]
        threads = [threading.Thread(target=visit, daemon=True) for visit in visits]
        for thread in threads:
            thread.start()
        scene.shown(r"User\d logout.*\.")
        scene.stop()
        for thread in threads:
            thread.join(PATIENCE)
        check_balance(heard.lines(), stage)


def check_balance(lines: list[str], stage: Stage) -> None:
    """Hold what a witness heard to: whoever joined left, and only they, one after the other."""
    end = lines.index(f"{PING}, {PONG}, Tom")
    for userid in GUESTS:
        heard = [line for line in lines[:end] if line in (f"{userid} joins.", f"{userid} left.")]
        assert heard[::2] == [f"{userid} joins."] * (len(heard) // 2), heard
        assert heard[1::2] == [f"{userid} left."] * (len(heard) // 2), heard
    assert lines[-1] == FAREWELL, lines[-1]
    joins = sum(line.endswith(" joins.") for line in lines[:end])
    stage.note(f"8 clients at once, {joins} joins, each with its left")


def churn(stage: Stage) -> None:
    count = stage.choose(1_500, 200_000)
    names = [f"User{number}" for number in range(4)]
    with stage.scene(names) as scene:
        quiet = scene.census()
        come_and_go(scene, names, count // 10)  # what the first thousands take is no leak
        scene.settle(quiet)
        before = scene.census()
        with scene.fault():
            began = time.monotonic()
            come_and_go(scene, names, count)
            lasted = time.monotonic() - began
            scene.settle(before)
        after = scene.census()
        grown = after.memory - before.memory
        assert grown < 4 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(f"{count} joins and leaves in {lasted:.0f} s")
        stage.note(f"memory {mebibytes(before.memory)}, then {mebibytes(after.memory)}")
        stage.note(f"threads {after.threads}, descriptors {after.descriptors}, as before")


def come_and_go(scene: Scene, names: Sequence[str], count: int) -> None:
    rounds = count // len(names)
    at_once([partial(join_and_leave, scene.server, name, rounds) for name in names])


def join_and_leave(server: ServerProcess, userid: str, rounds: int) -> None:
    for number in range(rounds):
        with server.login(userid) as talker:
            if number % 3 == 0:
                talker.send("logout")
                read_until(talker, f"{userid} left.")
            elif number % 3 == 1:
                talker.reset()


# --------------------------------------------------------------------------------------------------
# The table.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    name: str
    build: Callable[[Stage], None]
    promise: str  # which `build` asserts


FAULTS = (
    Fault("never-reads", never_reads, "dropped once 1 MiB waits, shown as (not reading)"),
    Fault("stalls", stalls, "dropped after 30 s without progress; costs no CPU until then"),
    Fault("half-lines", half_lines, "half a line, then silence: costs nothing, and may be ended"),
    Fault("resets", resets, "logged out, shown as (connection lost); nothing of them is left"),
    Fault("half-closes", half_closes, "a logout; gets the replies it is owed"),
    Fault("keepalive", keepalive, "every connection has the socket options that find dead peers"),
    Fault("vanishes", vanishes, "no FIN, cable pulled: found within 2 minutes"),
    Fault("lobby", lobby, "101st connection before login evicts the oldest, who is told"),
    Fault("login-deadline", login_deadline, "no login in 300 s: told and closed, however busy"),
    Fault("wrong-passwords", wrong_passwords, "cost a second each, the third closes"),
    Fault("guessing", guessing, "past 10 failures an address is refused before any hash"),
    Fault("logins-at-once", logins_at_once, "all get in, with one hash per core at a time"),
    Fault(
        "evicted-newusers", evicted_newusers, "connections gone meanwhile leave no queue of hashes"
    ),
    Fault("descriptors", out_of_descriptors, "shown; no spinning; served when they are back"),
    Fault("threads", out_of_threads, "that connection is told `The server is busy.`, then on"),
    Fault("disk-full", disk_full, "account refused, users.txt as it was; saved once there is room"),
    Fault(
        "file-limit", file_too_large, "the same when a line, or a new file, is torn in the middle"
    ),
    Fault("read-only", read_only, "account refused, logins go on"),
    Fault("users-lost", users_lost, "newuser writes users.txt anew, with every account"),
    Fault("users-edited", users_edited, "others' accounts are taken in, and hashed"),
    Fault("display-closed", display_closed, "started with >&-: the room and the log go on"),
    Fault("display-abandoned", display_abandoned, "EPIPE: the room and the log go on"),
    Fault("display-stuck", display_stuck, "full pipe: the room goes on, `(N lines not shown)`"),
    Fault("log-full", log_full, "--log /dev/full: shown once, the room goes on"),
    Fault("flood", flood, "slowed to --rate, nothing lost"),
    Fault("flood-unlimited", flood_unlimited, "with --rate 0: nothing lost, in order"),
    Fault("endless-line", endless_line, "refused once, skipped in bounded memory, lives on"),
    Fault("garbage", garbage, "random bytes: refused, lives on"),
    Fault("logout-flood", flood_after_logout, "sends on after logout, reads nothing: costs little"),
    Fault("stop-stalled", stop_while_stalled, "SIGTERM with stalled clients: readers get all"),
    Fault(
        "stop-flood", stop_mid_flood, "mid-flood: all that was shown was heard, then the farewell"
    ),
    Fault("stop-login", stop_mid_login, "mid-login and mid-newuser: all told"),
    Fault("stop-twice", stop_twice, "a second Ctrl-C ends it at once"),
    Fault("stop-stuck", stop_all_stuck, "client, display and log all stuck: status 0 within 2 s"),
    Fault("one-door", one_door, "all ways to leave interleaved: no ghost, all `left` balanced"),
    Fault("churn", churn, "flat memory, threads, descriptors"),
)


@dataclass(frozen=True)
class Row:
    fault: Fault
    verdict: str
    stage: Stage
    seconds: float

    def cells(self) -> list[str]:
        notes = self.stage.notes
        figures = self.verdict if self.verdict.startswith("skipped") else "; ".join(notes)
        delays = [milliseconds(self.stage.trips), milliseconds(self.stage.quiet)]
        return [self.fault.name, self.fault.promise, *delays, figures]


def milliseconds(trips: Sequence[Trip]) -> str:
    if not trips:
        return "-"
    times = [1000 * trip.seconds for trip in trips]
    return f"{max(times):.0f} ({statistics.median(times):.1f})"


def perform(fault: Fault, *, quick: bool) -> Row:
    stage, began, verdict = Stage(quick), time.monotonic(), "ok"
    try:
        fault.build(stage)
    except Skipped as reason:
        verdict = f"skipped: {reason}"
    except (AssertionError, OSError, ValueError, queue.Empty) as error:
        traceback.print_exc()
        verdict = f"FAILED: {error!r}"
    return Row(fault, verdict, stage, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in short, about a minute")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults; all if none is given")
    options = parser.parse_args()
    unknown = set(options.names) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(
            f"no fault {', '.join(unknown)}; there are {', '.join(f.name for f in FAULTS)}"
        )
    rows = []
    for fault in FAULTS:
        if not options.names or fault.name in options.names:
            rows.append(perform(fault, quick=options.quick))
            print(f"{fault.name}: {rows[-1].verdict} ({rows[-1].seconds:.1f} s)", flush=True)
    print_table(rows)
    failed = [row.fault.name for row in rows if row.verdict.startswith("FAILED")]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} faults survived.", *failed)
    return 1 if failed else 0


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows in Markdown: delays are the longest round trip, and in brackets the median."""
    print("\n| fault | what happens | room delayed at most, ms | without the fault, ms | figures |")
    print("|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row.cells())} |")


if __name__ == "__main__":
    sys.exit(main())
