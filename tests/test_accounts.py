"""users.txt: read, mended, appended to; never in plain text, never torn."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import server
from tests.helpers.process import (
    SERVER,
    USERS,
    ServerProcess,
    altered_server,
    child_environment,
    not_on_windows,
    temporary_folder,
)

KNOWN = (("Tom", "Tom11"), ("David", "David22"), ("Beth", "Beth33"))
NO_ACCOUNT = "not an account; write (UserID, Password), or # before a comment."
FAST_COST = (4, 1, 1)  # log2(N), r, p: what these tests are about is not the hash


class AccountsTest(unittest.TestCase):
    def setUp(self) -> None:
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.folder = stack.enter_context(temporary_folder())
        self.path = self.folder / "users.txt"
        self.warnings: list[str] = []
        stack.enter_context(mock.patch("server.HASH_COST", FAST_COST))
        self.stack = stack

    def load(self, text: str | bytes | None = None) -> server.Accounts:
        """Write users.txt, if a text is given, and load it."""
        if text is not None:
            self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        accounts = server.Accounts(self.path, self.warnings.append)
        self.stack.callback(accounts.close)
        accounts.open()
        return accounts

    def refusal(self, text: str | bytes | None) -> str:
        with self.assertRaises(server.AccountsError) as raised:
            self.load(text)
        return str(raised.exception)

    # Hashes.

    def test_a_hash_is_a_phc_string_with_a_salt_of_its_own(self) -> None:
        with mock.patch("server.HASH_COST", (14, 8, 1)):
            first, second = server.hash_password("Tom11"), server.hash_password("Tom11")
        self.assertRegex(first, r"^\$scrypt\$ln=14,r=8,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$")
        self.assertNotEqual(first, second)
        self.assertTrue(server.verify_password("Tom11", first))
        self.assertFalse(server.verify_password("Tom12", first))

    def test_a_hash_by_passlib_verifies(self) -> None:
        # passlib.hash.scrypt.using(rounds=10, salt=b"0123456789abcdef").hash("Tom11")
        record = (
            "$scrypt$ln=10,r=8,p=1$MDEyMzQ1Njc4OWFiY2RlZg$"
            "9eE65dvjvQ5+gH/L8iGRfQELCPUuLdwheev0ivOqx9c"
        )
        self.assertTrue(server.verify_password("Tom11", record))

    def test_impossible_hashes_are_refused(self) -> None:
        good = server.hash_password("Tom11")
        salt_and_key = good.split("$", 3)[3]
        for record in (
            good[:-1],
            good + "A",
            good.replace("scrypt", "argon2"),
            good.replace("$ln=", "$n="),
            f"$scrypt$ln=0,r=8,p=1${salt_and_key}",
            f"$scrypt$ln=63,r=8,p=1${salt_and_key}",
            f"$scrypt$ln=16,r=1,p=1${salt_and_key}",
            f"$scrypt$ln=14,r=8,p=99${salt_and_key}",
            f"$scrypt$ln=14,r=999,p=1${salt_and_key}",
        ):
            with self.subTest(record=record), self.assertRaises(ValueError):
                server.parse_hash(record)

    def test_the_shipped_accounts_are_hashed_and_log_in(self) -> None:
        """As they came; this clone's users.txt may be in use, and hold others."""
        for userid, password in KNOWN:
            record = server.account_line(userid, f"$scrypt$ln=14,r=8,p=1${server.SHIPPED[userid]}")
            accounts = self.load(record)
            self.assertTrue(accounts.verify(userid, password))
            self.assertTrue(accounts.records[userid].endswith(server.SHIPPED[userid]))
            accounts.close()
        users = server.UsersFile(USERS.read_bytes(), "users.txt")
        self.assertEqual(users.plain, {})

    # Reading.

    def test_plain_passwords_are_hashed_and_all_else_is_kept(self) -> None:
        hashed = server.hash_password("David22")
        lines = [
            "# the class of 2026",
            "",
            "(Tom, Tom11)",
            f"(David, {hashed})",
            "  ",
            "(Beth,Beth33)",
        ]
        accounts = self.load("\n".join(lines))
        written = self.path.read_text().split("\n")
        self.assertEqual([written[i] for i in (0, 1, 3, 4)], [lines[i] for i in (0, 1, 3, 4)])
        self.assertNotRegex(self.path.read_text(), "Tom11|Beth33")
        for userid, password in KNOWN:
            self.assertTrue(accounts.verify(userid, password))
            self.assertFalse(accounts.verify(userid, "wrong"))
        accounts.close()
        before = self.path.read_bytes()
        self.assertTrue(self.load().verify("Beth", "Beth33"))
        self.assertEqual(self.path.read_bytes(), before)

    def test_a_password_may_look_like_the_file_around_it(self) -> None:
        accounts = self.load("(Tom, a),(b)\n(Beth, $scrypt$)\n(David, #,(#)\n")
        for userid, password in (("Tom", "a),(b"), ("Beth", "$scrypt$"), ("David", "#,(#")):
            self.assertTrue(accounts.verify(userid, password))

    @not_on_windows("Windows has no such modes and owners")
    def test_mode_and_owner_and_link_survive_hashing(self) -> None:
        target = self.folder / "elsewhere.txt"
        target.write_text("(Tom, Tom11)\n")
        target.chmod(0o640)
        if os.getuid() == 0:
            os.chown(target, 12345, 12346)
        before = target.stat()
        self.path.symlink_to(target)
        self.load()
        after = target.stat()
        self.assertEqual(stat.S_IMODE(after.st_mode), 0o640)
        self.assertEqual((after.st_uid, after.st_gid), (before.st_uid, before.st_gid))
        self.assertTrue(self.path.is_symlink())
        self.assertNotIn("Tom11", target.read_text())

    def test_what_an_editor_on_windows_writes_is_read(self) -> None:
        accounts = self.load(b"\xef\xbb\xbf(Tom, Tom11)\r\n(Beth, Beth33)\r\n")
        self.assertTrue(accounts.verify("Tom", "Tom11"))
        self.assertTrue(accounts.verify("Beth", "Beth33"))

    def test_names_and_passwords_in_the_file_are_normalised(self) -> None:
        accounts = self.load("(Jose\u0301, e\u0301e\u0301e\u0301e\u0301)\n")
        self.assertTrue(accounts.verify("Jos\u00e9", "\u00e9" * 4))

    def test_a_malformed_line_is_named_with_its_number_and_reason(self) -> None:
        good = "(Tom, Tom11)\n"
        for line, reason in (
            ("Tom Tom11", NO_ACCOUNT),
            ("(Tom Tom11)", NO_ACCOUNT),
            ("(ab, Tom11)", "UserID must be 3 to 32 characters."),
            ("(a b c, Tom11)", "UserID may hold letters and digits of one script, and _ - ."),
            ("(all, Tom11)", 'UserID "all" is reserved.'),
            ("(Beth, abc)", "Password must be 4 to 8 characters."),
            ("(Beth, )", "Password must be 4 to 8 characters."),
            ("(Beth, ab cd)", "Password must be printable characters without spaces."),
            (
                "(Beth, abcdefghi)",
                "the second field is neither a password of 4 to 8 characters nor a scrypt hash.",
            ),
            ("(Tom, Tom12)", "a second account for Tom; keep one."),
        ):
            with self.subTest(line=line):
                self.assertEqual(
                    self.refusal(good + "\n# x\n" + line + "\n\n"), f"users.txt:4: {reason}"
                )

    def test_a_reserved_name_with_a_good_hash_is_refused(self) -> None:
        with mock.patch("server.HASH_COST", (14, 8, 1)):
            line = server.account_line("All", server.hash_password("Tom11"))
        self.assertEqual(self.refusal(line), 'users.txt:1: UserID "all" is reserved.')

    def test_bytes_that_are_not_utf8_are_kept_in_comments_and_refused_in_accounts(self) -> None:
        self.load(b"# caf\xe9\n(Tom, Tom11)\n").close()
        self.assertTrue(self.path.read_bytes().startswith(b"# caf\xe9\n(Tom, $scrypt$"))
        self.assertIn("users.txt:1: not UTF-8;", self.refusal(b"(caf\xe9, Tom11)\n"))

    def test_a_refused_file_is_left_as_it_was(self) -> None:
        text = "(Tom, Tom11)\nnonsense\n"
        self.refusal(text)
        self.assertEqual(self.path.read_text(), text)

    def test_hashing_that_takes_its_time_tells_how_far_it_is(self) -> None:
        said = io.StringIO()
        clock = mock.patch("server.time.monotonic", side_effect=itertools.count(0.0, 0.6))
        with contextlib.redirect_stderr(said), clock:
            server.hash_passwords(["Tom11", "David22", "Beth33"])
        self.assertEqual(said.getvalue(), "Hashing passwords: 2 of 3.\n")

    def test_a_last_line_without_an_end_is_fine(self) -> None:
        accounts = self.load(
            "(Tom, Tom11)\n" + server.account_line("Beth", server.hash_password("Beth33")).strip()
        )
        self.assertTrue(accounts.verify("Beth", "Beth33"))
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        accounts.close()
        self.assertEqual(set(self.load().records), {"Tom", "Beth", "Mike"})
        self.assertEqual(self.warnings, [])

    def test_a_line_torn_anywhere_is_set_aside_with_a_warning(self) -> None:
        whole = server.account_line("Tom", server.hash_password("Tom11"))
        torn = server.account_line("Mike", server.hash_password("Mike44"))
        self.path.touch(0o600)  # as the server makes it
        for length in range(1, len(torn) - 1):
            with self.subTest(length=length):
                self.warnings.clear()
                accounts = self.load(whole + torn[:length])
                self.assertEqual(set(accounts.records), {"Tom"})
                self.assertEqual(len(self.warnings), 1)
                self.assertIn("users.txt:2:", self.warnings[0])
                accounts.close()
                accounts = self.load()
                self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
                accounts.close()
                accounts = self.load()
                self.assertEqual(set(accounts.records), {"Tom", "Mike"})
                accounts.close()

    def test_what_somebody_typed_wrongly_is_no_crash_and_stays(self) -> None:
        for line, reason in (
            ("(Anna Anna55)", NO_ACCOUNT),
            ("// note", NO_ACCOUNT),
            ("Tom,Tom11", NO_ACCOUNT),
            ("(Anna, Anna5", NO_ACCOUNT),
            (
                "(Anna, Anna55789)",
                "the second field is neither a password of 4 to 8 characters nor a scrypt hash.",
            ),
            ("(Anna, $scrypt$ln=9", "not an account; write (UserID, Password), or # before"),
            ("(An na, $scrypt$", NO_ACCOUNT),
            (" (Anna, $sc", NO_ACCOUNT),
            ("( Anna, $sc", NO_ACCOUNT),
            ("(Jose\u0301, $sc", NO_ACCOUNT),
            ("hello\0", NO_ACCOUNT),
            ("(Anna, Anna5\0)", NO_ACCOUNT),
        ):
            with self.subTest(line=line):
                text = f"# mine\n{line}"
                self.assertIn(f"users.txt:2: {reason}", self.refusal(text))
                self.assertEqual(self.path.read_text(), text)
        windows = "(Tom, Tom11)".encode("utf-16")
        self.assertIn("users.txt:1: not UTF-8;", self.refusal(windows))
        self.assertEqual(self.path.read_bytes(), windows)
        text = "(Tom, Tom11)\r(Beth, Beth33)\r"
        self.assertIn("users.txt:1: ", self.refusal(text))
        self.assertEqual(self.path.read_bytes().decode(), text)

    def test_what_a_power_cut_left_as_nul_bytes_is_set_aside(self) -> None:
        begun = server.account_line("Mike", server.hash_password("Mike44"))[:30].encode()
        for left in (begun + bytes(40) + b"\n", begun + bytes(9) + b"AAAA)\n", bytes(80)):
            self.warnings.clear()
            accounts = self.load(b"(Tom, Tom11)\n" + left)
            self.assertEqual(set(accounts.records), {"Tom"})
            self.assertIn("users.txt:2:", self.warnings[0])
            self.assertNotIn("\0", self.path.read_text())
            accounts.close()

    def test_nul_bytes_that_hang_on_a_whole_line_are_cut_off_without_it(self) -> None:
        hashed = server.account_line("Beth", server.hash_password("Beth33")).rstrip("\n")
        for line in ("(Beth, Beth33)", hashed):
            accounts = self.load(b"(Tom, Tom11)\n" + line.encode() + bytes(87))
            self.assertTrue(accounts.verify("Beth", "Beth33"))
            self.assertNotIn("\0", self.path.read_text())
            accounts.close()

    def test_a_torn_line_where_the_file_cannot_be_replaced_is_cut_off(self) -> None:
        torn = server.account_line("Mike", server.hash_password("Mike44"))[:30]
        whole = server.account_line("Tom", server.hash_password("Tom11"))
        with mock.patch("server.os.replace", side_effect=OSError(16, "Device or resource busy")):
            accounts = self.load(whole + torn)
            self.assertEqual(self.path.read_text(), whole)
            self.assertTrue(accounts.add("Beth", server.hash_password("Beth33")))
            accounts.close()
            self.assertEqual(set(self.load().records), {"Tom", "Beth"})

    @not_on_windows("Windows has no FIFOs")
    def test_only_a_regular_file_will_do(self) -> None:
        os.mkfifo(self.path)
        with self.assertRaisesRegex(server.AccountsError, r"^users\.txt is no regular file\. "):
            self.load()

    @not_on_windows("Windows has no FIFOs")
    def test_what_it_was_replaced_by_keeps_its_mode_if_that_is_no_file(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        fifo = self.path.with_name("fifo")
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        self.path.unlink()
        self.path.symlink_to(fifo)
        with self.assertRaisesRegex(server.AccountsError, "no regular file"):
            accounts.add("Mike", server.hash_password("Mike44"))
        self.assertEqual(stat.S_IMODE(fifo.stat().st_mode), 0o666)
        self.assertTrue(accounts.verify("Tom", "Tom11"))

    @not_on_windows("Windows has no such modes")
    def test_others_who_may_read_it_are_warned_of_and_shut_out_when_it_is_written(self) -> None:
        for text in ("(Tom, Tom11)\n", server.account_line("Tom", server.hash_password("Tom11"))):
            self.path.write_text(text)
            self.path.chmod(0o644)
            self.warnings.clear()
            accounts = self.load()
            self.assertEqual(len(self.warnings), int("Tom11" not in text))
            accounts.add("Mike", server.hash_password("Mike44"))
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
            accounts.close()

    # Writing.

    def test_a_missing_folder_is_told_at_the_start(self) -> None:
        self.path = self.folder / "elsewhere" / "users.txt"
        advice = "Make it, or name another file with --users."
        refusal = f"{os.path.realpath(self.path)}: its folder is missing. {advice}"
        self.assertEqual(self.refusal(None), refusal)

    @not_on_windows("Windows has no such modes")
    def test_a_missing_file_is_made_at_the_first_newuser_for_the_owner_alone(self) -> None:
        accounts = self.load()
        self.assertFalse(self.path.exists())
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(len(self.path.read_text().splitlines()), 1)
        accounts.close()
        self.assertTrue(self.load().verify("Mike", "Mike44"))

    def test_an_account_is_synced_before_it_is_confirmed(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        with mock.patch("server.os.fsync", wraps=os.fsync) as fsync:
            accounts.add("Mike", server.hash_password("Mike44"))
        self.assertEqual(fsync.call_count, 1)

    def test_two_requests_for_one_name_have_one_winner(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        results: list[bool] = []
        start = threading.Barrier(8)

        def request() -> None:
            record = server.hash_password("Mike44")
            start.wait()
            results.append(accounts.add("Mike", record))

        threads = [threading.Thread(target=request) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(results), [False] * 7 + [True])
        self.assertEqual(self.path.read_text().count("(Mike, "), 1)

    def test_a_failed_write_leaves_the_file_as_it_was(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        before = self.path.read_bytes()

        def write_half(file: int, data: bytes) -> int:
            self.assertGreater(real_write(file, bytes(data[:20])), 0)
            raise OSError(28, "No space left on device")

        real_write = os.write
        with mock.patch("server.os.write", write_half), self.assertRaises(server.AccountsError):
            accounts.add("Mike", server.hash_password("Mike44"))
        self.assertEqual(self.path.read_bytes(), before)
        self.assertNotIn("Mike", accounts.records)
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))

    def test_a_torn_line_that_could_not_be_cut_off_is_told_and_newuser_goes_on(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        real_write = os.write

        def write_half(file: int, data: bytes) -> int:
            real_write(file, bytes(data[:20]))
            raise OSError(5, "Input/output error")

        with (
            mock.patch("server.os.write", write_half),
            mock.patch("server.os.ftruncate", side_effect=OSError(5, "Input/output error")),
            self.assertRaises(server.AccountsError),
        ):
            accounts.add("Mike", server.hash_password("Mike44"))
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            self.assertTrue(accounts.add("Beth", server.hash_password("Beth33")))
        self.assertEqual(self.warnings, [f"users.txt:2: {NO_ACCOUNT}"])
        self.assertEqual(set(accounts.records), {"Tom", "Beth"})

    def test_a_deleted_file_is_written_anew_with_every_account(self) -> None:
        accounts = self.load("(Tom, Tom11)\n(Beth, Beth33)\n")
        self.path.unlink()
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        accounts.close()
        self.assertEqual(set(self.load().records), {"Tom", "Beth", "Mike"})

    def test_a_disk_that_is_full_after_deletion_loses_no_account(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        self.path.unlink()
        full = OSError(28, "No space left on device")
        with (
            mock.patch("server.os.write", side_effect=full),
            self.assertRaises(server.AccountsError),
        ):
            accounts.add("Mike", server.hash_password("Mike44"))
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        accounts.close()
        self.assertEqual(set(self.load().records), {"Tom", "Mike"})

    # Edited while the server runs.

    def test_an_edit_counts_from_the_next_login_on_and_is_only_read(self) -> None:
        for replaced in (False, True):
            with self.subTest(replaced=replaced):
                accounts = self.load("(Tom, Tom11)\n(David, David22)\n")
                kept = self.path.read_text().splitlines()[0]
                text = f"{kept}\n(Beth, Beth33)\n"
                self.save(text, replaced)
                self.assertTrue(accounts.verify("Beth", "Beth33"))
                self.assertFalse(accounts.verify("Beth", "wrong"))
                self.assertFalse(accounts.verify("David", "David22"))
                accounts.tidy(self.no_hashing)
                self.assertEqual(self.path.read_text(), text)
                self.assertFalse(accounts.add("Beth", server.hash_password("other")))
                self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
                self.assertTrue(self.path.read_text().startswith(text + "(Mike, "))
                accounts.close()

    def save(self, text: str, replaced: bool = False) -> None:
        """Save users.txt as an editor does: in place, or as a new file with the old name."""
        target = self.path.with_name("new") if replaced else self.path
        target.write_text(text)
        target.replace(self.path)

    def no_hashing(self, passwords: object) -> list[str]:
        raise AssertionError(f"hashed too early: {passwords}")

    def test_a_file_that_has_stayed_as_it_is_is_hashed(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        self.save(self.path.read_text() + "# new\n(Beth, Beth33)\n(Mike, Mike44)")
        accounts.refresh()
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertNotRegex(self.path.read_text(), "Beth33|Mike44")
        self.assertTrue(accounts.verify("Beth", "Beth33"))
        accounts.tidy(self.no_hashing)
        accounts.close()
        self.assertTrue(self.load().verify("Mike", "Mike44"))

    def test_a_file_that_became_wrong_or_is_gone_before_it_was_hashed_is_left_alone(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        for text in ("(Beth, Beth33)\nnonsense\n", ""):
            self.save("(Beth, Beth33)\n")
            accounts.refresh()
            self.save(text)
            if not text:
                self.path.unlink()
            with mock.patch("server.SETTLED_SECONDS", 0.0):
                accounts.tidy(self.no_hashing)
            self.assertTrue(accounts.verify("Beth", "Beth33"))
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertNotIn("Beth33", self.path.read_text())

    def test_an_account_that_hangs_on_half_a_line_of_an_editors_is_written_again(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        write, half_lines = server.write_synced, ["(Half, pass"]

        def write_behind(file: int, data: bytes) -> None:
            with self.path.open("a") as editor:
                editor.write(half_lines.pop() if half_lines else "")
            write(file, data)

        record = server.hash_password("Mike44")
        with (
            mock.patch("server.write_synced", write_behind),
            mock.patch("server.SETTLED_SECONDS", 0),
        ):
            self.assertTrue(accounts.add("Mike", record))
        self.assertIn(f"(Mike, {record})", self.path.read_text().splitlines())

    def test_an_edit_while_passwords_are_hashed_is_not_overwritten(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        self.save("(Beth, Beth33)\n")
        accounts.refresh()

        def hash_slowly(passwords: Sequence[str]) -> list[str]:
            self.save("(Anna, Anna11)\n(Beth, Beth33)\n")
            return server.hash_passwords(passwords)

        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(hash_slowly)
            self.assertEqual(self.path.read_text(), "(Anna, Anna11)\n(Beth, Beth33)\n")
            accounts.tidy(server.hash_passwords)
        self.assertNotRegex(self.path.read_text(), "Anna11|Beth33")
        self.assertTrue(accounts.verify("Anna", "Anna11"))

    def test_a_mistake_is_told_once_for_each_state_and_what_was_before_goes_on(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        for text in ("nonsense\n# more\n", "(Beth, Beth33)\nnonsense\n"):
            self.save(text)
            self.warnings.clear()
            for _ in range(3):
                self.assertTrue(accounts.verify("Tom", "Tom11"))
                self.assertFalse(accounts.verify("Beth", "Beth33"))
            self.assertEqual(len(self.warnings), 1)
            self.assertRegex(self.warnings[0], r"^users\.txt:[12]: not an account")
            self.assertEqual(self.path.read_text(), text)

    def test_what_was_before_a_mistake_is_no_half_written_file(self) -> None:
        accounts = self.load("(Tom, Tom11)\n(Beth, Beth33)\n")
        text = self.path.read_text()
        for half in ("", text.splitlines(keepends=True)[0]):
            self.save(half)
            self.assertFalse(accounts.verify("Beth", "Beth33"))
            self.save(text + "nonsense\n")
            self.assertTrue(accounts.verify("Beth", "Beth33"))
            self.assertFalse(accounts.add("Beth", server.hash_password("other")))

    def test_an_account_that_is_removed_while_its_password_is_checked_is_refused(self) -> None:
        accounts = self.load("(Tom, Tom11)\n(Beth, Beth33)\n")
        verify_password = server.verify_password

        def remove(password: str, record: str) -> bool:
            self.save(self.path.read_text().splitlines(keepends=True)[0])
            return verify_password(password, record)

        with mock.patch("server.verify_password", remove):
            self.assertFalse(accounts.verify("Beth", "Beth33"))

    def test_while_it_runs_what_looks_torn_is_a_mistake_and_stays(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        text = self.path.read_text() + "(Beth, $scrypt$ln="
        self.save(text)
        self.assertTrue(accounts.verify("Tom", "Tom11"))
        self.assertEqual(self.warnings, [f"users.txt:2: {NO_ACCOUNT}"])
        self.assertEqual(self.path.read_text(), text)

    def test_newuser_waits_until_a_line_that_is_being_written_is_whole(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        with self.path.open("a") as editor:
            editor.write("(Anna, An")
            editor.flush()

            def finish(_seconds: float) -> None:
                editor.write("na11)\n")
                editor.flush()

            with mock.patch("server.time.sleep", finish):
                self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        accounts.close()
        self.assertEqual(set(self.load().records), {"Tom", "Anna", "Mike"})

    def test_newuser_waits_for_a_name_that_an_editor_may_be_about_to_write(self) -> None:
        accounts = self.load("(Tom, Tom11)\n(Beth, Beth33)\n")
        text = self.path.read_text()
        self.save(text.splitlines(keepends=True)[0])
        with mock.patch("server.time.sleep", lambda _seconds: self.save(text)):
            self.assertFalse(accounts.add("Beth", server.hash_password("other")))
        self.assertTrue(accounts.verify("Beth", "Beth33"))

    def test_an_account_that_an_editor_did_not_know_is_put_back(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        before = self.path.read_text()
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        for comment in ("# one\n", "# one, two\n"):  # twice, before it could be put back
            self.save(before + comment)
            self.assertTrue(accounts.verify("Mike", "Mike44"))
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertIn("# one, two\n(Mike, ", self.path.read_text())
        self.save(before)  # by the same editor, once more
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertTrue(accounts.verify("Mike", "Mike44"))
        record, made = accounts.recent["Mike"]
        accounts.recent["Mike"] = record, made - server.RECENT_SECONDS - 1
        self.save(before + "# and now on purpose\n")
        self.assertFalse(accounts.verify("Mike", "Mike44"))

    @not_on_windows("Windows does not tell when a file got its name")
    def test_an_account_that_an_old_copy_did_not_know_is_put_back(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        copy = self.path.with_name("copy")
        shutil.copy(self.path, copy)
        os.utime(copy, (1_000_000_000, 1_000_000_000))
        self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        copy.replace(self.path)
        self.assertTrue(accounts.verify("Mike", "Mike44"))

    def test_the_next_newuser_puts_back_what_an_editor_did_not_know(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        before = self.path.read_text()
        accounts.add("Mike", server.hash_password("Mike44"))
        self.save(before, replaced=True)
        accounts.add("Anna", server.hash_password("Anna11"))
        accounts.close()
        self.assertEqual(set(self.load().records), {"Tom", "Mike", "Anna"})

    def test_an_older_account_that_is_gone_is_gone(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        before = self.path.read_text()
        with mock.patch("server.time.time", return_value=time.time() - 11):
            accounts.add("Mike", server.hash_password("Mike44"))
        self.save(before)
        self.assertFalse(accounts.verify("Mike", "Mike44"))

    def test_where_it_cannot_be_replaced_plain_passwords_are_compared_and_all_else_goes_on(
        self,
    ) -> None:
        busy = mock.patch("server.os.replace", side_effect=OSError(16, "Device or resource busy"))
        text = "(Tom, Tom11)\n(Beth, Beth33)\n"
        with busy:
            accounts = self.load(text)
            self.assertEqual(self.path.read_text(), text)
            self.assertRegex(self.warnings[0], r"^users\.txt: it cannot be replaced \(Device or re")
            self.assertTrue(accounts.verify("Beth", "Beth33"))
            self.assertFalse(accounts.verify("Beth", "Beth34"))
            self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
            accounts.tidy(self.no_hashing)
            accounts.close()
            self.assertEqual(set(self.load().records), {"Tom", "Beth", "Mike"})
        self.assertEqual(list(self.folder.glob("*.new")), [])

    def test_while_another_program_has_it_open_that_is_told_once_and_tried_again(self) -> None:
        class Held(PermissionError):
            winerror = 5  # what Windows says for a file that somebody has open

        error = Held(errno.EACCES, "Permission denied")
        with (
            mock.patch("server.RECENT_SECONDS", -server.SETTLED_SECONDS),
            mock.patch("server.os.replace", side_effect=error) as replace,
        ):
            accounts = self.load("(Tom, Tom11)\n")
            for _ in range(3):
                accounts.tidy(server.hash_passwords)
            self.assertEqual(replace.call_count, 4)
        advice = "Another program may have it open; it is tried again."
        self.assertEqual(sum(line.endswith(advice) for line in self.warnings), 1)
        self.assertEqual(sum("cannot be replaced" in line for line in self.warnings), 1)
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertNotIn("Tom11", self.path.read_text())

    def test_a_disk_that_is_full_for_a_while_is_tried_again(self) -> None:
        with (
            mock.patch("server.RECENT_SECONDS", -server.SETTLED_SECONDS),
            mock.patch("server.os.replace", side_effect=OSError(errno.ENOSPC, "No space left")),
        ):
            accounts = self.load("(Tom, Tom11)\n")
        self.assertTrue(self.warnings[0].endswith("stay. It is tried again."), self.warnings)
        with mock.patch("server.SETTLED_SECONDS", 0.0):
            accounts.tidy(server.hash_passwords)
        self.assertNotIn("Tom11", self.path.read_text())

    def test_an_edit_that_cannot_be_read_yet_is_told_once_and_read_later(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        self.save(self.path.read_text() + "(Beth, Beth33)\n")
        held = PermissionError(errno.EACCES, "Permission denied")
        with mock.patch("server.Path.read_bytes", side_effect=held):
            for _ in range(3):
                self.assertFalse(accounts.verify("Beth", "Beth33"))
                self.assertTrue(accounts.verify("Tom", "Tom11"))
        self.assertEqual(self.warnings, [f"users.txt: {os.strerror(errno.EACCES)}."])
        self.assertTrue(accounts.verify("Beth", "Beth33"))

    @not_on_windows("Windows replaces no file that is open")
    def test_a_change_while_an_account_is_synced_loses_none(self) -> None:
        real_sync = os.fsync

        def append(text: str) -> None:
            with self.path.open("a") as file:
                file.write(text)

        def replace(text: str) -> None:
            self.path.with_name("new").write_text("(Tom, Tom11)\n" + text)
            self.path.with_name("new").replace(self.path)

        def copy_and_replace(text: str) -> None:
            self.path.with_name("new").write_text(self.path.read_text() + text)
            self.path.with_name("new").replace(self.path)

        def delete(_text: str) -> None:
            self.path.unlink()

        for change in (append, replace, copy_and_replace, delete):
            with self.subTest(change=change.__name__):
                changes: list[Callable[[str], None]] = [change]

                def sync(file: int, changes: list[Callable[[str], None]] = changes) -> None:
                    real_sync(file)
                    if changes:
                        changes.pop()("(Anna, Anna11)\n")

                accounts = self.load("(Tom, Tom11)\n")
                accounts.recent.clear()
                names = {"Mike", "Carl", "Dora"}
                with mock.patch("server.os.fsync", sync):
                    for name in sorted(names):
                        self.assertTrue(accounts.add(name, server.hash_password("Mike44")))
                if change is not delete:
                    self.assertFalse(accounts.add("Anna", server.hash_password("other")))
                    names.add("Anna")
                accounts.close()
                accounts = self.load()
                self.assertEqual(set(accounts.records), names | {"Tom"})
                accounts.close()

    def test_an_unknown_user_costs_a_hash_like_the_others(self) -> None:
        accounts = self.load(server.account_line("Tom", server.hash_password("Tom11")))
        with mock.patch("server.derive_key", wraps=server.derive_key) as derive_key:
            self.assertFalse(accounts.verify("Tom", "wrong"))
            self.assertFalse(accounts.verify("Mike", "wrong"))
        known, unknown = derive_key.call_args_list
        self.assertEqual(known.args[2:], unknown.args[2:])

    def test_a_second_server_on_the_file_is_refused(self) -> None:
        accounts = self.load("(Tom, Tom11)\n")
        in_use = r"^users\.txt is in use by another server\."
        with self.assertRaisesRegex(server.AccountsError, in_use):
            self.load()
        accounts.add("Mike", server.hash_password("Mike44"))
        with self.assertRaisesRegex(server.AccountsError, in_use):
            self.load("(Tom, Tom12)\n")
        accounts.close()
        self.load()

    def refusing_lock_files(self, may_read: bool) -> contextlib.AbstractContextManager[object]:
        """Have no lock file be made, nor, unless it `may_read` them, opened."""
        real_open = os.open

        def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
            if path.suffix == ".lock" and not (may_read and flags == os.O_RDONLY):
                raise PermissionError(errno.EACCES, "Permission denied")
            return real_open(path, flags, mode)

        return mock.patch("server.os.open", refuse)

    def test_a_lock_file_of_another_users_server_keeps_a_second_one_out(self) -> None:
        self.load("(Tom, Tom11)\n")
        with self.refusing_lock_files(may_read=True):
            self.assertIn("in use by another server", self.refusal(None))

    def test_without_a_lock_file_the_file_itself_is_locked(self) -> None:
        whole = server.account_line("Tom", server.hash_password("Tom11"))
        with self.refusing_lock_files(may_read=False):
            self.load(whole)
            self.assertIn("in use by another server", self.refusal(None))

    def test_a_file_system_without_locks_is_told_of_and_used(self) -> None:
        with mock.patch(
            "server.lock_descriptor", side_effect=OSError(errno.ENOLCK, "No locks available")
        ):
            self.assertTrue(self.load("(Tom, Tom11)\n").verify("Tom", "Tom11"))
        self.assertEqual(
            self.warnings,
            ["users.txt: No locks available. See to it that no second server uses it."],
        )

    def test_an_account_is_there_though_its_folder_cannot_be_opened(self) -> None:
        accounts = self.load()
        refused = mock.patch("server.sync_folder", side_effect=PermissionError(13, "Permission"))
        with refused:
            self.assertTrue(accounts.add("Mike", server.hash_password("Mike44")))
        self.assertFalse(accounts.add("Mike", server.hash_password("Mike44")))
        self.assertEqual(len(self.warnings), 1)
        self.assertEqual(self.path.read_text().count("(Mike, "), 1)

    def test_a_folder_that_cannot_be_synced_is_done_without(self) -> None:
        real_sync = os.fsync

        def sync(file: int) -> None:
            if stat.S_ISDIR(os.fstat(file).st_mode):
                raise OSError(22, "Invalid argument")
            real_sync(file)

        with mock.patch("server.os.fsync", sync):
            self.assertTrue(self.load("(Tom, Tom11)\n").verify("Tom", "Tom11"))
        self.assertNotIn("Tom11", self.path.read_text())


class StartTest(unittest.TestCase):
    """What a person sees who starts the server on a users.txt that has something to it."""

    def setUp(self) -> None:
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.path = stack.enter_context(temporary_folder()) / "users.txt"

    def run_server(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SERVER), "--port", "0", "--users", str(self.path), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env=child_environment(),
            check=False,
        )

    def test_a_malformed_file_is_one_line_on_standard_error_and_status_1(self) -> None:
        self.path.write_text("(Tom, Tom11)\n(Tom, Tom12)\n")
        ended = self.run_server()
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertEqual(ended.stderr, "users.txt:2: a second account for Tom; keep one.\n")

    @not_on_windows("Windows' SIGTERM cannot be caught")
    def test_stopped_while_it_hashes_it_ends_well_and_leaves_the_file_as_it_was(self) -> None:
        text = "".join(f"(user{number}, pass)\n" for number in range(200))
        self.path.write_text(text)
        program = altered_server({"PROGRESS_SECONDS": 0.1})
        process = subprocess.Popen(
            [*program, "--port", "0", "--users", str(self.path)],
            stderr=subprocess.PIPE,
            env=child_environment(),
        )
        assert process.stderr is not None
        with process:
            self.assertIn(b"Hashing passwords: ", process.stderr.readline())
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(30), 0)
        self.assertEqual(self.path.read_text(), text)

    def test_a_file_in_use_is_one_line_on_standard_error_and_status_1(self) -> None:
        self.path.write_text("")
        server_process = ServerProcess(self.path)
        try:
            ended = self.run_server()
        finally:
            server_process.stop()
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, r"^users\.txt is in use by another server\. Stop .+\n$")

    def test_a_folder_for_a_file_is_one_line_on_standard_error_and_status_1(self) -> None:
        self.path.mkdir()
        ended = self.run_server()
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertEqual(
            ended.stderr, "users.txt is no regular file. Name another one with --users.\n"
        )

    def test_a_torn_line_is_a_warning_and_the_room_opens(self) -> None:
        self.path.write_text("(Tom, Tom11)\n(Mike, $scrypt$ln=14,r")
        server_process = ServerProcess(self.path)
        try:
            with server_process.connect() as tom:
                self.assertEqual(tom.ask("login Tom Tom11"), "login confirmed")
        finally:
            self.assertEqual(server_process.stop(), 0)
        warning = server_process.errors.all()[0]
        self.assertIn("users.txt:2: the last line, '(Mike', was cut short", warning)

    def test_confirmed_accounts_survive_kill_9(self) -> None:
        confirmed: list[str] = []
        program = altered_server({"HASH_COST": (8, 8, 1)})  # a server that is mostly at the file
        for attempt in range(2):
            server_process = ServerProcess(self.path, ["--rate", "0"], program=program)
            try:
                with server_process.connect() as talker:
                    names = [f"user-{attempt}-{number}" for number in range(40)]
                    talker.send(*(f"newuser {name} pass" for name in names))
                    for name in names[: 3 + 2 * attempt]:
                        talker.expect("New user account created. Please login.")
                        confirmed.append(name)
                    server_process.process.kill()  # in the middle of the next one
            finally:
                server_process.stop()
        users = server.UsersFile(self.path.read_bytes(), "users.txt")
        self.assertLessEqual(set(confirmed), set(users.records))
        server_process = ServerProcess(self.path)
        try:
            with server_process.connect() as talker:
                self.assertEqual(talker.ask(f"login {confirmed[-1]} pass"), "login confirmed")
        finally:
            server_process.stop()
