"""What must hold for any input: the grammar, the framing, the users.txt reader, and the room.

    python -m tests.long.properties [--quick]

Needs hypothesis. Each property says what must hold in words of its own, after the specification,
so that a mistake in server.py is not simply repeated here. The last one is a model of the whole
room, held step by step against a real server over sockets: every line that anybody gets, and the
server's display. A failure prints the smallest input that shows it; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import re
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from types import ModuleType

from hypothesis import HealthCheck, configuration, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

import server
from tests.cases import CASES, unknown
from tests.helpers.process import (
    CHEAP_HASH,
    CHEAP_PASSWORD,
    ROOT,
    ServerProcess,
    Talker,
    temporary_folder,
    write_cheap_users,
)

client: ModuleType | None
try:
    client = importlib.import_module("client")
except ImportError:
    client = None

# --------------------------------------------------------------------------------------------------
# The specification's rules once more, in other words: patterns instead of a parser.
# --------------------------------------------------------------------------------------------------

Outcome = tuple[str, ...] | None  # a command's name and arguments; None where there is none

COMMAND = re.compile(
    r" *(?:(?P<account>(?ai:login|newuser)) +(?P<userid>[^ ]+) +(?P<password>[^ ]+) *"
    r"|(?ai:send) +(?P<recipient>[^ ]+) (?P<message>.*)"
    r"|(?P<word>(?ai:who|logout)) *)",
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
# A compatibility form of these kinds is another letter in disguise.
DISGUISES = {"<font>", "<wide>", "<narrow>", "<super>", "<sub>"}
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
    decomposed = unicodedata.decomposition(character).split(" ")[0]
    if ord(character) in IGNORABLE or decomposed in DISGUISES:
        return "x"
    category = unicodedata.category(character)
    return {"Nd": "N", "Mn": "M", "Mc": "M"}.get(category, "L" if category[0] == "L" else "x")


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


def is_lawful_message(text: str) -> bool:
    """text: trimmed."""
    return 1 <= len(text) <= 256 and not FORBIDDEN_IN_MESSAGES & set(map(ord, text))


def lawful_command(line: bytes) -> Outcome:
    """Return what a line asks for by the specification, or None if it is no command."""
    text = (line[:-1] if line.endswith(b"\r") else line).decode(errors="surrogateescape")
    found = COMMAND.fullmatch(text)
    if not found or len(line) - line.endswith(b"\r") > 2048:
        return None
    parts = {
        name: unicodedata.normalize("NFC", part or "") for name, part in found.groupdict().items()
    }
    if parts["word"]:
        return (parts["word"].lower(),)
    if parts["account"]:
        is_lawful = is_lawful_userid(parts["userid"]) and is_lawful_password(parts["password"])
        outcome = (parts["account"].lower(), parts["userid"], parts["password"])
        return outcome if is_lawful else None
    message = found["message"].replace("\t", " ").strip(" ")
    if has_surrogates(message) or not is_lawful_message(message):
        return None
    if found["recipient"] == "all":
        return ("sendall", message)
    return ("send", parts["recipient"], message) if is_lawful_userid(parts["recipient"]) else None


def has_surrogates(text: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in text)


def parsed(line: bytes) -> Outcome | str:
    """Return what server.py makes of a line, in the same form; a refusal as its text."""
    try:
        command = server.parse(line)
    except server.Denied as denied:
        return str(denied)
    return None if command is None else (type(command).__name__.lower(), *astuple(command))


def render(outcome: tuple[str, ...]) -> bytes:
    name, *rest = outcome
    words = ["send", "all", *rest] if name == "sendall" else [name, *rest]
    return " ".join(words).encode()


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
        st.sampled_from(["x", "é", "\U0001f600", " ", "a b"]),
        st.sampled_from([1, 85, 86, 255, 256, 257, 2030]),
        st.sampled_from(["", " ", "\t", "  \t"]),
    ),
)
gaps = st.sampled_from([" ", " ", " ", "  ", "", "\t", "\u00a0"])
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
    st.sampled_from([case.encode() for case, _ in CASES]),
)


# --------------------------------------------------------------------------------------------------
# The grammar.
# --------------------------------------------------------------------------------------------------


@given(lines)
def commands_are_what_the_specification_says(line: bytes) -> None:
    """parse accepts exactly the lawful commands, and refuses the rest in the defined words."""
    line = line.replace(b"\n", b"")
    outcome = parsed(line)
    lawful = lawful_command(line)
    if lawful:
        event("a command")
        assert outcome == lawful, (line, outcome, lawful)
    elif outcome is None:
        event("an empty line")
        assert not line.removesuffix(b"\r").strip(b" "), line
    else:
        event("a refusal")
        assert isinstance(outcome, str), (line, outcome)
        assert REFUSALS.fullmatch(outcome), (line, outcome)
        assert "\n" not in outcome


@given(lines)
def commands_survive_rendering(line: bytes) -> None:
    """A command written out again, from what was understood, is understood the same."""
    outcome = parsed(line.replace(b"\n", b""))
    if isinstance(outcome, tuple):
        event("a command")
        assert parsed(render(outcome)) == outcome


@given(lines)
def client_refuses_what_the_server_refuses(line: bytes) -> None:
    """The client's check agrees with parse: in what it lets pass, and in its words."""
    assert client is not None
    line = line.replace(b"\n", b"")
    outcome = parsed(line)
    try:
        client.check(line)
        refusal = None
    except client.Denied as denied:
        refusal = str(denied)
    assert refusal == (outcome if isinstance(outcome, str) else None), (line, refusal, outcome)


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
    outcome = parsed(f"newuser {userid} secret".encode())
    if set(scripts) <= JAPANESE:
        assert outcome == ("newuser", unicodedata.normalize("NFC", userid), "secret")
    else:
        assert outcome == "Denied. UserID may hold letters and digits of one script, and _ - ."


