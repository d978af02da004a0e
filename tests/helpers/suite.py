"""One command line for all long suites: python -m tests.long.X [--quick] [NAME ...]

On standard output each case has a line with its figures, and the last line tells how many passed
and failed. On standard error stand the progress, with the time since the start (a case that takes
long says every few seconds how far it is), and the traces of failures. The exit status is 0 if no
case failed, 1 if one did, 2 for a name that there is not.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
import traceback
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

BEGAN = time.monotonic()
NEWS = 5.0  # seconds between two lines about the same thing


@dataclass(frozen=True)
class Case:
    name: str
    promise: str  # what `run` asserts
    run: Callable[[bool], str]  # told whether in short; returns its figures, or raises


@dataclass(frozen=True)
class Result:
    case: Case
    verdict: str  # "ok", "skipped" or "FAILED"
    figures: str  # or the reason of the verdict
    seconds: float


def case_of(run: Callable[[bool], str]) -> Case:
    """Return a case named and described as its function is."""
    return Case(name_of(run), promise_of(run), run)


def name_of(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", "-")


def promise_of(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0]


def command_line(program: str, about: str | None, cases: Sequence[Case]) -> argparse.ArgumentParser:
    """Return the parser for a suite's command line; a suite may add options of its own."""
    names = [case.name for case in cases]
    width = max(map(len, names))

    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"there is no {text}; there are {', '.join(names)}")
        return text

    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=about,
        epilog="names:\n" + "\n".join(f"  {case.name:{width}}  {case.promise}" for case in cases),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="in short")
    parser.add_argument("names", nargs="*", metavar="NAME", type=name, help="run only these")
    return parser


def main(program: str, about: str | None, cases: Sequence[Case]) -> int:
    """Run a suite as its command line asks; return the exit status."""
    return run(cases, command_line(program, about, cases).parse_args())


def run(
    cases: Sequence[Case],
    options: argparse.Namespace,
    report: Callable[[Sequence[Result]], None] = lambda results: None,
) -> int:
    """Run the cases that the options name, or all; return the exit status.

    report: is given all results, to print what stands before the closing line.
    """
    chosen = [case for case in cases if not options.names or case.name in options.names]
    results = []
    for number, case in enumerate(chosen, 1):
        with news(f"{number} of {len(chosen)}: {case.name}"):
            results.append(attempt(case, options.quick))
        print(line_of(results[-1]), flush=True)
    report(results)
    counts = {verdict: 0 for verdict in ("ok", "FAILED", "skipped")}
    for result in results:
        counts[result.verdict] += 1
    skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
    print(f"{counts['ok']} passed, {counts['FAILED']} failed{skipped}", flush=True)
    return 1 if counts["FAILED"] else 0


def attempt(case: Case, quick: bool) -> Result:
    began = time.monotonic()
    try:
        verdict, figures = "ok", case.run(quick)
    except unittest.SkipTest as reason:
        verdict, figures = "skipped", str(reason)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases are still run
        traceback.print_exc()
        verdict, figures = "FAILED", f"{type(error).__name__}: {error}"
    return Result(case, verdict, figures, time.monotonic() - began)


def line_of(result: Result) -> str:
    line = f"{result.verdict:7} {result.case.name} ({result.seconds:.1f} s)"
    return f"{line}: {result.figures}" if result.figures else line


where = ""  # how far that is which runs, in its own words


def at(text: str) -> None:
    """Tell how far that is which runs: it is shown with the next news, so this costs little."""
    global where  # noqa: PLW0603
    where = text


@contextlib.contextmanager
def news(what: str) -> Iterator[None]:
    """Show what is begun, and then every few seconds how far it is, until it is done."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(NEWS):
            progress(f"{what}: {where}" if where else what)

    at("")
    progress(what)
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def progress(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", file=sys.stderr, flush=True)
