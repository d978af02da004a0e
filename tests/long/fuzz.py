"""A million lines and a hundred thousand blobs against one server, while others just talk.

    python -m tests.long.fuzz [--quick] [--tls] [--seed N]

Fuzzers, in processes of their own, send commands, mutated commands, text of many scripts, overlong
and empty lines, telnet commands, random bytes in random pieces, and reset connections in the
middle. What is a line is told by a framing of the suites' own, and each line's reply is held to
what server.parse says of it. Meanwhile witnesses in the same room talk to each other: each of their
lines must reach all others exactly once, in one order, that of the display. At the end the server
must have the threads and descriptors that it began with, and hardly more memory than at half-time.
The seed is told, and gives the same lines again.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import random
import re
import selectors
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized

from tests.helpers import suite
from tests.helpers.cases import CASES
from tests.helpers.census import settle, take_census
from tests.helpers.certificates import tls_options
from tests.helpers.grammar import CLOSING, LONGEST, Stream, understood
from tests.helpers.process import (
    CHEAP_PASSWORD,
    PATIENCE,
    ServerProcess,
    altered_server,
    running_server,
    temporary_folder,
)
from tests.helpers.talker import Talker

FULL = (1_000_000, 100_000)  # lines and blobs
QUICK = (20_000, 2_000)
FUZZERS = 3  # processes
SEATS = 3  # connections of each in the room; one more stays at the door
BATCH = 200  # lines that are sent before their replies are looked at
RESETS = 0.3  # share of the blobs whose connection is reset in the middle
WITNESSES = 4
WITNESS_PAUSE = 0.02  # seconds between two lines of one witness
STANDSTILL = 30.0  # seconds for one batch of lines; it takes well under one
DELAY_LIMIT = 5.0  # seconds; the machine is shared, a stopped room would be far beyond this
MEMORY_LIMIT = 16 << 20  # bytes that the second half may add
TIME_LIMIT = 1200.0  # seconds for each half

WITNESS_IDS = [f"Witness{number}" for number in range(WITNESSES)]
FUZZER_IDS = [f"Fuzzer{number}" for number in range(FUZZERS * SEATS)]
PEOPLE = [*WITNESS_IDS, *FUZZER_IDS]


# --------------------------------------------------------------------------------------------------
# What is sent.
# --------------------------------------------------------------------------------------------------

# First and last letters of blocks of many scripts, and of what is no text at all.
BLOCKS = [
    (0x20, 0x7E),
    (0xA0, 0x17F),
    (0x300, 0x36F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x590, 0x6FF),
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x1100, 0x11FF),
    (0x2000, 0x206F),
    (0x3040, 0x30FF),
    (0x4E00, 0x4FFF),
    (0xAC00, 0xACFF),
    (0xFF00, 0xFFEF),
    (0x1D400, 0x1D4FF),
    (0x1F600, 0x1F64F),
    (0x0, 0x1F),
    (0x7F, 0x9F),
]
TABLE = [line.encode() for line, _ in CASES]
SPLICES = [b" ", b"  ", b"\t", b"\r", b"\0", b"\x1b[2J", b"\xff", b"\xc3", b"all", "é".encode()]
SPLICES += ["\u00a0".encode(), "\u3000".encode(), b"\r\0"]
# RFC 854: options asked for, refused and begun, Interrupt Process, a subnegotiation, a byte 255.
TELNET = [b"\xff\xfd\x06", b"\xff\xfb\n", b"\xff\xfc\x01", b"\xff\xfb", b"\xff\xf4", b"\xff\xf1"]
TELNET += [b"\xff\xfa\x1f\0P\0\n\xff\xf0", b"\xff\xfa", b"\xff\xf0", b"\xff\xff", b"\xff"]


def some_text(chance: random.Random, longest: int = 60) -> str:
    low, high = chance.choice(BLOCKS)
    return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(0, longest)))


def command(chance: random.Random) -> bytes:
    """Return a valid command, mostly: what `some_text` gives may not be."""
    kind = chance.random()
    if kind < 0.35:
        return f"send all {some_text(chance)}".encode()
    if kind < 0.75:
        return f"send {chance.choice(PEOPLE)} {some_text(chance)}".encode()
    if kind < 0.85:
        return chance.choice([b"who", b"WHO ", b" Who"])
    if kind < 0.9:
        return f"newuser {some_text(chance, 12)} {some_text(chance, 8)}".encode()
    if kind < 0.92:
        return f"newuser New{chance.randrange(1000)} secret".encode()
    return f"login {chance.choice(PEOPLE)} {some_text(chance, 8)}".encode()


def mutated(chance: random.Random, line: bytes) -> bytes:
    data = bytearray(line)
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(data))
        match chance.randrange(4):
            case 0:
                data[place:place] = chance.choice(SPLICES if chance.random() < 0.8 else TELNET)
            case 1:
                del data[place : place + chance.randint(1, 5)]
            case 2:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 3:
                data[place:place] = data[: chance.randint(0, 40)]
    return bytes(data)


def some_line(chance: random.Random) -> bytes:
    """Return a line of the mix, with its line end."""
    kind = chance.random()
    if kind < 0.25:
        line = command(chance)
    elif kind < 0.55:
        line = mutated(chance, command(chance))
    elif kind < 0.7:
        line = chance.choice(TABLE)
    elif kind < 0.9:
        line = some_text(chance).encode()
    elif kind < 0.95:
        line = b" " * chance.randrange(3)
    else:
        filler = chance.choice([b"x", b"\r", "é".encode(), b"send all "])
        line = filler * (
            chance.choice([*range(LONGEST - 1, LONGEST + 3), 3000, 9000]) // len(filler)
        )
    return line.replace(b"\n", b"") + chance.choice([b"\n", b"\n", b"\r\n"])


def blob(chance: random.Random) -> bytes:
    """Return random bytes: all of them, or few of them with many line ends."""
    size = chance.choice([1, 7, 60, 300, 3000])
    kind = chance.random()
    if kind < 0.1:
        pieces = chance.choices(
            [*TELNET, b"who\n", b"x", b"\r\0", b"\n"], k=chance.randint(1, size)
        )
        return b"".join(pieces)
    if kind < 0.5:
        return chance.randbytes(chance.randint(1, size))
    alphabet = bytes(chance.choices(b"\n\r \0\xff\xc3\xa9sendallwho", k=6))
    return bytes(chance.choices(alphabet, k=chance.randint(1, size)))


# --------------------------------------------------------------------------------------------------
# What must come back.
# --------------------------------------------------------------------------------------------------

# What others in the room may cause: nothing else may ever arrive unasked.
PERSON = r"(?:Fuzzer|Witness)\d+"
HARMFUL = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
FROM_OTHERS = re.compile(
    rf"{PERSON}(?: joins\.| left\.|(?: \(to {PERSON}\))?: "
    f"(?:(?!{HARMFUL}).){{1,256}})"
)
# A fuzzer that was reset is out of the room for a moment.
ABSENT = re.compile(rf"Denied\. {PERSON} is not in the chat room\.")
NAMES = re.compile(rf"{PERSON}(?:, {PERSON})*")
TELNET_ANSWER = re.compile(rb"\xff[\xfc\xfe].", re.DOTALL)  # 0xFF is in no UTF-8
CREATED = re.compile("New user account created\\. Please login\\.")
EXISTS = re.compile("Denied\\. User account already exists\\.")
EITHER = re.compile(f"{CREATED.pattern}|{EXISTS.pattern}")  # another fuzzer may have come first
Reply = str | re.Pattern[str]


def as_shown(word: str) -> str:
    """Return a word that somebody typed as the server shows it."""
    return "".join("\ufffd" if re.fullmatch(HARMFUL, letter) else letter for letter in word[:32])


class Oracle:
    """Tells what a connection must be answered, from what is understood and from who it is."""

    def __init__(self, userid: str) -> None:
        """userid: empty for a connection at the door."""
        self.userid = userid
        self.created: set[str] = set()

    def replies(self, lines: Sequence[bytes]) -> list[Reply]:
        answers = map(self.reply, lines)
        return [answer for answer in answers if answer is not None]

    def reply(self, line: bytes) -> Reply | None:
        outcome = understood(line, is_logged_in=bool(self.userid))
        if isinstance(outcome, str):
            return outcome
        match outcome:
            case ("login", *_):
                return f"Denied. You are already logged in as {self.userid}."
            case ("newuser", userid, _):
                return self.reply_to_newuser(userid)
            case ("send", recipient, message) if recipient != "all":
                return self.reply_to_send(recipient, message)
            case ("who",):
                return NAMES
        return None

    def reply_to_newuser(self, userid: str) -> Reply:
        if self.userid:
            return "Denied. Please logout first."
        if userid in self.created:
            return EXISTS
        self.created.add(userid)
        return EITHER

    def reply_to_send(self, recipient: str, message: str) -> str | None:
        if recipient == self.userid:
            return f"{self.userid} (to {self.userid}): {message}"
        return (
            None
            if recipient in PEOPLE
            else f"Denied. {as_shown(recipient)} is not in the chat room."
        )

    def is_unasked(self, line: str) -> bool:
        """Tell whether a line may come between the replies: others talk, or are not there."""
        is_own = line.startswith((f"{self.userid} (to ", f"{self.userid}: "))
        if FROM_OTHERS.fullmatch(line):
            return bool(self.userid) and not is_own
        return ABSENT.fullmatch(line) is not None and line.split(" ")[1] in PEOPLE


def changes_nothing(line: bytes, is_at_door: bool) -> bool:
    """Tell whether bytes leave the connection as it is: who it is, and between two lines."""
    stream = Stream.of(line, is_opening=False)
    commands = [understood(line)[:1] for line in stream.lines]
    is_harmless = ("logout",) not in commands and not (("login",) in commands and is_at_door)
    return is_harmless and stream.is_between_lines


# --------------------------------------------------------------------------------------------------
# The fuzzers.
# --------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """What one fuzzer process has to do."""

    address: tuple[str, int]
    certificate: str  # of a server with TLS, a file
    userids: list[str]
    lines: int
    blobs: int
    seed: str


@dataclass
class Tally:
    lines: int = 0
    blobs: int = 0
    bytes: int = 0
    replies: int = 0
    answers: int = 0  # of telnet
    resets: int = 0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Fuzzer:
    """A connection that sends what it likes, and knows what must come back."""

    def __init__(self, work: Work, userid: str, chance: random.Random) -> None:
        self.dial = partial(Talker, *work.address, certificate=work.certificate)
        self.userid = userid
        self.chance = chance
        self.oracle = Oracle(userid)
        self.tally = Tally()
        self.talker = self.connect()

    def connect(self) -> Talker:
        talker = self.dial()
        talker.send("")  # the first bytes of a connection are looked at for what they may be
        if self.userid:
            talker.send(f"login {self.userid} {CHEAP_PASSWORD}")
            talker.expect("login confirmed")
        return talker

    def send_lines(self, count: int) -> None:
        endless = (some_line(self.chance) for _ in itertools.count())
        usable = (line for line in endless if changes_nothing(line, not self.userid))
        self.tally.lines += count
        self.converse(b"".join(itertools.islice(usable, count)))

    def send_blobs(self, count: int) -> None:
        data = b"".join(blob(self.chance) for _ in range(count))
        self.tally.blobs += count
        if self.chance.random() >= RESETS:
            self.converse(data)
            return
        self.talker.socket.setblocking(True)
        self.talker.send_bytes(data[: self.chance.randint(0, len(data))])
        self.talker.reset()
        self.tally.resets += 1
        self.talker = self.connect()

    def converse(self, data: bytes) -> None:
        """Send bytes in random pieces, reading meanwhile, and hold all replies to the oracle."""
        mark = f"mark{self.tally.replies}"
        data += CLOSING + f"{mark}\n".encode()  # the data may end in half a line, or half a command
        stream = Stream.of(data, is_opening=False)
        wanted = self.oracle.replies(stream.lines)
        self.tally.bytes += len(data)
        self.tally.replies += len(wanted)
        self.tally.answers += len(stream.answers) // 3
        got, answers = self.exchange(data, f'Denied. Unknown command "{mark}"'.encode())
        assert answers == stream.answers, (answers[:60], stream.answers[:60])
        self.hold(got, wanted)

    def exchange(self, data: bytes, last: bytes) -> tuple[list[str], bytes]:
        """Return the lines up to the one that begins with `last`, and the answers to telnet."""
        connection = self.talker.socket
        connection.setblocking(False)
        received, seen = bytearray(self.talker.buffer), 0
        view = memoryview(data)
        deadline = time.monotonic() + STANDSTILL
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while (found := received.find(last, seen)) < 0 or (
                end := received.find(b"\n", found)
            ) < 0:
                seen = max(0, len(received) - len(last))
                ready = selector.select(PATIENCE)
                assert ready, f"nothing moves; last seen: {bytes(received[-200:])!r}"
                # Others talk on, so that something can always be read.
                assert time.monotonic() < deadline, f"no more replies; {len(view)} bytes to go"
                with contextlib.suppress(BlockingIOError):  # a record of TLS that is not whole yet
                    if ready[0][1] & selectors.EVENT_READ:
                        piece = connection.recv(65536)
                        assert piece, f"the end; last seen: {bytes(received[-200:])!r}"
                        received += piece
                    elif view:
                        size = self.chance.choice([1, 13, 100, 1460, 16384, 65536])
                        view = view[connection.send(view[:size]) :]
                if not view and not getattr(connection, "sealed", b""):
                    selector.modify(connection, selectors.EVENT_READ)
        self.talker.buffer = bytes(received[end + 1 :])
        answers = b"".join(TELNET_ANSWER.findall(received[:end]))
        return TELNET_ANSWER.sub(b"", received[:end]).decode().split("\n"), answers

    def hold(self, got: list[str], wanted: list[Reply]) -> None:
        """Hold lines to the replies, in their order; what others cause may come in between."""
        replies = [line for line in got if not self.oracle.is_unasked(line)]
        for line, reply in itertools.zip_longest(replies, wanted):
            if isinstance(reply, re.Pattern):
                assert reply.fullmatch(line or ""), (line, reply.pattern)
            else:
                assert line == reply, f"wanted {reply!r}, got {line!r}"

    def finish(self) -> Tally:
        self.talker.close()
        return self.tally


sent_so_far: Synchronized[int]  # lines and blobs, of all fuzzer processes


def count_in(counter: Synchronized[int]) -> None:
    """Have this process count there what it has sent, so that all can tell how far they are."""
    global sent_so_far  # noqa: PLW0603
    sent_so_far = counter


def fuzz(work: Work) -> Tally:
    """Do a process's share: lines and blobs in turns, on all its connections."""
    chance = random.Random(work.seed)
    fuzzers = [Fuzzer(work, userid, chance) for userid in [*work.userids, ""]]
    lines, blobs = work.lines, work.blobs
    batches = max(1, lines // BATCH)
    while lines or blobs:
        before = lines + blobs
        for fuzzer in fuzzers:
            count = min(lines, chance.randint(1, 2 * BATCH))
            fuzzer.send_lines(count)
            lines -= count
            due = blobs if not lines else min(blobs, chance.randint(0, 2 * work.blobs // batches))
            while due:
                count = min(due, chance.randint(1, 8))
                fuzzer.send_blobs(count)
                due -= count
                blobs -= count
        with sent_so_far.get_lock():
            sent_so_far.value += before - lines - blobs
    total = Tally()
    for fuzzer in fuzzers:
        total.add(fuzzer.finish())
    return total


# --------------------------------------------------------------------------------------------------
# The witnesses.
# --------------------------------------------------------------------------------------------------

SAID = re.compile(r"(Witness\d+): (\d+)")
LAST = 10**9  # the number in a witness's last line
Saying = tuple[str, int]


class Witness:
    """Talks, a numbered line every now and then, and notes what the other witnesses say."""

    def __init__(self, talker: Talker, userid: str, sent: dict[Saying, float]) -> None:
        """sent: when each line was sent, shared by all witnesses."""
        self.talker = talker
        self.userid = userid
        self.sent = sent
        self.heard: list[Saying] = []
        self.others = 0  # lines of fuzzers
        self.worst = 0.0  # seconds from one witness to another
        self.failure = ""
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.talk), threading.Thread(target=self.listen)]
        for thread in self.threads:
            thread.start()

    def talk(self) -> None:
        for number in itertools.count():
            is_last = self.stopping.wait(WITNESS_PAUSE)
            saying = (self.userid, LAST if is_last else number)
            self.sent[saying] = time.perf_counter()
            self.talker.send(f"send all {saying[1]}")
            if is_last:
                return

    def listen(self) -> None:
        ended = 0
        try:
            while ended < WITNESSES - 1:
                line = self.talker.line()
                assert line is not None, "a witness was disconnected"
                ended += self.note(line)
        except (AssertionError, OSError, KeyError) as error:
            self.failure = f"{self.userid}: {error!r}"

    def note(self, line: str) -> bool:
        """Take in a line; return whether it was another witness's last."""
        found = SAID.fullmatch(line)
        if not found:
            assert FROM_OTHERS.fullmatch(line), f"a line that nobody may cause: {line!r}"
            assert not line.startswith("Witness"), line
            self.others += 1
            return False
        saying = (found[1], int(found[2]))
        self.worst = max(self.worst, time.perf_counter() - self.sent[saying])
        self.heard.append(saying)
        return saying[1] == LAST

    def finish(self) -> None:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"{self.userid} still waits for the others"
        assert not self.failure, self.failure


def hold_conversation(witnesses: Sequence[Witness], shown: Sequence[Saying]) -> None:
    """Hold what each heard to all that the others said, once, in the display's order."""
    said = {
        witness.userid: [saying for saying in witness.sent if saying[0] == witness.userid]
        for witness in witnesses
    }
    for witness in witnesses:
        assert witness.heard == [saying for saying in shown if saying[0] != witness.userid]
        for userid in said.keys() - {witness.userid}:
            assert [saying for saying in witness.heard if saying[0] == userid] == said[userid]


class DisplayReader:
    """Reads the display all the time, and keeps what the witnesses say."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.shown: list[Saying] = []
        self.count = 0
        self.missed = 0
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (line := self.process.display.next(TIME_LIMIT)) is not None:
            self.process.display.seen.clear()
            self.count += 1
            if found := SAID.fullmatch(line):
                self.shown.append((found[1], int(found[2])))
            elif found := re.fullmatch(r"\((\d+) lines not shown\)", line):
                self.missed += int(found[1])


# --------------------------------------------------------------------------------------------------
# The run.
# --------------------------------------------------------------------------------------------------


def fuzz_in_processes(process: ServerProcess, lines: int, blobs: int, seed: str) -> Tally:
    works = [
        Work(
            (process.host, process.port),
            process.certificate,
            FUZZER_IDS[number::FUZZERS],
            share(lines, number),
            share(blobs, number),
            f"{seed}/{number}",
        )
        for number in range(FUZZERS)
    ]
    total = Tally()
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q")
    deadline = time.monotonic() + TIME_LIMIT
    with context.Pool(FUZZERS, count_in, [counter]) as pool:  # its end ends them all
        tallies = pool.map_async(fuzz, works, chunksize=1)
        while not tallies.ready() and time.monotonic() < deadline:
            suite.at(f"{counter.value:,} of {lines + blobs:,} lines and blobs of this half")
            tallies.wait(1)
        for tally in tallies.get(0):
            total.add(tally)
    return total


def share(total: int, number: int) -> int:
    return total // FUZZERS + (number < total % FUZZERS)


@contextlib.contextmanager
def running_room(tls: bool) -> Iterator[ServerProcess]:
    """Accounts are made by the thousand there, so they cost nothing; all else is as it is."""
    program = altered_server({"HASH_COST": (1, 1, 1), "NEW_ACCOUNTS": 10**9})
    with temporary_folder() as folder:
        options = ["--rate", "0", "--max-clients", str(len(PEOPLE))]
        options += tls_options(folder) if tls else []
        with running_server(PEOPLE, options, program=program) as process:
            yield process


@contextlib.contextmanager
def talking_witnesses(process: ServerProcess) -> Iterator[list[Witness]]:
    sent: dict[Saying, float] = {}
    talkers = [process.login(userid) for userid in WITNESS_IDS]
    for number, talker in enumerate(talkers):
        talker.expect(*(f"{userid} joins." for userid in WITNESS_IDS[number + 1 :]))
    witnesses = [
        Witness(talker, userid, sent) for talker, userid in zip(talkers, WITNESS_IDS, strict=True)
    ]
    try:
        yield witnesses
    finally:
        for witness in witnesses:
            witness.stopping.set()
        for witness in witnesses:
            for thread in witness.threads:
                thread.join(PATIENCE)


def lines_and_blobs(lines: int, blobs: int, seed: str, tls: bool) -> str:
    """Fuzz in two halves; return the figures, or raise AssertionError."""
    began = time.monotonic()
    with running_room(tls) as process:
        display = DisplayReader(process)
        with talking_witnesses(process) as witnesses:
            before = take_census(process.pid)
            total = fuzz_in_processes(process, lines // 2, blobs // 2, f"{seed}/1")
            halfway = settle(process.pid, before)
            total.add(
                fuzz_in_processes(process, lines - lines // 2, blobs - blobs // 2, f"{seed}/2")
            )
            after = settle(process.pid, before)
            speaking = [thread.is_alive() for witness in witnesses for thread in witness.threads]
            assert all(speaking), [witness.failure for witness in witnesses]
        for witness in witnesses:
            witness.finish()
            witness.talker.close()
    display.thread.join(PATIENCE)
    assert not display.missed, f"{display.missed} lines not shown: their order cannot be checked"
    hold_conversation(witnesses, display.shown)
    worst = max(witness.worst for witness in witnesses)
    growth = after.memory - halfway.memory
    assert worst < DELAY_LIMIT, f"a witness waited {worst:.1f} s"
    assert growth < MEMORY_LIMIT, f"{growth} bytes more in the second half"
    return (
        f"{total.lines} lines and {total.blobs} blobs ({total.bytes / 1e6:.0f} MB, {total.resets} "
        f"resets) in {time.monotonic() - began:.0f} s; {total.replies} replies and "
        f"{total.answers} answers to telnet commands, each as it must be. "
        f"{len(witnesses[0].sent)} witness lines, each heard once by all, in the display's "
        f"order, worst delay {worst * 1000:.0f} ms, among {witnesses[0].others} lines of fuzzers. "
        f"Server: {before.threads} threads and {before.descriptors} descriptors before, halfway "
        f"and after; memory {before.memory >> 10}, {halfway.memory >> 10} and "
        f"{after.memory >> 10} kB. Seed {seed}."
    )


def main() -> int:
    seed = str(random.SystemRandom().randrange(10**6))

    def run(quick: bool) -> str:
        suite.progress(f"seed {options.seed}")
        return lines_and_blobs(*(QUICK if quick else FULL), options.seed, options.tls)

    promise = "each line gets its reply, whatever it is, and the others talk on"
    cases = [suite.Case("lines-and-blobs", promise, run)]
    parser = suite.command_line("tests.long.fuzz", __doc__, cases)
    parser.add_argument("--tls", action="store_true", help="over TLS")
    parser.add_argument("--seed", default=seed, help="to have the same lines as in another run")
    options = parser.parse_args()
    return suite.run(cases, options)


if __name__ == "__main__":
    sys.exit(main())
