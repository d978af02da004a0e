"""What must hold for any input: the grammar, the framing, the users.txt reader.

    python -m tests.long.properties [--quick] [NAME ...]

Needs hypothesis. Each property says what must hold in words of its own, after the specification,
so that a mistake in server.py is not simply repeated here. A failure prints the smallest input that
shows it.
"""

from __future__ import annotations

import codecs
import contextlib
import functools
import itertools
import math
import os
import re
import ssl
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import IO, Any
from unittest import mock

from hypothesis import HealthCheck, configuration, event, example, given, settings
from hypothesis import strategies as st

import client
import server
from tests.helpers import suite
from tests.helpers.cases import CASES, LOGIN_FIRST, SERVER_ONLY
from tests.helpers.certificates import make_certificate
from tests.helpers.grammar import OVERLONG, Stream, understood
from tests.helpers.process import CHEAP_HASH, temporary_folder

# --------------------------------------------------------------------------------------------------
# The specification's rules once more, in other words: patterns instead of a parser.
# --------------------------------------------------------------------------------------------------

Outcome = tuple[str, ...] | None  # a command's name and arguments; None where there is none

SPACE, WORD = "[ \u00a0\u3000]", "[^ \u00a0\u3000]+"
COMMAND = re.compile(
    rf"{SPACE}*(?:(?P<account>(?ai:login|newuser)){SPACE}+(?P<userid>{WORD}){SPACE}+"
    rf"(?P<password>{WORD}){SPACE}*"
    rf"|(?ai:send){SPACE}+(?P<recipient>{WORD}){SPACE}(?P<message>.*)"
    rf"|(?P<word>(?ai:who|logout)){SPACE}*)",
    re.DOTALL,
)
COMMANDS = ", ".join(["login", "newuser", "send", "who", "logout"])
REFUSALS = re.compile(
    r"Denied\. (?:UserID must be 3 to 32 characters\."
    r"|UserID may hold letters and digits of one script, and _ - \."
    r'|UserID "(?:all|usage)" is reserved\.'
    r"|Password must be 4 to 8 characters\."
    r"|Password must be printable characters without spaces\."
    r"|Message must be 1 to 256 characters\."
    r"|Message must be printable text\."
    r"|Line longer than 2048 bytes\."
    r"|Not valid UTF-8\."
    rf'|Unknown command "[^\x00-\x20\x7f-\x9f\u2028-\u202e\u2066-\u2069]{{1,32}}"\. '
    rf"Commands: {COMMANDS}\.)"
    r"|Usage: (?:(?:login|newuser) UserID Password|send all\|UserID Message|who|logout)"
)
# "Usage: hello" must not be what somebody says; the specification names `all` alone.
RESERVED = re.compile("(?ai:all|usage)")
# Code points of Unicode's property Default_Ignorable_Code_Point that are letters or marks.
IGNORABLE = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0}
SAME_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "IDEOGRAPHIC": "CJK", "EXTENDED": "ARABIC"}
OVERLAYS = set(range(0x334, 0x339))
# Thai and Lao vowels and ligatures that names there cannot do without.
WELCOME_FORMS = {0xE33, 0xEB3, 0xEDC, 0xEDD}
# Of Latin, the letters that people write names with: no clicks, no phonetics.
LATIN = {*range(0x250), *range(0x1E00, 0x1F00)} - {*range(0x1C0, 0x1C4)}
UNPRINTABLE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
FORBIDDEN_IN_MESSAGES = {
    *range(0x20),
    *range(0x7F, 0xA0),
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}


def kind_of(character: str) -> str:
    """Return L for a letter or a digit of a script, M for a mark, d for ASCII signs, x else."""
    if character in "0123456789_-.":
        return "d"
    if ord(character) in IGNORABLE | OVERLAYS or is_disguise(character):
        return "x"
    category = unicodedata.category(character)
    return {"Nd": "N", "Mn": "M", "Mc": "M"}.get(category, "L" if category[0] == "L" else "x")


def is_disguise(character: str) -> bool:
    """Tell whether it, or a part of it, has a compatibility form, or is no letter of names."""
    parts = unicodedata.normalize("NFD", character)
    has_form = any(unicodedata.decomposition(part).startswith("<") for part in parts)
    is_odd_latin = script_of(character) == "LATIN" and ord(character) not in LATIN
    return is_odd_latin or (has_form and ord(character) not in WELCOME_FORMS)


def script_of(character: str) -> str:
    word = unicodedata.name(character, "").replace("-", " ").split(" ")[0]
    return SAME_SCRIPT.get(word, word)


def is_lawful_userid(text: str) -> bool:
    """text: in NFC."""
    kinds = "".join(map(kind_of, text))
    scripts = {script_of(character) for character in text if kind_of(character) != "d"}
    return (
        3 <= len(text) <= 32
        and re.fullmatch("(?:LM*|N|d)+", kinds) is not None
        and len(scripts - {"COMBINING"}) <= 1
        and not RESERVED.fullmatch(text)
    )


def is_lawful_password(text: str) -> bool:
    """text: in NFC."""
    categories = {unicodedata.category(character) for character in text}
    return 4 <= len(text) <= 8 and not categories & UNPRINTABLE_CATEGORIES


def trimmed(text: str) -> str:
    return text.replace("\t", " ").strip()


def is_lawful_message(text: str) -> bool:
    """text: trimmed."""
    return 1 <= len(text) <= 256 and not FORBIDDEN_IN_MESSAGES & set(map(ord, text))


