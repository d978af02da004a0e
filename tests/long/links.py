"""Links that die, come back and flap, and a router that forwards no more.

    python -m tests.long.links [--quick] [NAME ...]

Each case lays networks of its own: the server and some users in one network namespace, the other
users in a second one, a cable or a router between them. The cases wait for most of their time, so
that what is to be compared runs side by side. Linux only, root only; skipped elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import termios
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import server
from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.process import (
    CHEAP_PASSWORD,
    CLIENT,
    PATIENCE,
    LineReader,
    ServerProcess,
    altered_server,
    child_environment,
    running_server,
)
from tests.helpers.talker import Talker

RTO_MAX_MS = 44  # the number of Linux's TCP_RTO_MAX_MS, which Python has no name for yet
RESUMES = 3.0  # seconds, promised: from a link that is back until talk goes on
MARGIN = 0.5  # seconds on top, as the machine is shared
FOUND = 120.0  # seconds, promised: until a dead peer is found
RESUMES_WITHOUT = 130.0  # seconds that are waited for without TCP_RTO_MAX_MS
STAGGER = 0.8  # seconds between first lines into a dead link, so that retransmissions differ
FAR_USERS = 6
CLIENT_USER = "Anna"  # sits at client.py; all others are plain sockets
CLONE_NEWNET = 0x40000000  # of setns: the network, from linux/sched.h

Made = TypeVar("Made")


# --------------------------------------------------------------------------------------------------
# Networks. All of a network is in namespaces of its own, so that each can have the same addresses.
# --------------------------------------------------------------------------------------------------

numbers = itertools.count()


class Network:
    """Two network namespaces, `near` and `far`, with a cable between them, or a router.

    host: the address of `near`.
    """

    def __init__(self, *, has_router: bool = False) -> None:
        """Lay it. Raises SkipTest where that is not permitted."""
        prefix = f"chat{os.getpid()}-{next(numbers)}"
        self.near, self.far, self.router = (f"{prefix}{end}" for end in ("near", "far", "router"))
        self.has_router = has_router
        self.host = "10.231.1.1"
        try:
            self._lay()
        except BaseException:
            self.remove()
            raise

    def _lay(self) -> None:
        if not shutil.which("ip"):
            raise unittest.SkipTest("there is no program ip here")
        for namespace in (self.near, self.far, *([self.router] if self.has_router else [])):
            self._try("netns", "add", namespace)
            self._try("-n", namespace, "link", "set", "lo", "up")
        if not self.has_router:
            self._join(self.near, "10.231.1.1/24", self.far, "10.231.1.2/24")
            return
        self._join(self.near, "10.231.1.1/24", self.router, "10.231.1.254/24")
        self._join(self.far, "10.231.2.1/24", self.router, "10.231.2.254/24")
        self._try("-n", self.near, "route", "add", "10.231.2.0/24", "via", "10.231.1.254")
        self._try("-n", self.far, "route", "add", "10.231.1.0/24", "via", "10.231.2.254")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        self._try("netns", "exec", self.router, "sh", "-c", forward)

    def _join(self, left: str, left_address: str, right: str, right_address: str) -> None:
        number = next(numbers)
        left_end, right_end = f"l{number}", f"r{number}"
        peer = ("type", "veth", "peer", "name", right_end, "netns", right)
        self._try("-n", left, "link", "add", left_end, *peer)
        for namespace, end, address in (
            (left, left_end, left_address),
            (right, right_end, right_address),
        ):
            self._try("-n", namespace, "addr", "add", address, "dev", end)
            self._try("-n", namespace, "link", "set", end, "up")
        self.end = right_end

    def _try(self, *command: str) -> None:
        done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            told = done.stderr.strip()
            raise unittest.SkipTest(f"not permitted here: ip {' '.join(command)}: {told}")

    def cut(self) -> None:
        """Pull the cable; a router forwards no more and says nothing, its links stay up."""
        if self.has_router:
            for address in ("10.231.1.1", "10.231.2.1"):
                administer("-n", self.router, "route", "add", "blackhole", address)
        else:
            administer("-n", self.far, "link", "set", self.end, "down")

    def mend(self) -> None:
        if self.has_router:
            for address in ("10.231.1.1", "10.231.2.1"):
                administer("-n", self.router, "route", "del", "blackhole", address)
        else:
            administer("-n", self.far, "link", "set", self.end, "up")

    def remove(self) -> None:
        for namespace in (self.near, self.far, self.router):
            if os.path.exists(f"/run/netns/{namespace}"):
                administer("netns", "del", namespace)  # with its ends of the cables

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def administer(*command: str) -> None:
    subprocess.run(["ip", *command], capture_output=True, check=True)


def within(namespace: str, make: Callable[[], Made]) -> Made:
    """Call `make` in a thread that has gone into a namespace: a socket stays where it was made."""

    def go_and_make() -> Made:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), "setns")
        finally:
            os.close(descriptor)
        return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(go_and_make).result()


# --------------------------------------------------------------------------------------------------
# Rooms on such a network.
# --------------------------------------------------------------------------------------------------


class ClientProcess:
    """client.py in `far`, in pipes."""

    def __init__(self, network: Network, port: int) -> None:
        command = ("ip", "netns", "exec", network.far, sys.executable, str(CLIENT))
        self.process = subprocess.Popen(
            [*command, "--host", network.host, "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdin = self.process.stdin
        self.stdout = self.process.stdout
        self.errors = LineReader(self.process.stderr)

    def send(self, line: str) -> None:
        self.stdin.write(f"{line}\n".encode())
        self.stdin.flush()

    def line(self) -> str | None:
        return self.stdout.readline().decode().rstrip("\n") or None

    def finish(self) -> None:
        """Let it log out."""
        with contextlib.suppress(OSError):  # it has ended before
            self.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        self.stdout.close()
        self.errors.close()


class Person:
    """A user; what is heard is kept with its time."""

    def __init__(self, userid: str, talker: Talker | ClientProcess) -> None:
        self.userid = userid
        self.talker = talker
        self.talker.send(f"login {userid} {CHEAP_PASSWORD}")
        confirmed = self.talker.line()
        assert confirmed == "login confirmed", confirmed
        if isinstance(talker, Talker):
            talker.socket.settimeout(None)
        self.heard: list[tuple[float, str]] = []  # monotonic seconds, line
        self.said = 0  # public lines
        self.ended = ""  # why nothing more will be heard
        self.news = threading.Condition()  # with a lock that can be taken again
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        ended = "the end"
        try:
            while (line := self.talker.line()) is not None:
                with self.news:
                    self.heard.append((time.monotonic(), line))
                    self.news.notify_all()
        except OSError as error:
            ended = os.strerror(error.errno or 0)
        with self.news:
            self.ended = ended
            self.news.notify_all()

    def say(self) -> None:
        """Say the next public line, unless the connection has ended."""
        if not self.ended:
            with contextlib.suppress(OSError):
                self.talker.send(f"send all {self.said}")
                self.said += 1

    def tell(self, userid: str, message: str) -> None:
        self.talker.send(f"send {userid} {message}")

    def public(self, speaker: str = r"\w+") -> list[str]:
        """Return the public lines heard so far, of all or of one speaker."""
        with self.news:
            return [line for _, line in self.heard if re.match(f"{speaker}: ", line)]

    def first_after(self, moment: float, beginning: str = "") -> float | None:
        """Return after how many seconds a line with this beginning was heard, None if never."""
        with self.news:
            for when, line in self.heard:
                if when >= moment and line.startswith(beginning):
                    return when - moment
        return None

    def wait(self, count: int, seconds: float, speaker: str = r"\w+") -> bool:
        """Wait for so many public lines, or the end; return whether they were heard."""

        def is_enough() -> bool:
            return len(self.public(speaker)) >= count

        with self.news:
            self.news.wait_for(lambda: is_enough() or self.ended, seconds)
        return is_enough()

    def wait_for_the_end(self, seconds: float) -> None:
        with self.news:
            self.news.wait_for(lambda: self.ended, seconds)

    def close(self) -> None:
        if isinstance(self.talker, ClientProcess):
            self.talker.finish()
        else:
            with contextlib.suppress(OSError):
                self.talker.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE)
        self.talker.close()


def connect(network: Network, port: int, *, is_far: bool, as_client: bool) -> Talker:
    """Return a plain socket, with client.py's options, or with no options, as nc has it."""
    talker = within(network.far if is_far else network.near, partial(Talker, network.host, port))
    options = dict(server.CONNECTION_OPTIONS)
    wanted = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    if as_client:
        wanted += [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
            (socket.IPPROTO_TCP, RTO_MAX_MS, options["TCP_RTO_MAX_MS"]),
        ]
    for option in wanted:
        with contextlib.suppress(OSError):  # an older Linux has no TCP_RTO_MAX_MS
            talker.socket.setsockopt(*option)
    return talker


