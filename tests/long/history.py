"""Joiners with --history, while eight users talk as fast as they can; and what history costs.

    python -m tests.long.history [--quick] [NAME ...]

A watcher, who is in the room from the first line to the last and never speaks, hears what all hear
in the order in which all hear it. Each joiner is held to that: first the last lines that had been
said to all when the watcher heard of the joining, then, live, exactly what the watcher heard next.
"""

from __future__ import annotations

import collections
import contextlib
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from unittest import mock

import server
from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.process import (
    AS_IT_IS,
    CHEAP_PASSWORD,
    PATIENCE,
    ROOT,
    LineReader,
    ServerProcess,
    altered_server,
    child_environment,
    running_server,
)
from tests.helpers.talker import Talker

KEPT = 1000  # lines that a joiner is told
SPEAKERS = [f"Speaker{number}" for number in range(8)]
JOINERS = [f"Joiner{number}" for number in range(4)]
WATCHER = "Watcher"
FULL, QUICK = 150, 12  # visits of each joiner; the others talk on until all are done
LONGEST = 20  # bytes of a line
STAY = 2000  # bytes heard live before a joiner goes again
TIME_LIMIT = 600.0  # seconds for all that is said
COST_LIMIT = 1.15  # times as long may Room.say take with history off as without such code

HISTORY_LINE = re.compile(r"(\w+) \(at [0-2]\d:[0-5]\d\): (.*)")


# --------------------------------------------------------------------------------------------------
# The speakers, in a process of their own, so that their listening does not hold up the joiners'.
# --------------------------------------------------------------------------------------------------


def speak(host: str, port: str) -> None:
    """Be all speakers, from "in" on standard output to a line on standard input.

    Prints "said" when all is said and heard; after one more line on standard input, how many public
    lines each said, then how many private ones each said, then how many each heard.
    """
    talkers = [Talker(host, int(port)) for _ in SPEAKERS]
    for talker, userid in zip(talkers, SPEAKERS, strict=True):
        talker.send(f"login {userid} {CHEAP_PASSWORD}")
        talker.until("login confirmed")
        talker.socket.settimeout(None)
        # Else megabytes of lines wait in the kernel, and are still to be said when all is over.
        talker.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    said = [0 for _ in talkers]
    secrets = [0 for _ in talkers]
    heard = [0 for _ in talkers]
    enough = threading.Event()
    listeners = [
        threading.Thread(target=count_private, args=(talker, heard, place))
        for place, talker in enumerate(talkers)
    ]
    speakers = [
        threading.Thread(target=say_all, args=(talker, place, enough, said, secrets))
        for place, talker in enumerate(talkers)
    ]
    print("in", flush=True)
    for thread in (*listeners, *speakers):
        thread.start()
    sys.stdin.readline()
    enough.set()
    for speaker in speakers:
        speaker.join()
    # A private line is each speaker's last: once all are heard, all has been said.
    eventually(lambda: sum(heard) == sum(secrets), "all private lines heard", TIME_LIMIT)
    print("said", flush=True)
    sys.stdin.readline()
    for talker in talkers:
        talker.send("logout")
    for listener in listeners:
        listener.join()
    print(*said, *secrets, *heard, flush=True)


def say_all(
    talker: Talker, place: int, enough: threading.Event, said: list[int], secrets: list[int]
) -> None:
    neighbour = SPEAKERS[(place + 1) % len(SPEAKERS)]
    while not enough.is_set():
        lines = []
        for _ in range(5):
            lines += [f"send all {number}" for number in range(said[place], said[place] + 10)]
            lines.append(f"send {neighbour} secret {said[place]}")
            said[place] += 10
            secrets[place] += 1
        talker.send(*lines)


def count_private(talker: Talker, heard: list[int], place: int) -> None:
    rest = b""
    while data := talker.socket.recv(1 << 18):
        whole, _, rest = (rest + data).rpartition(b"\n")
        heard[place] += whole.count(b": secret ")


# --------------------------------------------------------------------------------------------------
# The watcher and the joiners.
# --------------------------------------------------------------------------------------------------