def lawful_command(line: bytes) -> Outcome:
    """Return what a line asks for by the specification, or None if it is no command."""
    text = (line[:-1] if line.endswith(b"\r") else line).decode(errors="surrogateescape")
    found = COMMAND.fullmatch(text)
    if not found or len(line) - line.endswith(b"\r") > 2048 or has_surrogates(text):
        return None
    if found["word"]:
        return (found["word"].lower(),)
    if found["account"]:
        userid, password = normal(found["userid"], 128), normal(found["password"], 32)
        is_lawful = is_lawful_userid(userid) and is_lawful_password(password)
        return (found["account"].lower(), userid, password) if is_lawful else None
    recipient, message = normal(found["recipient"], 128), trimmed(found["message"])
    recipient = "all" if re.fullmatch("(?ai:all)", recipient) else recipient
    return ("send", recipient, message) if is_lawful_message(message) else None


def normal(text: str, longest: int) -> str:
    """Return text in NFC, but what is refused by its length as it is."""
    return text if len(text) > longest else unicodedata.normalize("NFC", text)


def has_surrogates(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


def render(outcome: tuple[str, ...]) -> bytes:
    return " ".join(outcome).encode()


# --------------------------------------------------------------------------------------------------
# Text to try: near the rules, across them, and anywhere.
# --------------------------------------------------------------------------------------------------

# Letters of one script each, by code point, not by name: names are what server.py goes by.
SCRIPTS = {
    "Latin": "abcxyzABCXYZßéüñøÅ",
    "Greek": "αβγοΑΒΓΟΣ",
    "Cyrillic": "абвоАВОТмр",
    "Armenian": "աբգոսԱՕ",
    "Hebrew": "אבגדס",
    "Arabic": "ابتمري",
    "Devanagari": "कखगनमस",
    "Thai": "กขคงา",
    "Georgian": "აბგდო",
    "Hangul": "가나다라한",
    "Cherokee": "ᎠᎡᎢᎣᎤ",
    "Han": "山田太郎一",
    "Hiragana": "さんのあい",
    "Katakana": "ローマカナ",
}
JAPANESE = {"Han", "Hiragana", "Katakana"}
ODD = (
    "\u0301\u0308\u0e49\u094d\u0345\u20dd"  # marks, one of them enclosing
    "\u00ad\u200b\u200d\u200e\ufe0f\u034f\u115f\u3164\u180b"  # invisible
    "\uff34\U0001d413\u00b2\u2070\u00aa\u2160\u0661\u06f1\u0967\U0001d7d8"  # disguised, digits
    "\x00\x07\t\r\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u2069\u00a0\u3000"  # unsafe, spaces
    "\u212a\u017f\u0130\u00b5\u0378\ue000\ufffd\ufeff\U0001f600\U0001f468(),:#$\"'/\\"
)
HOT = "".join(SCRIPTS.values()) + ODD + "0123456789_-. "

hot_text = st.text(st.sampled_from(HOT), max_size=40)
any_text = st.one_of(hot_text, st.text(max_size=60))
one_script = st.sampled_from(sorted(SCRIPTS.values())).flatmap(
    lambda letters: st.text(st.sampled_from(letters + "019_-."), min_size=2, max_size=33)
)
names = st.one_of(
    one_script, st.sampled_from(["all", "ALL", "aLl", "uSage", "Tom", "alls"]), any_text
)
passwords = st.one_of(st.text(st.sampled_from("abcXYZ019é),(#$\u0301"), max_size=10), any_text)
messages = st.one_of(
    any_text,
    st.builds(
        lambda unit, count, ends: ends + unit * count + ends,
        st.sampled_from(["x", "é", "\U0001f600", " ", "a b", "\u0301\u0327"]),
        st.sampled_from([1, 85, 86, 255, 256, 257, 2030]),
        st.sampled_from(["", " ", "\t", "  \t", "\u3000", "\x1c\u2003"]),
    ),
)
gaps = st.sampled_from([" ", " ", " ", "  ", "", "\t", "\u00a0", "\u3000 "])
words = st.one_of(
    st.sampled_from(
        ["login", "newuser", "send", "who", "logout", "SEND", "Who", "\u017fend", "help"]
    ),
    any_text,
)
lines = st.one_of(
    st.builds(
        lambda *parts: "".join(parts),
        st.sampled_from(["", "", " "]),
        words,
        gaps,
        st.one_of(names, messages),
        gaps,
        st.one_of(passwords, messages),
        st.sampled_from(["", "", " ", "\r", " x"]),
    ).map(str.encode),
    st.builds(lambda name, text: f"send {name} {text}".encode(), names, messages),
    st.builds(
        lambda word, name, text: f"{word} {name} {text}".encode(),
        st.sampled_from(["login", "newuser"]),
        names,
        passwords,
    ),
    any_text.map(str.encode),
    st.binary(max_size=60),
    st.sampled_from([case.encode() for case, _ in [*CASES, *SERVER_ONLY]]),
)


# --------------------------------------------------------------------------------------------------
# The grammar.
# --------------------------------------------------------------------------------------------------


@given(lines)
def commands_are_what_the_specification_says(line: bytes) -> None:
    """parse accepts exactly the lawful commands, and refuses the rest in the defined words."""
    line = line.replace(b"\n", b"")
    outcome = understood(line)
    lawful = lawful_command(line)
    if lawful:
        event("a command")
        assert outcome == lawful, (line, outcome, lawful)
    elif outcome == ():
        event("an empty line")
        assert re.fullmatch(f"{SPACE}*\r?", line.decode()), line
    else:
        event("a refusal")
        assert isinstance(outcome, str), (line, outcome)
        assert REFUSALS.fullmatch(outcome), (line, outcome)
        assert "\n" not in outcome


@given(lines)
def commands_survive_rendering(line: bytes) -> None:
    """A command written out again, from what was understood, is understood the same."""
    outcome = understood(line.replace(b"\n", b""))
    if isinstance(outcome, tuple):
        event("a command")
        assert understood(render(outcome)) == outcome


@given(lines)
def before_login_only_send_and_who_differ(line: bytes) -> None:
    """At the door `send` and `who`, well-formed or not, are answered that a login comes first."""
    line = line.replace(b"\n", b"")
    outcome = understood(line, is_logged_in=False)
    text = line.removesuffix(b"\r").decode(errors="surrogateescape")
    is_readable = len(line.removesuffix(b"\r")) <= 2048 and not has_surrogates(text)
    if is_readable and re.match(f"{SPACE}*(?ai:send|who)(?:{SPACE}|$)", text):
        event("asked to log in")
        assert outcome == LOGIN_FIRST, (line, outcome)
    else:
        assert outcome == understood(line), (line, outcome)


# What the client leaves to the server: which characters a UserID, a password or a message may hold.
OF_CHARACTERS = re.compile(
    r"Denied\. (?:UserID may hold|UserID \"|Password must be printable|Message must be printable).*"
)


@given(lines, st.booleans())
def client_refuses_what_the_server_refuses(line: bytes, is_logged_in: bool) -> None:
    """What the client refuses the server refuses, in the same words unless it is for characters."""
    line = line.replace(b"\n", b"")
    outcome = understood(line, is_logged_in)
    is_of_characters = isinstance(outcome, str) and OF_CHARACTERS.fullmatch(outcome)
    try:
        words = client.check(client.decode(line), is_logged_in)
    except client.Denied as denied:
        refusal = str(denied)
        assert outcome == refusal or is_of_characters, (line, refusal, outcome)
    else:
        assert is_of_characters or isinstance(outcome, tuple), (line, outcome)
        assert is_of_characters or words[:1] == outcome[:1], (line, words, outcome)


two_scripts = st.lists(st.sampled_from(sorted(SCRIPTS)), min_size=2, max_size=2, unique=True)


@given(two_scripts, st.data())
def mixed_scripts_are_refused(scripts: list[str], data: st.DataObject) -> None:
    """A name with letters of two scripts is refused; of Han, Hiragana and Katakana it is not."""
    letters = [
        letter
        for script in scripts
        for letter in data.draw(st.lists(st.sampled_from(SCRIPTS[script]), min_size=2, max_size=12))
    ]
    userid = "".join(data.draw(st.permutations(letters)))
    outcome = understood(f"newuser {userid} secret".encode())
    if set(scripts) <= JAPANESE:
        assert outcome == ("newuser", unicodedata.normalize("NFC", userid), "secret")
    else:
        assert outcome == "Denied. UserID may hold letters and digits of one script, and _ - ."


@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def one_script_is_accepted(script: str, data: st.DataObject) -> None:
    """A name with letters and digits of one script alone is a name."""
    letters = SCRIPTS[script] + "0189_-."
    userid = data.draw(st.text(st.sampled_from(letters), min_size=3, max_size=32))
    outcome = understood(f"newuser {userid} secret".encode())
    assert outcome == ("newuser", unicodedata.normalize("NFC", userid), "secret"), (userid, outcome)


# --------------------------------------------------------------------------------------------------
# Framing.
# --------------------------------------------------------------------------------------------------

counts = st.sampled_from([1, 1, 1, 2, 3, 680, 1023, 2045, 2046, 2047, 2048, 2049, 2050, 2051, 5000])
TEXT = [b"x", b"\n", b"\r", b"\r\n", b"\r\0", b"\0", b"\xc3\xa9", b"\xef\xbb\xbf", b"who\n"]
TELNET = [
    b"\xff",
    b"\xff\xff",
    b"\xff\xf4",
    b"\xff\xf1",
    b"\xff\xfb\n",
    b"\xff\xfd\r\0",
    b"\xff\xfd\x06",
    b"\xff\xfd",
]
TELNET += [
    b"\xff\xfc\x01",
    b"\xff\xfa",
    b"\xff\xfa\x1f\0P\0\n\xff\xf0",
    b"\xff\xf0",
    b"\xf0",
    b"\xff\x41",
]
runs = st.builds(lambda token, count: token * count, st.sampled_from(TEXT + TELNET), counts)
short_runs = st.builds(bytes.__mul__, st.sampled_from(TEXT + TELNET), st.integers(1, 3))
streams = st.lists(st.one_of(short_runs, short_runs, runs, st.binary(max_size=20)), max_size=10)


def judged(line: bytes) -> bytes:
    """Return a line as the grammar takes it: what is too long is all the same."""
    line = line.removesuffix(b"\r")
    return OVERLONG if len(line) > 2048 else line


def hold_framed(stream: bytes, places: Iterable[int]) -> None:
    """Hold what is framed, cut at these places, to what the specification says of the whole."""
    wanted = Stream.of(stream)
    framing = server.Framing()
    got: list[bytes] = []
    for start, end in itertools.pairwise([0, *places, len(stream)]):
        got += map(judged, framing.feed(stream[start:end]))
        assert len(framing.tail + framing.command) <= 2049, (framing.tail, framing.command)
    assert got == list(map(judged, wanted.lines))
    assert framing.answers == wanted.answers
    event(f"{len(wanted.answers) > 0} answers, {OVERLONG in wanted.lines} overlong")


@given(streams, st.data())
def cutting_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    """Any cutting of any bytes gives the same lines and answers, and what is held has a bound."""
    stream = b"".join(parts)
    cut = st.one_of(st.integers(0, len(stream)), st.integers(2040, 2060))
    places = data.draw(st.lists(cut, max_size=12))
    hold_framed(stream, sorted({min(place, len(stream)) for place in places}))


@given(streams)
def single_bytes_change_nothing(parts: list[bytes]) -> None:
    """Bytes that come one by one give the same lines and answers."""
    stream = b"".join(parts)[:6000]
    hold_framed(stream, range(len(stream)))


# --------------------------------------------------------------------------------------------------
# Limits.
# --------------------------------------------------------------------------------------------------


class Clock:
    """Stands for the module time in server.py; hours pass when a property says so."""

    def __init__(self) -> None:
        self.now = 4e9  # seconds; of the epoch as well: later than any time that the system gives

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class LeakyBuckets:
    """The limits told at length: all that ever happened is kept, and gone through each time."""

    def __init__(self, burst: int, seconds: float, remembered: int) -> None:
        self.burst, self.seconds, self.remembered = burst, seconds, remembered
        self.events: dict[str, list[tuple[float, int]]] = {}  # key: when, and how many; latest last

    def level(self, key: str, now: float) -> float:
        """Return how much is in a key's bucket, which leaks one each `seconds`."""
        level, before = 0.0, 0.0
        for moment, count in [*self.events.get(key, []), (now, 0)]:
            level = max(0.0, level - (moment - before) / self.seconds)
            level = min(max(0.0, level + count), self.burst + server.LOBBY)
            before = moment
        return level

    def count(self, key: str, now: float, count: int) -> None:
        events = self.events.pop(key, [])
        self.events[key] = [*events, (now, count)]
        if not self.level(key, now):
            del self.events[key]
        if len(self.events) > self.remembered:
            del self.events[next(iter(self.events))]

    def spend(self, key: str, now: float) -> float:
        self.count(key, now, 1)
        return max(0.0, (self.level(key, now) - self.burst) * self.seconds)

    def take(self, key: str, now: float) -> str:
        """Return the refusal, or nothing."""
        wait = (self.level(key, now) + 1 - self.burst) * self.seconds
        if wait > 0:
            return f"No, try again in {math.ceil(wait)} seconds."
        self.count(key, now, 1)
        return ""


happenings = st.lists(
    st.tuples(
        st.sampled_from(["spend", "spend", "take", "take", "give back"]),
        st.sampled_from("abcd"),
        st.sampled_from([0, 0, 0, 0, 1, 7, 64, 500, 100_000]),  # 64ths of a second
        st.sampled_from([1, 1, 1, 2, 7, 130]),  # times
    ),
    max_size=40,
)


# What is counted in 64ths and 8ths of seconds is exact, so that nothing need be nearly right.
@given(
    happenings,
    st.sampled_from([0, 1, 3, 10, 20]),
    st.sampled_from([0.125, 1.0, 8.0]),
    st.sampled_from([2, 3, 10_000]),
)
def limits_are_leaky_buckets(
    story: list[tuple[str, str, int, int]], burst: int, seconds: float, remembered: int
) -> None:
    """Who is let in, and who waits how long, is what a bucket that leaks evenly says."""
    clock, buckets = Clock(), LeakyBuckets(burst, seconds, remembered)
    allowance = server.Allowance(burst, seconds)
    with mock.patch("server.time", clock), mock.patch("server.REMEMBERED", remembered):
        for what, key, pause, times in story:
            clock.now += pause / 64
            for _ in range(times):
                match what:
                    case "spend":
                        wanted = buckets.spend(key, clock.now)
                        assert allowance.spend(key) == wanted, (what, key, wanted)
                    case "take":
                        assert refusal_of(allowance, key) == buckets.take(key, clock.now)
                    case "give back":
                        buckets.count(key, clock.now, -1)
                        allowance.give_back(key)
            assert len(allowance.paid_until) <= remembered


def refusal_of(allowance: server.Allowance, key: str) -> str:
    try:
        allowance.take(key, "No")
    except server.Denied as denied:
        return str(denied)
    return ""


@given(st.lists(st.integers(0, 2_000), max_size=200), st.sampled_from([(20, 0.1), (10, 6.0)]))
def nobody_gets_more_than_a_burst_and_the_rate(pauses: list[int], limit: tuple[int, float]) -> None:
    """In any stretch of time no more is let in than a burst and what the rate gives meanwhile."""
    burst, seconds = limit
    clock, allowance = Clock(), server.Allowance(burst, seconds)
    let_in: list[float] = []
    with mock.patch("server.time", clock):
        for pause in pauses:
            clock.now += pause / 1000 * seconds
            if not refusal_of(allowance, "Tom"):
                let_in.append(clock.now)
    for first, last in itertools.combinations(range(len(let_in)), 2):
        stretch = let_in[last] - let_in[first]
        assert last - first + 1 <= burst + stretch / seconds + 1e-3, (first, last, stretch)


# --------------------------------------------------------------------------------------------------
# users.txt.
# --------------------------------------------------------------------------------------------------

ACCOUNT = re.compile(r"\s*\( *([^,]*?) *, *(.*?) *\)\s*", re.DOTALL)
RECORD = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,2}),p=([1-9][0-9]?)"
    r"\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}"
)
UTF8 = codecs.getincrementaldecoder("utf-8")
OWN_HEAD = " $scrypt$ln=1,r=1,p=1$"  # of the second field of a line that the server writes here
OTHER_HASH = CHEAP_HASH.replace("ln=1,", "ln=14,").replace("r=1,", "r=8,")


