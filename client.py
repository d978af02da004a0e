#!/usr/bin/env python3
"""The command-line client of a small chat room.

    python client.py [--host 127.0.0.1] [--port 14850]

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
import os
import re
import select
import signal
import socket
import struct
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator

try:
    import termios

    HAS_TERMIOS = True
except ImportError:  # Windows: no line editing there, plain lines instead
    HAS_TERMIOS = False

VERSION = "1.0"
HOST = "127.0.0.1"
PORT = 14850
PROMPT = "> "
MAX_LINE = 2048  # bytes in a command, without its line end; the server refuses more
LONGEST_SHOWN = 256 * 1024  # characters; a longer line is shown in pieces: memory has a bound
MAX_HISTORY = 1000  # lines
CONNECT_WAIT = 10.0  # seconds
LOGOUT_WAIT = 5.0  # seconds that the server has to close the connection after logout...
PACED_FROM = 20  # lines: what is sent beyond these at a time, a server reads slowly...
SLOWEST_PACE = 5  # ...but at least so many lines a second, so that it may take longer to log out
SEND_BUFFER = 4096  # bytes (Linux takes twice that): what is in it, Ctrl-C cannot call back

HELP = """\
login UserID Password    join the room; a password left out is asked for unseen
newuser UserID Password  sign up; UserID 3 to 32 characters, password 4 to 8
send all Message         say something to everyone, 1 to 256 characters
send UserID Message      say something to one user alone
who                      list who is in the room
logout                   leave (also Ctrl-D, or Ctrl-C on an empty line)
help                     show this list"""


# --------------------------------------------------------------------------------------------------
# Grammar: how many words, how long, and whether a login came before. Which characters a name, a
# password or a message may hold is left to the server, which never trusts a client anyway.
# --------------------------------------------------------------------------------------------------

USAGE = {
    "login": "login UserID Password",
    "newuser": "newuser UserID Password",
    "send": "send all|UserID Message",
    "who": "who",
    "logout": "logout",
}
SEPARATORS = " \u00a0\u3000"  # some keyboards make the last two where a space was meant
# C0, DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates:
# whatever could move a reader's cursor or make a line look like another's.
UNSAFE = "[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"


class Denied(Exception):
    """A refusal; its text is the whole line that the user reads."""


def decode(line: bytes) -> str:
    """Return a typed line as text, without a CR at its end.

    line: any bytes, without the LF. Raises Denied if it is too long or not UTF-8.
    """
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
    word, rest = cut_word(text)
    command = word.lower()
    if not command:
        return ()
    if command not in USAGE:
        shown = re.sub(UNSAFE, "\N{REPLACEMENT CHARACTER}", word[:32])
        raise Denied(f'Denied. Unknown command "{shown}". Commands: {", ".join(USAGE)}.')
    if command in ("send", "who") and not is_logged_in:
        raise Denied("Denied. Please login first.")
    if command == "send":
        return check_send(rest)
    words = words_of(text)
    if len(words) != len(USAGE[command].split()):
        raise Denied(f"Usage: {USAGE[command]}")
    if command in ("login", "newuser"):
        check_userid(words[1])
        check_password(words[2])
    return (command, *words[1:])


def cut_word(text: str) -> tuple[str, str | None]:
    """Return the first word, and what follows the separator behind it: None if there is none."""
    word, *rest = re.split(f"[{SEPARATORS}]", text.lstrip(SEPARATORS), maxsplit=1)
    return word, rest[0] if rest else None


def words_of(text: str) -> list[str]:
    return [word for word in re.split(f"[{SEPARATORS}]+", text) if word]


def check_send(rest: str | None) -> tuple[str, str, str]:
    recipient, message = cut_word(rest or "")
    if message is None:
        raise Denied(f"Usage: {USAGE['send']}")
    message = message.strip()
    if not 1 <= len(message) <= 256:
        raise Denied("Denied. Message must be 1 to 256 characters.")
    return "send", recipient, message


def check_userid(userid: str) -> None:
    if not 3 <= normal_length(userid, 128) <= 32:
        raise Denied("Denied. UserID must be 3 to 32 characters.")


def check_password(password: str) -> None:
    if not 4 <= normal_length(password, 32) <= 8:
        raise Denied("Denied. Password must be 4 to 8 characters.")


def normal_length(text: str, bound: int) -> int:
    """Return the code points of a text in NFC; of one over the bound, all that it has.

    Normalising takes time that grows with the square of the length of a run of marks.
    """
    return len(text) if len(text) > bound else len(unicodedata.normalize("NFC", text))


# --------------------------------------------------------------------------------------------------
# Screen: the one owner of standard output. Whatever is shown goes through it, each time in one
# write: take the prompt away, print, draw the prompt again. It draws from what it knows, never from
# what may be on the terminal.
# --------------------------------------------------------------------------------------------------

DIM, BOLD, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
CLEAR_SCREEN, CLEAR_BELOW = "\x1b[H\x1b[2J", "\x1b[J"
# Patterns are compiled when first needed: the prompt is there a few milliseconds earlier.
HARMFUL = f"{UNSAFE}|[\ud800-\udfff]"
CAME_OR_WENT = r"([^\s:,]{3,32}) (joins|left)\."
PRIVATE = r"[^\s:,]{3,32} \(to [^\s:,]{3,32}\): .*"
USAGE_REPLIES = frozenset(f"Usage: {usage}" for usage in USAGE.values())
WHO_REPLY = r"[^\s:,]{3,32}(, [^\s:,]{3,32})*"


class OutputClosed(Exception):
    """Nobody reads standard output any more (`| head -1`), or its terminal is gone."""


def visible(text: str) -> str:
    """Return text that a terminal shows and never obeys: harmful characters are spelled out."""
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
    if line.startswith("Denied. ") or line in USAGE_REPLIES:
        return RED
    return ""


class Layout:
    """Text broken into rows of at most `columns` cells, and the cursor's place among them."""

    def __init__(self, text: str, cursor: int, columns: int) -> None:
        self.columns = columns
        self.rows = [""]
        self.widths = [0]
        self.cursor_row = self.cursor_column = 0
        for index, character in enumerate(text):
            shown = visible(character)
            width = len(shown) if len(shown) > 1 else cells(shown)
            if self.widths[-1] + width > columns:
                self.add_row()
            if index == cursor:
                self.place_cursor()
            self.add(shown, width)
        if self.widths[-1] >= columns:  # the cursor has no room behind a full row
            self.add_row()
        if cursor == len(text):
            self.place_cursor()

    def add_row(self) -> None:
        self.rows.append("")
        self.widths.append(0)

    def add(self, shown: str, width: int) -> None:
        self.rows[-1] += shown
        self.widths[-1] += width
        # Terminals do not agree on the width of joined emoji and the like. Naming the column after
        # every unusual character keeps the rest of the row in its place whatever they think.
        if width != len(shown) and self.widths[-1] < self.columns:
            self.rows[-1] += to_column(self.widths[-1])

    def place_cursor(self) -> None:
        self.cursor_row = len(self.rows) - 1
        self.cursor_column = min(self.widths[-1], self.columns - 1)

    def rewrapped_rows_above(self, columns: int) -> int:
        """Return the rows above the cursor's in a window that has broken rows too long for it."""
        heights = [max(1, -(-width // columns)) for width in self.widths]
        return sum(heights[: self.cursor_row]) + self.cursor_column // columns

    def keep_rows(self, height: int) -> None:
        """Drop the rows that a window of this height cannot show, but never the cursor's."""
        first = max(0, self.cursor_row - height + 1)
        self.rows = self.rows[first : first + height]
        self.widths = self.widths[first : first + height]
        self.cursor_row -= first


def to_column(column: int) -> str:
    return f"\r\x1b[{column}C" if column else "\r"


class Screen:
    """Standard output. Any thread may call show, edit, finish, clear, close and control.

    editing: it is a terminal that understands escape sequences, and the Editor draws on it;
    otherwise lines and a bare prompt are all that is ever written.
    All of them raise OutputClosed when nothing can be written any more.
    """

    def __init__(self, editing: bool, coloured: bool) -> None:
        self.editing = editing
        self.coloured = coloured
        self.rewraps = os.environ.get("TERM", "").startswith("tmux")  # the one that surely does
        self.lock = threading.Lock()
        # Unbuffered: nothing waits in Python, so there is nothing to flush on any way out.
        self.output = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115
        self.prompt = ""  # the prompt and text that are on the screen now, "" for none
        self.text = ""
        self.cursor = 0
        self.layout: Layout | None = None  # how they were last drawn

    def show(self, lines: list[str]) -> None:
        """Print whole lines, above the prompt if there is one."""
        with self.lock:
            body = "".join(self.dress(line) for line in lines)
            self.write(self.erase() + body + self.draw())

    def edit(self, prompt: str, text: str = "", cursor: int = 0) -> None:
        """Draw prompt and text on the last rows; cursor is an index into text."""
        with self.lock:
            erase = self.erase()
            self.prompt, self.text, self.cursor = prompt, text, cursor
            self.write(erase + self.draw())

    def finish(self, prompt: str, text: str, end: str = "\n") -> None:
        """Leave prompt and text behind as an ordinary line, and have no prompt any more."""
        with self.lock:
            line = self.erase() + visible(prompt + text) if self.editing else ""
            self.prompt = self.text = ""
            self.write(line + end)

    def clear(self) -> None:
        with self.lock:
            self.layout = None
            self.write(CLEAR_SCREEN + self.draw())

    def close(self) -> None:
        """Leave what there is of a prompt, and the cursor below it."""
        if self.prompt:
            self.finish(self.prompt, self.text)

    def control(self, sequence: str) -> None:
        with self.lock:
            self.write(sequence)

    def dress(self, line: str) -> str:
        colour = colour_of(line) if self.coloured else ""
        return f"{colour}{visible(line)}{PLAIN if colour else ''}\n"

    def erase(self) -> str:
        if not self.prompt:
            return ""
        if not self.editing:
            return "\n"  # what was typed so far stays where it is, and in the terminal's hands
        if not self.layout:
            return ""
        # In a window made narrower, some terminals break the rows that are too long, others cut
        # them. What was above the cursor when it was drawn is surely ours in both: it is better to
        # leave a row of junk than to erase a row of the chat.
        above = self.layout.cursor_row
        if self.rewraps:
            above = self.layout.rewrapped_rows_above(window_size()[0])
        # The space keeps the cursor off the top left corner, where tmux takes CLEAR_BELOW for the
        # end of a screenful and moves it to the scrollback.
        return "\r" + (f"\x1b[{above}A" if above else "") + f" {CLEAR_BELOW}\r"

    def draw(self) -> str:
        if not (self.prompt and self.editing):
            return self.prompt
        columns, height = window_size()
        position = len(self.prompt) + self.cursor
        self.layout = layout = Layout(self.prompt + self.text, position, columns)
        layout.keep_rows(height)
        up = len(layout.rows) - 1 - layout.cursor_row
        move = (f"\x1b[{up}A" if up else "") + to_column(layout.cursor_column)
        # Row ends are ours, not the terminal's, so that its idea of them cannot differ.
        return WRAP_OFF + "\n".join(layout.rows) + WRAP_ON + move

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
# --------------------------------------------------------------------------------------------------

GONE = 0  # not a signal's number


class Gone(Exception):
    """The receiver has ended: the connection, or whoever read standard output, is gone."""


class Terminal:
    """Standard input, be it a terminal or not. For the main thread, but for `wake`."""

    def __init__(self) -> None:
        self.is_terminal = os.isatty(0)
        self.found = termios.tcgetattr(0) if HAS_TERMIOS and self.is_terminal else None
        self.waker, self.waiting = socket.socketpair()
        self.waker.setblocking(False)
        self.waiting.setblocking(False)
        # Without this, a signal just before a wait would only be seen after it.
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)

    def take(self) -> None:
        """Have every key as it is pressed, and nothing done by the terminal itself."""
        if self.found is None:
            return
        raw = [*self.found[:6], [*self.found[6]]]
        raw[0] &= ~termios.IXON  # Ctrl-S and Ctrl-Q are keys, not a brake
        raw[0] &= ~termios.ICRNL  # Enter is CR: a line feed after it is no second Enter
        raw[3] &= ~(termios.ICANON | termios.ECHO)  # the Editor gathers lines and draws them
        raw[3] &= ~termios.IEXTEN  # Ctrl-V and Ctrl-O are keys
        # Ctrl-C and Ctrl-Z are keys: as signals they would overtake the lines typed before them,
        # and the kernel would throw those away.
        raw[3] &= ~termios.ISIG
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0  # a read returns with what is there
        self.set(raw)

    def give_back(self) -> None:
        """Leave the terminal's settings as they were found."""
        if self.found is not None:
            self.set(self.found)

    def hide_typing(self) -> None:
        """Have the terminal echo nothing but the end of a line."""
        if self.found is not None:
            hidden = [*self.found]
            hidden[3] = (hidden[3] | termios.ECHONL) & ~termios.ECHO
            self.set(hidden)

    def ask(self, question: str) -> None:
        """Write to the terminal itself, wherever standard output leads."""
        with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
            terminal.write(question)

    def set(self, settings: list[int | list[bytes | int]]) -> None:
        with contextlib.suppress(termios.error):  # hung up: reading will tell
            termios.tcsetattr(0, termios.TCSANOW, settings)

    def read(self) -> bytes:
        """Return what standard input has, b"" at its end."""
        try:
            return os.read(0, 65536)
        except BlockingIOError:  # another program left the terminal so, and took what was there
            select.select([0], [], [])
            return self.read()
        except OSError:  # a terminal that was hung up
            return b""

    def stop(self) -> None:
        """Stop the whole job, as the kernel does for Ctrl-Z; return when it goes on."""
        os.kill(0, signal.SIGTSTP)

    def note_signals(self, *numbers: signal.Signals) -> None:
        """Let `wait` return these signals instead of doing what they would do."""
        for number in numbers:
            set_handler(number, lambda _number, _frame: None)

    def wake(self) -> None:
        """Have `wait` return GONE. For any thread."""
        self.waker.send(bytes([GONE]))

    def wait(
        self, keyboard: bool, sending: socket.socket | None = None, timeout: float | None = None
    ) -> tuple[bool, bytes]:
        """Wait to be woken, for `keyboard`, or until `sending` takes more.

        timeout: in seconds, None for ever. Return whether standard input can be read, and the
        numbers that this was woken with.
        """
        watched = [self.waiting.fileno()] + [0] * keyboard
        ready = select.select(watched, [sending] if sending else [], [], timeout)[0]
        woken_with = self.waiting.recv(4096) if self.waiting.fileno() in ready else b""
        return 0 in ready, woken_with


def window_size() -> tuple[int, int]:
    """Return the columns and rows of the terminal on standard output."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        columns, rows = 0, 0
    return columns or 80, rows or 24  # a new pseudo-terminal says 0 by 0


def can_edit() -> bool:
    is_terminal = os.isatty(0) and os.isatty(1)
    return is_terminal and HAS_TERMIOS and os.environ.get("TERM", "") not in ("", "dumb")


def set_handler(number: int, handler: Callable[[int, object], None] | signal.Handlers) -> None:
    if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or behind a script's `&`
        signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------
# Editor: bytes become keys (Keyboard), a key changes the text (Line) or looks through older ones
# (History), and the screen shows what came of it. KEYS, at the end, says which key does what.
# --------------------------------------------------------------------------------------------------

# A key is ESC and a letter (Alt), ESC O and one (function keys), ESC [ [ and one (the same on
# Linux' console), or CSI: ESC [, parameters, intermediates, and a final character (ECMA-48, 5.4).
SEQUENCE = r"\x1b(?:\[\[[@-~]|\[[0-?]*[ -/]*[@-Z\\-~]|O[@-~]|[bdf\x08\x7f])"
UNFINISHED = r"\x1b(?:\[\[?|\[[0-?]*[ -/]*|O)?\Z"
STRING_BEGINS = "]PX^_"  # behind ESC: OSC, DCS, SOS, PM, APC, ended by BEL or ST (ESC \\)
PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"


class Keyboard:
    """Bytes in, keys out: a character of a text, or one of KEYS' actions."""

    def __init__(self) -> None:
        # Bytes that are not UTF-8 become lone surrogates, and the same bytes again when encoded.
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.rest = ""  # the beginning of an escape sequence
        self.is_pasting = False
        self.is_in_string = False  # a terminal's answer, which is no typing
        self.is_after_return = False

    def keys(self, data: bytes) -> list[str | Action]:
        """Return the keys that these bytes complete; what is not complete waits for more."""
        text = self.rest + self.decoder.decode(data)
        keys = []
        position = 0
        while position < len(text):
            key, length = self.key_at(text, position)
            if not length:
                break
            if key:
                keys.append(key)
            position += length
        self.rest = text[position:]
        return keys

    def key_at(self, text: str, position: int) -> tuple[str | Action | None, int]:
        """Return the key at a position (None if it means nothing) and its length, 0 to wait."""
        character = text[position]
        is_line_feed_of_return = character == "\n" and self.is_after_return
        self.is_after_return = character == "\r"
        if is_line_feed_of_return or (self.is_in_string and character >= " "):
            return None, 1
        if self.is_in_string and character == "\x07":
            self.is_in_string = False
            return None, 1
        if character == "\x1b":
            return self.escape_at(text, position)
        self.is_in_string = False  # none goes on behind a control character: Alt-] is no trap
        if character in "\r\n":
            return Editor.enter, 1
        if self.is_pasting or not (character < " " or character == "\x7f"):
            return character, 1
        return KEYS.get(character), 1

    def escape_at(self, text: str, position: int) -> tuple[str | Action | None, int]:
        if self.is_pasting:
            if text.startswith(PASTE_END, position):
                self.is_pasting = False
                return None, len(PASTE_END)
            is_unfinished = PASTE_END.startswith(text[position : position + len(PASTE_END)])
            return (None, 0) if is_unfinished else ("\x1b", 1)
        follower = text[position + 1 : position + 2]
        if follower and follower in STRING_BEGINS + "\\":
            self.is_in_string = follower != "\\"
            return None, 2
        found = re.compile(SEQUENCE).match(text, position)
        if found:
            self.is_in_string = False
            self.is_pasting = found[0] == PASTE_BEGIN
            return KEYS.get(found[0]), len(found[0])
        # An Escape that begins nothing is dropped alone: what follows may be a line's first letter.
        return None, 0 if re.compile(UNFINISHED).match(text, position) else 1


class Line:
    """A text and the cursor in it, which is an index. Knows nothing of keys and screens."""

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.cursor = len(text)

    def insert(self, text: str) -> None:
        # A line over the limit is refused anyway; what goes further need not be kept.
        text = text[: MAX_LINE + 1 - len(self.text)]
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def cut(self, start: int, end: int) -> str:
        """Remove and return what stands from `start` to `end`, and leave the cursor there."""
        removed = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start
        return removed

    # Places in the text. A letter and the marks drawn onto it are one step.

    def step_left(self) -> int:
        index = max(0, self.cursor - 1)
        while index and not cells(self.text[index]):
            index -= 1
        return index

    def step_right(self) -> int:
        index = min(len(self.text), self.cursor + 1)
        while index < len(self.text) and not cells(self.text[index]):
            index += 1
        return index

    def word_left(self) -> int:
        before = re.search(r"\w*\W*\Z", self.text[: self.cursor])
        return before.start() if before else 0

    def word_right(self) -> int:
        after = re.compile(r"\W*\w*").match(self.text, self.cursor)
        return after.end() if after else len(self.text)

    def space_left(self) -> int:
        """Return where the word before the cursor begins, words being what spaces separate."""
        return self.text[: self.cursor].rstrip(" ").rfind(" ") + 1


class History:
    """The lines typed before, and the place among them. Knows nothing of keys and screens."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.place = 0  # len(lines) for the line that is no part of them yet
        self.draft = ""  # that line, while older ones are looked at

    def add(self, text: str) -> None:
        """Keep a line, unless it is empty, a repetition, or secret."""
        if text.strip() and text not in self.lines[-1:] and not is_secret(text):
            self.lines = [*self.lines, text][-MAX_HISTORY:]

    def leave(self) -> None:
        """Go back below the newest line, with nothing typed there."""
        self.place, self.draft = len(self.lines), ""

    def go_to(self, place: int, text: str) -> str:
        """Return the line at a place; `text` is what is typed now. Raises IndexError."""
        if not 0 <= place <= len(self.lines):
            raise IndexError
        if self.place == len(self.lines):
            self.draft = text
        self.place = place
        return [*self.lines, self.draft][place]

    def find(self, query: str, newest: int) -> int:
        """Return the place of the newest line that holds the query, from `newest` back, or -1."""
        for place in range(min(newest, len(self.lines) - 1), -1, -1):
            if query in self.lines[place]:
                return place
        return -1


def is_secret(text: str) -> bool:
    """Tell whether a typed line holds a password, or may: `lgoin Tom Tom11`."""
    words = words_of(text)
    if words and words[0].lower() not in ("help", *USAGE):
        return len(words) <= 3
    return len(words) > 2 and words[0].lower() in ("login", "newuser")


class Editor:
    """The line being typed at a terminal.

    complete: returns what the last word of a text may become. The terminal is the Editor's from
    take_terminal to give_terminal_back, between two lines too: it would echo what is typed there.
    """

    def __init__(
        self, screen: Screen, terminal: Terminal, complete: Callable[[str], list[str]]
    ) -> None:
        self.screen = screen
        self.terminal = terminal
        self.possible_words = complete
        self.keyboard = Keyboard()
        self.history = History()
        self.typed_ahead: deque[str | Action] = deque()
        self.is_interrupted = False  # there may be a Ctrl-C among the keys typed ahead
        self.is_hung_up = False
        self.last_key: str | Action | None = None
        self.prompt = ""
        self.is_hidden = False
        self.line = Line()
        self.is_done = False
        self.result: bytes | None = None
        self.query: str | None = None  # what Ctrl-R looks for, while it does
        self.removed = ""  # for Ctrl-Y to put back

    def take_terminal(self) -> None:
        self.terminal.take()
        self.screen.control(PASTE_ON)

    def give_terminal_back(self) -> None:
        # The settings first: the screen may be gone together with its terminal.
        self.terminal.give_back()
        with contextlib.suppress(OutputClosed):
            self.screen.control(PASTE_OFF)

    def read_line(self, prompt: str = PROMPT, hidden: bool = False) -> bytes | None:
        """Return the next line, without its end; None for Ctrl-D or Ctrl-C on an empty line.

        hidden: the text is a password: not drawn, not kept, and any Ctrl-C gives None.
        Raises Gone.
        """
        self.prompt, self.is_hidden = prompt, hidden
        self.start_line()
        while True:
            while self.typed_ahead:
                self.press(self.typed_ahead.popleft())
                if self.is_done:
                    return self.result
            self.is_interrupted = False
            self.draw()
            self.wait_for_keys()

    def wait_to_send(self, connection: socket.socket) -> bool:
        """Wait until the connection takes more, or for keys; tell whether Ctrl-C was among them.

        It drops all keys before it. Raises Gone.
        """
        if not self.is_interrupted:
            self.wait_for_keys(connection)
        if not (self.is_interrupted and Editor.interrupt in self.typed_ahead):
            self.is_interrupted = False
            return False
        while self.typed_ahead.popleft() != Editor.interrupt:
            pass
        self.screen.finish("", "^C")
        return True

    def start_line(self) -> None:
        self.is_done = False
        self.line = Line()
        self.history.leave()

    def end_line(self, result: bytes | None, mark: str = "") -> None:
        """Leave the line on the screen as it is, with a mark behind it."""
        self.screen.finish(self.prompt, mark if self.is_hidden else self.line.text + mark)
        self.is_done, self.result = True, result

    def wait_for_keys(self, sending: socket.socket | None = None) -> None:
        can_read, woken_with = self.terminal.wait(not self.is_hung_up, sending)
        if GONE in woken_with:
            raise Gone
        if signal.SIGCONT in woken_with:  # after a stop, the shell may have left it in any state
            self.take_terminal()
        if signal.SIGINT in woken_with:
            self.take_keys([Editor.interrupt])
        if can_read:
            data = self.terminal.read()
            self.is_hung_up = not data
            self.take_keys(self.keyboard.keys(data) if data else [Editor.hang_up])
        # A new window size needs nothing but the next draw.

    def take_keys(self, keys: list[str | Action]) -> None:
        self.typed_ahead.extend(keys)
        self.is_interrupted = self.is_interrupted or Editor.interrupt in keys

    def draw(self) -> None:
        if self.is_hidden:
            self.screen.edit(self.prompt)
        elif self.query is not None:
            self.screen.edit(f"(search '{self.query}') ", self.line.text, self.line.cursor)
        else:
            self.screen.edit(self.prompt, self.line.text, self.line.cursor)

    def press(self, key: str | Action) -> None:
        is_taken = self.query is not None and self.is_for_search(key)
        if not is_taken and isinstance(key, str):
            self.line.insert(key)
        elif not is_taken and not isinstance(key, str):
            key(self)
        self.last_key = key

    # What ends a line.

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

    # What moves the cursor.

    def home(self) -> None:
        self.line.cursor = 0

    def end(self) -> None:
        self.line.cursor = len(self.line.text)

    def left(self) -> None:
        self.line.cursor = self.line.step_left()

    def right(self) -> None:
        self.line.cursor = self.line.step_right()

    def word_left(self) -> None:
        self.line.cursor = self.line.word_left()

    def word_right(self) -> None:
        self.line.cursor = self.line.word_right()

    # What deletes.

    def erase(self) -> None:
        self.line.cut(self.line.step_left(), self.line.cursor)

    def delete(self) -> None:
        self.line.cut(self.line.cursor, self.line.step_right())

    def cut(self, start: int, end: int) -> None:
        removed = self.line.cut(start, end)
        if not self.is_hidden:  # or Ctrl-Y would show a password at the next prompt
            self.removed = removed

    def cut_left(self) -> None:
        self.cut(0, self.line.cursor)

    def cut_right(self) -> None:
        self.cut(self.line.cursor, len(self.line.text))

    def cut_word_left(self) -> None:
        self.cut(self.line.word_left(), self.line.cursor)

    def cut_word_right(self) -> None:
        self.cut(self.line.cursor, self.line.word_right())

    def cut_to_space(self) -> None:
        self.cut(self.line.space_left(), self.line.cursor)

    def put_back(self) -> None:
        self.line.insert(self.removed)

    # The history.

    def older(self) -> None:
        self.go_to(self.history.place - 1)

    def newer(self) -> None:
        self.go_to(self.history.place + 1)

    def go_to(self, place: int) -> None:
        if not self.is_hidden:
            with contextlib.suppress(IndexError):
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
        self.query = query
        place = self.history.find(query, newest)
        if place >= 0:
            self.go_to(place)
            self.line.cursor = self.line.text.index(query)

    def cancel(self) -> None:
        """Mean nothing but in a search, which ends with it."""

    # The rest.

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

    def clear(self) -> None:
        self.screen.clear()

    def suspend(self) -> None:
        """Stop as Ctrl-Z should, with a sane terminal meanwhile; go on where it was after `fg`."""
        self.screen.finish(self.prompt, "" if self.is_hidden else self.line.text)
        self.give_terminal_back()
        self.terminal.stop()
        self.take_terminal()


Action = Callable[[Editor], None]
KEY_TABLE: tuple[tuple[Action, tuple[str, ...]], ...] = (
    (Editor.home, ("\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~")),  # Ctrl-A, Home
    (Editor.end, ("\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~")),  # Ctrl-E, End
    (Editor.left, ("\x02", "\x1b[D", "\x1bOD")),  # Ctrl-B, Left
    (Editor.right, ("\x06", "\x1b[C", "\x1bOC")),  # Ctrl-F, Right
    (Editor.word_left, ("\x1bb", "\x1b[1;5D", "\x1b[1;3D")),  # Alt-B, Ctrl-Left, Alt-Left
    (Editor.word_right, ("\x1bf", "\x1b[1;5C", "\x1b[1;3C")),  # Alt-F, Ctrl-Right, Alt-Right
    (Editor.older, ("\x10", "\x1b[A", "\x1bOA")),  # Ctrl-P, Up
    (Editor.newer, ("\x0e", "\x1b[B", "\x1bOB")),  # Ctrl-N, Down
    (Editor.search, ("\x12",)),  # Ctrl-R
    (Editor.cancel, ("\x07",)),  # Ctrl-G
    (Editor.erase, ("\x08", "\x7f")),  # Backspace
    (Editor.delete, ("\x1b[3~",)),  # Delete
    (Editor.delete_or_end, ("\x04",)),  # Ctrl-D
    (Editor.cut_left, ("\x15",)),  # Ctrl-U
    (Editor.cut_right, ("\x0b",)),  # Ctrl-K
    (Editor.cut_to_space, ("\x17",)),  # Ctrl-W
    (Editor.cut_word_left, ("\x1b\x7f", "\x1b\x08")),  # Alt-Backspace
    (Editor.cut_word_right, ("\x1bd",)),  # Alt-D
    (Editor.put_back, ("\x19",)),  # Ctrl-Y
    (Editor.complete, ("\t",)),
    (Editor.clear, ("\x0c",)),  # Ctrl-L
    (Editor.interrupt, ("\x03",)),  # Ctrl-C
    (Editor.suspend, ("\x1a",)),  # Ctrl-Z
)
KEYS = {code: action for action, codes in KEY_TABLE for code in codes}


# --------------------------------------------------------------------------------------------------
# Plain lines: from a pipe, a file, or a terminal without escape sequences. Such a terminal edits
# and echoes its lines itself, and its settings stay as they were found: in Emacs' shell it echoes
# nothing, as Emacs does.
# --------------------------------------------------------------------------------------------------


class PlainLines:
    """Of a line over MAX_LINE only so much is kept that the check will refuse it."""

    def __init__(self, screen: Screen, terminal: Terminal) -> None:
        self.screen = screen
        self.terminal = terminal
        self.has_prompt = terminal.is_terminal and os.isatty(1)
        self.rest = b""  # the beginning of a line
        self.lines: deque[bytes | None] = deque()  # None for the end of input
        self.may_have_mark = not terminal.is_terminal  # a byte order mark before the first line

    def take_terminal(self) -> None:
        """Leave it as it is."""

    def give_terminal_back(self) -> None:
        """Leave it as it is."""

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
        if line and self.may_have_mark:
            line = line.removeprefix(codecs.BOM_UTF8)
        self.may_have_mark = False
        if self.has_prompt:  # whoever echoes a line echoes its end, but nothing for Ctrl-D
            self.screen.finish("", "", end="\n" if line is None else "")
        return line

    def read_hidden_line(self, prompt: str) -> bytes | None:
        if not HAS_TERMIOS:
            return ask_password(prompt)
        self.terminal.hide_typing()
        if not self.has_prompt:  # as in `client.py | tee log`
            self.terminal.ask(prompt)
        try:
            return self.read_line(prompt)
        finally:
            self.terminal.give_back()

    def wait_to_send(self, connection: socket.socket) -> bool:
        """Wait until the connection takes more. Raises Gone."""
        if GONE in self.terminal.wait(keyboard=False, sending=connection)[1]:
            raise Gone
        return False

    def read_more(self) -> None:
        if HAS_TERMIOS:  # else the read is all that can be waited for
            can_read, woken_with = self.terminal.wait(keyboard=True)
            if GONE in woken_with:
                raise Gone
            if not can_read:
                return
        data = self.terminal.read()
        if data:
            *lines, rest = (self.rest + data).split(b"\n")
            self.lines.extend(lines)
            self.rest = rest[: MAX_LINE + 2]
        else:
            self.lines.extend([self.rest, None] if self.rest else [None])
            self.rest = b""


def ask_password(prompt: str) -> bytes | None:
    import getpass  # only where there is no termios

    try:
        return getpass.getpass(prompt).encode("utf-8", "surrogateescape")
    except (EOFError, KeyboardInterrupt):
        return None


# --------------------------------------------------------------------------------------------------
# Connection: the socket, and the receiver, the one thread that reads it. The main thread writes.
# Whatever ends the client but a logout is a reset: what a killed client has typed ahead is dropped,
# here and at the server, instead of being said over the next minutes.
# --------------------------------------------------------------------------------------------------


class Connection:
    """A connection to a server, from connecting to its end.

    has_ended: set by the receiver when nothing more will arrive, with `failure` to tell what ended
    it, if that was not the server's close. unsent: what the socket has not taken yet.
    """

    def __init__(self, host: str, port: int) -> None:
        """Raises OSError, or UnicodeError for a name that cannot be one."""
        self.socket = socket.create_connection((host, port), CONNECT_WAIT)
        self.socket.setblocking(False)  # sending must never keep anybody from the keyboard
        self.set_option(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        self.set_option(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.set_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in TIMES:
            self.set_option(socket.IPPROTO_TCP, option, value)
        self.set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent = b""
        self.is_under_way = False  # a part of the first unsent line has been taken
        self.backlog = 0.0  # what `lines_unread` was when the last line was sent,
        self.last_sent = 0.0  # in time.monotonic's seconds
        self.has_ended = False
        self.failure: Exception | None = None

    def set_option(self, level: int, option: int, value: int | bytes) -> None:
        with contextlib.suppress(OSError):  # each only makes things better
            self.socket.setsockopt(level, option, value)

    def start(self, show: Callable[[list[str]], None], end: Callable[[], None]) -> None:
        """Have the receiver call `show` with all lines that are there at a time, `end` at last."""
        arguments = (show, end)
        threading.Thread(target=self.receive, args=arguments, name="receiver", daemon=True).start()

    def receive(self, show: Callable[[list[str]], None], end: Callable[[], None]) -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals are the main thread's business
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for lines in batches(self.receive_some):
                show(lines)
        except (OSError, OutputClosed) as error:
            self.failure = error
        finally:
            self.has_ended = True
            end()

    def receive_some(self) -> bytes:
        """Return what has arrived, b"" at the end. Raises OSError."""
        while not select.select([self.socket], [], [], LOOK_EVERY)[0]:
            if self.is_out_of_reach():
                raise TimeoutError
        return self.socket.recv(65536)

    def is_out_of_reach(self) -> bool:
        """Tell whether what was sent has gone without an acknowledgement for too long.

        Keepalive does not tell: it waits until all is acknowledged, for 16 minutes on Linux. Nor is
        TCP_USER_TIMEOUT the answer: it also ends who is only held back by a server that paces it.
        Only Linux says when the last acknowledgement came (struct tcp_info).
        """
        if not sys.platform.startswith("linux"):
            return False
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        except OSError:
            return False
        unacknowledged, milliseconds = map(int, struct.unpack_from("=I28xI", info, 24))
        return unacknowledged > 0 and milliseconds > UNHEARD * 1000

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
        if not self.unsent:
            return
        try:
            count = self.socket.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:  # gone: the receiver tells, once it has shown what had arrived
            self.unsent = b""
            return
        self.is_under_way = count < len(self.unsent) and self.unsent[count - 1 : count] != b"\n"
        self.unsent = self.unsent[count:]

    def drop_unsent(self) -> None:
        """Forget what has not been sent, but for the rest of a line that is under way."""
        rest, end, _ = self.unsent.partition(b"\n")
        self.unsent = rest + end if self.is_under_way else b""

    def log_out(self) -> float:
        """Ask to be logged out; return how many seconds the server may take to answer that."""
        self.set_option(socket.SOL_SOCKET, socket.SO_LINGER, SEND_ALL_AT_CLOSE)
        self.send(b"logout")
        return LOGOUT_WAIT + max(0.0, self.backlog - PACED_FROM) / SLOWEST_PACE

    def end_sending(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Have what the server has not read yet dropped at both ends, as the process ends."""
        self.set_option(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)


# How a network that forwards no more is noticed: half a minute idle, then three probes.
TIMES = [
    (getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", 0)), 30),  # seconds
    (getattr(socket, "TCP_KEEPINTVL", 0), 10),  # seconds
    (getattr(socket, "TCP_KEEPCNT", 0), 3),
]
if sys.platform.startswith("linux"):
    # TCP_RTO_MAX_MS, from Linux 6.15 on: the longest pause between two retransmissions. After a
    # link was down, talk goes on within seconds, instead of up to half a minute later.
    TIMES.append((44, 5000))
LOOK_EVERY = 5.0  # seconds
UNHEARD = 60  # seconds
# struct linger: on or off, and seconds; its fields are shorter on Windows.
LINGER = "hh" if sys.platform == "win32" else "ii"
RESET_AT_CLOSE = struct.pack(LINGER, 1, 0)
SEND_ALL_AT_CLOSE = struct.pack(LINGER, 0, 0)


def batches(receive_some: Callable[[], bytes]) -> Iterator[list[str]]:
    """Yield the lines that arrive, all that are there at a time.

    Invalid UTF-8 is replaced; a line over LONGEST_SHOWN comes in pieces.
    """
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
# Client: the conversation, from the first prompt to the exit status.
# --------------------------------------------------------------------------------------------------

LOGIN_REFUSED = (
    r"Denied\. (User name or |The chat room is full |Too many failed |UserID |Password )"
)
NEWUSER_ANSWERED = (
    r"New user account created\. |"
    r"Denied\. (User account |Please logout |The account |New accounts |Too many new |"
    r"UserID |Password )"
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

    @property
    def is_logged_in(self) -> bool:
        """Tell whether a login was sent and not refused."""
        return self.has_joined or "login" in self.unanswered

    def ask(self, command: tuple[str, ...]) -> None:
        """Take note of a command that is about to be sent."""
        if command[0] in ("login", "newuser"):
            self.unanswered.append(command[0])
        if command[0] == "login":
            self.own_name = unicodedata.normalize("NFC", command[1])

    def learn(self, line: str) -> None:
        """Take in a line from the server."""
        if line == "login confirmed":
            self.has_joined = True
            self.names |= {self.own_name}
            self.unanswered.clear()
        elif moved := re.fullmatch(CAME_OR_WENT, line):
            self.names = self.names - {moved[1]} | ({moved[1]} if moved[2] == "joins" else set())
        elif re.fullmatch(WHO_REPLY, line):
            self.names = frozenset(line.split(", "))
        elif self.unanswered:
            answer = LOGIN_REFUSED if self.unanswered[0] == "login" else NEWUSER_ANSWERED
            if re.match(answer, line):
                self.unanswered.popleft()


class Client:
    """address: where `connection` leads, as the user should read it."""

    def __init__(self, connection: Connection, address: str) -> None:
        self.connection = connection
        self.address = address
        self.room = Room()
        self.terminal = Terminal()
        self.is_editing = can_edit()
        is_coloured = self.is_editing and not os.environ.get("NO_COLOR")
        self.screen = Screen(self.is_editing, is_coloured)
        self.reader: Editor | PlainLines = (
            Editor(self.screen, self.terminal, self.possible_words)
            if self.is_editing
            else PlainLines(self.screen, self.terminal)
        )
        self.has_dropped = False  # Ctrl-C has dropped lines, and none was sent since
        self.is_leaving = False
        self.failure: Exception | None = None  # what ended the connection, but for a logout

    def run(self) -> int:
        """Serve the user until logout, the end of input or of the connection; return the status."""
        self.handle_signals()
        try:
            self.reader.take_terminal()
            self.connection.start(self.show, self.end)
            self.converse()
            self.leave()
        except (Gone, OutputClosed) as error:
            self.failure = self.connection.failure or error
        finally:
            self.reader.give_terminal_back()
            with contextlib.suppress(OutputClosed):
                self.screen.close()
        if self.failure:
            self.report_failure()
        return 1 if self.failure else 0

    def handle_signals(self) -> None:
        if not self.terminal.is_terminal:
            set_handler(signal.SIGINT, signal.SIG_DFL)  # end as any program in a pipe does
            return
        if self.is_editing:
            self.terminal.note_signals(signal.SIGINT, signal.SIGCONT, signal.SIGWINCH)
        else:
            set_handler(signal.SIGINT, end_by_signal)
        set_handler(signal.SIGTERM, end_by_signal)
        if HAS_TERMIOS:
            set_handler(signal.SIGHUP, end_by_signal)

    def converse(self) -> None:
        while (line := self.reader.read_line()) is not None:
            try:
                if not self.obey(line):
                    return
            except Denied as refusal:
                self.screen.show([str(refusal)])

    def obey(self, line: bytes) -> bool:
        """Do what a typed line asks for; tell whether to go on. Raises Denied."""
        text = decode(line)
        words = words_of(text)
        if [word.lower() for word in words] == ["help"]:
            self.screen.show(HELP.split("\n"))
            return True
        if self.lacks_password(words):
            check_userid(words[1])
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

    def send(self, line: bytes) -> bool:
        """Send a line; tell whether to go on. Raises Gone.

        The keyboard is read while it waits to be sent, so that Ctrl-C is seen at once and drops it,
        with all that was typed behind it. A second Ctrl-C does not wait for anything.
        """
        self.connection.send(line)
        self.has_dropped = False
        while self.connection.unsent:
            if self.reader.wait_to_send(self.connection.socket):
                if self.has_dropped:
                    return False
                self.connection.drop_unsent()
                self.has_dropped = True
            self.connection.flush()
        return True

    def lacks_password(self, words: list[str]) -> bool:
        is_account = len(words) == 2 and words[0].lower() in ("login", "newuser")
        return is_account and self.terminal.is_terminal

    def ask_password(self) -> str | None:
        """Return a password typed unseen, None if the question was cancelled. Raises Denied."""
        typed = self.reader.read_line("Password: ", hidden=True)
        if typed is None:
            return None
        password = decode(typed)
        check_password(password)
        if words_of(password) != [password]:
            raise Denied("Denied. Password must be printable characters without spaces.")
        return password

    def possible_words(self, head: str) -> list[str]:
        """Return what the last word of a text may become."""
        *before, word = re.split(f"[{SEPARATORS}]+", head.lstrip(SEPARATORS))
        known = {"help", *USAGE} if not before else set()
        if [first.lower() for first in before] == ["send"]:
            known = {"all", *self.room.names}
        return sorted(name for name in known if name.startswith(word))

    def leave(self) -> None:
        """Log out, and wait until all that is owed has been shown. Raises Gone if it is too late.

        A script waits as long as it takes. At a terminal there is an end to it, and Ctrl-C.
        """
        if self.connection.has_ended:
            raise Gone
        if self.has_dropped and self.connection.lines_unread():
            return  # what is still on its way would be obeyed before the logout
        self.is_leaving = True
        self.reader.give_terminal_back()  # Ctrl-C is a signal again
        patience = self.connection.log_out()
        deadline = time.monotonic() + patience if self.terminal.is_terminal else None
        if self.is_logged_out(deadline):
            self.failure = self.connection.failure
        else:
            self.connection.reset()

    def is_logged_out(self, deadline: float | None) -> bool:
        """Wait for the end of the connection; tell if it came before the deadline and Ctrl-C."""
        while True:
            sending = self.connection.socket if self.connection.unsent else None
            if not sending:
                self.connection.end_sending()
            seconds = max(0.0, deadline - time.monotonic()) if deadline else None
            woken_with = self.terminal.wait(keyboard=False, sending=sending, timeout=seconds)[1]
            if GONE in woken_with:
                return True
            if signal.SIGINT in woken_with or seconds == 0:
                return False
            self.connection.flush()

    def show(self, lines: list[str]) -> None:
        """Show lines from the server. For the receiver."""
        for line in lines:
            self.room.learn(line)
        self.screen.show(lines)

    def end(self) -> None:
        """Tell the main thread that the connection has ended. For the receiver."""
        if not HAS_TERMIOS and not self.is_leaving:
            # The main thread sits in a read that nothing can interrupt. The terminal was never
            # changed, and no buffer but standard error's holds anything.
            self.failure = self.connection.failure or Gone()
            self.report_failure()
            sys.stderr.flush()
            os._exit(1)
        self.terminal.wake()

    def report_failure(self) -> None:
        if not isinstance(self.failure, OutputClosed):
            print(f"Connection to {self.address} lost.", file=sys.stderr)


def end_by_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)  # gives the terminal back on its way


def open_missing_streams() -> None:
    """Give closed standard streams (`<&-`) a descriptor, or the connection would take its place."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)


def parse_options(arguments: list[str]) -> tuple[str, int]:
    """Return host and port; exits with status 2 for wrong options."""
    if not arguments:
        return HOST, PORT  # as mostly: without the parser, the prompt is there a tenth sooner
    import argparse

    parser = argparse.ArgumentParser(description="The client of a small chat room.")
    parser.add_argument("--host", default=HOST, help="of the server (default: %(default)s)")
    parser.add_argument("--port", default=str(PORT), help="of the server (default: %(default)s)")
    parser.add_argument("--version", action="version", version=f"client.py {VERSION}")
    options = parser.parse_args(arguments)
    if both := re.fullmatch(r"(\[.*\]|[^:]*):([0-9]+)", options.host):
        parser.error(f"the port has an option of its own: --host {both[1]} --port {both[2]}")
    port = options.port
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        parser.error(f"a port is a number from 1 to 65535, not {port!r}.")
    return options.host.strip("[]"), int(port)


def reason_of(error: Exception, host: str) -> str:
    """Return why there is no connection, and what to do if one can know."""
    code = getattr(error, "errno", None)
    if isinstance(error, ConnectionRefusedError):
        is_here = host.lower() in ("localhost", "::1") or host.startswith("127.")
        start = "Start a server: python server.py" if is_here else START_ELSEWHERE
        return f"nobody listens there. {start}"
    if isinstance(error, TimeoutError):
        return "no answer. Check the address, and the firewall of that machine."
    if isinstance(error, UnicodeError) or code in (socket.EAI_NONAME, EAI_NODATA):
        return "no machine of that name is known. Check --host."
    if code == socket.EAI_AGAIN:
        return "that name cannot be looked up now. Check the network of this machine."
    if code == errno.EHOSTUNREACH:
        return "no machine answers at that address. Check --host, and whether it is switched on."
    if code == errno.ENETUNREACH:
        return "no network leads there. Check --host, and the network of this machine."
    return f"{getattr(error, 'strerror', None) or error}."


# The usual cause is a server that listens to its own machine alone.
START_ELSEWHERE = "Start a server on that machine: python server.py --host 0.0.0.0"
EAI_NODATA = getattr(socket, "EAI_NODATA", socket.EAI_NONAME)


def main(arguments: list[str]) -> int:
    """Run the client; return the exit status."""
    host, number = parse_options(arguments)
    open_missing_streams()
    address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    try:
        connection = Connection(host, number)
    except (OSError, UnicodeError) as error:
        print(f"Cannot connect to {address}: {reason_of(error, host)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return Client(connection, address).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
