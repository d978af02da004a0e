"""The wire, to the letter: real server processes, plain sockets, and nc."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

from tests import cases
from tests.helpers.process import (
    CHEAP_PASSWORD,
    PATIENCE,
    ROOT,
    SERVER,
    USERS,
    ServerProcess,
    Talker,
    child_environment,
    running_server,
    temporary_folder,
    write_cheap_users,
)

GRACE = 1.0  # seconds, on top of a promise, for a machine that is busy with other things


class ServerTest(unittest.TestCase):
    """Each test has a server of its own unless it says otherwise."""

    def start(self, *userids: str, options: tuple[str, ...] = ()) -> ServerProcess:
        return self.enterContext(running_server(userids or ("Tom", "David", "Beth"), options))

    def connect(self, running: ServerProcess) -> Talker:
        return self.enterContext(running.connect())

    def login(self, running: ServerProcess, *userids: str) -> list[Talker]:
        """Log users in one after the other, and have each hear of those after it."""
        talkers: list[Talker] = []
        for userid in userids:
            talkers.append(self.enterContext(running.login(userid)))
            for earlier in talkers[:-1]:
                earlier.expect(f"{userid} joins.")
        return talkers


class ReplyTest(ServerTest):
    """Every row of the tables of replies."""

    def test_login_who_send_logout(self) -> None:
        running = self.start()
        tom, david = self.login(running, "Tom", "David")
        self.assertEqual(tom.ask("who"), "David, Tom")
        tom.send("send all hello")
        david.expect("Tom: hello")
        david.send("send Tom psst")
        tom.expect("David (to Tom): psst")
        self.assertEqual(tom.ask("send Mike hi"), "Denied. Mike is not in the chat room.")
        self.assertEqual(tom.ask("login David secret"), "Denied. You are already logged in as Tom.")
        self.assertEqual(tom.ask("newuser Mike Mike44"), "Denied. Please logout first.")
        david.send("logout")
        self.assertEqual(david.rest(), ["David left."])
        tom.expect("David left.")

    def test_nothing_but_login_and_newuser_before_login(self) -> None:
        talker = self.connect(self.start())
        for command in ("who", "send all hi", "send Tom hi"):
            self.assertEqual(talker.ask(command), "Denied. Please login first.")
        talker.send("logout")
        self.assertEqual(talker.rest(), [])

    def test_newuser_then_login(self) -> None:
        running = self.start()
        talker = self.connect(running)
        created = "New user account created. Please login."
        self.assertEqual(talker.ask("newuser Mike Mike44"), created)
        self.assertEqual(talker.ask("newuser Mike Mike55"), "Denied. User account already exists.")
        self.assertEqual(talker.ask("newuser mike Mike55"), created)
        self.assertEqual(talker.ask("login Mike Mike44"), "login confirmed")
        self.assertRegex(running.users.read_text(), r"\(Mike, \$scrypt\$ln=14,r=8,p=1\$.*\)\n")
        self.assertNotIn("Mike44", running.users.read_text())

    def test_a_full_room_refuses_until_a_place_is_free(self) -> None:
        running = self.start("Tom", "David", "Beth", "Mike")
        tom, _, _ = self.login(running, "Tom", "David", "Beth")
        mike = self.connect(running)
        full = "Denied. The chat room is full (3 of 3)."
        self.assertEqual(mike.ask("login Mike secret"), full)
        running.display.until("Login refused for Mike: The chat room is full (3 of 3).")
        tom.send("logout")
        self.assertEqual(tom.rest(), ["Tom left."])
        self.assertEqual(mike.ask("login Mike secret"), "login confirmed")

    def test_wrong_passwords_say_nothing_more_and_the_third_closes(self) -> None:
        running = self.start()
        talker = self.connect(running)
        wrong = "Denied. User name or password incorrect."
        talker.send("login Tom wrong", "login Nobody wrong", "login tom secret", "login Tom secret")
        self.assertEqual(talker.rest(), [wrong] * 3 + ["Denied. Too many failed logins."])
        shown = [running.display.next() for _ in range(3)]
        self.assertEqual(
            shown,
            [
                f"Login failed for {name} from {talker.address}."
                for name in ("Tom", "Nobody", "tom")
            ],
        )

    def test_the_same_user_elsewhere_takes_over_and_the_room_hears_nothing(self) -> None:
        running = self.start()
        tom, david = self.login(running, "Tom", "David")
        newer = self.enterContext(running.login("Tom"))
        self.assertEqual(tom.rest(), ["Denied. Tom logged in from another connection."])
        newer.send("send all me again")
        david.expect("Tom: me again")
        running.display.until("Tom logout (logged in elsewhere).")
        self.assertEqual(running.display.next(), "Tom login.")

    def test_every_grammar_case_over_the_wire(self) -> None:
        talker = self.connect(self.start(options=("--rate", "0")))
        refused = [(line, refusal) for line, refusal in cases.CASES if refusal is not None]
        talker.send(*(line for line, _ in refused))
        for line, refusal in refused:
            with self.subTest(line=line):
                self.assertEqual(talker.line(), refusal)

    def test_bytes_that_are_not_text_cost_only_their_line(self) -> None:
        running = self.start()
        tom, david = self.login(running, "Tom", "David")
        tom.send_bytes(b"send all \xff\xfe\nsend all \x1b[31mred\nsend all fine\n")
        tom.expect("Denied. Not valid UTF-8.", "Denied. Message must be printable text.")
        david.expect("Tom: fine")


class WireTest(ServerTest):
    def test_split_command_is_one_command(self) -> None:
        talker = self.connect(self.start())
        for byte in b"login Tom secret\r\n":
            talker.send_bytes(bytes([byte]))
        talker.expect("login confirmed")

    def test_coalesced_commands_are_answered_in_order(self) -> None:
        talker = self.connect(self.start())
        talker.send_bytes(b"login Tom secret\nwho\n\n\r\nsend Mike x\nlogout\nwho\n")
        self.assertEqual(
            talker.rest(),
            ["login confirmed", "Tom", "Denied. Mike is not in the chat room.", "Tom left."],
        )

    def test_an_overlong_line_is_refused_and_skipped(self) -> None:
        running = self.start()
        (tom,) = self.login(running, "Tom")
        tom.send_bytes(b"send all " + b"x" * 100_000 + b"\nwho\n")
        tom.expect("Denied. Line longer than 2048 bytes.", "Tom")

    def test_end_of_file_is_a_logout_that_loses_no_reply(self) -> None:
        running = self.start()
        (david,) = self.login(running, "David")
        tom = self.connect(running)
        tom.send("login Tom secret", "who", "send Mike x")
        tom.send_bytes(b"send all no line end")
        tom.finish()
        self.assertEqual(
            tom.rest(),
            [
                "login confirmed",
                "David, Tom",
                "Denied. Mike is not in the chat room.",
                "Tom left.",
            ],
        )
        david.expect("Tom joins.", "Tom left.")
        running.display.until("Tom logout.")

    def test_a_reset_is_a_lost_connection(self) -> None:
        running = self.start()
        tom, david = self.login(running, "Tom", "David")
        tom.reset()
        david.expect("Tom left.")
        running.display.until("Tom logout (connection lost).")

    def test_every_script_passes_unharmed(self) -> None:
        running = self.start("Jos\u00e9", "\u0418\u0432\u0430\u043d")
        first, second = self.login(running, "Jos\u00e9", "\u0418\u0432\u0430\u043d")
        family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
        text = f"\u05e9\u05dc\u05d5\u05dd \u4f60\u597d {family} e\u0301"
        first.send(f"send all {text}")
        second.expect(f"Jos\u00e9: {text}")

    @unittest.skipUnless(shutil.which("nc"), "there is no nc here")
    def test_nc_is_a_full_client(self) -> None:
        running = self.start()
        done = subprocess.run(
            ["nc", "-N", running.host, str(running.port)],
            input=b"login Tom secret\nwho\nsend Beth x\nlogout\n",
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        self.assertEqual(
            done.stdout.decode(),
            "login confirmed\nTom\nDenied. Beth is not in the chat room.\nTom left.\n",
        )


class OrderTest(ServerTest):
    def test_twelve_users_at_once_all_see_one_order(self) -> None:
        names = [f"user{number:02}" for number in range(12)]
        running = self.start(*names, options=("--max-clients", "12", "--rate", "0"))
        talkers = self.login(running, *names)
        heard: dict[str, list[str]] = {}

        def listen(name: str, talker: Talker) -> None:
            heard[name] = [talker.line() or "" for _ in range(11 * 200)]

        listeners = [
            threading.Thread(target=listen, args=pair) for pair in zip(names, talkers, strict=True)
        ]
        for listener in listeners:
            listener.start()
        senders = [
            threading.Thread(
                target=talker.send, args=[f"send all {number}" for number in range(200)]
            )
            for talker in talkers
        ]
        for sender in senders:
            sender.start()
        for thread in senders + listeners:
            thread.join(PATIENCE)
        running.display.until("user11 login.")
        order = [running.display.next() for _ in range(12 * 200)]
        for name in names:
            said = [line for line in order if line and line.startswith(f"{name}: ")]
            self.assertEqual(said, [f"{name}: {number}" for number in range(200)])
            self.assertEqual(heard[name], [line for line in order if line not in said])

    def test_the_sample_conversation(self) -> None:
        """The accounts as shipped; what everyone sees, and the server's display."""
        folder = self.enterContext(temporary_folder())
        shutil.copy(USERS, folder / "users.txt")
        running = ServerProcess(folder / "users.txt")
        try:
            beth, david, tom = (self.connect(running) for _ in range(3))
            self.assertEqual(beth.ask("login Beth Beth33"), "login confirmed")
            self.assertEqual(david.ask("login David David22"), "login confirmed")
            self.assertEqual(tom.ask("login Tom Tom11"), "login confirmed")
            self.assertEqual(tom.ask("who"), "Beth, David, Tom")
            beth.expect("David joins.", "Tom joins.")
            david.expect("Tom joins.")
            beth.send("send David when is it due?")
            david.expect("Beth (to David): when is it due?")
            david.send("send Beth on Friday")
            beth.expect("David (to Beth): on Friday")
            for talker, name, others in (
                (beth, "Beth", (david, tom)),
                (david, "David", (beth, tom)),
                (tom, "Tom", (beth, david)),
            ):
                talker.send(f"send all hello from {name}")
                for other in others:
                    other.expect(f"{name}: hello from {name}")
            david.send("logout")
            self.assertEqual(david.rest(), ["David left."])
            beth.expect("David left.")
            tom.expect("David left.")
        finally:
            self.assertEqual(running.stop(), 0)
        self.assertEqual(beth.rest(), ["The server is shutting down."])
        self.assertEqual(tom.rest(), ["The server is shutting down."])
        self.assertEqual(
            running.display.all(),
            [
                f"Chat room server on 127.0.0.1:{running.port}, room for 3. Ctrl-C stops it.",
                "Beth login.",
                "David login.",
                "Tom login.",
                "Beth (to David): when is it due?",
                "David (to Beth): on Friday",
                "Beth: hello from Beth",
                "David: hello from David",
                "Tom: hello from Tom",
                "David logout.",
                "The server is shutting down.",
            ],
        )


