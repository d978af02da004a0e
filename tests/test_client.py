"""The client without a terminal: grammar, pipes, exit statuses, and its parts one by one."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unicodedata
import unittest
from collections.abc import Sequence
from pathlib import Path

import client
from tests.cases import CASES
from tests.fake_server import PATIENCE, FakeServer
from tests.helpers.process import CLIENT, child_environment


def answer(line: str | bytes) -> str | None:
    """Return the refusal that a line gets, or None."""
    try:
        client.check(line.encode() if isinstance(line, str) else line)
    except client.Denied as denied:
        return str(denied)
    return None


def run_client(*options: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(CLIENT), *options],
        input=typed,
        capture_output=True,
        env=child_environment(),
        timeout=60,  # seconds: a resolver without a network may take its time
        check=False,
    )


class GrammarTest(unittest.TestCase):
    def test_every_case_gets_the_answer_that_the_server_gives(self) -> None:
        for line, refusal in CASES:
            with self.subTest(line=line):
                self.assertEqual(answer(line), refusal)

    def test_the_command_word_is_returned_in_lower_case(self) -> None:
        self.assertEqual(client.check(b" LOGOUT \r"), "logout")
        self.assertEqual(client.check(b"  "), "")

    def test_invalid_utf8_is_refused(self) -> None:
        self.assertEqual(answer(b"send all \xff"), "Denied. Not valid UTF-8.")

    def test_the_checks_are_those_of_the_server_word_for_word(self) -> None:
        server = (CLIENT.parent / "server.py").read_text()
        mine = CLIENT.read_text()
        for name in ("check_userid", "is_of_one_script", "check_password", "check_message"):
            with self.subTest(name=name):
                begin = mine.index(f"def {name}(")
                code = mine[begin : mine.index("\n\n\n", begin)]
                self.assertIn(body(code), server)
        for name in ("USAGE", "UNSAFE", "INVISIBLE", "DISGUISES", "SCRIPTS"):
            with self.subTest(name=name):
                begin = mine.index(f"\n{name} = ")
                self.assertIn(mine[begin : mine.index("\n", begin + 1)], server)


def body(code: str) -> str:
    """Return a function without its docstring."""
    return code.rpartition('"""\n')[2]


class VisibleTest(unittest.TestCase):
    def test_whatever_a_terminal_would_obey_is_spelled_out(self) -> None:
        for harmful, shown in (
            ("\x1b[2J", "\\x1b[2J"),
            ("\x00\x07\r\x7f", "\\x00\\x07\\x0d\\x7f"),
            ("\x9b2J\x85", "\\x9b2J\\x85"),
            ("a\u202eb\u2066c\u2069", "a\\u202eb\\u2066c\\u2069"),
            ("a\u2028b\u2029", "a\\u2028b\\u2029"),
            ("\udcff", "\\udcff"),
            ("a\tb", "a b"),
        ):
            with self.subTest(shown=shown):
                self.assertEqual(client.visible(harmful), shown)

    def test_every_script_passes(self) -> None:
        text = "Jos\u00e9 \u5c71 \u05e9\u05dc\u05d5\u05dd\u200f \U0001f468\u200d\U0001f469 e\u0301"
        self.assertEqual(client.visible(text), text)


class ColourTest(unittest.TestCase):
    def test_only_the_lines_that_deserve_a_colour_get_one(self) -> None:
        for line, colour in (
            ("Tom joins.", client.DIM),
            ("Tom left.", client.DIM),
            ("Tom: Beth joins.", ""),
            ("Tom: hello", ""),
            ("Tom (to Beth): hello", client.BOLD),
            ("Tom: Tom (to Beth): hello", ""),
            ("Denied. Please login first.", client.RED),
            ("Denied.: hello", ""),
            ("Denied. joins.", client.DIM),
            ("Denied. (to Beth): hello", client.BOLD),
            ("Usage: who", client.RED),
            ("Usage: hello", ""),
            ("who", ""),
            ("login confirmed", ""),
        ):
            with self.subTest(line=line):
                self.assertEqual(client.colour_of(line), colour)


