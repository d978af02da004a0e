#!/usr/bin/env python3
"""The command-line client of a small chat room.

    python client.py [--host 127.0.0.1] [--port 14850]

Type commands at the prompt; `help` lists them. What others say appears above the line being
typed, which stays as it was. Each command is checked here first, and a wrong one is refused in the
server's own words and never sent. Standard input may be a pipe:

    printf 'login Tom Tom11\\nwho\\n' | python client.py

Exit status: 0 after logout or the end of input; 1 when the client cannot connect or the connection
is lost; 2 for wrong options.

Two threads. The main one reads a line, checks it and sends it; the receiver shows what arrives.
They meet in the Screen, which owns the terminal. Needs only this file and Python 3.11 or later.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import signal
import socket
import sys
import threading
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
SLOWEST_PACE = 5  # ...and more: lines a second that it reads at least, when a flood slowed it down

HELP = """\
login UserID Password     join the room; without a password, it is asked for unseen
newuser UserID Password   create an account; UserID 3 to 32 characters, password 4 to 8
send all Message          say something to everyone, 1 to 256 characters
send UserID Message       say something to one user, 1 to 256 characters
who                       list who is in the room
logout                    leave (also Ctrl-D, or Ctrl-C on an empty line)
help                      show this list"""


# --------------------------------------------------------------------------------------------------
# Grammar: the same checks as in server.py, word for word, so that nothing wrong is ever sent.
# tests/cases.py holds both files to one table.
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


def check(line: bytes) -> str:
    """Return the command word of a line in lower case, or "" for an empty line.

    line: any bytes, without the LF; a CR at its end is dropped.
    Raises Denied with the server's reply for whatever is not a command to the letter.
    """
    line = line.removesuffix(b"\r")
    if len(line) > MAX_LINE:
        raise Denied(f"Denied. Line longer than {MAX_LINE} bytes.")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Denied("Denied. Not valid UTF-8.") from None
    word, _, rest = text.lstrip(" ").partition(" ")
    command = word.lower()
    match command:
        case "":
            return command
        case "login" | "newuser":
            check_account(rest, command)
            return command
        case "send":
            check_send(rest)
            return command
        case "who" | "logout":
            if rest.strip(" "):
                raise Denied(f"Usage: {USAGE[command]}")
            return command
    shown = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", word[:32])
    raise Denied(f'Denied. Unknown command "{shown}". Commands: {", ".join(USAGE)}.')


def check_account(rest: str, command: str) -> None:
    words = [word for word in rest.split(" ") if word]
    if len(words) != 2:
        raise Denied(f"Usage: {USAGE[command]}")
    check_userid(words[0])
    check_password(words[1])


def check_send(rest: str) -> None:
    recipient, space, message = rest.lstrip(" ").partition(" ")
    if not space:
        raise Denied(f"Usage: {USAGE['send']}")
    if recipient != "all":
        check_userid(recipient)
    check_message(message)


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
    """Return a message of 1 to 256 code points, tabs made spaces, ends trimmed, or raise Denied."""
    message = text.replace("\t", " ").strip(" ")
    if not 1 <= len(message) <= 256:
        raise Denied("Denied. Message must be 1 to 256 characters.")
    if UNSAFE.search(message):
        raise Denied("Denied. Message must be printable text.")
    return message


# --------------------------------------------------------------------------------------------------
# Screen: the one owner of standard output. Whatever is shown goes through it, each time in one
# write: take the prompt away, print, draw the prompt again. It draws from what it knows, never from
# what may be on the terminal.
# --------------------------------------------------------------------------------------------------

DIM, BOLD, RED, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[0m"
WRAP_OFF, WRAP_ON = "\x1b[?7l", "\x1b[?7h"
PASTE_ON, PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
CLEAR_SCREEN, CLEAR_ROW, CLEAR_BELOW = "\x1b[H\x1b[2J", "\x1b[K", "\x1b[J"
# Patterns are compiled when first needed: the prompt is there a few milliseconds earlier.
HARMFUL = f"{UNSAFE.pattern}|[\ud800-\udfff]"
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

    def rows_in(self, columns: int) -> tuple[int, int]:
        """Return how many rows there are, and how many above the cursor, in a window of this width.

        Terminals break a row that has become too long for a narrower window.
        """
        heights = [max(1, -(-width // columns)) for width in self.widths]
        above = sum(heights[: self.cursor_row]) + self.cursor_column // columns
        return sum(heights), above

    def keep_rows(self, height: int) -> None:
        """Drop the rows that a window of this height cannot show, but never the cursor's."""
        first = max(0, self.cursor_row - height + 1)
        self.rows = self.rows[first : first + height]
        self.widths = self.widths[first : first + height]
        self.cursor_row -= first


