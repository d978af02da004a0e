"""Floods."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from functools import partial

from tests.helpers.census import eventually
from tests.helpers.process import CHEAP_PASSWORD, PATIENCE
from tests.helpers.talker import Talker
from tests.long.faults.stage import (
    SMALL_BUFFER,
    Stage,
    at_once,
    cpu_of_a_second,
    fault,
    is_who,
    mebibytes,
    overfill,
)


@fault("slowed to --rate, nothing lost")
def flood(stage: Stage) -> None:
    lines = [f"line {number}" for number in range(stage.choose(50, 200))]
    with stage.scene(("Tom", "Beth"), rate=10) as scene:
        tom, beth = scene.login("Tom"), scene.login("Beth")
        with scene.fault():
            began = time.monotonic()
            tom.send(*[f"send Beth {line}" for line in lines])
            beth.socket.settimeout(PATIENCE + len(lines) / 10)
            got = beth.until(f"Tom (to Beth): {lines[-1]}")
            lasted = time.monotonic() - began
        heard = [line for line in got if line.startswith("Tom ")]
        assert heard == [f"Tom (to Beth): {line}" for line in lines]
        assert lasted > (len(lines) - 22) / 10 - 0.1, f"{lasted:.1f} s"
        stage.note(f"{len(lines)} lines at once took {lasted:.1f} s, none lost")


@fault("with --rate 0: nothing lost, in order")
def flood_unlimited(stage: Stage) -> None:
    count = stage.choose(10_000, 100_000)
    senders = ("Tom", "Beth", "David")
    with stage.scene((*senders, "Rosa")) as scene:
        rosa = scene.login("Rosa")
        with scene.fault():
            began = time.monotonic()
            talkers = [scene.login(name) for name in senders]
            heard = dict.fromkeys(senders, 0)
            pour = [
                partial(say_numbers, talker, count, partial(heard.__getitem__, sender))
                for talker, sender in zip(talkers, senders, strict=True)
            ]
            at_once([*pour, partial(count_numbers, rosa, heard, count)])
            lasted = time.monotonic() - began
        stage.note(f"{len(senders) * count} lines in {lasted:.1f} s, none lost, all in order")


def say_numbers(talker: Talker, count: int, heard: Callable[[], int]) -> None:
    """Send numbered lines as fast as they are taken, reading what comes in return.

    heard: how many of them the listener has heard; a Python that is 1 MiB behind would be dropped,
    and rightly so.
    """
    reader = threading.Thread(target=talker.until, args=(is_who,))
    reader.start()
    for number in range(0, count, 500):
        eventually(partial(has_heard, heard, number - 500), "the listener comes along")
        talker.send(*[f"send all {n}" for n in range(number, number + 500)])
    talker.send("who")
    reader.join()


def has_heard(heard: Callable[[], int], count: int) -> bool:
    return heard() >= count


def count_numbers(talker: Talker, heard: dict[str, int], count: int) -> None:
    """Read until each sender has said all numbers up to `count`, in order."""
    while any(number < count for number in heard.values()):
        sender, _, message = (talker.line() or "").partition(": ")
        if sender in heard:
            assert message == str(heard[sender]), f"{sender} lost {heard[sender]}"
            heard[sender] += 1


@fault("refused once, skipped in bounded memory, lives on")
def endless_line(stage: Stage) -> None:
    size = stage.choose(2 << 20, 16 << 20)
    with stage.scene(rate=10) as scene:
        before = scene.census()
        talker = scene.connect()
        talker.socket.settimeout(4 * PATIENCE)
        with scene.fault():
            began = time.monotonic()
            for _ in range(0, size, 65536):
                talker.send_bytes(bytes(65536))
            talker.send("")
            talker.expect("Denied. Line longer than 2048 bytes.")
            assert talker.ask("who") == "Denied. Please login first."
            lasted = time.monotonic() - began
            now = scene.census()
        grown = now.memory - before.memory
        assert grown < 4 << 20, f"memory grew by {mebibytes(grown)}"
        spent = now.cpu - before.cpu
        stage.note(f"{mebibytes(size)} of NUL took {lasted:.1f} s and {spent:.2f} s of server CPU")
        stage.note(f"memory +{mebibytes(max(0, grown))}; the connection lives on")


@fault("random bytes: refused, lives on")
def garbage(stage: Stage) -> None:
    source = random.Random(14)
    size = stage.choose(1 << 20, 16 << 20)
    with stage.scene(("Tom",)) as scene:
        talker = scene.connect()
        before = scene.cpu()
        with scene.fault():
            reader = threading.Thread(target=read_up_to, args=(talker, b"\nlogin confirmed\n"))
            reader.start()
            for _ in range(0, size, 65536):
                talker.send_bytes(source.randbytes(65536))
            talker.send("", f"login Tom {CHEAP_PASSWORD}")
            reader.join(4 * PATIENCE)
            assert not reader.is_alive()
        scene.shown(r"Tom login\.")
        stage.note(f"{mebibytes(size)}, server CPU {scene.cpu() - before:.1f} s; then it logs in")


def read_up_to(talker: Talker, end: bytes) -> None:
    """Read bytes, as answers to telnet commands are no UTF-8."""
    tail = b""
    while end not in tail:
        data = talker.socket.recv(65536)
        if not data:
            return
        tail = tail[-len(end) :] + data


@fault("sends on after logout, reads nothing: costs little")
def logout_flood(stage: Stage) -> None:
    """Log out without reading what is owed, and go on sending: nothing of it counts any more."""
    with stage.scene(("Slow", "Tom"), rate=5000) as scene:
        tom, slow = scene.login("Tom"), scene.login("Slow", receive_buffer=SMALL_BUFFER)
        with scene.fault():
            overfill(tom, "Slow")
            slow.send("logout")
            scene.shown(r"Slow logout\.")
            sending = threading.Thread(target=pour_empty_lines, args=(slow,), daemon=True)
            sending.start()
            spent = cpu_of_a_second(scene)
            slow.reset()
            sending.join(PATIENCE)
        assert spent < 0.3, f"{spent:.2f} s of CPU a second"
        stage.note(f"server CPU {spent:.2f} s a second")


def pour_empty_lines(talker: Talker) -> None:
    with contextlib.suppress(OSError):
        while True:
            talker.send_bytes(b"\n" * 65536)
