"""One door: however a session ends, nothing of it is left."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial

from tests.helpers.process import CHEAP_PASSWORD, PATIENCE, ServerProcess
from tests.helpers.talker import Talker
from tests.long.faults.stage import (
    BIG,
    FAREWELL,
    SMALL_BUFFER,
    Collector,
    Scene,
    Stage,
    at_once,
    fault,
    mebibytes,
)
from tests.long.faults.witnesses import PING, PONG

GUESTS = [f"User{number}" for number in range(6)]  # fewer than clients, so that they take over
NARROW = {  # so that all happens often
    "OUTBOX_LIMIT": 20_000,
    "CONNECTION_OPTIONS": (("TCP_NODELAY", 1), ("SO_SNDBUF", 4608)),
    "LOBBY": 8,
}


class Guest:
    """A client that comes and goes in every way there is, drawn from a seed."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.server = server
        self.source = random.Random(seed)
        self.loiterers: list[Talker] = []

    def visit(self, rounds: int) -> None:
        """Come and go so many times, or until the server is gone."""
        for _ in range(rounds):
            try:
                self.visit_once()
            except ConnectionRefusedError:
                break
            except OSError:
                continue
        for talker in self.loiterers:
            talker.close()

    def visit_once(self) -> None:
        ways = (self.close, self.reset, self.log_out, self.finish, self.move, self.stall, self.wait)
        way, userid = self.source.choice(ways), self.source.choice(GUESTS)
        with self.server.connect() as talker:
            talker.send(f"login {userid} {CHEAP_PASSWORD}")
            if self.source.random() < 0.8:  # the rest does not wait to be in
                talker.line()
            way(talker, userid)

    def close(self, talker: Talker, userid: str) -> None:
        talker.send("who", f"send {userid} to myself")

    def reset(self, talker: Talker, userid: str) -> None:
        talker.send("who")
        talker.reset()

    def log_out(self, talker: Talker, userid: str) -> None:
        talker.send("logout", "who", "logout")
        talker.rest()

    def finish(self, talker: Talker, userid: str) -> None:
        talker.send("who")
        talker.finish()
        talker.rest()

    def move(self, talker: Talker, userid: str) -> None:
        with self.server.connect() as other:
            other.send(f"login {userid} {CHEAP_PASSWORD}")
            other.line()
            talker.finish()  # its own login may have been the later one, so that it stays
            talker.rest()

    def stall(self, talker: Talker, userid: str) -> None:
        with self.server.connect(receive_buffer=SMALL_BUFFER) as other:
            other.send(f"login {userid} {CHEAP_PASSWORD}", *[f"send {userid} {BIG}"] * 100, "who")
            talker.finish()  # as above
            talker.rest()

    def wait(self, talker: Talker, userid: str) -> None:
        """Leave connections at the door, until they or others are evicted."""
        self.loiterers.append(self.server.connect())
        if len(self.loiterers) > 3:
            self.loiterers.pop(0).close()


@fault("all ways to leave interleaved: no ghost, all `left` balanced")
def one_door(stage: Stage) -> None:
    rounds = stage.choose(15, 400)
    with stage.scene((*GUESTS, "Tom"), ("--max-clients", "9"), constants=NARROW) as scene:
        tom = scene.login("Tom")
        heard = Collector(tom)
        before = scene.census()
        with scene.fault():
            guests = [Guest(scene.server, seed) for seed in range(8)]
            at_once([partial(guest.visit, rounds) for guest in guests])
            scene.settle(before)
        tom.send("who")
        guests = [Guest(scene.server, seed) for seed in range(8, 16)]
        visits = [partial(guest.visit, sys.maxsize) for guest in guests]
        threads = [threading.Thread(target=visit, daemon=True) for visit in visits]
        for thread in threads:
            thread.start()
        scene.shown(r"User\d logout.*\.")
        scene.stop()
        for thread in threads:
            thread.join(PATIENCE)
        check_balance(heard.lines(), stage)


def check_balance(lines: list[str], stage: Stage) -> None:
    """Hold what a witness heard to: whoever joined left, and only they, one after the other."""
    end = lines.index(f"{PING}, {PONG}, Tom")
    for userid in GUESTS:
        heard = [line for line in lines[:end] if line in (f"{userid} joins.", f"{userid} left.")]
        assert heard[::2] == [f"{userid} joins."] * (len(heard) // 2), heard
        assert heard[1::2] == [f"{userid} left."] * (len(heard) // 2), heard
    assert lines[-1] == FAREWELL, lines[-1]
    joins = sum(line.endswith(" joins.") for line in lines[:end])
    stage.note(f"8 clients at once, {joins} joins, each with its left")


@fault("flat memory, threads, descriptors")
def churn(stage: Stage) -> None:
    count = stage.choose(1_500, 200_000)
    names = [f"User{number}" for number in range(4)]
    with stage.scene(names) as scene:
        quiet = scene.census()
        come_and_go(scene, names, count // 10)  # what the first thousands take is no leak
        scene.settle(quiet)
        before = scene.census()
        with scene.fault():
            began = time.monotonic()
            come_and_go(scene, names, count)
            lasted = time.monotonic() - began
            scene.settle(before)
        after = scene.census()
        grown = after.memory - before.memory
        assert grown < 4 << 20, f"memory grew by {mebibytes(grown)}"
        stage.note(f"{count} joins and leaves in {lasted:.0f} s")
        stage.note(f"memory {mebibytes(before.memory)}, then {mebibytes(after.memory)}")
        stage.note(f"threads {after.threads}, descriptors {after.descriptors}, as before")


def come_and_go(scene: Scene, names: Sequence[str], count: int) -> None:
    rounds = count // len(names)
    at_once([partial(join_and_leave, scene.server, name, rounds) for name in names])


def join_and_leave(server: ServerProcess, userid: str, rounds: int) -> None:
    for number in range(rounds):
        with server.login(userid) as talker:
            if number % 3 == 0:
                talker.send("logout")
                talker.until(f"{userid} left.")
            elif number % 3 == 1:
                talker.reset()