def lawful_account(line: str) -> tuple[str, str] | None:
    """Return UserID and second field of a line that is one, None for any other."""
    found = ACCOUNT.fullmatch(line)
    if not found:
        return None
    userid, field = (unicodedata.normalize("NFC", part) for part in found.groups())
    is_lawful = is_lawful_userid(userid) and (is_lawful_password(field) or is_lawful_record(field))
    return (userid, field) if is_lawful else None


def is_lawful_record(field: str) -> bool:
    found = RECORD.fullmatch(field)
    if not found:
        return False
    cost, blocks, lanes = map(int, found.groups())
    return cost < 16 * blocks and 128 * blocks * 2**cost <= 1 << 28 and lanes <= 16


def is_cut_short(line: str, others: list[str]) -> bool:
    """Tell whether a crash may have left a line like this: `others` are the lines behind it."""
    try:  # it may stop in the middle of a character
        line = UTF8().decode(line.encode(errors="surrogateescape"))
    except UnicodeDecodeError:
        return False
    name, comma, rest = line[1:].partition(",")
    # More may have followed in the name, as "all" alone is no beginning of a file's last line.
    names = [name] if comma else [name + "0" * count for count in range(4)]
    field = re.sub("[A-Za-z0-9+/]", "A", rest[len(OWN_HEAD) :])
    return (
        not others
        and line.startswith("(")
        and any(map(is_lawful_userid, names))
        and rest[: len(OWN_HEAD)] == OWN_HEAD[: len(rest)]
        and f"{'A' * 22}${'A' * 43})".startswith(field)
    )


