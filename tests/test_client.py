"""The client without a terminal: grammar, pipes, exit statuses, and its parts one by one."""

from __future__ import annotations

import ast
import errno
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import unittest
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import client
from tests.helpers.cases import BEFORE_LOGIN, CASES, FIRST_LINES, SERVER_ONLY
from tests.helpers.fake_server import PATIENCE, FakeServer
from tests.helpers.process import CLIENT, CLIENT_AS_IT_IS, child_environment, not_on_windows

LOGIN = b"login Tom Tom11\n"


def answer(line: str | bytes, is_logged_in: bool = True) -> str | None:
    """Return the refusal that a line gets, or None."""
    try:
        text = client.decode(line.encode() if isinstance(line, str) else line)
        client.check(text, is_logged_in)
    except client.Denied as denied:
        return str(denied)
    return None


def run_client(*options: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CLIENT_AS_IT_IS, *options],
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

    def test_characters_are_left_to_the_server(self) -> None:
        for line, _ in SERVER_ONLY:
            with self.subTest(line=line):
                self.assertIsNone(answer(line))

    def test_before_login_send_and_who_are_refused_whatever_follows_the_word(self) -> None:
        for line, refusal in BEFORE_LOGIN:
            with self.subTest(line=line):
                self.assertEqual(answer(line, is_logged_in=False), refusal)

    def test_a_command_is_its_words(self) -> None:
        for line, words in (
            ("LOGIN Tom Tom11", ("login", "Tom", "Tom11")),
            ("newuser\u3000Mike  Mike44 ", ("newuser", "Mike", "Mike44")),
            ("send all  a  b\tc ", ("send", "all", "a  b\tc")),
            (" LOGOUT ", ("logout",)),
            ("\u00a0 ", ()),
        ):
            with self.subTest(line=line):
                self.assertEqual(client.check(line, True), words)

    def test_the_limit_of_a_line_is_in_bytes_without_its_end(self) -> None:
        too_long = "Denied. Line longer than 2048 bytes."
        self.assertNotEqual(answer(b"x" * 2048 + b"\r"), too_long)
        self.assertEqual(answer(b"x" * 2049), too_long)
        self.assertEqual(answer(b"\xff" * 2049), too_long)
        self.assertEqual(answer(b"send all \xff"), "Denied. Not valid UTF-8.")


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
            ("Denied. (at 12:04): hello", ""),
            ("Tom (at 12:04): hello", ""),
            ("Usage: who", client.RED),
            ("Usage: hello", ""),
            ("who", ""),
            ("login confirmed", ""),
        ):
            with self.subTest(line=line):
                self.assertEqual(client.colour_of(line), colour)