class ProgramTest(ServerTest):
    """Starting, options, stopping."""

    def run_server(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(SERVER), *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=child_environment(),
            check=False,
        )

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
                    self.assertEqual(running.stop(number), 0)
                    self.assertEqual(tom.rest(), ["The server is shutting down."])
                    self.assertEqual(waiting.rest(), ["The server is shutting down."])
                self.assertEqual(running.display.all()[-1], "The server is shutting down.")
                self.assertEqual(running.errors.all(), [])

    def test_stopping_does_not_wait_for_a_costly_hash(self) -> None:
        """This one would take some ten seconds."""
        folder = self.enterContext(temporary_folder())
        costly = f"$scrypt$ln=18,r=8,p=16${'A' * 22}${'A' * 43}"
        (folder / "users.txt").write_text(f"(Tom, {costly})\n")
        running = ServerProcess(folder / "users.txt")
        try:
            with running.connect() as tom, running.connect() as other:
                tom.send("foo", "login Tom secret")
                tom.line()
                for _ in range(20):  # it is being hashed by then
                    other.ask("who")
                began = time.monotonic()
                self.assertEqual(running.stop(), 0)
                self.assertLess(time.monotonic() - began, 2 + GRACE)
        finally:
            running.stop()

    def test_a_taken_port_is_one_line_on_standard_error_and_status_1(self) -> None:
        folder = self.enterContext(temporary_folder())
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
            port = str(taken.getsockname()[1])
            ended = self.run_server("--port", port, "--users", str(folder / "users.txt"))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertEqual(
            ended.stderr,
            f"server.py: 127.0.0.1:{port}: Address already in use. "
            "Stop what uses it, or choose another --port.\n",
        )

    def test_a_host_that_is_none_is_one_line_on_standard_error_and_status_1(self) -> None:
        folder = self.enterContext(temporary_folder())
        ended = self.run_server("--host", "no.such.host.invalid", "--users", str(folder / "u"))
        self.assertEqual((ended.returncode, ended.stdout), (1, ""))
        self.assertRegex(ended.stderr, r"^server\.py: no\.such\.host\.invalid:14850: .+\n$")

    def test_wrong_options_are_status_2(self) -> None:
        for options in (
            ("--port", "70000"),
            ("--port", "x"),
            ("--max-clients", "0"),
            ("--rate", "-1"),
            ("--rate", "nan"),
            ("--frobnicate",),
            ("stray",),
        ):
            with self.subTest(options=options):
                self.assertEqual(self.run_server(*options).returncode, 2)

    def test_help_and_version(self) -> None:
        ended = self.run_server("--help")
        self.assertEqual(ended.returncode, 0)
        for option in ("--host", "--port", "--max-clients", "--users", "--log", "--rate"):
            self.assertIn(option, ended.stdout)
        version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
        assert version
        self.assertEqual(self.run_server("--version").stdout, f"server.py {version.group(1)}\n")

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
        running.stop()
        lines = log.read_text().splitlines()
        self.assertEqual(lines[0], "as it was")
        time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
        shown = running.display.all()
        self.assertEqual([re.sub(f"^{time} \\S+ ", "", line) for line in lines[1:]], shown)
        self.assertRegex(lines[2], f"^{time} {tom.address} Tom login\\.$")
        self.assertNotIn(CHEAP_PASSWORD, log.read_text())

    def test_a_password_is_never_shown(self) -> None:
        running = self.start()
        talker = self.connect(running)
        talker.send("newuser Mike Hush4242", "login Mike Hush4242", "who")
        talker.expect("New user account created. Please login.", "login confirmed", "Mike")
        running.stop()
        self.assertEqual(
            running.display.all()[1:4],
            ["New user account created: Mike.", "Mike login.", "The server is shutting down."],
        )
        self.assertNotIn("Hush4242", "".join(running.display.all() + running.errors.all()))


