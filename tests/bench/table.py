"""Figures, the tables that show them, and the JSON that keeps them."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOAD_BOUND = 0.85  # share of a core above which the load generator may be what is measured
FULL_CORE = 0.95
OTHERS_BOUND = 0.10  # share of the machine above which other programs disturb the figures


@dataclass(frozen=True)
class Row:
    """A figure of ours, round by round, what it is compared with, and the goal.

    The goal is for the ratio of the two; without a yardstick (`theirs` is empty) for the figure
    itself. Without a goal the row is there to be read.
    """

    measure: str
    unit: str
    ours: Sequence[float]
    versus: str = ""
    theirs: Sequence[float] = ()
    goal: float | None = None
    at_least: bool = False  # otherwise the goal is the most that is allowed

    @property
    def judged(self) -> list[float]:
        """What is held against the goal: a ratio for each round, or our figures."""
        if not self.theirs:
            return list(self.ours)
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def is_met(self) -> bool | None:
        if self.goal is None:
            return None
        result = statistics.median(self.judged)
        return result >= self.goal if self.at_least else result <= self.goal

    def cells(self, judging: bool) -> list[str]:
        theirs = f"{show(statistics.median(self.theirs))} ({self.versus})" if self.theirs else ""
        ratios = self.judged if self.theirs else []
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else ""
        limit = "at least" if self.at_least else "at most"
        goal = f"{limit} {self.goal:.4g}" if self.goal is not None else ""
        verdict = {True: "yes", False: "NO", None: ""}[self.is_met if judging else None]
        ours = show(statistics.median(self.ours))
        return [f"{self.measure}, {self.unit}", ours, theirs, ratio, spread, goal, verdict]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"median": statistics.median(self.judged), "met": self.is_met}


@dataclass(frozen=True)
class Size:
    """What a room of so many users costs: microseconds, milliseconds and bytes."""

    users: int
    contender: str
    cpu: float  # for each delivered line
    reach: float  # until a line has reached everyone, median
    memory: float  # for each user

    def cells(self) -> list[str]:
        figures = [f"{self.cpu:.2f}", f"{self.reach:.3g}", f"{self.memory / 1000:.1f}"]
        return [f"{self.users:,}", self.contender, *figures]


@dataclass(frozen=True)
class Conditions:
    """What can make a measurement doubtful: how busy the server, the load and all others were."""

    what: str
    server: float  # share of a core
    load: float  # share of a core
    others: float  # share of the machine

    def cells(self) -> list[str]:
        # A busy generator is no limit while the server itself has a core's worth to do.
        doubts = ["load"] if self.load > LOAD_BOUND and self.server < FULL_CORE else []
        doubts += ["others"] if self.others > OTHERS_BOUND else []
        shares = [f"{share:.0%}" for share in (self.server, self.load, self.others)]
        return [self.what, *shares, " ".join(doubts)]


def report(
    rows: Sequence[Row], sizes: Sequence[Size], conditions: Sequence[Conditions], judging: bool
) -> None:
    """Print the tables. judging: tell whether goals are met."""
    if rows:
        heads = ["medians", "server.py", "compared with", "ratio", "from, to", "goal", "met"]
        print(table(heads, [row.cells(judging) for row in rows]))
    if sizes:
        heads = ["users", "", "CPU for each line, µs", "reaches everyone, ms", "memory each, kB"]
        print(f"\n{table(heads, [size.cells() for size in sizes])}")
    if conditions:
        heads = ["conditions", "server, of a core", "load, of a core", "others, of the machine"]
        print(f"\n{table([*heads, 'doubtful'], [each.cells() for each in conditions])}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns aligned."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = [" | ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)) for line in lines]
    shown.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in shown)


def show(figure: float) -> str:
    """Return four digits of a figure, but never less than the whole of it."""
    return f"{figure:,.0f}" if figure >= 10_000 else f"{figure:,.4g}"


def machine() -> dict[str, str | int]:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": model.group(1) if model else platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
    }


def save(
    path: Path,
    digest: str,
    rows: Sequence[Row],
    sizes: Sequence[Size],
    conditions: Sequence[Conditions],
) -> None:
    """Keep the results as JSON. digest: tells which server.py was measured."""
    results = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "tests.bench", *sys.argv[1:]]),
        "machine": machine(),
        "server": digest,
        "rows": [row.as_json() for row in rows],
        "sizes": [asdict(size) for size in sizes],
        "conditions": [asdict(each) for each in conditions],
    }
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
