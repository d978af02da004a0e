"""Lines that wait to be read, when the one who sent them is gone or has thought better of it."""

from __future__ import annotations
