"""The command line of the faults, and their table."""

from __future__ import annotations

import argparse
import statistics
import sys
import unittest
from collections.abc import Sequence

import tests.long.faults
from tests.helpers import suite
from tests.long.faults import FAULTS
from tests.long.faults.stage import Fault, Stage
from tests.long.faults.witnesses import Trip

stages: dict[str, Stage] = {}  # of the faults so far, for the table


def case_of(fault: Fault, options: argparse.Namespace) -> suite.Case:
    """options: the command line's, once it is known."""

    def run(quick: bool) -> str:
        stage = stages[fault.name] = Stage(quick, options.tls)
        if options.tls and fault.plain_only:
            raise unittest.SkipTest(fault.plain_only)
        fault.build(stage)
        return "; ".join(stage.notes)

    return suite.Case(fault.name, fault.promise, run)


def print_table(results: Sequence[suite.Result]) -> None:
    """Print the rows in Markdown: delays are the longest round trip, and in brackets the median."""
    print("\n| fault | what happens | room delayed at most, ms | without the fault, ms | figures |")
    print("|---|---|---|---|---|")
    for result in results:
        stage, verdict = stages[result.case.name], result.verdict
        figures = "; ".join(stage.notes) if verdict == "ok" else f"{verdict}: {result.figures}"
        delays = [milliseconds(stage.trips), milliseconds(stage.quiet)]
        print(f"| {' | '.join([result.case.name, result.case.promise, *delays, figures])} |")
    print()


def milliseconds(trips: Sequence[Trip]) -> str:
    if not trips:
        return "-"
    times = [1000 * trip.seconds for trip in trips]
    return f"{max(times):.0f} ({statistics.median(times):.1f})"


def main() -> int:
    options = argparse.Namespace()
    cases = [case_of(fault, options) for fault in FAULTS]
    parser = suite.command_line("tests.long.faults", tests.long.faults.__doc__, cases)
    parser.add_argument("--tls", action="store_true", help="in rooms that are encrypted")
    parser.parse_args(namespace=options)
    return suite.run(cases, options, print_table)


if __name__ == "__main__":
    sys.exit(main())
