#!/usr/bin/env python3
"""A chat room server: one file, standard library only.

    python server.py                    in one terminal
    python client.py                    in several others, or: nc 127.0.0.1 14850

The wire is UTF-8 text, one line per command or reply, ended by LF:

    login UserID Password       joins the room
    newuser UserID Password     creates an account, kept in users.txt
    send all Message            to everyone else in the room
    send UserID Message         to that user only
    who                         lists everyone in the room
    logout                      leaves; so does closing the connection

A line of text travels down this page: bytes are framed and parsed (wire, at the session's bidding),
checked against who may do what (session), said in the room (room) and sent to everyone (courier).
What is off the way stands below: display and log, limits, records, accounts, the server. With
--tls-cert the session opens what comes in, and the courier seals what goes out.

    bytes -> Framing -> parse() -> Session -> Room -> Courier -> sockets
             '------- Wire -------'                   '-> display and log

Each connection has a thread of its own, which blocks in `recv` and obeys one line after the other.
One lock guards the room, and nothing that can block happens under the room's lock: no socket call,
no hash, no disk, no print. Why no client can delay another is told where the courier begins.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit(f"server.py needs Python 3.11 or later; this is Python {sys.version.split()[0]}.")

import _thread
import argparse
import base64
import codecs
import contextlib
import errno
import hashlib
import hmac
import ipaddress
import itertools
import math
import os
import queue
import random
import re
import select
import selectors
import signal
import socket
import stat
import struct
import threading
import time
import traceback
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from io import FileIO, RawIOBase
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:  # imported when it is asked for: a plain room starts sooner without it
    import ssl

MAXCLIENTS = 3  # users in the room; the constant to edit, or use --max-clients
HOST = "127.0.0.1"  # this machine only; --host 0.0.0.0 opens the room to the network
PORT = 14850
USERS = Path(__file__).resolve().parent / "users.txt"
RATE = 10  # lines a second that are read from one user past a burst; 0 lifts this
HISTORY = 0  # public lines that a joiner is told
VERSION = "1.0"

MAX_LINE = 2048  # bytes, without the line end: 256 code points of 4 bytes fit twice
READ_SIZE = 1024  # bytes in a read; every thread that waits holds a buffer of this size
RECEIVE_BUFFER = 4096  # bytes of what a user has queued; the kernel takes twice as many
SKIP_UNIT = 65536  # bytes of an overlong line that cost its sender as much as a line

BURST = 20  # lines read at full speed before --rate applies
HANDSHAKE_SECONDS = 10  # until a connection must have agreed on its encryption
LOGIN_SECONDS = 3600  # until a connection must have logged in: a class listens before it types
LOGIN_TRIES = 3  # failed logins on one connection before it is closed
FAILURE_DELAY = 1.0  # seconds that a wrong password costs its connection
FAILURES = 10  # failed logins of an address at a UserID, before it has to wait ...
FAILURE_SECONDS = 6.0  # ... so long for each further try
NEW_ACCOUNTS = 100  # of an address, before it has to wait as long for each further one
REMEMBERED = 10_000  # users or addresses that each limit knows; the earliest are forgotten first
LOBBY = 100  # connections that have not logged in, or --max-clients if that is more
LOBBY_PAUSE = 0.1  # seconds between looks for those who are late: a look takes long in a crowd
STRANGER_SECONDS = 1.0  # between lines on the display that strangers cause

HISTORY_BYTES = 256 * 1024  # kept at most, however many lines --history asks for
OUTBOX_LIMIT = 1 << 20  # bytes that may wait for one connection
MOST_STALLED = 500 if os.name == "nt" else math.inf  # Windows' select takes 512 sockets
STALL_SECONDS = 30  # with bytes waiting and none written for so long, a connection is dropped
LINGER_SECONDS = 0.5  # for the other side to close first, so that a reset takes no last line away
DRAIN_PAUSE = 0.01  # seconds between reads of what nobody wants any more
GONE_CHECK = 1.0  # seconds at most until a sender who is slowed down is looked at again
SEALED_TOGETHER = 16  # records before the first is sent: a woken client takes the caches
BACKLOG_LIMIT = 512  # orders waiting for the courier before readers pause
LISTENER_OPTIONS = (  # each is set if the system has it, and goes on to what is accepted
    # Set here, as an accepted socket whose buffer is made smaller stalls for 200 ms at a time.
    ("SO_RCVBUF", RECEIVE_BUFFER),
    # Bytes in a segment, as on an Ethernet. A segment of loopback's is longer than so small a
    # buffer, and a sender that waits for room for a whole segment may wait for ever.
    ("TCP_MAXSEG", 1448),
)
CONNECTION_OPTIONS = (
    ("TCP_NODELAY", 1),
    ("SO_SNDBUF", 256 * 1024),  # bytes in the kernel, so that those are bounded too
    ("SO_OOBINLINE", 1),  # telnet's Ctrl-C arrives whole
    ("SO_KEEPALIVE", 1),  # a dead peer is found within 2 minutes: ...
    ("TCP_KEEPIDLE", 30),  # ... 30 s idle, ...
    ("TCP_KEEPALIVE", 30),  # (the same on macOS)
    ("TCP_KEEPINTVL", 10),  # ... then probes 10 s apart, ...
    ("TCP_KEEPCNT", 3),  # ... three of them, or ...
    ("TCP_USER_TIMEOUT", 55_000),  # ... 55 s (in ms) on top, if data was sent meanwhile
    ("TCP_RTO_MAX_MS", 3_000),  # after a dead link is back, talk goes on within so long, not 24 s
)
TCP_RTO_MAX_MS = 44  # Linux 6.15's option, which Python has no name for yet
WRITER_LIMIT = 10_000  # lines that wait for a slow terminal or disk before some are not shown
WRITER_BREATH = 0.01  # seconds between writes, so that many lines share one
LISTEN_BACKLOG = 4096  # connections that the kernel keeps until they are accepted
ACCEPT_PAUSE = 1.0  # seconds before accept is tried again when descriptors have run out
STOP_SECONDS = 1.2  # for the last lines when the server stops, whatever the clients do
THREAD_STACK = 256 * 1024  # bytes; the default of 8 MiB would cost address space for nothing

HASH_COST = (14, 8, 1)  # RFC 7914's log2(N), r and p: 16 MiB and some 50 ms for each try
HASH_MEMORY = 1 << 28  # bytes; a line in users.txt that asks for more is refused
PROGRESS_SECONDS = 1.0  # between lines that tell how far hashing is
WATCH_SECONDS = 1.0  # between looks at users.txt while anybody is in
SETTLED_SECONDS = 2.0  # users.txt has stayed as it is for so long: no editor is writing it
RECENT_SECONDS = 10.0  # an editor that saves may not know accounts that are younger than this
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # missing on Windows: see Session.receive
Result = TypeVar("Result")
SignalHandler = Callable[[int, FrameType | None], object]

# --------------------------------------------------------------------------------------------------
# Wire: bytes in; out come commands, or Denied with the exact reply. No sockets, no files, and no
# state but the framing's. client.py checks words and lengths too; tests hold both to one table.

USAGE = {
    "login": "login UserID Password",
    "newuser": "newuser UserID Password",
    "send": "send all|UserID Message",
    "who": "who",
    "logout": "logout",
}
SPACES = " \u00a0\u3000"  # what separates words; some keyboards make the second and the third
SEPARATOR = re.compile(f"[{SPACES}]+")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# `all` means everyone, and what a user called Usage says would look like a server's `Usage: who`.
RESERVED = ("all", "usage")
# C0, DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates:
# whatever could move a reader's cursor or make a line look like another's.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# Letters and marks that show nothing, with which a second "Tom" could look like the first.
INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
OVERLAYS = frozenset("\u0334\u0335\u0336\u0337\u0338")  # marks that strike a letter through
# Letters with a compatibility form that Thai and Lao names cannot do without.
NEEDED_FORMS = frozenset("\u0e33\u0eb3\u0edc\u0edd")
LATIN_OF_NAMES = re.compile("[\0-\u01bf\u01c4-\u024f\u1e00-\u1eff]")  # no clicks, no phonetics
# First words of Unicode names that stand for a script with another first word.
SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "IDEOGRAPHIC": "CJK", "EXTENDED": "ARABIC"}
# RFC 854: IAC and two bytes (WILL, WONT, DO, DONT), a subnegotiation up to IAC SE, or one byte.
# IAC IAC stands for a byte 255 of text; it is matched so that its second half begins no command. A
# match without group 1 is the beginning of a command whose rest has not arrived yet.
TELNET = re.compile(
    rb"\xff(?:([\xfb-\xfe].|\xfa(?:[^\xff]|\xff[^\xf0])*\xff\xf0|[\xf0-\xf9\xff])"
    rb"|(?:[\xfb-\xfe]|\xfa(?:[^\xff]|\xff[^\xf0])*\xff?)?\Z)",
    re.DOTALL,
)
LINE_END = re.compile(rb"\n|\r\0")
WEB_REQUEST = re.compile(rb"([!-~]+) [^ ]+ HTTP/1\.[01]")
WEB_REQUEST_BEGUN = re.compile(rb"([!-~]+) (?:/|http)[^ ]*(?: [^ ]*)?")
IAC, DO, DONT, WILL, WONT, INTERRUPT = b"\xff", b"\xfd", b"\xfe", b"\xfb", b"\xfc", b"\xff\xf4"


class Denied(Exception):
    """A refusal; its text is the whole line that goes to the one who asked."""


class Framing:
    """Bytes in, lines out, in bounded memory, however the bytes were cut into pieces.

    Telnet's commands (RFC 854) are taken out of the text. Their bytes count towards the MAX_LINE of
    the line that they stand in, so that nobody can send them without end.
    """

    __slots__ = ("answers", "command", "command_bytes", "is_first", "skipping", "tail")

    def __init__(self) -> None:
        self.tail = b""  # the beginning of a line
        self.command = b""  # the beginning of a telnet command
        self.command_bytes = 0  # in telnet commands of the line that has begun
        self.answers = b""  # to telnet commands; whoever sends them empties this
        self.skipping = False  # in a line that was too long
        self.is_first = True  # the connection's first line has not ended yet

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` ends, without their LF or CR NUL.

        Of an overlong line the first bytes come, at once and more than MAX_LINE; the rest of it is
        skipped, and telnet commands in that are not obeyed.
        """
        lines: list[bytes] = []
        while data:
            if self.skipping:
                skipped, *rest = LINE_END.split(self.tail + data, 1)
                self.skipping = not rest
                self.tail = b"" if rest else skipped[-1:]  # it may be a CR, and its NUL to come
                data = rest[0] if rest else b""
            else:
                # At most up to the byte that makes the line too long, however the bytes were cut.
                room = MAX_LINE + 2 - len(self.tail) - self.command_bytes
                lines += self._take(data[:room])
                data = data[room:]
        return lines

    def _take(self, data: bytes) -> list[bytes]:
        """Obey telnet commands, and split the text around them."""
        if IAC not in data and not self.command:
            return self._split(data)
        data = self.command + data
        self.command_bytes -= len(self.command)
        self.command = b""
        lines: list[bytes] = []
        start = 0
        for found in TELNET.finditer(data):
            if found[0] == IAC + IAC:
                continue
            lines += self._split(data[start : found.start()])
            start = found.end()
            self.command_bytes += len(found[0])
            if found[1] is None:
                self.command = found[0]
            else:
                self._obey_telnet(found[0])
        return lines + self._split(data[start:])

    def _obey_telnet(self, command: bytes) -> None:
        if command == INTERRUPT:
            self.tail = b""  # telnet's Ctrl-C drops the half-typed line
        elif command[1:2] in (DO, WILL):
            # Without an answer a telnet shows nothing any more after Ctrl-C.
            self.answers += IAC + (WONT if command[1:2] == DO else DONT) + command[2:]

    def _split(self, text: bytes) -> list[bytes]:
        lines = (self.tail + text).replace(b"\r\0", b"\n").split(b"\n")
        self.tail = lines.pop()
        # One byte more than MAX_LINE is no proof yet, as a CR at the end does not count.
        if not lines and len(self.tail) + self.command_bytes > MAX_LINE + 1:
            lines = [self.tail]
            self.skipping = True
            self.tail = b"" if self.command else self.tail[-1:]
            self.command = b""
        if lines:
            length = len(lines[0].removesuffix(b"\r")) + self.command_bytes
            if self.is_first:
                lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
            if length > MAX_LINE:
                lines[0] = lines[0].ljust(MAX_LINE + 2)  # parse, which sees no telnet, refuses it
            self.command_bytes, self.is_first = 0, False
        return lines


