"""Stopping: whatever the clients do, all are told, and it ends in time."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time

from tests.helpers.process import PATIENCE, temporary_folder
from tests.helpers.talker import Talker
from tests.long.faults.stage import (
    FAREWELL,
    LONG,
    REAL_HASH,
    REAL_PASSWORD,
    SMALL_BUFFER,
    STALLING_LINES,
    Collector,
    Stage,
    fault,
    overfill,
    piped_into,
)


@fault("SIGTERM with stalled clients: readers get all")
def stop_stalled(stage: Stage) -> None:
    names = [f"Slow{number}" for number in range(20)]
    with stage.scene((*names, "Tom", "Beth")) as scene:
        tom, beth = scene.login("Tom"), scene.login("Beth")
        for name in names:
            scene.login(name, receive_buffer=SMALL_BUFFER)
        reading = Collector(beth)
        with scene.fault():
            overfill(tom, "all")
        seconds = scene.stop(signal.SIGTERM)
        lines = reading.lines()
        assert lines.count(f"Tom: {LONG}") == STALLING_LINES
        assert lines[-1] == FAREWELL, lines[-1]
        stage.note(f"SIGTERM, {len(names)} stalled: gone after {seconds:.1f} s")


@fault("mid-flood: all that was shown was heard, then the farewell")
def stop_flood(stage: Stage) -> None:
    times = stage.choose(1, 10)
    seconds = [stop_a_flood(stage, (signal.SIGINT, signal.SIGTERM)[n % 2]) for n in range(times)]
    stage.note(f"{times} times: gone after {max(seconds):.1f} s at most")


def stop_a_flood(stage: Stage, number: int) -> float:
    with stage.scene(("Tom", "Beth", "Rosa", "Luis"), rate=2000) as scene:
        readers = [Collector(scene.login(name)) for name in ("Rosa", "Luis")]
        senders = [scene.login(name) for name in ("Tom", "Beth")]
        echoes = [Collector(talker) for talker in senders]
        with scene.fault():
            for talker in senders:
                threading.Thread(target=pour, args=(talker,), daemon=True).start()
            scene.shown("Beth: line 300")
        seconds = scene.stop(number)
        said = [line for line in scene.server.display.all() if is_of_the_flood(line)]
        for reader in readers:
            lines = reader.lines()
            heard = [line for line in lines if is_of_the_flood(line)]
            assert heard == said, f"heard {len(heard)} lines of {len(said)}"
            assert lines[-1] == FAREWELL, lines[-1]
        for echo in echoes:
            assert echo.lines()[-1] == FAREWELL, echo.lines()[-1]
    return seconds


def is_of_the_flood(line: str) -> bool:
    return line.startswith(("Tom: ", "Beth: "))


def pour(talker: Talker) -> None:
    """Send lines as fast as they are taken, until the connection ends."""
    with contextlib.suppress(OSError):
        for number in itertools.count():
            talker.send_bytes(f"send all line {number}\n".encode())


@fault("mid-login and mid-newuser: all told")
def stop_login(stage: Stage) -> None:
    names = [f"User{number}" for number in range(60)]
    with stage.scene(names, record=REAL_HASH) as scene:
        users = [Collector(scene.connect()) for _ in names]
        with scene.fault():
            for name, talker in zip(names, scene.talkers, strict=True):
                if name.endswith("7"):
                    talker.send(f"newuser New{name} secret")
                else:
                    talker.send(f"login {name} {REAL_PASSWORD}")
            scene.shown(r"User\d+ login\.")
        seconds = scene.stop()
        for user in users:
            assert user.lines()[-1] == FAREWELL, user.lines()
        shown = scene.server.display.all()
        wrong = [line for line in shown if line.startswith("Login failed")]
        assert not wrong, f"nobody gave a wrong password: {wrong[0]}"
        stage.note(f"{len(names)} logins and accounts under way: gone after {seconds:.1f} s")


@fault("a second Ctrl-C ends it at once")
def stop_twice(stage: Stage) -> None:
    with stage.scene(("Slow", "Tom")) as scene:
        tom = scene.login("Tom")
        scene.login("Slow", receive_buffer=SMALL_BUFFER)
        with scene.fault():
            overfill(tom, "Slow")
        scene.server.process.send_signal(signal.SIGINT)
        scene.shown(FAREWELL)
        began = time.monotonic()
        scene.server.process.send_signal(signal.SIGINT)
        status = scene.server.process.wait(PATIENCE)
        seconds = time.monotonic() - began
        assert seconds < 0.5, f"the second Ctrl-C took {seconds:.1f} s"
        scene.statuses = (0, -signal.SIGINT)
        stage.note(f"gone {seconds * 1000:.0f} ms after the second Ctrl-C, status {status}")


@fault("client, display and log all stuck: status 0 within 2 s")
def stop_stuck(stage: Stage) -> None:
    patch = piped_into("cat")
    with temporary_folder() as folder:
        log = folder / "log"
        os.mkfifo(log)
        unread = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with stage.scene(("Slow", "Tom"), ("--log", str(log)), patch=patch) as scene:
                cat = int(scene.server.errors.until(lambda line: "reader: " in line).split()[1])
                scene.login("Slow", receive_buffer=SMALL_BUFFER)
                try:
                    with scene.fault():
                        os.kill(cat, signal.SIGSTOP)
                        overfill(scene.login("Tom"), "Slow")
                    seconds = scene.stop()
                finally:
                    os.kill(cat, signal.SIGCONT)
        finally:
            os.close(unread)
    stage.note(f"gone after {seconds:.1f} s")
