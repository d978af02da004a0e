"""The door: connections that do not log in, and logins that fail or are many."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import re
import select
import time
from collections.abc import Sequence
from functools import partial

from tests.helpers.process import PATIENCE
from tests.helpers.talker import Talker
from tests.helpers.tls_socket import TlsSocket
from tests.long.faults.stage import (
    BUSY,
    REAL_HASH,
    REAL_PASSWORD,
    REFUSED,
    SAVED,
    SMALL_DOOR,
    Scene,
    Stage,
    at_once,
    fault,
)


@fault("101st connection before login: one at random is told and closed")
def lobby(stage: Stage) -> None:
    more = stage.choose(100, 3000)
    with stage.scene((), SMALL_DOOR) as scene:
        before = scene.census()
        places: list[int] = []  # of the evicted, 0 for the oldest
        with scene.fault():
            for _ in range(100):
                scene.connect_and_settle()
            for _ in range(more):
                scene.connect_and_settle()
                evicted = first_to_hear(scene.talkers)
                evicted.expect(BUSY)
                assert evicted.line() is None
                places.append(scene.talkers.index(evicted))
                scene.talkers.remove(evicted)
                evicted.close()
            assert scene.talkers[0].ask("who") == "Denied. Please login first."
            scene.settle(before, more=100)  # nothing is left of the evicted
        assert len(set(places)) > 10, f"whose turn it is can be counted on: {places}"
        scene.hang_up()
        scene.settle(before)
        stage.note(f"{more} more than 100: never over 100 threads at the door")


def first_to_hear(talkers: Sequence[Talker]) -> Talker:
    poll = select.poll()
    by_descriptor = {talker.socket.fileno(): talker for talker in talkers}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    while ready := poll.poll(1000 * PATIENCE):
        for descriptor, _ in ready:
            talker = by_descriptor[descriptor]
            if not isinstance(talker.socket, TlsSocket) or talker.socket.has_news():
                return talker
    raise AssertionError("nobody hears anything")


# Has the server's clock run ahead where it looks for who has been at the door for too long, and has
# it look often, as a newcomer is late sooner by that clock than the server reckons with.
LATE = """
def expire(room, now, expire=server.Room.expire, ahead=server.LOGIN_SECONDS - {seconds}):
    return min(expire(room, now + ahead) - ahead, now + 0.1)
server.Room.expire = expire
"""


@fault("no login in time: told and closed, however busy")
def login_deadline(stage: Stage) -> None:
    seconds = stage.choose(0.3, 10)
    farewell = "Denied. No login within 60 minutes."
    constants = {"HANDSHAKE_SECONDS": 3600} if stage.tls else {}  # or that would be over first
    with stage.scene(patch=LATE.format(seconds=seconds), constants=constants) as scene:
        with scene.fault():
            busy, silent = scene.connect(), scene.connect()
            began = time.monotonic()
            silent.send_bytes(b"login An")
            while (answer := busy.ask("who")) != farewell:
                assert answer == "Denied. Please login first.", answer
                time.sleep(0.05)
            lasted = time.monotonic() - began
            assert busy.line() is None
            silent.expect(farewell)
            assert silent.line() is None
        assert seconds - 0.1 < lasted < seconds + 2, f"{lasted:.1f} s"
        stage.note(
            f"a busy and a silent one closed {lasted:.1f} s after the 60 minutes began to end"
        )


@fault("cost a second each, the third closes")
def wrong_passwords(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        with scene.fault():
            talker = scene.connect()
            began = time.monotonic()
            talker.send(*["login Tom wrong"] * 4)
            talker.expect(*[REFUSED] * 3, "Denied. Too many failed logins.")
            assert talker.line() is None
            lasted = time.monotonic() - began
        assert lasted > 2.9, f"{lasted:.1f} s"
        stage.note(f"3 tries took {lasted:.1f} s")


@fault("past 10 failures at a UserID, an address is refused before any hash")
def guessing(stage: Stage) -> None:
    refused = re.compile(r"Denied\. Too many failed logins, try again in ([1-6]) seconds\.")
    with stage.scene(("Tom", "Beth"), record=REAL_HASH) as scene:
        with scene.fault():
            for talker in [scene.connect() for _ in range(5)]:
                talker.send("login Tom wrong", "login Tom wrong")
            for talker in scene.talkers:
                talker.expect(REFUSED, REFUSED)
            before = scene.cpu()
            latest = scene.connect()
            for _ in range(100):  # the right password, too: or it could still be guessed
                assert refused.fullmatch(latest.ask(f"login Tom {REAL_PASSWORD}") or "")
            spent = scene.cpu() - before
            assert spent < 100 * cpu_of_a_hash() / 4, f"{spent:.2f} s of CPU: it hashes"
            far, near = scene.connect_from("127.0.0.2"), scene.connect()
            assert far.ask(f"login Tom {REAL_PASSWORD}") == "login confirmed"
            assert near.ask(f"login Beth {REAL_PASSWORD}") == "login confirmed"
        stage.note(f"100 tries cost {spent:.2f} s of server CPU, one hash {cpu_of_a_hash():.2f} s")


def cpu_of_a_hash() -> float:
    began = time.process_time()
    hashlib.scrypt(b"secret", salt=bytes(16), n=2**14, r=8, p=1, maxmem=1 << 25)
    return time.process_time() - began


# Tells of each hash that costs what a hash costs.
TELL_HASHES = """
import hashlib
def scrypt(*arguments, scrypt=hashlib.scrypt, **options):
    if options["n"] > 1000:
        print("hash", file=sys.stderr, flush=True)
    return scrypt(*arguments, **options)