def parse(line: bytes, is_logged_in: bool = True) -> tuple[str, ...]:
    """Return the words of a command, checked, as in ("send", "all", "hi"); () for an empty line.

    line: any bytes, without the LF. The first word comes in lower case, UserIDs and passwords in
    NFC, a message trimmed. Raises Denied with the reply for whatever is not quite a command.
    """
    line = line.removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise Denied(f"Denied. Line longer than {MAX_LINE} bytes.")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Denied("Denied. Not valid UTF-8.") from None
    word, *rest = SEPARATOR.split(text.lstrip(SPACES), 2)
    command = word.lower()
    if command not in USAGE:
        if not command:
            return ()
        names = ", ".join(USAGE)
        raise Denied(f'Denied. Unknown command "{displayable(word)}". Commands: {names}.')
    if command in ("send", "who") and not is_logged_in:
        raise Denied("Denied. Please login first.")
    if command == "send":
        if len(rest) < 2:
            raise Denied(f"Usage: {USAGE[command]}")
        recipient = "all" if rest[0].lower() == "all" else normalised(rest[0], 128)
        return command, recipient, check_message(rest[1])
    arguments = [argument for part in rest for argument in SEPARATOR.split(part) if argument]
    if len(arguments) != (2 if command in ("login", "newuser") else 0):
        raise Denied(f"Usage: {USAGE[command]}")
    if not arguments:
        return (command,)
    return command, check_userid(arguments[0]), check_password(arguments[1])


def normalised(text: str, limit: int) -> str:
    """Return text in NFC; over the limit as it is, since marks without end take quadratic time."""
    return unicodedata.normalize("NFC", text) if len(text) <= limit else text


def displayable(word: str) -> str:
    """Return what somebody typed as it may be shown: at most 32 characters that move no cursor."""
    return UNSAFE.sub("\N{REPLACEMENT CHARACTER}", word[:32])


def check_userid(text: str) -> str:
    """Return a UserID in NFC (after RFC 8265, but case matters), or raise Denied."""
    userid = normalised(text, 128)
    if not 3 <= len(userid) <= 32:
        raise Denied("Denied. UserID must be 3 to 32 characters.")
    if not is_of_one_script(userid):
        raise Denied("Denied. UserID may hold letters and digits of one script, and _ - .")
    if userid.lower() in RESERVED:
        raise Denied(f'Denied. UserID "{userid.lower()}" is reserved.')
    return userid


def is_of_one_script(userid: str) -> bool:
    """Tell whether all letters, marks and digits belong to one script.

    The first word of a character's Unicode name tells the script. ASCII digits go with every
    script, as do marks named COMBINING, but a mark must follow a letter.
    """
    scripts = set()
    may_be_marked = False
    for character in userid:
        if character in "0123456789_-.":
            may_be_marked = False
            continue
        category = unicodedata.category(character)
        is_mark = category in ("Mn", "Mc") and may_be_marked
        if not (category[0] == "L" or category == "Nd" or is_mark) or is_disguise(character):
            return False
        word = re.split("[ -]", unicodedata.name(character, ""))[0]
        if word == "LATIN" and not LATIN_OF_NAMES.match(character):
            return False
        if word != "COMBINING":
            scripts.add(SCRIPTS.get(word, word))
        may_be_marked = is_mark or category[0] == "L"
    return len(scripts) <= 1


def is_disguise(character: str) -> bool:
    """Tell whether a character is unseen, or another one dressed up."""
    has_form = unicodedata.normalize("NFKC", character) != character
    return character in INVISIBLE | OVERLAYS or (has_form and character not in NEEDED_FORMS)


def check_password(text: str) -> str:
    """Return a password in NFC, 4 to 8 printable code points without space, or raise Denied."""
    password = normalised(text, 32)
    if not 4 <= len(password) <= 8:
        raise Denied("Denied. Password must be 4 to 8 characters.")
    if " " in password or not password.isprintable():
        raise Denied("Denied. Password must be printable characters without spaces.")
    return password


def check_message(text: str) -> str:
    """Return a message, tabs made spaces and ends trimmed: 1 to 256 code points. Raises Denied."""
    message = text.replace("\t", " ").strip()
    if not 1 <= len(message) <= 256:
        raise Denied("Denied. Message must be 1 to 256 characters.")
    if not message.isprintable() and UNSAFE.search(message):  # the first look is the quicker
        raise Denied("Denied. Message must be printable text.")
    return message


def is_web_request(line: bytes) -> bool:
    """Tell whether a line opens an HTTP request, as any web page can have a browser send one."""
    # Of an overlong line only the beginning is there.
    form = WEB_REQUEST if len(line) <= MAX_LINE else WEB_REQUEST_BEGUN
    found = form.fullmatch(line.removesuffix(b"\r"))
    return found is not None and found[1].decode().lower() not in USAGE


# --------------------------------------------------------------------------------------------------
# Tls: what is said becomes what goes on the wire, and back. No sockets. client.py has it too.

TLS_HANDSHAKE = b"\x16"  # the first byte of a TLS connection (RFC 8446, section 5.1)
TLS_RECORD = 16384  # bytes of text in a record at most


class Tls:
    """One end of an encrypted connection: bytes in, bytes out, for any thread.

    Before the other side has begun a handshake, what is sealed stays plain text: it is the refusal
    for who does not know that the connection is encrypted. During the handshake it is dropped.
    """

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """server_name: name or address that the certificate must hold; None at the server's end."""
        import ssl

        self.wants_more = ssl.SSLWantReadError
        self.lock = threading.Lock()  # as OpenSSL's objects are for one thread at a time
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = server_name is None
        self.ends = context.wrap_bio(self.incoming, self.outgoing, is_server, server_name)
        self.has_begun = not is_server
        self.is_open = False  # the handshake is done
        self.has_ended = False  # the other side has said that nothing more comes (close_notify)

    def opened(self, data: bytes) -> bytes:
        """Return what the other side has said, as far as `data` completes it. Raises SSLError."""
        text = b""
        with self.lock, contextlib.suppress(self.wants_more):
            self.has_begun = True
            self.incoming.write(data)
            if not self.is_open:
                self.ends.do_handshake()
                self.is_open = True
            while piece := self.ends.read(TLS_RECORD):
                text += piece
                if not (self.ends.pending() or self.incoming.pending):
                    return text
            self.has_ended = True
        return text

    def sealed(self, data: bytes, is_last: bool = False) -> bytes:
        """Return what goes on the wire, behind what the handshake wants said. Raises SSLError.

        is_last: nothing more will come, and the other side is told so (close_notify).
        """
        with self.lock:
            if self.is_open and data:
                sent = self.ends.write(data)
                while sent < len(data):
                    sent += self.ends.write(memoryview(data)[sent:])
            elif not self.has_begun:
                return data
            if is_last and self.is_open:
                with contextlib.suppress(self.wants_more):  # for the other side's, which may come
                    self.ends.unwrap()
            return self.outgoing.read()


# --------------------------------------------------------------------------------------------------
# Session: one connection, one thread, blocking reads. Who may do what, and how fast.
#
# Three records describe a connection, and each has one owner. The Session belongs to its thread.
# The Visitor, by which the room knows the connection, belongs to the room's lock. The Outbox, by
# which lines are sent, belongs to whoever has the courier's turn. Two flags are not set by their
# owners, and need no lock, as they are only looked at later: the session sets the visitor's
# `is_protected`, and the room the outbox's `linger`, before it orders `hang_up`.
ENCRYPTED = "Denied. This room is encrypted. Use: python client.py --tls"


