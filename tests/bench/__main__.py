"""The command line of the bench; see __init__.py."""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.contenders import C_LOOP, IRC, SERVER, BenchError, progress
from tests.bench.measurements import MEASUREMENTS
from tests.bench.rounds import FULL, QUICK, Bench
from tests.bench.table import Row, machine, report, save


def main() -> int:
    options = parse_options()
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = dataclasses.replace(scale, runs=options.runs)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    rows: list[Row] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="chatroom-bench-") as folder:
        bench = Bench(scale, options.server.resolve(), Path(folder))
        for name in (C_LOOP, IRC):
            if name not in bench.contenders.names:
                progress(f"no {name} to compare with")
        chosen = options.only or list(MEASUREMENTS)
        for number, name in enumerate(chosen, 1):
            progress(f"{number} of {len(chosen)}: {name}")
            try:
                rows += MEASUREMENTS[name](bench)
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                progress(f"{name} FAILED: {error}")
                failed = True
    digest = bench.contenders.digest
    report(rows, bench.sizes, bench.conditions, judging=not options.quick)
    print(f"\nMachine: {json.dumps(machine())}; server.py: sha256 {digest}")
    if options.json:
        save(options.json, digest, rows, bench.sizes, bench.conditions)
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="How fast is it?")
    parser.add_argument("--quick", action="store_true", help="a smoke run that judges no speed")
    parser.add_argument("--runs", type=int, metavar="N", help="rounds (5, of some things 3)")
    parser.add_argument(
        "--only",
        choices=MEASUREMENTS,
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument("--server", type=Path, default=SERVER, metavar="FILE", help="another one")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