def to_column(column: int) -> str:
    return f"\r\x1b[{column}C" if column else "\r"


class Screen:
    """Standard output. Any thread may call any method but the private ones.

    editing: it is a terminal that understands escape sequences, and the Editor draws on it;
    otherwise lines and a bare prompt are all that is ever written.
    Every method raises OutputClosed when nothing can be written any more.
    """

    def __init__(self, editing: bool, coloured: bool) -> None:
        self.editing = editing
        self.coloured = coloured
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
            body = "".join(self._dress(line) for line in lines)
            self._write(self._erase() + body + self._draw())

    def edit(self, prompt: str, text: str = "", cursor: int = 0) -> None:
        """Draw prompt and text on the last rows; cursor is an index into text."""
        with self.lock:
            erase = self._erase()
            self.prompt, self.text, self.cursor = prompt, text, cursor
            self._write(erase + self._draw())

    def finish(self, prompt: str, text: str, end: str = "\n") -> None:
        """Leave prompt and text behind as an ordinary line, and have no prompt any more."""
        with self.lock:
            line = self._erase() + visible(prompt + text) if self.editing else ""
            self.prompt = self.text = ""
            self._write(line + end)

    def clear(self) -> None:
        with self.lock:
            self.layout = None
            self._write(CLEAR_SCREEN + self._draw())

    def close(self) -> None:
        """Leave what there is of a prompt, and the cursor below it."""
        if self.prompt:
            self.finish(self.prompt, self.text)

    def control(self, sequence: str) -> None:
        with self.lock:
            self._write(sequence)

    def _dress(self, line: str) -> str:
        colour = colour_of(line) if self.coloured else ""
        return f"{colour}{visible(line)}{PLAIN if colour else ''}\n"

    def _erase(self) -> str:
        if not self.prompt:
            return ""
        if not self.editing:
            return "\n"  # what was typed so far stays where it is, and in the terminal's hands
        if not self.layout:
            return ""
        rows, above = self.layout.rows_in(self._window()[0])
        # Not CLEAR_BELOW alone: in the top left corner, tmux takes that for the end of a screenful
        # and moves it to the scrollback.
        clear_others = f"\x1b[B{CLEAR_BELOW}\x1b[A" if rows > 1 else ""
        return "\r" + (f"\x1b[{above}A" if above else "") + CLEAR_ROW + clear_others

    def _draw(self) -> str:
        if not (self.prompt and self.editing):
            return self.prompt
        columns, height = self._window()
        position = len(self.prompt) + self.cursor
        self.layout = layout = Layout(self.prompt + self.text, position, columns)
        layout.keep_rows(height)
        up = len(layout.rows) - 1 - layout.cursor_row
        move = (f"\x1b[{up}A" if up else "") + to_column(layout.cursor_column)
        # Row ends are ours, not the terminal's, so that its idea of them cannot differ.
        return WRAP_OFF + "\n".join(layout.rows) + WRAP_ON + move

    def _window(self) -> tuple[int, int]:
        try:
            columns, height = os.get_terminal_size(1)
        except OSError:
            columns, height = 0, 0
        return columns or 80, height or 24  # a new pseudo-terminal says 0 by 0

    def _write(self, text: str) -> None:
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
# Bell: what wakes the main thread out of its wait for the keyboard. Python's signal handling rings
# it with the signal's number, the receiver with GONE. So signals are only noted when they come, and
# obeyed where the main thread looks: nothing is interrupted half way.
# --------------------------------------------------------------------------------------------------

GONE = 0  # not a signal's number


class Gone(Exception):
    """The receiver has ended: the connection, or whoever read standard output, is gone."""


