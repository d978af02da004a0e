"""What must hold for any input: the grammar, the framing, the users.txt reader.

    python -m tests.long.properties [--quick] [NAME ...]

Needs hypothesis. Each property says what must hold in words of its own, after the specification,
so that a mistake in server.py is not simply repeated here. A failure prints the smallest input that
shows it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import HealthCheck, configuration, event, given, settings
from hypothesis import strategies as st

import client
import server
from tests.helpers import suite
from tests.helpers.cases import CASES
from tests.helpers.grammar import understood
from tests.helpers.process import CHEAP_HASH, temporary_folder

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
        return ("send", "all", message)
    return ("send", parts["recipient"], message) if is_lawful_userid(parts["recipient"]) else None


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
    outcome = understood(line)
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
    outcome = understood(line.replace(b"\n", b""))
    if isinstance(outcome, tuple):
        event("a command")
        assert understood(render(outcome)) == outcome


# What the client leaves to the server: which characters a UserID, a password or a message may hold.
OF_CHARACTERS = re.compile(
    r"Denied\. (?:UserID may hold|UserID \"|Password must be printable|Message must be printable).*"
)


@given(lines)
def client_refuses_what_the_server_refuses(line: bytes) -> None:
    """What the client refuses the server refuses, in the same words unless it is for characters."""
    line = line.replace(b"\n", b"")
    outcome = understood(line)
    try:
        client.check(line)
    except client.Denied as denied:
        assert isinstance(outcome, str), (line, str(denied), outcome)
        assert outcome == str(denied) or OF_CHARACTERS.fullmatch(outcome), (
            line,
            str(denied),
            outcome,
        )
    else:
        is_passed = not isinstance(outcome, str) or OF_CHARACTERS.fullmatch(outcome)
        assert is_passed, (line, outcome)


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
    """Bytes that come one by one give the same lines."""
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
    event("read, torn" if users.is_torn else "read")
    assert users.records == lawful, (users.records, lawful)


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
    again.load()
    again.close()
    assert (again.records, path.read_bytes()) == (accounts.records, after), "loading twice differs"
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
    accounts.open()
    known = dict(accounts.records)
    assert accounts.add("Newcomer", CHEAP_HASH)
    assert not accounts.add("Newcomer", OTHER_HASH)
    accounts.close()
    after = path.read_bytes()
    assert after.startswith(before)
    assert server.read_users(after, "users.txt").records == known | {"Newcomer": CHEAP_HASH}


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
# All of them, with as many examples as there is time for.
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


def case_of(check: Callable[[], None], full: int, short: int) -> suite.Case:
    def run(quick: bool) -> str:
        count = short if quick else full
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
