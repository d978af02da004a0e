"""The picture on the client's screen, cell by cell.

    python -m tests.long.screen [--quick] [--captures]

Needs pyte (from the dev group) and, where it is installed, tmux. --quick types fewer lines under
fire; --captures prints a 60-column terminal before and after a line arrives, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence

import pyte
from wcwidth import wcswidth, wcwidth

from tests.helpers import suite
from tests.helpers.fake_server import PATIENCE, FakeServer
from tests.helpers.process import CLIENT
from tests.helpers.terminal import CTRL, LEFT, Terminal
from tests.helpers.tmux import Tmux

ROWS = 24
QUICK = False
ARRIVING = [
    "Beth joins.",
    "Beth: hi Tom",
    "Beth: " + "long " * 30,
    "David (to Tom): " + "\u5c71" * 30,
]
WIDE = "\u5c71\u7530\u3055\u3093\u306f\u3044\u308b\uff1f "
TEXTS = {
    "empty": "",
    "short": "send all are you there?",
    "to the margin but one": "x" * 57,
    "exactly to the margin": "x" * 58,
    "one over the margin": "x" * 59,
    "three rows": "send all " + "the quick brown fox " * 7,
    "three rows exactly": "x" * 178,
    "wide": "send all " + WIDE * 2,
    "wide and wrapped": "send all " + WIDE * 8,
    "wide across the margin": "y" * 57 + "\u5c71\u5c71",
    "accents": "send all caf\u00e9 cafe\u0301 n\u0303",
    "accents at the margin": "x" * 57 + "e\u0301e\u0301",
    "other scripts": "send all \u05e9\u05dc\u05d5\u05dd \u041f\u0440\u0438\u0432\u0435\u0442",
    "emoji": "send all \U0001f600\U0001f44d!",
}


Picture = tuple[list[str], tuple[int, int]]  # the rows, and the cursor's row and column


def picture(screen: pyte.Screen) -> Picture:
    return [row.rstrip() for row in screen.display], (screen.cursor.y, screen.cursor.x)


def expected(columns: int, lines: list[str], text: str, cursor: int) -> Picture:
    """Return the picture of a terminal to which all this was simply printed, in its order."""
    above = "".join(f"{broken(line, columns)}\r\n" for line in lines)
    typed = "> " + text
    place = folded(typed, columns)[1][cursor + 2]
    screen = pyte.Screen(columns, ROWS)
    pyte.Stream(screen).feed(above + "\x1b[?7l" + folded(typed, columns)[0])
    last_row = folded(typed, columns)[1][-1][0]
    return picture(screen)[0], (screen.cursor.y - last_row + place[0], place[1])


def broken(line: str, columns: int) -> str:
    """Return a line that arrives in rows, the further ones indented by two columns."""
    rows, used = [""], 0
    for word in re.findall(" +|[!-~]+|[^ -~]", line):  # no test has a word of ASCII and others
        width = wcswidth(word)
        if width > columns - 2 and used < columns:
            width = columns - used  # left to the terminal; what follows begins a new row
        if used + width > columns:
            rows.append("  ")
            used = 2
        if not (word.isspace() and rows[-1] == "  "):
            rows[-1] += word
            used += width
    return "\r\n".join(rows)


def folded(text: str, columns: int) -> tuple[str, list[tuple[int, int]]]:
    """Return text with its row ends written out, and the place of the cursor at each index."""
    rows, row, column = "", 0, 0
    places = []
    for character in text:
        width = wcwidth(character)
        if column + width > columns:
            rows, row, column = rows + "\r\n", row + 1, 0
        places.append((row, column))
        rows, column = rows + character, column + width
    if column == columns:
        rows, row, column = rows + "\r\n", row + 1, 0
    return rows, [*places, (row, column)]


class Emulator:
    """A client on a pseudo-terminal whose picture pyte draws."""

    def __init__(
        self, server: FakeServer, columns: int, history: int = 0, rows: int = ROWS
    ) -> None:
        self.columns = columns
        self.screen = pyte.HistoryScreen(columns, rows, history=history, ratio=0.001)
        self.stream = pyte.Stream(self.screen)
        self.terminal = Terminal(server, columns=columns, environment={"NO_COLOR": "1"})
        self.drawn = 0
        self.greeting = f"Connected to 127.0.0.1:{server.port}. Type help for the commands."
        self.terminal.expect("> ")

    def close(self) -> None:
        self.terminal.close()

    def draw(self) -> None:
        self.stream.feed(self.terminal.output[self.drawn :])
        self.drawn = len(self.terminal.output)

    def cut(self, columns: int) -> None:
        """Make the window narrower as xterm, PuTTY and GNU screen do."""
        self.screen.resize(columns=columns)
        self.screen.cursor.x = min(self.screen.cursor.x, columns - 1)
        self.tell_size(columns)

    def rewrap(self, columns: int) -> None:
        """Make the window narrower as VTE, kitty and tmux do, where every row ended in a line feed.

        The window must be tall enough for what the rows become.
        """
        rows: list[str] = []
        row_of_cursor = 0
        for index, row in enumerate(self.screen.display):
            text = row.rstrip()
            if index == self.screen.cursor.y:
                text = row[: max(len(text), self.screen.cursor.x)]
                row_of_cursor = len(rows) + self.screen.cursor.x // columns
            rows += [text[at : at + columns] for at in range(0, max(len(text), 1), columns)]
        column_of_cursor = self.screen.cursor.x % columns
        self.screen.resize(columns=columns)
        self.screen.reset()
        text = "\r\n".join(rows[: self.screen.lines])
        self.stream.feed(f"\x1b[?7l{text}\x1b[?7h\x1b[{row_of_cursor + 1};{column_of_cursor + 1}H")
        self.tell_size(columns)

    def tell_size(self, columns: int) -> None:
        self.columns = columns
        self.terminal.resize(columns, self.screen.lines)

    def wait_for(self, wanted: Callable[[], bool]) -> bool:
        """Draw what comes until the picture is as wanted; tell whether it got so."""
        deadline = time.monotonic() + PATIENCE / 2
        while not wanted():
            if time.monotonic() > deadline:
                return False
            self.terminal.read(0.05)
            self.draw()
        return True


class ScreenTest(unittest.TestCase):
    def setUp(self) -> None:
        name = self.id().rpartition(".")[2]
        suite.at(name)
        suite.progress(name)


class PictureTest(ScreenTest):
    @contextlib.contextmanager
    def emulator(self, columns: int = 60) -> Iterator[tuple[FakeServer, Emulator]]:
        with FakeServer() as server:
            emulator = Emulator(server, columns)
            try:
                yield server, emulator
            finally:
                emulator.close()

    def assert_picture(self, emulator: Emulator, lines: list[str], text: str, cursor: int) -> None:
        wanted = expected(emulator.columns, [emulator.greeting, *lines], text, cursor)
        emulator.wait_for(lambda: picture(emulator.screen) == wanted)
        self.assertEqual(picture(emulator.screen), wanted)

    def test_half_typed_text_and_cursor_survive_arriving_lines(self) -> None:
        for number, (name, text) in enumerate(TEXTS.items()):
            suite.at(f"{number} of {len(TEXTS)} texts")
            for back in sorted({0, min(3, len(text)), len(text) // 2, len(text)}):
                if text[len(text) - back :][:1] == "\u0301":
                    continue  # between a letter and its accent the cursor never stands
                with self.subTest(name=name, back=back), self.emulator() as (server, emulator):
                    cursor = len(text) - back
                    steps = sum(1 for letter in text[cursor:] if letter not in "\u0301\u0303")
                    emulator.terminal.type(text + LEFT * steps)
                    self.assert_picture(emulator, [], text, cursor)
                    shown: list[str] = []
                    for line in ARRIVING:
                        server.say(line)
                        shown.append(line)
                        self.assert_picture(emulator, shown, text, cursor)
                    server.say(*ARRIVING * 8)  # a burst, and the screen scrolls
                    self.assert_picture(emulator, shown + ARRIVING * 8, text, cursor)

    def test_every_width_of_window(self) -> None:
        text = "send all " + WIDE + "cafe\u0301 " + "x" * 30
        for columns in (200, 80, 41, 40, 39, 10, 4):
            with self.subTest(columns=columns), self.emulator(columns) as (server, emulator):
                text = text[: columns * 5]
                emulator.terminal.type(text)
                server.say("Beth joins.")
                self.assert_picture(emulator, ["Beth joins."], text, len(text))

    def test_typing_in_the_middle_of_a_wrapped_line(self) -> None:
        with self.emulator(40) as (server, emulator):
            text = "send all " + "abc " * 20
            emulator.terminal.type(text + LEFT * 50)
            server.say("Beth joins.")
            cursor = len(text) - 50
            self.assert_picture(emulator, ["Beth joins."], text, cursor)
            emulator.terminal.type("\u5c71!")
            text = text[:cursor] + "\u5c71!" + text[cursor:]
            self.assert_picture(emulator, ["Beth joins."], text, cursor + 2)
            emulator.terminal.type("\x7f" * 2 + CTRL["K"])
            self.assert_picture(emulator, ["Beth joins."], text[:cursor], cursor)

    def test_a_text_taller_than_the_window_is_drawn_right_where_it_shows(self) -> None:
        with self.emulator(40) as (server, emulator):
            text = "".join(f"{number:4}" for number in range(300))
            emulator.terminal.type(text)
            server.say("Beth joins.")
            rows = ["> " + text[:38], *(text[at : at + 40] for at in range(38, len(text), 40))]
            wanted = [row.rstrip() for row in rows[-ROWS:]]
            self.assertTrue(
                emulator.wait_for(lambda: picture(emulator.screen)[0] == wanted),
                str(picture(emulator.screen)),
            )
            emulator.terminal.type(CTRL["U"] + "who")
            emulator.wait_for(lambda: picture(emulator.screen)[0][0] == "> who")
            self.assertEqual(picture(emulator.screen)[0], ["> who"] + [""] * (ROWS - 1))

    def narrow(self, text: str, back: int, widths: list[int], kind: str) -> None:
        """Hold the chat and the prompt to what they must be at each width.

        kind: how the terminal makes its window narrower. All that it may leave of the prompt as it
        was is a row of junk above the prompt as it is.
        """
        chat = [f"Beth: line {number}" for number in range(10)]
        cursor = len(text) - back
        with FakeServer() as server:
            emulator = Emulator(server, widths[0], rows=60)
            try:
                server.say(*chat)
                emulator.terminal.type(text + LEFT * back)
                for columns in widths:
                    if columns != emulator.columns:
                        getattr(emulator, kind)(columns)
                    self.assert_narrowed(emulator, kind, chat, text, cursor)
                    chat.append(f"Beth: at {columns} columns")
                    server.say(chat[-1])
                    self.assert_narrowed(emulator, kind, chat, text, cursor)
            finally:
                emulator.close()

    def assert_narrowed(
        self, emulator: Emulator, kind: str, chat: list[str], text: str, cursor: int
    ) -> None:
        rows, places = folded("> " + text, emulator.columns)
        prompt = rows.split("\r\n")

        def is_right() -> bool:
            shown, (row, column) = picture(emulator.screen)
            first = row - places[cursor + 2][0]
            wanted = [typed.rstrip() for typed in prompt]
            is_below_empty = not any(shown[first + len(prompt) :])
            is_drawn = shown[first : first + len(prompt)] == wanted and is_below_empty
            above = [line for line in shown[:first] if line.startswith("Beth: ")]
            others = [line for line in shown[:first] if not line.startswith("Beth: ")]
            junk = [line for line in others if line and line not in emulator.greeting]
            is_only_junk = all(line in "> " + text for line in junk)
            if kind == "cut":
                is_only_junk = not junk
            return is_drawn and is_only_junk and column == places[cursor + 2][1] and above == chat

        if not emulator.wait_for(is_right):
            self.fail("\n".join([f"{emulator.columns} columns:", *picture(emulator.screen)[0]]))

    def test_a_window_made_narrower_loses_no_line_of_the_chat(self) -> None:
        question = "send Beth see you at the library at noon then?"
        two_rows = "send all " + "the quick brown fox jumps over the lazy dog " * 2
        for kind in ("cut", "rewrap"):
            for text, widths in (
                (question, [80, 40]),
                (two_rows, [80, 70, 60, 50, 40, 30]),
                (two_rows, [80, 30]),
                (question, [80, 50, 49, 48, 47, 46, 30]),
            ):
                for back in (0, 10, len(text) - 3, len(text)):
                    suite.at(f"{kind} to {widths[-1]} columns")
                    with self.subTest(kind=kind, text=text, widths=widths, back=back):
                        self.narrow(text, back, widths, kind)

    def test_no_typed_line_is_lost_or_changed_under_fire(self) -> None:
        result = type_under_fire(50 if QUICK else 500)
        print(result, file=sys.stderr)


def type_under_fire(count: int, lines_per_second: int = 200) -> str:
    """Type lines with edits in the middle while others arrive; check all that is on the screen."""
    lines = [f"send all line {number} caf\u00e9 \u5c71" for number in range(count)]
    lines = ["login Tom Tom11", *lines]
    fired = 0
    is_typing = threading.Event()
    is_typing.set()
    with FakeServer() as server:
        emulator = Emulator(server, 60, history=1_000_000)

        def fire() -> None:
            nonlocal fired
            begin = time.monotonic()
            while is_typing.is_set():
                if fired < (time.monotonic() - begin) * lines_per_second:
                    server.say(f"Beth: fire {fired}")
                    fired += 1
                else:
                    time.sleep(0.001)  # the pace of the fire

        gunner = threading.Thread(target=fire)
        gunner.start()
        begin = time.monotonic()
        try:
            for number, line in enumerate(lines):
                suite.at(f"{number} of {len(lines)} lines typed under fire")
                # Typed wrong and put right: a letter in the middle, one at the end.
                keys = (
                    line[:12]
                    + line[13:]
                    + LEFT * (len(line) - 13)
                    + line[12]
                    + CTRL["E"]
                    + "x\x7f\r"
                )
                for key in re.findall(r"\x1b\[.|.", keys, re.DOTALL):
                    emulator.terminal.type(key)
                    emulator.terminal.read(0.0005)
            heard = [server.hear() for _ in lines]
            seconds = time.monotonic() - begin
            is_typing.clear()
            gunner.join()
            last = f"Beth: fire {fired - 1}"
            emulator.wait_for(lambda: last in picture(emulator.screen)[0])
            rows = all_rows(emulator.screen)
        finally:
            is_typing.clear()
            gunner.join()
            emulator.close()
    assert heard == lines, "a typed line was lost or changed"
    assert [row for row in rows if row.startswith("Beth")] == [
        f"Beth: fire {number}" for number in range(fired)
    ], "an arriving line was lost, changed or shown twice"
    typed = [row for row in rows if not row.startswith(("Beth", "Connected"))]
    assert [row for row in typed if row != ">"] == [f"> {line}" for line in lines], "junk rows"
    assert typed.count(">") == 1, "more than one prompt"
    return f"{count} lines typed in {seconds:.1f} s while {fired} arrived: none lost, none changed"


def all_rows(screen: pyte.HistoryScreen) -> list[str]:
    """Return what has scrolled off and what is on the screen, without empty rows."""
    rows = [
        "".join(row[column].data for column in range(screen.columns)).rstrip()
        for row in screen.history.top
    ]
    return [row for row in [*rows, *picture(screen)[0]] if row]


class Pane(Tmux):
    """A client in a real terminal."""

    def __init__(self, server: FakeServer, columns: int, options: Sequence[str] = ()) -> None:
        client = shlex.join([sys.executable, str(CLIENT), "--port", str(server.port), *options])
        super().__init__(f"TERM=tmux {client}; echo status $?; read end", columns, 12)
        server.accept()
        self.greeting = f"Connected to 127.0.0.1:{server.port}. Type help for the commands."
        self.wait_for(lambda: ">" in self.rows())

    def all_rows(self) -> list[str]:
        """Return what has scrolled off and what is on the screen, without empty rows."""
        rows = self.run("capture-pane", "-p", "-S", "-").split("\n")
        return [row.rstrip() for row in rows if row.strip()]

    def wait_for(self, wanted: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + PATIENCE / 2
        while not wanted():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # tmux tells nobody when a pane has changed
        return True


@unittest.skipUnless(shutil.which("tmux"), "tmux is not installed")
class TmuxTest(ScreenTest):
    @contextlib.contextmanager
    def tmux(self, columns: int = 60) -> Iterator[tuple[FakeServer, Pane]]:
        with FakeServer() as server:
            tmux = Pane(server, columns)
            try:
                yield server, tmux
            finally:
                tmux.close()

    def assert_screen(self, tmux: Pane, rows: list[str], column: int) -> None:
        """Hold everything that was ever on the screen, and the cursor's column, to this."""

        def shown() -> tuple[str, list[str], int]:
            all_rows = tmux.all_rows()
            greeting = "".join(all_rows[: -len(rows)]).replace(" ", "")
            return greeting, all_rows[-len(rows) :], tmux.cursor()[1]

        wanted = (tmux.greeting.replace(" ", ""), rows, column)
        tmux.wait_for(lambda: shown() == wanted)
        self.assertEqual(shown(), wanted)

    def test_half_typed_text_survives_a_resize(self) -> None:
        lines = [f"Beth: line {number}" for number in range(30)]
        typed = "> send all " + "0123456789" * 9
        with self.tmux() as (server, tmux):
            server.say(*lines)
            tmux.type(typed[2:], "Left", "Left")
            for columns in (60, 40, 30, 73, 60, 110, 25):
                with self.subTest(columns=columns):
                    tmux.run("resize-window", "-x", str(columns))
                    rows = [typed[at : at + columns] for at in range(0, len(typed), columns)]
                    self.assert_kept(tmux, lines, rows, (len(typed) - 2) % columns)

    def assert_kept(self, tmux: Pane, lines: list[str], rows: list[str], column: int) -> None:
        """Hold the screen to all lines of the chat and the last rows; junk may stand between."""

        def shown() -> tuple[list[str], list[str], int]:
            all_rows = tmux.all_rows()
            kept = [row for row in all_rows if row in lines]
            return kept, all_rows[-len(rows) :], tmux.cursor()[1]

        tmux.wait_for(lambda: shown() == (lines, rows, column))
        self.assertEqual(shown(), (lines, rows, column))

    def test_a_window_that_is_narrowed_in_quick_steps_loses_no_line(self) -> None:
        lines = [f"Beth: line {number}" for number in range(10)]
        typed = "> " + "y" * 200
        for _ in range(4):
            with self.tmux(80) as (server, tmux):
                server.say(*lines)
                tmux.type(typed[2:])
                tmux.wait_for(lambda tmux=tmux: typed[160:] in tmux.all_rows())  # type: ignore[misc]
                for columns in ("70", "35"):
                    tmux.run("resize-window", "-x", columns)
                server.say("Beth: last")
                self.wait_until_told(tmux, 35)
                tmux.type("z")
                rows = [f"{typed}z"[at : at + 35] for at in range(0, len(typed) + 1, 35)]
                self.assert_kept(tmux, [*lines, "Beth: last"], rows, (len(typed) + 1) % 35)

    def wait_until_told(self, tmux: Pane, columns: int) -> None:
        """tmux tells the program in it of a new size only after a while."""
        with open(tmux.run("display-message", "-p", "#{pane_tty}").strip(), "rb") as terminal:
            tmux.wait_for(lambda: os.get_terminal_size(terminal.fileno()).columns == columns)

    def test_joined_emoji_leave_the_cursor_where_the_text_ends(self) -> None:
        with self.tmux() as (server, tmux):
            tmux.type("send all \U0001f468\u200d\U0001f469\u200d\U0001f467 fam")
            server.say("Beth: hi")
            tmux.wait_for(lambda: tmux.rows()[2].endswith("fam"))
            row, column = tmux.cursor()
            self.assertEqual(row, 2)
            tmux.type("!")
            tmux.wait_for(lambda: tmux.rows()[2].endswith("fam!"))
            self.assertEqual(tmux.cursor(), (2, column + 1))

    def test_a_paste_is_its_lines(self) -> None:
        with self.tmux() as (server, tmux):
            lines = ["login Tom Tom11", "send all one", "send all \u5c71", "send all thr"]
            tmux.run("set-buffer", "\n".join(lines))
            tmux.run("paste-buffer", "-p")
            self.assertEqual([server.hear() for _ in lines[:-1]], lines[:-1])
            self.assert_screen(tmux, [f"> {line}" for line in lines], 14)

    def test_the_server_dies_and_comes_back_under_a_half_typed_line(self) -> None:
        with self.tmux() as (server, tmux):
            tmux.type("half-typed")
            tmux.wait_for(lambda: tmux.rows()[1] == "> half-typed")
            server.die()
            lost = f"Connection to 127.0.0.1:{server.port} lost."
            again = "Press Enter to connect again, Ctrl-D to end."
            self.assert_screen(tmux, [lost, again, "> half-typed"], 12)
            tmux.type("", "Enter")
            server.accept()
            rows = [lost, again, "> half-typed", tmux.greeting, ">"]
            self.assert_screen(tmux, rows, 2)
            server.die()
            self.assert_screen(tmux, [*rows[:-1], lost, again, ">"], 2)
            tmux.type("", "C-d")
            self.assert_screen(tmux, [*rows[:-1], lost, again, ">", "status 1"], 0)


