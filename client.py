#!/usr/bin/env python3
"""The command-line client of a small chat room.

    python client.py [--host 127.0.0.1] [--port 14850] [--time] [--bell] [--tls] [--tls-ca FILE]

Type commands at the prompt; `help` lists them. What others say appears above the line being
typed, which stays as it was. What cannot be a command is refused here, in the server's own words,
and never sent. Standard input may be a pipe:

    printf 'login Tom Tom11\\nwho\\n' | python client.py

Exit status: 0 after logout or the end of input; 1 when the client cannot connect or the connection
is lost; 2 for wrong options.

    keyboard -> main thread -> reader --+
                                        +-> Screen -> terminal
    socket -> receiver thread ----------+

The main thread takes a line from its reader (the Editor at a terminal, else PlainLines), checks it
and sends it. The receiver shows what arrives. The Screen owns what is on the terminal, so neither
disturbs the other. Needs only this file and Python 3.11 or later.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):
    sys.exit(f"client.py needs Python 3.11 or later; this is Python {sys.version.split()[0]}.")

import codecs
import contextlib
import errno
import io
import os
import re
import select
import signal
import socket
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace

try:
    import termios

    HAS_TERMIOS = True
except ImportError:  # Windows: see Console
    HAS_TERMIOS = False

VERSION = "1.0"
HOST = "127.0.0.1"
PORT = 14850
PROMPT = "> "
MAX_LINE = 2048  # bytes in a command, without its line end; the server refuses more
LONGEST_SHOWN = 256 * 1024  # characters; a longer line is shown in pieces: memory has a bound
MAX_HISTORY = 1000  # lines
SEND_BUFFER = 4096  # bytes (Linux takes twice that): what is in it, Ctrl-C cannot call back
CONNECT_WAIT = 10.0  # seconds
UNHEARD = 60.0  # seconds that the server's machine may leave what was sent unacknowledged
LOGOUT_WAIT = 5.0  # seconds that the server has to answer a logout, if no lines wait before it
PACED_FROM = 20  # lines that the server reads at once; what waits behind them it reads ...
SLOWEST_PACE = 5  # ... at its own pace, which is at least so many lines a second

END_KEY = "Ctrl-D" if HAS_TERMIOS else "Ctrl-Z Enter"
HELP = f"""\
login UserID Password    join the room; a password left out is asked for unseen
newuser UserID Password  sign up; UserID 3 to 32 characters, password 4 to 8
send all Message         say something to everyone, 1 to 256 characters
send UserID Message      say something to one user alone
who                      list who is in the room
logout                   leave (also {END_KEY}, or Ctrl-C on an empty line)
help                     show this list"""


# --------------------------------------------------------------------------------------------------
# Grammar: how many words, how long, and whether a login came before. Which characters a name, a
# password or a message may hold is left to the server, which never trusts a client anyway.

USAGE = {
    "login": "login UserID Password",
    "newuser": "newuser UserID Password",
    "send": "send all|UserID Message",
    "who": "who",
    "logout": "logout",
}
USERID, PASSWORD = ("UserID", 3, 32), ("Password", 4, 8)  # and their lengths in code points
SEPARATORS = " \u00a0\u3000"  # some keyboards make the last two where a space was meant
# C0, DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates:
# whatever could move a reader's cursor or make a line look like another's.
UNSAFE = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"


class Denied(Exception):
    """A refusal; its text is the whole line that the user reads."""


class UnknownCommand(Denied):
    """The refusal after which a newcomer is told how to speak."""


def decode(line: bytes) -> str:
    """Return a line as text, without a CR at its end. Raises Denied: too long, or not UTF-8."""
    line = line.removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise Denied(f"Denied. Line longer than {MAX_LINE} bytes.")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise Denied("Denied. Not valid UTF-8.") from None


def check(text: str, is_logged_in: bool) -> tuple[str, ...]:
    """Return the words of a command, its first in lower case; () for an empty line.

    is_logged_in: a login was sent and not refused. A message is one word, trimmed.
    Raises Denied with the server's reply for whatever the server would refuse, but for the
    characters in it.
    """
    first, *rest = re.split(f"[{SEPARATORS}]+", text.lstrip(SEPARATORS), maxsplit=2)
    command = first.lower()
    if not command:
        return ()
    if command not in USAGE:
        shown = re.sub(UNSAFE, "\N{REPLACEMENT CHARACTER}", first[:32])
        raise UnknownCommand(f'Denied. Unknown command "{shown}". Commands: {", ".join(USAGE)}.')
    if command in ("send", "who") and not is_logged_in:
        raise Denied("Denied. Please login first.")
    if command == "send":
        if len(rest) < 2:
            raise Denied(f"Usage: {USAGE['send']}")
        recipient, message = rest[0], rest[1].strip()
        if not 1 <= len(message) <= 256:
            raise Denied("Denied. Message must be 1 to 256 characters.")
        return command, recipient, message
    words = words_of(text)
    if len(words) != len(USAGE[command].split()):
        raise Denied(f"Usage: {USAGE[command]}")
    if command in ("login", "newuser"):
        check_length(words[1], *USERID)
        check_length(words[2], *PASSWORD)
    return (command, *words[1:])


def words_of(text: str) -> list[str]:
    return [word for word in re.split(f"[{SEPARATORS}]+", text) if word]


def check_length(text: str, what: str, least: int, most: int) -> None:
    """Raise Denied unless text has `least` to `most` code points in NFC."""
    # No letter is more than four code points before. What has more is not even normalised: that
    # takes time that grows with the square of a run of marks.
    length = len(text) if len(text) > 4 * most else len(unicodedata.normalize("NFC", text))
    if not least <= length <= most:
        raise Denied(f"Denied. {what} must be {least} to {most} characters.")


# --------------------------------------------------------------------------------------------------
# Tls: what is said becomes what goes on the wire, and back. No sockets. server.py has it too.

TYPE_CHECKING = False
if TYPE_CHECKING:  # imported when it is asked for: the prompt is there sooner without it
    import ssl
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
# Screen: the one owner of standard output. Whatever is shown goes through it, each time in one
# write: take the prompt away, print, draw the prompt again. It draws from what it knows, never from
# what may be on the terminal.

DIM, BOLD, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
CLEAR_SCREEN, CLEAR_BELOW = "\x1b[H\x1b[2J", "\x1b[J"
INDENT = "  "
# Patterns are compiled when first needed: the prompt is there a few milliseconds earlier.
HARMFUL = f"{UNSAFE}|[\ud800-\udfff]"
# What some terminals draw a column wider than `cells` has it: soft hyphens, marks that stand before
# numbers, circled numbers, signs of the I Ching and the like, and what comes before U+FE0F.
WIDER = (
    "[\xad\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\u3248-\u324f"
    "\u4dc0-\u4dff\u2630-\u2637\u268a-\u268f\U0001d300-\U0001d356\U0001d360-\U0001d376\ufe0f]"
)
NAME = r"[^\s:,]{3,32}"
CAME_OR_WENT = rf"({NAME}) (joins|left)\."
PRIVATE = rf"{NAME} \(to {NAME}\): .*"
SAID_BEFORE = rf"{NAME} \(at \d\d:\d\d\): .*"
USAGE_REPLIES = frozenset(f"Usage: {usage}" for usage in USAGE.values())


class OutputClosed(Exception):
    """Nobody reads standard output any more (`| head -1`), or its terminal is gone."""


def visible(text: str) -> str:
    """Return text that a terminal shows and never obeys: harmful characters are spelled out."""
    if text.isascii() and text.isprintable():  # as mostly; and the prompt needs no pattern
        return text
    return re.sub(HARMFUL, lambda found: spell(found[0]), text)


def spell(character: str) -> str:
    if character == "\t":
        return " "
    return f"\\x{ord(character):02x}" if character <= "\xff" else f"\\u{ord(character):04x}"


def cells(character: str) -> int:
    """Return how many columns a character takes on the screen: 0, 1 or 2."""
    if " " <= character <= "~":
        return 1
    is_jamo_tail = "\u1160" <= character <= "\u11ff"  # drawn into the syllable before it
    if is_jamo_tail or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def colour_of(line: str) -> str:
    # The order matters: somebody may be called "Denied." or "Usage".
    if re.fullmatch(CAME_OR_WENT, line):
        return DIM
    if re.fullmatch(PRIVATE, line):
        return BOLD
    is_refusal = line.startswith("Denied. ") and not re.fullmatch(SAID_BEFORE, line)
    return RED if is_refusal or line in USAGE_REPLIES else ""


def fold(text: str, columns: int) -> str:
    """Return text broken between words into rows of at most `columns` cells, the further indented.

    So no padding makes the rest of a message look like a line of its own. A word longer than a row
    is left to the terminal to break, which keeps a web address in one piece; what follows it begins
    a new row. One that is not all ASCII is broken here, as it could hold what looks like a space.
    """
    if width_of(text) <= columns:
        return text
    rows, used = [""], 0
    for word in re.findall(r"\s+|\S+", text):
        is_too_long = width_of(word) > columns - len(INDENT) and not word.isspace()
        for piece in word if is_too_long and not word.isascii() else [word]:
            width = width_of(piece)
            if used + width > columns and not (is_too_long and word.isascii() and used < columns):
                rows.append(INDENT)
                used = len(INDENT)
                if word.isspace():
                    continue
            rows[-1] += piece
            used = min(used + width, columns)
    return "\n".join(rows)


def width_of(text: str) -> int:
    """Return how many columns a text takes at most."""
    return len(text) if text.isascii() else sum(map(cells, text)) + len(re.findall(WIDER, text))


class Layout:
    """Text broken into rows of at most `columns` cells, and the cursor's place among them."""

    def __init__(self, text: str, cursor: int, columns: int) -> None:
        self.rows = [""]
        self.widths = [0]
        self.cursor_row = self.cursor_column = 0
        for index, character in enumerate([*text, ""]):
            shown = visible(character)
            width = cells(shown) if len(shown) == 1 else len(shown)
            # A row is full for the cursor behind the text, too.
            if self.widths[-1] + (width if character else 1) > columns:
                self.rows.append("")
                self.widths.append(0)
            if index == cursor:
                self.cursor_row = len(self.rows) - 1
                self.cursor_column = min(self.widths[-1], columns - 1)
            self.rows[-1] += shown
            self.widths[-1] += width
            # Terminals do not agree on the width of joined emoji and the like. Naming the column
            # after every unusual character keeps the rest of the row in its place in any case.
            if width != len(shown) and self.widths[-1] < columns:
                self.rows[-1] += to_column(self.widths[-1])

    def keep_rows(self, height: int) -> None:
        """Drop the rows that a window of this height cannot show, but never the cursor's."""
        first = max(0, self.cursor_row - height + 1)
        self.rows = self.rows[first : first + height]
        self.widths = self.widths[first : first + height]
        self.cursor_row -= first