@given(st.sampled_from(sorted(SCRIPTS)), st.data())
def one_script_is_accepted(script: str, data: st.DataObject) -> None:
    letters = SCRIPTS[script] + "0189_-."
    userid = data.draw(st.text(st.sampled_from(letters), min_size=3, max_size=32))
    outcome = parsed(f"newuser {userid} secret".encode())
    assert outcome == ("newuser", unicodedata.normalize("NFC", userid), "secret"), (userid, outcome)


# --------------------------------------------------------------------------------------------------
# Framing.
# --------------------------------------------------------------------------------------------------

runs = st.builds(
    lambda token, count: token * count,
    st.sampled_from([b"x", b"\n", b"\r", b"\r\n", b"\xc3\xa9", b"\xff", b"\x00", b"who\n"]),
    st.sampled_from([1, 1, 2, 3, 1023, 2046, 2047, 2048, 2049, 2050, 2051, 5000]),
)
OVERLONG = b"(overlong)"


def judged(line: bytes) -> bytes:
    """Return a line as the grammar takes it: what is too long is all the same."""
    line = line.removesuffix(b"\r")
    return OVERLONG if len(line) > 2048 else line


def reference_lines(stream: bytes) -> list[bytes]:
    *whole, tail = stream.split(b"\n")
    # A CR may still turn out to belong to the line end, so one byte more decides.
    return [judged(line) for line in whole] + [OVERLONG] * (len(tail) > 2049)


@given(st.lists(st.one_of(runs, st.binary(max_size=20)), max_size=8), st.data())
def cutting_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    """Any cutting of any bytes gives the same lines, and the buffer has a bound."""
    stream = b"".join(parts)
    cut = st.one_of(st.integers(0, len(stream)), st.integers(2040, 2060))
    places = sorted({min(place, len(stream)) for place in data.draw(st.lists(cut, max_size=12))})
    framing = server.Framing()
    got: list[bytes] = []
    for start, end in itertools.pairwise([0, *places, len(stream)]):
        got += map(judged, framing.feed(stream[start:end]))
        assert len(framing.tail) <= 2049, len(framing.tail)
    assert got == reference_lines(stream)