@given(st.one_of(one_script, st.sampled_from(["allan", "Usage-1", "José", "a" * 32])), st.data())
def any_beginning_of_an_own_line_is_set_aside(userid: str, data: st.DataObject) -> None:
    """Whatever a crash leaves of a line that the server was writing, the next start copes."""
    userid = unicodedata.normalize("NFC", userid)
    if not is_lawful_userid(userid) or userid == "Tom":
        return
    line = f"({userid},{OWN_HEAD}{'A' * 22}${'A' * 43})".encode()
    near = st.integers(1, len(f"({userid},".encode()))
    length = data.draw(st.one_of(near, near, st.integers(1, len(line) - 1)))
    with temporary_folder() as folder:
        path = folder / "users.txt"
        path.touch(0o600)
        path.write_bytes(f"(Tom, {OTHER_HASH})\n".encode() + line[:length])
        warnings: list[str] = []
        accounts = server.Accounts(path, warnings.append)
        accounts.open()
        accounts.close()
        assert accounts.records == {"Tom": OTHER_HASH}
        assert len(warnings) == 1, warnings
        hold_appended(path, path.read_bytes())


def is_kept(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def mutate(line: str, place: int, inserted: str, removed: int) -> str:
    place %= len(line) + 1
    return line[:place] + inserted + line[place + removed :]


account_names = st.one_of(st.sampled_from(["Tom", "Beth", "José", "Иван"]), one_script, names)
plain_passwords = st.text(st.sampled_from("abcXYZ019é),(#$"), min_size=4, max_size=8)
numbers = st.one_of(
    st.sampled_from(["1", "8", "14", "15", "16", "17", "22", "999"]),
    st.sampled_from(["", "0", "01", "1٤", "٤", "+1", "1_0", " 1", "100", "1000"]),
)
records = st.builds(
    mutate,
    st.builds(
        "$scrypt$ln={},r={},p={}${}${}".format,
        numbers,
        numbers,
        numbers,
        st.just("A" * 22),
        st.just("+/9z" * 10 + "AAA"),
    ),
    st.integers(0, 120),
    st.one_of(st.just(""), st.just(""), st.sampled_from(["0", "$", "=", "\n", "é"]), any_text),
    st.sampled_from([0, 0, 1]),
)
fields = st.one_of(plain_passwords, st.sampled_from([CHEAP_HASH, OTHER_HASH]), records, any_text)
account_lines = st.builds(
    "({}{}{}{})".format,
    account_names,
    st.sampled_from([", ", ",", " , "]),
    fields,
    st.sampled_from(["", "", " "]),
)
users_lines = st.one_of(
    account_lines,
    account_lines,
    st.builds(
        mutate,
        account_lines,
        st.integers(0, 120),
        st.one_of(st.sampled_from(["", "\0", "\r", "٤", "$", ",", "=", ")"]), any_text),
        st.integers(0, 3),
    ),
    st.sampled_from(["", "  ", "\t", "# a comment", "#(Tom, Tom11)", " # late", "\x85", "\0\0"]),
    any_text,
)
users_files = st.one_of(
    st.builds(
        lambda mark, lines, line_end, last: (mark + line_end.join(lines) + last).encode(
            errors="surrogateescape"
        ),
        st.sampled_from(["", "", "\ufeff"]),
        st.lists(users_lines, max_size=6),
        st.sampled_from(["\n", "\n", "\r\n"]),
        st.sampled_from(["\n", "\n", "", "\0\0", "\n(Mik", "\n\n", "\n(Mike, $scrypt$ln=1,r=1,p"]),
    ),
    st.binary(max_size=80),
)


sound_lines = st.one_of(
    st.builds("(User{}, {})".format, st.integers(0, 99), plain_passwords),
    st.builds("({}, {})".format, st.sampled_from(["Tom", "José", "Иван"]), st.just(OTHER_HASH)),
    st.sampled_from(["", "# a comment"]),
)
sound_files = st.builds(
    lambda lines, last: ("\n".join(lines) + last).encode(),
    st.lists(sound_lines, max_size=6, unique=True),
    st.sampled_from(["\n", "", "\n(Mik"]),
)


def lawful_users(data: bytes) -> dict[str, str] | int:
    """Return the accounts that a file defines, or the number of the first line that is wrong.

    0 stands for a file without a wrong line whose last line is torn: that one is left out.
    """
    lines = data.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    users: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if is_kept(line):
            continue
        text, others = line, lines[number:]
        if len(re.findall("\0+", line)) == 1 and not any(others):  # a power cut, no UTF-16
            text, others = line.partition("\0")[0], []
            if is_kept(text):
                return users
        account = lawful_account(text)
        if account is None and is_cut_short(text, others):
            return users
        if account is None or account[0] in users:
            return number
        users[account[0]] = account[1]
    return users


@given(users_files)
def only_defined_accounts_are_read(data: bytes) -> None:
    """UsersFile takes what is defined, and names file, line and reason for anything else."""
    lawful = lawful_users(data)
    try:
        torn = server.torn_end(data)
        users = server.UsersFile(data.removesuffix(torn), "users.txt")
    except server.AccountsError as error:
        assert re.fullmatch(rf"users\.txt:{lawful}: [^\n]+", str(error)), (str(error), lawful)
        event("refused")
        return
    event("read, torn" if torn else "read")
    assert users.records == lawful, (users.records, lawful)


@given(records)
def hashes_are_read_to_the_letter(record: str) -> None:
    """parse_hash raises ValueError or gives what the string says; nothing in between."""
    try:
        (cost, blocks, lanes), salt, key = server.parse_hash(record)
    except ValueError:
        assert not is_lawful_record(record)
        return
    again = f"$scrypt$ln={cost},r={blocks},p={lanes}$"
    assert record.startswith(again), record
    assert (len(salt), len(key)) == (16, 32)


def hold_loaded(folder: Path, data: bytes) -> None:
    path = folder / "users.txt"
    path.write_bytes(data)
    path.chmod(0o640)
    warnings: list[str] = []
    accounts = server.Accounts(path, warnings.append)
    try:
        accounts.open()
    except server.AccountsError as error:
        assert re.fullmatch(r"users\.txt:\d+: [^\n]+", str(error)), str(error)
        assert path.read_bytes() == data, "a file that was refused must stay as it is"
        return
    finally:
        accounts.close()
    after = path.read_bytes()
    hold_mended(data, after, torn=bool(warnings))
    hold_verified(accounts, data)
    again = server.Accounts(path, warnings.append)
    again.open()
    again.close()
    assert (again.records, path.read_bytes()) == (accounts.records, after), "loading twice differs"
    hold_appended(path, after)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(folder)) == [".users.txt.lock", "users.txt"]