class LayoutTest(unittest.TestCase):
    def place(self, text: str, cursor: int, columns: int) -> tuple[int, int]:
        layout = client.Layout(text, cursor, columns)
        return layout.cursor_row, layout.cursor_column

    def test_a_text_that_ends_at_the_margin_has_its_cursor_on_a_new_row(self) -> None:
        self.assertEqual(self.place("abcd", 4, 4), (1, 0))
        self.assertEqual(self.place("abcd", 3, 4), (0, 3))

    def test_a_wide_character_is_never_cut_in_two(self) -> None:
        layout = client.Layout("abc\u5c71", 4, 4)
        self.assertEqual(layout.widths, [3, 2])
        self.assertEqual((layout.cursor_row, layout.cursor_column), (1, 2))

    def test_marks_and_joiners_take_no_room(self) -> None:
        decomposed = unicodedata.normalize("NFD", "\u00e9\ud55c")
        self.assertEqual(self.place(decomposed, len(decomposed), 80), (0, 3))
        self.assertEqual(self.place("\u200d", 1, 80), (0, 0))

    def test_a_control_character_has_the_width_of_its_spelling(self) -> None:
        self.assertEqual(self.place("\x1b", 1, 80), (0, 4))

    def test_rows_that_a_narrower_window_has_broken_are_counted(self) -> None:
        layout = client.Layout("x" * 110, 110, 60)
        self.assertEqual(layout.cursor_row, 1)
        self.assertEqual(layout.rows_in(40), (4, 3))
        self.assertEqual(layout.rows_in(80), (2, 1))

    def test_a_text_taller_than_the_window_keeps_the_row_of_the_cursor(self) -> None:
        layout = client.Layout("a" * 10 + "b" * 10 + "c" * 10, 15, 10)
        layout.keep_rows(2)
        self.assertEqual(layout.rows, ["a" * 10, "b" * 10])
        self.assertEqual(layout.cursor_row, 1)


class KeyboardTest(unittest.TestCase):
    def test_the_bytes_of_a_key_may_come_one_by_one(self) -> None:
        for data, keys in (
            ("\u00e9".encode(), ["\u00e9"]),
            ("\U0001f600".encode(), ["\U0001f600"]),
            (b"\x1b[A", ["older"]),
            (b"\x1bOH", ["home"]),
            (b"\x1b[1;5D", ["word left"]),
            (b"\x1b[200~\x1b[A\x1b[201~", [*"\x1b[A"]),
        ):
            with self.subTest(data=data):
                keyboard = client.Keyboard()
                one_by_one = [key for byte in data for key in keyboard.keys(bytes([byte]))]
                self.assertEqual(one_by_one, keys)
                self.assertEqual(client.Keyboard().keys(data), keys)

    def test_a_lone_escape_takes_nothing_with_it(self) -> None:
        self.assertEqual(client.Keyboard().keys(b"\x1bwho\x1b\r"), ["w", "h", "o", "enter"])
        self.assertEqual(client.Keyboard().keys(b"\x1b\x1b[A\x1b[\r"), ["older", "[", "enter"])

    def test_every_line_end_is_one_enter(self) -> None:
        keys = client.Keyboard().keys(b"a\rb\nc\r\nd\r\r")
        self.assertEqual(keys.count("enter"), 5)

    def test_an_unknown_sequence_is_no_text(self) -> None:
        self.assertEqual(client.Keyboard().keys(b"\x1b[15~\x1b[1;2Px"), ["x"])

    def test_bytes_that_are_not_utf8_come_out_as_they_went_in(self) -> None:
        keys = client.Keyboard().keys(b"a\xffb\r")
        self.assertEqual("".join(keys[:3]).encode("utf-8", "surrogateescape"), b"a\xffb")


class PeopleTest(unittest.TestCase):
    def test_people_are_known_from_what_the_server_says(self) -> None:
        people = client.People()
        people.own_name = "Tom"
        for line, names in (
            ("login confirmed", {"Tom"}),
            ("Beth joins.", {"Beth", "Tom"}),
            ("Beth: Mike joins.", {"Beth", "Tom"}),
            ("Beth left.", {"Tom"}),
            ("Beth, David, Tom", {"Beth", "David", "Tom"}),
            ("David: Ann, Mike", {"Beth", "David", "Tom"}),
        ):
            people.learn(line)
            with self.subTest(line=line):
                self.assertEqual(people.names, names)


class BatchesTest(unittest.TestCase):
    def receive(self, *pieces: bytes) -> list[str]:
        near, far = socket.socketpair()
        with near:

            def send() -> None:
                with far:
                    for piece in pieces:
                        far.sendall(piece)

            sender = threading.Thread(target=send)
            sender.start()
            lines = [line for batch in client.batches(near) for line in batch]
            sender.join()
        return lines

    def test_lines_come_whole_from_any_pieces(self) -> None:
        self.assertEqual(self.receive(b"a", b"b\r\nc\xc3", b"\xa9\nd"), ["ab", "c\u00e9", "d"])

    def test_invalid_utf8_does_not_end_it(self) -> None:
        self.assertEqual(self.receive(b"a\xff\nb\n\xc3"), ["a\ufffd", "b", "\ufffd"])

    def test_an_endless_line_comes_in_pieces(self) -> None:
        lines = self.receive(b"x" * 2**20, b"\nlast\n")
        self.assertEqual("".join(lines[:-1]), "x" * 2**20)
        self.assertEqual(max(map(len, lines)), client.LONGEST_SHOWN)
        self.assertEqual(lines[-1], "last")