@given(st.lists(runs, max_size=3))
def single_bytes_change_nothing(parts: list[bytes]) -> None:
    stream = b"".join(parts)[:6000]
    framing = server.Framing()
    pieces = (framing.feed(stream[index : index + 1]) for index in range(len(stream)))
    assert [judged(line) for piece in pieces for line in piece] == reference_lines(stream)


# --------------------------------------------------------------------------------------------------
# users.txt.
# --------------------------------------------------------------------------------------------------

ACCOUNT = re.compile(r"\s*\( *([^,]*?) *, *(.*?) *\)\s*", re.DOTALL)
RECORD = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,2}),p=([1-9][0-9]?)"
    r"\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}"
)
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
        st.sampled_from(["\n", "\n", "", "\0\0", "\n(Mik", "\n\n"]),
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
        account = lawful_account(line)
        is_last = number == len(lines) or ("\0" in line and not any(lines[number:]))
        if account is None and is_last:
            return users
        if account is None or account[0] in users:
            return number
        users[account[0]] = account[1]
    return users


@given(users_files)
def only_defined_accounts_are_read(data: bytes) -> None:
    """read_users takes what is defined, and names file, line and reason for anything else."""
    lawful = lawful_users(data)
    try:
        users = server.read_users(data, "users.txt")
    except server.AccountsError as error:
        assert re.fullmatch(rf"users\.txt:{lawful}: [^\n]+", str(error)), (str(error), lawful)
        event("refused")
        return
    event("read, torn" if users.torn else "read")
    assert users.hashes == lawful, (users.hashes, lawful)


@given(records)
def hashes_are_read_to_the_letter(record: str) -> None:
    """parse_hash raises ValueError or gives what the string says; nothing in between."""
    try:
        cost, blocks, lanes, salt, key = server.parse_hash(record)
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
        accounts.load()
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
    again.load()
    again.close()
    assert (again.hashes, path.read_bytes()) == (accounts.hashes, after), "loading twice differs"
    hold_appended(path, after)
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(folder) == ["users.txt"]


def hold_mended(before: bytes, after: bytes, torn: bool) -> None:
    """Hold a file to what loading may change: passwords hashed, a torn line made a comment."""
    old = before.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    new = after.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    if torn:
        assert new[-1] == ""
        assert new[-2].startswith("# cut short by a crash: ")
        old, new = old[: len(new) - 2], new[:-2]
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
    accounts.load()
    known = dict(accounts.hashes)
    assert accounts.add("Newcomer", CHEAP_HASH)
    assert not accounts.add("Newcomer", OTHER_HASH)
    accounts.close()
    after = path.read_bytes()
    assert after.startswith(before)
    assert server.read_users(after, "users.txt").hashes == known | {"Newcomer": CHEAP_HASH}


def hold_verified(accounts: server.Accounts, data: bytes) -> None:
    """Every password that stood in the file in plain text is right, and another one wrong."""
    lawful = lawful_users(data)
    assert isinstance(lawful, dict)
    assert list(accounts.hashes) == list(lawful)
    for userid, field in lawful.items():
        if len(field) <= 8:
            assert accounts.verify(userid, field)
            assert not accounts.verify(userid, field[::-1] + "x")
        else:
            assert accounts.hashes[userid] == field


@given(st.one_of(users_files, sound_files))
def loading_mends_and_keeps(data: bytes) -> None:
    """Loading hashes plain passwords, keeps all else where it is, and is stable."""
    with temporary_folder() as folder:
        hold_loaded(folder, data)


# --------------------------------------------------------------------------------------------------
# The room: a model, and a real server that must do the same.
# --------------------------------------------------------------------------------------------------

ROOM_LIMIT = 3
CONNECTIONS = 7
USERIDS = ["Tom", "Beth", "David", "Иван", "山田さん"]
# Wrong passwords must cost nothing here, nor hashing; all other constants are the real ones.
PROGRAM = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import server; "
    "server.FAILURE_DELAY = 0; server.FAILURES = 10**9; server.HASH_COST = (1, 1, 1); "
    "sys.exit(server.main())"
)
BAD_LINES = [(line, refusal) for line, refusal in CASES if refusal]
counter = itertools.count()