CAPTURES = {
    "Text at the end": ("send all are you there?", 0),
    "Cursor in the middle": ("send all are you there?", 6),
    "Wrapped": ("send all " + "the quick brown fox jumps over the lazy dog, " * 3, 60),
    "Wide": ("send all " + WIDE * 4, 5),
}


def print_captures() -> None:
    for title, (text, back) in CAPTURES.items():
        with captured() as (server, tmux):
            server.say("login confirmed", "Beth joins.")
            tmux.type(text, *["Left"] * back)
            print(f"{title}, before:\n{capture(tmux, text)}")
            server.say("Beth: hello Tom", "David (to Tom): " + "wait for me " * 5)
            shown = capture(tmux, "wait for me " * 5 + text)
            print(f"{title}, after two lines have arrived:\n{shown}")
    with captured() as (server, tmux):
        print(f"The first minute:\n{capture(tmux, tmux.greeting)}")
        tmux.type("hello everybody", "Enter")
        print(f"After an unknown command:\n{capture(tmux, 'To speak: send all Message.')}")
    with captured() as (server, tmux):
        server.say("login confirmed", "Beth: when is it due?")
        tmux.type("send all on Fri")
        print(f"A line half typed:\n{capture(tmux, 'send all on Fri')}")
        server.die()
        print(f"The server is gone:\n{capture(tmux, 'Ctrl-D to end. > send all on Fri')}")
        tmux.type("", "Enter")
        server.accept()
        print(f"It is back, after Enter:\n{capture(tmux, tmux.greeting + ' >')}")
        tmux.type("login Tom Tom11", "Enter")
        server.say("login confirmed")
        tmux.type("", "Up")
        print(f"After a login, and Up:\n{capture(tmux, 'confirmed > send all on Fri')}")
    with captured() as (server, tmux):
        server.say("Beth: I think I have it" + " " * 90 + "David: I give up")
        print(f"Padding:\n{capture(tmux, 'David: I give up >')}")
    with captured("--time") as (server, tmux):
        server.say("Tom (at 09:58): good morning", "Beth joins.", "Beth: hi", "Beth (to Tom): psst")
        print(f"With --time:\n{capture(tmux, 'psst >')}")


@contextlib.contextmanager
def captured(*options: str) -> Iterator[tuple[FakeServer, Pane]]:
    with FakeServer() as server:
        tmux = Pane(server, 60, options)
        try:
            yield server, tmux
        finally:
            tmux.close()


def capture(tmux: Pane, text: str) -> str:
    """Return the screen in a frame, once it shows all of the text, and where the cursor is."""
    squeezed = re.sub(r"\s", "", text)
    tmux.wait_for(lambda: squeezed in re.sub(r"\s", "", "".join(tmux.rows())))
    row, column = tmux.cursor()
    rows = tmux.run("capture-pane", "-p").rstrip("\n").split("\n")
    frame = "+" + "-" * 60 + "+"
    return "\n".join([frame, *rows, frame, f"cursor: row {row + 1}, column {column + 1}", ""])


def main() -> None:
    global QUICK  # noqa: PLW0603
    arguments = sys.argv[1:]
    if "--captures" in arguments:
        print_captures()
        return
    QUICK = "--quick" in arguments
    with suite.news("the picture on the screen"):
        unittest.main(argv=[sys.argv[0]] + [a for a in arguments if a != "--quick"], verbosity=0)


if __name__ == "__main__":
    main()