class FoldTest(unittest.TestCase):
    def test_a_line_is_broken_between_words_and_indented(self) -> None:
        url, hill, accented = "https://example.org/a-long-address", "\u5c71", "e\u0301"
        for text, rows in (
            ("", [""]),
            ("Tom: hi", ["Tom: hi"]),
            ("x" * 20, ["x" * 20]),
            ("Tom: one two three four five", ["Tom: one two three", "  four five"]),
            ("Tom: exactly twenty!", ["Tom: exactly twenty!"]),
            ("Tom: exactly twenty! 1", ["Tom: exactly twenty!", "  1"]),
            ("Tom: a   b", ["Tom: a   b"]),
            ("Tom: hi" + " " * 50 + "David: no", ["Tom: hi", "  David: no"]),
            ("Tom: hi" + "\u3000" * 50 + "David: no", ["Tom: hi", "  David: no"]),
            ("Tom: hi" + "\u00a0" * 9 + "David: no", ["Tom: hi", "  David: no"]),
            (f"Tom: {url} is it", [f"Tom: {url}", "  is it"]),
            (f"Tom: see {url}", [f"Tom: see {url}"]),
            (f"Tom: {hill * 20}", [f"Tom: {hill * 7}", f"  {hill * 9}", f"  {hill * 4}"]),
            (f"Tom: {hill * 2} {hill * 7}", [f"Tom: {hill * 2}", f"  {hill * 7}"]),
            (f"Tom: {accented * 25}", [f"Tom: {accented * 15}", f"  {accented * 10}"]),
            (f"Tom: {accented * 9} {accented * 9}", [f"Tom: {accented * 9}", f"  {accented * 9}"]),
        ):
            with self.subTest(text=text):
                self.assertEqual([row.rstrip() for row in client.fold(text, 20).split("\n")], rows)

    def test_no_row_but_the_first_of_a_message_begins_at_the_margin(self) -> None:
        blanks = " \u00a0\u2003\u3000\u2800\u3164\u115f"
        for blank in blanks:
            for count in range(60):
                rows = client.fold(f"Tom: hi{blank * count}David:{blank}I give up", 20).split("\n")
                with self.subTest(blank=blank, count=count):
                    self.assertTrue(all(row.startswith("  ") for row in rows[1:]))
                    self.assertLessEqual(max(map(client.width_of, rows)), 20)

    def test_an_emoji_that_terminals_draw_in_two_widths_has_room_for_the_wider(self) -> None:
        rows = client.fold("Tom: " + "\u2764\ufe0f" * 20, 20).split("\n")
        self.assertLessEqual(max(2 * row.count("\u2764") for row in rows[1:]), 18)

    def test_a_window_of_one_column_is_survived(self) -> None:
        self.assertIn("\u5c71", client.fold("Tom: hi \u5c71\u5c71 x", 1))

    def test_what_a_terminal_may_draw_wider_is_no_padding_either(self) -> None:
        for filler in ("\xad" * 52, "\u0600" * 52, "\u08e2" * 52, "\u4dc0" * 26, "\u3248" * 26):
            rows = client.fold(f"Beth: x{filler} Tom: hi", 60).split("\n")
            self.assertTrue(rows[-1].startswith("  "), rows)
            self.assertTrue(rows[-1].endswith("Tom: hi"), rows)


class PersonTest(unittest.TestCase):
    def test_what_may_hold_a_password_stays_out_of_the_history(self) -> None:
        for text in (
            "help me",
            "help Tom Tom11",
            "login Tom\tTom11",
            "login\u2003Tom Tom11",
            "Tom11",
        ):
            self.assertTrue(client.is_secret(text), text)
        for text in ("help", "HELP", "login Tom", "send all hi", "send Beth hi", "who"):
            self.assertFalse(client.is_secret(text), text)

    def test_a_line_that_is_entered_as_the_connection_is_lost_is_named(self) -> None:
        for line, named in (
            (b"send all hello", b"send all hello\n"),
            (b"nonsense", b""),
            (b" ", b""),
            (b"logout", b""),
            (None, b""),
        ):
            person = client.Client.__new__(client.Client)
            person.room = client.Room()
            person.room.has_joined = True
            person.reader = mock.Mock(read_line=mock.Mock(return_value=line))
            person.connection = mock.Mock(has_ended=True, unsent=b"", failure=None)
            person.terminal = mock.Mock(is_terminal=True, wait=mock.Mock(side_effect=client.Gone))
            person.is_lost = False
            with self.subTest(line=line), mock.patch.object(client.Client, "tell_of_loss"):
                self.assertTrue(person.is_going_on())
                self.assertEqual(person.connection.unsent, named)


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
            (b"\x1b[A", [client.Editor.older]),
            (b"\x1bOH", [client.KEYS["\x01"]]),
            (b"\x1b[1;5D", [client.KEYS["\x1bb"]]),
            (b"\x1b[200~\x1b[A\x1b[201~", ["\x1b[A"]),
        ):
            with self.subTest(data=data):
                keyboard = client.Keyboard()
                one_by_one = [key for byte in data for key in keyboard.keys(bytes([byte]))]
                self.assertEqual(one_by_one, keys)
                self.assertEqual(client.Keyboard().keys(data), keys)

    def test_a_lone_escape_takes_nothing_with_it(self) -> None:
        self.assertEqual(client.Keyboard().keys(b"\x1bwho\x1b\r"), [*"who", client.Editor.enter])
        self.assertEqual(
            client.Keyboard().keys(b"\x1b\x1b[A\x1b[\r"),
            [client.Editor.older, "[", client.Editor.enter],
        )

    def test_every_line_end_is_one_enter(self) -> None:
        keys = client.Keyboard().keys(b"a\rb\nc\r\nd\r\r")
        self.assertEqual(keys.count(client.Editor.enter), 5)

    def test_an_unknown_sequence_is_no_text(self) -> None:
        self.assertEqual(client.Keyboard().keys(b"\x1b[15~\x1b[1;2Px"), ["x"])

    def test_what_a_terminal_answers_is_no_typing_in_however_many_pieces(self) -> None:
        for answer in (
            b"\x1b[[A",
            b"\x1b[?1;2c",
            b"\x1b[24;80R",
            b"\x1b]11;rgb:1e1e/1e1e/1e1e\x07",
            b"\x1b]11;rgb:1e1e/1e1e/1e1e\x1b\\",
            b"\x1bP>|tmux 3.4\x1b\\",
            b"\x1bXa string\x1b\\\x1b^private\x1b\\\x1b_application\x1b\\",
            b"\x1b]0;" + "t\u00eftle ".encode() * 10_000 + b"\x07",
        ):
            with self.subTest(answer=answer[:30]):
                keyboard = client.Keyboard()
                self.assertEqual(keyboard.keys(b"w" + answer + b"ho"), [*"who"])
                keys = [key for byte in answer for key in keyboard.keys(bytes([byte]))]
                self.assertEqual((keys, keyboard.keys(b"who")), ([], [*"who"]))
                self.assertLess(len(keyboard.rest), 100)

    def test_a_string_that_never_ends_swallows_no_key_but_letters(self) -> None:
        enter, older = client.Editor.enter, client.Editor.older
        self.assertEqual(client.Keyboard().keys(b"\x1b]who\rwho"), [enter, *"who"])
        self.assertEqual(client.Keyboard().keys(b"\x1bPwho\x1b[Awho"), [older, *"who"])

    def test_bytes_that_are_not_utf8_come_out_as_they_went_in(self) -> None:
        keys = client.Keyboard().keys(b"a\xffb")
        text = "".join(key for key in keys if isinstance(key, str))
        self.assertEqual(text.encode("utf-8", "surrogateescape"), b"a\xffb")