def hold_mended(before: bytes, after: bytes, torn: bool) -> None:
    """Hold a file to what loading may change: passwords hashed, a torn line cut off."""
    old = before.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    new = after.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    if torn:
        last = old[len(new) - 1].partition("\0")[0] if new[-1] else ""
        old = [*old[: len(new) - 1], last]
    assert len(old) == len(new)
    for was, line in zip(old, new, strict=True):
        account = lawful_account(line)
        if is_kept(was):
            assert line == was, (was, line)
        else:
            assert account, line
            assert len(account[1]) > 8, f"a plain password was left: {line!r}"


def hold_appended(path: Path, before: bytes) -> None:
    """A new account goes behind all that is there, on a line of its own."""
    accounts = server.Accounts(path, print)
    accounts.open()
    known = dict(accounts.records)
    assert accounts.add("Newcomer", CHEAP_HASH)
    assert not accounts.add("Newcomer", OTHER_HASH)
    accounts.close()
    after = path.read_bytes()
    assert after.startswith(before)
    assert server.UsersFile(after, "users.txt").records == known | {"Newcomer": CHEAP_HASH}


def hold_verified(accounts: server.Accounts, data: bytes) -> None:
    """Every password that stood in the file in plain text is right, and another one wrong."""
    lawful = lawful_users(data)
    assert isinstance(lawful, dict)
    assert list(accounts.records) == list(lawful)
    for userid, field in lawful.items():
        if len(field) <= 8:
            assert accounts.verify(userid, field)
            assert not accounts.verify(userid, field[::-1] + "x")
        else:
            assert accounts.records[userid] == field


