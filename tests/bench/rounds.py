"""One load against each contender in turn, several times."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.contenders import BenchError, Contenders, Running, load_generator, news
from tests.bench.table import Conditions, Size

LOAD_PATIENCE = 300.0  # seconds until the load generator must be done
# ngIRCd leaves Nagle's algorithm on, so that a line may wait 40 ms for the acknowledgement of the
# one before: its CPU time can be compared, not its latency, and a few lines of it have to do.
IRC_LINES = 200
CORES = len(os.sched_getaffinity(0))

Run = dict[str, Any]  # what the load generator found
Figure = Callable[[Run], float]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    runs: int
    room_lines: int  # each costs microseconds, so that it takes thousands
    users: int  # calm and busy
    lines: int  # calm
    seconds: float  # busy
    joining: int
    sizes: tuple[int, ...]  # of rooms, to see how cost grows
    login_seconds: float
    accounts: int
    starts: int  # of the client

    @property
    def few_runs(self) -> int:
        """For what takes long and varies little."""
        return min(3, self.runs)


SIZES = (3, 10, 50, 200, 1000, 10_000)
FULL = Scale(5, 10_000, 200, 1000, 2.0, 1000, SIZES, 8.0, 1_000_000, 15)
QUICK = Scale(1, 200, 60, 50, 0.3, 100, (3, 10, 100), 2.0, 20_000, 1)


class Bench:
    """What all measurements share."""

    def __init__(self, scale: Scale, server: Path, folder: Path) -> None:
        self.scale = scale
        self.folder = folder
        self.contenders = Contenders(folder, server)
        self.conditions: list[Conditions] = []
        self.sizes: list[Size] = []

    def alternate(
        self, what: str, names: Sequence[str], job: Run, *, quiet: bool = False, runs: int = 0
    ) -> dict[str, list[Run]]:
        """Run a job against each contender in turn, several times.

        what: its name in the table of conditions. job: see load.py. quiet: bare loops tell no
        joins. runs: how many, if not as many as usual. Contenders that cannot be run are left out.
        """
        names = [name for name in names if name in self.contenders.names]
        found: dict[str, list[Run]] = {name: [] for name in names}
        runs = runs or self.scale.runs
        for number in range(runs):
            turn = number % len(names)  # so that nobody always comes after the same one
            for name in [*names[turn:], *names[:turn]]:
                with (
                    news(f"{what}, {name}, {number + 1} of {runs}"),
                    self.contenders.running(name, job["users"], quiet) as server,
                ):
                    run = self.load(server, job)
                found[name].append(run | {"memory_before": server.memory})
        for name in names:
            self.note_conditions(f"{what}, {name}", found[name])
        return found

    def load(self, server: Running, job: Run) -> Run:
        with self.loading(server, job) as generator:
            return self.finish(generator)

    @contextlib.contextmanager
    def loading(self, server: Running, job: Run) -> Iterator[subprocess.Popen[bytes]]:
        """Start a load; finish() returns what it found."""
        whole = {"port": server.port, "pid": server.pid, "dialect": server.dialect, **job}
        if server.dialect == "irc":
            whole["at_once"] = job["users"]  # it has no limit on those who have not logged in
            whole["lines"] = min(IRC_LINES, job.get("lines", 0))
        libraries = (self.contenders.load_library, self.contenders.tls_load_library)
        whole |= {"library": str(libraries[server.tls] or ""), "tls": server.tls}
        with load_generator(json.dumps(whole)) as generator:
            yield generator

    def finish(self, generator: subprocess.Popen[bytes]) -> Run:
        try:
            output, _ = generator.communicate(timeout=LOAD_PATIENCE)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load was not done after {LOAD_PATIENCE:.0f} s") from None
        if generator.returncode:
            raise BenchError("the load generator failed")
        found: Run = json.loads(output.splitlines()[-1])
        return found

    def note_conditions(self, what: str, runs: Sequence[Run]) -> None:
        seconds = sum(run["seconds"] for run in runs)
        load = sum(run["load_cpu"] for run in runs)
        server = sum(run["server_cpu"] for run in runs)
        others = max(0.0, sum(run["machine_cpu"] for run in runs) - server - load)
        self.conditions.append(
            Conditions(what, server / seconds, load / seconds, others / (seconds * CORES))
        )


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Have whatever is started meanwhile share one core.

    Between two cores a line's cost is mostly that of waking the other one, and it varies threefold
    with where the system happens to place the threads. On one core what remains is what the
    programs do.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
