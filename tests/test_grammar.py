"""The grammar, framing and pace: what is a command, to the letter, without a socket."""

from __future__ import annotations

import unittest
from unittest import mock

import server
from tests.helpers.cases import CASES


def answer(line: str | bytes) -> str | None:
    """Return the refusal that a line gets, or None."""
    try:
        server.parse(line.encode() if isinstance(line, str) else line)
    except server.Denied as denied:
        return str(denied)
    return None


class GrammarTest(unittest.TestCase):
    def test_every_case_gets_its_exact_answer(self) -> None:
        for line, refusal in CASES:
            with self.subTest(line=line):
                self.assertEqual(answer(line), refusal)

    def test_commands_carry_what_was_typed(self) -> None:
        for line, command in (
            ("LOGIN Tom Tom11", server.Login("Tom", "Tom11")),
            ("newuser  Mike  Mike44 ", server.NewUser("Mike", "Mike44")),
            ("send all hello", server.SendAll("hello")),
            ("send Beth are you there?", server.Send("Beth", "are you there?")),
            ("send all   a  b\tc  ", server.SendAll("a  b c")),
            ("who", server.Who()),
            ("logout\r", server.Logout()),
        ):
            with self.subTest(line=line):
                self.assertEqual(server.parse(line.encode()), command)

    def test_names_and_passwords_are_normalised(self) -> None:
        self.assertEqual(
            server.parse("login Jose\u0301 e\u0301e\u0301e\u0301e\u0301".encode()),
            server.Login("Jos\u00e9", "\u00e9" * 4),
        )

    def test_an_empty_line_is_no_command(self) -> None:
        for line in (b"", b"\r", b"   ", b"  \r"):
            with self.subTest(line=line):
                self.assertIsNone(server.parse(line))

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


class FramingTest(unittest.TestCase):
    def test_split_command_is_one_command(self) -> None:
        framing = server.Framing()
        lines = [line for byte in b"send all hello\n" for line in framing.feed(bytes([byte]))]
        self.assertEqual(lines, [b"send all hello"])

    def test_coalesced_commands_are_as_many_commands(self) -> None:
        framing = server.Framing()
        self.assertEqual(
            framing.feed(b"who\r\nwho\n\nsend all x\nwh"), [b"who\r", b"who", b"", b"send all x"]
        )
        self.assertEqual(framing.feed(b"o\n"), [b"who"])

    def test_an_overlong_line_is_told_once_and_skipped_in_bounded_memory(self) -> None:
        framing = server.Framing()
        told = [line for _ in range(1000) for line in framing.feed(b"x" * 1000)]
        self.assertEqual(len(told), 1)
        self.assertGreater(len(told[0]), server.MAX_LINE)
        self.assertLessEqual(len(framing.tail), 2 * server.MAX_LINE)
        self.assertEqual(framing.feed(b"x\nwho\n"), [b"who"])

    def test_an_overlong_line_in_one_piece_is_told_once(self) -> None:
        framing = server.Framing()
        lines = framing.feed(b"x" * 3000 + b"\nwho\n")
        self.assertEqual([len(line) for line in lines], [3000, 3])


class FailuresTest(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        clock = mock.patch("server.time.monotonic", lambda: self.now)
        clock.start()
        self.addCleanup(clock.stop)
        self.failures = server.Failures()

    def fail(self, host: str, times: int) -> None:  # type: ignore[override]
        for _ in range(times):
            self.failures.add(host)

    def test_past_ten_failures_an_address_waits_six_seconds_for_each_try(self) -> None:
        self.fail("192.0.2.1", 9)
        self.failures.check("192.0.2.1")
        self.fail("192.0.2.1", 1)
        with self.assertRaisesRegex(
            server.Denied, r"^Denied\. Too many failed logins, try again in 6 seconds\.$"
        ):
            self.failures.check("192.0.2.1")
        self.now += 4.5
        with self.assertRaisesRegex(server.Denied, "in 2 seconds"):
            self.failures.check("192.0.2.1")
        self.now += 1.5
        self.failures.check("192.0.2.1")
        self.fail("192.0.2.1", 1)
        with self.assertRaisesRegex(server.Denied, "in 6 seconds"):
            self.failures.check("192.0.2.1")
        self.now += 60
        self.fail("192.0.2.1", 9)
        self.failures.check("192.0.2.1")

    def test_other_addresses_are_not_concerned(self) -> None:
        self.fail("192.0.2.1", 10)
        self.failures.check("192.0.2.2")
        self.failures.check("::1")

    def test_a_whole_ipv6_network_counts_as_one_address(self) -> None:
        self.fail("2001:db8::1", 10)
        with self.assertRaises(server.Denied):
            self.failures.check("2001:db8::ffff:2%eth0")
        self.failures.check("2001:db8:0:1::1")

    def test_ipv4_seen_through_an_ipv6_socket_counts_by_its_ipv4_address(self) -> None:
        self.fail("::ffff:192.0.2.1", 10)
        with self.assertRaises(server.Denied):
            self.failures.check("192.0.2.1")
        self.failures.check("::ffff:192.0.2.2")

    def test_the_table_of_addresses_is_bounded(self) -> None:
        with mock.patch("server.FAILURE_ADDRESSES", 3):
            for last in range(1, 6):
                self.fail(f"192.0.2.{last}", 10)
        self.assertEqual(len(self.failures.counts), 3)
        self.failures.check("192.0.2.1")
        with self.assertRaises(server.Denied):
            self.failures.check("192.0.2.5")