class Room:
    """A server near, users near and far."""

    def __init__(
        self, network: Network, running: ServerProcess, near: list[Person], far: list[Person]
    ) -> None:
        self.network = network
        self.running = running
        self.near = near
        self.far = far

    @property
    def people(self) -> list[Person]:
        return [*self.near, *self.far]

    def warm_up(self) -> None:
        """Have everybody say a line and hear the others', so that TCP knows the network."""
        for person in self.people:
            person.say()
        for person in self.people:
            heard = person.wait(len(self.people) - 1, PATIENCE)
            assert heard, f"{person.userid} did not hear the others"

    def settle(self) -> None:
        """Have all that was said to the far users be acknowledged, and what they sent, too.

        What the kernel waits for would be given up by TCP_USER_TIMEOUT, and hide that keepalive
        finds nothing. An empty line has no reply, and carries the last acknowledgement there.
        """
        for person in self.far:
            assert isinstance(person.talker, Talker)
            person.talker.send("")
            connection = person.talker.socket
            eventually(partial(is_all_acknowledged, connection), "all acknowledged")

    def talk(self, schedule: Sequence[tuple[float, Callable[[], None]]], began: float) -> None:
        """Do each at its time, in seconds from `began`."""
        for moment, act in sorted(schedule, key=lambda entry: entry[0]):
            wait_until(began + moment)
            act()


