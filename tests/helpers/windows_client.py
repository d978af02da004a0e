"""Runs client.py in Wine's console, which has keys but obeys no escape sequences.

So standard output is a pipe to what draws it, and this tells the client that it is a console that
does, and how wide. Its command line is client.py's.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import client


def window_size(_descriptor: int) -> os.terminal_size:
    """Return the size of the console, whatever standard output is."""
    with open("CONOUT$", "wb", buffering=0) as console:
        import msvcrt

        handle = ctypes.c_void_p(msvcrt.get_osfhandle(console.fileno()))  # type: ignore[attr-defined]
        # Of CONSOLE_SCREEN_BUFFER_INFO: size, cursor, attributes, corners of the window, its limits
        info = (ctypes.c_short * 11)()
        ctypes.windll.kernel32.GetConsoleScreenBufferInfo(handle, info)  # type: ignore[attr-defined]
    left, top, right, bottom = info[5:9]
    return os.terminal_size((right - left + 1, bottom - top + 1))


os.isatty = lambda _descriptor: True
os.get_terminal_size = window_size  # type: ignore[assignment]
client.Console.obeys_escapes = lambda self: True  # type: ignore[method-assign]
sys.exit(client.main(sys.argv[1:]))