class Session:
    """Reads a connection's lines and obeys one after the other, until the connection ends."""

    __slots__ = ("failed_logins", "server", "socket", "unheard", "visitor")

    def __init__(self, server: Server, connection: socket.socket, host: str, port: int) -> None:
        """host, port: of the other side."""
        self.server = server
        self.socket = connection
        tls = Tls(server.encryption) if server.encryption else None
        outbox = Outbox(connection, partial(self.leave, ""), tls)
        self.visitor = Visitor(outbox, show_address(host, port), network_of(host))
        self.failed_logins = 0
        self.unheard = 0  # bytes that only OpenSSL reads: they cost their sender lines

    def run(self) -> None:
        reason = ""
        try:
            for line in self.lines():
                self.obey(line)
                if self.visitor.gone:
                    break
            self.raise_if_reset()
            self.logout()
            # A socket that is closed with bytes unread is reset, which would lose our last lines.
            while self.receive_bytes(SKIP_UNIT):
                time.sleep(DRAIN_PAUSE)  # or a flood would keep this thread busy
        except OSError:
            reason = "connection lost"
        finally:
            self.leave("", reason)
            self.order(Courier.release)  # which closes the socket once all that is owed was sent

    def lines(self) -> Iterator[bytes]:
        """Yield what arrives, a line at a time, until the connection ends or the session does."""
        framing, skipped, is_encrypted = Framing(), 0, self.server.encryption is not None
        if is_encrypted != (self.receive_bytes(1, socket.MSG_PEEK) == TLS_HANDSHAKE):
            self.leave(ENCRYPTED if is_encrypted else "Denied. This room is not encrypted.")
            return
        while (data := self.receive()) and not self.visitor.gone:
            is_first_line = framing.is_first
            lines = framing.feed(data)
            if framing.answers:
                self.order(Courier.unicast, framing.answers)
                framing.answers = b""
            if is_first_line and lines and is_web_request(lines[0]):
                self.leave("Denied. This is not a web server.")
                return
            yield from lines
            if len(data) >= READ_SIZE // 2:  # more may be queued, which a reset has made void
                self.raise_if_reset()
            skipped = skipped + len(data) if framing.skipping else 0
            if skipped >= SKIP_UNIT:
                skipped = 0
                self.pace(self.visitor.userid or self.visitor.network)

    def receive(self) -> bytes:
        """Return what the other side has said, b"" at its end. Raises OSError if it is lost."""
        tls = self.visitor.outbox.tls
        if tls is None:
            return self.receive_bytes(READ_SIZE)
        while not (tls.has_ended or self.visitor.gone):
            data = self.receive_bytes(READ_SIZE)
            if not data:
                raise ConnectionError("the end of the bytes is not the end of what is said")
            if tls.is_open:
                text = tls.opened(data)
            else:  # with an RSA key it takes milliseconds, and a flood of them must wait its turn
                step = partial(self.shake_hands, tls, data)
                text = self.server.hashing.run(Hashing.LOGIN, self.visitor.network, step)
            if tls.outgoing.pending:
                self.order(Courier.unicast)
            self.unheard += len(data) - len(text)
            if self.unheard >= TLS_RECORD + RECEIVE_BUFFER:  # more than a record still under way
                self.unheard = 0
                self.pace(self.visitor.userid or self.visitor.network)
            if text:
                return text
        return b""

    def shake_hands(self, tls: Tls, data: bytes) -> bytes:
        return b"" if self.visitor.gone else tls.opened(data)

    def receive_bytes(self, size: int, flags: int = 0) -> bytes:
        if DONT_WAIT:
            return self.socket.recv(size, flags)
        while True:  # Windows: the courier needs a socket that does not block
            # Nothing promises that a shutdown wakes a select there: GONE_CHECK does.
            select.select([self.socket], [], [], GONE_CHECK)
            with contextlib.suppress(BlockingIOError):
                return self.socket.recv(size, flags)

    def obey(self, line: bytes) -> None:
        """Do what a line asks for, once its turn has come, or refuse it."""
        self.server.courier.pause()
        visitor = self.visitor
        counted_by: Hashable = visitor.userid or visitor.network
        try:
            try:
                command = parse(line, visitor.userid is not None)
                if visitor.userid is None and command[:1] == ("login",):
                    # A login does not wait for what its address has used up, or a neighbour could
                    # keep it out; it only counts for its own connection.
                    counted_by = visitor.address
            finally:
                self.pace(counted_by)
            if command and not visitor.gone:
                getattr(self, command[0])(*command[1:])  # parse lets only known commands through
        except Denied as denied:
            self.reply(str(denied))

    def pace(self, counted_by: Hashable) -> None:
        """Wait until one more line may be obeyed. Raises OSError if the connection was reset."""
        wait = self.server.lines.spend(counted_by)
        while wait > 0 and not self.visitor.gone:
            self.visitor.wait(min(wait, GONE_CHECK))
            self.raise_if_reset()
            wait -= GONE_CHECK

    def raise_if_reset(self) -> None:
        # `recv` alone cannot tell: a `send` of the courier's may have taken the error away before.
        self.socket.getpeername()

    def login(self, userid: str, password: str) -> None:
        visitor, server = self.visitor, self.server
        if visitor.userid is not None:
            raise Denied(f"Denied. You are already logged in as {visitor.userid}.")
        visitor.is_protected = True  # a bare flag, which the room only reads
        try:
            check = partial(self.is_password_right, userid, password)
            is_right = server.hashing.run(Hashing.LOGIN, visitor.network, check)
        finally:
            visitor.is_protected = False
        if is_right:
            self.raise_if_reset()  # or a dead connection would take a living one's place
            server.room.enter(visitor, userid)
        elif not visitor.gone:
            self.refuse_login(userid)

    def is_password_right(self, userid: str, password: str) -> bool:
        """Tell, from a hashing thread. Raises Denied if the address has failed too often."""
        if self.visitor.gone:
            return False
        self.raise_if_reset()  # a flood of connections that are gone again is not worth a hash
        failures, key = self.server.failures, (userid, self.visitor.network)
        failures.take(key, "Denied. Too many failed logins")  # now, or many could try at once
        is_right = self.server.accounts.verify(userid, password)
        if is_right:
            failures.give_back(key)
        return is_right

    def refuse_login(self, userid: str) -> None:
        # What is typed in a name's place is often a password, so no unknown name is shown.
        who = f" for {userid}" if userid in self.server.accounts.records else ""
        address = self.visitor.address
        self.server.display.show_stranger(f"Login failed{who} from {address}.", address)
        self.failed_logins += 1
        self.visitor.wait(FAILURE_DELAY)
        self.reply("Denied. User name or password incorrect.")
        if self.failed_logins == LOGIN_TRIES:
            self.leave("Denied. Too many failed logins.")

    def newuser(self, userid: str, password: str) -> None:
        if self.visitor.userid is not None:
            raise Denied("Denied. Please logout first.")
        if self.server.options.no_newuser:
            raise Denied("Denied. New accounts are not accepted.")
        network = self.visitor.network
        self.server.new_accounts.take(network, "Denied. Too many new accounts")
        try:
            self.create_account(userid, password)
        except Denied:
            self.server.new_accounts.give_back(network)
            raise

    def create_account(self, userid: str, password: str) -> None:
        """Make an account, and say so once it is on disk. Raises Denied."""
        server, visitor = self.server, self.visitor
        server.accounts.refresh()
        is_new = userid not in server.accounts.records
        unsaved = Denied("Denied. The account could not be saved.")
        if is_new:
            make = partial(self.hash_unless_gone, password)
            record = server.hashing.run(Hashing.NEW_ACCOUNT, visitor.network, make)
            if not record:
                raise unsaved  # the visitor has gone, and nobody will read this
            try:
                is_new = server.accounts.add(userid, record)
            except AccountsError as error:
                server.display.show(f"Account {userid} not saved: {error}", visitor.address)
                raise unsaved from None
        if not is_new:
            raise Denied("Denied. User account already exists.")
        server.display.show(f"New user account created: {userid}.", visitor.address)
        self.reply("New user account created. Please login.")

    def hash_unless_gone(self, password: str) -> str:
        return "" if self.visitor.gone else hash_password(password)

    def send(self, recipient: str, message: str) -> None:
        if recipient == "all":
            self.server.room.say(self.visitor, message)
        else:
            self.server.room.tell(self.visitor, recipient, message)

    def who(self) -> None:
        self.server.room.list_users(self.visitor)

    def logout(self) -> None:
        userid = self.visitor.userid
        self.leave("" if userid is None else f"{userid} left.")

    def leave(self, farewell: str, reason: str = "") -> None:
        self.server.room.leave(self.visitor, farewell, reason)

    def reply(self, line: str) -> None:
        self.order(Courier.unicast, f"{line}\n".encode())

    def order(self, step: Step, data: bytes = b"") -> None:
        self.server.courier.order(step, self.visitor.outbox, data)
        self.server.courier.deliver()


# --------------------------------------------------------------------------------------------------
# Room: who is in, who waits at the door, and the order in which all of them hear what is said.
@dataclass(slots=True, eq=False)
class Visitor:
    """One connection as the room sees it: at the door while `userid` is None, then inside."""

    outbox: Outbox
    address: str  # as shown
    network: bytes  # what its address is counted by, and its lines too until it is inside
    userid: str | None = None
    arrived: float = field(default_factory=time.monotonic)
    is_protected: bool = False  # from being evicted, while its password is hashed
    gone: bool = False  # set once, by whoever takes the visitor out
    # Held until then: to wait for this lock is to wait for `gone`. An Event costs 1.5 kB more.
    presence: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.presence.acquire()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the visitor is gone."""
        if self.presence.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            self.presence.release()


class Room:
    """The locked session table. Its methods are the only way in and the only way out.

    Each changes the table under the lock, and in the same step orders the lines that tell of it, so
    that all users hear all changes in one order. The lines are delivered afterwards.
    """

    def __init__(self, courier: Courier, display: Display, limit: int, history: int = 0) -> None:
        """limit: of users in the room; history: public lines that a joiner is told."""
        self.courier = courier
        self.display = display
        self.limit = limit
        self.kept_lines = history
        self.lock = threading.Lock()  # guards all below; nothing that can block happens under it
        self.users: dict[str, Visitor] = {}
        self.lobby: dict[Visitor, None] = {}  # in order of arrival
        self.history: deque[str] = deque()  # what a joiner is told
        self.history_size = 0  # bytes, HISTORY_BYTES at most
        self.closed = False

    def arrive(self, visitor: Visitor) -> None:
        """Let a connection wait at the door; too many of them, and one must go."""
        with self.lock:
            self.courier.order(Courier.open, visitor.outbox)
            self.lobby[visitor] = None
            if self.closed:
                self._remove(visitor, "The server is shutting down.")
            while len(self.lobby) > max(LOBBY, self.limit) and self._evict():
                pass
        self.courier.deliver()

    def _evict(self) -> bool:
        """Close one that has not logged in, of the address that has most; tell whether one was."""
        counts = Counter(visitor.network for visitor in self.lobby)
        evictable = [visitor for visitor in self.lobby if not visitor.is_protected]
        if evictable:
            crowd = random.sample(evictable, len(evictable))  # nobody can tell whose turn it is
            evicted = max(crowd, key=lambda visitor: counts[visitor.network])
            is_of_crowd = counts[evicted.network] == max(counts.values())
            if not is_of_crowd and len(self.lobby) <= 2 * max(LOBBY, self.limit):
                return False  # the crowd waits for hashes, for which nobody else need pay
            evicted.outbox.linger = 0  # or a flood of connections would pile up here instead
            self._remove(evicted, "Denied. The server is busy.")
            line = "Connection closed: the server is busy."
            self.display.show_stranger(line, evicted.address)
        return bool(evictable)

    def enter(self, visitor: Visitor, userid: str) -> None:
        """Bring a user in, in the place of an older session of theirs. Raises Denied if full."""
        with self.lock:
            if visitor.gone:
                return
            older = self.users.get(userid)
            if older is None and len(self.users) >= self.limit:
                full = f"The chat room is full ({len(self.users)} of {self.limit})."
                self.display.show(f"Login refused for {userid}: {full}", visitor.address)
                raise Denied(f"Denied. {full}")
            if older is not None:
                self._close(older, f"Denied. {userid} logged in from another connection.")
                self.display.show(f"{userid} logout (logged in elsewhere).", older.address)
            del self.lobby[visitor]
            self.users[userid] = visitor
            visitor.userid = userid
            self._tell("\n".join(["login confirmed", *self.history]), visitor)
            self.courier.order(Courier.listen, visitor.outbox)
            if older is None:
                self._tell_all(f"{userid} joins.", visitor)
            self.display.show(f"{userid} login.", visitor.address)
        self.courier.deliver()

    def say(self, visitor: Visitor, message: str) -> None:
        # Before the lock is taken, as `strftime` may read a file.
        moment = time.strftime("%H:%M") if self.kept_lines else ""
        with self.lock:
            if not visitor.gone:
                line = f"{visitor.userid}: {message}"
                self._tell_all(line, visitor)
                self.display.show(line, visitor.address)
                if self.kept_lines:
                    self._keep(f"{visitor.userid} (at {moment}): {message}")
        self.courier.deliver()

    def tell(self, visitor: Visitor, recipient: str, message: str) -> None:
        """Deliver a private message. Raises Denied if the recipient is not in the room."""
        with self.lock:
            if visitor.gone:
                return
            if recipient not in self.users:
                raise Denied(f"Denied. {displayable(recipient)} is not in the chat room.")
            line = f"{visitor.userid} (to {recipient}): {message}"
            self._tell(line, self.users[recipient])
            self.display.show(line, visitor.address)
        self.courier.deliver()

    def list_users(self, visitor: Visitor) -> None:
        with self.lock:
            self._tell(", ".join(sorted(self.users)), visitor)
        self.courier.deliver()

    def leave(self, visitor: Visitor, farewell: str = "", reason: str = "") -> None:
        """Take a connection out, once, whoever calls first and for whatever reason.

        farewell: the last line that it gets; reason: for the display, as in "not reading".
        """
        with self.lock:
            if not visitor.gone:
                self._remove(visitor, farewell, reason)
        self.courier.deliver()

    def evict_removed(self, is_welcome: Callable[[str], bool]) -> None:
        """Take out the users whose account was removed."""
        with self.lock:
            for userid, visitor in list(self.users.items()):
                if not is_welcome(userid):
                    self._remove(visitor, "Denied. Your account was removed.", "account removed")
        self.courier.deliver()

    def expire(self, now: float) -> float:
        """Send off who is at the door for too long; return when to look again (monotonic)."""
        with self.lock:
            # When the next newcomer may be late.
            look_again = now + min(HANDSHAKE_SECONDS, LOGIN_SECONDS)
            for visitor in list(self.lobby):  # in order of arrival
                tls = visitor.outbox.tls
                is_ready = tls is None or tls.is_open
                deadline = visitor.arrived + (LOGIN_SECONDS if is_ready else HANDSHAKE_SECONDS)
                if deadline > now:
                    look_again = min(look_again, deadline)
                    if tls is None:
                        break
                else:
                    late = f"Denied. No login within {LOGIN_SECONDS // 60} minutes."
                    self._remove(visitor, late if is_ready else ENCRYPTED)
        self.courier.deliver()
        return look_again

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.display.show("The server is shutting down.")
            for visitor in [*self.users.values(), *self.lobby]:
                self._close(visitor, "The server is shutting down.")
            self.users.clear()
            self.lobby.clear()
        self.courier.deliver()

    def _remove(self, visitor: Visitor, farewell: str, reason: str = "") -> None:
        self._close(visitor, farewell)
        self.lobby.pop(visitor, None)
        if visitor.userid is not None:
            del self.users[visitor.userid]
            self._tell_all(f"{visitor.userid} left.", visitor)
            in_brackets = f" ({reason})" if reason else ""
            self.display.show(f"{visitor.userid} logout{in_brackets}.", visitor.address)
            if not self.users:
                self.history.clear()  # the next class does not read the last one's talk
                self.history_size = 0

    def _close(self, visitor: Visitor, farewell: str) -> None:
        visitor.gone = True
        visitor.presence.release()
        tls = visitor.outbox.tls
        # A client that has not begun its handshake would take plain text for a room without TLS.
        if farewell and (tls is None or tls.has_begun or farewell == ENCRYPTED):
            self._tell(farewell, visitor)
        self.courier.order(Courier.hang_up, visitor.outbox)

    def _tell(self, line: str, visitor: Visitor) -> None:
        self.courier.order(Courier.unicast, visitor.outbox, f"{line}\n".encode())

    def _tell_all(self, line: str, speaker: Visitor) -> None:
        self.courier.order(Courier.broadcast, speaker.outbox, f"{line}\n".encode())

    def _keep(self, line: str) -> None:
        self.history.append(line)
        self.history_size += len(line.encode())
        while len(self.history) > self.kept_lines or self.history_size > HISTORY_BYTES:
            self.history_size -= len(self.history.popleft().encode())


# --------------------------------------------------------------------------------------------------
# Courier: the only one that writes to sockets. It never waits for a socket: what the kernel does
# not take stays in that connection's outbox, and nobody else notices.
#
# Theory of operation
#
# The room leaves orders, under its lock: this line to all, that line to one. Whoever has left an
# order takes the courier's turn if it is free (a lock, tried without waiting), carries out one
# round, and gives the turn back. In a small room the reader of a line so delivers the line itself:
# to wake another thread would cost more than all else. Whoever has the turn looks at the orders
# again after giving it back, and, if some were left meanwhile, wakes the courier's thread, which
# keeps the turn for as long as there is work. It alone watches stalled sockets and deadlines.
#
# A round takes all orders that wait and makes of them one piece of bytes for each connection: the
# busier the room, the cheaper a line. A line to all is kept once, in `said`. Most listeners get all
# that was said and nothing else: one object, joined once. An outbox that gets more (a reply), or
# less (its own line), has a list `own`, and `heard` counts the lines of `said` that are in `own` or
# left out already:
#
#     orders      Tom says a, Beth says b, Beth asks who, Tom says c
#
#     said        [ a, b, c ]
#     Tom.own     [ b ]             heard = 3   without his lines a and c
#     Beth.own    [ a, Beth Tom ]   heard = 2   c is still to come
#     David.own   None                          gets a, b, c, like everyone else
#
# The end of a connection, in steps, whoever begins it:
#
#   1. Room.leave takes the visitor out of the table, once, and orders the farewell and `hang_up`.
#   2. The round sends what is owed. From `hang_up` on, nothing more is put into the outbox.
#   3. When nothing waits any more, our sending side is shut down: the client reads the end (under
#      TLS, close_notify first, sealed behind the farewell).
#   4. The client closes, or is given LINGER_SECONDS to; then both sides are shut down. Either way
#      the reader's `recv` returns, its thread ends, and it orders `release`.
#   5. Released, and with nothing waiting, the socket is closed: nobody else can be using it.
#
# An outbox that cannot be written to (reset, stalled, over its bound) is lost: what waits is thrown
# away, Room.leave is told the reason, and the shutdown of both sides wakes the reader for step 4.
@dataclass(slots=True, eq=False)
class Outbox:
    """The sending side of a connection; all of it belongs to whoever has the courier's turn."""

    connection: socket.socket
    on_lost: Callable[[str], None]  # told why the connection was given up
    tls: Tls | None = None  # if the room is encrypted; may be used by the reader too
    listening: bool = False  # gets what is said to all
    hung_up: bool = False  # gets nothing more, and is closed once all that waits is sent
    linger: float = LINGER_SECONDS  # 0, set before `hang_up`, for who is not worth the wait
    lost: bool = False  # the connection failed, or was given up
    released: bool = False  # the reader has gone and will not touch the socket again
    own: list[bytes] | None = None  # what it gets in this round, if that is not just `said`
    heard: int = 0  # lines of `said` that are in `own`, or left out, already
    waiting: bytearray = field(default_factory=bytearray)  # what the kernel did not take
    deadline: float = math.inf  # monotonic seconds: for progress, or for the other side to close


