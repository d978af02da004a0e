"""The client on Windows: the real build of CPython under Wine, in tmux.

    python -m tests.long.windows_client [--quick] [NAME ...]

Needs Wine, tmux and pip; skipped without. Wine's console has keys but obeys no escape sequences: so
the client's standard output is a pipe to the pane, but where no escape sequence is to be seen. Then
it tells neither the window's width (it says 80) nor that it has changed: resizing is not tried.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import shutil
import subprocess
import sys
import unittest
from collections.abc import Callable, Iterator

from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.fake_server import PATIENCE, FakeServer
from tests.helpers.process import (
    CHEAP_PASSWORD,
    CLIENT,
    ROOT,
    running_server,
)
from tests.helpers.tmux import Tmux
from tests.helpers.wine import wine

LAUNCHER = ROOT / "tests" / "helpers" / "windows_client.py"
COLUMNS = 80  # what Wine says if standard output is a pipe
SLOWNESS = PATIENCE  # seconds


@functools.cache
def windows_python() -> tuple[str, ...]:
    """Return the command of the Windows Python. Raises SkipTest where it cannot be had."""
    if not shutil.which("tmux"):
        raise unittest.SkipTest("there is no tmux here")
    return LENT.enter_context(wine()).python


LENT = contextlib.ExitStack()  # until the suite has run


class Pane(Tmux):
    """A Windows client in a real terminal."""

    def __init__(self, port: int, *, escapes: bool = True, setting: str = "") -> None:
        """escapes: as in a console that obeys them; setting: of stty."""
        program = str(LAUNCHER) if escapes else str(CLIENT)
        client = f"{shlex.join(windows_python())} {program} --port {port}"
        # Ctrl-C is a signal for all of the job: what draws must outlive it.
        cat = " 2>&1 | (trap '' INT; cat)" if escapes else ""
        terminal = "" if escapes else "TERM=dumb "
        # The shell, too, goes on after Ctrl-C.
        command = f"trap : INT; {setting} {terminal}{client}{cat}; echo the end; sleep 600"
        super().__init__(command, COLUMNS, 24)

    def rows(self) -> list[str]:
        """Return the rows of the pane that are not empty, but for the greeting."""
        return [row for row in super().rows() if row and "Connected to" not in row]

    def wait_for(self, wanted: Callable[[], bool]) -> None:
        # tmux tells nobody when a pane has changed.
        eventually(wanted, lambda: "\n".join(["so:", *self.rows()]), SLOWNESS, pause=0.02)

    def expect(self, *rows: str, cursor: int | None = None) -> None:
        """Wait until these are the last rows, and for the cursor's column."""
        self.wait_for(
            lambda: self.rows()[-len(rows) :] == [*rows] and cursor in (None, self.cursor()[1])
        )


@contextlib.contextmanager
def pane(server: FakeServer, *, escapes: bool = True, setting: str = "") -> Iterator[Pane]:
    server.listener.settimeout(SLOWNESS)
    shown = Pane(server.port, escapes=escapes, setting=setting)
    try:
        server.accept()
        shown.expect(">", cursor=2)
        yield shown
    finally:
        shown.close()


def text_and_cursor_survive_arriving_lines(quick: bool) -> str:
    """A half-typed text stays as it was under arriving lines: wrapped, wide, composed, mid-line."""
    texts = (
        "send all hi",
        "x" * (COLUMNS - 2),
        "send all " + "abc " * 40,
        "\u5c71\u7530 caf\u00e9 \U0001f600",
    )
    for text in texts:
        with FakeServer() as server, pane(server) as shown:
            shown.type(text, "Left", "Left")
            typed = rows_of("> " + text)
            width = sum(2 if letter > "\u2000" else 1 for letter in "> " + text)
            end = 3 if text.endswith("\U0001f600") else 2
            column = (width - end) % COLUMNS
            shown.expect(*typed, cursor=column)
            server.say("Beth: one", "Beth: two")
            shown.expect("Beth: one", "Beth: two", *typed, cursor=column)
            shown.type("!")
            shown.wait_for(lambda: any("!" in row for row in shown.rows()[2:]))
    return f"{len(texts)} texts"


def rows_of(typed: str) -> list[str]:
    return [typed[at : at + COLUMNS].rstrip() for at in range(0, len(typed), COLUMNS)]


