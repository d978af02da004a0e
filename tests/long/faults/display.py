"""Display and log: closed, stuck, full."""

from __future__ import annotations

import os
import signal
import unittest
from pathlib import Path

from tests.helpers.census import eventually
from tests.helpers.process import temporary_folder
from tests.long.faults.stage import LONG, Scene, Stage, fault, is_who, mebibytes, piped_into

# ServerProcess wants to read the first line of the display; where there is none, the log takes its
# place, in the form of the display.
LOG_AS_DISPLAY = """
def write_as_display(writer, *stream, init=server.Writer.__init__):
    init(writer, *stream[:4], None)  # without its path, a log has the form of the display
server.Writer.__init__ = write_as_display
"""


def talk(scene: Scene, count: int) -> None:
    """Have Tom say so many lines to himself, all of which the server shows."""
    with scene.login("Tom") as tom:
        for _ in range(0, count, 100):  # or he would be dropped for not reading
            tom.send(*[f"send Tom {LONG}"] * 100, "who")
            tom.until(is_who)
        tom.send("logout")
        tom.until("Tom left.")


@fault("started with >&-: the room and the log go on", fast=True)
def display_closed(stage: Stage) -> None:
    shell = ("sh", "-c", 'exec "$@" 3>&1 >&-', "sh")
    log = ("--log", "/dev/fd/3")
    with stage.scene(("Tom",), log, patch=LOG_AS_DISPLAY, prefix=shell) as scene:
        with scene.fault():
            talk(scene, 200)
        scene.shown(r"Tom logout\.")


@fault("EPIPE: the room and the log go on")
def display_abandoned(stage: Stage) -> None:
    patch = piped_into("head", "-n", "1")
    with temporary_folder() as folder:
        log = folder / "log"
        with stage.scene(("Tom",), ("--log", str(log)), patch=patch) as scene:
            assert scene.server.display.next() is None
            with scene.fault():
                talk(scene, 200)
            eventually(lambda: "Tom logout." in log.read_text(), "the log goes on")
            assert "The display cannot be written: Broken pipe." in log.read_text()


@fault("full pipe: the room goes on, `(N lines not shown)`")
def display_stuck(stage: Stage) -> None:
    count = stage.choose(15_000, 50_000)
    patch = piped_into("cat")
    with stage.scene(("Tom",), patch=patch) as scene:
        cat = int(scene.server.errors.until(lambda line: "reader: " in line).split()[1])
        before = scene.census()
        with scene.fault():
            os.kill(cat, signal.SIGSTOP)
            try:
                talk(scene, count)
                grown = scene.census().memory - before.memory
            finally:
                os.kill(cat, signal.SIGCONT)
            missed = 0
            while (told := scene.shown(r"Tom logout\.|\(\d+ lines not shown\)")) != "Tom logout.":
                missed += int(told[1:].split()[0])
                talk(scene, 1)  # it may fall into the gap, too, until that has been told of
        assert missed, "nothing was missed"
        assert grown < 64 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(
            f"{count} lines of 256 characters, {missed} of them not shown; "
            f"memory +{mebibytes(max(0, grown))}"
        )


@fault("--log /dev/full: shown once, the room goes on")
def log_full(stage: Stage) -> None:
    if not Path("/dev/full").exists():
        raise unittest.SkipTest("there is no /dev/full")
    with stage.scene(("Tom",), ("--log", "/dev/full")) as scene:
        with scene.fault():
            scene.shown(r"The log cannot be written: No space left on device\.")
            talk(scene, 200)
        scene.shown(r"Tom logout\.")
