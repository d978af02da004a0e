"""The command line of the faults, and their table."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

import tests.long.faults
from tests.helpers import suite
from tests.long.faults import FAULTS
from tests.long.faults.stage import Fault, Stage
from tests.long.faults.witnesses import Trip

stages: dict[str, Stage] = {}  # of the faults so far, for the table


def case_of(fault: Fault) -> suite.Case:
    def run(quick: bool) -> str:
        stage = stages[fault.name] = Stage(quick)
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
    cases = [case_of(fault) for fault in FAULTS]
    options = suite.command_line("tests.long.faults", tests.long.faults.__doc__, cases).parse_args()
    return suite.run(cases, options, print_table)


if __name__ == "__main__":
    sys.exit(main())
