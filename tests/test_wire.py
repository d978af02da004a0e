"""The wire, to the letter: real server processes, plain sockets, and nc."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
import unittest

from tests.helpers import cases
from tests.helpers.grammar import IS_OLD, LOGIN_FIRST
from tests.helpers.process import PATIENCE, ServerTest, altered_server, running_server
from tests.helpers.talker import Talker


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
            self.assertEqual(talker.ask(command), LOGIN_FIRST)
        talker.send("logout")
        self.assertEqual(talker.rest(), [])

    @unittest.skipIf(IS_OLD, "server.py comes to this with issue 9")
    def test_send_and_who_before_login_ask_for_it_whatever_follows_the_word(self) -> None:
        talker = self.connect(self.start())
        for command in ("send", "send all", "SEND ab hi", "send all \x07", "who else"):
            self.assertEqual(talker.ask(command), LOGIN_FIRST)
        for command, refusal in (
            ("send all \udcff", "Denied. Not valid UTF-8."),
            ("send all " + "x" * 2048, "Denied. Line longer than 2048 bytes."),
        ):
            talker.send_bytes(command.encode(errors="surrogateescape") + b"\n")
            talker.expect(refusal)

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

    def test_wrong_passwords_cost_time_say_nothing_more_and_the_third_closes(self) -> None:
        running = self.start(program=altered_server({"FAILURE_DELAY": 0.05}))
        talker = self.connect(running)
        wrong = "Denied. User name or password incorrect."
        began = time.monotonic()
        talker.send("login Tom wrong", "login Nobody wrong", "login tom secret", "login Tom secret")
        self.assertEqual(talker.rest(), [wrong] * 3 + ["Denied. Too many failed logins."])
        self.assertGreaterEqual(time.monotonic() - began, 0.15)
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
        (talker,) = self.login(self.start(options=("--rate", "0")), "Tom")
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
        """What everyone sees, and the server's display."""
        with running_server() as running:
            beth, david, tom = self.login(running, "Beth", "David", "Tom")
            self.assertEqual(tom.ask("who"), "Beth, David, Tom")
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
            running.process.send_signal(signal.SIGINT)
            for talker in (beth, tom):
                self.assertEqual(talker.rest(), ["The server is shutting down."])
                talker.close()
            running.process.wait(PATIENCE)
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


if __name__ == "__main__":
    unittest.main()
