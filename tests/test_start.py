"""Starting, options, stopping; and what a system lacks."""

from __future__ import annotations

import ast
import contextlib
import ipaddress
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import server
from tests.helpers.census import eventually
from tests.helpers.process import (
    CHEAP_PASSWORD,
    IS_WINDOWS,
    PATIENCE,
    ROOT,
    SERVER,
    ServerProcess,
    ServerTest,
    altered_server,
    child_environment,
    not_on_windows,
    run_server,
    running_server,
    serving,
    shipped_users,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.talker import Talker

GRACE = 1.0  # seconds, on top of a promise, for a machine that is busy with other things


# Tells on standard error when a hash begins.
ANNOUNCE_HASHES = """
import hashlib
def scrypt(*arguments, scrypt=hashlib.scrypt, **options):
    print("hashing", file=sys.stderr, flush=True)
    return scrypt(*arguments, **options)
hashlib.scrypt = scrypt
"""
# As on Windows.
WITHOUT_UNIX = """
import socket
del socket.MSG_DONTWAIT
"""


def link_local_address() -> str:
    """Return a link-local address of this machine with its zone, "" if there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address, _, _, _, flags, interface = line.split()
            if address.startswith("fe80") and not int(flags, 16) & 0x40:  # tentative
                return f"{ipaddress.ip_address(bytes.fromhex(address))}%{interface}"
    return ""


LINK_LOCAL = link_local_address()


class ProgramTest(ServerTest):
    """Starting, options, stopping."""

    def test_the_first_line_tells_the_real_host_and_port(self) -> None:
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("localhost", None)):
            with self.subTest(host=host), running_server(options=("--host", host)) as running:
                if shown:
                    self.assertIn(f" on {shown}:{running.port}, room", running.display.seen[0])
                with running.login("Tom") as tom:
                    self.assertEqual(tom.ask("who"), "Tom")

    def test_both_signals_stop_it_with_status_0_and_everyone_told(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number), running_server() as running:
                with running.login("Tom") as tom, running.connect() as waiting:
                    tom.send("send Tom last words")
                    tom.expect("Tom (to Tom): last words")
                    waiting.ask("who")  # the server knows of it by now
                    running.send_signal(number)
                    self.assertEqual(tom.rest(), ["The server is shutting down."])
                    self.assertEqual(waiting.rest(), ["The server is shutting down."])
                self.assertEqual(running.process.wait(PATIENCE), 0)
                self.assertEqual(running.display.all()[-1], "The server is shutting down.")
                self.assertEqual(running.errors.all(), [])

    def test_stopping_does_not_wait_for_a_costly_hash(self) -> None:
        """This one would take some ten seconds."""
        folder = self.enterContext(temporary_folder())
        costly = f"$scrypt$ln=18,r=8,p=16${'A' * 22}${'A' * 43}"
        (folder / "users.txt").write_text(f"(Tom, {costly})\n")
        program = altered_server({"STOP_SECONDS": 0.2}, first=ANNOUNCE_HASHES)
        with (
            serving(folder / "users.txt", program=program) as running,
            running.connect() as tom,
        ):
            tom.send("login Tom secret")
            running.errors.until("hashing")
            began = time.monotonic()
            self.assertEqual(running.stop(), 0)
            self.assertLess(time.monotonic() - began, 1 + GRACE)

    def test_a_taken_port_is_one_line_on_standard_error_and_status_1(self) -> None:
        folder = self.enterContext(temporary_folder())
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = str(taken.getsockname()[1])
            ended = run_server("--port", port, "--users", str(folder / "users.txt"))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        word = "[A-Z][^(]+" if IS_WINDOWS else "Address already in use"  # in its user's language
        advice = r"Stop what uses it, or choose another --port\.\n"
        self.assertRegex(ended.stderr, rf"^server\.py: 127\.0\.0\.1:{port}: {word}\. {advice}$")

    def test_a_host_that_is_none_is_one_line_on_standard_error_and_status_1(self) -> None:
        folder = self.enterContext(temporary_folder())
        ended = run_server("--host", "no.such.host.invalid", "--users", str(folder / "u"))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, r"^server\.py: no\.such\.host\.invalid:14850: .+\n$")

    def test_wrong_options_are_status_2(self) -> None:
        wrong = (
            ("--port", "70000"),
            ("--max-clients", "0"),
            ("--rate", "-1"),
            ("stray",),
        )
        with ThreadPoolExecutor() as pool:
            for options, ended in zip(
                wrong, pool.map(lambda x: run_server(*x), wrong), strict=True
            ):
                with self.subTest(options=options):
                    self.assertEqual((ended.returncode, ended.stdout), (2, ""))

    def test_help_and_version(self) -> None:
        ended = run_server("--help")
        self.assertEqual(ended.returncode, 0)
        for option in ("--host", "--port", "--max-clients", "--users", "--log", "--rate"):
            self.assertIn(option, ended.stdout)
        version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
        assert version
        self.assertEqual(run_server("--version").stdout, f"server.py {version.group(1)}\n")

    def test_max_clients_sets_the_size_of_the_room(self) -> None:
        running = self.start(options=("--max-clients", "1"))
        self.assertIn("room for 1.", running.display.seen[0])
        self.login(running, "Tom")
        beth = self.connect(running)
        self.assertEqual(beth.ask("login Beth secret"), "Denied. The chat room is full (1 of 1).")

    def test_users_default_to_the_file_beside_the_program(self) -> None:
        folder = self.enterContext(temporary_folder())
        shutil.copy(SERVER, folder / "server.py")
        (folder / "users.txt").write_text("(Anna, Anna11)\n")
        process = subprocess.Popen(
            [sys.executable, str(folder / "server.py"), "--port", "0"],
            stdout=subprocess.PIPE,
            cwd="/",
            env=child_environment(),
        )
        assert process.stdout is not None
        with process:
            try:
                first = process.stdout.readline().decode()
                port = int(first.split(":")[1].split(",")[0])
                with Talker("127.0.0.1", port) as anna:
                    self.assertEqual(anna.ask("login Anna Anna11"), "login confirmed")
            finally:
                process.terminate()

    def test_the_log_has_the_same_lines_with_time_and_address(self) -> None:
        folder = self.enterContext(temporary_folder())
        log = folder / "room.log"
        log.write_text("as it was\n")
        running = self.start(options=("--log", str(log)))
        (tom,) = self.login(running, "Tom")
        tom.send("send all hello", "logout")
        tom.rest()
        address = tom.address
        tom.close()  # or the server would give it the time to do so first
        running.stop()
        lines = log.read_text().splitlines()
        self.assertEqual(lines[0], "as it was")
        time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
        shown = running.display.all()
        self.assertEqual([re.sub(f"^{time} \\S+ ", "", line) for line in lines[1:]], shown)
        self.assertRegex(lines[2], f"^{time} {address} Tom login\\.$")
        self.assertNotIn(CHEAP_PASSWORD, log.read_text())

    def test_a_password_is_never_shown(self) -> None:
        running = self.start()
        talker = self.connect(running)
        talker.send("newuser Mike Hush4242", "login Mike Hush4242", "who")
        talker.expect("New user account created. Please login.", "login confirmed", "Mike")
        talker.close()
        running.display.until("Mike logout.")
        running.stop()
        self.assertEqual(
            running.display.all()[1:],
            [
                "New user account created: Mike.",
                "Mike login.",
                "Mike logout.",
                "The server is shutting down.",
            ],
        )
        self.assertNotIn("Hush4242", "".join(running.display.all() + running.errors.all()))

    def test_the_accounts_as_shipped_log_in_and_are_hashed(self) -> None:
        folder = self.enterContext(temporary_folder())
        (folder / "users.txt").write_bytes(shipped_users())
        shipped = {"Tom": "Tom11", "David": "David22", "Beth": "Beth33"}
        self.assertNotRegex((folder / "users.txt").read_text(), "|".join(shipped.values()))
        with serving(folder / "users.txt") as running:
            for userid, password in shipped.items():
                with running.login(userid, password):
                    pass
        self.assertEqual((folder / "users.txt").read_bytes(), shipped_users())


class StopTest(unittest.TestCase):
    def test_a_signals_handler_takes_no_lock_as_it_may_interrupt_itself(self) -> None:
        self.addCleanup(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
        room = server.Server.__new__(server.Server)
        with mock.patch("threading.Event.set", side_effect=AssertionError("a lock")):
            room._on_stop(signal.SIGTERM, None)
        self.assertTrue(room.is_told_to_stop)


class OpeningTest(ServerTest):
    """The first lines tell the one who looks after the room what there is to know."""

    def opening(self, *options: str, users: bytes | None = None) -> list[str]:
        folder = self.enterContext(temporary_folder())
        write_cheap_users(folder / "users.txt", ["Tom"])
        if users is not None:
            (folder / "users.txt").write_bytes(users)
        with serving(folder / "users.txt", options) as running:
            port = running.port
        return [line.replace(str(port), "PORT") for line in running.display.all()[1:-1]]

    def test_on_a_loopback_address_there_is_nothing_to_add(self) -> None:
        for host in ("127.0.0.1", "::1", "127.0.0.2", "localhost"):
            self.assertEqual(self.opening("--host", host, users=shipped_users()), [])

    def test_if_others_can_reach_it_they_are_told_what_to_type(self) -> None:
        for host in ("0.0.0.0", "::", "::0"):
            (line,) = self.opening("--host", host)
            self.assertRegex(line, r"^Others join with: python client\.py --host \S+ --port PORT$")
            self.assertNotRegex(line, r" (0\.0\.0\.0|::|127\.0\.0\.1) ")

    def test_and_who_still_has_the_password_that_came_with_the_program(self) -> None:
        lines = self.opening("--host", "0.0.0.0", users=shipped_users())
        known = "they have the passwords that came with this program."
        self.assertEqual(lines[1:], [f"Anyone can log in as Beth, David, Tom: {known}"])

    def test_localhost_suits_the_clients_default(self) -> None:
        with running_server(options=("--host", "localhost")) as running:
            Talker("127.0.0.1", running.port).close()

    @unittest.skipUnless(LINK_LOCAL, "there is no link-local address, or no /proc")
    def test_a_link_local_address_is_one_with_its_zone(self) -> None:
        with running_server(options=("--host", LINK_LOCAL)) as running:
            self.assertEqual(running.host, LINK_LOCAL)
            socket.create_connection((LINK_LOCAL, running.port), PATIENCE).close()

    def test_all_addresses_are_all_however_they_are_written(self) -> None:
        with running_server(options=("--host", "::0")) as running:
            Talker("127.0.0.1", running.port).close()

    def test_an_ipv4_address_is_shown_as_one_also_by_way_of_ipv6(self) -> None:
        program = altered_server({"FAILURE_DELAY": 0})
        running = self.start(options=("--host", "::"), program=program)
        with Talker("127.0.0.1", running.port) as talker:
            talker.ask("login Tom wrong")
            line = running.display.until(lambda line: line.startswith("Login failed"))
            self.assertEqual(line, f"Login failed for Tom from {talker.address}.")


class RefusalTest(ServerTest):
    """One line that says what to do, status 1; 2 for wrong options."""

    def test_only_advice_that_fits(self) -> None:
        for options, advice in (
            (("--host", "192.0.2.1"), "Give --host an address of this machine, or 0.0.0.0"),
            (("--host", "no.such.host.invalid"), "Give --host an address of this machine"),
            (("--host", "a..b"), "Give --host an address of this machine"),
        ):
            folder = self.enterContext(temporary_folder())
            ended = run_server(*options, "--users", str(folder / "users.txt"))
            self.assertEqual((ended.returncode, ended.stdout), (1, ""))
            self.assertIn(advice, ended.stderr)
            self.assertNotIn("--port", ended.stderr)
            self.assertEqual(ended.stderr.count("\n"), 1)

    def test_a_wrong_option_is_told_in_a_sentence(self) -> None:
        for options, sentence in (
            (("--port", "x"), "argument --port: give a whole number from 0 to 65535"),
            (("--rate", "nan"), "argument --rate: give a number from 0 to 1000000"),
            (("--history", "-1"), "argument --history: give a whole number from 0 to 100000"),
        ):
            ended = run_server(*options)
            self.assertEqual(ended.returncode, 2)
            self.assertIn(sentence, ended.stderr)

    def test_an_older_python_is_told_what_is_needed(self) -> None:
        program = "import runpy, sys; sys.version_info = (3, 9, 6); runpy.run_path(sys.argv[1])"
        command = [sys.executable, "-S", "-c", program, str(SERVER)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, r"^server\.py needs Python 3\.11 or later; this is .*\n$")

    def test_an_older_python_can_compile_it_and_so_gets_there(self) -> None:
        ast.parse(SERVER.read_text(), feature_version=(3, 8))

    def test_without_scrypt_it_says_so(self) -> None:
        program = altered_server(first="import hashlib; del hashlib.scrypt")
        ended = subprocess.run(program, capture_output=True, text=True, timeout=15, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertRegex(ended.stderr, r"^server\.py: .*scrypt.*\n$")

    @not_on_windows("Windows has no FIFOs")
    def test_users_that_are_no_regular_file_are_one_line_and_no_wait(self) -> None:
        folder = self.enterContext(temporary_folder())
        os.mkfifo(folder / "fifo")
        (folder / "folder").mkdir()
        for name in ("fifo", "folder"):
            ended = run_server("--users", str(folder / name))
            self.assertEqual((ended.returncode, ended.stdout), (1, ""))
            line = f"{name} is no regular file. Name another one with --users.\n"
            self.assertEqual(ended.stderr, line)

    @not_on_windows("Windows has no FIFOs")
    def test_a_log_that_cannot_be_appended_to_at_once_is_one_line(self) -> None:
        folder = self.enterContext(temporary_folder())
        os.mkfifo(folder / "fifo")
        for log in (folder / "fifo", folder):
            users = str(folder / "users.txt")
            ended = run_server("--port", "0", "--log", str(log), "--users", users)
            self.assertEqual((ended.returncode, ended.stdout), (1, ""))
            self.assertRegex(ended.stderr, rf"^server\.py: {log}: [^\n]+\.\n$")


class SystemTest(ServerTest):
    """Signals, streams, logs: what the system around it does."""

    @not_on_windows("Windows renames no file that is open")
    def test_a_rotated_or_removed_log_is_opened_again(self) -> None:
        folder = self.enterContext(temporary_folder())
        log = folder / "room.log"
        running = self.start(options=("--log", str(log)))
        self.login(running, "Tom")
        self.wait_for(log, "Tom login.")
        log.rename(folder / "room.log.1")
        self.login(running, "David")
        self.wait_for(log, "David login.")
        self.assertEqual(log.stat().st_mode & 0o777, 0o600)
        log.unlink()
        self.login(running, "Beth")
        self.wait_for(log, "Beth login.")
        self.assertNotIn("David", log.read_text())

    def wait_for(self, log: Path, text: str) -> None:
        eventually(lambda: log.exists() and text in log.read_text(), f"{text!r} is logged")

    @not_on_windows("Windows removes no file that is open")
    def test_what_the_log_could_not_take_is_in_it_once_it_can_be_written_again(self) -> None:
        folder = self.enterContext(temporary_folder()) / "logs"
        folder.mkdir()
        running = self.start(options=("--log", str(folder / "room.log")))
        (tom,) = self.login(running, "Tom")
        self.wait_for(folder / "room.log", "Tom login.")
        shutil.rmtree(folder)
        tom.send("send all first")
        running.display.until("The log cannot be written: No such file or directory.")
        tom.send("send all second", "send all third")
        running.display.until("Tom: third")
        folder.mkdir()
        tom.close()
        running.stop()
        lines = [line.split(" ", 2)[2] for line in (folder / "room.log").read_text().splitlines()]
        self.assertEqual(lines, running.display.all()[2:])

    @not_on_windows("Windows has no SIGHUP")
    def test_hangup_without_a_terminal_has_the_log_opened_again_and_the_room_goes_on(self) -> None:
        folder = self.enterContext(temporary_folder())
        log = folder / "room.log"
        running = self.start(options=("--log", str(log)))
        (tom,) = self.login(running, "Tom")
        log.rename(folder / "room.log.1")
        running.send_signal(signal.SIGHUP)
        eventually(log.exists, "the log is there again, though nobody says anything")
        self.assertEqual(tom.ask("who"), "Tom")
        self.login(running, "Beth")
        self.wait_for(log, "Beth login.")

    @not_on_windows("Windows has no pseudo-terminals")
    def test_a_closed_terminal_stops_it_as_it_should(self) -> None:
        folder = self.enterContext(temporary_folder())
        write_cheap_users(folder / "users.txt", ["Tom"])
        import pty

        master, slave = pty.openpty()
        running = ServerProcess(folder / "users.txt", stdin=slave)
        try:
            with running.login("Tom") as tom:
                running.send_signal(signal.SIGHUP)
                self.assertEqual(tom.rest(), ["The server is shutting down."])
            self.assertEqual(running.process.wait(PATIENCE), 0)
        finally:
            running.stop()
            os.close(master)
            os.close(slave)

    def test_a_signal_that_was_ignored_at_the_start_stays_ignored(self) -> None:
        program = altered_server(first="import signal; signal.signal(2, signal.SIG_IGN)")
        running = self.start(program=program)
        (tom,) = self.login(running, "Tom")
        running.send_signal(signal.SIGINT)
        self.assertEqual(tom.ask("who"), "Tom")
        running.send_signal(signal.SIGTERM)
        running.display.until("The server is shutting down.")
        running.send_signal(signal.SIGINT)
        tom.close()
        self.assertEqual(running.process.wait(PATIENCE), 0)

    @not_on_windows("there is no sh on Windows")
    def test_closed_standard_streams_change_nothing(self) -> None:
        folder = self.enterContext(temporary_folder())
        log = folder / "log"
        closed, users = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"), ("--users", str(folder / "u"))
        process = subprocess.Popen(
            [*closed, sys.executable, str(SERVER), "--port", "0", "--log", str(log), *users]
        )
        try:
            self.wait_for(log, "Ctrl-C stops it.")
            process.terminate()
            self.assertEqual(process.wait(PATIENCE), 0)
        finally:
            process.kill()
            process.wait()
        self.assertIn("The server is shutting down.", log.read_text())

    def test_an_option_that_a_system_refuses_is_done_without(self) -> None:
        refuse = """
import socket
class Refusing(socket.socket):
    def setsockopt(self, *arguments):
        raise OSError(92, "Protocol not available")
socket.socket = Refusing
"""
        running = self.start(program=altered_server(first=refuse))
        tom, beth = self.login(running, "Tom", "Beth")
        tom.send("send all hello")
        beth.expect("Tom: hello")

    def test_both_files_can_be_started_by_their_name(self) -> None:
        for name in ("server.py", "client.py"):
            path = ROOT / name
            self.assertTrue(path.read_text().startswith("#!/usr/bin/env python3\n"), name)
            self.assertTrue(os.access(path, os.X_OK), name)


class BugTest(ServerTest):
    def test_without_its_courier_the_server_ends_rather_than_stand_dumb(self) -> None:
        folder = self.enterContext(temporary_folder())
        write_cheap_users(folder / "users.txt", ["Tom"])
        program = altered_server(patch="server.Courier.broadcast = None")
        running = ServerProcess(folder / "users.txt", program=program)
        try:
            with running.connect() as tom:
                tom.send(f"login Tom {CHEAP_PASSWORD}")
                self.assertEqual(running.process.wait(PATIENCE), 1)
            self.assertIn("Traceback (most recent call last):", running.errors.all())
        finally:
            running.stop()


class PortableTest(ServerTest):
    """What a system lacks is made up for."""

    @not_on_windows("Windows itself is tested")
    def test_without_msg_dontwait_and_fcntl_it_is_the_same_room(self) -> None:
        folder = self.enterContext(temporary_folder())
        (folder / "users.txt").write_text("(Tom, Tom11)\n(Beth, Beth33)\n")
        program = altered_server({"HASH_COST": (1, 1, 1)}, first=WITHOUT_UNIX)
        with (
            serving(folder / "users.txt", program=program) as running,
            running.connect() as tom,
            running.connect() as beth,
        ):
            self.assertEqual(tom.ask("login Tom Tom11"), "login confirmed")
            created = "New user account created. Please login."
            self.assertEqual(beth.ask("newuser Mike Mike44"), created)
            self.assertEqual(beth.ask("login Beth Beth33"), "login confirmed")
            tom.expect("Beth joins.")
            beth.send("send all hello")
            tom.expect("Beth: hello")
            running.send_signal(signal.SIGINT)
            self.assertEqual(beth.rest(), ["The server is shutting down."])
            tom.close()
            beth.close()
            self.assertEqual(running.process.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()
