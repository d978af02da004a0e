"""What server.py understands of a line: the one place of the suites that knows what `parse` is."""

from __future__ import annotations

from dataclasses import astuple

import server

Words = tuple[str, ...]  # of a command: ("send", "all", "hi")

# Until issue 9's server.py is merged: today's `parse` returns dataclasses, and what is wrong with
# a `send` or a `who` is said before that a login is needed. To go, with what it chooses between.
IS_OLD = hasattr(server, "SendAll")
LOGIN_FIRST = "Denied. Please login first."


def understood(line: bytes) -> Words | str | None:
    """Return a line's command, the refusal of what is none, or None for an empty line."""
    try:
        command = server.parse(line)
    except server.Denied as denied:
        return str(denied)
    if not IS_OLD or command is None:
        return command  # type: ignore[return-value]
    name = type(command).__name__.lower()
    return ("send", "all", *astuple(command)) if name == "sendall" else (name, *astuple(command))


def answered_at_the_door(line: bytes) -> Words | str | None:
    """Return the same for who has not logged in: `send` and `who` come to nothing, well-formed
    or not.
    """
    outcome = understood(line)
    is_heard = isinstance(outcome, str) and outcome.startswith(("Denied. Line", "Denied. Not"))
    word = line.lstrip(b" ").removesuffix(b"\r").partition(b" ")[0].lower()
    if word not in (b"send", b"who") or is_heard or (IS_OLD and isinstance(outcome, str)):
        return outcome
    return LOGIN_FIRST