class BugTest(ServerTest):
    def test_without_its_courier_the_server_ends_rather_than_stand_dumb(self) -> None:
        script = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import server; "
            "server.Courier._broadcast = None; sys.exit(server.main())"
        )
        folder = self.enterContext(temporary_folder())
        write_cheap_users(folder / "users.txt", ["Tom"])
        running = ServerProcess(folder / "users.txt", program=(sys.executable, "-c", script))
        try:
            with running.connect() as tom:
                tom.send("login Tom secret")
                self.assertEqual(running.process.wait(PATIENCE), 1)
            self.assertIn("TypeError: 'NoneType' object is not callable", running.errors.all())
        finally:
            running.stop()


class PortableTest(ServerTest):
    """What a system lacks is made up for."""

    def test_without_msg_dontwait_and_fcntl_it_is_the_same_room(self) -> None:
        """As on Windows."""
        script = (
            "import sys, socket; sys.modules['fcntl'] = sys.modules['resource'] = None; "
            f"del socket.MSG_DONTWAIT; sys.path.insert(0, {str(ROOT)!r}); "
            "import server; sys.exit(server.main())"
        )
        folder = self.enterContext(temporary_folder())
        (folder / "users.txt").write_text("(Tom, Tom11)\n(Beth, Beth33)\n")
        running = ServerProcess(folder / "users.txt", program=(sys.executable, "-c", script))
        try:
            with running.connect() as tom, running.connect() as beth:
                self.assertEqual(tom.ask("login Tom Tom11"), "login confirmed")
                created = "New user account created. Please login."
                self.assertEqual(beth.ask("newuser Mike Mike44"), created)
                self.assertEqual(beth.ask("login Beth Beth33"), "login confirmed")
                tom.expect("Beth joins.")
                beth.send("send all hello")
                tom.expect("Beth: hello")
                self.assertEqual(running.stop(), 0)
                self.assertEqual(beth.rest(), ["The server is shutting down."])
        finally:
            running.stop()