class ClientProcess:
    """client.py with pipes for standard input and output, connected to a fake server."""

    def __init__(self, server: FakeServer, stdin: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CLIENT), "--port", str(server.port)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        server.accept()

    def __enter__(self) -> ClientProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def type(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def finish(self) -> tuple[int, bytes, bytes]:
        """Close standard input; return the exit status, standard output and standard error."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, output, errors


def wait_until_full(connection: socket.socket) -> None:
    """Wait until nothing has been added to what can be read for a fifth of a second."""
    waiting = -1
    while waiting != (waiting := bytes_waiting(connection)) or not waiting:
        time.sleep(0.2)


def bytes_waiting(connection: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), sys.byteorder)


class PipeTest(unittest.TestCase):
    def serve(
        self, typed: bytes, replies: Sequence[str] = (), heard: Sequence[str] | None = None
    ) -> bytes:
        """Give the client its whole input, answer when it is through; return what it shows."""
        with FakeServer() as server, ClientProcess(server) as process:
            assert process.process.stdin is not None
            process.type(typed)
            process.process.stdin.close()
            process.process.stdin = None
            lines = server.hear_all()
            server.say(*replies)
            server.die()
            status, output, errors = process.finish()
        self.assertEqual((status, errors), (0, b""))
        if heard is not None:
            self.assertEqual(lines, heard)
        return output

    def test_every_reply_owed_is_printed_after_the_end_of_input(self) -> None:
        output = self.serve(
            b"login Tom Tom11\nwho\n",
            ["login confirmed", "Tom", "Tom left."],
            ["login Tom Tom11", "who", "logout"],
        )
        self.assertEqual(output, b"login confirmed\nTom\nTom left.\n")

    def test_logout_in_the_input_is_sent_once_and_ends_it(self) -> None:
        self.serve(b"who\nLOGOUT\nwho\n", heard=["who", "logout"])

    def test_a_last_line_without_its_end_counts(self) -> None:
        self.serve(b"who", heard=["who", "logout"])

    def test_wrong_lines_are_refused_here_and_never_sent(self) -> None:
        output = self.serve(
            b"foo\nlogin Tom\nsend all \xff\nsend all \x1b[2J\n" + b"x" * 100_000 + b"\n\n \nwho\n",
            heard=["who", "logout"],
        )
        self.assertEqual(
            output.decode().splitlines(),
            [
                'Denied. Unknown command "foo". Commands: login, newuser, send, who, logout.',
                "Usage: login UserID Password",
                "Denied. Not valid UTF-8.",
                "Denied. Message must be printable text.",
                "Denied. Line longer than 2048 bytes.",
            ],
        )

    def test_valid_lines_are_sent_as_they_were_typed(self) -> None:
        lines = ["SEND all  a  b ", "  who", "newuser Jose\u0301 e\u0301e\u0301e\u0301e\u0301"]
        self.serve("\n".join(lines).encode(), heard=[*lines, "logout"])

    def test_help_is_local(self) -> None:
        output = self.serve(b"HELP\n", heard=["logout"]).decode()
        for command in client.USAGE:
            self.assertIn(command, output)
        for limit in ("3 to 32", "4 to 8", "1 to 256"):
            self.assertIn(limit, output)

    def test_what_arrives_is_never_obeyed_in_a_pipe_either(self) -> None:
        output = self.serve(b"", ["\x1b]0;owned\x07\x9b2J\u202e", "Denied. No.", "Tom joins."])
        self.assertEqual(
            output.decode(), "\\x1b]0;owned\\x07\\x9b2J\\u202e\nDenied. No.\nTom joins.\n"
        )

    def test_ten_thousand_commands_and_their_replies_do_not_deadlock(self) -> None:
        typed = b"who\n" * 10_000
        reply = b"x" * 200 + b"\n"
        with FakeServer() as server, ClientProcess(server) as process:

            def echo() -> None:
                while server.hear() != "logout":
                    server.say_bytes(reply)
                server.die()

            echoer = threading.Thread(target=echo)
            echoer.start()
            output, errors = process.process.communicate(typed, timeout=PATIENCE)
            echoer.join()
            self.assertEqual(process.process.returncode, 0)
        self.assertEqual((len(output), errors), (len(reply) * 10_000, b""))

    def test_a_line_is_sent_as_soon_as_it_is_there(self) -> None:
        with FakeServer() as server, ClientProcess(server) as process:
            process.type(b"who\nsend all he")
            self.assertEqual(server.hear(), "who")
            process.type(b"llo\n")
            self.assertEqual(server.hear(), "send all hello")

    def test_a_lost_connection_ends_it_at_once_though_the_input_is_silent(self) -> None:
        for lose in (FakeServer.die, FakeServer.reset):
            with (
                self.subTest(lose=lose),
                FakeServer() as server,
                ClientProcess(server) as process,
            ):
                server.say("The server is shutting down.")
                stdout = process.process.stdout
                assert stdout is not None
                self.assertEqual(stdout.readline(), b"The server is shutting down.\n")
                lose(server)
                self.assertEqual(process.process.wait(PATIENCE), 1)
                _, _, errors = process.finish()
                address = f"127.0.0.1:{server.port}"
                self.assertEqual(errors.decode(), f"Connection to {address} lost.\n")

    def test_standard_input_may_be_a_file(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(b"who\n")
            script.seek(0)
            with FakeServer() as server, ClientProcess(server, script.fileno()) as process:
                self.assertEqual(server.hear_all(), ["who", "logout"])
                server.die()
                self.assertEqual(process.process.wait(PATIENCE), 0)

    def test_a_closed_standard_output_ends_it_quietly(self) -> None:
        with FakeServer() as server, ClientProcess(server) as process:
            assert process.process.stdout is not None
            process.process.stdout.close()
            server.say("Tom")
            self.assertEqual(process.process.wait(PATIENCE), 1)
            assert process.process.stderr is not None
            self.assertEqual(process.process.stderr.read(), b"")
            process.process.stdout = None

    def test_a_closed_standard_output_ends_it_even_while_the_server_reads_nothing(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(b"send all hello hello hello hello hello hello\n" * 400_000)
            script.seek(0)
            with FakeServer() as server, ClientProcess(server, script.fileno()) as process:
                assert process.process.stdout is not None
                process.process.stdout.close()
                process.process.stdout = None
                wait_until_full(server.client)
                server.say("Tom")
                self.assertEqual(process.process.wait(PATIENCE), 1)

    def test_closed_standard_streams_are_no_descriptors_for_the_connection(self) -> None:
        with FakeServer() as server:
            command = 'exec "$0" "$@" <&- >&-'
            program = [sys.executable, str(CLIENT), "--port", str(server.port)]
            process = subprocess.Popen(
                ["sh", "-c", command, *program], stderr=subprocess.PIPE, env=child_environment()
            )
            server.accept()
            self.assertEqual(server.hear_all(), ["logout"])
            server.die()
            _, errors = process.communicate(timeout=PATIENCE)
            self.assertEqual((process.returncode, errors), (0, b""))

    def test_an_interrupt_ends_it_as_any_program_in_a_pipe(self) -> None:
        with FakeServer() as server, ClientProcess(server) as process:
            process.type(b"who\n")
            server.hear()
            process.process.send_signal(signal.SIGINT)
            status, _, errors = process.finish()
            self.assertEqual((status, errors), (-signal.SIGINT, b""))


class StartTest(unittest.TestCase):
    def test_it_works_copied_alone_into_an_empty_folder(self) -> None:
        with tempfile.TemporaryDirectory() as folder, FakeServer() as server:
            copy = shutil.copy(CLIENT, folder)
            process = subprocess.Popen(
                [sys.executable, copy, "--port", str(server.port)],
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=child_environment(),
            )
            server.accept()
            self.assertEqual(server.hear_all(), ["logout"])
            server.die()
            self.assertEqual(process.wait(PATIENCE), 0)
            self.assertEqual(os.listdir(folder), [Path(copy).name])

    def test_a_refused_connection_is_one_line_that_says_where_and_what_to_do(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
        result = run_client("--port", port)
        self.assertEqual((result.returncode, result.stdout), (1, b""))
        self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assertIn(f"127.0.0.1:{port}".encode(), result.stderr)
        self.assertIn(b"python server.py", result.stderr)

    def test_a_name_that_cannot_be_resolved_is_one_line(self) -> None:
        for host in ("no.such.host.invalid", "a" * 70 + ".invalid", "\u00e9" * 70):
            with self.subTest(host=host):
                result = run_client("--host", host)
                self.assertEqual((result.returncode, result.stdout), (1, b""))
                self.assertEqual(result.stderr.count(b"\n"), 1)

    def test_wrong_options_are_status_2(self) -> None:
        for options in (
            ["--port", "0"],
            ["--port", "65536"],
            ["--port", "x"],
            ["--port", "-1"],
            ["--nonsense"],
            ["extra"],
        ):
            with self.subTest(options=options):
                self.assertEqual(run_client(*options).returncode, 2)

    def test_help_and_version_need_no_server(self) -> None:
        self.assertEqual(run_client("--version").stdout.decode(), f"client.py {client.VERSION}\n")
        self.assertEqual(run_client("-h").returncode, 0)