Step = Callable[["Courier", Outbox, bytes], None]  # of a round: broadcast, unicast and so on


class Courier:
    """Delivers what it is ordered to; see the theory of operation above."""

    def __init__(self) -> None:
        self.orders: deque[tuple[Step, Outbox, bytes]] = deque()  # append and popleft are atomic
        self.turn = threading.Lock()  # guards all below, and every outbox
        self.outboxes: set[Outbox] = set()  # all, from accept to close
        self.listeners: dict[Outbox, None] = {}  # those in the room, in order of entry
        self.said: list[bytes] = []  # to all, in this round
        self.special: list[Outbox] = []  # those with an `own` list in this round
        self.stalled: set[Outbox] = set()  # watched until the kernel takes more
        self.timed: set[Outbox] = set()  # those with a deadline
        self.next_deadline = math.inf  # no deadline is earlier; monotonic seconds
        self.stopping = False
        self.failure: BaseException | None = None  # of a round: a bug, and the server must end
        self.needs_thread = False  # something is to be watched that the thread does not know of
        self.asleep = False  # the thread is, or is about to be
        self.selector = selectors.DefaultSelector()
        self.wakeful, self.waker = wake_up_pair()
        self.selector.register(self.wakeful, selectors.EVENT_READ)

    def order(self, step: Step, outbox: Outbox, data: bytes = b"") -> None:
        """Leave an order; may be called under the room's lock."""
        self.orders.append((step, outbox, data))

    def deliver(self) -> None:
        """Carry out what was ordered, unless somebody is at it. Never under the room's lock."""
        if not self.orders or not self.turn.acquire(blocking=False):
            return
        try:
            self._round()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.turn.release()
            if self.orders or self.needs_thread or self.failure:
                self._wake()

    def pause(self) -> None:
        """Wait while too many orders do. The courier waits for nobody, so this ends soon."""
        if len(self.orders) > BACKLOG_LIMIT:
            with self.turn:
                pass
            self.deliver()  # as others may have found the turn taken meanwhile

    def run(self) -> None:
        """Deliver what nobody else does, until the server stops and all outboxes are closed."""
        while not self._is_done():
            self._sleep()
            with self.turn:
                self._work()

    def stop(self) -> None:
        """Have run() return once all outboxes are closed; the room must have been closed before."""
        self.stopping = True
        self._wake()

    def _is_done(self) -> bool:
        return self.failure is not None or (self.stopping and not self.outboxes and not self.orders)

    def _wake(self) -> None:
        if self.asleep:
            self.asleep = False
            with contextlib.suppress(BlockingIOError):  # there are wake-ups enough already
                self.waker.send(b"!")

    def _sleep(self) -> None:
        """Wait for orders that are left over, for stalled sockets, or for the next deadline."""
        self.asleep = True
        # Whoever found the turn taken, before it was given back, did not wake us: look again.
        idle = not (self.orders or self.needs_thread or self._is_done())
        left = self.next_deadline - time.monotonic() if idle else 0
        self.selector.select(None if left == math.inf else left)
        self.asleep = False
        drain(self.wakeful)

    def _work(self) -> None:
        """Do all there is to do, and keep the turn meanwhile."""
        while True:
            self.needs_thread = False
            if self.stalled:
                for key, _ in self.selector.select(0):
                    if key.data in self.stalled:
                        self._flush(key.data)
            if self.orders:
                self._round()
            now = time.monotonic()
            if now >= self.next_deadline:
                self._expire(now)
            if not self.orders:
                return
            time.sleep(0)  # busy: readers first, so that the next round carries more

    def _round(self) -> None:
        """Carry out all orders that wait, with one `send` for each connection."""
        for _ in range(len(self.orders)):
            step, outbox, data = self.orders.popleft()
            step(self, outbox, data)
        said, self.said = self.said, []
        special, self.special = self.special, []
        if said:
            data = said[0] if len(said) == 1 else b"".join(said)
            listeners = [outbox for outbox in self.listeners if outbox.own is None]
            if listeners and listeners[0].tls:
                self._send_sealed(listeners, data)
            else:
                for outbox in listeners:
                    self._send(outbox, data)
        for outbox in special:
            lines, outbox.own = outbox.own or [], None
            if outbox.listening and outbox.heard < len(said):
                lines += said[outbox.heard :]
            if lines:
                self._send(outbox, b"".join(lines))
            if outbox.hung_up:
                self._close_if_done(outbox)

    # The steps that can be ordered: take a connection on, have it hear what is said to all, say a
    # line to all but one, or to one alone, end a connection, and note that its reader has ended.

    def open(self, outbox: Outbox, _: bytes) -> None:
        self.outboxes.add(outbox)

    def listen(self, outbox: Outbox, _: bytes) -> None:
        if not outbox.hung_up:
            self._own(outbox)
            outbox.listening = True
            self.listeners[outbox] = None

    def broadcast(self, omit: Outbox, data: bytes) -> None:
        if omit.listening:
            self._own(omit)
            omit.heard += 1  # this line is left out
        self.said.append(data)

    def unicast(self, outbox: Outbox, data: bytes) -> None:
        if not outbox.hung_up:
            self._own(outbox).append(data)

    def hang_up(self, outbox: Outbox, _: bytes) -> None:
        if not outbox.hung_up:
            self._own(outbox).append(b"")  # has `_send` say, under TLS, that this is the end
            outbox.hung_up, outbox.listening = True, False
            self.listeners.pop(outbox, None)

    def release(self, outbox: Outbox, _: bytes) -> None:
        self._own(outbox)
        outbox.released = True

    def _own(self, outbox: Outbox) -> list[bytes]:
        """Return the list of what the outbox gets this round, complete up to this order."""
        if outbox.own is None:
            outbox.own = []
            outbox.heard = 0
            self.special.append(outbox)
        if outbox.listening and self.said:
            outbox.own += self.said[outbox.heard :]
        outbox.heard = len(self.said)
        return outbox.own

    def _send_sealed(self, listeners: Sequence[Outbox], data: bytes) -> None:
        """Seal for some and then send to them, and so on: 15 % cheaper than one after the other."""
        for start in range(0, len(listeners), SEALED_TOGETHER):
            some = listeners[start : start + SEALED_TOGETHER]
            for outbox, sealed in [(outbox, self._seal(outbox, data)) for outbox in some]:
                self._send(outbox, sealed, is_sealed=True)

    def _seal(self, outbox: Outbox, data: bytes) -> bytes:
        try:
            return outbox.tls.sealed(data, is_last=outbox.hung_up) if outbox.tls else data
        except OSError:
            self._lose(outbox, "connection lost")
            return b""

    def _send(self, outbox: Outbox, data: bytes, is_sealed: bool = False) -> None:
        """Send behind what already waits; keep what the kernel does not take."""
        if outbox.tls and not is_sealed:
            data = self._seal(outbox, data)
        try:
            can_send = data and not outbox.waiting
            sent = outbox.connection.send(data, DONT_WAIT) if can_send else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._lose(outbox, "connection lost")
            return
        if sent == len(data):
            return
        if not outbox.waiting:
            if len(self.stalled) >= MOST_STALLED:
                self._lose(min(self.stalled, key=attrgetter("deadline")), "not reading")
            self.selector.register(outbox.connection, selectors.EVENT_WRITE, outbox)
            self.stalled.add(outbox)
            self._set_deadline(outbox, STALL_SECONDS)
            self.needs_thread = True
        outbox.waiting += data[sent:]
        if len(outbox.waiting) > OUTBOX_LIMIT:
            self._lose(outbox, "not reading")

    def _flush(self, outbox: Outbox) -> None:
        """Send what waits in a stalled outbox, now that the kernel takes more."""
        try:
            sent = outbox.connection.send(outbox.waiting, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            self._lose(outbox, "connection lost")
            return
        del outbox.waiting[:sent]
        if outbox.waiting:
            if not outbox.hung_up:  # who has left is not given ever more time to read
                self._set_deadline(outbox, STALL_SECONDS)
            return
        self._forget_deadline(outbox)
        self._close_if_done(outbox)

    def _close_if_done(self, outbox: Outbox) -> None:
        """Once nothing is owed, close our end, or the socket if its reader has ended."""
        if outbox.waiting or not outbox.hung_up:
            return
        if outbox.released:
            self._forget_deadline(outbox)
            outbox.connection.close()
            self.outboxes.discard(outbox)
            self.needs_thread |= self.stopping  # the thread ends with the last outbox
        elif not outbox.lost:
            with contextlib.suppress(OSError):  # it may be gone already
                outbox.connection.shutdown(socket.SHUT_WR)
            self._set_deadline(outbox, outbox.linger)

    def _lose(self, outbox: Outbox, reason: str) -> None:
        """Give up an outbox that cannot be written to, with all that waits in it."""
        if outbox.lost:
            return
        outbox.lost = outbox.hung_up = True
        outbox.listening = False
        self.listeners.pop(outbox, None)
        outbox.waiting = bytearray()
        self._forget_deadline(outbox)
        outbox.on_lost(reason)  # before its reader wakes, who would give no reason
        with contextlib.suppress(OSError):  # it may be gone already
            # The kernel's buffer, too, goes at once: `close` resets the connection.
            linger = struct.pack("HH" if os.name == "nt" else "ii", 1, 0)
            outbox.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._shut(outbox)
        self._close_if_done(outbox)

    def _shut(self, outbox: Outbox) -> None:
        with contextlib.suppress(OSError):  # it may be gone already
            outbox.connection.shutdown(socket.SHUT_RDWR)  # wakes its reader

    def _set_deadline(self, outbox: Outbox, seconds: float) -> None:
        outbox.deadline = time.monotonic() + seconds
        self.timed.add(outbox)
        if outbox.deadline < self.next_deadline:
            self.next_deadline = outbox.deadline
            self.needs_thread = True

    def _forget_deadline(self, outbox: Outbox) -> None:
        self.timed.discard(outbox)
        if outbox in self.stalled:
            self.stalled.remove(outbox)
            self.selector.unregister(outbox.connection)

    def _expire(self, now: float) -> None:
        for outbox in [outbox for outbox in self.timed if outbox.deadline <= now]:
            if outbox.waiting:
                self._flush(outbox)  # epoll waits for a third of the buffer, `send` takes less
                if outbox.waiting and outbox.deadline <= now:
                    self._lose(outbox, "not reading")
            else:
                self.timed.remove(outbox)
                self._shut(outbox)  # the other side had its time to close first
        self.next_deadline = min((outbox.deadline for outbox in self.timed), default=math.inf)


# --------------------------------------------------------------------------------------------------
# Display and log: listeners too. Each has a thread that may wait for a terminal or a disk as long
# as it takes; all others only leave lines with it, and past a bound lines are counted, not kept.


class Display:
    """What the one who watches the room is shown, in the order of the room, and the log of it."""

    def __init__(self) -> None:
        self.writers: list[Writer] = []
        self.strangers = threading.Lock()  # guards the two below
        self.quiet_until = 0.0  # monotonic seconds
        self.unshown = 0  # lines that strangers caused meanwhile

    def open(self, log: Path | None) -> None:
        """Start the writers. Raises OSError for the log's path."""
        if log is not None:
            self.writers.append(Writer(self, "log", open_log(log), "utf-8", log))
        if sys.stdout is not None:  # None if the server was started without one
            stream = cast(RawIOBase, getattr(sys.stdout.buffer, "raw", sys.stdout.buffer))
            # Windows' consoles take UTF-8 here; for its files and pipes its code page is too small.
            encoding = "utf-8" if os.name == "nt" else sys.stdout.encoding
            self.writers.append(Writer(self, "display", stream, encoding, None))

    def show(self, line: str, address: str = "-") -> None:
        now = time.time()
        for writer in self.writers:
            writer.add(now, address, line)

    def reopen(self) -> None:
        """Have the log opened again, if its name leads elsewhere by now."""
        for writer in self.writers:
            writer.news.set()

    def show_stranger(self, line: str, address: str) -> None:
        """Show what somebody causes before login: a line a second, so that talk can be read."""
        with self.strangers:
            now = time.monotonic()
            if self.unshown or now < self.quiet_until:
                self.unshown += 1
                return
            self.quiet_until = now + STRANGER_SECONDS
        self.show(line, address)

    def tell_unshown(self) -> None:
        with self.strangers:
            now = time.monotonic()
            if not self.unshown or now < self.quiet_until:
                return
            unshown, self.unshown = self.unshown, 0
            self.quiet_until = now + STRANGER_SECONDS
        self.show(f"({unshown} more failed logins and closed connections)")


class Writer:
    """Writes lines to one stream, and says how many it could not."""

    def __init__(
        self, display: Display, name: str, stream: RawIOBase, encoding: str, path: Path | None
    ) -> None:
        """stream: unbuffered; path: where it is opened again if that leads elsewhere by then, as
        after a rotation; with it, lines have time and address in front."""
        self.display = display  # is told once when the stream can no longer be written to
        self.name = name
        self.stream = stream
        self.encoding = encoding
        self.path = path
        self.lines: deque[tuple[float, str, str]] = deque()  # append and popleft are atomic
        self.gap = threading.Lock()  # guards `missed`
        self.missed = 0  # lines since the last one that was kept
        self.news = threading.Event()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def add(self, moment: float, address: str, line: str) -> None:
        """Leave a line to be written; never waits. moment: in seconds since the epoch."""
        # Once a line is missed, so are those behind it until the gap has been told.
        if self.missed or len(self.lines) >= WRITER_LIMIT:
            with self.gap:
                self.missed += 1
        else:
            self.lines.append((moment, address, line))
        if not self.news.is_set():
            self.news.set()

    def close(self, seconds: float) -> None:
        """Give it at most so long to write what it has."""
        self.closing.set()
        self.news.set()
        self.thread.join(seconds)

    def _run(self) -> None:
        data, failed = b"", False  # what could not be written is tried again with the next line
        while True:
            if failed or not self.lines:
                self.news.wait()
            self.news.clear()
            data, failure = self._write(data or self._take())
            if failure and not failed:
                self.display.show(f"The {self.name} cannot be written: {explain(failure)}.")
            failed = failure is not None
            if self.closing.is_set() and (failed or not self.lines):
                return
            self.closing.wait(WRITER_BREATH)

    def _take(self) -> bytes:
        """Return all lines that wait, and how many were missed behind them."""
        text = "".join([self._form(*self.lines.popleft()) for _ in range(len(self.lines))])
        with self.gap:
            missed, self.missed = self.missed, 0
        gap = f"({missed} lines not shown)\n" if missed else ""
        return (text + gap).encode(self.encoding, "backslashreplace")

    def _form(self, moment: float, address: str, line: str) -> str:
        if self.path is None:
            return f"{line}\n"
        shown = datetime.fromtimestamp(moment).astimezone().isoformat(timespec="milliseconds")
        return f"{shown} {address} {line}\n"

    def _write(self, data: bytes) -> tuple[bytes, OSError | None]:
        """Return what could not be written, and why."""
        try:
            while True:
                if self.path is not None and not is_named(self.stream.fileno(), self.path):
                    self.stream, rotated = open_log(self.path), self.stream
                    rotated.close()
                if not data:
                    return b"", None
                written = self.stream.write(data)
                if written is None:  # somebody made it non-blocking, as a shared terminal may be
                    select.select([], [self.stream], [])
                data = data[written or 0 :]
        except OSError as error:
            return data, error


def open_log(path: Path) -> FileIO:
    """Raises OSError: also for a FIFO without a reader, which would let us wait for one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | OPEN_FLAGS, 0o600)
    if hasattr(os, "O_NONBLOCK"):  # not on Windows, which would refuse it for a file
        os.set_blocking(descriptor, True)
    return FileIO(descriptor, "w")


# --------------------------------------------------------------------------------------------------
# Limits: how often who may do what, and whose turn it is to have a password hashed.
#
# Everything is counted by leaky bucket: so much at once, then one at a time, evenly. What is spent
# is forgiven as time goes by, so nothing is locked for good and no timer runs.
#
#     what                counted by             at once        then            past that
#     lines               user                   20             --rate a second read more slowly
#     lines before login  address                20             --rate a second read more slowly
#     `login` lines       connection             20             --rate a second read more slowly
#     failed logins       UserID and address     10             1 every 6 s     refused, not hashed
#     new accounts        address                100            1 every 6 s     refused, not hashed
#     hashes              all                    one each core  in turn         wait
#     not logged in       all                    100            -               one is evicted
#
# An address is an IPv4 address or an IPv6 /64: what one household or one attacker has. The counts
# outlive connections, or a new connection would bring a new allowance.
#
# An honest class of thirty behind one address never feels this: their logins do not count for the
# address, a mistyped password counts for its own UserID alone, and their hundred new accounts are
# free. Who shares an address with a flood shares its fate in two things: new accounts may be used
# up, and connections may be evicted before login.
class Allowance:
    """How often something may happen, by key: `burst` times at once, then every `seconds`.

    A leaky bucket as in ITU-T I.371's virtual scheduling: all that is known of a key is the moment
    until which everything that happened is paid for.
    """

    def __init__(self, burst: int, seconds: float) -> None:
        """seconds: for each one past the burst; 0 lifts the limit."""
        self.burst = burst
        self.seconds = seconds
        self.lock = threading.RLock()  # as `take` looks and spends in one step
        self.paid_until: dict[Hashable, float] = {}  # monotonic seconds; latest change last

    def spend(self, key: Hashable, count: int = 1) -> float:
        """Count so many, and return how many seconds to wait before the last may happen."""
        if not self.seconds:
            return 0.0
        with self.lock:
            # Somebody who connects anew for each line never waits, so a debt needs an end.
            most = (self.burst + LOBBY) * self.seconds
            debt = min(self._debt(key) + count * self.seconds, most)
            self.paid_until.pop(key, None)  # and put in as the last: the first is forgotten first
            if debt > 0:
                self.paid_until[key] = time.monotonic() + debt
            if len(self.paid_until) > REMEMBERED:
                del self.paid_until[next(iter(self.paid_until))]
            return self._wait(debt)

    def take(self, key: Hashable, refusal: str) -> None:
        """Count one, or raise Denied with the refusal and the real wait, uncounted."""
        with self.lock:
            if wait := math.ceil(self._wait(self._debt(key) + self.seconds)):
                raise Denied(f"{refusal}, try again in {wait} seconds.")
            self.spend(key)

    def give_back(self, key: Hashable) -> None:
        self.spend(key, -1)

    def _debt(self, key: Hashable) -> float:
        return max(0.0, self.paid_until.get(key, 0.0) - time.monotonic())

    def _wait(self, debt: float) -> float:
        return max(0.0, round(debt - self.burst * self.seconds, 6))


def network_of(host: str) -> bytes:
    """Return what an address is counted by: an IPv4 address, or the /64 of an IPv6 one."""
    address = ipaddress.ip_address(host.partition("%")[0])
    packed: bytes = (getattr(address, "ipv4_mapped", None) or address).packed
    return packed[:8]


def show_address(host: str, port: int) -> str:
    """Return an address as people write it; IPv4 as IPv4, also where it came in by way of IPv6."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Hashing:
    """A thread for each core, so that as many hashes run at a time and all others wait. The steps
    of a TLS handshake, which is work of the same kind, count as logins.

    Logins come before new accounts, and of each the address that had least hashed lately comes
    first: a crowd at one address keeps nobody else out.
    """

    LOGIN, NEW_ACCOUNT = 0, 1

    def __init__(self) -> None:
        self.queue: queue.PriorityQueue[tuple[Any, ...]] = queue.PriorityQueue()
        self.numbers = itertools.count()  # who is equal otherwise comes in order
        self.lately = Allowance(0, 1.0)  # by address
        for _ in range(CORES):  # now, as there may be no threads to be had later
            threading.Thread(target=self._run, name="hashing", daemon=True).start()

    def run(self, kind: int, network: bytes, task: Callable[[], Result]) -> Result:
        """Return what the task returns, or raise what it raises, once its turn has come.

        kind: LOGIN or NEW_ACCOUNT; network: whom it is for.
        """
        future: Future[Result] = Future()
        self.queue.put((kind, self.lately.spend(network), next(self.numbers), future, task))
        return future.result()

    def _run(self) -> None:
        if sys.platform == "linux":  # let chat go first, where a thread has its own priority
            with contextlib.suppress(OSError):  # not permitted in some containers
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            *_, future, task = self.queue.get()
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - raised again where the result is wanted
                future.set_exception(error)
            del future, task  # or they would be kept until the next one comes


# --------------------------------------------------------------------------------------------------
# Records: users.txt as text, a line each: (Tom, $scrypt$ln=14,r=8,p=1$<salt>$<hash>). No files.

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
SHIPPED = {  # accounts that come with the program, until they have other passwords
    "Beth": "oQilWR2eG6Wmd2U552BN1A$d2BLfEvCRzYP3qLdApBdQ5z399mH2oi6fmI5fV+h9ys",
    "David": "vC+f98Vuq9aPAAGIp8pq6g$nCgqNZQHHUnRIjO54LYFUdc9YCY5NhwqvslMXJCJ4hE",
    "Tom": "sigy4+/uH27ihw5RQjWu6w$o1hzSKet9euPQ8J7dMC5zflU3gsKP2NOF+/UnqUMVD4",
}
HASH_HEAD = "$scrypt$ln={},r={},p={}$"  # of a PHC string; HASH_COST goes into it
MAX_PLAIN = 8  # characters; a second field that is longer is a hash


class AccountsError(Exception):
    """users.txt cannot be used; the text says where and why, in one line."""


def hash_passwords(passwords: Sequence[str]) -> list[str]:
    """Hash on every core; say how far it is on standard error once it takes over a second."""
    records: list[str] = []
    told = time.monotonic()
    with ThreadPoolExecutor(CORES) as pool:
        for record in pool.map(hash_password, passwords):
            records.append(record)
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                complain(f"Hashing passwords: {len(records)} of {len(passwords)}.")
    return records


def hash_password(password: str) -> str:
    """Return a salted scrypt hash (RFC 7914) as a PHC string: base64 without padding."""
    salt = os.urandom(16)
    parts = (salt, derive_key(password, salt, HASH_COST))
    texts = [base64.b64encode(part).decode().rstrip("=") for part in parts]
    return HASH_HEAD.format(*HASH_COST) + "$".join(texts)


def derive_key(password: str, salt: bytes, cost: tuple[int, int, int]) -> bytes:
    log_n, r, p = cost
    n, memory = 2**log_n, 128 * r * (2**log_n + p + 2)  # the memory that scrypt needs
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=32)