def keys_do_what_fingers_know(quick: bool) -> str:
    """Keys, history, search and Tab do what they do elsewhere; every script is sent as UTF-8."""
    cases: tuple[tuple[tuple[str, ...], str], ...] = (
        (("wwho", "C-a", "C-d"), "who"),
        (("wo", "Left", "h"), "who"),
        (("wxho", "Left", "Left", "Left", "DC"), "who"),
        (("send all one two", "C-w", "three"), "send all one three"),
        (("send all a b", "M-b", "M-d", "c"), "send all a c"),
        (("send all caf\u00e9 \u5c71 \U0001f600",), "send all caf\u00e9 \u5c71 \U0001f600"),
        (("Up",), "send all caf\u00e9 \u5c71 \U0001f600"),
        (("C-r", "three", "C-e", "s"), "send all one threes"),
        (("send Be", "Tab", "hi"), "send Beth hi"),
        (("half", "C-c", "who"), "who"),
    )
    named = {"Left", "DC", "Up", "Tab", "C-a", "C-c", "C-d", "C-e", "C-r", "C-w", "M-b", "M-d"}
    with FakeServer() as server, pane(server) as shown:
        shown.type("login Tom Tom11", "Enter")
        assert server.hear() == "login Tom Tom11"
        server.say("login confirmed", "Beth joins.")
        shown.expect("login confirmed", "Beth joins.", ">")
        for keys, sent in cases:
            for key in keys:
                shown.type("", key) if key in named else shown.type(key)
                if key == "C-c":
                    shown.expect("> half^C", ">")
            shown.type("", "Enter")
            heard = server.hear()
            assert heard == sent, f"{keys}: {heard!r}"
    return f"{len(cases)} lines"


def linux_clients_are_in_the_same_room(quick: bool) -> str:
    """A real room: Tom on Windows, Beth by a socket and David by client.py on Linux hear all."""
    with (
        running_server(["Tom", "Beth", "David"]) as room,
        contextlib.closing(Pane(room.port)) as shown,
    ):
        shown.expect(">", cursor=2)
        shown.type(f"login Tom {CHEAP_PASSWORD}", "Enter")
        shown.expect("login confirmed", ">")
        with room.login("Beth") as beth:
            shown.type("send all half")
            shown.expect("Beth joins.", "> send all half", cursor=15)
            david = f"login David {CHEAP_PASSWORD}\nsend all caf\u00e9 \u5c71\nsend Tom psst\n"
            subprocess.run(
                [sys.executable, str(CLIENT), "--port", str(room.port)],
                input=david.encode(),
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=PATIENCE,
            )
            said = (
                "David joins.",
                "David: caf\u00e9 \u5c71",
                "David (to Tom): psst",
                "David left.",
            )
            shown.expect(*said, "> send all half", cursor=15)
            beth.expect("David joins.", "David: caf\u00e9 \u5c71", "David left.")
            shown.type(" and the rest", "Enter")
            beth.expect("Tom: half and the rest")
            shown.type("who", "Enter")
            shown.expect("> who", "Beth, Tom", ">")
            shown.type("logout", "Enter")
            beth.expect("Tom left.")
            shown.expect("Tom left.", "the end")
    return ""


def password_is_unseen(quick: bool) -> str:
    """A password is asked for unseen while lines arrive, and Ctrl-C gives the question up."""
    with FakeServer() as server, pane(server) as shown:
        shown.type("login Tom", "Enter")
        shown.expect("> login Tom", "Password:")
        shown.type("Tom")
        server.say("Beth: hi")
        shown.expect("> login Tom", "Beth: hi", "Password:", cursor=10)
        shown.type("11", "Enter")
        assert server.hear() == "login Tom Tom11"
        shown.type("login Tom", "Enter")
        shown.expect("Password:")
        shown.type("secret", "C-c")
        shown.expect("Password: ^C", ">")
        shown.type("login Tom Tom11", "Enter")
        assert server.hear() == "login Tom Tom11"
    return ""


def paste_is_its_lines(quick: bool) -> str:
    """A paste of many lines is its lines, in order, and its rest stays to be typed on."""
    lines = ["login Tom Tom11", *(f"send all \u5c71 {number}" for number in range(50))]
    with FakeServer() as server, pane(server) as shown:
        shown.run("set-buffer", "\n".join([*lines, "send all thr"]))
        shown.run("paste-buffer")
        assert [server.hear() for _ in lines] == lines
        shown.expect("> send all thr", cursor=14)
    return f"{len(lines)} lines"


