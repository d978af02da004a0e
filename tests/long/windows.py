"""The server under the Windows build of Python, by way of Wine; its clients are Linux' own.

    python -m tests.long.windows [--quick] [NAME ...]

All is skipped, and says why, where Wine or that Python cannot be had. The fast row runs there too;
--quick leaves out those of its modules that take longest. What only Wine does is skipped by name.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Iterator, Sequence

from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.certificates import tls_options
from tests.helpers.process import (
    PATIENCE,
    SERVER,
    SIGNALLED_BY_LINES,
    ServerProcess,
    running_server,
    serving,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.talker import Talker
from tests.helpers.tmux import Tmux
from tests.helpers.wine import Wine, wine

STALLED = 520  # connections: more than the 512 sockets that a select takes there
SIGBREAK = 21  # Windows' number of Ctrl-Break
BATCH = 20  # lines that are said before their echo is looked for
ROW_SECONDS = 300
QUICK_ROW = "test_[aglr]*.py"  # accounts, grammar, limits, room: they start few processes
STOPPED = "The server is shutting down."

windows: Wine


def program() -> tuple[str, ...]:
    """Return the command of a server under Windows that takes signals as lines."""
    return (*windows.python, "-c", SIGNALLED_BY_LINES)


@contextlib.contextmanager
def room(*userids: str, options: Sequence[str] = ()) -> Iterator[ServerProcess]:
    with running_server(userids or ("Tom", "Beth"), options, program=program()) as running:
        yield running


def hold(fact: bool, what: object) -> None:
    if not fact:
        raise AssertionError(what)


def ends_with(status: int, *options: str) -> str:
    """Run a server that does not start; return what it says."""
    ended = windows.run(str(SERVER), *options, seconds=PATIENCE)
    text = ended.stderr.decode()
    hold(ended.returncode == status, (ended.returncode, text))
    return text.replace("\r", "").strip()


def fast_row(is_quick: bool) -> str:
    """python -m unittest: what cannot run there is skipped by name, all else passes."""
    which = ["discover", "-p", QUICK_ROW] if is_quick else []
    ended = windows.run("-X", "utf8", "-m", "unittest", *which, "-v", seconds=ROW_SECONDS)
    text = ended.stderr.decode(errors="replace").replace("\r", "")
    found = re.search(r"^Ran (\d+) tests", text, re.MULTILINE)
    hold(ended.returncode == 0 and found is not None, text[-5000:])
    # A test with a docstring has two lines there.
    pattern = r"^(\S+) \(\S+\)(?:\n.*)? \.\.\. skipped [\"'](.*)[\"']$"
    skipped = re.findall(pattern, text, re.MULTILINE)
    hold(len(skipped) == text.count(" ... skipped "), "a skipped test has no name")
    for name, reason in skipped:
        suite.progress(f"skipped: {name}: {reason}")
    assert found
    return f"{found[1]} tests, {text.count('... skipped ')} of them skipped"


def ctrl_c_in_a_console(is_quick: bool) -> str:
    """Everyone is told, and the status is 0 within 2 seconds; in tmux, with the console's own."""
    if not shutil.which("tmux"):
        raise unittest.SkipTest("there is no tmux")
    with temporary_folder() as folder:
        write_cheap_users(folder / "users.txt", ("Tom",))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [*windows.python, str(SERVER), "--port", str(port)]
        command += ["--users", str(folder / "users.txt")]
        line = f"trap : INT; {shlex.join(command)}; echo $? > {folder}/status; sleep 600"
        tmux = Tmux(shlex.join(["bash", "-c", line]), 100, 24)
        try:
            eventually(lambda: answers(port), "a server that answers")
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as tom:
                tom.sendall(b"login Tom secret\n")
                hold(tom.recv(100) == b"login confirmed\n", "no login")
                began = time.monotonic()
                tmux.type("", "C-c")
                told = b""
                while data := tom.recv(100):
                    told += data
            hold(told.decode() == f"{STOPPED}\n", told)
            eventually((folder / "status").exists, "its end")
            took = time.monotonic() - began
            eventually(lambda: (folder / "status").read_text() == "0\n", "status 0")
        finally:
            tmux.close()
    hold(took < 2, f"{took:.1f} s")
    return f"{took:.1f} s"


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def ctrl_break(is_quick: bool) -> str:
    """The signal of Ctrl-Break stops it as Ctrl-C does."""
    times = []
    for number in (signal.SIGINT, SIGBREAK):
        with room() as running, running.login("Tom") as tom, running.connect() as waiting:
            waiting.ask("who")
            began = time.monotonic()
            running.send_signal(number)
            hold((tom.rest(), waiting.rest()) == ([STOPPED], [STOPPED]), "not told")
            hold(running.process.wait(PATIENCE) == 0, "status")
            times.append(time.monotonic() - began)
    hold(max(times) < 2, times)
    return f"{max(times):.1f} s"


