"""The wire, to the letter: real server processes, plain sockets, and nc."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from typing import ClassVar

import server
from tests.helpers import cases
from tests.helpers.census import eventually, settle, take_census
from tests.helpers.process import (
    PATIENCE,
    ServerProcess,
    ServerTest,
    altered_server,
    not_on_windows,
    running_server,
)
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
            self.assertEqual(talker.ask(command), cases.LOGIN_FIRST)
        talker.send("logout")
        self.assertEqual(talker.rest(), [])

    def test_send_and_who_before_login_ask_for_it_whatever_follows_the_word(self) -> None:
        talker = self.connect(self.start())
        for command in ("send", "send all", "SEND ab hi", "send all \x07", "who else"):
            self.assertEqual(talker.ask(command), cases.LOGIN_FIRST)
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
        running = self.start(program=altered_server({"FAILURE_DELAY": 0.05, "STRANGER_SECONDS": 0}))
        talker = self.connect(running)
        wrong = "Denied. User name or password incorrect."
        began = time.monotonic()
        talker.send("login Tom wrong", "login Nobody wrong", "login tom secret", "login Tom secret")
        self.assertEqual(talker.rest(), [wrong] * 3 + ["Denied. Too many failed logins."])
        self.assertGreaterEqual(time.monotonic() - began, 0.15)
        shown = [running.display.next() for _ in range(3)]
        # What is typed in a name's place may be a password: only names that exist are shown.
        self.assertEqual(
            shown,
            [f"Login failed{who} from {talker.address}." for who in (" for Tom", "", "")],
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
        tom.send_bytes(b"send all \xc3\x28\nsend all \x1b[31mred\nsend all fine\n")
        tom.expect("Denied. Not valid UTF-8.", "Denied. Message must be printable text.")
        david.expect("Tom: fine")


class DoorTest(ServerTest):
    """Before login: who is let in, who is not, and what is said to those."""

    WRONG = "Denied. User name or password incorrect."
    TOLD = """
def expire(room, now, expire=server.Room.expire):
    room.display.show("Looked for those who are late.")
    return expire(room, now)
