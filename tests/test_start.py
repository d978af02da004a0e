"""Starting, options, stopping; and what a system lacks."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from tests.helpers.process import (
    CHEAP_PASSWORD,
    PATIENCE,
    ROOT,
    SERVER,
    ServerProcess,
    ServerTest,
    altered_server,
    child_environment,
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
sys.modules["fcntl"] = sys.modules["resource"] = None
del socket.MSG_DONTWAIT
"""


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
                    running.process.send_signal(number)
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
        self.assertEqual(
            ended.stderr,
            f"server.py: 127.0.0.1:{port}: Address already in use. "
            "Stop what uses it, or choose another --port.\n",
        )

    def test_a_host_that_is_none_is_one_line_on_standard_error_and_status_1(self) -> None:
        folder = self.enterContext(temporary_folder())
        ended = run_server("--host", "no.such.host.invalid", "--users", str(folder / "u"))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, r"^server\.py: no\.such\.host\.invalid:14850: .+\n$")

    def test_wrong_options_are_status_2(self) -> None:
        wrong = (
            ("--port", "70000"),
            ("--port", "x"),
            ("--max-clients", "0"),
            ("--rate", "-1"),
            ("--rate", "nan"),
            ("--frobnicate",),
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
            self.assertIn("TypeError: 'NoneType' object is not callable", running.errors.all())
        finally:
            running.stop()


class PortableTest(ServerTest):
    """What a system lacks is made up for."""

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
            running.process.send_signal(signal.SIGINT)
            self.assertEqual(beth.rest(), ["The server is shutting down."])
            tom.close()
            beth.close()
            self.assertEqual(running.process.wait(PATIENCE), 0)


if __name__ == "__main__":
    unittest.main()