@contextlib.contextmanager
def room(
    network: Network, far: Sequence[str], *, with_option: bool, limit: int = 0, patch: str = ""
) -> Iterator[Room]:
    """Open a room near, with Tom and Beth in it, and these users far.

    with_option: TCP_RTO_MAX_MS at both ends, as both programs have it, or at neither.
    """
    near = ["Tom", "Beth"]
    userids = [*near, *far]
    options = ("--host", network.host, "--rate", "0", "--max-clients", str(limit or len(userids)))
    told = server.CONNECTION_OPTIONS if with_option else without_option()
    program = altered_server({"CONNECTION_OPTIONS": told}, patch=patch)
    inside = ("ip", "netns", "exec", network.near, *program)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(running_server([*userids, "New"], options, program=inside))

        def join(userid: str, is_far: bool) -> Person:
            talker: Talker | ClientProcess
            if userid == CLIENT_USER:
                talker = ClientProcess(network, running.port)
            else:
                as_client = is_far and with_option
                talker = connect(network, running.port, is_far=is_far, as_client=as_client)
            person = Person(userid, talker)
            stack.callback(person.close)
            return person

        yield Room(
            network,
            running,
            [join(userid, False) for userid in near],
            [join(userid, True) for userid in far],
        )


def is_all_acknowledged(connection: socket.socket) -> bool:
    return not any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))  # Linux's SIOCOUTQ


def without_option() -> tuple[tuple[str, int], ...]:
    return tuple(option for option in server.CONNECTION_OPTIONS if option[0] != "TCP_RTO_MAX_MS")


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def is_option_there() -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.IPPROTO_TCP, RTO_MAX_MS, 5000)
        return True
    return False


def side_by_side(runs: Sequence[Callable[[], Made]]) -> list[Made]:
    with ThreadPoolExecutor(len(runs)) as threads:
        return [done.result() for done in [threads.submit(run) for run in runs]]


# --------------------------------------------------------------------------------------------------
# A link that dies and comes back.
# --------------------------------------------------------------------------------------------------


@dataclass
class Recovery:
    """What came of an outage; seconds from when the link was back."""

    down: list[float] = field(default_factory=list)  # until each far user heard something
    up: list[float] = field(default_factory=list)  # until something of each far user was heard
    client: list[float] = field(default_factory=list)  # the same two of client.py
    complete: float = 0.0  # until all had heard all
    lines: int = 0  # public ones said, all of them heard by all