@given(st.one_of(users_files, sound_files))
def loading_mends_and_keeps(data: bytes) -> None:
    """Loading hashes plain passwords, keeps all else where it is, and is stable."""
    with temporary_folder() as folder:
        hold_loaded(folder, data)


# --------------------------------------------------------------------------------------------------
# users.txt, while somebody edits it and accounts are made. Hours pass in no time: the server's
# clock, the times of the file included, is ours.
# --------------------------------------------------------------------------------------------------

RECENT = 9.5  # seconds; what is made up to ten before an edit that does not know it is put back
SAVES = ["replace", "in place", "move and write", "append"]
LINES_OF = {"Tom": CHEAP_HASH, "Beth": CHEAP_HASH, "José": "Pass01", "Иван": "Pass02"}


class Edit:
    """An editor that has read the file, and what its user means to save."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock = path, clock
        self.text = path.read_text() if path.exists() else ""
        self.known = server.UsersFile(self.text.encode(), "users.txt").records
        self.added = ""
        self.rest: Callable[[], object] | None = None  # of a save that has begun

    def add(self, userid: str) -> None:
        line = f"({userid}, Pass00)\n"
        self.added += line
        self.text += line

    def remove(self, userid: str) -> None:
        lines = self.text.splitlines(keepends=True)
        self.text = "".join(line for line in lines if not line.startswith(f"({userid},"))

    def begin(self, manner: str, share: int) -> None:
        """Save up to a `share` of it, in percent; `rest` does what is left."""
        data = (self.added if manner == "append" else self.text).encode()
        cut = len(data) * share // 100
        if 0 < cut < len(data) and data[cut - 1 : cut] == b"\n":
            # Half a file that ends with a line looks whole: what newuser appends to that is written
            # over, and what is left of it behind a shorter rest is a mistake in the file.
            cut -= 1
        if manner == "replace":
            temporary = self.path.with_name("users.txt.swp")
            self.rest = lambda: temporary.rename(self.path)
            self.write(temporary.open("wb"), data, closing=True)
            return
        if manner == "move and write" and self.path.exists():
            self.path.rename(self.path.with_name("users.txt~"))
        file = self.path.open("ab" if manner == "append" else "wb", buffering=0)
        self.write(file, data[:cut])
        self.rest = lambda: self.write(file, data[cut:], closing=True)

    def write(self, file: IO[bytes], data: bytes, closing: bool = False) -> None:
        file.write(data)
        file.flush()
        os.utime(file.fileno(), (self.clock.now, self.clock.now))
        if closing:
            file.close()

    def finish(self) -> None:
        rest, self.rest = self.rest, None
        if rest:
            rest()


class Office:
    """A server's accounts, an editor, and which accounts there must and must not be."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "users.txt"
        self.clock = Clock()
        self.clock.sleep = self.sleep  # type: ignore[method-assign]
        self.path.write_text("".join(f"({name}, {LINES_OF[name]})\n" for name in LINES_OF))
        self.path.chmod(0o600)
        self.mistakes: list[str] = []
        self.made: dict[str, float] = {}  # by newuser: when
        self.wanted = set(LINES_OF)
        self.unwanted: set[str] = set()
        self.edit: Edit | None = None
        self.numbers = itertools.count()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        write_all = server.write_synced

        def write_in_time(file: int, data: bytes) -> None:
            write_all(file, data)
            os.utime(file, (self.clock.now, self.clock.now))

        patched = mock.patch("server.write_synced", write_in_time)
        with mock.patch("server.time", self.clock), patched:
            self.accounts = server.Accounts(self.path, self.mistakes.append)
            self.accounts.open()
            try:
                yield
            finally:
                self.accounts.close()

    def sleep(self, seconds: float) -> None:
        """Whoever waits for an editor to finish its line sees it finish."""
        self.clock.now += seconds
        self.finish()

    def wait(self, seconds: float) -> None:
        """Let time pass, and the server look at the file, as it does while anybody is in."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 0.5)
            self.accounts.tidy(server.hash_passwords)

    def new_user(self) -> None:
        userid = f"New{next(self.numbers)}"
        assert self.accounts.add(userid, CHEAP_HASH)
        self.made[userid] = self.clock.now
        self.wanted.add(userid)

    def open_editor(self) -> None:
        if self.edit is None:
            self.edit = Edit(self.path, self.clock)

    def begin_save(self, manner: str, share: int) -> None:
        if manner == "append" and not self.path.exists():
            return  # there is nothing to append to
        if self.edit is not None and self.edit.rest is None:
            self.edit.begin(manner, share)
            self.manner = manner

    def finish(self) -> None:
        if self.edit is None or self.edit.rest is None:
            return
        edit, self.edit = self.edit, None
        edit.finish()
        if self.manner == "append":
            self.wanted |= set(re.findall(r"\((\w+),", edit.added))
            return
        saved = set(re.findall(r"\((\w+),", edit.text))
        recent = {name for name in self.made if self.clock.now - self.made[name] < RECENT}
        # What it did not know, it overwrote: the server puts back what is recent. What it took out
        # that is recent cannot be told from that.
        self.unwanted |= set(edit.known) - saved - set(self.made)
        self.wanted = saved | (self.wanted & recent) - (set(edit.known) - saved)

    def hold(self) -> None:
        """Hold the accounts, in memory and in the file, to what they must be."""
        self.finish()
        self.wait(5)
        self.mistakes.clear()  # half a save may look like one
        self.new_user()
        self.wait(5)
        assert not self.mistakes, self.mistakes
        for records in (
            self.accounts.records,
            server.UsersFile(self.path.read_bytes(), "users.txt").records,
        ):
            assert self.wanted <= set(records), (self.wanted - set(records), records)
            assert not self.unwanted & set(records), self.unwanted & set(records)
            assert all(len(record) > 8 for record in records.values()), "a plain password stays"
        for userid in self.wanted & {"José", "Иван"}:
            assert self.accounts.verify(userid, LINES_OF[userid])


office_steps = st.one_of(
    st.tuples(st.just("newuser")),
    st.tuples(st.just("newuser")),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 1, 3, 8, 12, 60])),
    st.tuples(st.just("open")),
    st.tuples(st.just("add")),
    st.tuples(st.just("remove"), st.sampled_from([*LINES_OF, "New0", "New1"])),
    st.tuples(st.just("save"), st.sampled_from(SAVES), st.integers(0, 100)),
    st.tuples(st.just("save"), st.sampled_from(SAVES), st.sampled_from([0, 100])),
    st.tuples(st.just("delete")),
    st.tuples(st.just("login")),
)


GO_ON = ("newuser",)


@given(st.lists(office_steps, max_size=14))
@example([("open",), GO_ON, ("save", "in place", 0), GO_ON])
@example(
    [
        ("open",),
        *(("remove", userid) for userid in ("Tom", "Beth", "José")),
        *(("save", "in place", 0), GO_ON, GO_ON, GO_ON),
    ]
)
def no_account_is_lost_to_an_editor(story: list[tuple[Any, ...]]) -> None:
    """Whatever newuser and an editor's saves do at the same time, no account is lost."""
    with temporary_folder() as folder:
        office = Office(folder)
        with office.opened():
            for step, *arguments in story:
                office.clock.now += 0.01
                is_saving = office.edit is not None and office.edit.rest is not None
                match step:
                    case "newuser":
                        office.new_user()
                    case "wait":
                        if is_saving and arguments[0] >= 1:
                            office.finish()  # what takes longer cannot be known from a whole file
                        office.wait(arguments[0])
                    case "open":
                        if not is_saving:
                            office.open_editor()
                    case "add" if office.edit and not is_saving:
                        office.edit.add(f"Ed{next(office.numbers)}")
                    case "remove" if office.edit and not is_saving:
                        office.edit.remove(arguments[0])
                    case "save":
                        office.begin_save(*arguments)
                    case "delete" if not is_saving:
                        office.path.unlink(missing_ok=True)
                    case "login":
                        office.accounts.verify("Tom", "secret")
            office.hold()