class Bell:
    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)

    def ring_for_signals(self, *numbers: signal.Signals) -> None:
        """Note these signals instead of doing what they would do."""
        signal.set_wakeup_fd(self.far.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            set_handler(number, lambda _number, _frame: None)

    def ring(self) -> None:
        self.far.send(bytes([GONE]))

    def wait(self, keyboard: bool, timeout: float | None = None) -> tuple[bool, bytes]:
        """Wait for the bell, for `keyboard` too if asked, for `timeout` seconds or for ever.

        Return whether standard input can be read, and the numbers that rang.
        """
        watched = [self.near.fileno()] + [0] * keyboard
        ready = select.select(watched, [], [], timeout)[0]
        rings = self.near.recv(4096) if self.near.fileno() in ready else b""
        return 0 in ready, rings


# --------------------------------------------------------------------------------------------------
# Keyboard: bytes in, keys out. A key is one character, which is text, or a longer name, which is
# something to do. Pasted control characters are text.
# --------------------------------------------------------------------------------------------------

KEY_CODES = {
    "home": ("\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"),
    "end": ("\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"),
    "left": ("\x02", "\x1b[D", "\x1bOD"),
    "right": ("\x06", "\x1b[C", "\x1bOC"),
    "word left": ("\x1bb", "\x1b[1;5D", "\x1b[1;3D"),
    "word right": ("\x1bf", "\x1b[1;5C", "\x1b[1;3C"),
    "older": ("\x10", "\x1b[A", "\x1bOA"),
    "newer": ("\x0e", "\x1b[B", "\x1bOB"),
    "erase": ("\x08", "\x7f"),
    "delete": ("\x1b[3~",),
    "delete or end": ("\x04",),
    "kill left": ("\x15",),
    "kill right": ("\x0b",),
    "kill word": ("\x17",),
    "yank": ("\x19",),
    "complete": ("\t",),
    "search": ("\x12",),
    "cancel": ("\x07",),
    "clear": ("\x0c",),
    "interrupt": ("\x03",),
    "suspend": ("\x1a",),
}
KEYS = {code: key for key, codes in KEY_CODES.items() for code in codes}
NO_KEYS_FOR_A_PASSWORD = ("older", "newer", "search", "complete")
SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|[bf])"
UNFINISHED = r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z"
INTERRUPT = b"\x03"
PASTE_BEGIN, PASTE_END = "\x1b[200~", "\x1b[201~"


class Keyboard:
    def __init__(self) -> None:
        # Bytes that are not UTF-8 become lone surrogates, and the same bytes again when encoded.
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.rest = ""  # the beginning of an escape sequence
        self.pasting = False
        self.after_return = False

    def keys(self, data: bytes) -> list[str]:
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

    def key_at(self, text: str, position: int) -> tuple[str, int]:
        """Return the key at a position ("" for one without a meaning) and its length, 0 to wait."""
        character = text[position]
        is_line_feed_of_return = character == "\n" and self.after_return
        self.after_return = character == "\r"
        if is_line_feed_of_return:
            return "", 1
        if character in "\r\n":
            return "enter", 1
        if character == "\x1b":
            return self.escape_at(text, position)
        if self.pasting or not (character < " " or character == "\x7f"):
            return character, 1
        return KEYS.get(character, ""), 1

    def escape_at(self, text: str, position: int) -> tuple[str, int]:
        if self.pasting:
            if text.startswith(PASTE_END, position):
                self.pasting = False
                return "", len(PASTE_END)
            is_unfinished = PASTE_END.startswith(text[position : position + len(PASTE_END)])
            return ("", 0) if is_unfinished else ("\x1b", 1)
        found = re.compile(SEQUENCE).match(text, position)
        if found:
            self.pasting = found[0] == PASTE_BEGIN
            return KEYS.get(found[0], ""), len(found[0])
        # An Escape that begins nothing is dropped alone: what follows may be a line's first letter.
        return "", 0 if re.compile(UNFINISHED).match(text, position) else 1


# --------------------------------------------------------------------------------------------------
# Readers: where typed lines come from. The Editor at a terminal; the LineReader from a pipe, a
# file, or a terminal without escape sequences, which then edits its lines itself.
# --------------------------------------------------------------------------------------------------


