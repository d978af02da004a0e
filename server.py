"""A chat room server: one file, standard library only.

Run it, and whoever reaches this machine is talking:

    python server.py                    in one terminal
    python client.py                    in several others, or: nc 127.0.0.1 14850

The wire is UTF-8 text, one line per command or reply, ended by LF:

    login UserID Password       joins the room
    newuser UserID Password     creates an account, kept in users.txt
    send all Message            to everyone else in the room
    send UserID Message         to that user only
    who                         lists everyone in the room
    logout                      leaves; so does closing the connection

A line of text travels down this page: bytes are framed and parsed (grammar), checked against who
may do what (session), said in the room (room) and delivered by the courier, the only thread that
writes to sockets. Each connection has a thread of its own that only reads.

    bytes -> Framing -> parse() -> Session -> Room -> Courier -> sockets, display and log

One lock guards the room, and nothing that can block happens under it: no socket call, no hash, no
disk, no print. To know how nothing a client does can delay another, read the courier.
"""

from __future__ import annotations

import _thread
import argparse
import base64
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import math
import os
import re
import select
import selectors
import signal
import socket
import struct
import sys
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from io import FileIO, RawIOBase
from pathlib import Path
from types import FrameType, ModuleType
from typing import TextIO, cast

fcntl: ModuleType | None
resource: ModuleType | None
try:
    import fcntl
    import resource
except ImportError:  # Windows: a second server on the same users.txt then goes unnoticed
    fcntl = resource = None

MAXCLIENTS = 3  # users in the room; the constant to edit, or use --max-clients
HOST = "127.0.0.1"  # this machine only; --host 0.0.0.0 opens the room to the network
PORT = 14850
USERS = Path(__file__).resolve().parent / "users.txt"
RATE = 10  # lines a second that are read from one connection past its burst; 0 lifts this
VERSION = "1.0"

MAX_LINE = 2048  # bytes, without the line end: 256 code points of 4 bytes fit twice
READ_SIZE = 1024  # bytes for each read: held by every waiting thread, so kept small
SKIP_UNIT = 65536  # bytes of an overlong line that cost its sender as much as a line

BURST = 20  # lines read at full speed before --rate applies
LOGIN_SECONDS = 300  # a connection must have logged in by then, however busy it is
LOGIN_TRIES = 3  # failed logins on one connection before it is closed
FAILURE_DELAY = 1.0  # seconds that a wrong password costs its connection
FAILURES = 10  # failed logins that an address may make before it has to wait ...
FAILURE_SECONDS = 6  # ... this long for each further try
FAILURE_ADDRESSES = 10_000  # addresses remembered for that, the oldest forgotten first
LOBBY = 100  # connections that have not logged in; the next one evicts the oldest

OUTBOX_LIMIT = 1 << 20  # bytes that may wait for one connection
STALL_SECONDS = 30  # with bytes waiting and none written for so long, it is dropped
LINGER_SECONDS = 0.5  # for the other side to close first, so that no last line is lost to a reset
DRAIN_PAUSE = 0.01  # seconds between reads of what nobody wants any more
POST_LIMIT = 512  # lines waiting for the courier's next round before readers pause
SEND_BUFFER = 256 * 1024  # bytes in the kernel for each connection, so that it is bounded too
KEEPALIVE = (  # a dead peer is found within 2 minutes: 30 s idle, then 3 probes 10 s apart, or ...
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPALIVE", 30),  # the same on macOS
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 55_000),  # ... 55 s (in ms) on top, if data was sent meanwhile
)
SCRIBE_LIMIT = 10_000  # lines that wait for a slow terminal or disk before some are not shown
BACKLOG = 4096  # connections that the kernel keeps until they are accepted
ACCEPT_PAUSE = 1.0  # seconds before accept is tried again when descriptors have run out
STOP_SECONDS = 1.2  # for the last lines when the server stops, whatever the clients do
THREAD_STACK = 256 * 1024  # bytes; the default of 8 MiB would cost address space for nothing

HASH_COST = (14, 8, 1)  # scrypt's log2(N), r and p: 16 MiB and some 50 ms for each try
HASH_MEMORY = 1 << 28  # bytes; a line in users.txt that asks for more is refused
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # missing on Windows: see Session.receive

# --------------------------------------------------------------------------------------------------
# Grammar: a line in, a command out, or Denied with the exact reply. Pure functions: no sockets, no
# files, no state. client.py holds the same checks, and tests/helpers/cases.py holds both to one table.
# --------------------------------------------------------------------------------------------------

USAGE = {
    "login": "login UserID Password",
    "newuser": "newuser UserID Password",
    "send": "send all|UserID Message",
    "who": "who",
    "logout": "logout",
}
# `all` means everyone, and what a user called Usage says would look like a server's `Usage: who`.
RESERVED = ("all", "usage")
# C0, DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates:
# whatever could move a reader's cursor or make a line look like another's.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Letters and marks that show nothing: with them a second "Tom" could look like the first.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
# Letters dressed up as others (bold, fullwidth, superscript): not a script, only a disguise.
DISGUISES = ("<font>", "<wide>", "<narrow>", "<super>", "<sub>")
# First words of Unicode names that stand for a script with another first word.
SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "IDEOGRAPHIC": "CJK", "EXTENDED": "ARABIC"}


class Denied(Exception):
    """A refusal; its text is the whole line that goes to the one who asked."""


@dataclass(frozen=True, slots=True)
class Login:
    userid: str
    password: str


@dataclass(frozen=True, slots=True)
class NewUser:
    userid: str
    password: str


@dataclass(frozen=True, slots=True)
class SendAll:
    message: str


@dataclass(frozen=True, slots=True)
class Send:
    recipient: str
    message: str


@dataclass(frozen=True, slots=True)
class Who:
    pass


@dataclass(frozen=True, slots=True)
class Logout:
    pass


Command = Login | NewUser | SendAll | Send | Who | Logout


def parse(line: bytes) -> Command | None:
    """Return the command that a line asks for, or None for an empty line.

    line: any bytes, without the LF; a CR at its end is dropped.
    Raises Denied with the reply for whatever is not a command to the letter.
    """
    line = line.removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise Denied(f"Denied. Line longer than {MAX_LINE} bytes.")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Denied("Denied. Not valid UTF-8.") from None
    word, _, rest = text.lstrip(" ").partition(" ")
    match word.lower():
        case "":
            return None
        case "login":
            return Login(*parse_account(rest, "login"))
        case "newuser":
            return NewUser(*parse_account(rest, "newuser"))
        case "send":
            return parse_send(rest)
        case "who":
            refuse_words(rest, "who")
            return Who()
        case "logout":
            refuse_words(rest, "logout")
            return Logout()
    shown = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", word[:32])
    raise Denied(f'Denied. Unknown command "{shown}". Commands: {", ".join(USAGE)}.')


def parse_account(rest: str, command: str) -> tuple[str, str]:
    """Return the UserID and password in `rest`, both NFC-normalised."""
    words = [word for word in rest.split(" ") if word]
    if len(words) != 2:
        raise Denied(f"Usage: {USAGE[command]}")
    return check_userid(words[0]), check_password(words[1])