# --------------------------------------------------------------------------------------------------
# Encryption: bytes to bytes, without a socket.
# --------------------------------------------------------------------------------------------------


@functools.cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what the server encrypts with, and what the client trusts."""
    with temporary_folder() as folder:
        certificate, key = make_certificate(folder)
        trusting = ssl.create_default_context(cafile=str(certificate))
        return server.encrypt(certificate, key), trusting


@given(st.lists(st.binary(max_size=40_000), max_size=6), st.randoms(use_true_random=False))
def encryption_gives_back_the_text_however_it_was_cut(texts: list[bytes], chance: Random) -> None:
    """What was said is heard, the handshake included, wherever the bytes on the wire were cut."""
    ours, theirs = contexts()
    ends = server.Tls(ours), client.Tls(theirs, "localhost")

    def carry(wire: bytes, end: server.Tls | client.Tls) -> bytes:
        text = b""
        while wire:
            size = chance.choice([1, 5, 100, 1024, 20_000])
            text += end.opened(wire[:size])
            wire = wire[size:]
        return text

    ends[1].opened(b"")
    while not (ends[0].is_open and ends[1].is_open):
        assert carry(ends[1].sealed(b"lost\n" if not ends[1].is_open else b""), ends[0]) == b""
        assert carry(ends[0].sealed(b""), ends[1]) == b""
    for sender, receiver in (ends, ends[::-1]):
        wire = b"".join([sender.sealed(text) for text in texts])
        assert carry(wire, receiver) == b"".join(texts)
        assert not receiver.has_ended
    carry(ends[1].sealed(b"", is_last=True), ends[0])
    assert ends[0].has_ended


# --------------------------------------------------------------------------------------------------
# All of them, with as many examples as there is time for.
# --------------------------------------------------------------------------------------------------

# Each property with its examples in the full and in the quick run.
PROPERTIES: list[tuple[Callable[[], None], int, int]] = [
    (commands_are_what_the_specification_says, 20_000, 1_500),
    (commands_survive_rendering, 3_000, 150),
    (before_login_only_send_and_who_differ, 10_000, 500),
    (mixed_scripts_are_refused, 3_000, 150),
    (one_script_is_accepted, 3_000, 150),
    (client_refuses_what_the_server_refuses, 20_000, 1_000),
    (cutting_changes_nothing, 5_000, 200),
    (single_bytes_change_nothing, 300, 30),
    (limits_are_leaky_buckets, 1_000, 300),
    (nobody_gets_more_than_a_burst_and_the_rate, 1_000, 50),
    (only_defined_accounts_are_read, 20_000, 1_000),
    (hashes_are_read_to_the_letter, 5_000, 200),
    (loading_mends_and_keeps, 2_000, 150),
    (any_beginning_of_an_own_line_is_set_aside, 3_000, 200),
    (no_account_is_lost_to_an_editor, 3_000, 150),
    (encryption_gives_back_the_text_however_it_was_cut, 3_000, 100),
]


@contextlib.contextmanager
def examples(count: int, quick: bool) -> Iterator[None]:
    """Have hypothesis try so many examples; quick runs take the same ones every time."""
    settings.register_profile(
        "suite",
        database=None,
        deadline=None,
        derandomize=quick,
        max_examples=count,
        print_blob=True,
        stateful_step_count=40 if quick else 60,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("suite")
    with temporary_folder() as folder, contextlib.chdir(folder):
        configuration.set_hypothesis_home_dir(folder)  # its caches, too, leave nothing behind
        yield


def counting(test: Callable[..., None], count: int) -> Callable[..., None]:
    """Return a test that tells how many of its examples it has tried."""
    tried = itertools.count(1)

    @functools.wraps(test)
    def counted(*arguments: object, **named: object) -> None:
        suite.at(f"{next(tried)} of {count} examples")
        test(*arguments, **named)

    return counted


def case_of(check: Callable[[], None], full: int, short: int) -> suite.Case:
    def run(quick: bool) -> str:
        count = short if quick else full
        handle: Any = check
        handle.hypothesis.inner_test = counting(handle.hypothesis.inner_test, count)
        with examples(count, quick):
            settings()(check)()  # the profile of now, not of when the property was defined
        return f"{count} examples"

    return suite.Case(suite.name_of(check), suite.promise_of(check), run)


def main() -> int:
    server.HASH_COST = (1, 1, 1)  # in this process: plain passwords in files are hashed for nothing
    cases = [case_of(*held) for held in PROPERTIES]
    return suite.main("tests.long.properties", __doc__, cases)


if __name__ == "__main__":
    sys.exit(main())
