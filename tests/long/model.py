"""A model of the whole room, held step by step against a real server over sockets.

    python -m tests.long.model [--quick]

Needs hypothesis, which makes up who comes, what they do in what order, and how they go. The model
says every line that anybody must get, and every line of the server's display. A failure prints the
smallest story that shows it.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.helpers import cases, suite
from tests.helpers.census import HAS_PROC, Census, settle, take_census
from tests.helpers.grammar import CLOSING, Stream, Words, understood
from tests.helpers.process import (
    CHEAP_PASSWORD,
    ServerProcess,
    altered_server,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.talker import Talker
from tests.long.properties import HOT, examples, is_lawful_message, trimmed

ROOM_LIMIT = 3
CONNECTIONS = 7
USERIDS = ["Tom", "Beth", "David", "Иван", "山田さん"]
HISTORY = 3  # lines, where the room keeps some
# Wrong passwords must cost nothing here, nor hashing, all that strangers do must be shown, and it
# is always four past twelve; all other constants are the real ones.
COSTLESS = {
    "FAILURE_DELAY": 0,
    "FAILURES": 10**9,
    "NEW_ACCOUNTS": 10**9,
    "STRANGER_SECONDS": 0,
    "HASH_COST": (1, 1, 1),
}
PATCH = "server.time.strftime = lambda form: {'%H:%M': '12:04'}[form]"
# As --history, which would make the server's first line another one than the helpers know.
KEEPING = """
class Room(server.Room):
    def __init__(self, courier, display, limit, history):
        super().__init__(courier, display, limit, {history})
