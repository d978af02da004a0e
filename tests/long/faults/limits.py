"""Limits: what is counted by user, by address, or by both, and whom it must not touch."""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from tests.helpers.process import CHEAP_PASSWORD
from tests.long.faults.door import TELL_HASHES
from tests.long.faults.stage import (
    REAL_HASH,
    REAL_PASSWORD,
    SAVED,
    SMALL_DOOR,
    Scene,
    Stage,
    again_and_again,
    fault,
    meanwhile,
)

TOO_MANY_ACCOUNTS = re.compile(r"Denied\. Too many new accounts, try again in [1-6] seconds\.")


def fail_as_tom(scene: Scene) -> None:
    with scene.server.connect() as talker:
        talker.send(*["login Tom wrong"] * 3)
        talker.rest()


@fault("two loops fail as Tom: Beth, from the same address, gets in")
def neighbour_fails(stage: Stage) -> None:
    tries = stage.choose(5, 20)
    with stage.scene(("Tom", "Beth"), SMALL_DOOR, rate=10, record=REAL_HASH) as scene:
        loop = partial(again_and_again, partial(fail_as_tom, scene))
        waits = []
        with scene.fault(median=0.02, worst=0.3), meanwhile(loop, loop):
            time.sleep(stage.choose(1.5, 5))  # until Tom's ten failures are used up
            for _ in range(tries):
                began = time.monotonic()
                with scene.server.connect() as beth:
                    answer = beth.ask(f"login Beth {REAL_PASSWORD}")
                    waits.append(time.monotonic() - began)
                    assert answer == "login confirmed", answer
                    beth.send("logout")
                    beth.until("Beth left.")
        stage.note(f"{tries} of {tries} times, after {max(waits):.1f} s at most")


@fault("20 connections guess at Tom: ten hashes, and one more every 6 s")
def guessing_together(stage: Stage) -> None:
    seconds = stage.choose(3, 20)

    def guess(scene: Scene) -> None:
        with scene.server.connect() as talker:
            for _ in range(3):
                talker.ask("login Tom wrong")

    with stage.scene(("Tom",), rate=10, record=REAL_HASH, first=TELL_HASHES) as scene:
        began = time.monotonic()
        loop = partial(again_and_again, partial(guess, scene))
        with scene.fault(median=0.02, worst=0.3), meanwhile(*[loop] * 20):
            time.sleep(seconds)
        lasted = time.monotonic() - began
        scene.stop()
        hashes = len([line for line in scene.server.errors.all() if line == "hash"])
        assert 10 <= hashes <= 10 + lasted / 6 + 1, f"{hashes} hashes in {lasted:.0f} s"
        stage.note(f"{hashes} hashes in {lasted:.0f} s")


@fault("200 newuser a second, each connects anew, from one's own address: 5 of 6 logins get in")
def newuser_flood(stage: Stage) -> None:
    flood_with_newusers(stage, rate=10)
    # Without the limits of lines and accounts, logins have to be hashed before a crowd of others.
    flood_with_newusers(stage, rate=0, constants={"NEW_ACCOUNTS": 100_000})


def flood_with_newusers(
    stage: Stage, rate: int, constants: Mapping[str, object] | None = None
) -> None:
    seconds = stage.choose(2, 15)
    names = [f"User{number}" for number in range(6)]
    numbers = itertools.count()

    def sign_up(scene: Scene) -> None:
        with scene.server.connect() as talker:
            talker.send(f"newuser Mike{next(numbers)} secret")
            talker.socket.settimeout(0.1)
            talker.line()

    with stage.scene(names, SMALL_DOOR, rate=rate, record=REAL_HASH, constants=constants) as scene:
        began = time.monotonic()
        # Twenty loops, each of some ten connections a second.
        loop = partial(again_and_again, partial(sign_up, scene))
        waits = []
        with scene.fault(median=0.02, worst=0.3), meanwhile(*[loop] * 20):
            for number, name in enumerate(names):
                time.sleep(max(0, began + (number + 1) * seconds / 7 - time.monotonic()))
                tried = time.monotonic()
                with contextlib.suppress(OSError):  # evicted
                    if scene.connect().ask(f"login {name} {REAL_PASSWORD}") == "login confirmed":
                        waits.append(time.monotonic() - tried)
            time.sleep(max(0, began + seconds - time.monotonic()))
        lasted = time.monotonic() - began
        scene.stop()
        made = [line for line in scene.server.display.all() if line.startswith("New user")]
        assert len(waits) >= 5, f"{len(waits)} of {len(names)} got in"
        assert max(waits) < 5, f"a login took {max(waits):.1f} s"
        stage.note(
            f"--rate {rate}: {next(numbers) / lasted:.0f} connections a second, {len(made)} "
            f"accounts, {len(waits)} of {len(names)} logins after {max(waits):.1f} s at most"
        )


@fault("past 100 new accounts an address is told to wait; others are not")
def account_limit(stage: Stage) -> None:
    with stage.scene(constants={"HASH_COST": (1, 1, 1)}) as scene:
        talker = scene.connect()
        with scene.fault():
            began = time.monotonic()
            for number in range(100):
                assert talker.ask(f"newuser Mike{number} secret") == SAVED
            answers = [talker.ask(f"newuser Late{number} secret") for number in range(20)]
            lasted = time.monotonic() - began
            other = scene.connect_from("127.0.0.2").ask("newuser Rosa secret")
            taken = scene.connect_from("127.0.0.2").ask("newuser Rosa secret")
        late = [answer for answer in answers if answer == SAVED]
        assert len(late) <= lasted / 6, f"{len(late)} more in {lasted:.1f} s"
        assert TOO_MANY_ACCOUNTS.fullmatch(answers[-1] or ""), answers[-1]
        assert (other, taken) == (SAVED, "Denied. User account already exists.")
        stage.note(f"100, then: {answers[-1]}")


@fault("logs in again and again at --rate 10: a new connection brings no new burst")
def logs_in_again(stage: Stage) -> None:
    seconds = stage.choose(3, 20)
    heard: list[str] = []

    def log_in(scene: Scene) -> None:
        with scene.server.connect() as tom:
            tom.send(f"login Tom {CHEAP_PASSWORD}", *["send Beth hi"] * 20)
            tom.expect("login confirmed")

    def listen(next_line: Callable[[], str | None], over: threading.Event) -> None:
        while not over.is_set() and (line := next_line()) is not None:
            if line == "Tom (to Beth): hi":
                heard.append(line)

    with stage.scene(("Tom", "Beth"), rate=10) as scene:
        beth = scene.login("Beth")
        with scene.fault(median=0.02, worst=0.3):
            began = time.monotonic()
            flood = partial(again_and_again, partial(log_in, scene))
            with meanwhile(flood, flood, partial(listen, beth.line)):
                time.sleep(seconds)
            lasted = time.monotonic() - began
        rate = len(heard) / lasted
        assert 1 <= len(heard) <= 20 + 10 * lasted + 10, f"{rate:.0f} lines a second"
        stage.note(f"{len(heard)} lines heard in {lasted:.0f} s, {rate:.1f} a second")