class RoomTest(unittest.TestCase):
    def test_people_are_known_from_what_the_server_says(self) -> None:
        room = client.Room()
        room.ask(("login", "Tom", "Tom11"))
        for line, names in (
            ("login confirmed", {"Tom"}),
            ("Beth joins.", {"Beth", "Tom"}),
            ("Beth: Mike joins.", {"Beth", "Tom"}),
            ("Beth left.", {"Tom"}),
            ("Beth, David, Tom", {"Beth", "David", "Tom"}),
            ("David: Ann, Mike", {"Beth", "David", "Tom"}),
        ):
            room.learn(line)
            with self.subTest(line=line):
                self.assertEqual(room.names, names)

    def test_who_sent_a_login_that_was_not_refused_counts_as_logged_in(self) -> None:
        login, newuser = ("login", "Tom", "Tom11"), ("newuser", "Tom", "Tom11")
        wrong = "Denied. User name or password incorrect."
        characters = "Denied. UserID may hold letters and digits of one script, and _ - ."
        for asked, heard, is_logged_in in (
            ([], [], False),
            ([newuser], [], False),
            ([login], [], True),
            ([login], [wrong], False),
            ([login], ["Denied. The chat room is full (3 of 3)."], False),
            ([login], ["Denied. Too many failed logins, try again in 6 seconds."], False),
            ([login], ["Denied. Password must be printable characters without spaces."], False),
            ([login, login], [wrong], True),
            ([login, login], [wrong, wrong], False),
            ([login], ["login confirmed"], True),
            (
                [login, login],
                ["login confirmed", "Denied. You are already logged in as Tom."],
                True,
            ),
            ([newuser, login], [characters], True),
            ([newuser, login], [characters, characters], False),
            ([newuser, login], ["New user account created. Please login.", wrong], False),
            ([newuser, login], ["Denied. User account already exists."], True),
            ([newuser, login], ["Denied. New accounts are not accepted."], True),
            ([newuser, login], ["Denied. Too many new accounts, try again in 6 seconds."], True),
            ([login], ["Denied. Please login first."], True),
            ([login], ["Denied.: User name or password incorrect."], True),
            ([login], ["Denied. joins."], True),
        ):
            with self.subTest(asked=asked, heard=heard):
                room = client.Room()
                for command in asked:
                    room.ask(command)
                for line in heard:
                    room.learn(line)
                self.assertEqual(room.is_logged_in, is_logged_in)


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
            lines = [line for batch in client.batches(lambda: near.recv(65536)) for line in batch]
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


class ConnectionTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(FakeServer(4096))
        self.connection = client.Connection("127.0.0.1", self.server.port)
        self.addCleanup(self.connection.socket.close)
        self.server.accept()

    def test_only_a_line_under_way_cannot_be_dropped(self) -> None:
        lines: list[str] = []
        while not self.connection.unsent:
            lines.append(f"send all {len(lines)} {'x' * 200}")
            self.connection.send(lines[-1].encode())
        is_under_way = self.connection.unsent != lines[-1].encode() + b"\n"
        self.connection.drop_unsent()
        self.assertEqual(bool(self.connection.unsent), is_under_way)
        heard = [self.server.hear() for _ in lines[:-1]]
        self.assertEqual(heard, lines[:-1])
        self.connection.flush()
        self.connection.send(b"logout")
        rest = [lines[-1], "logout"] if is_under_way else ["logout"]
        self.assertEqual([self.server.hear() for _ in rest], rest)

    @not_on_windows("Windows does not tell what is acknowledged")
    def test_the_lines_that_never_reached_the_server_are_known(self) -> None:
        self.connection.send(b"login Tom Tom11")
        self.assertEqual(self.server.hear(), "login Tom Tom11")
        lines: list[bytes] = []
        while self.unacknowledged() or len(self.connection.undelivered()) < 2:
            if self.connection.has_unsent():  # until the server's machine takes no more
                self.connection.flush()
            else:
                lines.append(f"send all {len(lines)} {'x' * 200}".encode())
                self.connection.send(lines[-1])
        undelivered = self.connection.undelivered()
        self.assertLess(len(undelivered), len(lines))
        self.assertEqual(undelivered, lines[-len(undelivered) :])
        self.server.reset()
        select.select([self.connection.socket], [], [], PATIENCE)
        with self.assertRaises(ConnectionResetError):
            self.connection.receive_some()
        undelivered = self.connection.undelivered()
        self.assertGreater(len(undelivered), 1)
        self.assertEqual(undelivered, lines[-len(undelivered) :])

    def unacknowledged(self) -> int:
        """Return how many segments are on their way to the server's machine, or back."""
        info = self.connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
        return int.from_bytes(info[24:28], sys.byteorder)

    @not_on_windows("Windows does not tell what is acknowledged")
    def test_what_has_reached_the_server_is_not_undelivered(self) -> None:
        lines = [f"send all {number}" for number in range(3000)]
        for line in lines:
            self.connection.send(line.encode())
            self.assertEqual(self.server.hear(), line)
        while self.unacknowledged():
            select.select([], [], [], 0.001)
        self.assertEqual(self.connection.undelivered(), [])

    def test_closing_is_a_reset_until_the_logout(self) -> None:
        self.connection.socket.close()
        self.server.hear_reset()

    @unittest.skipUnless(hasattr(socket, "TCP_KEEPIDLE"), "Windows before 10, as Wine is, lacks it")
    def test_a_network_that_forwards_no_more_is_noticed(self) -> None:
        for option, value in (
            (socket.TCP_KEEPIDLE, 30),
            (socket.TCP_KEEPINTVL, 10),
            (socket.TCP_KEEPCNT, 3),
            (socket.TCP_USER_TIMEOUT, 0),
        ):
            with self.subTest(option=option):
                found = self.connection.socket.getsockopt(socket.IPPROTO_TCP, option)
                self.assertEqual(found, value)
        keepalive = self.connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        self.assertEqual(keepalive, 1)

    @not_on_windows("Windows does not tell what is acknowledged")
    def test_what_is_not_acknowledged_for_a_minute_is_out_of_reach(self) -> None:
        for unacknowledged, milliseconds, is_out_of_reach in (
            (0, 3_600_000, False),
            (1, 59_000, False),
            (1, 61_000, True),
        ):
            info = struct.pack("=24xI28xI", unacknowledged, milliseconds)
            with self.subTest(unacknowledged=unacknowledged, milliseconds=milliseconds):
                connection = mock.Mock()
                connection.socket.getsockopt.return_value = info
                answer = client.Connection.is_out_of_reach(connection)
                self.assertEqual(answer, is_out_of_reach)

    @not_on_windows("Windows does not tell what is acknowledged")
    def test_the_kernel_tells_what_is_not_acknowledged(self) -> None:
        self.assertFalse(self.connection.is_out_of_reach())
        with mock.patch.object(client, "UNHEARD", -1):
            self.assertFalse(self.connection.is_out_of_reach())
            while not self.connection.unsent:  # the server reads nothing
                self.connection.send(b"send all hello")
            self.assertTrue(self.connection.is_out_of_reach())

    def test_a_logout_is_given_five_seconds_and_more_behind_a_flood(self) -> None:
        for lines, seconds in ((0, 5.0), (10, 5.0), (119, 25.0)):
            with self.subTest(lines=lines), FakeServer() as server:
                connection = client.Connection("127.0.0.1", server.port)
                server.accept()
                for _ in range(lines):
                    connection.send(b"who")
                    self.assertEqual(server.hear(), "who")
                self.assertAlmostEqual(connection.log_out(), seconds, delta=1)
                connection.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(server.hear_all(), ["logout"])
                connection.socket.close()