class Ear:
    """Takes in all that a connection gets, in a thread, as fast as it comes."""

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.pieces: list[bytes] = [talker.buffer]
        self.size = len(talker.buffer)
        self.news = threading.Condition()
        self.has_ended = False
        talker.socket.settimeout(None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.talker.socket.recv(1 << 18):
                with self.news:
                    self.pieces.append(data)
                    self.size += len(data)
                    self.news.notify_all()
        with self.news:
            self.has_ended = True
            self.news.notify_all()

    def wait(self, size: int) -> None:
        """Wait for so many bytes in all, or the end."""
        with self.news:
            enough = self.news.wait_for(lambda: self.size >= size or self.has_ended, PATIENCE)
        assert enough, "nothing came"

    def lines(self) -> list[str]:
        """Return all lines, up to the end of the connection."""
        self.thread.join(4 * PATIENCE)
        assert not self.thread.is_alive(), "the connection does not end"
        self.talker.close()
        data = b"".join(self.pieces)
        assert data.endswith(b"\n"), data[-80:]
        return data.decode().split("\n")[:-1]


@dataclass
class Visit:
    """One joining, from `login` to the end."""

    userid: str
    ear: Ear
    ordinal: int  # of this user's joinings that the room heard of, from 0; -1: it took a place over
    taken_over: bool = False  # by the user's next visit, and so without a `left`


@dataclass
class Joiner:
    """A user who joins and leaves again and again; every third time by taking over."""

    server: ServerProcess
    userid: str
    count: int  # of its visits
    watcher: Ear
    visits: list[Visit] = field(default_factory=list)
    failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._join_again_and_again()
        except BaseException as error:
            self.failure = error
            raise

    def _join_again_and_again(self) -> None:
        joined, present = 0, False
        for number in range(self.count):
            suite.at(f"{number} of {self.count} visits of each joiner")
            if number == self.count - 1:  # one visit at least has a whole history
                self.watcher.wait(KEPT * LONGEST)
            talker = self.server.connect()
            talker.send(f"login {self.userid} {CHEAP_PASSWORD}")
            ear = Ear(talker)
            visit = Visit(self.userid, ear, -1 if present else joined)
            joined += not present
            self.visits.append(visit)
            ear.wait(1)
            ear.wait(ear.size + STAY)
            present = number % 3 == 1 and number < self.count - 1
            if present:  # the next visit takes the place of this one
                visit.taken_over = True
                continue
            talker.send("logout")
            ear.thread.join(PATIENCE)


@dataclass
class Heard:
    """What the watcher heard, to look things up in."""

    lines: list[str]
    chat: list[str] = field(default_factory=list)  # without joins and leaves
    chat_before: list[int] = field(default_factory=list)  # how many of these before each line
    place: dict[str, int] = field(default_factory=dict)  # of a line of the chat in it
    joins: dict[str, list[int]] = field(default_factory=dict)  # places in `lines`, by user
    leaves: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.joins = collections.defaultdict(list)
        self.leaves = collections.defaultdict(list)
        for number, line in enumerate(self.lines):
            self.chat_before.append(len(self.chat))
            if line.endswith(" joins."):
                self.joins[line.removesuffix(" joins.")].append(number)
            elif line.endswith(" left."):
                self.leaves[line.removesuffix(" left.")].append(number)
            else:
                assert line not in self.place, f"the watcher heard twice: {line}"
                self.place[line] = len(self.chat)
                self.chat.append(line)

    def hold(self, visit: Visit) -> tuple[int, int]:
        """Hold a visit to it; return how many lines of history and live ones it had."""
        first, *lines = visit.ear.lines()
        assert first == "login confirmed", first
        if visit.taken_over:
            farewell = f"Denied. {visit.userid} logged in from another connection."
            assert lines[-1] == farewell, lines[-1]
        if lines[-1:] == [f"{visit.userid} left."] or visit.taken_over:
            lines.pop()
        private = [line for line in lines if " (to " in line]
        assert not private, private[:3]
        history = []
        for line in lines:
            if not (found := HISTORY_LINE.fullmatch(line)):
                break
            history.append(f"{found[1]}: {found[2]}")
        live = lines[len(history) :]
        late = [line for line in live if HISTORY_LINE.fullmatch(line)]
        assert not late, f"history among live lines: {late[:3]}"
        if visit.ordinal >= 0:
            joined = self.joins[visit.userid][visit.ordinal]
            start = self.chat_before[joined]
            hold_same(history, self.chat[max(0, start - KEPT) : start], "history")
            hold_same(live, self.lines[joined + 1 : joined + 1 + len(live)], "live")
            if not visit.taken_over:
                left = self.leaves[visit.userid][visit.ordinal]
                assert joined + 1 + len(live) == left, "lines missing at the end"
        else:  # the room heard nothing of it: find where history and live lines meet
            talk = [*history, *(line for line in live if line in self.place)]
            start = self.place[talk[0]] if talk else 0
            hold_same(talk, self.chat[start : start + len(talk)], "history and live")
            assert len(history) == min(KEPT, start + len(history)), len(history)
            if live:
                self._hold_live(live)
        return len(history), len(live)

    def _hold_live(self, live: Sequence[str]) -> None:
        """Hold live lines to be a part of what the watcher heard, joins and leaves included."""
        number = next((n for n, line in enumerate(live) if line in self.place), None)
        if number is not None:
            start = self.lines.index(live[number]) - number
            hold_same(live, self.lines[start : start + len(live)], "live")


def hold_same(got: Sequence[str], wanted: Sequence[str], what: str) -> None:
    if got != wanted:
        pairs = zip(got, wanted, strict=False)
        place = next((n for n, (one, other) in enumerate(pairs) if one != other), -1)
        around = slice(max(0, place - 2), place + 3)
        raise AssertionError(
            f"{what}: {len(got)} lines for {len(wanted)}, first different at {place}: "
            f"{got[around]} for {wanted[around]}"
        )


def joins_while_others_talk(quick: bool) -> str:
    """each joiner sees each public line exactly once, history and live, in the order of all"""
    count = QUICK if quick else FULL
    as_it_is = hold_joins(count, AS_IT_IS)
    # A gap between two steps is hardly ever met where threads switch every 5 ms.
    restless = hold_joins(count // 3, altered_server(first="sys.setswitchinterval(1e-6)"))
    return f"{as_it_is}; with threads switched all the time: {restless}"


def hold_joins(count: int, program: Sequence[str]) -> str:
    """Have each joiner come and go so many times while all others talk."""
    people = [WATCHER, *SPEAKERS, *JOINERS]
    options = ("--history", str(KEPT), "--rate", "0", "--max-clients", str(len(people)))
    with running_server(people, options, program=program) as running:
        watcher = running.login(WATCHER)
        ear = Ear(watcher)
        joiners = [Joiner(running, userid, count, ear) for userid in JOINERS]
        threads = [threading.Thread(target=joiner.run, daemon=True) for joiner in joiners]
        with contextlib.closing(Speakers(running)) as speakers:
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(TIME_LIMIT)
            assert not any(thread.is_alive() for thread in threads), "a joiner is stuck"
            speakers.stop()
            seconds = time.monotonic() - began
            said, secrets, private = speakers.finish()
        watcher.send("logout")
        heard = Heard(ear.lines())
    failures = [joiner.failure for joiner in joiners if joiner.failure]
    assert not failures, failures
    assert len(heard.chat) == sum(said), f"the watcher heard {len(heard.chat)} of {sum(said)}"
    for userid, number in zip(SPEAKERS, said, strict=True):
        own = [line for line in heard.chat if line.startswith(f"{userid}: ")]
        hold_same(own, [f"{userid}: {place}" for place in range(number)], userid)
    assert private == secrets[-1:] + secrets[:-1], (private, secrets)
    visits = [visit for joiner in joiners for visit in joiner.visits]
    lengths = [heard.hold(visit) for visit in visits]
    whole = sum(history == KEPT for history, _ in lengths)
    taken = sum(visit.ordinal < 0 for visit in visits)
    live = [length for _, length in lengths]
    assert taken, "nobody took a place over"
    assert whole, "nobody had a whole history"
    return (
        f"{sum(said)} public and {sum(secrets)} private lines in {seconds:.1f} s "
        f"({sum(said) / seconds:.0f} public a second); {len(visits)} joins, {taken} of them by "
        f"taking over, {whole} with all {KEPT} lines of history; live lines of a visit: "
        f"{min(live)}/{statistics.median(live):.0f}/{max(live)} (least/median/most); "
        f"{sum(history for history, _ in lengths)} lines of history and {sum(live)} live ones, "
        "none missing, twice or swapped"
    )


class Speakers:
    """The process of the speakers."""

    def __init__(self, running: ServerProcess) -> None:
        code = "import sys; from tests.long.history import speak; speak(*sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, running.host, str(running.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=child_environment(),
        )
        assert self.process.stdout is not None
        self.out = LineReader(self.process.stdout)
        self.out.until("in")

    def stop(self) -> None:
        """Have them stop, and wait until all that they said is heard."""
        self._tell()
        self.out.until("said", TIME_LIMIT)

    def finish(self) -> tuple[list[int], list[int], list[int]]:
        """Have them log out; return the public and private lines said, and those heard, of each."""
        self._tell()
        counts = [int(word) for word in (self.out.next() or "").split()]
        size = len(SPEAKERS)
        return counts[:size], counts[size : 2 * size], counts[2 * size :]

    def _tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.out.close()


# --------------------------------------------------------------------------------------------------
# One joiner at a time.
# --------------------------------------------------------------------------------------------------

# Tells of each `send`: whose, how many bytes there were, and how many the kernel took.
TELL_SENDS = """
import socket
def send(self, data, *flags, send=socket.socket.send):
    count = send(self, data, *flags)
    if self.family == socket.AF_INET:
        print("sent", self.getpeername()[1], len(data), count, file=sys.stderr, flush=True)
    return count
socket.socket.send = send
"""


def a_join_is_one_send(quick: bool) -> str:
    """all that a joiner is told goes out in one `send`, up to the 256 KiB that are kept"""
    figures = []
    texts = {"short lines": "x", "most bytes": "\U0001f600" * 256}
    for name, text in texts.items():
        options = ("--history", str(KEPT), "--rate", "0")
        program = altered_server(patch=TELL_SENDS)
        with running_server(options=options, program=program) as running:
            with running.login("Tom") as tom:
                for number in range(KEPT + 10):
                    tom.send(f"send all {text[: 256 - len(str(number)) - 1]} {number}")
                tom.send("who")
                tom.until("Tom")
                for _ in range(2 if quick else 10):
                    with running.connect() as beth:
                        port = beth.socket.getsockname()[1]
                        beth.send(f"login Beth {CHEAP_PASSWORD}")
                        beth.expect("login confirmed")
                        lines = [beth.line()]
                        while lines[-1] is not None and not lines[-1].endswith(f" {KEPT + 9}"):
                            lines.append(beth.line())
                        size, count = next_send(running, port)
                        heard = sum(len(f"{line}\n".encode()) for line in lines)
                        assert count == size == heard + len("login confirmed\n"), (
                            size,
                            count,
                            heard,
                        )
                        assert beth.ask("who") == "Beth, Tom"
                        log_out(beth, "Beth")
                    tom.until("Beth left.")
            limit = server.HISTORY_BYTES
            kept = heard - len(lines)
            assert kept <= limit, kept
            if text != "x":
                assert len(lines) < KEPT, "the bound in bytes was not reached"
                assert kept > limit - 2048, f"only {kept} bytes kept"
            else:
                assert len(lines) == KEPT, len(lines)
        figures.append(f"{name}: {len(lines)} lines, {kept} bytes of text, one send of {size}")
    return "; ".join(figures)


def next_send(running: ServerProcess, port: int) -> tuple[int, int]:
    """Return how many bytes the next `send` to this port of ours had, and how many were taken."""
    told = running.errors.until(lambda line: line.startswith(f"sent {port} "))
    size, count = told.split()[2:]
    return int(size), int(count)


def log_out(talker: Talker, userid: str) -> None:
    talker.send("logout")
    talker.expect(f"{userid} left.")
    assert talker.line() is None


def kept_no_longer_than_the_room(quick: bool) -> str:
    """once the room is empty, however its last user went, nobody is told what was said in it"""
    options = ("--history", str(KEPT), "--rate", "0")
    ways: dict[str, Callable[[Talker], None]] = {
        "logout": lambda talker: talker.send("logout"),
        "end": lambda talker: talker.finish(),
        "reset": lambda talker: talker.reset(),
    }
    with running_server(options=options, program=AS_IT_IS) as running:
        for name, go in ways.items():
            tom, beth = running.login("Tom"), running.login("Beth")
            tom.expect("Beth joins.")
            tom.send("send all for us alone", "send Beth a secret", "who")
            tom.expect("Beth, Tom")
            beth.expect("Tom: for us alone", "Tom (to Beth): a secret")
            # While somebody is in, it is kept: also for who comes back.
            log_out(beth, "Beth")
            tom.expect("Beth left.")
            with running.login("Beth") as again:
                line = again.line() or ""
                assert HISTORY_LINE.fullmatch(line), line
                assert again.ask("who") == "Beth, Tom"
                log_out(again, "Beth")
            tom.expect("Beth joins.", "Beth left.")
            running.display.until("Beth logout.")
            go(tom)
            running.display.until(lambda line: line.startswith("Tom logout"))
            with running.login("David") as david:
                assert david.ask("who") == "David", name
                log_out(david, "David")
            running.display.until("David logout.")
            for talker in (tom, beth):
                talker.close()
    return f"by {', '.join(ways)}"


# --------------------------------------------------------------------------------------------------
# What it costs.
# --------------------------------------------------------------------------------------------------


class Forgetful(server.Room):
    """A room without any code for history."""

    def say(self, visitor: server.Visitor, message: str) -> None:
        with self.lock:
            if not visitor.gone:
                line = f"{visitor.userid}: {message}"
                self._tell_all(line, visitor)
                self.display.show(line, visitor.address)
        self.courier.deliver()


def nothing_when_it_is_off(quick: bool) -> str:
    """with --history 0, Room.say takes no longer than a room without any code for history"""
    rooms = {
        "without such code": (Forgetful, 0),
        "--history 0": (server.Room, 0),
        "--history 1000": (server.Room, KEPT),
    }
    spent: dict[str, list[float]] = {name: [] for name in rooms}
    with contextlib.ExitStack() as stack:
        speakers = {
            name: quiet_room(kind, history, stack) for name, (kind, history) in rooms.items()
        }
        rounds = 40 if quick else 400
        for number in range(rounds):
            suite.at(f"{number} of {rounds} rounds")
            for name, (room, visitor) in speakers.items():  # in turn, as the machine is shared
                spent[name].append(time_of_say(room, visitor))
    best = {name: min(times) for name, times in spent.items()}
    ratio = best["--history 0"] / best["without such code"]
    assert ratio < COST_LIMIT, best
    figures = [
        f"{name}: {best[name] * 1e9:.0f} ns (median {statistics.median(times) * 1e9:.0f})"
        for name, times in spent.items()
    ]
    return f"Room.say, two in the room, no network: {', '.join(figures)}; off / none {ratio:.3f}"


def quiet_room(
    kind: type[server.Room], history: int, stack: contextlib.ExitStack
) -> tuple[server.Room, server.Visitor]:
    """Return a room of two users whose sockets take all and cost nothing, and one of the two."""
    courier = server.Courier()
    for end in (courier.waker, courier.wakeful, courier.selector):
        stack.callback(end.close)
    room = kind(courier, server.Display(), 3, history)
    visitors = []
    for userid in ("Tom", "Beth"):
        connection = mock.Mock(spec=socket.socket)
        connection.send = take_all
        outbox = server.Outbox(connection, lambda reason: None)
        visitor = server.Visitor(outbox, "192.0.2.1:9", b"")
        room.arrive(visitor)
        room.enter(visitor, userid)
        visitors.append(visitor)
    return room, visitors[0]


def take_all(data: bytes, flags: int) -> int:
    return len(data)


def time_of_say(room: server.Room, visitor: server.Visitor, count: int = 500) -> float:
    """Return the seconds of this thread that one Room.say takes."""
    began = time.thread_time()
    for _ in range(count):
        room.say(visitor, "when is it due?")
    return (time.thread_time() - began) / count


CASES = [
    suite.case_of(run)
    for run in (
        joins_while_others_talk,
        a_join_is_one_send,
        kept_no_longer_than_the_room,
        nothing_when_it_is_off,
    )
]


if __name__ == "__main__":
    sys.exit(suite.main("tests.long.history", __doc__, CASES))