def parse_send(rest: str) -> SendAll | Send:
    recipient, space, message = rest.lstrip(" ").partition(" ")
    if not space:
        raise Denied(f"Usage: {USAGE['send']}")
    if recipient == "all":
        return SendAll(check_message(message))
    return Send(check_userid(recipient), check_message(message))


def refuse_words(rest: str, command: str) -> None:
    if rest.strip(" "):
        raise Denied(f"Usage: {USAGE[command]}")


def check_userid(text: str) -> str:
    """Return a UserID in NFC (after RFC 8265, but case matters), or raise Denied.

    3 to 32 code points: letters with their marks and decimal digits of one script, and _ - .
    """
    userid = unicodedata.normalize("NFC", text)
    if not 3 <= len(userid) <= 32:
        raise Denied("Denied. UserID must be 3 to 32 characters.")
    if not is_of_one_script(userid):
        raise Denied("Denied. UserID may hold letters and digits of one script, and _ - .")
    if userid.lower() in RESERVED:
        raise Denied(f'Denied. UserID "{userid.lower()}" is reserved.')
    return userid


def is_of_one_script(userid: str) -> bool:
    """Tell whether all letters, marks and digits belong to one script.

    The first word of a character's Unicode name tells its script. ASCII digits go with every
    script, as do COMBINING marks, but a mark must follow a letter.
    """
    scripts = set()
    after_letter = False
    for character in userid:
        if character in "0123456789_-.":
            after_letter = False
            continue
        category = unicodedata.category(character)
        is_mark = category in ("Mn", "Mc")
        if not (category[0] == "L" or category == "Nd" or (is_mark and after_letter)):
            return False
        if character in INVISIBLE or unicodedata.decomposition(character).startswith(DISGUISES):
            return False
        word = re.split("[ -]", unicodedata.name(character, ""))[0]
        if word != "COMBINING":
            scripts.add(SCRIPTS.get(word, word))
        after_letter = is_mark or category[0] == "L"
    return len(scripts) <= 1


def check_password(text: str) -> str:
    """Return a password in NFC, 4 to 8 printable code points without space, or raise Denied."""
    password = unicodedata.normalize("NFC", text)
    if not 4 <= len(password) <= 8:
        raise Denied("Denied. Password must be 4 to 8 characters.")
    if " " in password or not password.isprintable():
        raise Denied("Denied. Password must be printable characters without spaces.")
    return password


def check_message(text: str) -> str:
    """Return a message, tabs made spaces and ends trimmed: 1 to 256 code points. Raises Denied."""
    message = text.replace("\t", " ").strip(" ")
    if not 1 <= len(message) <= 256:
        raise Denied("Denied. Message must be 1 to 256 characters.")
    if UNSAFE.search(message):
        raise Denied("Denied. Message must be printable text.")
    return message


# --------------------------------------------------------------------------------------------------
# Accounts: users.txt, a line each: (Tom, $scrypt$ln=14,r=8,p=1$<salt>$<hash>). Read at start, then
# only appended to; what somebody else changed meanwhile is read again before the next newuser.
# --------------------------------------------------------------------------------------------------

HASH = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]{0,2}),p=([1-9][0-9]?)"
    r"\$([A-Za-z0-9+/]{22})\$([A-Za-z0-9+/]{43})"
)
# The lines that the server itself writes for plain ASCII names: they need no further checks, which
# makes a million of them load in about a second.
OWN_LINE = re.compile(
    r"\((?!(?i:all|usage),)([A-Za-z0-9_.-]{3,32}), "
    r"(\$scrypt\$ln=14,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43})\)"
)


class AccountsError(Exception):
    """users.txt cannot be used; the text says where and why, in one line."""


def hash_password(password: str) -> str:
    """Return a salted scrypt hash (RFC 7914) as a PHC string.

    Standard base64 without padding, 16 bytes of salt, 32 of key.
    """
    cost, blocks, lanes = HASH_COST
    salt = os.urandom(16)
    key = derive_key(password, salt, cost, blocks, lanes)
    return f"$scrypt$ln={cost},r={blocks},p={lanes}${encode64(salt)}${encode64(key)}"


def verify_password(password: str, record: str) -> bool:
    """Tell whether `record`, a PHC string that parse_hash accepts, was made from `password`."""
    cost, blocks, lanes, salt, key = parse_hash(record)
    return hmac.compare_digest(derive_key(password, salt, cost, blocks, lanes), key)


def derive_key(password: str, salt: bytes, cost: int, blocks: int, lanes: int) -> bytes:
    memory = 128 * blocks * (2**cost + lanes + 2)  # what scrypt needs; OpenSSL's default is less
    return hashlib.scrypt(
        password.encode(), salt=salt, n=2**cost, r=blocks, p=lanes, maxmem=memory, dklen=32
    )


def parse_hash(record: str) -> tuple[int, int, int, bytes, bytes]:
    """Return log2(N), r, p, salt and key of a PHC scrypt string; raise ValueError if it is none."""
    found = HASH.fullmatch(record)
    if not found:
        raise ValueError("neither a password of 4 to 8 characters nor a scrypt hash")
    cost, blocks, lanes = (int(number) for number in found.group(1, 2, 3))
    # The second bound is RFC 7914's: N must be less than 2 ** (128 * r / 8).
    if 128 * blocks * 2**cost > HASH_MEMORY or cost >= 16 * blocks or lanes > 16:
        raise ValueError("a scrypt hash with parameters out of bounds")
    salt, key = (base64.b64decode(field + "=" * (-len(field) % 4)) for field in found.group(4, 5))
    return cost, blocks, lanes, salt, key


def encode64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def account_line(userid: str, record: str) -> str:
    return f"({userid}, {record})\n"


@dataclass(slots=True)
class UsersFile:
    """What a users.txt holds: its lines as they are, the hashes, and what needs mending."""

    lines: list[str]
    hashes: dict[str, str]
    plain: dict[int, tuple[str, str]]  # line index: UserID and password still in plain text
    torn: bool  # the last line was cut short by a crash


def read_users(data: bytes, name: str) -> UsersFile:
    """Read a users.txt; raise AccountsError with `name:7: reason` for a line that is none."""
    # Surrogates carry what is not UTF-8 through a comment unharmed; in an account they are refused.
    lines = data.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
    users = UsersFile(lines, {}, {}, torn=False)
    hashes = users.hashes
    for index, line in enumerate(lines):
        if own := OWN_LINE.fullmatch(line):
            userid, field = own.group(1, 2)
        elif not line.strip() or line.startswith("#"):
            continue
        else:
            try:
                userid, field = read_account(line)
            except ValueError as error:
                # The server writes a line and its end as one: without the end it is torn. After a
                # power cut, NUL bytes may stand for what had not reached the disk.
                if index == len(lines) - 1 or ("\0" in line and not any(lines[index + 1 :])):
                    users.torn = True
                    del lines[index + 1 :]
                    break
                raise AccountsError(f"{name}:{index + 1}: {error}") from None
            if len(field) <= 8:
                users.plain[index] = (userid, field)
        if userid in hashes:
            raise AccountsError(f"{name}:{index + 1}: a second account for {userid}; keep one.")
        hashes[userid] = field
    return users


