"""The limits: who may do what how often, and whose password is hashed next."""

from __future__ import annotations

import threading
import unittest
from unittest import mock

import server
from tests.helpers.process import not_on_windows

TOO_MANY = "Denied. Too many failed logins"


class ClockTest(unittest.TestCase):
    """Time stands still unless a test has it pass."""

    def setUp(self) -> None:
        self.now = 1000.0
        clock = mock.patch("server.time.monotonic", lambda: self.now)
        clock.start()
        self.addCleanup(clock.stop)


class AllowanceTest(ClockTest):
    def test_a_burst_is_free_and_then_each_one_waits_for_its_turn(self) -> None:
        lines = server.Allowance(20, 0.1)
        self.assertEqual([lines.spend("Tom") for _ in range(20)], [0.0] * 20)
        self.assertAlmostEqual(lines.spend("Tom"), 0.1)
        self.assertAlmostEqual(lines.spend("Tom"), 0.2)
        self.now += 0.2
        self.assertAlmostEqual(lines.spend("Tom"), 0.1)

    def test_a_pause_brings_the_burst_back_and_no_more(self) -> None:
        lines = server.Allowance(20, 0.1)
        for _ in range(20):
            lines.spend("Tom")
        self.now += 3600
        self.assertEqual(sum(lines.spend("Tom") == 0 for _ in range(30)), 20)

    def test_others_are_not_concerned(self) -> None:
        lines = server.Allowance(1, 10.0)
        for _ in range(10):
            lines.spend("Tom")
        self.assertEqual(lines.spend("Beth"), 0.0)

    def test_nothing_is_limited_at_rate_0(self) -> None:
        lines = server.Allowance(20, 0.0)
        self.assertEqual({lines.spend("Tom") for _ in range(1000)}, {0.0})
        self.assertEqual(len(lines.paid_until), 0)

    def test_a_debt_has_an_end_or_a_flood_would_lock_its_address_for_hours(self) -> None:
        lines = server.Allowance(20, 0.1)
        longest = max(lines.spend("192.0.2.1") for _ in range(100_000))
        self.assertAlmostEqual(longest, server.LOBBY * 0.1)

    def test_past_ten_failures_each_try_waits_six_seconds(self) -> None:
        failures = server.Allowance(server.FAILURES, server.FAILURE_SECONDS)
        for _ in range(10):
            failures.take("Tom", TOO_MANY)
        for wait, pause in ((6, 0), (6, 2.5), (4, 2), (2, 1.5)):  # a refusal counts for nothing
            refusal = rf"^Denied\. Too many failed logins, try again in {wait} seconds\.$"
            with self.assertRaisesRegex(server.Denied, refusal):
                failures.take("Tom", TOO_MANY)
            self.now += pause
        failures.take("Tom", TOO_MANY)
        with self.assertRaisesRegex(server.Denied, "in 6 seconds"):
            failures.take("Tom", TOO_MANY)

    def test_what_is_given_back_was_never_taken(self) -> None:
        failures = server.Allowance(server.FAILURES, server.FAILURE_SECONDS)
        for _ in range(100):
            failures.take("Tom", TOO_MANY)
            failures.give_back("Tom")
        self.assertEqual(len(failures.paid_until), 0)

    def test_a_hundred_accounts_and_then_one_every_six_seconds(self) -> None:
        accounts = server.Allowance(server.NEW_ACCOUNTS, server.FAILURE_SECONDS)
        for _ in range(100):
            accounts.take("192.0.2.1", "Denied. Too many new accounts")
        refusal = r"^Denied\. Too many new accounts, try again in 6 seconds\.$"
        with self.assertRaisesRegex(server.Denied, refusal):
            accounts.take("192.0.2.1", "Denied. Too many new accounts")

    def test_the_table_is_bounded_and_forgets_the_earliest(self) -> None:
        failures = server.Allowance(server.FAILURES, server.FAILURE_SECONDS)
        with mock.patch("server.REMEMBERED", 3):
            for last in range(1, 6):
                for _ in range(10):
                    failures.take(f"192.0.2.{last}", TOO_MANY)
        self.assertEqual(len(failures.paid_until), 3)
        failures.take("192.0.2.1", TOO_MANY)
        with self.assertRaises(server.Denied):
            failures.take("192.0.2.5", TOO_MANY)


class NetworkTest(unittest.TestCase):
    def test_an_address_counts_by_itself_and_an_ipv6_one_by_its_network(self) -> None:
        for one, other, is_same in (
            ("192.0.2.1", "192.0.2.2", False),
            ("2001:db8::1", "2001:db8::ffff:2%eth0", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("::ffff:192.0.2.1", "192.0.2.1", True),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
            ("::1", "192.0.2.1", False),
        ):
            with self.subTest(one=one, other=other):
                self.assertEqual(server.network_of(one) == server.network_of(other), is_same)

    def test_an_address_is_shown_as_people_write_it(self) -> None:
        self.assertEqual(server.show_address("192.0.2.1", 9), "192.0.2.1:9")
        self.assertEqual(server.show_address("::ffff:192.0.2.1", 9), "192.0.2.1:9")
        self.assertEqual(server.show_address("2001:db8::1", 9), "[2001:db8::1]:9")


class HashingTest(unittest.TestCase):
    def setUp(self) -> None:
        with mock.patch("server.CORES", 1):
            self.hashing = server.Hashing()
        self.order: list[str] = []
        self.threads: list[threading.Thread] = []
        self.busy = threading.Event()
        self.addCleanup(self.busy.set)
        began = threading.Event()

        def keep_busy() -> None:
            began.set()
            self.busy.wait(15)

        self.ask("first", 0, b"x", keep_busy)
        began.wait(15)

    def ask(self, name: str, kind: int, network: bytes, task: object = None) -> None:
        """Have something hashed, and return once it waits for its turn."""
        queued = self.hashing.queue.unfinished_tasks
        work = task if callable(task) else lambda: self.order.append(name)
        thread = threading.Thread(target=self.hashing.run, args=(kind, network, work))
        thread.start()
        self.threads.append(thread)
        while self.hashing.queue.unfinished_tasks == queued:
            self.assertTrue(thread.is_alive())

    def finish(self) -> list[str]:
        self.busy.set()
        for thread in self.threads:
            thread.join(15)
        return self.order

    def test_logins_come_before_new_accounts(self) -> None:
        self.ask("account", server.Hashing.NEW_ACCOUNT, b"a")
        self.ask("login", server.Hashing.LOGIN, b"b")
        self.assertEqual(self.finish(), ["login", "account"])

    def test_a_crowd_at_one_address_keeps_nobody_else_out(self) -> None:
        for number in range(5):
            self.ask(f"crowd {number}", server.Hashing.LOGIN, b"a")
        self.ask("other", server.Hashing.LOGIN, b"b")
        self.assertLessEqual(self.finish().index("other"), 1)

    def test_what_a_task_raises_is_raised_where_it_was_asked_for(self) -> None:
        self.finish()
        with self.assertRaisesRegex(server.Denied, "no"):
            self.hashing.run(0, b"a", mock.Mock(side_effect=server.Denied("no")))
        self.assertEqual(self.hashing.run(0, b"a", lambda: 42), 42)

    @not_on_windows("Windows has no priorities of this kind")
    def test_a_priority_that_is_refused_changes_nothing(self) -> None:
        with mock.patch("server.os.setpriority", side_effect=PermissionError):
            hashing = server.Hashing()
            self.assertEqual(hashing.run(0, b"a", lambda: 42), 42)