class Person:
    """A connection in the model: who it is, and what it has yet to be told."""

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.userid = ""  # empty while not logged in
        self.failures = 0
        self.owed: list[str] = []


picks = st.integers(0, CONNECTIONS - 1)
line_ends = st.sampled_from(["\n", "\r\n"])
spellings = st.sampled_from(["small", "LARGE", "mIxEd"]).map(
    {"small": str.lower, "LARGE": str.upper, "mIxEd": str.title}.__getitem__
)
sayings = st.one_of(
    st.text(st.sampled_from(HOT), min_size=1, max_size=30),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300),
).filter(lambda text: is_lawful_message(trimmed(text)))
Spelling = Callable[[str], str]
somebody_is_there = precondition(lambda self: self.everyone)


def trimmed(text: str) -> str:
    return text.replace("\t", " ").strip(" ")


class RoomModel(RuleBasedStateMachine):
    """The room as the specification tells it. Each rule does one thing and expects its lines."""

    house: House

    def __init__(self) -> None:
        super().__init__()
        self.process = self.house.fresh_process()
        self.room: dict[str, Person] = {}
        self.everyone: list[Person] = []
        self.accounts = dict.fromkeys(USERIDS, CHEAP_PASSWORD)
        self.shown: list[str] = []  # patterns for the lines that the display owes
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
        person = Person(self.process.connect())
        self.everyone.append(person)
        return person

    def act(self, person: Person, *lines: str, line_end: str = "\n") -> None:
        self.is_settled = False
        person.talker.send_bytes("".join(line + line_end for line in lines).encode())

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
                self.collect(person, unknown(mark))
        self.settle_display()
        self.is_settled = True

    def collect(self, person: Person, *more: str) -> None:
        owed, person.owed = person.owed, []
        person.talker.expect(*owed, *more)

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

    def say(self, person: Person, said: str) -> None:
        if person.userid:
            self.tell_others(person, f"{person.userid}: {said}")
            self.show(f"{person.userid}: {said}")
        else:
            person.owed.append("Denied. Please login first.")

    # Coming.

    @precondition(lambda self: len(self.everyone) < CONNECTIONS)
    @rule(userid=st.one_of(st.none(), st.sampled_from(USERIDS)))
    def come(self, userid: str | None) -> None:
        person = self.meet()
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
            person.owed.append("login confirmed")
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
            self.show(f"Login failed for {userid} from {person.talker.address}.")
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
    @rule(number=picks, cases=st.lists(st.sampled_from(BAD_LINES), min_size=1, max_size=5))
    def be_refused(self, number: int, cases: list[tuple[str, str]]) -> None:
        """Several wrong lines in one piece: a refusal each, in their order, and no harm done."""
        person = self.pick(number)
        self.act(person, *(line for line, _ in cases))
        person.owed += [refusal for _, refusal in cases]
        self.settle(person)

    @somebody_is_there
    @rule(number=picks, data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=3))
    def babble(self, number: int, data: bytes, cuts: list[int]) -> None:
        """Bytes that are no commands, in any pieces: a refusal for each line, and no harm done."""
        person = self.pick(number)
        replies = [parsed(line) for line in data.split(b"\n")]
        if any(isinstance(reply, tuple) for reply in replies):
            return
        for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
            person.talker.send_bytes(data[start:end])
        self.act(person, "")
        person.owed += [reply for reply in replies if isinstance(reply, str)]
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
        person.owed.append(unknown("foo"))
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

    def __init__(self, users: Path) -> None:
        self.users = users
        self.process: ServerProcess | None = None
        self.is_clean = False  # after a failure it is not, and the next example needs a new one
        self.resources = (0, 0)

    def fresh_process(self) -> ServerProcess:
        if self.process is None or not self.is_clean:
            self.stop()
            options = ["--rate", "0", "--max-clients", str(ROOM_LIMIT)]
            command = (sys.executable, "-c", PROGRAM)
            self.process = ServerProcess(self.users, options, program=command)
            self.resources = resources_of(self.process.pid)
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def close(self) -> None:
        """Stop the server, and hold it to a clean end with nothing left behind."""
        assert self.process is not None
        hold_resources(self.process.pid, self.resources)
        status = self.process.stop()
        assert status == 0, f"the server ended with status {status}"
        assert not (complaints := self.process.errors.all()), complaints