class People:
    """The users known to be in the room, for completion.

    The receiver replaces `names` whole, so the main thread always sees one consistent set.
    """

    def __init__(self) -> None:
        self.names: frozenset[str] = frozenset()
        self.own_name = ""  # of the last login that was sent

    def learn(self, line: str) -> None:
        """Take in what a line from the server tells about who is there."""
        if line == "login confirmed":
            self.names |= {self.own_name}
        elif moved := re.fullmatch(CAME_OR_WENT, line):
            self.names = self.names - {moved[1]} | ({moved[1]} if moved[2] == "joins" else set())
        elif re.fullmatch(WHO_REPLY, line):
            self.names = frozenset(line.split(", "))


class Editor:
    """The line being typed at a terminal, its history and its keys.

    The terminal is raw from take_terminal to give_terminal_back: between two lines too, or it would
    echo what is typed there. Ctrl-C and Ctrl-Z are keys like all others: as signals they would
    overtake the lines typed before them, and the kernel would throw those away.
    """

    def __init__(self, screen: Screen, bell: Bell, people: People) -> None:
        self.screen = screen
        self.bell = bell
        self.people = people
        self.keyboard = Keyboard()
        self.waiting: deque[str] = deque()  # keys typed ahead
        self.cooked = termios.tcgetattr(0)
        self.prompt = ""
        self.hidden = False
        self.text = ""
        self.cursor = 0
        self.history: list[str] = []
        self.place = 0  # in the history; its length for the line that is no part of it yet
        self.draft = ""  # that line, while the history is being looked through
        self.query: str | None = None  # what Ctrl-R looks for, while it does
        self.killed = ""
        self.last_key = ""
        self.actions = {
            "home": self.home,
            "end": self.end,
            "left": self.left,
            "right": self.right,
            "word left": self.word_left,
            "word right": self.word_right,
            "older": self.older,
            "newer": self.newer,
            "erase": self.erase,
            "delete": self.delete,
            "delete or end": self.delete,
            "kill left": self.kill_left,
            "kill right": self.kill_right,
            "kill word": self.kill_word,
            "yank": self.yank,
            "complete": self.complete,
            "search": self.search,
            "clear": self.screen.clear,
            "suspend": self.suspend,
        }

    def take_terminal(self) -> None:
        raw = [*self.cooked[:6], [*self.cooked[6]]]
        raw[0] &= ~(termios.IXON | termios.ICRNL)
        raw[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN | termios.ISIG)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        set_terminal(raw)
        self.screen.control(PASTE_ON)

    def give_terminal_back(self) -> None:
        # The settings first: the screen may be gone together with its terminal.
        set_terminal(self.cooked)
        with contextlib.suppress(OutputClosed):
            self.screen.control(PASTE_OFF)

    def read_line(self, prompt: str = PROMPT, hidden: bool = False) -> bytes | None:
        """Return the next line, without its end; None for Ctrl-D or Ctrl-C on an empty line.

        hidden: the text is a password: not drawn, not kept, and any Ctrl-C gives None.
        Raises Gone.
        """
        self.prompt, self.hidden = prompt, hidden
        self.start_line()
        while True:
            while self.waiting:
                key = self.waiting.popleft()
                if self.query is not None and self.is_for_search(key):
                    continue
                if key == "enter":
                    return self.end_line().encode("utf-8", "surrogateescape")
                if key == "delete or end" and not self.text:
                    self.end_line()
                    return None
                if key == "hang-up" or (key == "interrupt" and self.is_interrupt_final()):
                    return None
                self.press(key)
            self.draw()
            self.wait_for_keys()

    def start_line(self) -> None:
        self.text, self.cursor = "", 0
        self.place, self.draft = len(self.history), ""

    def end_line(self, mark: str = "") -> str:
        """Leave the line on the screen as it is; keep it in the history if it holds no password."""
        text = self.text
        self.screen.finish(self.prompt, mark if self.hidden else text + mark)
        holds_password = self.hidden or is_with_password(text)
        is_new = text.strip() and text not in self.history[-1:]
        if is_new and not mark and not holds_password:
            self.history = [*self.history, text][-MAX_HISTORY:]
        return text

    def is_interrupt_final(self) -> bool:
        """Drop the half-typed line; tell whether there was nothing to drop."""
        is_final = self.hidden or not self.text
        self.end_line("^C")
        self.start_line()
        return is_final

    def wait_for_keys(self) -> None:
        can_read, rings = self.bell.wait(keyboard=True)
        if GONE in rings:
            raise Gone
        if signal.SIGCONT in rings:  # after a stop, the shell may have left it in any state
            self.take_terminal()
        if signal.SIGINT in rings:
            self.waiting.append("interrupt")
        if can_read:
            data = read_some()
            self.waiting.extend(self.keyboard.keys(data) if data else ["hang-up"])
        # A new window size needs nothing but the next draw.

    def draw(self) -> None:
        if self.hidden:
            self.screen.edit(self.prompt)
        elif self.query is not None:
            self.screen.edit(f"(search '{self.query}') ", self.text, self.cursor)
        else:
            self.screen.edit(self.prompt, self.text, self.cursor)

    def press(self, key: str) -> None:
        if len(key) == 1:
            self.insert(key)
        elif key in self.actions and not (self.hidden and key in NO_KEYS_FOR_A_PASSWORD):
            self.actions[key]()
        self.last_key = key

    def insert(self, text: str) -> None:
        # A line over the limit is refused anyway; what goes further need not be kept.
        text = text[: MAX_LINE + 1 - len(self.text)]
        self.text = self.text[: self.cursor] + text + self.text[self.cursor :]
        self.cursor += len(text)

    def cut(self, start: int, end: int) -> str:
        removed = self.text[start:end]
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start
        return removed

    # Moving. A letter and the marks drawn onto it are one step.

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

    def home(self) -> None:
        self.cursor = 0

    def end(self) -> None:
        self.cursor = len(self.text)

    def left(self) -> None:
        self.cursor = self.step_left()

    def right(self) -> None:
        self.cursor = self.step_right()

    def word_left(self) -> None:
        before = re.search(r"\w*\W*\Z", self.text[: self.cursor])
        self.cursor = before.start() if before else 0

    def word_right(self) -> None:
        after = re.compile(r"\W*\w*").match(self.text, self.cursor)
        self.cursor = after.end() if after else len(self.text)

    # Deleting.

    def erase(self) -> None:
        self.cut(self.step_left(), self.cursor)

    def delete(self) -> None:
        self.cut(self.cursor, self.step_right())

    def kill(self, start: int, end: int) -> None:
        removed = self.cut(start, end)
        if not self.hidden:  # or Ctrl-Y would show a password at the next prompt
            self.killed = removed

    def kill_left(self) -> None:
        self.kill(0, self.cursor)

    def kill_right(self) -> None:
        self.kill(self.cursor, len(self.text))

    def kill_word(self) -> None:
        before = self.text[: self.cursor].rstrip(" ")
        self.kill(before.rfind(" ") + 1, self.cursor)

    def yank(self) -> None:
        self.insert(self.killed)

    # The history.

    def older(self) -> None:
        if self.place:
            self.go_to(self.place - 1)

    def newer(self) -> None:
        if self.place < len(self.history):
            self.go_to(self.place + 1)

    def go_to(self, place: int) -> None:
        if self.place == len(self.history):
            self.draft = self.text
        self.place = place
        self.text = self.history[place] if place < len(self.history) else self.draft
        self.cursor = len(self.text)

    def search(self) -> None:
        self.query = ""

    def is_for_search(self, key: str) -> bool:
        """Let Ctrl-R's search have a key; any key that means nothing to it ends the search."""
        query = self.query or ""
        if key in ("cancel", "interrupt"):
            self.go_to(len(self.history))
            self.query = None
        elif key == "search":
            self.find(query, self.place - 1)
        elif key == "erase":
            self.query = query[:-1]
            self.find(query[:-1], len(self.history) - 1)
        elif len(key) == 1:
            self.query = query + key
            self.find(query + key, min(self.place, len(self.history) - 1))
        else:
            self.query = None
            return False
        return True

    def find(self, query: str, newest: int) -> None:
        """Go to the newest line that holds the query, from `newest` back; stay if there is none."""
        for place in range(newest, -1, -1):
            if query in self.history[place]:
                self.go_to(place)
                self.cursor = self.text.index(query)
                return

    # Completing.

    def complete(self) -> None:
        head = self.text[: self.cursor].lstrip(" ")
        if re.fullmatch(r"send +[^ ]*", head, re.IGNORECASE):
            known = sorted(self.people.names | {"all"})
        elif " " not in head:
            known = [*USAGE, "help"]
        else:
            return
        word = head.rpartition(" ")[2]
        found = [name for name in known if name.startswith(word)]
        if not found:
            return
        common = found[0]
        while not all(name.startswith(common) for name in found):
            common = common[:-1]
        if len(found) == 1:
            common += " "
        if common == word and self.last_key == "complete":
            self.screen.show(["  ".join(found)])
        self.insert(common[len(word) :])

    def suspend(self) -> None:
        """Stop as Ctrl-Z should, with a sane terminal meanwhile; go on where it was after `fg`."""
        self.screen.finish(self.prompt, "" if self.hidden else self.text)
        self.give_terminal_back()
        os.kill(0, signal.SIGTSTP)  # the whole job, as the kernel would
        self.take_terminal()