class ClientProcess:
    """client.py with pipes for standard input and output, connected to a fake server."""

    def __init__(self, server: FakeServer, stdin: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [*CLIENT_AS_IT_IS, "--port", str(server.port)],
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
        return self.process.returncode, output, errors.replace(b"\r\n", b"\n")


def wait_until_full(server: FakeServer) -> None:
    """Wait until much can be read, and nothing has been added to it for a tenth of a second."""
    waiting = -1
    while waiting != (waiting := server.unheard()) or waiting < 1000:
        time.sleep(0.1)  # nobody can be asked whether the sender is stuck


class PipeTest(unittest.TestCase):
    def serve(
        self,
        typed: bytes,
        replies: Sequence[str] = (),
        heard: Sequence[str] | None = None,
        ending: str = "",
    ) -> bytes:
        """Give the client its whole input, answer when it is through; return what it shows.

        ending: what it calls an end that is not as it should be, before the server's address.
        """
        with FakeServer() as server, ClientProcess(server) as process:
            assert process.process.stdin is not None
            process.type(typed)
            process.process.stdin.close()
            process.process.stdin = None
            lines = server.hear_all()
            server.say(*replies)
            server.die()
            status, output, errors = process.finish()
        told = f"{ending} 127.0.0.1:{server.port}.\n" if ending else ""
        self.assertEqual((status, errors.decode()), (int(bool(ending)), told))
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

    def test_a_farewell_before_the_logout_was_answered_is_status_1(self) -> None:
        output = self.serve(
            LOGIN + b"send all hello\n",
            ["login confirmed", "The server is shutting down."],
            ["login Tom Tom11", "send all hello", "logout"],
            ending="Disconnected from",
        )
        self.assertEqual(output, b"login confirmed\nThe server is shutting down.\n")

    def test_logout_in_the_input_is_sent_once_and_ends_it(self) -> None:
        self.serve(LOGIN + b"who\nLOGOUT\nwho\n", heard=["login Tom Tom11", "who", "logout"])

    def test_a_last_line_without_its_end_counts(self) -> None:
        self.serve(LOGIN + b"who", heard=["login Tom Tom11", "who", "logout"])

    def test_wrong_lines_are_refused_here_and_never_sent(self) -> None:
        output = self.serve(
            b"who\nfoo\nlogin Tom\nsend all \xff\n" + b"x" * 100_000 + b"\n\n \nlogin Tom Tom11",
            heard=["login Tom Tom11", "logout"],
        )
        self.assertEqual(
            output.decode().splitlines(),
            [
                "Denied. Please login first.",
                'Denied. Unknown command "foo". Commands: login, newuser, send, who, logout.',
                "Usage: login UserID Password",
                "Denied. Not valid UTF-8.",
                "Denied. Line longer than 2048 bytes.",
            ],
        )

    def test_valid_lines_are_sent_as_they_were_typed(self) -> None:
        lines = [
            "login Tom Tom11",
            "SEND all  a  b ",
            "\u3000who",
            "newuser Jose\u0301 e\u0301e\u0301e\u0301e\u0301",
            "send all \x1b[2J",
        ]
        self.serve("\n".join(lines).encode(), heard=[*lines, "logout"])

    def test_a_byte_order_mark_before_the_first_line_is_dropped(self) -> None:
        for line, refusal in FIRST_LINES:
            with self.subTest(line=line):
                command = line.removeprefix("\ufeff")
                is_sent = command.startswith("login")
                output = self.serve(
                    line.encode(), heard=[command, "logout"] if is_sent else ["logout"]
                )
                self.assertEqual(output.decode(), f"{refusal}\n" if refusal else "")

    def test_files_with_a_byte_order_mark_each_may_be_joined(self) -> None:
        lines = ["login Tom Tom11", "who"]
        marked = "".join(f"\ufeff{line}\n" for line in lines)
        self.serve(marked.encode(), heard=[*lines, "logout"])

    def test_help_is_local(self) -> None:
        output = self.serve(b"HELP\n", heard=["logout"]).decode()
        for command in client.USAGE:
            self.assertIn(command, output)
        for limit in ("3 to 32", "4 to 8", "1 to 256"):
            self.assertIn(limit, output)
        self.assertLess(max(map(len, output.split("\n"))), 80)

    def test_what_arrives_is_never_obeyed_in_a_pipe_either(self) -> None:
        output = self.serve(b"", ["\x1b]0;owned\x07\x9b2J\u202e", "Denied. No.", "Tom joins."])
        self.assertEqual(
            output.decode(), "\\x1b]0;owned\\x07\\x9b2J\\u202e\nDenied. No.\nTom joins.\n"
        )

    def test_ten_thousand_commands_and_their_replies_do_not_deadlock(self) -> None:
        typed = LOGIN + b"who\n" * 10_000
        reply = b"x" * 200 + b"\n"
        with FakeServer() as server, ClientProcess(server) as process:

            def echo() -> None:
                server.hear()
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
            process.type(LOGIN + b"send all he")
            self.assertEqual(server.hear(), "login Tom Tom11")
            process.type(b"llo\n")
            self.assertEqual(server.hear(), "send all hello")

    def test_a_lost_connection_ends_it_at_once_though_the_input_is_silent(self) -> None:
        for lose in (FakeServer.die, FakeServer.reset):
            with (
                self.subTest(lose=lose),
                FakeServer() as server,
                ClientProcess(server) as process,
            ):
                server.say("Tom joins.")
                stdout = process.process.stdout
                assert stdout is not None
                self.assertEqual(stdout.readline(), b"Tom joins.\n")
                lose(server)
                self.assertEqual(process.process.wait(PATIENCE), 1)
                _, _, errors = process.finish()
                address = f"127.0.0.1:{server.port}"
                self.assertEqual(errors.decode(), f"Connection to {address} lost.\n")

    def test_a_connection_that_the_server_ended_with_a_farewell_is_not_called_lost(self) -> None:
        for farewell in (
            "The server is shutting down.",
            "Denied. Tom logged in from another connection.",
            "Denied. No login within 60 minutes.",
            "Denied. Too many failed logins.",
            "Denied. Your account was removed.",
            "Denied. The server is busy.",
            "Denied. This room is encrypted. Use: python client.py --tls",
        ):
            with self.subTest(farewell), FakeServer() as server, ClientProcess(server) as process:
                server.say(farewell)
                server.die()
                self.assertEqual(process.process.wait(PATIENCE), 1)
                _, output, errors = process.finish()
                self.assertEqual(output.decode(), f"{farewell}\n")
                self.assertEqual(errors.decode(), f"Disconnected from 127.0.0.1:{server.port}.\n")

    @not_on_windows("there is no sh on Windows")
    def test_a_lost_connection_leaves_the_rest_of_the_input_alone(self) -> None:
        with FakeServer() as server, subprocess.Popen(["yes"], stdout=subprocess.PIPE) as yes:
            assert yes.stdout is not None
            with ClientProcess(server, yes.stdout.fileno()) as process:
                server.die()
                status, _, errors = process.finish()
            yes.kill()
        self.assertEqual(status, 1)
        self.assertEqual(errors.decode(), f"Connection to 127.0.0.1:{server.port} lost.\n")

    @not_on_windows("FIONREAD tells when to go on")
    def test_the_lines_of_a_pipe_that_never_arrived_are_named(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(LOGIN + b"send all hello hello hello hello hello hello\n" * 100_000)
            script.seek(0)
            with FakeServer(4096) as server, ClientProcess(server, script.fileno()) as process:
                wait_until_full(server)
                server.reset()
                status, _, errors = process.finish()
        self.assertEqual(status, 1)
        lines = errors.decode().splitlines()
        self.assertEqual(lines[0], f"Connection to 127.0.0.1:{server.port} lost.")
        self.assertIn(len(lines), range(2, 7))
        self.assertEqual(
            set(lines[1:]), {"Not delivered: send all hello hello hello hello hello hello"}
        )

    def test_standard_input_may_be_a_file(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(LOGIN)
            script.seek(0)
            with FakeServer() as server, ClientProcess(server, script.fileno()) as process:
                self.assertEqual(server.hear_all(), ["login Tom Tom11", "logout"])
                server.die()
                self.assertEqual(process.process.wait(PATIENCE), 0)

    @not_on_windows("Windows tells a closed pipe by another error")
    def test_a_closed_standard_output_ends_it_quietly(self) -> None:
        with FakeServer() as server, ClientProcess(server) as process:
            assert process.process.stdout is not None
            process.process.stdout.close()
            server.say("Tom")
            self.assertEqual(process.process.wait(PATIENCE), 1)
            assert process.process.stderr is not None
            self.assertEqual(process.process.stderr.read(), b"")
            process.process.stdout = None

    @not_on_windows("FIONREAD tells when to go on")
    def test_a_closed_standard_output_ends_it_even_while_the_server_reads_nothing(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(LOGIN + b"send all hello hello hello hello hello hello\n" * 400_000)
            script.seek(0)
            with FakeServer(4096) as server, ClientProcess(server, script.fileno()) as process:
                assert process.process.stdout is not None
                process.process.stdout.close()
                process.process.stdout = None
                wait_until_full(server)
                server.say("Tom")
                self.assertEqual(process.process.wait(PATIENCE), 1)

    @not_on_windows("there is no sh on Windows")
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

    @not_on_windows("Windows sends it to all at a console")
    def test_an_interrupt_ends_it_as_any_program_in_a_pipe(self) -> None:
        with FakeServer() as server, ClientProcess(server) as process:
            process.type(LOGIN)
            server.hear()
            process.process.send_signal(signal.SIGINT)
            status, _, errors = process.finish()
            self.assertEqual((status, errors), (-signal.SIGINT, b""))
            self.assertEqual(server.hear_reset(), [])

    @not_on_windows("Windows has no such signals")
    def test_a_signal_to_end_gives_128_and_its_number(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number), FakeServer() as server, ClientProcess(server) as process:
                process.type(LOGIN)
                server.hear()
                process.process.send_signal(number)
                self.assertEqual(process.process.wait(PATIENCE), 128 + number)
                self.assertEqual(server.hear_reset(), [])

    @not_on_windows("FIONREAD tells when to go on")
    def test_a_killed_client_is_a_reset_and_holds_back_little_of_what_was_typed(self) -> None:
        with tempfile.TemporaryFile() as script:
            script.write(LOGIN + b"send all hello hello hello hello hello hello\n" * 100_000)
            script.seek(0)
            with FakeServer(4096) as server, ClientProcess(server, script.fileno()) as process:
                wait_until_full(server)
                process.process.kill()
                process.process.wait()
                lines = server.hear_reset()
        self.assertLess(sum(len(line) + 1 for line in lines), 16 * 1024)

    def test_the_end_of_input_is_no_reset_however_slowly_the_server_reads(self) -> None:
        lines = [f"send all {number}" for number in range(5000)]
        with FakeServer(4096) as server, ClientProcess(server) as process:
            assert process.process.stdin is not None
            process.type(LOGIN + "\n".join(lines).encode())
            process.process.stdin.close()
            process.process.stdin = None
            self.assertEqual(server.hear_all(), ["login Tom Tom11", *lines, "logout"])
            server.die()
            self.assertEqual(process.finish()[0], 0)


class StartTest(unittest.TestCase):
    def test_an_older_python_is_told_what_is_needed_in_one_line(self) -> None:
        source = CLIENT.read_text()
        ast.parse(source, feature_version=(3, 8))  # it compiles, and so gets to the line
        program = (
            "import runpy, sys; sys.version_info = (3, 9, 6)\n"
            "runpy.run_path(sys.argv[1], run_name='__main__')"
        )
        result = subprocess.run(
            [sys.executable, "-S", "-c", program, str(CLIENT)], capture_output=True, check=False
        )
        self.assertEqual((result.returncode, result.stdout), (1, b""))
        self.assertRegex(result.stderr.decode(), r"\Aclient\.py needs Python 3\.11 or later;.*\n\Z")

    def test_it_is_a_program_of_its_own(self) -> None:
        self.assertTrue(CLIENT.read_text().startswith("#!/usr/bin/env python3\n"))
        self.assertTrue(os.access(CLIENT, os.X_OK))

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
                self.assertNotIn(b"server.py", result.stderr)

    def test_the_advice_fits_what_went_wrong(self) -> None:
        no_name = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        for error, host, advice in (
            (ConnectionRefusedError(), "127.0.0.1", "Start a server: python server.py"),
            (ConnectionRefusedError(), "localhost", "Start a server: python server.py"),
            (ConnectionRefusedError(), "::1", "Start a server: python server.py"),
            (
                ConnectionRefusedError(),
                "192.168.1.5",
                "python server.py --host 0.0.0.0 (on that machine)",
            ),
            (TimeoutError(), "192.168.1.5", "firewall"),
            (no_name, "nowhere", "no machine of that name is known"),
            (socket.gaierror(socket.EAI_AGAIN, "Try again"), "nowhere", "cannot be looked up now"),
            (OSError(errno.EHOSTUNREACH, "No route to host"), "192.168.1.5", "switched on"),
            (OSError(errno.ENETUNREACH, "Unreachable"), "192.168.1.5", "no network leads there"),
            (OSError(errno.EACCES, "Permission denied"), "192.168.1.5", "Permission denied."),
        ):
            with self.subTest(error=error, host=host):
                reason = client.reason_of(error, host)
                self.assertIn(advice, reason)
                is_refused = isinstance(error, ConnectionRefusedError)
                self.assertEqual("server.py" in reason, is_refused)

    def test_wrong_options_are_status_2_and_a_sentence(self) -> None:
        for options, sentence in (
            (["--port", "0"], "a port is a number from 1 to 65535, not '0'."),
            (["--port", "65536"], "a port is a number from 1 to 65535, not '65536'."),
            (["--port", "x"], "a port is a number from 1 to 65535, not 'x'."),
            (["--port=-1"], "a port is a number from 1 to 65535, not '-1'."),
            (["--port", "\u0661"], "a port is a number from 1 to 65535"),
            (["--host", "127.0.0.1:14850"], "--host 127.0.0.1 --port 14850"),
            (["--host", "[::1]:14850"], "--host [::1] --port 14850"),
            (["--nonsense"], "--nonsense"),
            (["extra"], "extra"),
        ):
            with self.subTest(options=options):
                result = run_client(*options)
                self.assertEqual(result.returncode, 2)
                self.assertIn(sentence, result.stderr.decode().split("\n")[-2])

    def test_help_lists_the_commands_too(self) -> None:
        self.assertIn(client.HELP, run_client("--help").stdout.decode().replace("\r", ""))

    def test_help_and_version_need_no_server(self) -> None:
        self.assertEqual(
            run_client("--version").stdout.split(), [b"client.py", client.VERSION.encode()]
        )
        self.assertEqual(run_client("-h").returncode, 0)