def verify_password(password: str, record: str) -> bool:
    """Tell whether `record`, a PHC string that parse_hash accepts, was made from `password`."""
    cost, salt, key = parse_hash(record)
    return hmac.compare_digest(derive_key(password, salt, cost), key)


def parse_hash(record: str) -> tuple[tuple[int, int, int], bytes, bytes]:
    """Return (log2(N), r, p), salt and key of a PHC scrypt string; ValueError if it is none."""
    found = HASH.fullmatch(record)
    if not found:
        kinds = "neither a password of 4 to 8 characters nor a scrypt hash"
        raise ValueError(f"the second field is {kinds}.")
    log_n, r, p = (int(number) for number in found.group(1, 2, 3))
    # The second bound is RFC 7914's: N must be less than 2 ** (128 * r / 8).
    if 128 * r * 2**log_n > HASH_MEMORY or log_n >= 16 * r or p > 16:
        raise ValueError("the second field is a scrypt hash with parameters out of bounds.")
    salt, key = (base64.b64decode(text + "=" * (-len(text) % 4)) for text in found.group(4, 5))
    return (log_n, r, p), salt, key


def account_line(userid: str, record: str) -> str:
    return f"({userid}, {record})\n"


class UsersFile:
    """What a users.txt holds: its lines, and the accounts in them."""

    def __init__(self, data: bytes, name: str) -> None:
        """Raises AccountsError, as `name:7: reason`, for a line that is no account."""
        # Surrogates carry what is not UTF-8 through a comment; no account may hold them.
        self.lines = data.decode("utf-8-sig", "surrogateescape").split("\n")
        self.records: dict[str, str] = {}  # UserID: hash, or password in plain text
        self.plain: dict[str, int] = {}  # UserID whose password is in plain text: index of its line
        for index, line in enumerate(self.lines):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                userid, second = read_account(line)
                if userid in self.records:
                    raise ValueError(f"a second account for {userid}; keep one.")
            except (ValueError, Denied) as error:
                reason = str(error).removeprefix("Denied. ")
                raise AccountsError(f"{name}:{index + 1}: {reason}") from None
            self.records[userid] = second
            if len(second) <= MAX_PLAIN:
                self.plain[userid] = index