server.Room.expire = expire
"""

    def test_newcomers_do_not_have_the_whole_crowd_at_the_door_looked_at(self) -> None:
        running = self.start(program=altered_server({"HANDSHAKE_SECONDS": 60}, patch=self.TOLD))
        with contextlib.ExitStack() as stack:
            for talker in [stack.enter_context(running.connect()) for _ in range(20)]:
                self.assertEqual(talker.ask("who"), cases.LOGIN_FIRST)
        running.stop()
        self.assertEqual(running.display.all().count("Looked for those who are late."), 1)

    def test_past_ten_failures_at_a_userid_its_address_waits_and_other_users_do_not(self) -> None:
        running = self.start(program=altered_server({"FAILURE_DELAY": 0, "LOGIN_TRIES": 100}))
        talker = self.connect(running)
        for _ in range(10):
            self.assertEqual(talker.ask("login Tom wrong"), self.WRONG)
        refused = r"^Denied\. Too many failed logins, try again in [1-6] seconds\.$"
        self.assertRegex(talker.ask("login Tom secret") or "", refused)
        self.assertEqual(talker.ask("login Beth secret"), "login confirmed")

    def test_a_right_password_is_no_failure(self) -> None:
        running = self.start()
        for _ in range(12):
            self.login(running, "Tom")[0].close()

    def test_past_its_accounts_an_address_is_refused_before_the_hash(self) -> None:
        running = self.start(program=altered_server({"NEW_ACCOUNTS": 2, "HASH_COST": (1, 1, 1)}))
        talker = self.connect(running)
        created = "New user account created. Please login."
        self.assertEqual(talker.ask("newuser Mike Mike44"), created)
        self.assertEqual(talker.ask("newuser Mike Mike44"), "Denied. User account already exists.")
        self.assertEqual(talker.ask("newuser Anna Anna55"), created)
        refused = "Denied. Too many new accounts, try again in 6 seconds."
        self.assertEqual(talker.ask("newuser Rosa Rosa66"), refused)
        self.assertEqual(talker.ask("login Anna Anna55"), "login confirmed")

    def test_no_new_accounts_if_so_asked(self) -> None:
        talker = self.connect(self.start(options=("--no-newuser",)))
        refused = "Denied. New accounts are not accepted."
        self.assertEqual(talker.ask("newuser Mike Mike44"), refused)
        self.assertEqual(talker.ask("login Tom secret"), "login confirmed")

    def test_a_login_does_not_wait_for_what_its_address_has_used_up(self) -> None:
        running = self.start(options=("--rate", "0.01"))
        noisy = self.connect(running)
        noisy.send(*["who"] * 21)
        noisy.expect(*["Denied. Please login first."] * 20)
        (beth,) = self.login(running, "Beth")
        self.assertEqual(beth.ask("who"), "Beth")

    def test_connecting_again_brings_no_new_burst(self) -> None:
        running = self.start(options=("--rate", "0.01"))
        (tom,) = self.login(running, "Tom")
        tom.send(*["who"] * 12)
        tom.expect(*["Tom"] * 12)
        (newer,) = self.login(running, "Tom")
        newer.send(*["who"] * 12)
        newer.expect(*["Tom"] * 8)
        newer.socket.settimeout(0.2)
        self.assertRaises(TimeoutError, newer.line)

    def test_a_web_page_is_not_obeyed_however_its_request_is_cut(self) -> None:
        running = self.start()
        long_line = "GET /" + "x" * 3000 + " HTTP/1.1"
        for request in ("POST / HTTP/1.1", "GET /a?b HTTP/1.0", long_line):
            for pieces in (1, 40):
                with self.subTest(request=request[:20], pieces=pieces):
                    talker = self.connect(running)
                    body = "\r\n".join((request, "", "login Tom secret", "newuser Eve Eve4242", ""))
                    step = len(body) // pieces + 1
                    with contextlib.suppress(OSError):  # it may have been closed in the middle
                        for start in range(0, len(body), step):
                            talker.send_bytes(body[start : start + step].encode())
                    self.assertEqual(talker.rest(), ["Denied. This is not a web server."])
        (tom,) = self.login(running, "Tom")
        self.assertEqual(tom.ask("who"), "Tom")
        self.assertNotIn("Eve", running.users.read_text())

    def test_a_tls_handshake_is_told_that_the_room_is_not_encrypted(self) -> None:
        talker = self.connect(self.start())
        talker.send_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.assertEqual(talker.rest(), ["Denied. This room is not encrypted."])

    def test_strangers_get_a_line_a_second_and_the_rest_is_counted(self) -> None:
        altered = altered_server(
            {"FAILURE_DELAY": 0, "LOGIN_TRIES": 9, "STRANGER_SECONDS": 0.2, "WATCH_SECONDS": 0.05}
        )
        running = self.start(program=altered)
        talker = self.connect(running)
        for _ in range(5):
            talker.ask("login Tom wrong")
        told = 0
        while told < 5:
            line = running.display.next() or ""
            found = re.fullmatch(r"\((\d) more failed logins and closed connections\)", line)
            if not found:
                self.assertEqual(line, f"Login failed for Tom from {talker.address}.")
            told += int(found[1]) if found else 1
        self.assertEqual(told, 5)

    def test_a_password_typed_in_the_names_place_is_neither_shown_nor_logged(self) -> None:
        running = self.start(program=altered_server({"FAILURE_DELAY": 0}))
        self.connect(running).ask("login David22 David")
        line = running.display.until(lambda line: line.startswith("Login failed"))
        self.assertNotIn("David22", line)


class GoneTest(ServerTest):
    """Gone means gone: what a connection had queued is dropped, and its place is free."""

    @unittest.skipUnless(sys.platform == "linux", "only Linux tells what was agreed on")
    def test_a_segment_fits_into_the_small_buffer_or_its_sender_waits_for_ever(self) -> None:
        talker = self.connect(self.start())
        segment = talker.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        self.assertLess(segment, server.RECEIVE_BUFFER / 2)

    def test_lines_that_were_queued_when_a_connection_was_reset_are_dropped(self) -> None:
        running = self.start(options=("--rate", "20"))
        tom, beth = self.login(running, "Tom", "Beth")
        tom.send(*[f"send all {number}" for number in range(200)])
        beth.expect("Tom: 0")
        tom.reset()
        heard = []
        while (line := beth.line()) != "Tom left.":
            heard.append(line)
        self.assertLess(len(heard), 100)
        running.display.until("Tom logout (connection lost).")

    @not_on_windows("Windows cannot stop a process for a while")
    def test_at_full_speed_no_more_than_one_read_is_said_after_a_reset(self) -> None:
        running = self.start(options=("--rate", "0"))
        tom, beth = self.login(running, "Tom", "Beth")
        running.process.send_signal(signal.SIGSTOP)
        os.waitpid(running.pid, os.WUNTRACED)
        tom.send(*["send all x"] * 372)
        tom.reset()
        running.process.send_signal(signal.SIGCONT)
        heard = beth.until(lambda line: line == "Tom left.")
        self.assertLessEqual(len("send all x\n" * heard.count("Tom: x")), server.READ_SIZE)
        running.display.until("Tom logout (connection lost).")

    # Has the server stop itself before a password is checked, or hashed, until it is told to go on.
    STOPS = """
import signal, threading
def stopping(check):
    def checked(*words):
        os.write(2, check.__name__.encode() + b"\\n")
        if check.__name__ == {name!r}:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # before another step
        return check(*words)
    return checked