def is_with_password(text: str) -> bool:
    words = text.split()
    return len(words) > 2 and words[0].lower() in ("login", "newuser")


def set_terminal(settings: list[int | list[bytes | int]]) -> None:
    with contextlib.suppress(termios.error):  # hung up: reading will tell
        termios.tcsetattr(0, termios.TCSANOW, settings)


def read_some() -> bytes:
    """Read what standard input has, b"" at its end."""
    try:
        return os.read(0, 65536)
    except OSError:  # a terminal that was hung up
        return b""


class LineReader:
    """Lines from a pipe, a file or a plain terminal, which echoes and edits them itself.

    Of a line over MAX_LINE only so much is kept that the check will refuse it.
    """

    def __init__(self, screen: Screen, bell: Bell) -> None:
        self.screen = screen
        self.bell = bell
        self.is_terminal = os.isatty(0)
        self.has_prompt = self.is_terminal and os.isatty(1)
        self.cooked = termios.tcgetattr(0) if self.is_terminal and HAS_TERMIOS else None
        self.source = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115
        self.rest = b""  # the beginning of a line
        self.lines: deque[bytes | None] = deque()  # None for the end, or for Ctrl-C
        self.prompt = ""
        self.hidden = False

    def take_terminal(self) -> None:
        """Have Ctrl-C end a line as Enter does: else one cannot tell whether anything was typed."""
        if self.cooked is None:
            return
        settings = [*self.cooked[:6], [*self.cooked[6]]]
        settings[6][termios.VINTR], settings[6][termios.VEOL] = b"\0", INTERRUPT
        settings[3] |= termios.ECHO | termios.ECHONL
        if self.hidden:
            settings[3] &= ~termios.ECHO
        set_terminal(settings)

    def give_terminal_back(self) -> None:
        if self.cooked is not None:
            set_terminal(self.cooked)

    def read_line(self, prompt: str = PROMPT, hidden: bool = False) -> bytes | None:
        """Return the next line, without its end; None at the end of input.

        hidden: the line is a password: not echoed, and any Ctrl-C gives None.
        Raises Gone.
        """
        if hidden and not HAS_TERMIOS:
            return ask_password(prompt)
        self.prompt, self.hidden = prompt, hidden
        self.take_terminal()
        self.show_prompt()
        while not self.lines:
            self.read_more()
        line = self.lines.popleft()
        if self.has_prompt:  # the terminal has echoed the end of a line, and nothing else
            self.screen.finish("", "", end="\n" if line is None else "")
        return line

    def show_prompt(self) -> None:
        if self.has_prompt:
            self.screen.edit(self.prompt)

    def read_more(self) -> None:
        """Wait for more of standard input, or for the bell."""
        can_read = True
        if HAS_TERMIOS:
            can_read, rings = self.bell.wait(keyboard=True)
            if GONE in rings:
                raise Gone
            if signal.SIGINT in rings:
                self.lines.append(None)
            if signal.SIGCONT in rings:  # after a stop, the shell may have left it in any state
                self.take_terminal()
                self.show_prompt()
        data = self.read_source() if can_read else None
        if data is not None:
            self.take(data)

    def read_source(self) -> bytes | None:
        """Return what there is, b"" at the end, None for nothing yet."""
        try:
            return self.source.read(65536)
        except OSError:  # a terminal that was hung up
            return b""

    def take(self, data: bytes) -> None:
        if self.is_terminal and data.endswith(INTERRUPT):
            self.drop_line(self.rest + data)
        elif data:
            *lines, rest = (self.rest + data).split(b"\n")
            self.lines.extend(lines)
            self.rest = rest[: MAX_LINE + 2]
        else:
            self.lines.extend([self.rest, None] if self.rest else [None])
            self.rest = b""

    def drop_line(self, line: bytes) -> None:
        self.rest = b""
        if self.hidden or line == INTERRUPT:
            self.lines.append(None)
        self.show_prompt()


