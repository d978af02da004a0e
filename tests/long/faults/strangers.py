"""Strangers: what a hostile visitor, a scanner or a web page sends before it has logged in."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import threading
import time
import unicodedata
from functools import partial

from tests.helpers.census import eventually
from tests.helpers.process import CHEAP_PASSWORD, temporary_folder
from tests.long.faults.door import first_to_hear
from tests.long.faults.stage import (
    BUSY,
    REFUSED,
    SAVED,
    SMALL_DOOR,
    Scene,
    Stage,
    again_and_again,
    fault,
    meanwhile,
    pour,
)

MARKS = "login e" + "\u0301\u0327" * 500 + " secret"  # marks to be put in order, one by one
USERID_CHARACTERS = "Denied. UserID may hold letters and digits of one script, and _ - ."
USERID_LENGTH = "Denied. UserID must be 3 to 32 characters."
NO_WEB_SERVER = "Denied. This is not a web server."
TOO_LONG = "Denied. Line longer than 2048 bytes."
# C0, DEL, C1, line and paragraph separators, bidirectional controls.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
CAUSED_BY_STRANGERS = re.compile(r"Login failed.*|Connection (closed|refused):.*")
UNSHOWN = re.compile(r"\((\d+) more failed logins and closed connections\)")


@fault("90 connections send login and 1,000 combining marks: refused by length, nobody waits")
def marks(stage: Stage) -> None:
    with stage.scene(rate=10) as scene:
        talkers = [scene.connect() for _ in range(90)]
        assert talkers[0].ask(MARKS) == USERID_LENGTH
        data = f"{MARKS}\n".encode()
        with scene.fault(median=0.02, worst=0.15):
            spent = -scene.cpu()
            with meanwhile(partial(pour, talkers, data)):
                scene.witnesses.rounds(stage.choose(10, 80))
            spent += scene.cpu()
        stage.note(f"server CPU {spent:.2f} s meanwhile")
    with stage.scene() as scene:
        talker = scene.connect()
        spent = -scene.cpu()
        count = stage.choose(300, 3000)
        talker.send(*[MARKS] * count, "who")
        talker.until("Denied. Please login first.")
        spent += scene.cpu()
        assert spent < count * 0.0005, f"{1000 * spent / count:.2f} ms of CPU a line"
        stage.note(f"{1e6 * spent / count:.0f} µs of CPU for each such line")


@fault("reconnects at full speed, each time 20 lines of 2,000 bytes: counted by address")
def reconnecting(stage: Stage) -> None:
    data = (b"x" * 1999 + b"\n") * 20
    counted = itertools.count()

    def reconnect(scene: Scene) -> None:
        with scene.server.connect() as talker:
            talker.send_bytes(data)
            next(counted)

    with stage.scene(("Tom",), SMALL_DOOR, rate=10) as scene:
        before = scene.census()
        with scene.fault(median=0.02, worst=0.1):
            spent, began = -scene.cpu(), time.monotonic()
            flood = partial(again_and_again, partial(reconnect, scene))
            with meanwhile(flood, flood):
                scene.witnesses.rounds(stage.choose(5, 80))
                tried = time.monotonic()
                newcomer = scene.connect_from("127.0.0.2")
                answer = newcomer.ask(f"login Tom {CHEAP_PASSWORD}")
                assert answer == "login confirmed", answer
                waited = time.monotonic() - tried
            spent, lasted = spent + scene.cpu(), time.monotonic() - began
        scene.hang_up()
        scene.settle(before)
        stage.note(
            f"{next(counted) / lasted:.0f} connections a second, server CPU {spent / lasted:.2f} s "
            f"a second; a newcomer from elsewhere is in after {waited:.2f} s"
        )


@fault("101 idle connections from one address: whoever types a login elsewhere stays")
def idle_crowd(stage: Stage) -> None:
    with stage.scene(("Tom",), SMALL_DOOR) as scene:
        before = scene.census()
        with scene.fault():
            typist = scene.connect()
            crowd = []
            for letter in f"login Tom {CHEAP_PASSWORD}\n":
                typist.send_bytes(letter.encode())
                count = stage.choose(8, 50)
                crowd += [scene.connect_and_settle("127.0.0.2") for _ in range(count)]
            typist.expect("login confirmed")
            least = len(crowd) - 100
            told = 0
            while told < least:
                evicted = first_to_hear(crowd)
                evicted.expect(BUSY)
                crowd.remove(evicted)
                told += 1
        scene.hang_up()
        scene.settle(before)
        stage.note(f"{len(crowd) + told} idle ones, {told} of them evicted; the typist got in")


# Has a login wait for its hash until a file is there.
SLOW_LOGIN = """
import time
def verify(accounts, userid, password, verify=server.Accounts.verify):
    if userid == "Beth":
        print("hashing", file=sys.stderr, flush=True)
        while not os.path.exists({gate!r}):
            time.sleep(0.01)
    return verify(accounts, userid, password)
