"""The faults that are quick to build, in short; python -m tests.long.faults has them all.

Each builds a fault against a real server, while two witnesses talk in its room: it fails when the
fault does not end as promised, and also when it delays them. Each is registered, with its promise,
beside the function in tests/long/faults that builds it.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable

from tests.long.faults import FAULTS
from tests.long.faults.stage import Fault, Stage


@unittest.skipIf(sys.platform == "win32", "the faults are made with what only Linux has")
class FaultTest(unittest.TestCase):
    """Its tests are made below: test_never_reads and so on."""


def test_of(fault: Fault) -> Callable[[FaultTest], None]:
    def test(_: FaultTest) -> None:
        fault.build(Stage(quick=True))

    test.__doc__ = fault.promise
    return test


for fault in FAULTS:
    if fault.fast:
        setattr(FaultTest, f"test_{fault.name.replace('-', '_')}", test_of(fault))


if __name__ == "__main__":
    unittest.main()
