"""What a process holds and has used, from /proc; and waiting for what no event tells."""

from __future__ import annotations

import os
import re
import time
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.talker import PATIENCE

HAS_PROC = Path("/proc/self").exists()


@dataclass(frozen=True)
class Census:
    threads: int
    descriptors: int
    memory: int  # bytes, resident
    cpu: float  # seconds so far


def take_census(pid: int) -> Census:
    """Count what a process has now. Raises SkipTest where there is no /proc."""
    folder = Path(f"/proc/{pid}")
    if not HAS_PROC:
        raise unittest.SkipTest("there is no /proc to count in")
    memory = re.search(r"VmRSS:\s+(\d+) kB", (folder / "status").read_text())
    assert memory, f"process {pid} has ended"
    times = (folder / "stat").read_text().rpartition(")")[2].split()
    cpu = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    threads, descriptors = (len(os.listdir(folder / name)) for name in ("task", "fd"))
    return Census(threads, descriptors, int(memory[1]) * 1024, cpu)


def settle(pid: int, wanted: Census, *, more: int = 0) -> Census:
    """Wait until a process has as many threads and descriptors as `wanted`; return its census.

    more: of each, as every connection takes one thread and one descriptor.
    """

    def has_settled() -> bool:
        now = take_census(pid)
        return (now.threads - more, now.descriptors - more) == (wanted.threads, wanted.descriptors)

    eventually(has_settled, lambda: f"threads and descriptors as in {wanted}: {take_census(pid)}")
    return take_census(pid)


def eventually(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    seconds: float = PATIENCE,
    *,
    pause: float = 0.01,
) -> None:
    """Wait at most so many seconds until a condition holds that no event tells.

    what: is awaited, for the message of the AssertionError if it never comes; pause: between looks.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what() if callable(what) else what}")
        time.sleep(pause)