def to_column(column: int) -> str:
    return f"\r\x1b[{column}C" if column else "\r"


class Screen:
    """Standard output. Any thread may call show, edit, finish and clear.

    is_editing: it is a terminal, and the Editor draws on it; otherwise lines and a bare prompt are
    all that is ever written. knows_escapes: it understands escape sequences. An old console that
    does not gets a prompt of one row, which needs none.
    All of them raise OutputClosed when nothing can be written any more.
    """

    def __init__(self, is_editing: bool, knows_escapes: bool) -> None:
        self.is_editing = is_editing
        self.knows_escapes = knows_escapes
        self.is_coloured = knows_escapes and not os.environ.get("NO_COLOR")
        self.lock = threading.Lock()
        # Unbuffered: nothing waits in Python, so there is nothing to flush on any way out.
        self.output = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115
        self.prompt = ""  # the prompt and text that are on the screen now, "" for none
        self.text = ""
        self.cursor = 0
        self.layout = Layout("", 0, 1)  # how they were last drawn

    def show(self, lines: list[str], colour: str = "", stamp: str = "", bell: str = "") -> None:
        """Print whole lines, above the prompt if there is one.

        colour: of all lines, instead of each one's own. stamp: stands dim before each line.
        """
        with self.lock:
            body = "".join(self.dress(line, colour or colour_of(line), stamp) for line in lines)
            self.write(self.erase() + bell + body + self.draw())

    def edit(self, prompt: str, text: str = "", cursor: int = 0) -> None:
        """Draw prompt and text on the last rows; cursor is an index into text."""
        with self.lock:
            erase = self.erase()
            self.prompt, self.text, self.cursor = prompt, text, cursor
            self.write(erase + self.draw())

    def finish(self, prompt: str, text: str, end: str = "\n") -> None:
        """Leave prompt and text behind as an ordinary line, and have no prompt any more."""
        with self.lock:
            line = self.erase() + visible(prompt + text) if self.is_editing else ""
            self.prompt = self.text = ""
            self.write(line + end)

    def clear(self) -> None:
        with self.lock:
            self.write((CLEAR_SCREEN if self.knows_escapes else self.erase()) + self.draw())

    def dress(self, line: str, colour: str, stamp: str) -> str:
        text = stamp + visible(line)
        if self.is_editing:
            text = fold(text, window_size()[0])
        stamp, text = text[: len(stamp)], text[len(stamp) :]
        return f"{self.paint(stamp, DIM)}{self.paint(text, colour)}\n"

    def paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{PLAIN}" if text and colour and self.is_coloured else text

    def erase(self) -> str:
        if not self.prompt:
            return ""
        if not self.is_editing:
            return "\n"  # what was typed so far stays where it is, and in the terminal's hands
        if not self.knows_escapes:
            return "\r" + " " * (window_size()[0] - 1) + "\r"
        # In a window made narrower, some terminals break the rows that are too long, others cut
        # them, and tmux does now one, now the other. What was above the cursor when it was drawn is
        # surely ours: a row of junk left there is better than a row of the chat erased.
        above = self.layout.cursor_row
        # The space keeps the cursor off the top left corner, where tmux takes CLEAR_BELOW for the
        # end of a screenful and moves it to the scrollback.
        return "\r" + (f"\x1b[{above}A" if above else "") + f" {CLEAR_BELOW}\r"

    def draw(self) -> str:
        if not (self.prompt and self.is_editing):
            return self.prompt
        columns, height = window_size()
        if not self.knows_escapes:
            return self.draw_row(columns - 1)
        position = len(self.prompt) + self.cursor
        self.layout = layout = Layout(self.prompt + self.text, position, columns)
        layout.keep_rows(height)
        up = len(layout.rows) - 1 - layout.cursor_row
        move = (f"\x1b[{up}A" if up else "") + to_column(layout.cursor_column)
        # Row ends are ours, not the terminal's, so that its idea of them cannot differ.
        return WRAP_OFF + "\n".join(layout.rows) + WRAP_ON + move

    def draw_row(self, columns: int) -> str:
        """Return what fits into a row of prompt and text, and backspaces to the cursor."""
        head = visible(self.prompt + self.text[: self.cursor])
        tail = visible(self.text[self.cursor :])
        while width_of(head) > columns:
            head = head[1:]
        while width_of(head + tail) > columns:
            tail = tail[:-1]
        return head + tail + "\b" * width_of(tail)

    def write(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:
                written = self.output.write(data)
                if written is None:  # somebody made the terminal non-blocking
                    select.select([], [1], [])
                data = data[written or 0 :]
        except OSError as error:
            raise OutputClosed from error


# --------------------------------------------------------------------------------------------------
# Terminal: all that knows termios, and what the main thread waits for. Signals only wake it with
# their number, the receiver does with GONE. They are obeyed where the main thread looks, so that
# nothing is interrupted half way.

PASTE_ON, PASTE_OFF = b"\x1b[?2004h", b"\x1b[?2004l"
GONE = 0  # not a signal's number
RESIZED = 255  # nor is this
CONTINUED = getattr(signal, "SIGCONT", 254)  # which Windows has not


class Gone(Exception):
    """The receiver has ended: the connection, or whoever read standard output, is gone."""


class Terminal:
    """Standard input, be it a terminal or not. For the main thread, but for `wake`.

    is_editing: it is a terminal, as is standard output, and the Editor's from `take` to
    `give_back`, between two lines too, or it would echo what is typed there. Any other terminal's
    settings stay as they are. knows_escapes: the Editor may use escape sequences.
    """

    def __init__(self) -> None:
        self.is_terminal = os.isatty(0)
        self.is_editing = self.is_terminal and os.isatty(1) and self.can_edit()
        self.knows_escapes = self.is_editing
        self.is_changed = False
        self.keyboard = 0  # the descriptor that tells of something to read
        self.waker, self.waiting = socket.socketpair()
        self.waker.setblocking(False)
        self.waiting.setblocking(False)
        # Without this, a signal just before a wait would only be seen after it.
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.prepare()

    def can_edit(self) -> bool:
        return os.environ.get("TERM", "") not in ("", "dumb")

    def prepare(self) -> None:
        self.found = termios.tcgetattr(0) if self.is_terminal else None

    def take(self, interruptible: bool = False) -> None:
        """Have the terminal do nothing by itself, but for the signal of Ctrl-C if interruptible."""
        if not (self.found and self.is_editing):
            return
        raw = [*self.found[:6], [*self.found[6]]]
        raw[0] &= ~termios.IXON  # Ctrl-S and Ctrl-Q are keys, not a brake
        raw[0] &= ~termios.ICRNL  # Enter is CR: a line feed after it is no second Enter
        raw[3] &= ~(termios.ICANON | termios.ECHO)  # the Editor gathers lines and draws them
        raw[3] &= ~termios.IEXTEN  # Ctrl-V and Ctrl-O are keys
        # Ctrl-C and Ctrl-Z are keys: as signals they would overtake the lines typed before them,
        # and the kernel would throw those away.
        raw[3] &= ~(0 if interruptible else termios.ISIG)
        for key in (termios.VSUSP, termios.VQUIT):  # of the signals, only that of Ctrl-C is wanted
            raw[6][key] = b"\0"
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0  # a read returns with what is there
        self.set(raw, PASTE_ON)

    def give_back(self) -> None:
        """Leave the terminal as it was found."""
        if self.found and self.is_changed:
            self.set(self.found, PASTE_OFF if self.is_editing and self.can_write() else b"")
            self.is_changed = False

    def hide_typing(self) -> None:
        """Have a terminal that echoes by itself echo nothing but the end of a line."""
        if self.found:
            hidden = [*self.found]
            hidden[3] = (hidden[3] | termios.ECHONL) & ~termios.ECHO
            self.set(hidden)

    def set(self, settings: list[int | list[bytes | int]], sequence: bytes = b"") -> None:
        self.is_changed = True
        # A terminal that was hung up is no error here: reading will tell.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, settings)
        with contextlib.suppress(OSError):
            if sequence:  # or even nothing would wait for a terminal that was stopped
                os.write(1, sequence)

    def can_write(self) -> bool:
        """Tell whether standard output takes more now: a terminal that was stopped does not."""
        return bool(select.select([], [1], [], 0)[1])

    def read(self) -> bytes:
        """Return what standard input has, b"" at its end."""
        try:
            return os.read(0, 65536)
        except BlockingIOError:  # another program left the terminal so, and took what was there
            select.select([0], [], [])
            return self.read()
        except OSError:  # a terminal that was hung up
            return b""

    def has_more(self) -> bool:
        return bool(select.select([self.keyboard], [], [], 0)[0])

    def wake(self, reason: int = GONE) -> None:
        """Have `wait` raise Gone, or return. For any thread."""
        self.waker.send(bytes([reason]))

    def wait(
        self, keyboard: bool, sending: socket.socket | None = None, timeout: float | None = None
    ) -> tuple[bool, bytes]:
        """Wait to be woken, for `keyboard`, or until `sending` takes more.

        timeout: in seconds, None for ever. Return whether standard input can be read, and the
        signals that this was woken with. Raises Gone.
        """
        watched = [self.waiting.fileno()] + [self.keyboard] * keyboard
        ready = select.select(watched, [sending] if sending else [], [], timeout)[0]
        woken_with = self.waiting.recv(4096) if self.waiting.fileno() in ready else b""
        if GONE in woken_with:
            raise Gone
        return self.keyboard in ready, woken_with


def window_size() -> tuple[int, int]:
    """Return the columns and rows of the terminal on standard output."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        columns, rows = 0, 0
    return columns or 80, rows or 24  # a new pseudo-terminal says 0 by 0


def set_handler(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers, *names: str
) -> None:
    """Handle the signals of these names that this system has."""
    for name in names:
        number = getattr(signal, name, None)
        # An ignored one stays ignored, as under nohup, or behind a script's `&`.
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------
# Console: a Terminal for Windows' console, or a pipe or a file there, as `select` takes nothing but
# sockets there. Its functions: https://learn.microsoft.com/windows/console/console-functions

PROCESSED_INPUT, LINE_INPUT, ECHO_INPUT, WINDOW_INPUT, VT_INPUT = 0x1, 0x2, 0x4, 0x8, 0x200
OBEYS_ESCAPES = 0x1 | 0x4  # ENABLE_PROCESSED_OUTPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING
KEY_EVENT, RESIZE_EVENT = 1, 4
RECORD_SIZE = 20  # bytes
ANY_ALT, ANY_CTRL, ENHANCED = 0x3, 0xC, 0x100
ALT_KEY = 0x12
NUMBER_PAD = frozenset((0x0C, *range(0x21, 0x29), 0x2D, *range(0x60, 0x6A)))
ARROWS = {0x23: "F", 0x24: "H", 0x25: "D", 0x26: "A", 0x27: "C", 0x28: "B"}  # End and Home, too
DELETE_KEY = 0x2E


class Console(Terminal):
    """Standard input as a thread reads it, which passes on what it read.

    The Editor gets what a terminal would send for the keys in the console's input records. Others
    get lines; a thread of these reads only when asked to, or the next line would be echoed before
    it is known to be a password.
    """

    def can_edit(self) -> bool:
        return console_mode(0) != 0

    def obeys_escapes(self) -> bool:
        """Tell whether the console understands them: since Windows 10, unless told not to."""
        obeys = set_console_mode(1, self.modes[1] | OBEYS_ESCAPES)
        set_console_mode(1, self.modes[1])
        return obeys and os.environ.get("TERM") != "dumb"

    def prepare(self) -> None:
        self.modes = console_mode(0), console_mode(1)
        self.knows_escapes = self.is_editing and self.obeys_escapes()
        self.chunks: deque[bytes] = deque()
        self.is_wanted = threading.Event()
        self.teller, self.told = socket.socketpair()  # of a chunk, by a byte
        self.keyboard = self.told.fileno()
        pass_on = self.pass_keys if self.is_editing else self.pass_lines
        threading.Thread(target=pass_on, daemon=True).start()

    def take(self, interruptible: bool = False) -> None:
        if self.is_editing:
            raw = self.modes[0] & ~(LINE_INPUT | ECHO_INPUT | PROCESSED_INPUT)
            raw |= WINDOW_INPUT | (PROCESSED_INPUT if interruptible else 0)
            if not self.knows_escapes:
                self.set_modes(raw, self.modes[1])
                return
            self.set_modes(raw | VT_INPUT, self.modes[1] | OBEYS_ESCAPES, PASTE_ON)

    def give_back(self) -> None:
        if self.is_changed:
            self.set_modes(*self.modes, PASTE_OFF if self.knows_escapes else b"")
            self.is_changed = False

    def hide_typing(self) -> None:
        self.set_modes(self.modes[0] & ~ECHO_INPUT, self.modes[1])

    def can_write(self) -> bool:
        return True  # nobody can be asked

    def set_modes(self, of_input: int, of_output: int, sequence: bytes = b"") -> None:
        self.is_changed = True
        set_console_mode(0, of_input)
        if sequence:
            set_console_mode(1, of_output | OBEYS_ESCAPES)
            with contextlib.suppress(OSError):
                os.write(1, sequence)
        set_console_mode(1, of_output)

    def wait(
        self, keyboard: bool, sending: socket.socket | None = None, timeout: float | None = None
    ) -> tuple[bool, bytes]:
        if keyboard:
            self.is_wanted.set()
        return super().wait(keyboard, sending, timeout)

    def read(self) -> bytes:
        self.told.recv(1)
        return self.chunks.popleft()

    def pass_on(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.teller.send(b"\0")

    def pass_keys(self) -> None:
        import ctypes

        records, count = ctypes.create_string_buffer(256 * RECORD_SIZE), ctypes.c_ulong()
        decoder = codecs.getincrementaldecoder("utf-16-le")("replace")
        while call_console("ReadConsoleInputW", 0, records, 256, ctypes.byref(count)):
            data = records.raw[: count.value * RECORD_SIZE]
            units = keys_of(data).encode("utf-16-le", "surrogatepass")
            if keys := decoder.decode(units):  # a surrogate waits for its other half
                self.pass_on(keys.encode())
            if RESIZE_EVENT in data[::RECORD_SIZE]:
                self.wake(RESIZED)
        self.pass_on(b"")

    def pass_lines(self) -> None:
        # os.read would give what is typed in the console's code page, or lose it.
        with open(0, "rb", buffering=0, closefd=False) as source:
            while self.is_wanted.wait():
                try:
                    chunk = source.read(65536)
                except OSError:  # a console that was closed
                    chunk = b""
                self.is_wanted.clear()
                self.pass_on(chunk or b"")


def keys_of(records: bytes) -> str:
    """Return what a terminal would send for a console's input records (struct INPUT_RECORD).

    In units of UTF-16, as the halves of a surrogate pair come one by one.
    """
    keys = ""
    words = memoryview(records).cast("H")  # ten a record
    for at in range(0, len(words), 10):
        kind, _, is_down, _, repeat, key, _, unit, state, _ = words[at : at + 10]
        has_alt = bool(state & ANY_ALT) and not state & ANY_CTRL  # both together are AltGr
        # Alt and digits of the number pad compose a character, which comes when Alt is released.
        is_composing = has_alt and key in NUMBER_PAD and not state & ENHANCED
        if kind != KEY_EVENT or is_composing or not (is_down or (key == ALT_KEY and unit)):
            continue
        if unit:
            keys += (("\x1b" if has_alt and is_down else "") + chr(unit)) * repeat
        elif key in ARROWS:
            modifier = "1;5" if state & ANY_CTRL else "1;3" if has_alt else ""
            keys += f"\x1b[{modifier}{ARROWS[key]}" * repeat
        elif key == DELETE_KEY:
            keys += "\x1b[3~" * repeat
    return keys


def call_console(function: str, descriptor: int, *arguments: object) -> bool:
    """Call a function of Windows' console; tell whether it did what it should."""
    if sys.platform == "win32":
        import ctypes
        import msvcrt

        handle = ctypes.c_void_p(msvcrt.get_osfhandle(descriptor))
        return bool(getattr(ctypes.windll.kernel32, function)(handle, *arguments))
    return False


def console_mode(descriptor: int) -> int:
    """Return the mode of a console, 0 if it is none."""
    import ctypes

    mode = ctypes.c_ulong()
    call_console("GetConsoleMode", descriptor, ctypes.byref(mode))
    return mode.value


def set_console_mode(descriptor: int, mode: int) -> bool:
    return call_console("SetConsoleMode", descriptor, mode)


# --------------------------------------------------------------------------------------------------
# Keys and lines: bytes become keys (Keyboard), which change the text being typed (Line) or look
# through older ones (History). None of these knows the screen.

PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"
# A key is a character, or ESC and: a letter (Alt), O and a letter (function keys), [ [ and a letter
# (the same on Linux' console), or [, parameters, intermediates, and a final (CSI, ECMA-48 5.4).
KEY = r"(?s:\x1b(?:\[\[[@-~]|\[[0-?]*[ -/]*[@-Z\\-~]|O[@-~]|[]PX^_\\bdf\x08\x7f])|.)"
UNFINISHED = r"(?:\x1b(?:\[\[?|\[[0-?]*[ -/]*|O)?)?\Z"
STRINGS = ("\x1b]", "\x1bP", "\x1bX", "\x1b^", "\x1b_")  # OSC, DCS, SOS, PM, APC: up to BEL or ST


class Keyboard:
    """Bytes in, keys out: text, or one of KEYS' actions."""

    def __init__(self) -> None:
        # Bytes that are not UTF-8 become lone surrogates, and the same bytes again when encoded.
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.rest = ""  # the beginning of an escape sequence
        self.is_pasting = False
        self.is_in_string = False  # a terminal's answer, which nobody typed
        self.is_after_return = False

    def keys(self, data: bytes) -> list[str | Action]:
        """Return the keys that these bytes complete; what is not complete waits for more."""
        text = self.rest + self.decoder.decode(data)
        whole = next(re.finditer(UNFINISHED, text)).start()
        text, self.rest = text[:whole], text[whole:]
        keys = [self.key(code) for code in re.findall(KEY, text)]
        return [key for key in keys if key]

    def key(self, code: str) -> str | Action | None:
        """Return what a code means, None for nothing."""
        is_after_return, self.is_after_return = self.is_after_return, code == "\r"
        if code in (PASTE_BEGIN, PASTE_END):
            self.is_pasting = code == PASTE_BEGIN
            return None
        if code in ("\r", "\n"):
            self.is_in_string = False
            return None if code == "\n" and is_after_return else Editor.enter
        if self.is_pasting:
            return code
        if self.is_in_string and (code >= " " or code == "\x07"):
            self.is_in_string = code != "\x07"
            return None
        # No control character belongs to a string, so that Alt-] is no trap for whoever types it.
        self.is_in_string = code in STRINGS
        # An Escape that begins nothing is dropped alone: what follows may be a line's first letter.
        return code if code >= " " and code != "\x7f" else KEYS.get(code)


class Line:
    """A text and the cursor in it, which is an index."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.cursor = len(text)

    def insert(self, text: str) -> None:
        # A line over the limit is refused anyway; what goes further need not be kept.
        text = text[: MAX_LINE + 1 - len(self.text)]
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def cut_to(self, place: int) -> str:
        """Remove and return what stands between the cursor and a place, on either side of it."""
        start, end = sorted((self.cursor, place))
        removed = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start
        return removed

    # Places in the text. A letter and the marks drawn onto it are one step.

    def start(self) -> int:
        return 0

    def end(self) -> int:
        return len(self.text)

    def left(self) -> int:
        index = max(0, self.cursor - 1)
        while index and not cells(self.text[index]):
            index -= 1
        return index

    def right(self) -> int:
        index = min(len(self.text), self.cursor + 1)
        while index < len(self.text) and not cells(self.text[index]):
            index += 1
        return index

    def word_left(self) -> int:
        return next(re.finditer(r"\w*\W*\Z", self.text[: self.cursor])).start()

    def word_right(self) -> int:
        return next(re.finditer(r"\W*\w*", self.text[self.cursor :])).end() + self.cursor

    def space_left(self) -> int:
        """Return where the word before the cursor begins, words being what spaces separate."""
        return self.text[: self.cursor].rstrip(" ").rfind(" ") + 1


class History:
    """The lines typed before, and the place among them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.place = 0  # len(lines) for the line that is no part of them yet
        self.draft = ""  # that line, while older ones are looked at

    def add(self, text: str) -> None:
        """Keep a line, unless it is empty, a repetition, or secret."""
        if text.strip() and text not in self.lines[-1:] and not is_secret(text):
            self.lines = [*self.lines, text][-MAX_HISTORY:]

    def go_to(self, place: int, text: str) -> str:
        """Return the line at a place, or the nearest; `text` is what is typed now."""
        if self.place == len(self.lines):
            self.draft = text
        self.place = min(max(place, 0), len(self.lines))
        return [*self.lines, self.draft][self.place]


def is_secret(text: str) -> bool:
    """Tell whether a typed line holds a password, or may: `lgoin Tom Tom11`."""
    words = text.lower().split()  # at any white space, as a tab may be taken for a space
    if words and words != ["help"] and words[0] not in USAGE:
        return len(words) <= 3
    return len(words) > 2 and words[0] in ("login", "newuser")


# --------------------------------------------------------------------------------------------------
# Editor: a key changes the line, and the screen shows what came of it. KEYS, at the end, says which
# key does what.
class Editor:
    """The line being typed at a terminal. complete: returns what a text's last word may become."""

    def __init__(
        self, screen: Screen, terminal: Terminal, complete: Callable[[str], list[str]]
    ) -> None:
        self.screen = screen
        self.terminal = terminal
        self.possible_words = complete
        self.keyboard = Keyboard()
        self.history = History()
        self.typed_ahead: deque[str | Action] = deque()
        self.is_hung_up = False
        self.last_key: str | Action | None = None
        self.prompt = ""
        self.is_hidden = False
        self.line = Line()
        self.is_done = True
        self.result: bytes | None = None
        self.query: str | None = None  # what Ctrl-R looks for, while it does
        self.removed = ""  # for Ctrl-Y to put back

    def read_line(self, prompt: str = PROMPT, hidden: bool = False) -> bytes | None:
        """Return the next line, without its end; None for Ctrl-D or Ctrl-C on an empty line.

        hidden: the text is a password: not drawn, not kept, and any Ctrl-C gives None.
        Raises Gone; after that, the next call goes on with the line that was being typed.
        """
        self.prompt, self.is_hidden = prompt, hidden
        if self.is_done:
            self.start_line()
        while not self.is_done:
            if self.typed_ahead:
                self.press(self.typed_ahead.popleft())
            else:
                self.draw()
                self.wait_for_keys()
        return self.result

    def wait_to_send(self, sending: socket.socket | None, timeout: float | None = None) -> bool:
        """Wait until the connection takes more, or for keys; tell whether Ctrl-C was among them.

        It drops all keys before it. timeout: in seconds. Raises Gone.
        """
        if Editor.interrupt not in self.typed_ahead:
            self.wait_for_keys(sending, timeout)
        if Editor.interrupt not in self.typed_ahead:
            return False
        while self.typed_ahead.popleft() != Editor.interrupt:
            pass
        self.screen.finish("", "^C")
        return True

    def drop_typed_ahead(self) -> None:
        """Forget what was typed or pasted behind the line on the screen, and half a password."""
        while self.terminal.has_more() or self.keyboard.is_pasting:
            if not (data := self.terminal.read()):
                break
            self.keyboard.keys(data)
        self.typed_ahead.clear()
        if self.is_hidden and not self.is_done:
            self.end_line(None)

    def wait_for_keys(
        self, sending: socket.socket | None = None, timeout: float | None = None
    ) -> None:
        can_read, woken_with = self.terminal.wait(not self.is_hung_up, sending, timeout)
        if CONTINUED in woken_with:  # after a stop, the shell may have left it in any state
            self.terminal.take()
        if signal.SIGINT in woken_with:
            self.typed_ahead.append(Editor.interrupt)
        if can_read:
            data = self.terminal.read()
            self.is_hung_up = not data
            self.typed_ahead.extend(self.keyboard.keys(data) if data else [Editor.hang_up])
        # A new window size needs nothing but the next draw.

    def draw(self) -> None:
        prompt = self.prompt
        if self.query is not None:
            outcome = "search" if self.query in self.line.text else "not found:"
            prompt = f"({outcome} '{self.query}') "
        line = Line() if self.is_hidden else self.line
        self.screen.edit(prompt, line.text, line.cursor)

    def press(self, key: str | Action) -> None:
        if self.query is None or not self.is_for_search(key):
            if isinstance(key, str):
                self.line.insert(key)
            else:
                key(self)
        self.last_key = key

    def start_line(self) -> None:
        self.is_done = False
        self.line = Line()
        self.history.place, self.history.draft = len(self.history.lines), ""

    def end_line(self, result: bytes | None, mark: str = "") -> None:
        """Leave the line on the screen as it is, with a mark behind it."""
        self.screen.finish(self.prompt, mark if self.is_hidden else self.line.text + mark)
        self.is_done, self.result = True, result

    def enter(self) -> None:
        if not self.is_hidden:
            self.history.add(self.line.text)
        self.end_line(self.line.text.encode("utf-8", "surrogateescape"))

    def interrupt(self) -> None:
        is_final = self.is_hidden or not self.line.text
        self.end_line(None, "^C")
        if not is_final:
            self.start_line()

    def delete_or_end(self) -> None:
        if self.line.text:
            self.delete()
        else:
            self.end_line(None)

    def hang_up(self) -> None:
        self.is_done, self.result = True, None

    def erase(self) -> None:
        self.line.cut_to(self.line.left())

    def delete(self) -> None:
        self.line.cut_to(self.line.right())

    def cut_to(self, place: int) -> None:
        removed = self.line.cut_to(place)
        if not self.is_hidden:  # or Ctrl-Y would show a password at the next prompt
            self.removed = removed

    def complete(self) -> None:
        head = self.line.text[: self.line.cursor]
        found = [] if self.is_hidden else self.possible_words(head)
        if not found:
            return
        word = re.split(f"[{SEPARATORS}]", head)[-1]
        common = found[0]
        while not all(name.startswith(common) for name in found):
            common = common[:-1]
        if len(found) == 1:
            common += " "
        if common == word and self.last_key == Editor.complete:
            self.screen.show(["  ".join(found)])
        self.line.insert(common[len(word) :])

    def older(self) -> None:
        self.go_to(self.history.place - 1)

    def newer(self) -> None:
        self.go_to(self.history.place + 1)

    def go_to(self, place: int) -> None:
        if not self.is_hidden:
            self.line = Line(self.history.go_to(place, self.line.text))

    def search(self) -> None:
        self.query = None if self.is_hidden else ""

    def is_for_search(self, key: str | Action) -> bool:
        """Let Ctrl-R's search have a key; any key that means nothing to it ends the search."""
        query = self.query or ""
        if key in (Editor.cancel, Editor.interrupt):
            self.go_to(len(self.history.lines))
            self.query = None
        elif key == Editor.search:
            self.find(query, self.history.place - 1)
        elif key == Editor.erase:
            self.find(query[:-1], len(self.history.lines))
        elif isinstance(key, str):
            self.find(query + key, self.history.place)
        else:
            self.query = None
            return False
        return True

    def find(self, query: str, newest: int) -> None:
        """Go to the newest line that holds the query, from the place `newest` back."""
        self.query = query
        for place in range(min(newest, len(self.history.lines) - 1), -1, -1):
            if query in self.history.lines[place]:
                self.go_to(place)
                self.line.cursor = self.line.text.index(query)
                return

    def cancel(self) -> None:
        """Mean nothing but in a search, which ends with it."""

    def suspend(self) -> None:
        """Stop as Ctrl-Z should, with a sane terminal meanwhile; go on where it was after `fg`."""
        if not HAS_TERMIOS:  # Windows: there Ctrl-Z is the end of input
            if not self.line.text:
                self.end_line(None)
            return
        self.screen.finish(self.prompt, "" if self.is_hidden else self.line.text)
        self.terminal.give_back()
        os.kill(0, signal.SIGTSTP)  # the whole job, as the kernel would
        self.terminal.take()


Action = Callable[[Editor], None]
Place = Callable[[Line], int]


def moves(place: Place) -> Action:
    return lambda editor: setattr(editor.line, "cursor", place(editor.line))


def cuts(place: Place) -> Action:
    return lambda editor: editor.cut_to(place(editor.line))


KEY_TABLE: tuple[tuple[Action, tuple[str, ...]], ...] = (
    (moves(Line.start), ("\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~")),  # Ctrl-A, Home
    (moves(Line.end), ("\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~")),  # Ctrl-E, End
    (moves(Line.left), ("\x02", "\x1b[D", "\x1bOD")),  # Ctrl-B, Left
    (moves(Line.right), ("\x06", "\x1b[C", "\x1bOC")),  # Ctrl-F, Right
    (moves(Line.word_left), ("\x1bb", "\x1b[1;5D", "\x1b[1;3D")),  # Alt-B, Ctrl-Left, Alt-Left
    (moves(Line.word_right), ("\x1bf", "\x1b[1;5C", "\x1b[1;3C")),  # Alt-F, Ctrl-Right, Alt-Right
    (cuts(Line.start), ("\x15",)),  # Ctrl-U
    (cuts(Line.end), ("\x0b",)),  # Ctrl-K
    (cuts(Line.space_left), ("\x17",)),  # Ctrl-W
    (cuts(Line.word_left), ("\x1b\x7f", "\x1b\x08")),  # Alt-Backspace
    (cuts(Line.word_right), ("\x1bd",)),  # Alt-D
    (lambda editor: editor.line.insert(editor.removed), ("\x19",)),  # Ctrl-Y
    (Editor.erase, ("\x08", "\x7f")),  # Backspace
    (Editor.delete, ("\x1b[3~",)),  # Delete
    (Editor.delete_or_end, ("\x04",)),  # Ctrl-D
    (Editor.older, ("\x10", "\x1b[A", "\x1bOA")),  # Ctrl-P, Up
    (Editor.newer, ("\x0e", "\x1b[B", "\x1bOB")),  # Ctrl-N, Down
    (Editor.search, ("\x12",)),  # Ctrl-R
    (Editor.cancel, ("\x07",)),  # Ctrl-G
    (Editor.complete, ("\t",)),
    (lambda editor: editor.screen.clear(), ("\x0c",)),  # Ctrl-L
    (Editor.interrupt, ("\x03",)),  # Ctrl-C
    (Editor.suspend, ("\x1a",)),  # Ctrl-Z
)
KEYS = {code: action for action, codes in KEY_TABLE for code in codes}


# --------------------------------------------------------------------------------------------------
# Plain lines: from a pipe, a file, or a terminal without escape sequences. Such a terminal edits
# and echoes its lines itself, and its settings stay as they were found: in Emacs' shell it echoes
# nothing, as Emacs does.
TTY = "CONOUT$" if sys.platform == "win32" else "/dev/tty"


class PlainLines:
    """Of a line over MAX_LINE only so much is kept that the check will refuse it."""

    def __init__(self, screen: Screen, terminal: Terminal) -> None:
        self.screen = screen
        self.terminal = terminal
        self.has_prompt = terminal.is_terminal and os.isatty(1)
        self.rest = b""  # the beginning of a line
        self.lines: deque[bytes | None] = deque()  # None for the end of input

    def read_line(self, prompt: str = PROMPT, hidden: bool = False) -> bytes | None:
        """Return the next line, without its end; None at the end of input.

        hidden: the line is a password: not echoed. Raises Gone.
        """
        if hidden:
            return self.read_hidden_line(prompt)
        if self.has_prompt:
            self.screen.edit(prompt)
        while not self.lines:
            self.read_more()
        line = self.lines.popleft()
        if self.has_prompt:  # whoever echoes a line echoes its end, but nothing for Ctrl-D
            lacks_end = line is None and HAS_TERMIOS  # Ctrl-Z is followed by Enter
            self.screen.finish("", "", end="\n" if lacks_end else "")
        # A byte order mark stands before a file's first line; files may come one after the other.
        return line and line.removeprefix(codecs.BOM_UTF8)

    def read_hidden_line(self, prompt: str) -> bytes | None:
        self.terminal.hide_typing()
        try:
            if not self.has_prompt:  # as in `client.py | tee log`: ask on the terminal itself
                with contextlib.suppress(OSError), open(TTY, "w") as terminal:
                    terminal.write(prompt)
            return self.read_line(prompt)
        finally:
            if self.has_prompt and not HAS_TERMIOS:  # Windows echoes no end of a hidden line
                self.screen.finish("", "")
            self.terminal.give_back()

    def wait_to_send(self, sending: socket.socket | None, timeout: float | None = None) -> bool:
        """Wait until the connection takes more, or for `timeout` seconds. Raises Gone."""
        self.terminal.wait(keyboard=False, sending=sending, timeout=timeout)
        return False

    def drop_typed_ahead(self) -> None:
        """Forget all whole lines; half a one is in the terminal's hands."""
        while self.terminal.has_more() and self.terminal.read():
            pass
        self.lines.clear()

    def read_more(self) -> None:
        if not self.terminal.wait(keyboard=True)[0]:
            return
        data = self.terminal.read()
        if data:
            *lines, rest = (self.rest + data).split(b"\n")
            self.lines.extend(lines)
            self.rest = rest[: MAX_LINE + 2]
        else:
            self.lines.extend([self.rest, None] if self.rest else [None])
            self.rest = b""


# --------------------------------------------------------------------------------------------------
# Connection: the socket, and the receiver, the one thread that reads it. The main thread writes.
# Whatever ends the client but a logout is a reset: what a killed client has typed ahead is dropped,
# here and at the server, instead of being said over the next minutes.

# struct linger: on or off, and 0 seconds; its fields are shorter on Windows.
FIELD = 2 if sys.platform == "win32" else 4
RESET_AT_CLOSE = (1).to_bytes(FIELD, sys.byteorder) + bytes(FIELD)
SEND_ALL_AT_CLOSE = bytes(2 * FIELD)
TCP_OPTIONS = {
    socket.TCP_NODELAY: 1,
    # A network that forwards no more is noticed: half a minute idle, then three probes.
    getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", 0)): 30,  # seconds
    getattr(socket, "TCP_KEEPINTVL", 0): 10,  # seconds
    getattr(socket, "TCP_KEEPCNT", 0): 3,
}
IS_LINUX = sys.platform.startswith("linux")
if IS_LINUX:
    # TCP_RTO_MAX_MS, from Linux 6.15 on: the longest pause between two retransmissions. After a
    # link was down, talk goes on within seconds, instead of up to half a minute later.
    TCP_OPTIONS[44] = 5000
LOOK_EVERY = 5.0  # seconds


class NotTls(OSError):
    """The server answers something that is no TLS."""


class Connection:
    """A connection to a server, from connecting to its end.

    has_ended: set by the receiver when nothing more will arrive, with `failure` to tell what ended
    it, if that was not the server's close.
    """

    def __init__(self, host: str, port: int, encryption: ssl.SSLContext | None = None) -> None:
        """Raises OSError, or ValueError for a name that cannot be one."""
        self.socket = socket.create_connection((host, port), CONNECT_WAIT)
        self.tls = Tls(encryption, host) if encryption else None
        self.said_early = b""  # by the server, in one piece with its handshake's end (TLS 1.2)
        if self.tls:
            try:
                self.shake_hands(self.tls)
            except BaseException:  # Ctrl-C, too
                self.socket.close()
                raise
        self.socket.setblocking(False)  # sending must never keep anybody from the keyboard
        self.set_option(socket.SO_LINGER, RESET_AT_CLOSE)
        self.set_option(socket.SO_SNDBUF, SEND_BUFFER)
        self.set_option(socket.SO_KEEPALIVE, 1)
        for option, value in TCP_OPTIONS.items():
            self.set_option(option, value, socket.IPPROTO_TCP)
        self.unsent = b""  # lines that Ctrl-C can still call back
        self.under_way = b""  # what the socket has not taken of a line that was begun
        self.begun: deque[tuple[bytes, int]] = deque(maxlen=SEND_BUFFER)  # lines, bytes on the wire
        self.is_broken = False  # nothing more can be sent; the receiver is about to tell
        self.backlog = 0.0  # what `lines_unread` was when the last line was sent
        self.last_sent = 0.0  # monotonic seconds
        self.has_ended = False
        self.failure: Exception | None = None

    def shake_hands(self, tls: Tls) -> None:
        """Agree on the encryption with the server. Raises OSError."""
        deadline = time.monotonic() + CONNECT_WAIT
        tls.opened(b"")
        self.socket.sendall(tls.sealed(b""))
        first = self.socket.recv(1, socket.MSG_PEEK)
        if first not in (b"", b"\x15", b"\x16"):  # neither alert nor handshake (RFC 8446, 5.1)
            raise NotTls
        while not tls.is_open:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionAbortedError(0, "the server closed the connection. Try again")
            self.said_early += tls.opened(data)
            self.socket.sendall(tls.sealed(b""))

    def set_option(self, option: int, value: int | bytes, level: int = socket.SOL_SOCKET) -> None:
        with contextlib.suppress(OSError):  # each only makes things better
            self.socket.setsockopt(level, option, value)

    def receive(self, show: Callable[[list[str]], None], end: Callable[[], None]) -> None:
        """Call `show` with all lines that are there at a time, and `end` at the end."""
        if hasattr(signal, "pthread_sigmask"):  # signals are the main thread's business
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for lines in batches(self.receive_some):
                show(lines)
        except (OSError, OutputClosed, ValueError) as error:  # ValueError: closed by `reset`
            self.failure = error
        finally:
            self.has_ended = True
            end()

    def receive_some(self) -> bytes:
        """Return what has arrived, b"" at the end. Raises OSError."""
        if text := self.said_early:
            self.said_early = b""
            return text
        while not (self.tls and self.tls.has_ended):
            while not select.select([self.socket], [], [], LOOK_EVERY)[0]:
                if self.is_out_of_reach():
                    raise TimeoutError
            data = self.socket.recv(65536)
            if not self.tls:
                return data
            if not data:
                raise ConnectionError("the end of the bytes is not the end of what is said")
            if text := self.tls.opened(data):
                return text
        return b""

    def is_out_of_reach(self) -> bool:
        """Tell whether what was sent has gone without an acknowledgement for too long.

        Keepalive does not tell: it waits until all is acknowledged, for 16 minutes on Linux. Nor is
        TCP_USER_TIMEOUT the answer: it also ends who is only held back by a server that paces it.
        Only Linux says when the last acknowledgement came (struct tcp_info).
        """
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        except (AttributeError, OSError):
            return False
        milliseconds = int.from_bytes(info[56:60], sys.byteorder)  # since the last one came
        is_waiting = info[24:28] != bytes(4)  # tcpi_unacked
        return is_waiting and milliseconds > UNHEARD * 1000

    def send(self, line: bytes) -> None:
        """Have a line sent as soon as the socket takes it: see `flush`."""
        self.backlog = self.lines_unread() + 1
        self.last_sent = time.monotonic()
        self.unsent += line + b"\n"
        self.flush()

    def lines_unread(self) -> float:
        """Return how many lines the server has not read yet, if it reads at SLOWEST_PACE."""
        read_since = (time.monotonic() - self.last_sent) * SLOWEST_PACE
        return max(0.0, self.backlog - read_since)

    def flush(self) -> None:
        """Send what the socket takes now."""
        if self.is_broken:
            return
        try:
            if self.unsent and not self.under_way:
                self.begin_line()
            if self.under_way:
                self.under_way = self.under_way[self.socket.send(self.under_way) :]
        except BlockingIOError:
            pass
        except OSError:
            self.is_broken = True

    def begin_line(self) -> None:
        """Send the first of a line; its rest must follow. Raises BlockingIOError, OSError."""
        if self.tls is None:
            line = self.unsent
            sent = self.socket.send(line)
        elif select.select([], [self.socket], [], 0)[1]:  # what is sealed can't be dropped
            line, sent = self.tls.sealed(self.unsent), 0
        else:
            return
        self.begun.append((self.unsent, len(line)))
        self.unsent, self.under_way = b"", line[sent:]

    def has_unsent(self) -> bool:
        return bool(self.unsent or self.under_way)

    def sending(self) -> socket.socket | None:
        """Return the socket if it is to be flushed as soon as it takes more."""
        return self.socket if self.has_unsent() and not self.is_broken else None

    def drop_unsent(self) -> None:
        """Forget the line that waits to be sent, unless it is under way."""
        self.unsent = b""

    def undelivered(self) -> list[bytes]:
        """Return the lines that have not reached the other machine, as far as one can know."""
        count = len(self.under_way)
        if IS_LINUX and HAS_TERMIOS:
            import fcntl

            with contextlib.suppress(OSError):  # SIOCOUTQ, which is TIOCOUTQ there
                unacknowledged = fcntl.ioctl(self.socket, termios.TIOCOUTQ, bytes(4))
                count += int.from_bytes(unacknowledged, sys.byteorder)
        lines = self.unsent
        for line, size in reversed(self.begun):
            if count <= 0:
                break
            lines = line + lines
            count -= size
        return lines.split(b"\n")[:-1]

    def end_sending(self) -> None:
        """Have the server read an end behind the logout, where it can still answer after that."""
        if not self.tls:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def log_out(self) -> float:
        """Ask to be logged out; return how many seconds the server may take to answer that."""
        self.set_option(socket.SO_LINGER, SEND_ALL_AT_CLOSE)
        self.send(b"logout")
        return LOGOUT_WAIT + max(0.0, self.backlog - PACED_FROM) / SLOWEST_PACE

    def reset(self) -> None:
        """Close with a reset: what the server has not read yet is dropped at both ends."""
        if self.tls and self.tls.has_ended:
            with contextlib.suppress(OSError):
                self.socket.send(self.tls.sealed(b"", is_last=True))
        self.set_option(socket.SO_LINGER, RESET_AT_CLOSE)
        self.socket.close()


def batches(receive_some: Callable[[], bytes]) -> Iterator[list[str]]:
    """Yield the lines that arrive, all that are there at a time. Invalid UTF-8 is replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while data := receive_some():
        *lines, rest = (rest + decoder.decode(data)).split("\n")
        while len(rest) > LONGEST_SHOWN:
            lines.append(rest[:LONGEST_SHOWN])
            rest = rest[LONGEST_SHOWN:]
        if lines:
            yield [line.removesuffix("\r") for line in lines]
    rest += decoder.decode(b"", True)
    if rest:
        yield [rest]


# --------------------------------------------------------------------------------------------------
# Client: the conversation, from the first prompt to the exit status. It outlives its connections: a
# person whose connection is lost stays in it, and Enter makes a new one.

WHO_REPLY = rf"{NAME}(, {NAME})*"
ANSWERS = {  # how they begin; "login confirmed" stands in `learn`
    "login": r"Denied\. (User name or |The chat room is full |Too many failed |UserID |Password )",
    "newuser": r"New user account created\. |Denied\. (User account |Please logout |The account |"
    r"New accounts |Too many new |UserID |Password )",
}
FAREWELL = (
    r"The server is shutting down\.|Denied\. (\S+ logged in from |No login within |"
    r"The server is busy|Too many failed logins\.|Your account was |This )"
)


class Room:
    """What the lines of one connection have told: who is in the room, and whether this user is.

    The receiver learns, the main thread asks. Every login and newuser gets one answer, in their
    order, so that what refuses a UserID belongs to the oldest that is not answered.
    """

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        self.own_name = ""  # of the last login that was sent
        self.has_joined = False
        self.unanswered: deque[str] = deque()  # "login" or "newuser" each
        self.last_line = ""

    @property
    def is_logged_in(self) -> bool:
        """Tell whether a login was sent and not refused."""
        return self.has_joined or "login" in self.unanswered

    def ask(self, command: tuple[str, ...]) -> None:
        if command[0] in ANSWERS:
            self.unanswered.append(command[0])
        if command[0] == "login":
            self.own_name = unicodedata.normalize("NFC", command[1])

    def learn(self, line: str) -> None:
        self.last_line = line
        if line == "login confirmed":
            self.has_joined = True
            self.names |= {self.own_name}
            self.unanswered.clear()
        elif moved := re.fullmatch(CAME_OR_WENT, line):
            name, what = moved.groups()
            self.names = self.names | {name} if what == "joins" else self.names - {name}
        elif re.fullmatch(WHO_REPLY, line):
            self.names = frozenset(line.split(", "))
        elif self.unanswered and re.match(ANSWERS[self.unanswered[0]], line):
            self.unanswered.popleft()


class Client:
    """options: host, port, and whether to show the time and to ring; see parse_options."""

    def __init__(self, options: SimpleNamespace, connection: Connection) -> None:
        self.options = options
        self.connection = connection
        self.address = address_of(options)
        self.room = Room()
        self.terminal = Terminal() if HAS_TERMIOS else Console()
        self.screen = Screen(self.terminal.is_editing, self.terminal.knows_escapes)
        self.reader: Editor | PlainLines = PlainLines(self.screen, self.terminal)
        if self.terminal.is_editing:
            self.reader = Editor(self.screen, self.terminal, self.possible_words)
        self.has_dropped = False  # Ctrl-C has dropped lines, and none was sent since
        self.is_leaving = False
        self.is_lost = False  # the connection has ended, and the person at the terminal knows

    def run(self) -> int:
        """Serve the user until logout, the end of input or of the connection; return the status."""
        self.handle_signals()
        try:
            self.terminal.take()
            self.begin()
            while self.is_going_on():
                pass
            return 1 if self.connection.has_ended else self.leave()
        except OutputClosed:
            return 1
        finally:
            self.connection.reset()  # first, as a terminal that was stopped may take its time
            self.terminal.give_back()
            if self.screen.prompt and self.terminal.can_write():
                with contextlib.suppress(OutputClosed):  # the prompt stays, the cursor goes below
                    self.screen.finish(self.screen.prompt, self.screen.text)

    def handle_signals(self) -> None:
        set_handler(end_by_signal, "SIGTERM", "SIGHUP", "SIGBREAK")
        if self.terminal.is_editing:  # Terminal.wait returns these
            set_handler(lambda _number, _frame: None, "SIGINT", "SIGCONT", "SIGWINCH")
        elif self.terminal.is_terminal:
            set_handler(end_by_signal, "SIGINT")
        else:
            set_handler(signal.SIG_DFL, "SIGINT")  # end as any program in a pipe does

    def is_going_on(self) -> bool:
        """Read and obey a line; tell whether there is more to come. Raises OutputClosed."""
        try:
            line = self.reader.read_line()
            if self.connection.has_ended and not self.is_lost:
                self.miss(line or b"")
                while True:  # until Gone, which is on its way
                    self.terminal.wait(keyboard=False)
            if line is None:
                return False
            return self.connect_again(line) if self.is_lost else self.obey(line)
        except Denied as refusal:
            self.screen.show([str(refusal)])
            if isinstance(refusal, UnknownCommand) and self.terminal.is_terminal:
                self.tell("To speak: send all Message. Type help for the commands.")
            return True
        except Gone:
            if isinstance(self.connection.failure, OutputClosed):
                raise self.connection.failure from None
            if self.terminal.is_terminal:
                self.reader.drop_typed_ahead()  # nobody typed that for the next connection
            self.tell_of_loss()
            self.is_lost = True
            return self.terminal.is_terminal

    def miss(self, line: bytes) -> None:
        """Have a line that came too late to be sent named with those that did not arrive."""
        with contextlib.suppress(Denied):  # it would not have been sent
            if check(decode(line), self.room.is_logged_in) not in ((), ("logout",)):
                self.connection.unsent += line + b"\n"

    def obey(self, line: bytes) -> bool:
        """Do what a typed line asks for; tell whether to go on. Raises Denied, Gone."""
        text = decode(line)
        words = words_of(text)
        if [word.lower() for word in words] == ["help"]:
            self.screen.show(HELP.split("\n"))
            return True
        lacks_password = len(words) == 2 and words[0].lower() in ("login", "newuser")
        if lacks_password and self.terminal.is_terminal:
            check_length(words[1], *USERID)
            password = self.ask_password()
            if password is None:
                return True
            text = f"{words[0]} {words[1]} {password}"
        command = check(text, self.room.is_logged_in)
        if command == ("logout",):
            return False
        if command:
            self.room.ask(command)
            return self.send(text.encode())
        return True

    def ask_password(self) -> str | None:
        """Return a password typed unseen, None if the question was cancelled. Raises Denied."""
        typed = self.reader.read_line("Password: ", hidden=True)
        if typed is None:
            return None
        password = decode(typed)
        check_length(password, *PASSWORD)
        if words_of(password) != [password]:
            raise Denied("Denied. Password must be printable characters without spaces.")
        return password

    def send(self, line: bytes) -> bool:
        """Send a line; tell whether to go on. Raises Gone.

        The keyboard is read while it waits to be sent, so that Ctrl-C is seen at once and drops it,
        with all that was typed behind it. A second Ctrl-C does not wait for anything.
        """
        self.connection.send(line)
        self.has_dropped = False
        while self.connection.has_unsent():
            if self.reader.wait_to_send(self.connection.sending()):
                if self.has_dropped:
                    return False
                self.connection.drop_unsent()
                self.has_dropped = True
            self.connection.flush()
        return True

    def possible_words(self, head: str) -> list[str]:
        """Return what the last word of a text may become."""
        *before, word = re.split(f"[{SEPARATORS}]+", head.lstrip(SEPARATORS))
        known = {"help", *USAGE} if not before else set()
        if [first.lower() for first in before] == ["send"]:
            known = {"all", *self.room.names}
        return sorted(name for name in known if name.startswith(word))

    def tell(self, *lines: str) -> None:
        """Tell a person at a terminal something that the server has not said."""
        if self.terminal.is_terminal and os.isatty(1):
            self.screen.show([*lines], colour=DIM)
        else:
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    def begin(self) -> None:
        """Have the receiver show what arrives on a new connection."""
        self.room = Room()
        if self.terminal.is_terminal:
            self.tell(f"Connected to {self.address}. Type help for the commands.")
        receive = self.connection.receive
        threading.Thread(target=receive, args=(self.show, self.terminal.wake), daemon=True).start()

    def show(self, lines: list[str]) -> None:
        for line in lines:
            self.room.learn(line)
        stamp = time.strftime("%H:%M ") if self.options.time else ""
        is_private = any(re.fullmatch(PRIVATE, line) for line in lines)
        bell = "\a" if self.options.bell and is_private and os.isatty(1) else ""
        self.screen.show(lines, stamp=stamp, bell=bell)

    def tell_of_loss(self) -> None:
        lines = [f"Connection to {self.address} lost."]
        if re.match(FAREWELL, self.room.last_line):
            lines = [f"Disconnected from {self.address}."]
        for line in self.connection.undelivered()[:5]:
            text = line.decode(errors="replace")
            shown = " ".join(words_of(text)[:2]) if is_secret(text) else text
            lines.append(f"Not delivered: {shown}")
        if self.terminal.is_terminal and not self.is_leaving:
            lines.append(f"Press Enter to connect again, {END_KEY} to end.")
        self.tell(*lines)

    def connect_again(self, line: bytes) -> bool:
        """Make a new connection, or say why not; tell whether to go on. The line is not sent."""
        if words_of(line.decode(errors="replace").lower()) == ["logout"]:
            return False
        if self.terminal.is_editing:
            set_handler(self.interrupt, "SIGINT")
            self.terminal.take(interruptible=True)
        try:
            connection = connect(self.options)
        except (OSError, ValueError) as error:
            self.tell(failure_of(error, self.options))
        except KeyboardInterrupt:
            self.terminal.wait(keyboard=False, timeout=0)  # takes the signal's byte away
        else:
            self.connection.socket.close()
            self.connection = connection
            self.has_dropped = self.is_lost = False
            self.begin()
        finally:
            self.handle_signals()
            self.terminal.take()
        return True

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.handle_signals()  # a second Ctrl-C interrupts nothing
        raise KeyboardInterrupt

    def leave(self) -> int:
        """Log out, and wait until all that is owed has been shown; return the exit status.

        A script waits as long as it takes. At a terminal there is an end to it, and Ctrl-C.
        """
        if self.has_dropped and self.connection.lines_unread():
            return 0  # what is still on its way would be obeyed before the logout
        self.is_leaving = True
        patience = self.connection.log_out()
        deadline = time.monotonic() + patience if self.terminal.is_terminal else None
        is_interrupted = self.wait_for_end(deadline)
        if isinstance(self.connection.failure, OutputClosed):
            return 1
        is_lost = (
            self.connection.failure is not None
            or not self.connection.has_ended
            or re.match(FAREWELL, self.room.last_line) is not None  # before it had read all lines
        )
        if is_lost and not is_interrupted:
            self.tell_of_loss()
        return 1 if is_lost and not is_interrupted else 0

    def wait_for_end(self, deadline: float | None) -> bool:
        """Wait for the connection's end, Ctrl-C or the deadline; tell whether it was Ctrl-C."""
        while not self.connection.has_ended:
            sending = self.connection.sending()
            if not sending:
                self.connection.end_sending()
            seconds = max(0.0, deadline - time.monotonic()) if deadline else None
            with contextlib.suppress(Gone):  # the loop's own condition tells
                if self.reader.wait_to_send(sending, seconds):
                    return True
            if seconds == 0:
                break
            self.connection.flush()
        return False


def end_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # gives the terminal back on its way


# --------------------------------------------------------------------------------------------------
# Main: options, and a connection, or why there is none; then the client.
def address_of(options: SimpleNamespace) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"{host}:{options.port}"


def connect(options: SimpleNamespace) -> Connection:
    """Raises OSError, or ValueError for a name that cannot be one."""
    if not (options.tls or options.tls_ca):
        return Connection(options.host, options.port)
    import ssl

    try:
        encryption = ssl.create_default_context(cafile=options.tls_ca)
    except OSError as error:
        problem = (
            "no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        )
        raise OSError(0, problem, options.tls_ca) from None
    encryption.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer need not be known here
    return Connection(options.host, options.port, encryption)


def failure_of(error: Exception, options: SimpleNamespace) -> str:
    """Return the line that tells why there is no connection, and what to do if one can know."""
    if isinstance(error, NotTls):
        return f"The server at {address_of(options)} does not speak TLS."
    if options.tls_ca and getattr(error, "filename", None):
        return f"{options.tls_ca}: {reason_of(error, options.host)}"
    return f"Cannot connect to {address_of(options)}: {reason_of(error, options.host)}"


CERTIFICATE_ADVICE = {  # by OpenSSL's X509_V_ERR_ numbers
    9: "Check this machine's clock.",
    10: "The server needs a new one.",
    62: "Give --host a name that is in it.",
    64: "Give --host an address that is in it.",
}


# A socket's errors have numbers of their own on Windows.
NO_HOST = getattr(errno, "WSAEHOSTUNREACH", errno.EHOSTUNREACH)
NO_NETWORK = getattr(errno, "WSAENETUNREACH", errno.ENETUNREACH)


def reason_of(error: Exception, host: str) -> str:
    if isinstance(error, ConnectionRefusedError):
        is_here = host.lower() in ("localhost", "::1") or host.startswith("127.")
        # Elsewhere, the usual cause is a server that listens to its own machine alone.
        there = "" if is_here else " --host 0.0.0.0 (on that machine)"
        return f"nobody listens there. Start a server: python server.py{there}"
    if why := getattr(error, "verify_message", "").rstrip("."):  # an ssl.SSLCertVerificationError
        to_trust_it = "Get it as a file, and name that with --tls-ca."
        cure = CERTIFICATE_ADVICE.get(getattr(error, "verify_code", 0), to_trust_it)
        return f"its certificate is not trusted ({why}). {cure}"
    if isinstance(error, ValueError):
        return "no machine has such a name. Check --host."
    if isinstance(error, TimeoutError):
        return "no answer. Check the address, and the firewall of that machine."
    advice = {
        socket.EAI_NONAME: "no machine of that name is known. Check --host.",
        socket.EAI_AGAIN: "that name cannot be looked up now. Check this machine's network.",
        NO_HOST: "no machine answers there. Check --host, and that it is switched on.",
        NO_NETWORK: "no network leads there. Check --host, and this machine's network.",
    }
    return advice.get(getattr(error, "errno", 0), f"{getattr(error, 'strerror', None) or error}.")


def parse_options(arguments: list[str]) -> SimpleNamespace:
    """Return host, port, time, bell, tls and tls_ca; exits with status 2 for wrong options."""
    options = SimpleNamespace(host=HOST, port=PORT, time=False, bell=False, tls=False, tls_ca=None)
    if not arguments:
        return options  # as mostly: without the parser, the prompt is there a tenth sooner
    import argparse

    parser = argparse.ArgumentParser(
        description="The client of a small chat room.",
        epilog=f"commands:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help=f"of the server (default: {HOST})")
    parser.add_argument("--port", help=f"of the server (default: {PORT})")
    parser.add_argument("--time", action="store_true", help="show when each line arrived")
    parser.add_argument("--bell", action="store_true", help="ring for private messages")
    parser.add_argument("--tls", action="store_true", help="encrypt, as the server must too")
    parser.add_argument("--tls-ca", metavar="FILE", help="the certificate to trust; implies --tls")
    parser.add_argument("--version", action="version", version=f"client.py {VERSION}")
    parser.parse_args(arguments, options)
    if both := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", options.host):
        parser.error(f"the port has an option of its own: --host {both[1]} --port {both[2]}")
    port = str(options.port)
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        parser.error(f"a port is a number from 1 to 65535, not {port!r}.")
    options.host, options.port = options.host.strip("[]"), int(port)
    return options


def main(arguments: list[str]) -> int:
    """Run the client; return the exit status."""
    options = parse_options(arguments)
    # A closed standard stream (`<&-`) gets a descriptor, or the connection would take its place.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stderr, io.TextIOWrapper):  # on Windows, a pipe would get its code page
        sys.stderr.reconfigure(encoding="utf-8")
    try:
        connection = connect(options)
    except (OSError, ValueError) as error:
        print(failure_of(error, options), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return Client(options, connection).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