def ask_password(prompt: str) -> bytes | None:
    import getpass  # only where there is no termios

    try:
        return getpass.getpass(prompt).encode("utf-8", "surrogateescape")
    except (EOFError, KeyboardInterrupt):
        return None


# --------------------------------------------------------------------------------------------------
# Client: one connection, from the first prompt to the exit status. The receiver runs in a thread of
# its own; all else in the main thread.
# --------------------------------------------------------------------------------------------------


class Client:
    """address: where `connection` leads, as the user should read it."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self.connection = connection
        self.address = address
        self.is_terminal = os.isatty(0)
        editing = can_edit()
        self.screen = Screen(editing, coloured=editing and not os.environ.get("NO_COLOR"))
        self.bell = Bell()
        self.people = People()
        self.reader: Editor | LineReader = (
            Editor(self.screen, self.bell, self.people)
            if editing
            else LineReader(self.screen, self.bell)
        )
        self.lines_sent = 0
        self.is_leaving = False
        self.is_over = False  # set by the receiver as it ends,
        self.failure: Exception | None = None  # with what ended it, if not the server's close

    def run(self) -> int:
        """Serve the user until logout, the end of input or of the connection; return the status."""
        self.handle_signals()
        try:
            self.reader.take_terminal()
            threading.Thread(target=self.receive, name="receiver", daemon=True).start()
            with contextlib.suppress(KeyboardInterrupt):  # only comes where termios is missing
                self.converse()
            self.leave()
        except (Gone, OutputClosed) as error:
            self.failure = self.failure or error
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            self.reader.give_terminal_back()
            with contextlib.suppress(OutputClosed):
                self.screen.close()
        if self.failure:
            self.report_failure()
        return 1 if self.failure else 0

    def handle_signals(self) -> None:
        if self.is_terminal and HAS_TERMIOS:
            self.bell.ring_for_signals(signal.SIGINT, signal.SIGCONT, signal.SIGWINCH)
            set_handler(signal.SIGTERM, end_by_signal)
            set_handler(signal.SIGHUP, end_by_signal)
        elif not self.is_terminal:
            set_handler(signal.SIGINT, signal.SIG_DFL)  # end as any program in a pipe does

    def converse(self) -> None:
        while (line := self.reader.read_line()) is not None:
            try:
                if not self.obey(line):
                    return
            except Denied as refusal:
                self.screen.show([str(refusal)])

    def obey(self, line: bytes) -> bool:
        """Do what a typed line asks for; tell whether to go on. Raises Denied."""
        if line.strip(b" \r").lower() == b"help":
            self.screen.show(HELP.split("\n"))
            return True
        if self.is_terminal and is_without_password(line):
            line = self.ask_for_password(line)
        command = check(line)
        if command == "logout":
            return False
        if command == "login":
            self.people.own_name = check_userid(line.decode().split()[1])
        if command:
            self.send(line)
        return True

    def ask_for_password(self, line: bytes) -> bytes:
        """Return the line with the password added, or b"" if the question was cancelled."""
        check_userid(line.split()[1].decode("utf-8", "replace"))
        password = self.reader.read_line("Password: ", hidden=True)
        if password is None:
            return b""
        check_password(password.decode("utf-8", "surrogateescape"))
        return line.rstrip() + b" " + password

    def send(self, line: bytes) -> None:
        self.lines_sent += 1
        # If it fails, the connection is gone, and the receiver tells once it has shown the rest.
        with contextlib.suppress(OSError):
            self.connection.sendall(line + b"\n")

    def leave(self) -> None:
        """Log out, and wait until all that is owed has been shown. Raises Gone if it is too late.

        A script waits as long as it takes. At a terminal there is an end to it, and Ctrl-C.
        """
        if self.is_over:
            raise Gone
        self.is_leaving = True
        self.reader.give_terminal_back()  # Ctrl-C is a signal again
        self.send(b"logout")
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        patience = LOGOUT_WAIT + self.lines_sent / SLOWEST_PACE if self.is_terminal else None
        while rings := self.bell.wait(keyboard=False, timeout=patience)[1]:
            if GONE in rings or signal.SIGINT in rings:
                return

    def receive(self) -> None:
        """Show what arrives until the connection ends, then ring the bell. A thread of its own."""
        if hasattr(signal, "pthread_sigmask"):  # signals are the main thread's business
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for lines in batches(self.connection):
                for line in lines:
                    self.people.learn(line)
                self.screen.show(lines)
        except (OSError, OutputClosed) as error:
            self.failure = error
        finally:
            self.is_over = True
            with contextlib.suppress(OSError):  # the other side may have done so
                self.connection.shutdown(socket.SHUT_RDWR)  # or the main thread may send for ever
            if not HAS_TERMIOS and not self.is_leaving:
                self.exit_at_once()
            self.bell.ring()

    def exit_at_once(self) -> None:
        """End the process from the receiver.

        Without termios the main thread sits in a read that nothing can interrupt. The terminal was
        never changed, and no buffer but standard error's holds anything.
        """
        self.failure = self.failure or Gone()
        self.report_failure()
        sys.stderr.flush()
        os._exit(1)

    def report_failure(self) -> None:
        if not isinstance(self.failure, OutputClosed):
            print(f"Connection to {self.address} lost.", file=sys.stderr)


def batches(connection: socket.socket) -> Iterator[list[str]]:
    """Yield the lines that arrive, all that are there at a time.

    Invalid UTF-8 is replaced; a line over LONGEST_SHOWN comes in pieces.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while data := connection.recv(65536):
        *lines, rest = (rest + decoder.decode(data)).split("\n")
        while len(rest) > LONGEST_SHOWN:
            lines.append(rest[:LONGEST_SHOWN])
            rest = rest[LONGEST_SHOWN:]
        if lines:
            yield [line.removesuffix("\r") for line in lines]
    rest += decoder.decode(b"", True)
    if rest:
        yield [rest]