server.Session.is_password_right = stopping(server.Session.is_password_right)
server.verify_password = stopping(server.verify_password)
"""

    @not_on_windows("Windows cannot stop a process for a while")
    def test_a_login_that_is_reset_takes_nobodys_place_nor_a_hash_that_has_not_begun(self) -> None:
        for name, hashes in (("is_password_right", 1), ("verify_password", 2)):
            patch = self.STOPS.format(name=name)
            running = self.start(program=altered_server(patch=patch))
            with self.subTest(name), running.connect() as tom:
                tom.send("login Tom secret")
                os.waitpid(running.pid, os.WUNTRACED)
                running.process.send_signal(signal.SIGCONT)
                tom.expect("login confirmed")
                before = take_census(running.pid)
                with running.connect() as again:
                    again.send("login Tom secret")
                    os.waitpid(running.pid, os.WUNTRACED)
                    again.reset()
                running.process.send_signal(signal.SIGCONT)
                settle(running.pid, before)
                self.assertEqual(tom.ask("who"), "Tom")
                tom.send("logout")
                self.assertEqual(tom.rest(), ["Tom left."])
            running.stop()
            self.assertEqual(running.errors.all().count("verify_password"), hashes)

    def test_no_more_than_eight_kibibytes_are_held_of_who_is_slowed_down(self) -> None:
        running = self.start(options=("--rate", "0.01"))
        (tom,) = self.login(running, "Tom")
        tom.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        tom.send(*["who"] * 30)
        tom.expect(*["Tom"] * 20)
        tom.socket.settimeout(0.2)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while True:
                sent += tom.socket.send(b"send all a line that waits\n" * 8)
        self.assertLess(sent, 24 * 1024)

    def test_what_came_before_an_end_of_file_is_obeyed(self) -> None:
        running = self.start(options=("--rate", "400"))
        tom, beth = self.login(running, "Tom", "Beth")
        tom.send(*[f"send all {number}" for number in range(60)])
        tom.finish()
        beth.expect(*[f"Tom: {number}" for number in range(60)], "Tom left.")
        running.display.until("Tom logout.")

    def test_a_reset_is_shown_as_one_though_a_send_has_met_it_first(self) -> None:
        running = self.start(options=("--rate", "0", "--max-clients", "10"))
        (beth,) = self.login(running, "Beth")
        for _ in range(30):
            with running.connect() as tom:
                tom.send("login Tom secret")
                tom.expect("login confirmed")
                beth.send(*["send Tom x"] * 5)
                tom.send("send all x", "who")
                tom.reset()
            while beth.line() != "Tom left.":
                pass
            line = running.display.until(lambda line: line.startswith("Tom logout"))
            self.assertEqual(line, "Tom logout (connection lost).")


class TelnetTest(ServerTest):
    def test_puttys_opening_does_not_swallow_the_login_and_is_answered(self) -> None:
        talker = self.connect(self.start())
        opening = bytes.fromhex("fffb1ffffb20fffb18fffb27fffd01fffb03fffd03")
        talker.send_bytes(opening + b"login Tom secret\r\0who\r\n")
        line = talker.socket.makefile("rb").readline()
        answers = bytes.fromhex("fffe1ffffe20fffe18fffe27fffc01fffe03fffc03")
        self.assertEqual(line, answers + b"login confirmed\n")

    def test_telnets_ctrl_c_drops_the_half_typed_line_and_is_answered(self) -> None:
        running = self.start()
        (tom,) = self.login(running, "Tom")
        tom.send_bytes(b"send all hel\xff\xf4\xff")
        tom.socket.send(b"\xfd", socket.MSG_OOB)  # Synch, as telnet sends it
        tom.send_bytes(b"\x06who\r\n")
        self.assertEqual(tom.socket.makefile("rb").readline(), b"\xff\xfc\x06Tom\n")

    def test_negotiation_without_end_is_refused_like_any_overlong_line(self) -> None:
        talker = self.connect(self.start(options=("--rate", "0")))
        talker.send_bytes(b"\xff\xfd\x01" * 20_000 + b"\nwho\n")
        data = b""
        while b"login first" not in data:
            data += talker.socket.recv(65536)
        text = data.replace(b"\xff\xfc\x01", b"").decode()
        refusals = "Denied. Line longer than 2048 bytes.\nDenied. Please login first."
        self.assertEqual(text.strip(), refusals)
        self.assertLess(data.count(b"\xff\xfc\x01"), 700)


class HistoryTest(ServerTest):
    def test_a_joiner_is_told_what_was_said_to_all(self) -> None:
        running = self.start(options=("--history", "2"))
        self.assertIn("room for 3, last 2 lines kept. Ctrl-C", running.display.seen[0])
        tom, david = self.login(running, "Tom", "David")
        tom.send("send all one", "send David psst", "send all two", "send all three")
        david.expect("Tom: one", "Tom (to David): psst", "Tom: two", "Tom: three")
        (beth,) = self.login(running, "Beth")
        for message in ("two", "three"):
            self.assertRegex(beth.line() or "", rf"^Tom \(at \d\d:\d\d\): {message}$")
        self.assertEqual(beth.ask("who"), "Beth, David, Tom")


class EditedTest(ServerTest):
    """The one who looks after the room has users.txt and an editor."""

    QUICK: ClassVar[dict[str, object]] = {
        "WATCH_SECONDS": 0.02,
        "SETTLED_SECONDS": 0.1,
        "HASH_COST": (1, 1, 1),
        "FAILURE_DELAY": 0,
    }

    def remove(self, running: ServerProcess, userid: str) -> None:
        lines = running.users.read_text().splitlines(keepends=True)
        running.users.write_text("".join(line for line in lines if f"({userid}," not in line))

    def test_whose_account_is_removed_is_shown_the_door(self) -> None:
        running = self.start(program=altered_server(self.QUICK))
        tom, david = self.login(running, "Tom", "David")
        self.remove(running, "David")
        self.assertEqual(david.rest(), ["Denied. Your account was removed."])
        tom.expect("David left.")
        running.display.until("David logout (account removed).")
        with self.connect(running) as again:
            refusal = "Denied. User name or password incorrect."
            self.assertEqual(again.ask("login David secret"), refusal)

    def test_whose_account_is_removed_does_not_stay_for_as_long_as_others_are_hashed(self) -> None:
        hang = """