def read_account(line: str) -> tuple[str, str]:
    """Return a line's UserID, and its hash or plain password. Raises ValueError or Denied."""
    if own := OWN_LINE.fullmatch(line):
        return own[1], own[2]
    if re.search("[\0\udc80-\udcff]", line):  # UTF-16, or an old code page
        raise ValueError("not UTF-8; save the file as UTF-8.")
    text = line.strip(" \t\r")
    userid, comma, second = text[1:-1].partition(",")
    if not (text.startswith("(") and text.endswith(")") and comma):
        raise ValueError("not an account; write (UserID, Password), or # before a comment.")
    userid = check_userid(userid.strip(" "))
    second = unicodedata.normalize("NFC", second.strip(" "))
    if len(second) <= MAX_PLAIN:
        check_password(second)
    else:
        parse_hash(second)
    return userid, second


def torn_end(data: bytes) -> bytes:
    """Return what a crash has left of a line that the server was writing at the end of the file.

    That is a beginning of it without a line end, or, after a power cut, NUL bytes in one stretch.
    What somebody typed wrongly, or saved as UTF-16, is never taken for that.
    """
    last = data.removeprefix(BYTE_ORDER_MARK).rstrip(b"\n").rpartition(b"\n")[2]
    text, *behind = re.split(rb"\0+", last)
    if len(behind) == 1 and not last.startswith(b"#"):
        # The NUL bytes may hang on a whole line, if that had no line end.
        torn = last if not text or is_own_beginning(text) else last.removeprefix(text)
        return data[data.rindex(torn) :]
    return last if data.endswith(last) and is_own_beginning(last) else b""


def is_own_beginning(text: bytes) -> bool:
    """Tell whether a line that the server writes begins so, and goes on."""
    head = " " + HASH_HEAD.format(*HASH_COST)
    try:
        # The cut may be within a character, which a decoder that waits for more leaves out.
        line = codecs.getincrementaldecoder("utf-8")().decode(text)
        userid, comma, second = line.partition(",")
        rest = f"{head}{'A' * 22}${'A' * 43})"[len(second) :]
        # More may have followed in the name: "all" alone is reserved, "all000" is not.
        account = read_account(line + rest if comma else f"{f'{userid}000':.33},{rest}")
    except (ValueError, Denied):
        return False
    is_of_own_cost = second[: len(head)] == head[: len(second)]
    return rest != "" and is_of_own_cost and account_line(*account).startswith(line)


# --------------------------------------------------------------------------------------------------
# Accounts: the file users.txt, and who is in it. Knows no sockets.
#
# The file is open only while it is read or written. Its fingerprint (size, times, inode) tells
# whether somebody has changed it since; every login and newuser asks, which costs one `stat`. A
# changed file is only read, as an editor may be in the middle of writing it. Once the file has
# stayed as it is for SETTLED_SECONDS, plain passwords in it are hashed and it is replaced, in one
# atomic step. A mistake in it is told of, once, and what was there before goes on: what it held
# when settled, and what was read of it since, which may have been half a file.
#
# `newuser` only appends and syncs, which costs the same however many accounts there are. An editor
# that read the file before that and saves it afterwards overwrites the new account, so what is gone
# from a file that was saved within RECENT_SECONDS of making the account is put back. Older accounts
# that are gone were taken out on purpose.

OPEN_FLAGS = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # for Windows; for FIFOs
# On Windows `st_ctime` is no change's time, and not the same for a path and an open file.
CHANGED = ("st_mtime_ns",) if os.name == "nt" else ("st_mtime_ns", "st_ctime_ns")
fingerprint_of = attrgetter("st_size", *CHANGED, "st_dev", "st_ino", "st_mode")


