"""Two users who play ping-pong in a process of their own, so as to measure the server, not us."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.helpers.process import (
    CHEAP_PASSWORD,
    PATIENCE,
    ROOT,
    LineReader,
    ServerProcess,
    child_environment,
)
from tests.helpers.talker import Talker

PING, PONG = "Anna", "Bert"


def play(host: str, port: str, certificate: str, pause: str, recipient: str) -> None:
    """Be the two witnesses: print when each round trip began and how long it took, in seconds."""
    heard = "" if recipient == "all" else f" (to {recipient})"
    over = contextlib.suppress(AssertionError, OSError)  # the server has stopped
    connect = partial(Talker, host, int(port), certificate=certificate)
    with over, connect() as ping, connect() as pong:
        for talker, userid in ((ping, PING), (pong, PONG)):
            talker.send(f"login {userid} {CHEAP_PASSWORD}")
            talker.until("login confirmed")
        for number in itertools.count():
            began = time.monotonic()
            ping.send(f"send {recipient} {number}")
            pong.until(f"{PING}{heard}: {number}")
            pong.send(f"send {PING} {number}")
            ping.until(f"{PONG} (to {PING}): {number}")
            print(began, time.monotonic() - began, flush=True)
            time.sleep(float(pause))


@dataclass(frozen=True)
class Trip:
    began: float  # monotonic seconds, the same in all processes
    seconds: float


class Witnesses:
    def __init__(self, server: ServerProcess, pause: float, private: bool) -> None:
        address = (server.host, str(server.port), server.certificate)
        arguments = (*address, str(pause), PONG if private else "all")
        self.process = run_here(play, arguments)
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
    function: Callable[..., None], arguments: Sequence[str], prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Run a function of these modules in another process. prefix: command to run that with."""
    name = function.__name__
    code = f"import sys; from {function.__module__} import {name}; {name}(*sys.argv[1:])"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=child_environment(),
    )