import threading
def hash_password(password):
    os.write(2, b"hashing\\n")
    threading.Event().wait()
server.hash_password = hash_password
"""
        running = self.start(program=altered_server(self.QUICK, patch=hang))
        (david,) = self.login(running, "David")
        with running.users.open("a") as file:
            file.write("(Mike, Mike44)\n")
        running.errors.until("hashing")
        self.remove(running, "David")
        self.assertEqual(david.rest(), ["Denied. Your account was removed."])

    def test_who_stops_the_terminal_that_errors_are_told_on_stops_no_newuser(self) -> None:
        stuck = """
import threading
def complain(line):
    os.write(2, line.encode() + bytes([10]))
    threading.Event().wait()
def replace(*_):
    raise OSError(16, "Device or resource busy")
server.complain, server.os.replace = complain, replace
"""
        running = self.start(program=altered_server(self.QUICK, patch=stuck))
        self.login(running, "Tom")
        with running.users.open("a") as file:
            file.write("(Mike, Mike44)\n")
        running.errors.until(lambda line: "it cannot be replaced" in line)
        created = "New user account created. Please login."
        self.assertEqual(self.connect(running).ask("newuser Anna Anna44"), created)

    def test_a_name_whose_account_is_removed_is_free_also_while_nobody_is_in(self) -> None:
        running = self.start(program=altered_server(self.QUICK))
        talker = self.connect(running)
        created = "New user account created. Please login."
        edited = running.users.with_name("edited")
        shutil.copy(running.users, edited)
        self.assertEqual(talker.ask("newuser Mike Mike44"), created)
        a_minute_later = time.time() + 60  # as the file tells it: Mike's account is not new then
        os.utime(edited, (a_minute_later, a_minute_later))
        os.replace(edited, running.users)
        self.assertEqual(talker.ask("newuser Mike Mike55"), created)

    def test_an_account_that_was_added_logs_in_and_is_hashed(self) -> None:
        running = self.start(program=altered_server(self.QUICK))
        with running.users.open("a") as file:
            file.write("(Mike, Mike44)\n")
        (mike,) = [self.connect(running)]
        self.assertEqual(mike.ask("login Mike Mike44"), "login confirmed")
        eventually(lambda: "Mike44" not in running.users.read_text(), "the password is hashed")
        self.assertEqual(mike.ask("who"), "Mike")
        (again,) = [self.connect(running)]
        self.assertEqual(again.ask("login Mike Mike44"), "login confirmed")

    def test_a_mistake_is_displayed_and_the_room_goes_on(self) -> None:
        running = self.start(program=altered_server(self.QUICK))
        (tom,) = self.login(running, "Tom")
        with running.users.open("a") as file:
            file.write("Mike Mike44\n")
        reason = "not an account; write (UserID, Password), or # before a comment."
        running.display.until(f"users.txt:4: {reason}")
        self.assertEqual(tom.ask("who"), "Tom")
        self.login(running, "Beth")


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
            david.close()
            beth.expect("David left.")
            tom.expect("David left.")
            running.send_signal(signal.SIGINT)
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
