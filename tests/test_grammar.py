"""The wire without a socket: what is a line, and what is a command, to the letter."""

from __future__ import annotations

import time
import unittest

import server
from tests.helpers.cases import BEFORE_LOGIN, CASES, SERVER_ONLY


def answer(line: str | bytes, is_logged_in: bool = True) -> str | None:
    """Return the refusal that a line gets, or None."""
    try:
        server.parse(line.encode() if isinstance(line, str) else line, is_logged_in)
    except server.Denied as denied:
        return str(denied)
    return None


class GrammarTest(unittest.TestCase):
    def test_every_case_gets_its_exact_answer(self) -> None:
        for line, refusal in [*CASES, *SERVER_ONLY]:
            with self.subTest(line=line):
                self.assertEqual(answer(line), refusal)

    def test_send_and_who_before_login_are_refused_whatever_follows(self) -> None:
        for line, refusal in BEFORE_LOGIN:
            with self.subTest(line=line):
                self.assertEqual(answer(line, is_logged_in=False), refusal)

    def test_commands_carry_what_was_typed(self) -> None:
        for line, command in (
            ("LOGIN Tom Tom11", ("login", "Tom", "Tom11")),
            ("newuser  Mike  Mike44 ", ("newuser", "Mike", "Mike44")),
            ("send all hello", ("send", "all", "hello")),
            ("send ALL hello", ("send", "all", "hello")),
            ("send Beth are you there?", ("send", "Beth", "are you there?")),
            ("send all   a  b\tc  ", ("send", "all", "a  b c")),
            ("send\u00a0Beth\u3000a\u00a0b", ("send", "Beth", "a\u00a0b")),
            ("who", ("who",)),
            ("logout\r", ("logout",)),
        ):
            with self.subTest(line=line):
                self.assertEqual(server.parse(line.encode()), command)

    def test_names_and_passwords_are_normalised(self) -> None:
        self.assertEqual(
            server.parse("login Jose\u0301 e\u0301e\u0301e\u0301e\u0301".encode()),
            ("login", "Jos\u00e9", "\u00e9" * 4),
        )
        self.assertEqual(server.parse("send Jose\u0301 x".encode()), ("send", "Jos\u00e9", "x"))

    def test_an_empty_line_is_no_command(self) -> None:
        for line in (b"", b"\r", b"   ", b"  \r"):
            with self.subTest(line=line):
                self.assertEqual(server.parse(line), ())

    def test_invalid_utf8_is_refused(self) -> None:
        for line in (b"\xff", b"send all \xc3", b"send all \xed\xa0\x80", b"who \xc0\x80"):
            with self.subTest(line=line):
                self.assertEqual(answer(line), "Denied. Not valid UTF-8.")

    def test_the_limit_of_a_line_is_in_bytes_without_its_end(self) -> None:
        too_long = "Denied. Line longer than 2048 bytes."
        self.assertNotEqual(answer(b"x" * 2048), too_long)
        self.assertNotEqual(answer(b"x" * 2048 + b"\r"), too_long)
        self.assertEqual(answer(b"x" * 2049), too_long)
        self.assertEqual(answer(b"\xff" * 2049), too_long)

    def test_no_line_costs_more_than_a_line_of_plain_letters(self) -> None:
        """Marks without end take quadratic time to normalise."""

        def cost(line: str) -> float:
            began = time.process_time()
            for _ in range(100):
                answer(line)
            return time.process_time() - began

        plain = min(cost("login " + "a" * 2000 + " x") for _ in range(3))
        for word in ("\u0301\u0327" * 500, "\u0345" * 1000, "e" + "\u0316\u0301" * 500):
            for line in (f"login {word} x", f"login Tom {word}", f"send {word} x"):
                with self.subTest(line=line[:12]):
                    self.assertLess(min(cost(line) for _ in range(3)), 10 * plain + 0.005)

    def test_a_web_request_is_known_by_its_first_line(self) -> None:
        for line in (
            b"GET / HTTP/1.1\r",
            b"POST /login HTTP/1.0",
            b"OPTIONS * HTTP/1.1",
            b"GET /" + b"x" * 3000,
            b"GET /" + b"x" * 3000 + b" HTTP/1.1\r",
        ):
            self.assertTrue(server.is_web_request(line), line)
        for line in (
            b"login Tom HTTP/1.1",
            b"SEND all HTTP/1.1",
            b"send all HTTP/1.1 x HTTP/1.1",
            b"who",
            b"login " + b"x" * 3000,
            b"x" * 3000,
            b"x y" * 3000,
            b"\xff \xff HTTP/1.1",
        ):
            self.assertFalse(server.is_web_request(line), line)


