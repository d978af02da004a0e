"""Every fault that a chat server may meet, built for real, and what it does to everybody else.

    python -m tests.long.faults                      all of them in full, some 10 minutes
    python -m tests.long.faults --quick              all of them in short, about a minute
    python -m tests.long.faults never-reads flood    only these

Each fault is a function that makes it happen on a stage, and asserts what it promises. It has a
server process of its own. In its room two witnesses play ping-pong from a third process: the
longest round trip while the fault lasts is how much it delayed the room, and stands in the table at
the end beside the longest of as many in the quiet before.
"""

from __future__ import annotations

from tests.long.faults import (
    clients,
    display,
    door,
    encryption,
    endings,
    floods,
    limits,
    pastes,
    shortage,
    stopping,
    strangers,
    vanishing,
)
from tests.long.faults.stage import Fault

KINDS = (
    clients,
    pastes,
    vanishing,
    door,
    strangers,
    limits,
    shortage,
    display,
    floods,
    stopping,
    endings,
    encryption,
)
FAULTS = [fault for kind in KINDS for fault in vars(kind).values() if isinstance(fault, Fault)]