def can_edit() -> bool:
    is_terminal = os.isatty(0) and os.isatty(1)
    return is_terminal and HAS_TERMIOS and os.environ.get("TERM", "") not in ("", "dumb")


def is_without_password(line: bytes) -> bool:
    words = [word for word in line.lower().split(b" ") if word]
    return len(words) == 2 and words[0] in (b"login", b"newuser")


def set_handler(number: int, handler: Callable[[int, object], None] | signal.Handlers) -> None:
    if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or behind a script's `&`
        signal.signal(number, handler)


def end_by_signal(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)  # gives the terminal back on its way


def connect(host: str, port: int) -> socket.socket:
    """Raises OSError or UnicodeError (a name that cannot be one)."""
    connection = socket.create_connection((host, port), CONNECT_WAIT)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


def open_missing_streams() -> None:
    """Give closed standard streams (`<&-`) a descriptor, or the connection would take its place."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)


def port(text: str) -> int:
    """Raises ValueError; argparse then calls it an invalid port, by this function's name."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise ValueError
    return int(text)


def parse_options(arguments: list[str]) -> tuple[str, int]:
    """Return host and port; exits with status 2 for wrong options."""
    if not arguments:
        return HOST, PORT  # as mostly: without the parser, the prompt is there a tenth sooner
    import argparse

    parser = argparse.ArgumentParser(description="The client of a small chat room.")
    parser.add_argument("--host", default=HOST, help="of the server (default: %(default)s)")
    parser.add_argument(
        "--port", type=port, default=PORT, help="of the server (default: %(default)s)"
    )
    parser.add_argument("--version", action="version", version=f"client.py {VERSION}")
    options = parser.parse_args(arguments)
    return options.host, options.port


def main(arguments: list[str]) -> int:
    """Run the client; return the exit status."""
    host, number = parse_options(arguments)
    open_missing_streams()
    address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    try:
        connection = connect(host, number)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        print(
            f"Cannot connect to {address}: {reason}. Start a server there: python server.py",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return Client(connection, address).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