def ctrl_z_and_ctrl_c_end_it(quick: bool) -> str:
    """Ctrl-Z, Ctrl-C and Ctrl-D on an empty line log out, and the client ends."""
    for key in ("C-z", "C-c", "C-d"):
        with FakeServer() as server, pane(server, setting="stty susp undef;") as shown:
            shown.type("", key)
            assert server.hear() == "logout"
            server.say("Tom left.")
            server.die()
            shown.wait_for(lambda: shown.rows()[-2:] == ["Tom left.", "the end"])
    return ""


def lost_connection_leaves_the_person_in_it(quick: bool) -> str:
    """After a lost connection the half-typed line stays, and Enter connects again."""
    with FakeServer() as server, pane(server) as shown:
        shown.type("half")
        shown.expect("> half")
        server.die()
        again = "Press Enter to connect again, Ctrl-Z Enter to end."
        shown.expect(f"Connection to 127.0.0.1:{server.port} lost.", again, "> half")
        shown.type("", "Enter")
        server.accept()
        shown.wait_for(lambda: shown.rows()[-1] == ">")
        shown.type("login Tom Tom11", "Enter")
        assert server.hear() == "login Tom Tom11"
    return ""


def old_console_is_damaged_by_no_line(quick: bool) -> str:
    """A console that obeys no escape sequence has a prompt of one row that lines do not damage."""
    with FakeServer() as server, pane(server, escapes=False) as shown:
        shown.type("send all caf\u00e9 hi", "Left")
        shown.expect("> send all caf\u00e9 hi", cursor=17)
        server.say("Beth: one", "Beth: two")
        shown.expect("Beth: one", "Beth: two", "> send all caf\u00e9 hi", cursor=17)
        shown.type("!" + "0123456789" * 8)
        shown.expect(
            "Beth: one", "Beth: two", ("> send all caf\u00e9 h!" + "0123456789" * 8)[1 - COLUMNS :]
        )
        shown.type("", "C-u", "C-k")
        shown.type("login Tom", "Enter")
        shown.expect("> login Tom", "Password:")
        shown.type("Tom11", "Enter")
        assert server.hear() == "login Tom Tom11"
        server.die()
        shown.wait_for(lambda: shown.rows()[-1] == ">" and "Press Enter" in shown.rows()[-2])
    return ""


def pipes_are_utf8(quick: bool) -> str:
    """A script's lines and replies are UTF-8 whatever the code page; CRLF and a mark are taken."""
    with FakeServer() as server:
        server.listener.settimeout(SLOWNESS)
        client = subprocess.Popen(
            [*windows_python(), str(CLIENT), "--port", str(server.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with client:
            server.accept()
            typed = "\ufefflogin Tom Tom11\r\nsend all caf\u00e9 \u5c71\r\nwho".encode()
            server.say("Beth: caf\u00e9 \u5c71 \U0001f600")
            assert client.stdin is not None
            client.stdin.write(typed)
            client.stdin.close()
            heard = server.hear_all()
            assert heard == ["login Tom Tom11", "send all caf\u00e9 \u5c71", "who", "logout"], heard
            server.die()
            assert client.stdout is not None
            output = client.stdout.read()
            assert client.wait(SLOWNESS) == 0
    assert output.decode() == "Beth: caf\u00e9 \u5c71 \U0001f600\n", output
    return ""


def pipe_ends_with_the_connection(quick: bool) -> str:
    """With an input that stays open, a lost connection ends the client with status 1."""
    with FakeServer() as server:
        server.listener.settimeout(SLOWNESS)
        command = [*windows_python(), str(CLIENT), "--port", str(server.port)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as client:
            server.accept()
            server.die()
            assert client.wait(SLOWNESS) == 1
            assert client.stderr is not None
            assert b"lost." in client.stderr.read()
    return ""


CASES = tuple(
    suite.case_of(run)
    for run in (
        linux_clients_are_in_the_same_room,
        text_and_cursor_survive_arriving_lines,
        keys_do_what_fingers_know,
        password_is_unseen,
        paste_is_its_lines,
        ctrl_z_and_ctrl_c_end_it,
        lost_connection_leaves_the_person_in_it,
        old_console_is_damaged_by_no_line,
        pipes_are_utf8,
        pipe_ends_with_the_connection,
    )
)


def main() -> int:
    with LENT:
        return suite.main("tests.long.windows_client", __doc__, CASES)


if __name__ == "__main__":
    sys.exit(main())