server.Room = Room
"""
REFUSALS = {
    line: refusal for line, refusal in [*cases.CASES, *cases.SERVER_ONLY] if refusal is not None
}
BYTE_ORDER_MARK = "\ufeff".encode()
PUTTY = bytes.fromhex("fffb1f fffb20 fffb18 fffb27 fffd01 fffb03 fffd03")  # how it opens
counter = itertools.count()


class Telnet(Talker):
    """A talker that sets aside what answers its telnet commands: that stands between two lines."""

    answers = b""

    def line(self) -> str | None:
        while not self.buffer or self.buffer.startswith(b"\xff"):
            if len(self.buffer) >= 3:
                self.answers += self.buffer[:3]
                self.buffer = self.buffer[3:]
            elif data := self.socket.recv(65536):
                self.buffer += data
            else:
                break
        return super().line()


class Person:
    """A connection in the model: who it is, and what it has yet to be told."""

    def __init__(self, talker: Telnet) -> None:
        self.talker = talker
        self.userid = ""  # empty while not logged in
        self.failures = 0
        self.owed: list[str] = []
        self.answers = b""  # to telnet commands, so far


def answer_to(person: Person, line: bytes) -> Words | str:
    return understood(line, is_logged_in=bool(person.userid))


def refusal_of(person: Person, line: str) -> str:
    """Return what the table of cases says, but that a login comes first."""
    answer = answer_to(person, line.encode())
    return answer if answer == cases.LOGIN_FIRST else REFUSALS[line]


picks = st.integers(0, CONNECTIONS - 1)
line_ends = st.sampled_from(["\n", "\r\n"])
spellings = st.sampled_from(["small", "LARGE", "mIxEd"]).map(
    {"small": str.lower, "LARGE": str.upper, "mIxEd": str.title}.__getitem__
)
sayings = st.one_of(
    st.text(st.sampled_from(HOT), min_size=1, max_size=30),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300),
).filter(lambda text: is_lawful_message(trimmed(text)))
TELNET = [b"\xff\xfd\x06", b"\xff\xfb\n", b"\xff\xf4", b"\xff\xfa\n\xff\xf0", b"\xff\xff", b"\xff"]
babbles = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([*TELNET, b"x", b"\r\0", b"\n", b"who "]), max_size=8).map(b"".join),
)
Spelling = Callable[[str], str]
somebody_is_there = precondition(lambda self: self.everyone)


class RoomModel(RuleBasedStateMachine):
    """The room as the specification tells it. Each rule does one thing and expects its lines."""

    house: House

    def __init__(self) -> None:
        super().__init__()
        suite.at(f"{self.house.examples} of {settings().max_examples} examples")
        self.house.examples += 1
        self.process = self.house.fresh_process()
        self.room: dict[str, Person] = {}
        self.everyone: list[Person] = []
        self.accounts = dict.fromkeys(USERIDS, CHEAP_PASSWORD)
        self.shown: list[str] = []  # patterns for the lines that the display owes
        self.history: list[str] = []  # what a joiner is told
        self.is_settled = True

    # What a rule is made of.

    def pick(self, number: int) -> Person:
        return self.everyone[number % len(self.everyone)]

    def pick_at_door(self, number: int) -> Person:
        """Return somebody who has not logged in, a new one if need be; now and then anybody."""
        outside = [person for person in self.everyone if not person.userid]
        if number == 0 or (not outside and len(self.everyone) == CONNECTIONS):
            return self.pick(number)
        return outside[number % len(outside)] if outside else self.meet()

    def meet(self) -> Person:
        person = Person(Telnet(self.process.host, self.process.port))
        self.everyone.append(person)
        return person

    def act(self, person: Person, *lines: str, line_end: str = "\n") -> None:
        self.is_settled = False
        person.talker.send_bytes("".join(line + line_end for line in lines).encode())

    def keep(self, userid: str, said: str) -> None:
        if self.house.history:
            self.history = [*self.history, f"{userid} (at 12:04): {said}"][-self.house.history :]

    def tell_others(self, person: Person, line: str) -> None:
        for other in self.room.values():
            if other is not person:
                other.owed.append(line)

    def show(self, line: str) -> None:
        self.shown.append(re.escape(line))

    def settle(self, *actors: Person) -> None:
        """Hold everybody, the actors first, to exactly the lines they are owed, and the display.

        A refusal asked for by each comes behind all that was posted before: nothing is slept for.
        """
        others = [person for person in self.everyone if person not in actors]
        for person in [*actors, *others]:
            if person in self.everyone:
                mark = f"mark{next(counter)}"
                self.act(person, mark)
                self.collect(person, cases.unknown(mark))
        self.settle_display()
        self.is_settled = True

    def collect(self, person: Person, *more: str) -> None:
        owed, person.owed = person.owed, []
        person.talker.expect(*owed, *more)
        answers = person.talker.answers
        assert answers == person.answers, (answers, person.answers)

    def settle_display(self) -> None:
        shown, self.shown = self.shown, []
        for pattern in shown:
            line = self.process.display.next()
            assert line is not None
            assert re.fullmatch(pattern, line), f"display: wanted {pattern!r}, got {line!r}"

    def drop(self, person: Person) -> None:
        """Take a person out of the model; what it is owed must still have come, then the end."""
        self.everyone.remove(person)
        with person.talker:
            self.collect(person)
            rest = person.talker.rest()
            assert not rest, rest

    def leave(self, person: Person, how: str = "") -> None:
        if person.userid:
            del self.room[person.userid]
            self.tell_others(person, f"{person.userid} left.")
            self.show(f"{person.userid} logout{how}.")
            if not self.room and self.history:
                event("the room is empty, and its history forgotten")
                self.history = []

    def say(self, person: Person, said: str) -> None:
        if person.userid:
            self.tell_others(person, f"{person.userid}: {said}")
            self.show(f"{person.userid}: {said}")
            self.keep(person.userid, said)
        else:
            person.owed.append("Denied. Please login first.")

    # Coming.

    @precondition(lambda self: len(self.everyone) < CONNECTIONS)
    @rule(
        userid=st.one_of(st.none(), st.sampled_from(USERIDS)),
        opening=st.sampled_from([b"", b"", BYTE_ORDER_MARK, PUTTY, PUTTY + BYTE_ORDER_MARK]),
    )
    def come(self, userid: str | None, opening: bytes) -> None:
        person = self.meet()
        person.talker.send_bytes(opening)
        person.answers = Stream.of(opening).answers
        if userid:
            self.log_in(person, userid, str, "\n")
        else:
            self.settle(person)

    @somebody_is_there
    @rule(
        number=picks,
        choice=st.integers(0, len(USERIDS)),
        spelling=spellings,
        line_end=line_ends,
    )
    def log_in_as_one(self, number: int, choice: int, spelling: Spelling, line_end: str) -> None:
        """Accounts made in this run log in as those in the file do."""
        userids = [*USERIDS, list(self.accounts)[-1]]
        self.log_in(self.pick_at_door(number), userids[choice], spelling, line_end)

    def log_in(self, person: Person, userid: str, spelling: Spelling, line_end: str) -> None:
        line = f"{spelling('login')} {userid} {self.accounts[userid]}"
        self.act(person, line, line_end=line_end)
        older = self.room.get(userid)
        if person.userid:
            person.owed.append(f"Denied. You are already logged in as {person.userid}.")
        elif older is None and len(self.room) >= ROOM_LIMIT:
            event("the room is full")
            person.owed.append(f"Denied. The chat room is full ({ROOM_LIMIT} of {ROOM_LIMIT}).")
            self.shown.append(re.escape(f"Login refused for {userid}") + r"\b.*")
        else:
            person.owed += ["login confirmed", *self.history]
            self.enter(person, userid, older)
        self.settle(person)

    def enter(self, person: Person, userid: str, older: Person | None) -> None:
        if older is None:
            self.tell_others(person, f"{userid} joins.")
        else:
            event("a takeover")
            older.owed.append(f"Denied. {userid} logged in from another connection.")
            self.show(f"{userid} logout (logged in elsewhere).")
            self.drop(older)
        self.room[userid] = person
        person.userid = userid
        self.show(f"{userid} login.")

    @somebody_is_there
    @rule(number=picks, userid=st.sampled_from([*USERIDS, "Mallory"]))
    def log_in_wrongly(self, number: int, userid: str) -> None:
        person = self.pick_at_door(number)
        self.act(person, f"login {userid} wrong1")
        if person.userid:
            person.owed.append(f"Denied. You are already logged in as {person.userid}.")
        else:
            person.owed.append("Denied. User name or password incorrect.")
            known = f" for {userid}" if userid in self.accounts else ""
            self.show(f"Login failed{known} from {person.talker.address}.")
            person.failures += 1
        if person.failures == 3:
            event("three failed logins")
            person.owed.append("Denied. Too many failed logins.")
            self.drop(person)
        self.settle(person)

    @somebody_is_there
    @rule(number=picks, known=st.booleans(), choice=st.integers(0, len(USERIDS) - 1))
    def make_account(self, number: int, known: bool, choice: int) -> None:
        person = self.pick_at_door(number)
        userid = list(self.accounts)[-1 - choice] if known else f"New{next(counter)}"
        self.act(person, f"newuser {userid} secret")
        if person.userid:
            person.owed.append("Denied. Please logout first.")
        elif known:
            person.owed.append("Denied. User account already exists.")
        else:
            person.owed.append("New user account created. Please login.")
            self.show(f"New user account created: {userid}.")
            self.accounts[userid] = "secret"
        self.settle(person)

    # Talking.

    @somebody_is_there
    @rule(number=picks, text=sayings, spelling=spellings, line_end=line_ends)
    def send_all(self, number: int, text: str, spelling: Spelling, line_end: str) -> None:
        person = self.pick(number)
        self.act(person, f"{spelling('send')} all {text}", line_end=line_end)
        self.say(person, trimmed(text))
        self.settle(person)

    @somebody_is_there
    @rule(number=picks, recipient=st.sampled_from([*USERIDS, "tom", "Mallory"]), text=sayings)
    def send_user(self, number: int, recipient: str, text: str) -> None:
        person = self.pick(number)
        self.act(person, f"send {recipient} {text}")
        if not person.userid:
            person.owed.append("Denied. Please login first.")
        elif recipient not in self.room:
            person.owed.append(f"Denied. {recipient} is not in the chat room.")
        else:
            line = f"{person.userid} (to {recipient}): {trimmed(text)}"
            self.room[recipient].owed.append(line)
            self.show(line)
        self.settle(person)

    @somebody_is_there
    @rule(number=picks)
    def ask_who(self, number: int) -> None:
        person = self.pick(number)
        self.act(person, "who")
        known = ", ".join(sorted(self.room))
        person.owed.append(known if person.userid else "Denied. Please login first.")
        self.settle(person)

    @somebody_is_there
    @rule(
        number=picks, bad_lines=st.lists(st.sampled_from(sorted(REFUSALS)), min_size=1, max_size=5)
    )
    def be_refused(self, number: int, bad_lines: list[str]) -> None:
        """Several wrong lines in one piece: a refusal each, in their order, and no harm done."""
        person = self.pick(number)
        self.act(person, *bad_lines)
        person.owed += [refusal_of(person, line) for line in bad_lines]
        self.settle(person)

    @somebody_is_there
    @rule(number=picks, data=babbles, cuts=st.lists(st.integers(0, 60), max_size=3))
    def babble(self, number: int, data: bytes, cuts: list[int]) -> None:
        """Bytes that are no commands, in any pieces: a refusal for each line, and no harm done."""
        person = self.pick(number)
        data += CLOSING
        stream = Stream.of(data, is_opening=False)
        replies = [answer_to(person, line) for line in stream.lines]
        if any(reply and isinstance(reply, tuple) for reply in replies):
            return
        self.is_settled = False
        for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
            person.talker.send_bytes(data[start:end])
        person.owed += [reply for reply in replies if isinstance(reply, str)]
        person.answers += stream.answers
        self.settle(person)

    @precondition(lambda self: len(self.room) > 1)
    @rule(count=st.integers(1, 6))
    def talk_at_once(self, count: int) -> None:
        """All talk at once: everybody hears the others in one order, that of the display."""
        burst = next(counter)
        for userid, person in self.room.items():
            self.act(person, *(f"send all {burst} {userid} {turn}" for turn in range(count)))
        display = [self.process.display.next() or "" for _ in range(count * len(self.room))]
        for userid, person in self.room.items():
            own = [f"{userid}: {burst} {userid} {turn}" for turn in range(count)]
            assert [line for line in display if line.startswith(f"{userid}: ")] == own
            person.owed += [line for line in display if line not in own]
        for line in display:
            userid, _, said = line.partition(": ")
            self.keep(userid, said)
        self.settle()

    # Going.

    @somebody_is_there
    @rule(number=picks, manner=st.sampled_from(["logout", "end of file", "reset"]))
    def go(self, number: int, manner: str) -> None:
        person = self.pick(number)
        self.is_settled = False
        match manner:
            case "logout":
                self.log_out(person)
            case "end of file":
                self.finish(person)
            case "reset":
                self.reset(person)
        self.settle()

    def log_out(self, person: Person) -> None:
        """What comes behind a logout counts no more."""
        self.act(person, "send all bye", "LogOut", "send all too late", "foo")
        self.say(person, "bye")
        if person.userid:
            person.owed.append(f"{person.userid} left.")
        self.leave(person)
        self.drop(person)

    def finish(self, person: Person) -> None:
        """End of file is a logout: what was asked before it is answered, half a line is dropped."""
        person.talker.send_bytes(b"foo\nsend all bye\nsend all half")
        person.talker.finish()
        person.owed.append(cases.unknown("foo"))
        self.say(person, "bye")
        if person.userid:
            person.owed.append(f"{person.userid} left.")
        self.leave(person)
        self.drop(person)

    def reset(self, person: Person) -> None:
        self.everyone.remove(person)
        person.talker.reset()
        self.leave(person, " (connection lost)")
        self.settle_display()  # nothing else tells when the server has noticed

    def teardown(self) -> None:
        """Empty the room; after a failure, which must not be hidden, there is nothing to hold."""
        try:
            while self.is_settled and self.everyone:
                self.go(0, "end of file")
        finally:
            self.house.is_clean = self.is_settled
            for person in self.everyone:
                person.talker.close()


class House:
    """One server for all examples, so that what one leaves behind is found by the next."""

    def __init__(self, users: Path, history: int) -> None:
        """history: lines that the room keeps."""
        self.users = users
        self.history = history
        self.examples = 0
        self.process: ServerProcess | None = None
        self.is_clean = False  # after a failure it is not, and the next example needs a new one
        self.before: Census | None = None

    def fresh_process(self) -> ServerProcess:
        if self.process is None or not self.is_clean:
            self.stop()
            options = ["--rate", "0", "--max-clients", str(ROOM_LIMIT)]
            program = altered_server(COSTLESS, patch=PATCH + KEEPING.format(history=self.history))
            self.process = ServerProcess(self.users, options, program=program)
            self.before = take_census(self.process.pid) if HAS_PROC else None
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def close(self) -> None:
        """Stop the server, and hold it to a clean end with nothing left behind."""
        assert self.process is not None
        if self.before is not None:
            settle(self.process.pid, self.before)
        status = self.process.stop()
        assert status == 0, f"the server ended with status {status}"
        assert not (complaints := self.process.errors.all()), complaints


def hold_room(quick: bool, history: int) -> str:
    count = 20 if quick else 250
    with examples(count, quick), temporary_folder() as folder:
        (folder / "users.txt").touch(0o600)
        write_cheap_users(folder / "users.txt", USERIDS)
        RoomModel.house = House(folder / "users.txt", history)
        try:
            run_state_machine_as_test(RoomModel, settings=settings())
            RoomModel.house.close()
        finally:
            RoomModel.house.stop()
    return f"{count} examples of up to {settings().stateful_step_count} steps"


def the_room_does_what_the_model_does(quick: bool) -> str:
    """Everybody sees exactly what the model says, in its order; so does the display."""
    return hold_room(quick, history=0)


def a_joiner_is_told_what_was_said(quick: bool) -> str:
    """The same where lines are kept: a joiner gets the last ones, until the room is empty."""
    return hold_room(quick, HISTORY)


CASES = [
    suite.case_of(the_room_does_what_the_model_does),
    suite.case_of(a_joiner_is_told_what_was_said),
]

if __name__ == "__main__":
    sys.exit(suite.main("tests.long.model", __doc__, CASES))