class FramingTest(unittest.TestCase):
    def setUp(self) -> None:
        self.framing = server.Framing()

    def feed_bytewise(self, data: bytes) -> list[bytes]:
        return [line for byte in data for line in self.framing.feed(bytes([byte]))]

    def test_split_command_is_one_command(self) -> None:
        self.assertEqual(self.feed_bytewise(b"send all hello\n"), [b"send all hello"])

    def test_coalesced_commands_are_as_many_commands(self) -> None:
        self.assertEqual(
            self.framing.feed(b"who\r\nwho\n\nsend all x\nwh"),
            [b"who\r", b"who", b"", b"send all x"],
        )
        self.assertEqual(self.framing.feed(b"o\n"), [b"who"])

    def test_an_overlong_line_is_told_once_and_skipped_in_bounded_memory(self) -> None:
        told = [line for _ in range(1000) for line in self.framing.feed(b"x" * 1000)]
        self.assertEqual(len(told), 1)
        self.assertGreater(len(told[0]), server.MAX_LINE)
        self.assertLessEqual(len(self.framing.tail), 2 * server.MAX_LINE)
        self.assertEqual(self.framing.feed(b"x\nwho\n"), [b"who"])

    def test_an_overlong_line_in_one_piece_is_told_once(self) -> None:
        lines = self.framing.feed(b"x" * 3000 + b"\nwho\n")
        self.assertGreater(len(lines[0]), server.MAX_LINE)
        self.assertEqual(lines[1:], [b"who"])

    def test_cr_nul_ends_a_line_in_any_number_of_pieces(self) -> None:
        self.assertEqual(self.feed_bytewise(b"who\r\0login a b\r\0"), [b"who", b"login a b"])
        self.assertEqual(self.framing.feed(b"who\r\0\nwho\r\n"), [b"who", b"", b"who\r"])

    def test_a_byte_order_mark_is_dropped_before_the_first_line_alone(self) -> None:
        mark = "\ufeff".encode()
        self.assertEqual(
            self.feed_bytewise(mark + b"who\n" + mark + b"who\n"), [b"who", mark + b"who"]
        )


class TelnetTest(FramingTest):
    """RFC 854's commands are no part of the text. All of FramingTest holds with them in it, too."""

    PUTTY = bytes.fromhex("fffb1f fffb20 fffb18 fffb27 fffd01 fffb03 fffd03")

    def test_puttys_opening_is_answered_and_its_first_command_is_whole(self) -> None:
        for feed in (self.framing.feed, self.feed_bytewise):
            with self.subTest(feed=feed):
                self.framing.__init__()  # type: ignore[misc]
                self.assertEqual(feed(self.PUTTY + b"login Tom Tom11\r\n"), [b"login Tom Tom11\r"])
                self.assertEqual(
                    self.framing.answers,
                    bytes.fromhex("fffe1f fffe20 fffe18 fffe27 fffc01 fffe03 fffc03"),
                )

    def test_interrupt_drops_the_half_typed_line_and_the_timing_mark_is_answered(self) -> None:
        lines = self.feed_bytewise(b"send all hel\xff\xf4\xff\xfd\x06who\n")
        self.assertEqual(lines, [b"who"])
        self.assertEqual(self.framing.answers, b"\xff\xfc\x06")

    def test_a_subnegotiation_is_taken_out_whole_even_with_a_line_end_in_it(self) -> None:
        for data in (b"w\xff\xfa\x1f\0P\0\n\xff\xf0ho\n", b"w\xff\xfa\x18\0\xff\xff\xff\xf0ho\n"):
            self.assertEqual(self.framing.feed(data), [b"who"])
            self.assertEqual(self.feed_bytewise(data), [b"who"])

    def test_refusals_and_one_byte_commands_are_not_answered(self) -> None:
        self.assertEqual(
            self.framing.feed(b"\xff\xfc\x01\xff\xfe\x01\xff\xf1\xff\xf2who\n"), [b"who"]
        )
        self.assertEqual(self.framing.answers, b"")

    def test_a_byte_255_of_text_is_not_utf8(self) -> None:
        for data in (b"who\xff\xff\n", b"\xff\xff\xf4who\n", b"who \xff\x41\n", b"\xff\nwho"):
            (line,) = self.framing.feed(data)
            self.assertEqual(answer(line), "Denied. Not valid UTF-8.")
            self.framing.tail = b""

    def test_its_bytes_count_towards_the_length_of_their_line(self) -> None:
        self.assertEqual(self.framing.feed(b"\xff\xfd\x01" * 600), [])
        self.assertEqual(len(self.framing.answers), 1800)
        told = self.framing.feed(b"\xff\xfd\x01" * 100)
        self.assertEqual([answer(line) for line in told], ["Denied. Line longer than 2048 bytes."])
        answered = len(self.framing.answers)
        self.assertEqual(self.framing.feed(b"\xff\xfd\x01" * 1000 + b"\xff\xfa" * 10), [])
        self.assertEqual(len(self.framing.answers), answered)
        self.assertLess(len(self.framing.tail + self.framing.command), 3000)

    def test_the_next_line_counts_anew(self) -> None:
        self.framing.feed(b"\xff\xfd\x01" * 600 + b"who\n" + b"\xff\xfd\x01" * 600)
        self.assertEqual(self.framing.feed(b"who\n"), [b"who"])

    def test_a_subnegotiation_without_end_is_held_in_bounded_memory(self) -> None:
        told = [line for _ in range(1000) for line in self.framing.feed(b"\xff\xfa" + b"x" * 1000)]
        self.assertEqual(len(told), 1)
        self.assertLess(len(self.framing.tail + self.framing.command), 3000)
        self.assertEqual(self.framing.feed(b"\nwho\n"), [b"who"])