hashlib.scrypt = scrypt
"""
# Keeps count of the hashes that go on at a time.
COUNT_HASHES = """
import hashlib, threading
lock, going_on, most = threading.Lock(), 0, 0
def scrypt(*arguments, scrypt=hashlib.scrypt, **options):
    global going_on, most
    with lock:
        going_on += 1
        if going_on > most:
            most = going_on
            print("at once:", most, file=sys.stderr, flush=True)
    try:
        return scrypt(*arguments, **options)
    finally:
        with lock:
            going_on -= 1
hashlib.scrypt = scrypt
"""


@fault("all get in, with one hash per core at a time")
def logins_at_once(stage: Stage) -> None:
    count = stage.choose(40, 200)
    names = [f"User{number}" for number in range(count)]
    with stage.scene(names, SMALL_DOOR, record=REAL_HASH, first=COUNT_HASHES) as scene:
        tries: list[int] = []
        with scene.fault():
            began = time.monotonic()
            at_once([partial(persist, scene, name, tries) for name in names])
            lasted = time.monotonic() - began
        scene.stop()
        told = [line.split() for line in scene.server.errors.all()]
        most = max(int(words[-1]) for words in told if words[:2] == ["at", "once:"])
        cores = len(os.sched_getaffinity(0))
        assert most <= cores, f"{most} hashes at once on {cores} cores"
        stage.note(f"{count} in after {lasted:.1f} s, at most {most} hashes at once")
        stage.note(f"{sum(tries) - count} times told to be busy, and back a second later")


def persist(scene: Scene, userid: str, tries: list[int]) -> None:
    """Log in, again after a second whenever the server is busy; add how many tries it took."""
    for count in itertools.count(1):
        talker = scene.connect()
        with contextlib.suppress(OSError):  # it was reset: the server has too many to talk to
            if talker.ask(f"login {userid} {REAL_PASSWORD}") == "login confirmed":
                tries.append(count)
                return
        time.sleep(random.uniform(0.5, 1.5))


@fault("connections gone meanwhile leave no queue of hashes")
def evicted_newusers(stage: Stage) -> None:
    """Ask for accounts from connections that are then evicted: nobody waits for those hashes."""
    count = stage.choose(300, 1000)
    constants = {"NEW_ACCOUNTS": count}
    with stage.scene((), SMALL_DOOR, constants=constants, first=TELL_HASHES) as scene:
        before = scene.census()
        with scene.fault():
            for number in range(count):
                with contextlib.suppress(ConnectionError):  # evicted before its handshake is done
                    scene.connect().send(f"newuser Mike{number} secret")
            while len(scene.talkers) > 100:
                talker = first_to_hear(scene.talkers)
                with contextlib.suppress(OSError):  # reset, as what it sent was not read
                    if talker.line() == SAVED:
                        continue
                scene.talkers.remove(talker)
                talker.close()
            most = scene.census().threads
            scene.hang_up()
            scene.settle(before)
        scene.stop()
        hashes = len([line for line in scene.server.errors.all() if line == "hash"])
        saved = len([line for line in scene.server.display.all() if line.startswith("New user")])
        # Some are evicted in the middle of their hash, which cannot be broken off.
        assert hashes - saved < count / 10, f"{hashes} hashes for {saved} accounts"
        stage.note(f"{count} requests at once, {most} threads; {hashes} hashes, {saved} accounts")
