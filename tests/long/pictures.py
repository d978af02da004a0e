"""README's pictures: do they still show what the programs show, and what was measured?

    python -m tests.long.pictures [--quick] [NAME ...]
    python -m tests.long.pictures --make

The first compares, the second makes them anew, in .github/: each light and dark. Nothing in them is
drawn by hand. The session is three shells on pseudo-terminals, in which the commands are typed that
stand there; pyte keeps what the programs make of the screens, cell by cell, with its colours. The
chart shows the figures in growth.json, which the bench writes:

    python -m tests.bench --only growth --json .github/growth.json

Needs pyte and Linux. The session uses the port that README tells of; if somebody else has it, all
is done in a network namespace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fcntl
import json
import math
import os
import pty
import select
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import pyte

from tests.bench.contenders import C_LOOP, OURS
from tests.bench.measurements import growth
from tests.bench.rounds import QUICK, Bench
from tests.bench.table import Size
from tests.helpers import suite
from tests.helpers.process import (
    CLIENT,
    PATIENCE,
    ROOT,
    SERVER,
    child_environment,
    shipped_users,
    temporary_folder,
)
from tests.helpers.talker import Talker

FOLDER = ROOT / ".github"
FIGURES = FOLDER / "growth.json"
PORT = 14850  # the default of both programs
FAR = 3.0  # times: two hours of one shared machine were seen to put two ratios 2.4 times apart


@dataclass(frozen=True)
class Scheme:
    """The colours of GitHub's own page, each of which can be read on the ground it stands on."""

    name: str
    ground: str
    edge: str
    text: str
    dim: str
    red: str
    ours: str
    loop: str


LIGHT = Scheme("light", "#f6f8fa", "#d1d9e0", "#1f2328", "#59636e", "#d1242f", "#0969da", "#9a6700")
DARK = Scheme("dark", "#161b22", "#3d444d", "#f0f6fc", "#9198a1", "#ff7b72", "#58a6ff", "#e3b341")
SCHEMES = (LIGHT, DARK)


# --------------------------------------------------------------------------------------------------
# The session: three shells, and what is typed into them.
# --------------------------------------------------------------------------------------------------


class Screen(pyte.Screen):
    """pyte knows no dim text, so its italics, which nobody uses here, stand for it."""

    def select_graphic_rendition(self, *attributes: int, **options: bool) -> None:
        dim_as_italics = [3 if attribute == 2 else attribute for attribute in attributes]
        super().select_graphic_rendition(*dim_as_italics, **options)