def read_account(line: str) -> tuple[str, str]:
    """Return a line's UserID, and its hash or plain password; raise ValueError with the reason."""
    text = line.strip(" \t\r")
    userid, comma, field = text[1:-1].partition(",")
    if not (text.startswith("(") and text.endswith(")") and comma):
        raise ValueError("not an account; write (UserID, Password), or # before a comment.")
    try:
        userid = check_userid(userid.strip(" "))
        field = unicodedata.normalize("NFC", field.strip(" "))
        if len(field) <= 8:
            return userid, check_password(field)
        parse_hash(field)
    except Denied as denied:
        raise ValueError(str(denied).removeprefix("Denied. ")) from None
    except ValueError as error:
        raise ValueError(f"the second field is {error}.") from None
    return userid, field


class Accounts:
    """The accounts in users.txt, locked against a second server for as long as this one runs."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """path: of users.txt; warn: is told in a line what was found wrong and mended."""
        self.path = Path(os.path.realpath(path))  # a link stays a link when the file is replaced
        self.warn = warn
        self.hashes: dict[str, str] = {}
        self.usual_cost = HASH_COST  # that of the first account in the file
        self.lock = threading.Lock()  # held while the file is written; never by a login
        self.file: int | None = None  # descriptor, open and locked
        self.left: tuple[int, ...] | None = None  # what the file looked like when we left it
        self.needs_line_end = False
        self.unwritable = 0  # errno, if the file could only be opened for reading

    def load(self) -> None:
        """Read the file, hash plain passwords and set aside a torn line.

        A missing file means no accounts yet. Raises AccountsError; the accounts are then as before.
        """
        self.close()
        try:
            self.file = self._open_locked()
            # Looked at before it is read: a change meanwhile is then noticed.
            self.left = look(os.fstat(self.file))
            with open(self.file, "rb", closefd=False) as file:
                users = read_users(file.read(), self.path.name)
            self._mend(users)
        except FileNotFoundError:
            return
        except AccountsError:
            self.close()
            raise
        except BlockingIOError:
            raise AccountsError(
                f"{self.path.name} is in use by another server. "
                "Stop that one, or name another file with --users."
            ) from None
        except OSError as error:
            self.close()
            raise AccountsError(f"{self.path.name}: {error.strerror}.") from None
        self.hashes = users.hashes
        if users.hashes:
            self.usual_cost = parse_hash(next(iter(users.hashes.values())))[:3]
        self.needs_line_end = bool(users.lines[-1])

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)
        self.file = self.left = None

    def verify(self, userid: str, password: str) -> bool:
        """Tell whether the password is the user's; costs one hash even if there is no such user."""
        record = self.hashes.get(userid)
        if record is not None:
            return verify_password(password, record)
        derive_key(password, bytes(16), *self.usual_cost)  # the time tells nobody who has one
        return False

    def add(self, userid: str, record: str) -> bool:
        """Write an account and sync it to disk; return False if the UserID is taken.

        Costs the same however many accounts there are. Raises OSError or AccountsError if it
        cannot be saved; the file is then as it was.
        """
        with self.lock:
            while True:
                if self.left is None or self._look() != self.left:
                    self.load()  # new, or changed by somebody else: take their accounts into ours
                if self.file is None:
                    self._create()
                if userid in self.hashes:
                    return self.hashes[userid] == record  # ours, if copied while it was written
                self._append(account_line(userid, record))
                if self._is_in_place():
                    self.hashes[userid] = record
                    return True

    def _open_locked(self) -> int:
        binary = getattr(os, "O_BINARY", 0)
        while True:
            self.unwritable = 0
            try:
                file = os.open(self.path, os.O_RDWR | os.O_APPEND | binary)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                self.unwritable = error.errno  # good enough for logins
                file = os.open(self.path, os.O_RDONLY | binary)
            try:
                lock_file(file)
                if os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # replaced between open and lock: take the new one

    def _mend(self, users: UsersFile) -> None:
        passwords = [password for _, password in users.plain.values()]
        for index, record in zip(users.plain, hash_passwords(passwords), strict=True):
            userid = users.plain[index][0]
            users.lines[index] = account_line(userid, record).rstrip("\n")
            users.hashes[userid] = record
        if users.torn:
            self.warn(
                f"{self.path.name}:{len(users.lines)}: the last line was cut short by a crash and "
                "never confirmed; it is now a comment."
            )
            # Without the second field: what an editor cut short may be a plain password.
            name = ascii(users.lines[-1].partition(",")[0])
            users.lines[-1:] = [f"# cut short by a crash: {name}", ""]
        if users.plain or users.torn:
            self._replace("\n".join(users.lines).encode(errors="surrogateescape"))

    def _replace(self, data: bytes) -> None:
        """Put a new file in the place of the old in one atomic step, mode and owner kept."""
        assert self.file is not None
        old, temporary = self.file, self.path.with_name(f".{self.path.name}.new")
        status = os.fstat(old)
        temporary.unlink(missing_ok=True)  # left by a crash; ours alone, as the lock is
        new = create_file(temporary)
        try:
            if hasattr(os, "fchown"):
                if (status.st_uid, status.st_gid) != (os.getuid(), os.getgid()):
                    os.fchown(new, status.st_uid, status.st_gid)
                os.fchmod(new, status.st_mode & 0o7777)
            write_all(new, data)
            os.fsync(new)
            lock_file(new)  # before it has the name, so that no other server can come between
            if fcntl is None:
                self.close()  # Windows replaces no open file
            os.replace(temporary, self.path)
        except BaseException:
            os.close(new)
            temporary.unlink(missing_ok=True)
            raise
        self.close()
        self.file = new
        self.left = look(os.fstat(new))
        sync_directory(self.path.parent)

    def _create(self) -> None:
        """Make the file, which is missing; with all accounts that we know, should it be lost."""
        self.file = create_file(self.path)
        self.needs_line_end = False
        try:
            lock_file(self.file)
            sync_directory(self.path.parent)
            self._append("".join(account_line(*account) for account in self.hashes.items()))
        except OSError:
            self.path.unlink()  # or the next load would take it for an empty users.txt
            self.close()
            raise

    def _append(self, text: str) -> None:
        assert self.file is not None
        known = self.left[0] if self.left else 0
        self.left = None  # until all is well: the next newuser reads the file again
        if self.unwritable:
            raise OSError(self.unwritable, os.strerror(self.unwritable))
        data = ("\n" if self.needs_line_end else "").encode() + text.encode()
        end = os.fstat(self.file).st_size
        try:
            write_all(self.file, data)
            os.fsync(self.file)
        except OSError:
            with contextlib.suppress(OSError):  # then the next load sets the torn line aside
                os.ftruncate(self.file, end)
            raise
        self.needs_line_end = False
        status = os.fstat(self.file)
        if status.st_size == known + len(data):  # else somebody wrote to it just now
            self.left = look(status)

    def _is_in_place(self) -> bool:
        """Tell whether the file that we have open is still the one that has the name."""
        assert self.file is not None
        try:
            return os.path.samestat(os.fstat(self.file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _look(self) -> tuple[int, ...] | None:
        try:
            return look(os.stat(self.path))
        except FileNotFoundError:
            return None


def look(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells whether a file is as we left it: its size, and what else gives it away."""
    return (
        status.st_size,
        status.st_mtime_ns,
        status.st_dev,
        status.st_ino,
        status.st_mode,
    )


def hash_passwords(passwords: Sequence[str]) -> list[str]:
    """Hash on every core; say how far it is on standard error once it takes over a second."""
    records: list[str] = []
    told = time.monotonic()
    with ThreadPoolExecutor(CORES) as pool:
        for record in pool.map(hash_password, passwords):
            records.append(record)
            if time.monotonic() - told > 1:
                told = time.monotonic()
                print(f"Hashing passwords: {len(records)} of {len(passwords)}.", file=sys.stderr)
    return records


def lock_file(file: int) -> None:
    """Lock a file against other servers; raise BlockingIOError if one has it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def create_file(path: Path) -> int:
    """Create a file that nobody else may read and that did not exist; return its descriptor."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)


def write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def sync_directory(path: Path) -> None:
    """Make a new name durable; Windows cannot open a folder, and needs no such call."""
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# --------------------------------------------------------------------------------------------------
# Post: what the room wants delivered, in the one order of the room. A line to everyone is posted
# once, not once for each: the courier knows who is listening when it comes to that line.
# --------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Outbox:
    """The sending side of a connection. Whoever posts only names it; all else is the courier's."""

    connection: socket.socket
    on_lost: Callable[[str], None]  # told why the courier gave it up
    listening: bool = False  # gets the room's lines
    hung_up: bool = False  # gets nothing more, and is closed once all that waits is sent
    linger: float = LINGER_SECONDS  # 0, set before HANG_UP, for who is not worth the wait
    lost: bool = False  # the connection failed, or was given up
    released: bool = False  # its reader has gone and will not touch the socket again
    # What it gets in this round, if that is not just the room's lines; and how much of those, in
    # bytes, is in there or left out already.
    pieces: list[bytes | slice] | None = None
    mark: int = 0
    waiting: list[memoryview] = field(default_factory=list)  # what the kernel did not take
    waiting_size: int = 0  # bytes
    deadline: float = math.inf  # monotonic seconds: for progress, or for the other side to close


class Action(Enum):
    OPEN = auto()  # a new outbox
    BROADCAST = auto()  # a line to all who listen, but for this outbox
    UNICAST = auto()  # a line to this outbox
    LISTEN = auto()  # from here on it gets the room's lines
    HANG_UP = auto()  # from here on it gets nothing
    RELEASE = auto()  # its reader is done with the socket
    SHOW = auto()  # a line for the display and the log


Order = tuple[Action, Outbox | None, str, str]  # what, for whom, the line, whose address is shown


class Post:
    """Orders for the courier, carried out one by one. Nothing here blocks but the pause."""

    def __init__(self) -> None:
        self.orders: deque[Order] = deque()  # append and popleft are atomic
        self.asleep = False  # the courier is, or is about to be
        self.ring: Callable[[], None] = lambda: None
        self.taken = threading.Condition()

    def broadcast(self, line: str, omit: Outbox, address: str = "") -> None:
        """address: of who said it, if the line is to be shown as well."""
        self.orders.append((Action.BROADCAST, omit, line, address))

    def unicast(self, line: str, outbox: Outbox, address: str = "") -> None:
        self.orders.append((Action.UNICAST, outbox, line, address))

    def show(self, line: str, address: str = "-") -> None:
        self.orders.append((Action.SHOW, None, line, address))

    def instruct(self, action: Action, outbox: Outbox) -> None:
        self.orders.append((action, outbox, "", ""))

    def wake(self) -> None:
        """Have the posted orders carried out. To be called without a lock, as it may ring."""
        if self.asleep:
            self.asleep = False
            self.ring()

    def pause(self) -> None:
        """Wait while the courier has its hands full. It waits for nobody, so this ends soon."""
        if len(self.orders) > POST_LIMIT:
            with self.taken:
                self.taken.wait_for(lambda: len(self.orders) <= POST_LIMIT)


# --------------------------------------------------------------------------------------------------
# Room: who is in, who waits at the door, and the order in which all of them hear what is said.
# --------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Member:
    """One connection as the room sees it: at the door while `userid` is None, then inside."""

    outbox: Outbox
    address: str  # as shown
    userid: str | None = None
    arrived: float = field(default_factory=time.monotonic)
    gone: bool = False  # set once, by whoever closes the session
    # Held until then: to wait for it with a timeout is to wait for `gone`. An Event does the same,
    # at 1.5 kB for each connection.
    stay: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.stay.acquire()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the session is closed."""
        if self.stay.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self.stay.release()


class Room:
    """The locked session table. Its methods are the only way in and the only way out."""

    def __init__(self, post: Post, limit: int) -> None:
        """limit: of users in the room."""
        self.post = post
        self.limit = limit
        self.lock = threading.Lock()  # guards all below; nothing that can block happens under it
        self.users: dict[str, Member] = {}
        self.lobby: dict[Member, None] = {}  # in order of arrival
        self.closed = False

    def arrive(self, member: Member) -> None:
        """Let a connection wait at the door; more than LOBBY of them, and the oldest must go."""
        with self.lock:
            self.post.instruct(Action.OPEN, member.outbox)
            self.lobby[member] = None
            if self.closed:
                self._remove(member, "The server is shutting down.")
            elif len(self.lobby) > LOBBY:
                oldest = next(iter(self.lobby))
                oldest.outbox.linger = 0  # or a flood of connections would pile up here instead
                self._remove(oldest, "Denied. The server is busy.")
                self.post.show("Connection closed: the server is busy.", oldest.address)
        self.post.wake()

    def enter(self, member: Member, userid: str) -> None:
        """Bring a user in, in the place of an older session of theirs. Raises Denied if full."""
        with self.lock:
            if member.gone:
                return
            older = self.users.get(userid)
            if older is None and len(self.users) >= self.limit:
                full = f"The chat room is full ({len(self.users)} of {self.limit})."
                self.post.show(f"Login refused for {userid}: {full}", member.address)
                raise Denied(f"Denied. {full}")
            if older is not None:
                self._close(older, f"Denied. {userid} logged in from another connection.")
                self.post.show(f"{userid} logout (logged in elsewhere).", older.address)
            del self.lobby[member]
            self.users[userid] = member
            member.userid = userid
            self.post.unicast("login confirmed", member.outbox)
            self.post.instruct(Action.LISTEN, member.outbox)
            if older is None:
                self.post.broadcast(f"{userid} joins.", omit=member.outbox)
            self.post.show(f"{userid} login.", member.address)
        self.post.wake()

    def leave(self, member: Member, how: str = "", farewell: str = "") -> None:
        """Take a connection out, once, whoever calls first and for whatever reason.

        how: for the display, as in " (not reading)"; farewell: the last line that it gets.
        """
        with self.lock:
            if not member.gone:
                self._remove(member, farewell, how)
        self.post.wake()

    def say(self, member: Member, message: str) -> None:
        with self.lock:
            if not member.gone:
                line = f"{member.userid}: {message}"
                self.post.broadcast(line, member.outbox, member.address)
        self.post.wake()

    def tell(self, member: Member, recipient: str, message: str) -> None:
        """Deliver a private message. Raises Denied if the recipient is not in the room."""
        with self.lock:
            if member.gone:
                return
            if recipient not in self.users:
                raise Denied(f"Denied. {recipient} is not in the chat room.")
            line = f"{member.userid} (to {recipient}): {message}"
            self.post.unicast(line, self.users[recipient].outbox, member.address)
        self.post.wake()

    def list_users(self, member: Member) -> None:
        with self.lock:
            self.post.unicast(", ".join(sorted(self.users)), member.outbox)
        self.post.wake()

    def expire(self, now: float) -> float:
        """Send off who has not logged in for too long; return the next time to look.

        Both in monotonic seconds.
        """
        with self.lock:
            for member in list(self.lobby):  # the oldest first
                if member.arrived + LOGIN_SECONDS > now:
                    break
                self._remove(member, f"Denied. No login within {LOGIN_SECONDS} seconds.")
            oldest = next(iter(self.lobby), None)
        self.post.wake()
        return oldest.arrived + LOGIN_SECONDS if oldest else now + LOGIN_SECONDS

    def close(self) -> None:
        """Send everyone off: the server stops."""
        with self.lock:
            self.closed = True
            self.post.show("The server is shutting down.")
            for member in [*self.users.values(), *self.lobby]:
                self._close(member, "The server is shutting down.")
            self.users.clear()
            self.lobby.clear()
        self.post.wake()

    def _remove(self, member: Member, farewell: str, how: str = "") -> None:
        self._close(member, farewell)
        self.lobby.pop(member, None)
        if member.userid is not None:
            del self.users[member.userid]
            self.post.broadcast(f"{member.userid} left.", omit=member.outbox)
            self.post.show(f"{member.userid} logout{how}.", member.address)

    def _close(self, member: Member, farewell: str) -> None:
        member.gone = True
        member.stay.release()
        if farewell:
            self.post.unicast(farewell, member.outbox)
        self.post.instruct(Action.HANG_UP, member.outbox)


# --------------------------------------------------------------------------------------------------
# Display and log: listeners too. Each has a thread that may wait for a terminal or a disk as long
# as it takes; the room only leaves lines with it, and past a bound they are counted, not kept.
# --------------------------------------------------------------------------------------------------

Shown = tuple[float, str, str]  # seconds since the epoch, address, line


def display_format(shown: Shown) -> str:
    return shown[2]


def log_format(shown: Shown) -> str:
    seconds, address, line = shown
    shown_at = datetime.fromtimestamp(seconds).astimezone()
    return f"{shown_at.isoformat(timespec='milliseconds')} {address} {line}"


class Scribe:
    """Writes lines to one stream, and says how many it could not."""

    def __init__(
        self,
        stream: RawIOBase,
        encoding: str,
        form: Callable[[Shown], str],
        on_failure: Callable[[OSError], None],
    ) -> None:
        """stream: unbuffered; on_failure: is told once when it can no longer be written to."""
        self.stream = stream
        self.encoding = encoding
        self.form = form
        self.on_failure = on_failure
        self.news = threading.Condition()  # guards all below
        self.lines: list[Shown] = []
        self.missed = 0
        self.has_news = False
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def write(self, lines: list[Shown]) -> None:
        """Leave lines to be written; never waits."""
        with self.news:
            # Once a line is missed, so are those behind it until the gap has been told.
            kept = 0 if self.missed else max(0, SCRIBE_LIMIT - len(self.lines))
            self.lines += lines[:kept]
            self.missed += len(lines[kept:])
            self.has_news = True
            self.news.notify()

    def close(self, seconds: float) -> None:
        """Give it at most so long to write what it has."""
        with self.news:
            self.closing = True
            self.news.notify()
        self.thread.join(seconds)

    def _run(self) -> None:
        failed = False
        line_end = b""  # what a line torn by a failure still lacks
        while True:
            with self.news:
                self.news.wait_for(lambda: self.has_news or self.closing)
                if not self.has_news:
                    return
                self.has_news = False
                lines, self.lines = self.lines, []
                missed, self.missed = self.missed, 0
            text = "".join(f"{self.form(line)}\n" for line in lines)
            body = line_end + text.encode(self.encoding, "backslashreplace")
            data = body + (f"({missed} lines not shown)\n".encode() if missed else b"")
            written, failure = self._write(data)
            if failure:
                with self.news:
                    self.missed += missed + body[written:].count(b"\n")
                if not failed:
                    self.on_failure(failure)
            failed = failure is not None
            if written:
                line_end = b"" if data[written - 1 : written] == b"\n" else b"\n"

    def _write(self, data: bytes) -> tuple[int, OSError | None]:
        """Return how many bytes were written, and why not all."""
        written = 0
        while written < len(data):
            try:
                count = self.stream.write(data[written:])
            except OSError as error:
                return written, error
            if count is None:  # somebody made it non-blocking, as a shared terminal may be
                select.select([], [self.stream], [])
            else:
                written += count
        return written, None


# --------------------------------------------------------------------------------------------------
# Courier: the only thread that writes to sockets. It takes all orders that wait, makes of them one
# piece of bytes for each connection, and sends that at once. The busier the room, the more lines
# each send carries, and the cheaper a line. It never waits for a socket: what one does not take
# stays in that outbox, and nobody else notices.
# --------------------------------------------------------------------------------------------------


class Courier:
    def __init__(self, post: Post) -> None:
        self.post = post
        self.scribes: list[Scribe] = []
        self.outboxes: set[Outbox] = set()  # all, from accept to close
        self.listeners: dict[Outbox, None] = {}  # those in the room, in order of entry
        self.stalled: set[Outbox] = set()  # watched until the kernel takes more
        self.timed: set[Outbox] = set()  # stalled ones, and those whose other side has yet to close
        self.next_deadline = math.inf  # no deadline of a timed outbox is earlier; monotonic seconds
        self.stopping = False
        # One round's work: lines to everyone, and the outboxes that get more, or less, than those.
        self.public: list[bytes] = []
        self.public_size = 0
        self.touched: list[Outbox] = []
        self.shown: list[Shown] = []
        self.selector = selectors.DefaultSelector()
        self.bell, self.bell_rope = socket.socketpair()
        self.bell.setblocking(False)
        self.bell_rope.setblocking(False)
        self.selector.register(self.bell, selectors.EVENT_READ)
        post.ring = self._ring

    def run(self) -> None:
        """Deliver until the server stops and all outboxes are closed."""
        while not (self.stopping and not self.outboxes and not self.post.orders):
            self._sleep()
            if self.post.orders:
                self._round()
                if self.post.orders:
                    time.sleep(0)  # busy: readers first, so that the next round carries more
            now = time.monotonic()
            if now >= self.next_deadline:
                self._expire(now)

    def stop(self) -> None:
        """Have run() return once all outboxes are closed; the room must have been closed before."""
        self.stopping = True
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is full of rings already
            self.bell_rope.send(b"!")

    def _sleep(self) -> None:
        """Wait for orders, for stalled sockets that take more, or for the next deadline."""
        timeout: float | None = 0
        if not self.post.orders:
            self.post.asleep = True
            # Looked at again, as who posted before `asleep` was set did not ring.
            if not self.post.orders:
                left = self.next_deadline - time.monotonic()
                timeout = None if left == math.inf else max(0, left)
        if timeout != 0 or self.stalled:
            for key, _ in self.selector.select(timeout):
                if key.fileobj is self.bell:
                    self.bell.recv(4096)
                else:
                    self._flush(key.data)
        self.post.asleep = False

    def _round(self) -> None:
        """Carry out all orders that wait, with one send for each connection."""
        now = time.time()
        for _ in range(len(self.post.orders)):
            action, outbox, line, address = self.post.orders.popleft()
            if address:
                self.shown.append((now, address, line))
            if outbox is None:
                continue
            if action is Action.BROADCAST:
                self._broadcast(line, outbox)
            elif action is Action.UNICAST:
                if not outbox.hung_up:
                    self._touch(outbox).append(f"{line}\n".encode())
            else:
                self._follow(action, outbox)
        with self.post.taken:
            self.post.taken.notify_all()
        self._deliver()
        if self.shown:
            shown, self.shown = self.shown, []
            for scribe in self.scribes:
                scribe.write(shown)

    def _broadcast(self, line: str, omit: Outbox) -> None:
        data = f"{line}\n".encode()
        if omit.listening:
            self._touch(omit)
            omit.mark += len(data)  # skips the line that it is not to get
        self.public.append(data)
        self.public_size += len(data)

    def _follow(self, action: Action, outbox: Outbox) -> None:
        if action is Action.OPEN:
            self.outboxes.add(outbox)
        elif action is Action.LISTEN and not outbox.lost:
            self._touch(outbox)
            outbox.listening = True
            self.listeners[outbox] = None
        elif action is Action.HANG_UP and not outbox.hung_up:
            self._touch(outbox)
            outbox.hung_up = True
            self._stop_listening(outbox)
        elif action is Action.RELEASE:
            self._touch(outbox)
            outbox.released = True

    def _touch(self, outbox: Outbox) -> list[bytes | slice]:
        """Return the pieces that the outbox gets this round, complete up to this order."""
        if outbox.pieces is None:
            outbox.pieces = []
            outbox.mark = 0
            self.touched.append(outbox)
        if outbox.listening and outbox.mark < self.public_size:
            outbox.pieces.append(slice(outbox.mark, self.public_size))
        outbox.mark = self.public_size
        return outbox.pieces

    def _deliver(self) -> None:
        room_lines, self.public, self.public_size = b"".join(self.public), [], 0
        touched, self.touched = self.touched, []
        if room_lines:
            for outbox in tuple(self.listeners):
                if outbox.pieces is None:
                    self._send(outbox, room_lines)
        for outbox in touched:
            pieces, outbox.pieces = outbox.pieces or [], None
            if outbox.listening and outbox.mark < len(room_lines):
                pieces.append(slice(outbox.mark, None))
            data = b"".join(room_lines[x] if isinstance(x, slice) else x for x in pieces)
            if data:
                self._send(outbox, data)
            if outbox.hung_up:
                self._part(outbox)

    def _send(self, outbox: Outbox, data: bytes) -> None:
        """Send behind what already waits; keep what the kernel does not take."""
        sent = 0
        if not outbox.waiting:
            try:
                sent = outbox.connection.send(data, DONT_WAIT)
            except BlockingIOError:
                pass
            except OSError:
                self._lose(outbox, " (connection lost)")
                return
            if sent == len(data):
                return
            self.selector.register(outbox.connection, selectors.EVENT_WRITE, outbox)
            self.stalled.add(outbox)
            self._set_deadline(outbox, STALL_SECONDS)
        outbox.waiting.append(memoryview(data)[sent:])
        outbox.waiting_size += len(data) - sent
        if outbox.waiting_size > OUTBOX_LIMIT:
            self._lose(outbox, " (not reading)")

    def _flush(self, outbox: Outbox) -> None:
        """Send what waits in a stalled outbox, now that the kernel takes more."""
        data = b"".join(outbox.waiting)
        try:
            sent = outbox.connection.send(data, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            self._lose(outbox, " (connection lost)")
            return
        outbox.waiting.clear()
        outbox.waiting_size = len(data) - sent
        if outbox.waiting_size:
            outbox.waiting.append(memoryview(data)[sent:])
            self._set_deadline(outbox, STALL_SECONDS)
            return
        self._forget_deadline(outbox)
        if outbox.hung_up:
            self._part(outbox)

    def _part(self, outbox: Outbox) -> None:
        """Close in the order that loses nothing: what is owed, our end, their end, the socket."""
        if outbox.waiting:
            return
        if outbox.released:
            self._forget_deadline(outbox)
            outbox.connection.close()
            self.outboxes.discard(outbox)
        elif not outbox.lost:
            with contextlib.suppress(OSError):  # it may be gone already
                outbox.connection.shutdown(socket.SHUT_WR)
            self._set_deadline(outbox, outbox.linger)

    def _lose(self, outbox: Outbox, how: str) -> None:
        """Give up an outbox that cannot be written to, with all that waits in it."""
        if outbox.lost:
            return
        outbox.lost = outbox.hung_up = True
        outbox.waiting.clear()
        outbox.waiting_size = 0
        self._stop_listening(outbox)
        self._forget_deadline(outbox)
        outbox.on_lost(how)  # before its reader wakes, which knows no reason
        with contextlib.suppress(OSError):  # it may be gone already
            # A reset on close: the kernel's buffer, too, goes at once.
            reset = struct.pack("ii", 1, 0)
            outbox.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self._shut(outbox)
        self._part(outbox)

    def _shut(self, outbox: Outbox) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            outbox.connection.shutdown(socket.SHUT_RDWR)  # wakes its reader

    def _stop_listening(self, outbox: Outbox) -> None:
        outbox.listening = False
        self.listeners.pop(outbox, None)

    def _set_deadline(self, outbox: Outbox, seconds: float) -> None:
        outbox.deadline = time.monotonic() + seconds
        self.timed.add(outbox)
        self.next_deadline = min(self.next_deadline, outbox.deadline)

    def _forget_deadline(self, outbox: Outbox) -> None:
        self.timed.discard(outbox)
        if outbox in self.stalled:
            self.stalled.remove(outbox)
            self.selector.unregister(outbox.connection)

    def _expire(self, now: float) -> None:
        for outbox in [outbox for outbox in self.timed if outbox.deadline <= now]:
            if outbox.waiting:
                self._lose(outbox, " (not reading)")
            else:
                self.timed.remove(outbox)
                self._shut(outbox)  # the other side had its time to close first
        self.next_deadline = min((outbox.deadline for outbox in self.timed), default=math.inf)


# --------------------------------------------------------------------------------------------------
# Session: one connection, one thread, blocking reads. Who may do what, and how fast.
# --------------------------------------------------------------------------------------------------


class Framing:
    """Bytes in, lines out, in bounded memory, however the bytes were cut into pieces."""

    def __init__(self) -> None:
        self.tail = b""
        self.skipping = False  # in a line that was too long

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` ends, without their LF.

        An overlong line comes as its beginning, longer than MAX_LINE, as soon as it is too long;
        the rest of it is skipped.
        """
        lines = (self.tail + data).split(b"\n")
        self.tail = lines.pop()
        if self.skipping and lines:
            del lines[0]
            self.skipping = False
        if self.skipping:
            self.tail = b""
        elif len(self.tail) > MAX_LINE + 1:  # one more, as a CR at its end does not count
            lines.append(self.tail)
            self.tail = b""
            self.skipping = True
        return lines


class Failures:
    """Counts failed logins by address: past FAILURES of them, one try every FAILURE_SECONDS."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: dict[bytes, tuple[int, float]] = {}  # failures, and when they were counted

    def check(self, host: str) -> None:
        """Raise Denied, with the wait in seconds, if this address has to wait."""
        now = time.monotonic()
        with self.lock:
            count, since = self._count(network_of(host), now)
        if count >= FAILURES:
            wait = math.ceil(since + FAILURE_SECONDS - now)
            raise Denied(f"Denied. Too many failed logins, try again in {wait} seconds.")

    def add(self, host: str) -> None:
        network, now = network_of(host), time.monotonic()
        with self.lock:
            count, _ = self._count(network, now)
            self.counts.pop(network, None)  # to the end: the first is always the oldest
            self.counts[network] = (min(count + 1, FAILURES), now)
            if len(self.counts) > FAILURE_ADDRESSES:
                del self.counts[next(iter(self.counts))]

    def _count(self, network: bytes, now: float) -> tuple[int, float]:
        count, since = self.counts.get(network, (0, now))
        forgiven = int((now - since) / FAILURE_SECONDS)
        return max(0, count - forgiven), since


def network_of(host: str) -> bytes:
    """Return what failures are counted by: an IPv4 address, or the /64 of an IPv6 one."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return address.packed[:8]
        address = address.ipv4_mapped
    return address.packed


@dataclass(slots=True)
class House:
    """What all sessions share."""

    post: Post
    room: Room
    accounts: Accounts
    failures: Failures
    hashers: ThreadPoolExecutor  # one for each core, behind everything else in the queue for it
    rate: float  # lines a second; 0 for no limit


class Session:
    __slots__ = ("failed", "host", "house", "member", "paid_until", "socket")

    def __init__(self, house: House, connection: socket.socket, address: tuple[str, int]) -> None:
        self.house = house
        self.socket = connection
        self.host = address[0]
        self.member = Member(Outbox(connection, self.lose), show_address(*address[:2]))
        self.paid_until = 0.0  # monotonic seconds: lines read so far are paid for at --rate
        self.failed = 0  # logins

    def run(self) -> None:
        """Obey lines until the connection ends, one way or the other."""
        how = ""
        try:
            for line in self.lines():
                if self.member.gone:
                    break
                self.obey(line)
            self.logout()
            self.drain()
        except OSError:
            how = " (connection lost)"
        finally:
            self.house.room.leave(self.member, how)
            self.release()

    def release(self) -> None:
        """Leave the socket to the courier, which closes it once all that is owed was sent."""
        self.house.post.instruct(Action.RELEASE, self.member.outbox)
        self.house.post.wake()

    def lose(self, how: str) -> None:
        self.house.room.leave(self.member, how)

    def lines(self) -> Iterator[bytes]:
        """Yield what arrives, a line at a time, until the connection ends or the session does."""
        framing = Framing()
        skipped = 0
        while (data := self.receive(READ_SIZE)) and not self.member.gone:
            yield from framing.feed(data)
            if framing.skipping:
                skipped += len(data)
                if skipped >= SKIP_UNIT:
                    skipped = 0
                    self.pace()

    def drain(self) -> None:
        """Read what still comes: a socket closed with bytes unread is reset, which loses lines."""
        while self.receive(SKIP_UNIT):
            time.sleep(DRAIN_PAUSE)  # nothing waits for this, and a flood must not find it eager

    def receive(self, size: int) -> bytes:
        if not DONT_WAIT:
            # The courier needs a socket that does not block, so the wait is for select (Windows).
            select.select([self.socket], [], [])
        return self.socket.recv(size)

    def pace(self) -> None:
        """Wait until the next line may be read: a burst at once, then --rate a second."""
        self.house.post.pause()
        if not self.house.rate:
            return
        now = time.monotonic()
        self.paid_until = max(self.paid_until, now - BURST / self.house.rate) + 1 / self.house.rate
        if self.paid_until > now:
            self.member.wait(self.paid_until - now)

    def obey(self, line: bytes) -> None:
        self.pace()
        try:
            command = parse(line)
            if command is not None:
                self.perform(command)
        except Denied as denied:
            self.reply(str(denied))

    def perform(self, command: Command) -> None:
        match command:
            case SendAll(message):
                self.require_login()
                self.house.room.say(self.member, message)
            case Send(recipient, message):
                self.require_login()
                self.house.room.tell(self.member, recipient, message)
            case Who():
                self.require_login()
                self.house.room.list_users(self.member)
            case Login(userid, password):
                self.login(userid, password)
            case NewUser(userid, password):
                self.new_user(userid, password)
            case Logout():
                self.logout()

    def reply(self, line: str) -> None:
        self.house.post.unicast(line, self.member.outbox)
        self.house.post.wake()

    def logout(self) -> None:
        """Leave; nothing happens to a session that has left already."""
        userid = self.member.userid
        self.house.room.leave(self.member, farewell=f"{userid} left." if userid else "")

    def require_login(self) -> None:
        if self.member.userid is None:
            raise Denied("Denied. Please login first.")

    def login(self, userid: str, password: str) -> None:
        if self.member.userid is not None:
            raise Denied(f"Denied. You are already logged in as {self.member.userid}.")
        if self.house.hashers.submit(self.is_password_right, userid, password).result():
            self.house.room.enter(self.member, userid)
        elif not self.member.gone:
            self.refuse_login(userid)

    def is_password_right(self, userid: str, password: str) -> bool:
        """Tell, from a hasher's thread. Raises Denied if this address has to wait."""
        if self.member.gone:
            return False
        self.house.failures.check(self.host)  # here, not before the wait for a hasher
        right = self.house.accounts.verify(userid, password)
        if not right:
            self.house.failures.add(self.host)
        return right

    def refuse_login(self, userid: str) -> None:
        self.house.post.show(f"Login failed for {userid} from {self.member.address}.")
        self.house.post.wake()
        self.failed += 1
        self.member.wait(FAILURE_DELAY)
        self.reply("Denied. User name or password incorrect.")
        if self.failed == LOGIN_TRIES:
            self.house.room.leave(self.member, farewell="Denied. Too many failed logins.")

    def hash_unless_gone(self, password: str) -> str | None:
        return None if self.member.gone else hash_password(password)

    def new_user(self, userid: str, password: str) -> None:
        if self.member.userid is not None:
            raise Denied("Denied. Please logout first.")
        if userid in self.house.accounts.hashes:
            raise Denied("Denied. User account already exists.")
        record = self.house.hashers.submit(self.hash_unless_gone, password).result()
        if record is None:
            return
        try:
            if not self.house.accounts.add(userid, record):
                raise Denied("Denied. User account already exists.")
        except (OSError, AccountsError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            self.house.post.show(f"Account {userid} not saved: {reason}", self.member.address)
            raise Denied("Denied. The account could not be saved.") from None
        self.house.post.show(f"New user account created: {userid}.", self.member.address)
        self.reply("New user account created. Please login.")


def make_hashers() -> ThreadPoolExecutor:
    """Return a thread for each core, so that as many hashes run at a time and all others wait."""
    hashers = ThreadPoolExecutor(CORES, "hasher", be_nice)
    all_there = threading.Barrier(CORES)  # started now, as there may be no threads to be had later
    for _ in range(CORES):
        hashers.submit(all_there.wait)
    return hashers


def be_nice() -> None:
    """Let chat go first, where a thread has a priority of its own (which it can never raise)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def show_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --------------------------------------------------------------------------------------------------
# Server: listens, accepts, and stops. It has the main thread to itself, so that a signal is heard
# at once whatever the rest is doing.
# --------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, options: argparse.Namespace, accounts: Accounts) -> None:
        """Listen, and start what delivers. Raises OSError if it cannot."""
        self.listener = listen(options.host, options.port)
        self.listener.setblocking(False)
        self.post = Post()
        self.courier = Courier(self.post)
        self.room = Room(self.post, options.max_clients)
        self.house = House(self.post, self.room, accounts, Failures(), make_hashers(), options.rate)
        self.stopping = False
        self.short_of_descriptors = False
        self.courier_thread = threading.Thread(target=self._run_courier, daemon=True)
        self.wake_up, self.alarm = socket.socketpair()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.wake_up, selectors.EVENT_READ)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def serve(self) -> bool:
        """Run the room until a signal stops it; return whether all went well."""
        self.courier_thread.start()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        host, port = self.listener.getsockname()[:2]
        self.post.show(
            f"Chat room server on {show_address(host, port)}, room for {self.room.limit}. "
            "Ctrl-C stops it."
        )
        self.post.wake()
        while not self.stopping and self.courier_thread.is_alive():
            now = time.monotonic()
            self.selector.select(self.room.expire(now) - now)
            if not self.stopping:
                self._accept_all()
        return self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self.alarm.send(b"!")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once

    def _run_courier(self) -> None:
        try:
            self.courier.run()
        finally:
            self.alarm.send(b"!")

    def _accept_all(self) -> None:
        for _ in range(LOBBY):  # then back to look at the clock and for signals
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORTAGES:
                    self._wait_for_descriptors(error)
                    return
                continue  # that connection is gone already, which concerns nobody else
            if self.short_of_descriptors:
                self.short_of_descriptors = False
                self.post.show("Accepting connections again.")
            self._start_session(connection, address)

    def _wait_for_descriptors(self, error: OSError) -> None:
        if not self.short_of_descriptors:
            self.short_of_descriptors = True
            self.post.show(f"New connections have to wait: {error.strerror}.")
            self.post.wake()
        select.select([self.wake_up], [], [], ACCEPT_PAUSE)  # no event tells when they come back

    def _start_session(self, connection: socket.socket, address: tuple[str, int]) -> None:
        try:
            configure(connection)
        except OSError:  # reset before it was looked at
            connection.close()
            return
        session = Session(self.house, connection, address)
        self.room.arrive(session.member)
        try:
            # threading.Thread waits for each to start, and keeps 3 kB for it that nobody asks for.
            _thread.start_new_thread(session.run, ())
        except RuntimeError as error:
            self.post.show(f"Connection refused: {error}.", session.member.address)
            self.room.leave(session.member, farewell="Denied. The server is busy.")
            session.release()

    def _stop(self) -> bool:
        deadline = time.monotonic() + STOP_SECONDS
        went_well = self.courier_thread.is_alive()
        self.listener.close()
        self.room.close()
        self.courier.stop()
        self.courier_thread.join(STOP_SECONDS)
        for scribe in self.courier.scribes:
            scribe.close(max(0.2, deadline - time.monotonic()))
        return went_well


# What accept fails with when something has run out: descriptors here or in all, memory.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)


def configure(connection: socket.socket) -> None:
    connection.setblocking(bool(DONT_WAIT))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


# --------------------------------------------------------------------------------------------------
# Main:
#   1. read the options, and users.txt
#   2. listen
#   3. start the courier, and the scribes for the display and the log
#   4. accept, a thread for each connection, until Ctrl-C or SIGTERM
#   5. tell everyone, deliver what is owed, close
# --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status: 0 after a signal, 1 if it cannot run."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until serve() has its own
    raise_descriptor_limit(options.max_clients)
    threading.stack_size(THREAD_STACK)
    try:
        accounts = Accounts(options.users, warn=complain)
        accounts.load()
        server = Server(options, accounts)
        server.courier.scribes = open_scribes(options.log, server.post)
    except AccountsError as error:
        complain(str(error))
        return 1
    except OSError as error:
        where = error.filename or show_address(options.host, options.port)
        advice = "Stop what uses it, or choose another --port." if error.filename is None else ""
        complain(f"server.py: {where}: {explain(error)}. {advice}".rstrip())
        return 1
    except KeyboardInterrupt:
        return 0
    return 0 if server.serve() else 1


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="server.py", description="A chat room. Join it with client.py, or with nc."
    )
    parser.add_argument("--host", default=HOST, help=f"address to listen on (default {HOST})")
    parser.add_argument(
        "--port", default=PORT, type=number(int, 0, 65535), help=f"0 takes a free one ({PORT})"
    )
    parser.add_argument(
        "--max-clients",
        default=MAXCLIENTS,
        type=number(int, 1, 1_000_000),
        metavar="N",
        help=f"users in the room ({MAXCLIENTS})",
    )
    parser.add_argument(
        "--users", default=USERS, type=Path, metavar="FILE", help="accounts (users.txt beside this)"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="append what is shown, with time and address"
    )
    parser.add_argument(
        "--rate",
        default=RATE,
        type=number(float, 0, 1_000_000),
        help=f"lines a second from one connection past a burst of {BURST}; 0 lifts this ({RATE})",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    return parser.parse_args(arguments)


def number(kind: type[int] | type[float], lowest: int, highest: int) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not lowest <= value <= highest:
            raise ValueError
        return value

    convert.__name__ = f"number from {lowest} to {highest}"  # argparse says: invalid ... value
    return convert


def raise_descriptor_limit(max_clients: int) -> None:
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says that there is no hard limit, but refuses that as a soft one.
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, max_clients + 2 * LOBBY + 64)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_scribes(log: Path | None, post: Post) -> list[Scribe]:
    """Return the writers of the display and the log. Raises OSError for the log's path."""

    def told(name: str) -> Callable[[OSError], None]:
        def tell(error: OSError) -> None:
            post.show(f"The {name} cannot be written: {error.strerror}.")
            post.wake()

        return tell

    scribes = []
    display: TextIO | None = sys.stdout  # None if the server was started without one
    if display is not None:
        stream = cast(RawIOBase, getattr(display.buffer, "raw", display.buffer))  # with python -u
        scribes.append(Scribe(stream, display.encoding, display_format, told("display")))
    if log is not None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = FileIO(os.open(log, flags, 0o600), "w")
        scribes.append(Scribe(file, "utf-8", log_format, told("log")))
    return scribes


def complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def explain(error: OSError) -> str:
    """Return the system's word for it; what Python and getaddrinfo add is not for users."""
    code = error.errno or 0
    return os.strerror(code) if code > 0 else str(error.strerror)


if __name__ == "__main__":
    exit_status = main()
    sys.stderr.flush()
    os._exit(exit_status)  # an ordinary exit would first finish the hashes that are under way
