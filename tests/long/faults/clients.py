"""Clients that do not do their part."""

from __future__ import annotations

import contextlib
import threading
import time

from tests.helpers.process import CHEAP_PASSWORD, PATIENCE
from tests.helpers.talker import Talker
from tests.long.faults.stage import (
    BIG,
    SMALL_BUFFER,
    Stage,
    cpu_of_a_second,
    fault,
    is_who,
    mebibytes,
    overfill,
)
from tests.long.faults.witnesses import PING, PONG


@fault("dropped once 1 MiB waits, shown as (not reading)", fast=True)
def never_reads(stage: Stage) -> None:
    with stage.scene(("Slow", "Tom")) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        scene.login("Slow", receive_buffer=SMALL_BUFFER)
        sent = 0
        with scene.fault():
            answers: list[str] = []
            while "Denied. Slow is not in the chat room." not in answers:
                tom.send(*[f"send Slow {BIG}"] * 32, "who")
                answers = tom.until(is_who)
                sent += 32 * len(BIG.encode())
                assert sent < 8 << 20, "it is never dropped"
        assert sent > 1 << 20, f"dropped after {sent} bytes"
        scene.shown(r"Slow logout \(not reading\)\.")
        scene.settle(before)
        grown = scene.census().memory - before.memory
        assert grown < 16 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(f"dropped after {mebibytes(sent)}; memory +{mebibytes(max(0, grown))}")


@fault("dropped after 30 s without progress; costs no CPU until then")
def stalls(stage: Stage) -> None:
    seconds = stage.choose(1, 30)
    names = [f"Slow{number}" for number in range(20)]
    constants = {"STALL_SECONDS": seconds} if stage.quick else {}
    with stage.scene((*names, "Tom"), constants=constants) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        slow = [scene.login(name, receive_buffer=SMALL_BUFFER) for name in names]
        quiet_cpu = cpu_of_a_second(scene)
        with scene.fault():
            overfill(tom, "all")
            began, stalled_cpu = time.monotonic(), cpu_of_a_second(scene)
            # The first of them reads a byte a second: that opens no window, so it is no progress.
            dripping = threading.Thread(target=drip, args=(slow[0], seconds))
            dripping.start()
            for _ in names:
                scene.shown(r"Slow\d+ logout \(not reading\)\.", seconds + PATIENCE)
            lasted = time.monotonic() - began
            dripping.join()
        assert seconds / 2 < lasted < seconds + 5, f"dropped after {lasted:.1f} s"
        assert stalled_cpu < quiet_cpu + 0.1, f"{stalled_cpu:.2f} s of CPU a second, stalled"
        scene.settle(before)
        stage.note(
            f"20 stalled for {lasted:.1f} s, one of them reading a byte a second; server CPU "
            f"{stalled_cpu:.2f} s a second meanwhile, {quiet_cpu:.2f} before (all of it ping-pong)"
        )


def drip(talker: Talker, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline and talker.socket.recv(1):
            time.sleep(1)


@fault("ten stalled readers and 100,000 tiny lines: bounded in bytes of memory")
def tiny_lines(stage: Stage) -> None:
    count = stage.choose(20_000, 100_000)
    names = [f"Slow{number}" for number in range(10)]
    with stage.scene((*names, "Tom")) as scene:
        tom = scene.login("Tom")
        for name in names:
            scene.login(name, receive_buffer=SMALL_BUFFER)
        before = scene.census()
        with scene.fault(median=0.02):
            for _ in range(0, count, 1000):
                tom.send(*["send all a"] * 1000, "who")
                tom.until(is_who)
            grown = scene.census().memory - before.memory
            answer = tom.ask("who") or ""
        assert "Slow0" in answer, "they were dropped, so that nothing is proved"
        each = max(0, grown) / len(names)
        assert each < 2 << 20, f"{mebibytes(each)} for each"
        stage.note(f"{count} lines of one letter: {mebibytes(each)} for each of them")


@fault("half a line, then silence: costs nothing, and may be ended")
def half_lines(stage: Stage) -> None:
    names = [f"Half{number}" for number in range(50)]
    with stage.scene(names) as scene:
        talkers = [scene.login(name) for name in names]
        with scene.fault():
            for talker in talkers:
                talker.send_bytes(b"send all hel")
            before = scene.cpu()
            scene.witnesses.rounds(50)
            spent = scene.cpu() - before
        talkers[0].send("lo")
        talkers[1].until("Half0: hello")
        stage.note(f"50 of them; server CPU {spent:.2f} s in 50 round trips")


@fault("logged out, shown as (connection lost); nothing of them is left", fast=True)
def resets(stage: Stage) -> None:
    names = [f"Rst{number}" for number in range(stage.choose(50, 500))]
    with stage.scene(names) as scene:
        before = scene.census()
        talkers = [scene.login(name) for name in names]
        with scene.fault():
            for talker in talkers:
                talker.send("send all going", "who")
                talker.reset()
            ends = [scene.shown(r"Rst\d+ logout.*") for _ in names]
        wrong = [line for line in ends if not line.endswith(" logout (connection lost).")]
        assert not wrong, f"shown for a reset: {wrong}"
        scene.settle(before)
        stage.note(f"{len(names)} at once; all threads and descriptors back")


@fault("a logout; gets the replies it is owed", fast=True)
def half_closes(stage: Stage) -> None:
    names = [f"Half{number}" for number in range(stage.choose(20, 200))]
    with stage.scene((*names, "Tom")) as scene:
        tom = scene.login("Tom")
        before = scene.census()
        with scene.fault():
            for name in names:
                with scene.connect() as talker:
                    talker.send(f"login {name} {CHEAP_PASSWORD}", f"send Tom {BIG}", "who")
                    talker.finish()
                    answers = [line for line in talker.rest() if not line.startswith(f"{PING}: ")]
                everyone = f"{PING}, {PONG}, {name}, Tom"
                assert answers == ["login confirmed", everyone, f"{name} left."], answers
                tom.until(f"{name} left.")
        scene.settle(before)
        stage.note(f"{len(names)} of them got every reply that they were owed")