class Accounts:
    """The accounts in users.txt, which is this server's alone for as long as it runs.

    `records` may be read by any thread at any time: it is replaced whole, or gains an account.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """path: of users.txt; warn: is told in a line of what was mended, or cannot be."""
        self.path = Path(os.path.realpath(path))  # a link stays a link when the file is replaced
        self.name = self.path.name
        self.warn = warn
        self.tell = warn  # of a mistake in a file that was changed; the server displays it
        self.records: dict[str, str] = {}  # UserID: hash, or password in plain text
        self.usual_cost = HASH_COST  # that of the first account
        self.lock = threading.RLock()  # guards all below, and the file
        self.is_writing = False  # `refresh` need not look: the writer has just looked
        self.seen: tuple[int, ...] | None = None  # fingerprint when last read; None for no file
        self.seen_since = -math.inf  # monotonic seconds
        self.settled: dict[str, str] = {}  # the records of the last file that stayed as it was
        self.is_unread = False  # somebody holds it, as Windows lets them: read at the next look
        self.is_unfinished = False  # it ends in the middle of a line
        self.plain: list[str] = []  # UserIDs whose password the file holds in plain text
        self.recent: dict[str, tuple[str, float]] = {}  # made by newuser: hash, seconds since epoch
        self.dropped: dict[str, str] = {}  # of those, what an editor did not know and overwrote
        self.can_replace = True
        self.has_complained = False  # that it cannot be replaced
        self.lock_file: int | None = None  # descriptor, held to the end

    def open(self) -> None:
        """Lock, read and mend the file, which may be missing. Raises AccountsError, OSError."""
        if not self.path.parent.is_dir():
            advice = "Make it, or name another file with --users."
            raise AccountsError(f"{self.path}: its folder is missing. {advice}")
        try:
            self._lock_out_others()
            self._cut_off_torn_line()
            self._load()
            self.tidy(hash_passwords)
        except (OSError, AccountsError):
            self.close()
            raise
        if self.seen and self.seen[-1] & stat.S_IROTH and os.name == "posix":
            advice = f"Keep the hashes to yourself: chmod 600 {self.name}"
            self.warn(f"{self.name}: others on this machine may read it. {advice}")

    def _lock_out_others(self) -> None:
        beside = self.path.with_name(f".{self.name}.lock")
        # Another user's server may have made it, who may be in the same group or root, and lets us
        # read it. Where the folder is not ours to write to, the file itself must do.
        for path, flags in (
            (beside, os.O_RDWR | os.O_CREAT),
            (beside, os.O_RDONLY),
            (self.path, os.O_RDONLY | OPEN_FLAGS),
        ):
            with contextlib.suppress(OSError):
                self.lock_file = os.open(path, flags, 0o644)
                break
        try:
            if self.lock_file is not None:
                lock_descriptor(self.lock_file)
        except BlockingIOError:
            advice = "Stop that one, or name another file with --users."
            raise AccountsError(f"{self.name} is in use by another server. {advice}") from None
        except OSError as error:  # a file system without locks
            advice = "See to it that no second server uses it."
            self.warn(f"{self.name}: {explain(error)}. {advice}")

    def _cut_off_torn_line(self) -> None:
        data = self._read() or b""
        if torn := torn_end(data):
            whole = data.removesuffix(torn)
            number = len(UsersFile(whole, self.name).lines)  # raises, if there is a mistake in it
            os.truncate(self.path, os.path.getsize(self.path) - len(torn))
            begun = torn.partition(b",")[0].rstrip(b"\0").decode(errors="replace")
            problem = f"the last line, {begun!a}, was cut short by a crash and never confirmed"
            self.warn(f"{self.name}:{number}: {problem}; it is cut off.")

    def close(self) -> None:
        if self.lock_file is not None:
            os.close(self.lock_file)
            self.lock_file = None

    def verify(self, userid: str, password: str) -> bool:
        """Tell whether the password is the user's; costs one hash even if there is no such user."""
        self.refresh()
        record = self.records.get(userid, "")
        if len(record) > MAX_PLAIN:
            is_right = verify_password(password, record)
        else:
            # The time tells nobody who has an account, if they all have hashes like the first one.
            derive_key(password, bytes(16), self.usual_cost)
            is_right = hmac.compare_digest(record.encode(), password.encode())
        self.refresh()  # a hash takes time, in which the account may have been removed
        return is_right and userid in self.records

    def add(self, userid: str, record: str) -> bool:
        """Write an account and sync it to disk; return False if the UserID is taken.

        Raises AccountsError if it cannot be saved; the file is then as it was.
        """
        patience = time.monotonic() + 5 * SETTLED_SECONDS
        while True:
            with self.lock:
                self.refresh()
                is_missing = userid in self.settled and userid not in self.records
                is_being_written = (self.is_unfinished or is_missing) and not self.is_settled()
                if not is_being_written or time.monotonic() > patience:
                    made = time.time()
                    # It may be there already, and ours: in a copy made while it was written.
                    is_there = userid in self.records
                    if is_there and self.records[userid] != record:
                        return False
                    if is_there or self._save({userid: record}):
                        self.recent[userid] = record, made
                        return True
            time.sleep(WATCH_SECONDS / 10)  # no event tells that an editor has finished

    def put_back(self) -> None:
        """Append the new accounts that an editor has overwritten. Raises AccountsError."""
        with self.lock:
            self.refresh()
            if self.dropped:
                self._save({})

    def _save(self, new: dict[str, str]) -> bool:
        """Append accounts and what was dropped, or write a file that is gone anew.

        Return False if somebody has changed the file since it was read. Raises AccountsError.
        """
        new = {**self.dropped, **new}
        accounts = new if self.seen else {**self.records, **new}
        lines = "".join(account_line(*account) for account in accounts.items())
        self.is_writing = True
        try:
            is_saved = self._append(lines) if self.seen else self._replace(lines)
        except OSError as error:
            raise AccountsError(explain(error)) from None
        finally:
            self.is_writing = False
        if is_saved:
            self.records.update(new)
            self.dropped = {}
        return is_saved

    def refresh(self) -> None:
        """Read the file if somebody has changed it."""
        if self.is_writing or (self._look() == self.seen and not self.is_unread):
            return
        with self.lock:
            is_new = self._look() != self.seen
            if is_new or self.is_unread:
                if self.is_settled():
                    self.settled = self.records
                self.seen_since = time.monotonic()
                try:
                    self._load()
                except AccountsError as error:
                    # What was read while an editor was writing may be half of what was there.
                    self.records = {**self.settled, **self.records}
                    self.plain = []  # a file with a mistake in it is not rewritten
                    if is_new:  # each state is told of once
                        self.tell(str(error))

    def _load(self) -> None:
        """Read the file, if there is one. Raises AccountsError."""
        self.seen = self._look()  # before it is read: a change meanwhile is noticed
        self.is_unread = True
        data = self._read()
        self.is_unread = False
        if data is None:
            return
        self.is_unfinished = not data.endswith(b"\n")
        users = UsersFile(data, self.name)
        # An old copy that is put in the place of the file has its old time, but for ctime.
        saved = max(self.seen[1 : 1 + len(CHANGED)]) / 1e9 if self.seen else 0.0
        for userid, (record, made) in self.recent.items():
            if made - 1 <= saved < made + RECENT_SECONDS:  # a file's time may be a little behind
                self.dropped[userid] = record
        for userid in self.dropped.keys() & users.records.keys():
            del self.dropped[userid]
        self.plain = list(users.plain)
        first = next(iter(users.records.values()), "")
        self.usual_cost = parse_hash(first)[0] if len(first) > MAX_PLAIN else HASH_COST
        self.records = {**users.records, **self.dropped}

    def is_settled(self) -> bool:
        """Tell whether the file has stayed as it is for long enough: no editor is writing it."""
        return time.monotonic() >= self.seen_since + SETTLED_SECONDS

    def tidy(self, hash_all: Callable[[Sequence[str]], Sequence[str]]) -> None:
        """Once the file is settled, put back accounts and hash plain passwords.

        hash_all: hashes passwords, and may take its time, as no lock is held meanwhile.
        """
        with self.lock:
            self.refresh()
            since = time.time() - 2 * RECENT_SECONDS  # nobody looks at older ones any more
            self.recent = {name: pair for name, pair in self.recent.items() if pair[1] >= since}
            if not self.is_settled():
                return
            self.settled = self.records  # those before may be many, and are needed no longer
            with contextlib.suppress(AccountsError):  # tried again at the next look
                self.put_back()
            if not (self.plain and self.seen and self.can_replace):
                return
            seen, plain = self.seen, self.plain
            passwords = [self.records[userid] for userid in plain]
        hashes = dict(zip(plain, hash_all(passwords), strict=True))
        with self.lock:
            if self._look() != seen or (data := self._read()) is None:
                return  # it was changed meanwhile, and is looked at again
            users = UsersFile(data, self.name)
            for userid, record in hashes.items():
                users.lines[users.plain[userid]] = account_line(userid, record)[:-1]
            try:
                if self._replace("\n".join(users.lines)):
                    self.records.update(hashes)
                    self.plain, self.has_complained = [], False
            except OSError as error:
                advice = "Keep it in a folder that this user may write to."
                is_held = getattr(error, "winerror", 0)  # Windows
                self.can_replace = bool(is_held or error.errno == errno.ENOSPC)
                if self.can_replace:
                    self.seen_since = time.monotonic() + RECENT_SECONDS
                    held = "Another program may have it open; it" if is_held else "It"
                    advice = f"{held} is tried again."
                if not self.has_complained:
                    self.has_complained = True
                    problem = f"it cannot be replaced ({explain(error)}), so plain passwords"
                    self.warn(f"{self.name}: {problem} in it stay. {advice}")

    def _look(self) -> tuple[int, ...] | None:
        try:
            return cast("tuple[int, ...]", fingerprint_of(os.stat(self.path)))
        except OSError:
            return None

    def _read(self) -> bytes | None:
        """Return what the file holds, None if it is missing. Raises AccountsError."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                advice = "Name another one with --users."
                raise AccountsError(f"{self.name} is no regular file. {advice}")
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AccountsError(f"{self.name}: {explain(error)}.") from None

    def _append(self, lines: str) -> bool:
        """Append and sync; return False if the file is not the one that has the name any more."""
        try:
            with opened(self.path, os.O_RDWR | os.O_APPEND) as file:
                before = os.fstat(file)
                if fingerprint_of(before) != self.seen:
                    return False  # an editor has saved just now: the caller looks again
                if not stat.S_ISREG(before.st_mode):  # a link to /dev/null, and not ours to change
                    raise AccountsError(f"{self.name} is no regular file.")
                if before.st_mode & stat.S_IROTH:  # by some system's default
                    with contextlib.suppress(OSError):  # its owner was told at the start
                        os.chmod(self.path, 0o600)
                os.lseek(file, max(0, before.st_size - 1), os.SEEK_SET)
                line_end = b"" if os.read(file, 1) in (b"", b"\n") else b"\n"
                data = line_end + lines.encode()
                try:
                    write_synced(file, data)
                except OSError:
                    with contextlib.suppress(OSError):  # then the line is torn, as by a crash
                        os.ftruncate(file, before.st_size)
                    raise
                after = os.fstat(file)
                if after.st_size != before.st_size + len(data):
                    return False  # somebody wrote, too, perhaps half a line before ours
                self.seen = fingerprint_of(after)
                return is_named(file, self.path)
        except FileNotFoundError:
            return False

    def _replace(self, text: str) -> bool:
        """Put a new file in the place of the old in one atomic step, mode and owner kept.

        Return False if somebody has changed the old one since it was read. Raises OSError.
        """
        temporary = self.path.with_name(f".{self.name}.new")
        temporary.unlink(missing_ok=True)  # left by a crash; ours alone, as the lock is
        try:
            with opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                if self.seen is not None and hasattr(os, "fchown"):
                    old = os.stat(self.path)
                    if (old.st_uid, old.st_gid) != (os.getuid(), os.getgid()):
                        os.fchown(file, old.st_uid, old.st_gid)
                    # Others may read the hashes by some system's default: nobody asked for that.
                    os.fchmod(file, 0o600 if old.st_mode & stat.S_IROTH else old.st_mode & 0o7777)
                write_synced(file, text.encode(errors="surrogateescape"))
            # Somebody who saves between this look and the next call is overwritten: no system
            # offers to replace a file only if it is still the same.
            if self._look() != self.seen:
                return False
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)
        self.seen = self._look()
        try:
            sync_folder(self.path.parent)
        except OSError as error:
            reason = f"its folder cannot be synced ({explain(error)})"
            self.warn(f"{self.name}: {reason}: a power cut may bring back the old file.")
        return True


# --------------------------------------------------------------------------------------------------
# Files: what of them the accounts need, and the log a little. Nothing here knows what they hold.
@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open a file, its owner's alone if it is new, and close it after the block."""
    file = os.open(path, flags | OPEN_FLAGS, 0o600)
    try:
        yield file
    finally:
        os.close(file)


def lock_descriptor(file: int) -> None:
    """Lock a file against other servers. BlockingIOError: one has it; OSError: no locks here."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        os.lseek(file, 1 << 30, os.SEEK_SET)  # past any end: nobody can read what is locked there
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:  # whose errno tells nothing
            raise BlockingIOError from None


def is_named(file: int, path: Path) -> bool:
    """Tell whether an open file is still the one that has the name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), os.stat(path))
    return False