class Shell:
    """A shell on a pseudo-terminal, and the picture that is on it."""

    def __init__(self, title: str, folder: Path, columns: int, rows: int) -> None:
        self.title = title
        self.screen = Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        path = f"{folder}:{os.environ['PATH']}"
        self.shell = subprocess.Popen(
            ["sh", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=child_environment() | {"PS1": "$ ", "ENV": "", "TERM": "xterm", "PATH": path},
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no locks)
        )
        os.close(slave)
        self.until("$", "$")

    def close(self) -> None:
        os.close(self.master)  # whatever still runs there is hung up on
        self.shell.wait(PATIENCE)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, row: str, last: str) -> None:
        """Wait until there is such a row, and the cursor's row is `last`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            rows = [shown.rstrip() for shown in self.screen.display]
            if row in rows and rows[self.screen.cursor.y] == last:
                return
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.master], [], [], left)[0]:
                raise AssertionError("\n".join([f"{self.title} never got to {row!r}:", *rows]))
            self.stream.feed(os.read(self.master, 65536))


def play(folder: Path, stack: contextlib.ExitStack) -> list[Shell]:
    """Have a conversation; return the shells of the server, of Beth and of Tom."""

    def shell(title: str, columns: int, rows: int) -> Shell:
        opened = Shell(title, folder, columns, rows)
        stack.callback(opened.close)
        return opened

    def enter(title: str, userid: str, password: str) -> Shell:
        opened = shell(title, 58, 16)
        opened.type("python client.py\r")
        opened.until(f"Connected to 127.0.0.1:{PORT}. Type help for the commands.", ">")
        opened.type(f"login {userid} {password}\r")
        opened.until("login confirmed", ">")
        return opened

    room = shell("The server", 121, 10)
    room.type("python server.py\r")
    room.until(f"Chat room server on 127.0.0.1:{PORT}, room for 3. Ctrl-C stops it.", "")
    beth = enter("Beth", "Beth", "Beth33")
    tom = enter("Tom, who is typing while lines arrive", "Tom", "Tom11")
    beth.until("Tom joins.", ">")
    tom.type("who\r")
    tom.until("Beth, Tom", ">")
    beth.type("send all when is it due?\r")
    tom.until("Beth: when is it due?", ">")
    tom.type("send Beth on Friday, I think\r")
    beth.until("Tom (to Beth): on Friday, I think", ">")
    tom.type("sned all and I have the slides\r")
    tom.until("To speak: send all Message. Type help for the commands.", ">")
    half = "send all and I have the sl"
    tom.type(half)
    tom.until(f"> {half}", f"> {half}")
    david = stack.enter_context(Talker("127.0.0.1", PORT))
    david.send("login David David22")
    for each, prompt in ((tom, f"> {half}"), (beth, ">")):
        each.until("David joins.", prompt)
    david.send("send all hi! did I miss anything?")
    for each, prompt in ((tom, f"> {half}"), (beth, ">")):
        each.until("David: hi! did I miss anything?", prompt)
    beth.type("send Tom you tell him\r")
    tom.until("Beth (to Tom): you tell him", f"> {half}")
    beth.until("> send Tom you tell him", ">")
    beth.type("who\r")
    beth.until("Beth, David, Tom", ">")
    room.until("Beth (to Tom): you tell him", "")
    return [room, beth, tom]


def leave(room: Shell, *clients: Shell) -> None:
    for client in clients:
        client.type("\x15logout\r")
        client.until("$", "$")
    room.type("\x03")
    room.until("$", "$")


def session_pictures() -> dict[Path, str]:
    with temporary_folder() as folder, contextlib.ExitStack() as stack:
        for program in (SERVER, CLIENT):
            (folder / program.name).write_bytes(program.read_bytes())
        (folder / "users.txt").touch(0o600)
        (folder / "users.txt").write_bytes(shipped_users())
        (folder / "python").symlink_to(sys.executable)
        shells = play(folder, stack)
        drawn = {scheme: session_svg(shells, scheme) for scheme in SCHEMES}
        suite.progress("the conversation is over")
        leave(*shells)
    return {FOLDER / f"session-{scheme.name}.svg": svg for scheme, svg in drawn.items()}


CELL, ROW, PADDING, BAR = 7.2, 16, 12, 26  # of a window: pixels
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"


def session_svg(shells: Sequence[Shell], scheme: Scheme) -> str:
    room, beth, tom = shells
    width = width_of(room)
    below = height_of(room) + PADDING
    return svg(
        (width, below + height_of(beth)),
        "Three terminals of one conversation",
        "The server, Beth and Tom. Tom has half a line typed, and it stays as it was while others' "
        "lines arrive above it. Private lines are bold, refusals red.",
        scheme,
        [
            *window_svg(room, 0, 0, scheme),
            *window_svg(beth, 0, below, scheme),
            *window_svg(tom, width - width_of(tom), below, scheme),
        ],
    )


def width_of(shell: Shell) -> float:
    return CELL * shell.screen.columns + 2 * PADDING


def height_of(shell: Shell) -> float:
    return BAR + ROW * shell.screen.lines + 2 * PADDING


def window_svg(shell: Shell, left: float, top: float, scheme: Scheme) -> list[str]:
    """Return a window with a title: the cells of the screen, and a block for the cursor."""
    width, height = width_of(shell), height_of(shell)
    cursor = shell.screen.cursor
    x, y = left + PADDING, top + BAR + PADDING
    return [
        f'<rect x="{left + 0.5:g}" y="{top + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}"'
        f' rx="6" fill="{scheme.ground}" stroke="{scheme.edge}"/>',
        f'<path d="M{left:g} {top + BAR + 0.5:g}h{width:g}" stroke="{scheme.edge}"/>',
        f'<text class="dim" x="{x:g}" y="{top + 17:g}">{escape(shell.title)}</text>',
        f'<rect x="{x + CELL * cursor.x:g}" y="{y + ROW * cursor.y:g}" width="{CELL:g}"'
        f' height="{ROW}" fill="{scheme.text}" opacity=".6"/>',
        *(
            text
            for number in range(shell.screen.lines)
            for text in row_svg(shell.screen, number, x, y + ROW * number + 12)
        ),
    ]


def row_svg(screen: Screen, number: int, left: float, baseline: float) -> Iterator[str]:
    """Yield the text of each run of cells that look the same, as wide as its cells."""
    column = 0
    for look, run in groupby((screen.buffer[number][at] for at in range(screen.columns)), look_of):
        text = "".join(cell.data for cell in run)
        shown = text.strip()
        if shown:
            x = left + CELL * (column + text.index(shown))
            yield (
                f'<text{look} x="{x:g}" y="{baseline:g}" textLength="{CELL * len(shown):g}">'
                f"{escape(shown)}</text>"
            )
        column += len(text)


def look_of(cell: pyte.screens.Char) -> str:
    names = ["dim"] * cell.italics + ["bold"] * cell.bold + [cell.fg] * (cell.fg != "default")
    return f' class="{" ".join(names)}"' if names else ""


def svg(
    size: tuple[float, float], title: str, about: str, scheme: Scheme, parts: Sequence[str]
) -> str:
    width, height = size
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" height="{height:g}" role="img" aria-labelledby="title about">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="about">{escape(about)}</desc>',
        "<style>",
        f"text {{ font: 12px {FONT}; fill: {scheme.text}; white-space: pre; }}",
        ".small { font-size: 11px; }",
        ".bold { font-weight: bold; }",
        ".right { text-anchor: end; }",
        ".middle { text-anchor: middle; }",
        f".dim {{ fill: {scheme.dim}; }}",
        f".red {{ fill: {scheme.red}; }}",
        "</style>",
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------
# The chart: two logarithmic panels, with the figures themselves below each.
# --------------------------------------------------------------------------------------------------

CHART_WIDTH, CHART_HEIGHT = 896, 372  # pixels, as all here
PANEL_WIDTH, GUTTER = 440, 80  # the gutter, at the left, tells what the rows are
PLOT_LEFT, PLOT_RIGHT, PLOT_TOP, PLOT_HEIGHT = GUTTER + 30, PANEL_WIDTH - 24, 32, 224


@dataclass(frozen=True)
class Panel:
    name: str
    title: str
    figure: Callable[[Size], float]  # microseconds


PANELS = (
    Panel("CPU", "CPU time for each delivered line", lambda size: size.cpu),
    Panel("reaches all", "Time until a line has reached everyone", lambda size: size.reach * 1000),
)


def read_sizes() -> tuple[dict[str, Any], dict[str, list[Size]]]:
    """Return what the bench wrote, and of that how cost grows with the room, by contender."""
    found = json.loads(FIGURES.read_text())
    return found, by_contender([Size(**size) for size in found["sizes"]])


def by_contender(sizes: Sequence[Size]) -> dict[str, list[Size]]:
    return {name: [size for size in sizes if size.contender == name] for name in (OURS, C_LOOP)}


def chart_pictures() -> dict[Path, str]:
    found, sizes = read_sizes()
    machine = found["machine"]
    where = (
        "One line at a time; server and load share one core. Python "
        f"{machine['python']}, {machine['processor']}, {found['date']}."
    )
    return {
        FOLDER / f"growth-{scheme.name}.svg": svg(
            (CHART_WIDTH, CHART_HEIGHT),
            "How cost grows with the room, from 3 to 10,000 users",
            "server.py beside a bare loop in C. " + where,
            scheme,
            [
                *panel_svg(PANELS[0], sizes, 0, scheme),
                *panel_svg(PANELS[1], sizes, CHART_WIDTH - PANEL_WIDTH, scheme),
                f'<text class="dim" x="0" y="{CHART_HEIGHT - 8}">{escape(where)}</text>',
            ],
        )
        for scheme in SCHEMES
    }


def panel_svg(
    panel: Panel, sizes: Mapping[str, Sequence[Size]], left: float, scheme: Scheme
) -> Iterator[str]:
    users = [size.users for size in sizes[OURS]]
    figures = {name: [panel.figure(size) for size in some] for name, some in sizes.items()}
    lowest = min(map(min, figures.values())) / 1.25
    highest = max(map(max, figures.values())) * 1.25
    first, last = left + PLOT_LEFT, left + PLOT_RIGHT
    bottom = PLOT_TOP + PLOT_HEIGHT
    rows = [bottom + 20 + 20 * number for number in range(4)]

    def across(count: int) -> float:
        return first + math.log(count / users[0], users[-1] / users[0]) * (last - first)

    def down(figure: float) -> float:
        return bottom - math.log(figure / lowest, highest / lowest) * PLOT_HEIGHT

    def row(number: int, classes: str, head: str, texts: Sequence[str]) -> Iterator[str]:
        yield label(f"small right {classes}", left + GUTTER, rows[number], head)
        for count, text in zip(users, texts, strict=True):
            yield label(f"small middle {classes}", across(count), rows[number], text)

    yield label("bold", left, 14, panel.title)
    for tick in ticks_between(lowest, highest):
        yield f'<path d="M{first - 16:g} {down(tick):.1f}H{last + 16:g}" stroke="{scheme.edge}"/>'
        yield label(
            "small right dim", left + GUTTER, down(tick) + 4, duration(tick).replace(".0", "")
        )
    yield from row(0, "dim", "users", [f"{count:,}" for count in users])
    for number, name, colour in ((1, OURS, scheme.ours), (2, C_LOOP, scheme.loop)):
        points = [(across(count), down(it)) for count, it in zip(users, figures[name], strict=True)]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in [*points, (left + 6, rows[number] - 4)]:
            yield mark(name, x, y, colour, scheme.ground)
        yield from row(number, "", name, [duration(figure) for figure in figures[name]])
    ratios = [ours / loop for ours, loop in zip(figures[OURS], figures[C_LOOP], strict=True)]
    yield from row(3, "dim", "ratio", [f"{ratio:.1f}" for ratio in ratios])


def label(classes: str, x: float, y: float, text: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def mark(name: str, x: float, y: float, colour: str, ground: str) -> str:
    """Return a full circle for ours and a hollow square for the loop: colours are not all."""
    if name == OURS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
    return (
        f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{ground}"'
        f' stroke="{colour}" stroke-width="2"/>'
    )


def ticks_between(lowest: float, highest: float) -> list[int]:
    """Return round numbers: powers of ten, if those are enough."""
    digits = (1,) if highest / lowest > 100 else (1, 2, 5)
    ticks = [10**power * digit for power in range(7) for digit in digits]
    return [tick for tick in ticks if lowest <= tick <= highest]


def duration(microseconds: float) -> str:
    """Return a time in two or three digits."""
    if microseconds < 1000:
        amount, unit = microseconds, "µs"
    else:
        amount, unit = microseconds / 1000, "ms"
    return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"


# --------------------------------------------------------------------------------------------------
# Are they as they must be?
# --------------------------------------------------------------------------------------------------


def hold(drawn: Mapping[Path, str]) -> str:
    for path, wanted in drawn.items():
        kept = path.read_text() if path.exists() else ""
        names = (f".github/{path.name}", "as it would be now")
        change = difflib.unified_diff(
            kept.splitlines(), wanted.splitlines(), *names, n=0, lineterm=""
        )
        if kept != wanted:
            told = "python -m tests.long.pictures --make draws it anew"
            raise AssertionError("\n".join([told, *list(change)[:12]]))
    return ", ".join(f"{path.name}: {path.stat().st_size / 1000:.1f} kB" for path in drawn)


def session(quick: bool) -> str:
    """The picture of the session is what the programs show."""
    return hold(session_pictures())


def chart(quick: bool) -> str:
    """The chart is what its figures say."""
    return hold(chart_pictures())


def figures(quick: bool) -> str:
    """The figures of small rooms are still about right, as ratios to the C loop."""
    with tempfile.TemporaryDirectory(prefix="chatroom-") as folder:
        lines = 1000 if quick else 10_000
        scale = dataclasses.replace(QUICK, runs=3, room_lines=lines, sizes=(3, 10))
        bench = Bench(scale, SERVER, Path(folder))
        if C_LOOP not in bench.contenders.names:
            raise unittest.SkipTest("there is no C compiler")
        growth(bench)
    _, kept = read_sizes()
    now = by_contender(bench.sizes)
    told = []
    for panel in PANELS:
        for place, size in enumerate(now[OURS]):
            then_ratio, ratio = (
                panel.figure(some[OURS][place]) / panel.figure(some[C_LOOP][place])
                for some in (kept, now)
            )
            told.append(f"{size.users} users, {panel.name}: {then_ratio:.2f}, now {ratio:.2f}")
            assert 1 / FAR < ratio / then_ratio < FAR, told[-1]
    return "; ".join(told)


CASES = [suite.case_of(run) for run in (session, chart, figures)]


def is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def main() -> int:
    if not is_free(PORT):
        suite.progress(f"port {PORT} is taken: all is done in a network namespace")
        inside = 'ip link set lo up && exec "$@"'
        command = ["unshare", "--map-root-user", "--net", "sh", "-c", inside, "sh"]
        module = [sys.executable, "-m", "tests.long.pictures", *sys.argv[1:]]
        os.execvp(command[0], [*command, *module])
    parser = suite.command_line("tests.long.pictures", __doc__, CASES)
    parser.add_argument("--make", action="store_true", help="make them anew instead")
    options = parser.parse_args()
    if not options.make:
        return suite.run(CASES, options)
    for path, drawn in {**session_pictures(), **chart_pictures()}.items():
        path.write_text(drawn)
        print(f"{path.relative_to(ROOT)}: {len(drawn) / 1000:.1f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