def outage(seconds: float, has_router: bool, with_option: bool) -> Recovery:
    """Have a link die for so long while both sides talk on."""
    names = [f"Far{number}" for number in range(FAR_USERS)]
    if with_option:
        names.append(CLIENT_USER)
    with (
        Network(has_router=has_router) as network,
        room(network, names, with_option=with_option) as here,
    ):
        here.warm_up()
        tom, beth = here.near
        schedule: list[tuple[float, Callable[[], None]]] = []
        for number, person in enumerate(here.far):
            first = 0.1 + number * STAGGER
            schedule.append((first, partial(tom.tell, person.userid, "are you there?")))
            moments = itertools.takewhile(lambda x: x < seconds + 3, itertools.count(first, 1.0))
            schedule += [(moment, person.say) for moment in moments]
        moments = itertools.takewhile(
            lambda x: x < seconds + 3, itertools.count(FAR_USERS * STAGGER + 0.1, 0.5)
        )
        schedule += [(moment, tom.say) for moment in moments]
        network.cut()
        began = time.monotonic()
        mender = threading.Thread(target=mend_at, args=(network, began + seconds))
        mender.start()
        here.talk(schedule, began)
        mender.join()
        back = began + seconds
        lines = sum(person.said for person in here.people)
        limit = RESUMES_WITHOUT
        for person in here.people:
            wanted = lines - person.said
            assert person.wait(wanted, limit), (
                f"{person.userid} heard {len(person.public())} of {wanted} public lines "
                f"{limit:.0f} s after an outage of {seconds} s; {person.ended}"
            )
        order = beth.public()
        for person in here.people:
            others = [line for line in order if not line.startswith(f"{person.userid}: ")]
            heard_lines = [line for line in person.public() if not line.startswith("Beth: ")]
            assert heard_lines == others, person.userid
        result = Recovery(lines=lines)
        for person in here.far:
            down = person.first_after(back)
            up = beth.first_after(back, f"{person.userid}: ")
            assert down is not None, person.userid
            assert up is not None, person.userid
            (result.down if person.userid != CLIENT_USER else result.client).append(down)
            (result.up if person.userid != CLIENT_USER else result.client).append(up)
            private = [line for _, line in person.heard if " (to " in line]
            assert private == [f"Tom (to {person.userid}): are you there?"], private
        result.complete = max(person.heard[-1][0] for person in here.people) - back
        return result


def mend_at(network: Network, moment: float) -> None:
    wait_until(moment)
    network.mend()


def spread(values: Sequence[float]) -> str:
    return f"{min(values):.1f}/{statistics.median(values):.1f}/{max(values):.1f}"


def a_link_dies_and_comes_back(quick: bool) -> str:
    """after 5 and 30 s nothing said is lost, and talk goes on within 3 s"""
    has_option = is_option_there()
    kinds = [(False, True), (True, True), (True, False)]  # has a router, has the option
    plans = [(seconds, *kind) for seconds in ((5.0,) if quick else (5.0, 30.0)) for kind in kinds]
    plans *= 2
    suite.at(f"{len(plans)} links at once, dead for up to {plans[-1][0]:.0f} s")
    results = side_by_side([partial(outage, *plan) for plan in plans])
    figures, late = [], []
    for plan in dict.fromkeys(plans):
        seconds, has_router, with_option = plan
        runs = [result for result, of in zip(results, plans, strict=True) if of == plan]
        down = [value for run in runs for value in run.down]
        up = [value for run in runs for value in run.up]
        figures.append(
            f"{'router' if has_router else 'cable'} dead for {seconds:.0f} s, "
            f"{'with' if with_option else 'without'} TCP_RTO_MAX_MS: "
            f"{'+'.join(str(run.lines) for run in runs)} lines, each heard by all; goes on after "
            f"(least/median/most of {len(down)}) {spread(down)} s to the far users, "
            f"{spread(up)} s from them"
        )
        client = [value for run in runs for value in run.client]
        if client:
            figures[-1] += f"; client.py: {', '.join(f'{value:.1f}' for value in client)} s"
        if with_option and has_option and max(down + up + client) > RESUMES + MARGIN:
            late.append(figures[-1])
    assert not late, "; ".join(["later than promised", *figures])
    if not has_option:
        figures.append("this Linux has no TCP_RTO_MAX_MS: nothing is promised")
    return "; ".join(figures)