def write_synced(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.fsync(file)


def sync_folder(path: Path) -> None:
    """Make a new name durable; Windows cannot open a folder, and needs no such call."""
    if hasattr(os, "O_DIRECTORY"):
        with opened(path, os.O_RDONLY | os.O_DIRECTORY) as folder:
            os.fsync(folder)


# --------------------------------------------------------------------------------------------------
# Server: listens, accepts, and stops. The main thread does nothing else, so that a signal is heard
# at once whatever the rest is doing.
class Server:
    """A room that is open to the network."""

    def __init__(self, options: argparse.Namespace, accounts: Accounts, display: Display) -> None:
        """Listen, and make what serves. Raises OSError if it cannot."""
        self.options = options
        self.encryption = encrypt(options.tls_cert, options.tls_key) if options.tls_cert else None
        self.listener = listen(options.host, options.port)
        self.accounts = accounts
        self.display = display
        self.courier = Courier()
        self.room = Room(self.courier, display, options.max_clients, options.history)
        self.hashing = Hashing()
        self.lines = Allowance(BURST, 1 / options.rate if options.rate else 0.0)  # by user
        self.failures = Allowance(FAILURES, FAILURE_SECONDS)  # by UserID and address
        self.new_accounts = Allowance(NEW_ACCOUNTS, FAILURE_SECONDS)  # by address
        # Set by signals' handlers, which must take no lock.
        self.is_told_to_stop = self.has_rotated_log = False
        self.stopping = threading.Event()
        self.short_of_descriptors = False
        self.courier_ended = False
        self.courier_thread = threading.Thread(target=self._run_courier, daemon=True)
        self.wakeful, self.waker = wake_up_pair()

    def serve(self) -> bool:
        """Run the room until a signal stops it; return whether all went well."""
        handle_signals(self._on_stop, self._on_rotated)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.courier_thread.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        threading.Thread(target=self._tidy, name="tidy", daemon=True).start()
        self._announce()
        look_again = 0.0
        while not (self.is_told_to_stop or self.courier_ended):
            now = time.monotonic()
            if now >= look_again:
                look_again = max(self.room.expire(now), now + LOBBY_PAUSE)
            select.select([self.listener, self.wakeful], [], [], look_again - now)
            drain(self.wakeful)
            if self.has_rotated_log:
                self.has_rotated_log = False
                self.display.reopen()
            if not self.is_told_to_stop:
                self._accept_all()
        return self._stop()

    def _announce(self) -> None:
        """Show the first lines: where the room is, how others join, whose password all know."""
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        host, service = socket.getnameinfo(self.listener.getsockname(), flags)  # with its zone
        port = int(service)
        kept = f", last {self.options.history} lines kept" if self.options.history else ""
        kept += ", TLS" if self.encryption else ""
        place = f"{show_address(host, port)}, room for {self.room.limit}{kept}"
        self.display.show(f"Chat room server on {place}. Ctrl-C stops it.")
        if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return
        reached = address_of_this_machine() if host in ("0.0.0.0", "::") else host
        more = f" --port {port}" if port != PORT else ""
        if self.encryption:
            certificate = self.options.tls_cert
            reached = name_in(certificate, self.encryption) or reached
            more += f" --tls-ca {certificate.name}"
        self.display.show(f"Others join with: python client.py --host {reached}{more}")
        records = self.accounts.records
        known = [name for name, end in SHIPPED.items() if records.get(name, "").endswith(end)]
        if known:
            reason = "they have the passwords that came with this program"
            self.display.show(f"Anyone can log in as {', '.join(known)}: {reason}.")

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.is_told_to_stop = True
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it at once

    def _on_rotated(self, number: int, frame: FrameType | None) -> None:
        self.has_rotated_log = True

    def _run_courier(self) -> None:
        try:
            self.courier.run()
        except BaseException as error:
            self.courier.failure = error
            raise
        finally:
            self.courier_ended = True
            self.waker.send(b"!")

    def _watch(self) -> None:
        """Look at users.txt while anybody is in, and at what strangers do. A thread of its own."""
        known = None
        while not self.stopping.wait(WATCH_SECONDS):
            self.display.tell_unshown()
            if self.room.users or self.accounts.recent:
                self.accounts.refresh()
                if self.accounts.is_settled() and known is not self.accounts.records:
                    known = self.accounts.records
                    self.room.evict_removed(known.__contains__)

    def _tidy(self) -> None:
        """Mend a users.txt that was edited. A thread of its own, as hashing may take long."""

        def hash_all(passwords: Sequence[str]) -> list[str]:
            run = partial(self.hashing.run, Hashing.NEW_ACCOUNT, b"")
            return [run(partial(hash_password, password)) for password in passwords]

        while not self.stopping.wait(WATCH_SECONDS):
            if self.room.users or self.accounts.recent:
                with contextlib.suppress(AccountsError):  # the next look tells of it
                    self.accounts.tidy(hash_all)

    def _accept_all(self) -> None:
        for _ in range(LOBBY):  # then back to look at the clock and for signals
            most = len(self.room.users) + max(len(self.room.lobby), LOBBY) + LOBBY
            if len(self.courier.outboxes) - len(self.courier.timed) > most:
                # More come than go. The threads of the evicted must end first, or they pile up.
                select.select([self.wakeful], [], [], DRAIN_PAUSE)
                return
            try:
                connection, address = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in SHORTAGES:
                    if not self.short_of_descriptors:
                        self.short_of_descriptors = True
                        self.display.show(f"New connections have to wait: {explain(error)}.")
                    # No event tells when they come back.
                    select.select([self.wakeful], [], [], ACCEPT_PAUSE)
                    return
                continue  # that connection is gone already, which concerns nobody else
            if self.short_of_descriptors:
                self.short_of_descriptors = False
                self.display.show("Accepting connections again.")
            self._start_session(connection, *address[:2])

    def _start_session(self, connection: socket.socket, host: str, port: int) -> None:
        connection.setblocking(bool(DONT_WAIT))
        set_options(connection, CONNECTION_OPTIONS)
        session = Session(self, connection, host, port)
        self.room.arrive(session.visitor)
        try:
            # threading.Thread waits for each to start, and keeps 3 kB for it that nobody asks for.
            _thread.start_new_thread(session.run, ())
        except RuntimeError as error:
            self.display.show_stranger(f"Connection refused: {error}.", session.visitor.address)
            session.leave("Denied. The server is busy.")
            session.order(Courier.release)

    def _stop(self) -> bool:
        deadline = time.monotonic() + STOP_SECONDS
        went_well = not self.courier_ended
        self.stopping.set()
        self.listener.close()
        self.room.close()
        self.courier.stop()
        self.courier_thread.join(STOP_SECONDS)
        with contextlib.suppress(AccountsError):  # nobody is there any more to be told
            self.accounts.put_back()
        for writer in self.display.writers:
            writer.close(max(0.2, deadline - time.monotonic()))
        if self.courier.failure is not None:
            # Told here, as the thread that met the failure may be ended before it tells.
            traceback.print_exception(self.courier.failure)
        return went_well


# What accept fails with when something has run out: descriptors here or in all, memory.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def wake_up_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends: who waits for the first, with other sockets, is woken through the second."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def drain(wakeful: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        wakeful.recv(4096)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # a name that cannot be one
        raise OSError(socket.EAI_NONAME, "Name or service not known") from None
    # Of a name that leads to both, IPv4: `localhost` must suit the client's default.
    family, *_, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    # The whole address: of a link-local one, a zone is part.
    create = partial(socket.create_server, address, family=family, backlog=LISTEN_BACKLOG)
    listener = create(dualstack_ipv6=both)
    set_options(listener, LISTENER_OPTIONS)
    listener.setblocking(False)
    return listener


def encrypt(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return what connections are encrypted with. Raises OSError for a file's path."""
    import ssl

    def refuse() -> str:
        raise OSError(0, "a key with a passphrase cannot be used: nobody is asked for it", path)

    path = str(key or certificate)
    for file in filter(None, (certificate, key)):
        file.read_bytes()  # OpenSSL does not say which one it cannot read
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, refuse)
    except ssl.SSLError as error:
        problem = "no certificate and its key in PEM form"
        if key is None:
            problem += ". Name the key with --tls-key, if it is in another file"
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"not the key of the certificate in {certificate}"
        raise OSError(0, problem, path) from None
    return context


def name_in(certificate: Path, context: ssl.SSLContext) -> str | None:
    """Return the first name or address that a certificate is for: a handshake with it tells."""
    import ssl

    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer need not be known here
    trusting.load_verify_locations(certificate)
    server, client = Tls(context), Tls(trusting, "anybody")
    try:
        while not client.is_open:
            client.opened(server.sealed(b""))
            server.opened(client.sealed(b""))
    except ssl.SSLError:
        return None  # it has expired, or is not valid yet
    found: dict[str, Any] = client.ends.getpeercert() or {}
    return next((name for _, name in found.get("subjectAltName", ()) if "*" not in name), None)


def set_options(endpoint: socket.socket, options: Iterable[tuple[str, int]]) -> None:
    """Set each option on its own: a system that refuses one still has the others."""
    for name, value in options:
        level = socket.IPPROTO_TCP if name.startswith("TCP_") else socket.SOL_SOCKET
        number = TCP_RTO_MAX_MS if name == "TCP_RTO_MAX_MS" else getattr(socket, name, None)
        if number is not None:
            with contextlib.suppress(OSError):  # refused, or reset before it was looked at
                endpoint.setsockopt(level, number, value)


def address_of_this_machine() -> str:
    """Return the address that others reach this machine by, as well as that can be told."""
    name = socket.gethostname()
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which interface it would take
        return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        for *_, address in socket.getaddrinfo(name, None, socket.AF_INET):
            if not ipaddress.ip_address(address[0]).is_loopback:
                return str(address[0])
    return name


def handle_signals(stop: SignalHandler, reopen: SignalHandler) -> None:
    """Stop at Ctrl-C, SIGTERM, Windows' Ctrl-Break and a closed terminal.

    What was ignored at the start (nohup, a script's `&`) stays ignored. Without a terminal, SIGHUP
    is logrotate's: have the log opened again.
    """
    is_at_terminal = sys.stdin is not None and sys.stdin.isatty()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            is_for_log = name == "SIGHUP" and not is_at_terminal
            signal.signal(number, reopen if is_for_log else stop)


# --------------------------------------------------------------------------------------------------
# Main: options, users.txt, listen; then serve until Ctrl-C or SIGTERM.
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; return the exit status: 0 after a signal, 1 if it cannot run."""
    options = parse_options(arguments)
    if not hasattr(hashlib, "scrypt"):
        complain("server.py: this Python was built without scrypt (hashlib). Use another one.")
        return 1
    try:
        handle_signals(signal.default_int_handler, lambda *_: None)  # until serve's own
        raise_descriptor_limit(options.max_clients)
        threading.stack_size(THREAD_STACK)
        display = Display()
        accounts = Accounts(options.users, warn=complain)
        accounts.open()
        server = Server(options, accounts, display)
        display.open(options.log)
        accounts.tell = display.show
        accounts.warn = complain_later
    except AccountsError as error:
        complain(str(error))
        return 1
    except OSError as error:
        where = error.filename or show_address(options.host, options.port)
        advice = "" if error.filename else ADVICE.get(error.errno or 0, "")
        complain(f"server.py: {where}: {explain(error)}. {advice}".rstrip())
        return 1
    except KeyboardInterrupt:
        return 0
    return 0 if server.serve() else 1


ANOTHER_HOST = "Give --host an address of this machine, or 0.0.0.0 for all that it has."
ADVICE = {
    errno.EADDRINUSE: "Stop what uses it, or choose another --port.",
    errno.EACCES: "Choose another --port, over 1023.",
    errno.EADDRNOTAVAIL: ANOTHER_HOST,
    socket.EAI_NONAME: ANOTHER_HOST,
}


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    text = "A chat room. Join it with client.py or nc; anyone can make an account with newuser."
    parser = argparse.ArgumentParser(prog="server.py", description=text)
    add = parser.add_argument
    size, history = number(int, 1, 1_000_000), number(int, 0, 100_000)
    pace = f"lines a second from a user past a burst of {BURST}; 0 lifts this ({RATE})"
    kept = f"public lines that a joiner is told ({HISTORY})"
    add("--host", default=HOST, help=f"address to listen on ({HOST}); 0.0.0.0 for all")
    add("--port", default=PORT, type=number(int, 0, 65535), help=f"0 takes a free one ({PORT})")
    add("--max-clients", default=MAXCLIENTS, type=size, help=f"users in the room ({MAXCLIENTS})")
    add("--users", default=USERS, type=Path, help="file of accounts (users.txt beside this)")
    add("--log", type=Path, help="file to append what is shown to, with time and address")
    add("--rate", default=RATE, type=number(float, 0, 1_000_000), help=pace)
    add("--no-newuser", action="store_true", help="accept no new accounts")
    add("--history", default=HISTORY, type=history, help=kept)
    add("--tls-cert", type=Path, help="encrypt: the certificate, a PEM file")
    add("--tls-key", type=Path, help="its key, if that is in another file")
    add("--version", action="version", version=f"%(prog)s {VERSION}")
    options = parser.parse_args(arguments)
    if options.tls_key and not options.tls_cert:
        parser.error("--tls-key is of no use without --tls-cert")
    return options


def number(kind: type[float], lowest: int, highest: int) -> Callable[[str], float]:
    def convert(text: str) -> float:
        with contextlib.suppress(ValueError):
            if lowest <= kind(text) <= highest:
                return kind(text)
        whole = "whole " if kind is int else ""
        raise argparse.ArgumentTypeError(f"give a {whole}number from {lowest} to {highest}")

    return convert


def raise_descriptor_limit(max_clients: int) -> None:
    if sys.platform == "win32":  # which has no such limit
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says that there is no hard limit, but refuses that as a soft one.
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, max_clients + 2 * LOBBY + 64)
    with contextlib.suppress(OSError, ValueError):  # then there are fewer
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def complain(line: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed: nobody is there to be told
        if sys.stderr is not None:
            print(line, file=sys.stderr, flush=True)


def complain_later(line: str) -> None:
    """Wait for nobody who has stopped their terminal: a thread of its own may."""
    threading.Thread(target=complain, args=(line,), daemon=True).start()


def explain(error: OSError) -> str:
    """Return the system's word for it; what Python and getaddrinfo add is not for users."""
    code = error.errno or 0
    has_word = 0 < code < 10_000  # over that are those of Windows' sockets
    return os.strerror(code) if has_word else str(error.strerror).partition(" (while ")[0]


if __name__ == "__main__":
    exit_status = main()
    os._exit(exit_status)  # an ordinary exit would first finish the hashes that are under way
