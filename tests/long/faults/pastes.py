"""Lines that wait to be read, when the one who sent them is gone or has thought better of it."""

from __future__ import annotations

import contextlib
import time
import unittest
from collections.abc import Callable, Iterator

from tests.helpers.census import eventually
from tests.helpers.fake_server import FakeServer
from tests.helpers.process import CHEAP_PASSWORD, PATIENCE
from tests.long.faults.stage import Collector, Scene, Stage, fault

try:
    from tests.helpers.terminal import CTRL, Terminal
except ImportError:  # there are no pseudo-terminals here
    Terminal = None  # type: ignore[assignment, misc]

UNDER_WAY = 16 * 1024  # bytes that the two kernels may hold of what somebody has sent
LEFT = "Tom left."


@fault("900 lines queued, then a reset: dropped at once, the place is free")
def queued_reset(stage: Stage) -> None:
    count = stage.choose(900, 100_000)
    full = ("--max-clients", "4")
    with stage.scene(("Tom", "Beth", "David"), full, rate=10) as scene:
        tom, beth = scene.login("Tom"), scene.login("Beth")
        with scene.fault():
            with contextlib.suppress(TimeoutError):
                tom.socket.settimeout(1)
                tom.send(*[f"send all line {number}" for number in range(count)])
            beth.until("Tom: line 5")
            began = time.monotonic()
            tom.reset()
            after = [line for line in beth.until(LEFT) if line.startswith("Tom: ")]
            lasted = time.monotonic() - began
            scene.login("David")
            scene.shown(r"Tom logout \(connection lost\)\.")
        assert lasted < stage.choose(5, 1.5), f"the place was taken for {lasted:.1f} s"
        assert len(after) <= 20 + 10 * lasted, f"{len(after)} lines came after it"
        stage.note(f"{count} lines queued; gone {1000 * lasted:.0f} ms after the reset")


@fault("kill -9 of client.py with 3,000 lines pasted: it says no more, its place is free")
def killed_client(stage: Stage) -> None:
    # In a room that is quiet: what is said to a client that is gone would bring a reset back.
    with stage.scene(("Tom", "Beth"), rate=10, private=True) as scene:
        heard = Collector(scene.login("Beth"))
        with scene.fault(), client(scene) as terminal:
            paste(terminal, 3000)
            watch(terminal, lambda: lines_of_tom(heard, 0) >= 20)
            before, began = len(heard.collected), time.monotonic()
            terminal.process.kill()
            eventually(lambda: LEFT in heard.collected, "the place is free", 4 * PATIENCE)
            lasted = time.monotonic() - began
            after = lines_of_tom(heard, before)
        size = sum(len(said(line)) for line in heard.collected[before:] if line.startswith("Tom: "))
        assert size <= UNDER_WAY, f"{size} bytes came after it"
        assert lasted < stage.choose(5, 1.5), f"the place was taken for {lasted:.1f} s"
        stage.note(f"{after} lines came after it; place free after {1000 * lasted:.0f} ms")


@fault("Ctrl-C behind a paste of 3,000 lines: seen at once, drops what is not sent")
def ctrl_c_behind_paste(stage: Stage) -> None:
    with stage.scene(("Tom", "Beth"), rate=100) as scene:
        heard = Collector(scene.login("Beth"))
        with scene.fault(), client(scene) as terminal:
            paste(terminal, 3000)
            began = time.monotonic()
            before = len(heard.collected)
            terminal.type(CTRL["C"])
            terminal.expect("^C")
            lasted = time.monotonic() - began
            terminal.type("send all done\r")
            eventually(lambda: "Tom: done" in heard.collected, "what is typed after", 4 * PATIENCE)
            after = [line for line in heard.collected[before:] if line.startswith("Tom: ")]
        size = sum(len(said(line)) for line in after)
        assert lasted < stage.choose(5, 0.5), f"Ctrl-C was seen after {lasted:.1f} s"
        assert size <= UNDER_WAY, f"{size} bytes came after it"
        stage.note(f"seen after {1000 * lasted:.0f} ms; {size} bytes more were on their way")


@fault("300 lines pasted and Ctrl-C twice: at most the line under way comes after")
def ctrl_c_twice(stage: Stage) -> None:
    with stage.scene(("Tom", "Beth"), rate=10) as scene:
        heard = Collector(scene.login("Beth"))
        with scene.fault(), client(scene) as terminal:
            paste(terminal, 300)
            watch(terminal, lambda: lines_of_tom(heard, 0) >= 20)
            terminal.type(CTRL["C"])
            terminal.expect("^C")
            before, began = len(heard.collected), time.monotonic()
            terminal.type(CTRL["C"])
            terminal.status()
            eventually(lambda: LEFT in heard.collected, "the place is free", 4 * PATIENCE)
            lasted = time.monotonic() - began
            after = lines_of_tom(heard, before)
        assert after <= 2 + 10 * lasted, f"{after} lines came after the second"
        assert lasted < 5, f"the place was taken for {lasted:.1f} s"
        stage.note(f"{after} lines came after the second; gone after {1000 * lasted:.0f} ms")


@contextlib.contextmanager
def client(scene: Scene) -> Iterator[Terminal]:
    """Log Tom in with client.py on a pseudo-terminal."""
    if Terminal is None:
        raise unittest.SkipTest("there are no pseudo-terminals here")
    certificate = scene.server.certificate
    options = ("--tls-ca", certificate) if certificate else ()
    terminal = Terminal(RealServer(scene.server.port), options=options)
    try:
        terminal.expect("> ")
        terminal.type(f"login Tom {CHEAP_PASSWORD}\r")
        terminal.expect("login confirmed")
        yield terminal
    finally:
        terminal.close()


class RealServer(FakeServer):
    """What a Terminal wants to know of a server that needs nobody to accept for it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def accept(self) -> None:
        pass


def paste(terminal: Terminal, count: int) -> None:
    """Type lines as a paste does, as fast as they are taken, and read what is shown meanwhile."""
    terminal.type("".join(f"send all line {number}\r" for number in range(count)))


def watch(terminal: Terminal, enough: Callable[[], bool]) -> None:
    """Read all that the client shows until it is enough, and what is left then.

    A client killed with lines unread ends with a reset of the system's own, whatever it is.
    """
    deadline = time.monotonic() + PATIENCE
    while not enough():
        terminal.read(0.01)
        assert time.monotonic() < deadline, "the first lines are never heard"
    while terminal.read(0.1):
        pass


def lines_of_tom(heard: Collector, start: int) -> int:
    return sum(line.startswith("Tom: ") for line in heard.collected[start:])


def said(heard: str) -> bytes:
    """Return what Tom had to send for a line that was heard."""
    return heard.replace("Tom: ", "send all ", 1).encode() + b"\n"