# --------------------------------------------------------------------------------------------------
# A link that flaps.
# --------------------------------------------------------------------------------------------------

OFF, ON = 7.0, 3.0  # seconds
PACE = 0.5  # seconds between two lines of a speaker


@dataclass
class Flapping:
    said: int
    heard_far: list[int]  # of Tom's lines, by each far user, in order
    heard_near: list[int]  # of each far user's lines, by Beth, in order
    lost: list[str]  # far users who were shown as gone
    latest: float  # seconds at most, from a line's being said until it was heard


def flapping(rounds: int, has_router: bool, with_option: bool) -> Flapping:
    names = [f"Far{number}" for number in range(4)]
    with (
        Network(has_router=has_router) as network,
        room(network, names, with_option=with_option) as here,
    ):
        here.warm_up()
        tom, beth = here.near
        count = int(rounds * (OFF + ON) / PACE)
        said: dict[str, float] = {}

        def say(person: Person) -> None:
            said[f"{person.userid}: {person.said}"] = time.monotonic()
            person.say()

        schedule = [
            (number * PACE + place * PACE / 5, partial(say, person))
            for number in range(count)
            for place, person in enumerate((tom, *here.far))
        ]

        def flap(began: float) -> None:
            for number in range(rounds):
                suite.at(f"{number} of {rounds} times off and on")
                wait_until(began + number * (OFF + ON))
                network.cut()
                wait_until(began + number * (OFF + ON) + OFF)
                network.mend()

        began = time.monotonic()
        switch = threading.Thread(target=flap, args=(began,))
        switch.start()
        here.talk(schedule, began)
        switch.join()
        for person in here.far:
            beth.wait(count + 1, 2 * OFF, person.userid)
            person.wait(count + 1, 2 * OFF, "Tom")
        lost = [line for line in shown_so_far(here) if " logout" in line]
        delays = [
            when - said[line]
            for person in here.people
            for when, line in person.heard
            if line in said and (person is beth or line.startswith("Tom: "))
        ]
        return Flapping(
            count,
            [in_order(person, "Tom") - 1 for person in here.far],
            [in_order(beth, person.userid) - 1 for person in here.far],
            lost,
            max(delays),
        )


def in_order(person: Person, speaker: str) -> int:
    """Return how many lines of a speaker were heard; they must be the first, in order."""
    lines = person.public(speaker)
    assert lines == [f"{speaker}: {number}" for number in range(len(lines))], lines
    return len(lines)


def shown_so_far(here: Room) -> list[str]:
    """Return the lines on the display up to now."""
    here.near[1].tell("Tom", "that was all")
    here.running.display.until("Beth (to Tom): that was all")
    return here.running.display.seen


def a_link_flaps(quick: bool) -> str:
    """7 s off, 3 s on: nobody is thrown out, and every line arrives in order"""
    rounds = 2 if quick else 7
    plans = [(False, True), (True, True), (True, True), (True, False), (True, False)]
    results = side_by_side([partial(flapping, rounds, *plan) for plan in plans])
    figures, failed = [], False
    for (has_router, with_option), result in zip(plans, results, strict=True):
        figures.append(
            f"{'router' if has_router else 'cable'}, "
            f"{'with' if with_option else 'without'} TCP_RTO_MAX_MS, of {result.said} lines: "
            f"{result.heard_far} of Tom's heard far, {result.heard_near} of the far users' heard "
            f"near, {result.latest:.1f} s late at most; gone: {len(result.lost)}"
        )
        if with_option and is_option_there():
            complete = {*result.heard_far, *result.heard_near} == {result.said}
            failed = failed or bool(result.lost) or not complete
    assert not failed, "; ".join(figures)
    return "; ".join(figures)


# --------------------------------------------------------------------------------------------------
# A link that stays dead, and a router that forwards no more.
# --------------------------------------------------------------------------------------------------

# Short times, to have the same happen while somebody waits.
SHORT_TIMES = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_USER_TIMEOUT": 4000}
SHORTENED = f"""
server.CONNECTION_OPTIONS = tuple(
    (name, {SHORT_TIMES!r}.get(name, value)) for name, value in server.CONNECTION_OPTIONS)
"""


