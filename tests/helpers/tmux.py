"""A program in a real terminal, in a tmux server of our own: type, and look at what it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.helpers.process import PATIENCE, child_environment


class Tmux:
    """One pane, in which a shell runs a command."""

    def __init__(self, command: str, columns: int, rows: int) -> None:
        self.folder = tempfile.mkdtemp(prefix="chatroom-")
        size = ("-x", str(columns), "-y", str(rows))
        self.run("-f", os.devnull, "new-session", "-d", *size, command)

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(Path(self.folder) / "tmux"), *arguments],
            env=child_environment() | {"LC_ALL": "C.UTF-8"},
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout

    def close(self) -> None:
        self.run("kill-server")
        shutil.rmtree(self.folder)

    def type(self, text: str, *keys: str) -> None:
        """Type a text to the letter, and then keys by tmux' names for them."""
        if text:
            self.run("send-keys", "-l", text)
        if keys:
            self.run("send-keys", *keys)

    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.run("capture-pane", "-p").split("\n")[:-1]]

    def cursor(self) -> tuple[int, int]:
        """Return its row and its column."""
        row, column = self.run("display-message", "-p", "#{cursor_y} #{cursor_x}").split()
        return int(row), int(column)