def users_file(is_quick: bool) -> str:
    """Plain passwords are hashed, a torn line cut off, edits and newuser go on; none is lost."""
    with temporary_folder() as folder:
        path = folder / "users.txt"
        path.write_text("(Tom, Tom11)\r\n(Beth, Beth33)\n(Mike, $scrypt$ln=14,r")
        with serving(path, program=program()) as running, running.connect() as tom:
            hold("Tom11" not in path.read_text(), "still plain")
            hold("(Mike," not in path.read_text(), "the torn line is still there")
            hold(
                tom.ask("newuser Anna Anna44") == "New user account created. Please login.",
                "newuser",
            )
            hold(tom.ask("login Tom Tom11") == "login confirmed", "login")
            with path.open("a") as file:
                file.write("(Carl, Carl55)\n")
            with running.connect() as carl:
                hold(carl.ask("login Carl Carl55") == "login confirmed", "login of a new line")
            eventually(lambda: "Carl55" not in path.read_text(), "a hash")
            hold("(Anna, $scrypt$" in path.read_text(), "an account is lost")
            return running.errors.until(lambda line: "was cut short by a crash" in line)


def users_file_held_open(is_quick: bool) -> str:
    """While a program holds users.txt open it cannot be replaced; later it is."""
    hold_open = "import sys; file = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with temporary_folder() as folder:
        path = folder / "users.txt"
        write_cheap_users(path, ("Tom",))
        with serving(path, program=program()) as running, running.login("Tom"):
            editor = subprocess.Popen(
                [*windows.python, "-c", hold_open, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # Wine starts no Python with a file for a stream
            )
            with editor:
                assert editor.stdout is not None
                hold(editor.stdout.readline().strip() == b"open", "not open")
                with path.open("a") as file:
                    file.write("(Carl, Carl55)\n")
                running.errors.until(lambda line: "cannot be replaced" in line)
                hold("Carl55" in path.read_text(), "replaced after all")
                assert editor.stdin is not None
                editor.stdin.close()
            deadline = time.monotonic() + 2 * PATIENCE
            while "Carl55" in path.read_text():
                hold(time.monotonic() < deadline, "never replaced")
                time.sleep(0.2)  # no event tells
    return ""


def second_server(is_quick: bool) -> str:
    """On the same users.txt, and on the same port, it is refused in words."""
    with room() as running:
        in_use = ends_with(1, "--port", "0", "--users", str(running.users))
        hold(in_use.startswith("users.txt is in use by another server."), in_use)
        with temporary_folder() as folder:
            users = str(folder / "users.txt")
            taken = ends_with(1, "--port", str(running.port), "--users", users)
        hold("Stop what uses it, or choose another --port." in taken, taken)
        hold("Unknown error" not in taken, taken)
        with running.login("Tom") as tom:  # its file can still be used
            hold(tom.ask("who") == "Tom", "who")
    return taken


def takeover(is_quick: bool) -> str:
    """Who logs in twice takes over, and the reader of the first ends, though its client waits."""
    with room() as running:
        with running.login("Beth") as beth, running.login("Tom") as first:
            beth.expect("Tom joins.")
            with running.login("Tom") as second:
                who = second.ask("who")
                hold(who == "Beth, Tom", who)
                rest = first.rest()
        hold(rest == ["Denied. Tom logged in from another connection."], rest)
    return rest[-1]


def stalled_crowd(is_quick: bool) -> str:
    """More clients that do not read than a select takes: the room goes on, some are dropped."""
    userids = [f"User{number:03}" for number in range(STALLED)]
    options = ("--max-clients", str(STALLED + 10), "--rate", "0")
    with contextlib.ExitStack() as stack, room("Tom", "Beth", *userids, options=options) as running:
        tom, beth = (stack.enter_context(running.login(name)) for name in ("Tom", "Beth"))
        for userid in userids:
            deaf = running.connect(receive_buffer=1)
            stack.enter_context(deaf)
            deaf.send(f"login {userid} secret")
        joined: set[str] = set()
        while len(joined) < STALLED:
            joined.update(beth.until(lambda line: line.endswith(" joins.")))
        lost, text = 0, "x" * 250
        for number in range(3000 // BATCH):
            tom.send(*[f"send all {number} {text}"] * BATCH)
            for _ in range(BATCH):
                heard = beth.until(f"Tom: {number} {text}")
                lost += sum(line.endswith(" left.") for line in heard)
            if lost >= STALLED - 500:
                break
        hold(lost >= STALLED - 500, f"{lost} were dropped")
        hold(tom.ask("who") != "", "who")
        return f"{lost} dropped after {(number + 1) * BATCH} lines"


def utf_8_display(is_quick: bool) -> str:
    """What is shown is UTF-8 though standard output is a pipe and the code page is not."""
    with room() as running, running.login("Tom") as tom:
        tom.send("send Tom Grüße, 教室 🙂")
        running.display.until("Tom (to Tom): Grüße, 教室 🙂")
    return ""


def encrypted_room(is_quick: bool) -> str:
    """A room with TLS there is one, and a plain client is refused in plain words."""
    with (
        temporary_folder() as folder,
        room(options=tls_options(folder)) as running,
        running.login("Tom") as tom,
        running.login("Beth") as beth,
    ):
        tom.expect("Beth joins.")
        beth.send("send all " + "x" * 250)
        tom.expect("Beth: " + "x" * 250)
        with Talker(running.host, running.port) as plain:
            hold("encrypted" in str(plain.ask("who")), "no refusal")
        running.send_signal(signal.SIGINT)
        hold((tom.rest(), beth.rest()) == ([STOPPED], [STOPPED]), "not told")
        hold(running.process.wait(PATIENCE) == 0, "status")
    return ""


def lent(case: Callable[[bool], str]) -> suite.Case:
    """Return a case that is skipped where Wine cannot be had."""

    def run(is_quick: bool) -> str:
        if isinstance(found, unittest.SkipTest):
            raise found
        return case(is_quick)

    return suite.Case(suite.name_of(case), suite.promise_of(case), run)


CASES = [
    lent(case)
    for case in (
        ctrl_c_in_a_console,
        ctrl_break,
        users_file,
        users_file_held_open,
        second_server,
        takeover,
        stalled_crowd,
        utf_8_display,
        encrypted_room,
        fast_row,
    )
]

found: Wine | unittest.SkipTest

if __name__ == "__main__":
    parsed = suite.command_line("tests.long.windows", __doc__, CASES).parse_args()
    with contextlib.ExitStack() as lending:
        try:
            found = windows = lending.enter_context(wine())
        except unittest.SkipTest as reason:
            found = reason
        sys.exit(suite.run(CASES, parsed))