server.Accounts.verify = verify
"""


@fault("a login that waits for its hash is never evicted, not even from the crowd's address")
def waiting_login(stage: Stage) -> None:
    with temporary_folder() as folder:
        gate = folder / "gate"
        patch = SLOW_LOGIN.format(gate=str(gate))
        with stage.scene(("Beth",), SMALL_DOOR, patch=patch) as scene, scene.fault():
            beth = scene.connect()
            beth.send(f"login Beth {CHEAP_PASSWORD}")
            scene.server.errors.until("hashing")
            count = stage.choose(500, 2000)
            for _ in range(count):
                with contextlib.suppress(ConnectionError):  # evicted before its handshake is done
                    scene.connect()
            gate.touch()
            beth.expect("login confirmed")
        stage.note(f"{count} connections from its own address meanwhile")


@fault("telnet negotiation without a line end at full speed: counts, then answers nothing")
def telnet_flood(stage: Stage) -> None:
    seconds = stage.choose(0.5, 5)
    with stage.scene(rate=10) as scene:
        talker = scene.connect()
        collected = bytearray()

        def negotiate(over: threading.Event) -> None:
            talker.socket.settimeout(0.1)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    talker.send_bytes(b"\xff\xfd\x18" * 20_000)

        def listen(over: threading.Event) -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    collected.extend(talker.socket.recv(65536))

        with scene.fault(), meanwhile(negotiate, listen):
            scene.witnesses.rounds(5)
            spent = -scene.cpu()
            time.sleep(seconds)
            spent += scene.cpu()
        share = spent / seconds
        assert share < 0.3, f"{share:.2f} s of CPU a second"
        answers, _, refusal = bytes(collected).partition(b"Denied")
        assert refusal == TOO_LONG.encode()[6:] + b"\n", refusal[:80]
        # What comes in one piece of 1,024 bytes is still answered.
        assert len(answers) <= 2048 + 1024, f"{len(answers)} bytes of answers"
        stage.note(f"server CPU {share:.2f} s a second; {len(answers)} bytes of answers, no more")


def post(path: str) -> bytes:
    """Return what a browser sends for a form whose fields are commands."""
    body = f"login Tom {CHEAP_PASSWORD}\r\nnewuser Mike secret\r\nsend all bought!\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@fault("a web page's POST of commands: refused and closed, nothing obeyed")
def web_page(stage: Stage) -> None:
    long_path = "/" + "x" * 5000
    with stage.scene(("Tom",), constants=stage.hash_cost()) as scene:
        users = scene.server.users.read_bytes()
        before = scene.census()
        cuts = (
            (post("/"), ()),
            (post("/"), (8, 20)),
            (post("/"), range(1, 40, 8)),
            (post(long_path), ()),
            (post(long_path), (2, 1000, 2048, 2060, 4000)),
        )
        with scene.fault():
            for data, places in cuts:
                with scene.connect() as talker:
                    for start, end in itertools.pairwise([0, *places, len(data)]):
                        with contextlib.suppress(ConnectionError):  # refused in the middle of it
                            talker.send_bytes(data[start:end])
                        if places:
                            scene.witnesses.rounds(1)  # so that it arrives in pieces
                    talker.expect(NO_WEB_SERVER)
                    assert talker.line() is None
        scene.settle(before)
        assert scene.server.users.read_bytes() == users
        scene.stop()
        said = [line for line in scene.server.display.all() if re.search("Tom|Mike|bought", line)]
        assert not said, said
        stage.note("whole, in pieces, and with a request line of 5,000 bytes")


DISGUISED = (
    "Da\u1d20id",
    "\u017fam",
    "\ufb01ona",
    "T\u01c3m",
    "Be\u0336th",
    "\u0422\u043em",
    "\uff34\uff4f\uff4d",
    "T\u03bfm",
    "To\u200bm",
)
WELCOME = (
    "Jos\u00e9",
    "\u0141ukasz",
    "Nguy\u1ec5n",
    "\u5c71\u7530\u3055\u3093",
    "\uae40\ucca0\uc218",
    "\u092e\u094b\u0939\u0928",
    "\u1f08\u03b8\u03b7\u03bd\u1fb6",
)


@fault("UserIDs that look like another's are refused, real names of all scripts are welcome")
def lookalikes(stage: Stage) -> None:
    with stage.scene(("David", "Tom"), constants=stage.hash_cost()) as scene:
        talker = scene.connect()
        with scene.fault():
            for name in DISGUISED:
                answer = talker.ask(f"newuser {name} secret")
                assert answer == USERID_CHARACTERS, f"{name!a}: {answer}"
            for name in WELCOME:
                answer = talker.ask(f"newuser {name} secret")
                assert answer == SAVED, f"{name}: {answer}"
        decomposed = unicodedata.normalize("NFD", WELCOME[0])
        assert scene.connect().ask(f"login {decomposed} secret") == "login confirmed"
        scene.shown(f"{WELCOME[0]} login\\.")
        stage.note(f"{len(DISGUISED)} refused, {len(WELCOME)} welcome")


@fault("a password typed in the name's place is neither shown nor logged")
def password_as_name(stage: Stage) -> None:
    with temporary_folder() as folder:
        log = folder / "log"
        options = ("--log", str(log))
        constants = {"FAILURE_DELAY": 0.0} if stage.quick else {}
        with stage.scene(("David",), options, constants=constants) as scene:
            talker = scene.connect()
            with scene.fault():
                assert talker.ask("login David22 David") == REFUSED
                shown = scene.shown(r"Login failed .*")
            assert shown == f"Login failed from {talker.address}.", shown
            scene.hang_up()
            scene.stop()
            kept = [*scene.server.display.all(), *scene.server.errors.all(), log.read_text()]
            assert "David22" not in "\n".join(kept)
            assert shown in log.read_text()
        stage.note(f"shown and logged: {shown}")


KNOCKS = (
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    b"SSH-2.0-Go\r\n",
    b"\x00\x00\x00\x85\xffSMBr" + bytes(100),
    b"HELP\r\nSTATS\r\n",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",
)


@fault("scanners, TLS hellos, SSH banners, wrong passwords: a line a second on the display at most")
def knocking(stage: Stage) -> None:
    seconds = stage.choose(2, 20)
    source = random.Random(443)

    def knock(scene: Scene) -> None:
        host = f"127.0.{source.randrange(1, 200)}.{source.randrange(1, 250)}"
        with scene.server.connect(source=host) as talker:
            talker.send_bytes(source.choice(KNOCKS))
            talker.socket.shutdown(1)
            while talker.socket.recv(4096):
                pass

    refused = itertools.count()

    def guess(scene: Scene) -> None:
        host = f"127.1.{source.randrange(1, 200)}.{source.randrange(1, 250)}"
        with scene.server.connect(source=host) as talker:
            talker.send("login Tom wrong")
            if talker.line() == REFUSED:
                next(refused)

    with stage.scene(("Tom", "Beth"), ("--max-clients", "100")) as scene:
        before = scene.census()
        with scene.fault(median=0.02, worst=0.15):
            began = time.monotonic()
            loops = [partial(again_and_again, partial(knock, scene)) for _ in range(4)]
            loops += [partial(again_and_again, partial(guess, scene)) for _ in range(30)]
            with meanwhile(*loops), scene.login("Tom") as tom, scene.login("Beth") as beth:
                number = 0
                while time.monotonic() < began + seconds:
                    number += 1
                    tom.send(f"send Beth {number}")
                    beth.until(f"Tom (to Beth): {number}")
                    time.sleep(0.2)
            lasted = time.monotonic() - began
        scene.settle(before)
        time.sleep(1.2)  # the count of what was not shown comes within a second
        scene.stop()
        lines = scene.server.display.all()
        caused = [line for line in lines if CAUSED_BY_STRANGERS.fullmatch(line)]
        counts = [int(found[1]) for line in lines if (found := UNSHOWN.fullmatch(line))]
        assert len(caused) <= lasted + 3, f"{len(caused)} lines in {lasted:.0f} s"
        assert len(counts) <= 2 * lasted + 3, f"{len(counts)} counts in {lasted:.0f} s"
        failures = next(refused)
        assert sum(counts) + len(caused) >= failures, "not all were counted"
        talk = [line for line in lines if line.startswith("Tom (to Beth)")]
        assert talk == [f"Tom (to Beth): {n}" for n in range(1, number + 1)], "talk was not shown"
        stage.note(
            f"{sum(counts) + len(caused)} of them in {lasted:.0f} s: {len(caused)} lines and "
            f"{len(counts)} counts, between {len(talk)} lines of talk"
        )


HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b2J\x9downed\x9c",
    "\x1b(0\x0e\x1bc\x1b[?1049h",
    "\u202egnp.exe",
    "\u2066\u2069\u2028\u2029",
    "\x7f\x08\x08\x08\r\x0b\x0c",
    "\ufeff\u200b\ufffd",
    "\x85Tom: I give up",
)


@fault("bytes that a terminal obeys reach neither display, log nor anybody's terminal")
def hostile_bytes(stage: Stage) -> None:
    source = random.Random(27)
    count = stage.choose(500, 20_000)
    heads = ("login {} secret", "newuser {} secret", "send all {}", "send {} hi", "send Beth a{}b")
    with temporary_folder() as folder:
        log = folder / "log"
        constants = {"FAILURE_DELAY": 0.0, "LOGIN_TRIES": 1_000_000, "FAILURES": 1_000_000}
        with stage.scene(("Tom", "Beth"), ("--log", str(log)), constants=constants) as scene:
            tom, beth, stranger = scene.login("Tom"), scene.login("Beth"), scene.connect()
            heard: list[str] = []
            with scene.fault():
                for start in range(0, count, 100):
                    for _ in range(100):
                        text = "".join(source.choices((*HOSTILE, *"abc "), k=source.randrange(4)))
                        line = source.choice((*heads, "{} who")).format(text).encode()
                        noise = source.randbytes(3) if source.random() < 0.1 else b""
                        target = stranger if source.random() < 0.3 else tom
                        # An IAC would begin a telnet command, which would eat the line end.
                        target.send_bytes((line + noise).replace(b"\xff", b"").replace(b"\n", b""))
                        target.send_bytes(b"\n")
                    for talker in (tom, stranger):
                        talker.send(f"foo{start}")
                        heard += talker.until(partial(is_about, f"foo{start}"))
                    tom.send(f"send Beth end of {start}")
                    heard += beth.until(f"Tom (to Beth): end of {start}")
            scene.shown(rf"Tom \(to Beth\): end of {count - 100}")
            wanted = f"end of {count - 100}"
            eventually(lambda: wanted in log.read_text(), "the log is written")
            scene.stop()
            kept = [*scene.server.display.all(), *log.read_text().rstrip("\n").split("\n")]
            harmful = [line for line in (*heard, *kept) if OBEYED.search(line)]
            assert not harmful, f"{harmful[0]!a}"
        stage.note(f"{count} lines; {len(heard)} answers and {len(kept)} lines kept, all harmless")


def is_about(word: str, line: str) -> bool:
    return f'"{word}"' in line