def the_room_does_what_the_model_does() -> None:
    """Everybody sees exactly what the model says, in its order; so does the display."""
    with temporary_folder() as folder:
        write_cheap_users(folder / "users.txt", USERIDS)
        RoomModel.house = House(folder / "users.txt")
        try:
            run_state_machine_as_test(RoomModel, settings=settings())
            RoomModel.house.close()
        finally:
            RoomModel.house.stop()


def resources_of(pid: int) -> tuple[int, int]:
    """Return how many threads and descriptors a process has; zeros where /proc is missing."""
    folder = Path(f"/proc/{pid}")
    if not folder.exists():
        return 0, 0
    return len(os.listdir(folder / "task")), len(os.listdir(folder / "fd"))


def hold_resources(pid: int, wanted: tuple[int, int]) -> None:
    deadline = time.monotonic() + 5
    while resources_of(pid) != wanted:
        assert time.monotonic() < deadline, (resources_of(pid), wanted)
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------------
# Main: run all with as many examples as there is time for, say what held.
# --------------------------------------------------------------------------------------------------

# Each property with its examples in the full and in the quick run.
PROPERTIES: list[tuple[Callable[[], None], int, int]] = [
    (commands_are_what_the_specification_says, 20_000, 1_500),
    (commands_survive_rendering, 3_000, 150),
    (mixed_scripts_are_refused, 3_000, 150),
    (one_script_is_accepted, 3_000, 150),
    (client_refuses_what_the_server_refuses, 20_000, 1_000),
    (cutting_changes_nothing, 5_000, 200),
    (single_bytes_change_nothing, 300, 30),
    (only_defined_accounts_are_read, 20_000, 1_000),
    (hashes_are_read_to_the_letter, 5_000, 200),
    (loading_mends_and_keeps, 2_000, 150),
    (the_room_does_what_the_model_does, 400, 30),
]


def run(check: Callable[[], None], examples: int, quick: bool) -> bool:
    """Run one property and print how it went; quick runs take the same examples every time."""
    settings.register_profile(
        "suite",
        database=None,
        deadline=None,
        derandomize=quick,
        max_examples=examples,
        print_blob=True,
        stateful_step_count=40 if quick else 60,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("suite")
    began = time.monotonic()
    try:
        settings()(check)()  # the profile of now, not of when the property was defined
    except Exception:  # noqa: BLE001 - whatever it is, the others are still run
        traceback.print_exc(file=sys.stdout)
        print(f"FAILED {check.__name__}")
        return False
    print(f"ok     {check.__name__} ({examples} examples, {time.monotonic() - began:.1f} s)")
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long.properties")
    parser.add_argument("--quick", action="store_true", help="fewer examples, always the same")
    parser.add_argument("--only", default="", metavar="WORD", help="properties with this word")
    options = parser.parse_args(arguments)
    server.HASH_COST = (1, 1, 1)  # in this process: plain passwords in files are hashed for nothing
    results = []
    with temporary_folder() as folder, contextlib.chdir(folder):
        configuration.set_hypothesis_home_dir(folder)  # its caches, too, leave nothing behind
        for check, full, quick in PROPERTIES:
            if options.only not in check.__name__:
                continue
            if check is client_refuses_what_the_server_refuses and not hasattr(client, "check"):
                print(f"absent {check.__name__}: no client.check")
                continue
            results.append(run(check, quick if options.quick else full, options.quick))
    held = sum(results)
    print(f"{held} of {len(results)} properties held.")
    return 0 if held == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