def dead_peers(has_router: bool, is_talking: bool, quick: bool, dead_for: float) -> list[str]:
    """Return what came of peers behind a link that died; is_talking: lines go to them.

    dead_for: seconds, then the link is back.
    """
    names = ["Idle", "Busy"]
    limit = dead_for if quick else FOUND
    patch = SHORTENED if quick else ""
    with (
        Network(has_router=has_router) as network,
        room(network, names, with_option=True, patch=patch) as here,
    ):
        here.warm_up()
        tom = here.near[0]
        full = within(network.near, partial(Talker, network.host, here.running.port))
        with full as new:
            new.send(f"login New {CHEAP_PASSWORD}")
            new.expect("Denied. The chat room is full (4 of 4).")
            here.settle()
            network.cut()
            began = time.monotonic()
            mender = threading.Timer(dead_for, network.mend)
            mender.start()
            try:
                found: dict[str, float] = {}
                idle, busy = here.far
                busy.say()
                if is_talking:
                    tom.tell("Busy", "are you there?")
                while len(found) < len(names):
                    left = max(0.1, began + limit - time.monotonic())
                    line = here.running.display.until(lambda x: "logout" in x, left)
                    matched = re.fullmatch(r"(\w+) logout \(connection lost\)\.", line)
                    assert matched, line
                    found[matched[1]] = time.monotonic() - began
                new.send(f"login New {CHEAP_PASSWORD}")
                new.expect("login confirmed")
            finally:
                mender.join()
            # A far user learns of it at the latest when the link is back: by its own tries, or not
            # at all before it sends something.
            told = []
            for person in (idle, busy):
                with contextlib.suppress(OSError):
                    person.talker.send("who")
                person.wait_for_the_end(PATIENCE)
                told.append(f"{person.userid}: {person.ended or 'not told'}")
        where = "router" if has_router else "cable"
        kind = "talked to" if is_talking else "left alone"
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(found.items()))
        return [f"{where}, {kind}: {times}; place taken at once; far ends: {', '.join(told)}"]


def a_link_stays_dead(quick: bool) -> str:
    """dead peers are shown as `(connection lost)` within 2 minutes, and their places are free"""
    dead_for = 12.0 if quick else 90.0
    suite.at(f"the links are dead for {dead_for:.0f} s")
    runs = [partial(dead_peers, False, is_talking, quick, dead_for) for is_talking in (True, False)]
    return "; ".join(itertools.chain(*side_by_side(runs * 2)))


def a_router_forwards_no_more(quick: bool) -> str:
    """the server drops its clients, and the clients say so, within 2 minutes"""
    dead_for = 12.0 if quick else 115.0
    suite.at(f"nothing is forwarded for {dead_for:.0f} s")
    runs: list[Callable[[], list[str]]] = [
        partial(dead_peers, True, is_talking, quick, dead_for) for is_talking in (True, False)
    ]
    if not quick:
        runs += [partial(client_behind_router, line) for line in ("", "send all hello")] * 2
    return "; ".join(itertools.chain(*side_by_side(runs)))


def client_behind_router(line: str) -> list[str]:
    """Return what client.py says when its router forwards no more; line: typed after that."""
    with (
        Network(has_router=True) as network,
        room(network, [CLIENT_USER], with_option=True) as here,
    ):
        (anna,) = here.far
        client = anna.talker
        assert isinstance(client, ClientProcess)
        here.running.display.until(f"{CLIENT_USER} login.")
        network.cut()
        began = time.monotonic()
        if line:
            client.send(line)
        lost = f"Connection to {network.host}:{here.running.port} lost."
        client.errors.until(lost, FOUND)
        seconds = time.monotonic() - began
        here.running.display.until(f"{CLIENT_USER} logout (connection lost).", FOUND)
        status = client.process.wait(PATIENCE)
        assert status == 1, status
        kind = f"after {line!r}" if line else "left alone"
        return [f"client.py, {kind}: {lost!r} after {seconds:.0f} s"]


CASES = [
    suite.case_of(run)
    for run in (
        a_link_dies_and_comes_back,
        a_link_flaps,
        a_link_stays_dead,
        a_router_forwards_no_more,
    )
]


if __name__ == "__main__":
    sys.exit(suite.main("tests.long.links", __doc__, CASES))
