"""The client at a real pseudo-terminal: keys, the prompt, passwords, and every way out."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import unittest
from collections.abc import Iterator

from tests.helpers.census import eventually
from tests.helpers.fake_server import PATIENCE, FakeServer
from tests.helpers.process import CLIENT

if sys.platform == "win32":
    raise unittest.SkipTest("Windows has no pseudo-terminals; see tests.long.windows_client")

import pty
import termios

from tests.helpers.terminal import CTRL, DELETE, DOWN, LEFT, UP, Terminal

ESCAPES = re.compile(r"\x1b(\[[0-?]*[@-~])")
NO_TERMIOS = (
    "-c",
    "import sys; sys.modules['termios'] = None; import client; sys.exit(client.main(sys.argv[1:]))",
)


class TerminalTest(unittest.TestCase):
    def setUp(self) -> None:
        self.server = self.enterContext(FakeServer())

    @contextlib.contextmanager
    def client(self, login: bool = True, **options: object) -> Iterator[Terminal]:
        """Run a client at its prompt, with Tom logged in."""
        terminal = Terminal(self.server, **options)  # type: ignore[arg-type]
        try:
            terminal.expect("> ")
            if login:
                terminal.type("login Tom Tom11\r")
                self.assertEqual(self.server.hear(), "login Tom Tom11")
                self.server.say("login confirmed")
                terminal.expect("login confirmed\r\n")
                terminal.expect("> ")
            yield terminal
        finally:
            terminal.close()

    def assert_ends(self, terminal: Terminal, status: int = 0) -> None:
        self.assertEqual(terminal.status(), status)
        self.assertTrue(terminal.is_sane(), "the terminal was left in another state")
        paste_on, paste_off = (terminal.output.rfind(f"\x1b[?2004{end}") for end in "hl")
        self.assertTrue(paste_on < paste_off or paste_on == -1, "bracketed paste was left on")


class EditingTest(TerminalTest):
    def test_a_typed_line_is_sent(self) -> None:
        with self.client() as terminal:
            terminal.type("send all hello\r")
            self.assertEqual(self.server.hear(), "send all hello")

    def test_the_keys_that_fingers_know(self) -> None:
        cases = (
            ("wwho" + CTRL["A"] + CTRL["D"], "who"),
            ("wo" + LEFT + "h", "who"),
            ("wo" + CTRL["B"] + "h" + CTRL["F"] + "\x7f" + "o", "who"),
            ("ho\x1b[Hw", "who"),
            ("ho\x1b[1~w\x1b[F ", "who "),
            ("ho" + CTRL["A"] + "w" + CTRL["E"] + " ", "who "),
            ("whoo\x08", "who"),
            ("wxho" + LEFT * 3 + DELETE, "who"),
            ("who else" + LEFT * 5 + CTRL["K"], "who"),
            ("nonsense who" + LEFT * 3 + CTRL["U"], "who"),
            ("send all one two" + CTRL["W"] + "three", "send all one three"),
            ("send all a b" + CTRL["W"] + CTRL["Y"] + CTRL["Y"], "send all a bb"),
            ("send all b\x1bba ", "send all a b"),
            ("send b" + CTRL["A"] + "\x1bf all", "send all b"),
            ("send all b\x1b[1;5Da ", "send all a b"),
            ("send all caf\u00e9s\x7f\x7f\u00e9", "send all caf\u00e9"),
            ("send all e\u0301x\x7f\x7fe", "send all e"),
            ("send all \u5c71\u7530" + LEFT + "\u5ddd", "send all \u5c71\u5ddd\u7530"),
            ("wh\x1b[15~\x1b[Zo", "who"),
            ("\x1bwho", "who"),
            ("send all one two" + CTRL["A"] + "\x1bf\x1bf\x1bd one", "send all one two"),
            ("send all one-two\x1b\x7fthree", "send all one-three"),
            ("send all one-two\x1b\x08" + CTRL["Y"] * 2, "send all one-twotwo"),
            ("w\x1b[[Aho", "who"),
            ("w\x1b]11;rgb:0000/0000/0000\x1b\\ho", "who"),
            ("w\x1bP>|XTerm(390)\x1b\\ho", "who"),
            ("nonsense" + CTRL["C"] + "who", "who"),
        )
        with self.client() as terminal:
            for keys, sent in cases:
                with self.subTest(keys=keys):
                    terminal.type(keys + "\r")
                    self.assertEqual(self.server.hear(), sent)

    def test_the_history_and_the_half_typed_line_below_it(self) -> None:
        for keys, sent in (
            (UP, "send all two"),
            (UP * 2, "send all one"),
            (UP * 9, "send all one"),
            ("who" + UP * 2 + DOWN * 2, "who"),
            ("who" + CTRL["P"] + CTRL["N"], "who"),
            (UP * 2 + DOWN, "send all two"),
            (CTRL["R"] + "one", "send all one"),
            (CTRL["R"] + "all" + CTRL["R"], "send all one"),
            (CTRL["R"] + "onx\x7f", "send all one"),
            ("who" + CTRL["R"] + "one" + CTRL["G"], "who"),
            (CTRL["R"] + "one" + CTRL["E"] + "s", "send all ones"),
        ):
            with self.subTest(keys=keys), self.client() as terminal:
                terminal.type("send all one\rsend all two\r")
                terminal.type(keys + "\r")
                heard = [self.server.hear() for _ in range(3)]
                self.assertEqual(heard, ["send all one", "send all two", sent])
            self.server.die()

    def test_a_search_says_when_nothing_is_found(self) -> None:
        with self.client() as terminal:
            terminal.type("send all one\r" + CTRL["R"] + "one")
            terminal.expect("(search 'one') send all one")
            terminal.type("x")
            terminal.expect("(not found: 'onex') send all one")
            terminal.type("\x7f")
            terminal.expect("(search 'one') send all one")

    def test_a_command_that_may_be_a_mistyped_password_stays_out_of_the_history(self) -> None:
        with self.client() as terminal:
            terminal.type("send all one\rlgoin Tom Tom11\rTom11\rsned all a b\r")
            terminal.expect('Unknown command "sned"')
            terminal.type(UP * 2 + "\r")
            self.assertEqual(self.server.hear(), "send all one")
            self.assertEqual(self.server.hear(), "send all one")

    def test_tab_completes_commands_and_the_users_in_the_room(self) -> None:
        with self.client() as terminal:
            self.server.say("Beth, Dan, Tom", "Dave joins.", "Dan left.", "Mike joins.")
            self.server.say("Mike left.")
            terminal.expect("Mike left.")
            for keys, sent in (
                ("wh\t", "who "),
                ("send B\thi", "send Beth hi"),
                ("SEND  al\thi", "SEND  all hi"),
                ("send Da\thi", "send Dave hi"),
                ("send Mi\thi there", "send Mihi there"),
                ("send Z\thi there", "send Zhi there"),
                ("\u3000send\u3000B\thi", "\u3000send\u3000Beth hi"),
            ):
                with self.subTest(keys=keys):
                    terminal.type(keys + "\r")
                    self.assertEqual(self.server.hear(), sent)

    def test_a_second_tab_lists(self) -> None:
        with self.client() as terminal:
            terminal.type("log\t\t")
            terminal.expect("login  logout")

    def test_a_paste_is_its_lines_in_order_and_its_escapes_are_text(self) -> None:
        lines = [f"send all line {number}" for number in range(200)]
        with self.client() as terminal:
            lines[100] = "send all \x1b[A\x03"
            terminal.type(f"\x1b[200~{chr(13).join([*lines, ''])}\x1b[201~")
            self.assertEqual([self.server.hear() for _ in lines], lines)
            terminal.expect("send all \\x1b[A\\x03")

    def test_typed_bytes_that_are_not_utf8_are_refused(self) -> None:
        with self.client() as terminal:
            terminal.type("send all \udcff\r")
            terminal.expect("Denied. Not valid UTF-8.")

    def test_an_endless_line_is_refused_and_the_next_one_sent(self) -> None:
        with self.client() as terminal:
            for _ in range(20):
                terminal.type("x" * 1000)
                terminal.read(PATIENCE)
            terminal.type("\r")
            terminal.expect("Denied. Line longer than 2048 bytes.")
            terminal.type("who\r")
            self.assertEqual(self.server.hear(), "who")

    def test_a_line_that_arrives_is_drawn_above_the_half_typed_text_in_one_write(self) -> None:
        with self.client() as terminal:
            terminal.type("send all half" + LEFT * 2)
            terminal.expect("\x1b[13C")
            self.server.say("Beth: hi", "Beth: there")
            terminal.expect("\r \x1b[J\rBeth: hi\r\nBeth: there\r\n\x1b[?7l> send all half")
            terminal.expect("\r\x1b[13C")
            terminal.type("-typed-\r")
            self.assertEqual(self.server.hear(), "send all ha-typed-lf")

    def test_ctrl_l_clears_the_screen(self) -> None:
        with self.client() as terminal:
            terminal.type("who" + CTRL["L"])
            terminal.expect("\x1b[H\x1b[2J")
            terminal.expect("> who")

    def test_a_new_window_size_is_used_at_once(self) -> None:
        with self.client() as terminal:
            terminal.type("send all " + "x" * 40)
            terminal.expect("x" * 40)
            terminal.resize(30)
            terminal.expect("> send all " + "x" * 19 + "\r\n" + "x" * 21)


class ShownTest(TerminalTest):
    def test_what_arrives_is_shown_and_never_obeyed(self) -> None:
        with self.client() as terminal:
            self.server.say_bytes(b"\x1b[2J\x07 \xff \xc2\x9b \xe2\x80\xae end\n")
            terminal.expect("\\x1b[2J\\x07 \ufffd \\x9b \\u202e end")

    def test_a_megabyte_without_a_line_end_does_no_harm(self) -> None:
        with self.client() as terminal:
            self.server.client.settimeout(None)
            os.set_blocking(self.server.client.fileno(), False)
            left = 2**20
            while left:
                if select.select([], [self.server.client], [], 0)[1]:
                    left -= self.server.client.send(b"x" * min(left, 65536))
                terminal.read(0)
            self.server.client.settimeout(PATIENCE)
            self.server.say("", "the end")
            terminal.expect("the end")
            terminal.type("who\r")
            self.assertEqual(self.server.hear(), "who")

    def test_colours_where_they_belong(self) -> None:
        with self.client() as terminal:
            self.server.say("Beth joins.", "Beth: hi", "Beth (to Tom): psst", "Denied. No.")
            terminal.expect("\x1b[2mBeth joins.\x1b[0m\r\nBeth: hi\r\n")
            terminal.expect("\x1b[1mBeth (to Tom): psst\x1b[0m\r\n\x1b[31mDenied. No.\x1b[0m\r\n")
            terminal.type("foo\r")
            terminal.expect('\x1b[31mDenied. Unknown command "foo"')

    def test_no_color_means_none(self) -> None:
        with self.client(environment={"NO_COLOR": "1"}) as terminal:
            self.server.say("Beth joins.", "Beth (to Tom): psst", "Denied. No.")
            terminal.expect("Denied. No.")
            self.assertNotRegex(terminal.output, r"\x1b\[[0-9]*m")


class PasswordTest(TerminalTest):
    def test_it_is_asked_for_unseen_while_lines_arrive(self) -> None:
        for command in ("login", "newuser"):
            with self.subTest(command=command), self.client(login=False) as terminal:
                terminal.type(f"{command} Tom\r")
                terminal.expect("Password: ")
                terminal.type("Tom")
                self.server.say("Beth joins.")
                terminal.expect("Beth joins.")
                terminal.expect("Password: ")
                terminal.type("x\x7f11\r")
                self.assertEqual(self.server.hear(), f"{command} Tom Tom11")
                terminal.expect("> ")
                self.assertNotIn("Tom1", terminal.output)
                shown = terminal.output.partition("help for the commands.")[2]
                self.assertNotIn("11", ESCAPES.sub("", shown))
            self.server.die()

    def test_a_wrong_userid_is_refused_before_the_question(self) -> None:
        with self.client() as terminal:
            terminal.type("login ab\r")
            self.assertNotIn("Password", terminal.expect("UserID must be 3 to 32 characters."))

    def test_a_wrong_password_is_refused_and_not_sent(self) -> None:
        with self.client() as terminal:
            terminal.type("login Tom\rabc\r")
            terminal.expect("Denied. Password must be 4 to 8 characters.")
            terminal.type("login Tom\ra b c\r")
            terminal.expect("Denied. Password must be printable characters without spaces.")
            terminal.type("who\r")
            self.assertEqual(self.server.hear(), "who")

    def test_ctrl_c_cancels_the_question_only(self) -> None:
        with self.client() as terminal:
            terminal.type("login Tom\r")
            terminal.expect("Password: ")
            terminal.type("secret" + CTRL["C"] + "who\r")
            self.assertEqual(self.server.hear(), "who")

    def test_passwords_stay_out_of_the_history(self) -> None:
        with self.client() as terminal:
            terminal.type("who\rlogin Tom Tom11\r LOGIN Tom Tom22\rnewuser  Mike Mike44\r")
            terminal.type("login Tom\rTom33" + CTRL["U"] + "Tom11\r")
            for sent in ("who", "login Tom Tom11", " LOGIN Tom Tom22", "newuser  Mike Mike44"):
                self.assertEqual(self.server.hear(), sent)
            self.assertEqual(self.server.hear(), "login Tom Tom11")
            terminal.type(CTRL["Y"] + UP + CTRL["U"] + "send all x\r")
            self.assertEqual(self.server.hear(), "send all x")
            terminal.type(UP * 3 + "\r")
            self.assertEqual(self.server.hear(), "who")
            self.assertNotIn("Tom33", terminal.output)


class EndTest(TerminalTest):
    def log_out(self, terminal: Terminal) -> None:
        self.assertEqual(self.server.hear(), "logout")
        self.server.say("Tom left.")
        self.server.die()
        terminal.expect("Tom left.")
        self.assert_ends(terminal)

    def test_logout(self) -> None:
        with self.client() as terminal:
            terminal.type("logout\r")
            self.log_out(terminal)

    def test_ctrl_d_on_an_empty_line_logs_out(self) -> None:
        with self.client() as terminal:
            terminal.type(CTRL["D"])
            self.log_out(terminal)

    def test_ctrl_c_drops_the_line_and_on_an_empty_one_logs_out(self) -> None:
        with self.client() as terminal:
            terminal.type("half" + CTRL["C"])
            terminal.expect("> half^C")
            terminal.expect("> ")
            terminal.type(CTRL["C"])
            self.log_out(terminal)

    def test_ctrl_c_does_not_overtake_the_lines_typed_before_it(self) -> None:
        with self.client() as terminal:
            terminal.type("send all one\rsend all two\r" + CTRL["C"])
            self.assertEqual(self.server.hear(), "send all one")
            self.assertEqual(self.server.hear(), "send all two")
            self.log_out(terminal)

    def test_an_interrupt_from_elsewhere_is_a_ctrl_c(self) -> None:
        with self.client() as terminal:
            terminal.type("half")
            terminal.expect("half")
            terminal.process.send_signal(signal.SIGINT)
            terminal.expect("> half^C")
            terminal.expect("> ")
            terminal.process.send_signal(signal.SIGINT)
            self.log_out(terminal)

    def test_a_server_that_does_not_close_after_logout_is_not_waited_for_when_interrupted(
        self,
    ) -> None:
        with self.client() as terminal:
            terminal.type("logout\r")
            self.assertEqual(self.server.hear_all(), ["logout"])
            terminal.type(CTRL["C"])
            self.assert_ends(terminal)
            self.server.hear_reset()

    def test_a_ctrl_c_right_behind_the_logout_is_not_lost(self) -> None:
        for keys in ("logout\r" + CTRL["C"], CTRL["C"] * 2, CTRL["D"] + CTRL["C"]):
            with self.subTest(keys=keys), self.client(login=False) as terminal:
                terminal.type(keys)
                self.assert_ends(terminal)
                self.server.hear_reset()
                self.server.die()

    def test_a_ctrl_c_just_before_the_logout_is_sent_is_not_lost(self) -> None:
        with self.client(login=False, program=SLOW_LOG_OUT) as terminal:
            terminal.type("logout\r")
            terminal.expect("logging out")
            terminal.type(CTRL["C"])
            self.assert_ends(terminal)
            self.server.hear_reset()

    def test_a_resize_after_logout_does_not_cut_the_replies(self) -> None:
        with self.client() as terminal:
            terminal.type("logout\r")
            self.assertEqual(self.server.hear_all(), ["logout"])
            terminal.resize(40)
            terminal.process.send_signal(signal.SIGWINCH)
            while terminal.read(0.2):
                pass  # what the signal might have it say
            self.server.say("Tom left.")
            self.server.die()
            terminal.expect("Tom left.")
            self.assert_ends(terminal)

    def test_the_death_of_the_server_leaves_the_person_in_the_client(self) -> None:
        for environment, program in (
            ({}, (str(CLIENT),)),
            ({"TERM": "dumb"}, (str(CLIENT),)),
            ({}, NO_TERMIOS),
        ):
            for lose in (FakeServer.die, FakeServer.reset):
                with (
                    self.subTest(environment=environment, program=program, lose=lose),
                    self.client(environment=environment, program=program) as terminal,
                ):
                    terminal.type("half-typed")
                    terminal.expect("half-typed")
                    lose(self.server)
                    terminal.expect(f"Connection to 127.0.0.1:{self.server.port} lost.")
                    terminal.expect("Press Enter to connect again, Ctrl-")
                    terminal.expect("> ")
                    terminal.type(CTRL["U"] + CTRL["D"])
                    self.assert_ends(terminal, 1)
                    self.assertNotIn("Traceback", terminal.output)

    def test_the_death_of_the_server_at_the_password(self) -> None:
        for environment in ({}, {"TERM": "dumb"}):
            with self.subTest(environment), self.client(environment=environment) as terminal:
                terminal.type("login Tom\r")
                terminal.expect("Password: ")
                terminal.type("Tom")
                self.server.die()
                terminal.expect("Press Enter to connect again")
                terminal.expect("\r\n")
                terminal.expect("> ")
                terminal.type(CTRL["U"] + CTRL["D"])  # a plain terminal still holds the "Tom"
                self.assert_ends(terminal, 1)

    def test_a_signal_ends_it_though_its_terminal_takes_no_more(self) -> None:
        with self.client() as terminal:
            self.server.say(*["Beth: " + "x" * 70] * 2000)
            is_full = lambda: not select.select([], [terminal.slave], [], 0)[1]  # noqa: E731
            eventually(is_full, "the terminal is full")
            terminal.process.send_signal(signal.SIGTERM)
            self.assertEqual(self.server.hear_reset(), [])
            self.assertEqual(terminal.process.wait(PATIENCE), 128 + signal.SIGTERM)

    def test_a_signal_that_ends_it_leaves_the_terminal_sane(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            for environment in ({}, {"TERM": "dumb"}):
                with (
                    self.subTest(number=number, environment=environment),
                    self.client(environment=environment) as terminal,
                ):
                    terminal.type("half")
                    terminal.expect("half")
                    terminal.process.send_signal(number)
                    self.assert_ends(terminal, 128 + number)
                    self.assertEqual(self.server.hear_reset(), [])
                    self.assertNotIn("Traceback", terminal.output)
                self.server.die()

    def test_a_terminal_that_is_hung_up_ends_it(self) -> None:
        with self.client() as terminal:
            os.close(terminal.slave)
            os.close(terminal.master)
            terminal.process.wait(PATIENCE)
            terminal.master, terminal.slave = pty.openpty()

    def test_ctrl_z_without_a_shell_is_survived(self) -> None:
        with self.client() as terminal:
            terminal.type("wh" + CTRL["Z"] + "o\r")
            self.assertEqual(self.server.hear(), "who")


class ReconnectTest(TerminalTest):
    def lose(self, terminal: Terminal) -> None:
        self.server.die()
        terminal.expect("Press Enter to connect again, Ctrl-")
        terminal.expect("> ")

    def test_enter_connects_again_and_the_half_typed_line_is_not_lost(self) -> None:
        with self.client() as terminal:
            terminal.type("send all half")
            terminal.expect("half")
            self.lose(terminal)
            terminal.expect("send all half")
            terminal.type("\r")
            self.server.accept()
            terminal.expect("Connected to 127.0.0.1")
            terminal.type(UP + "-typed\r")
            terminal.expect("Denied. Please login first.")
            terminal.type("login Tom Tom11\r" + UP + "\r")
            self.assertEqual(self.server.hear(), "login Tom Tom11")
            self.assertEqual(self.server.hear(), "send all half-typed")

    def test_a_line_with_a_password_is_neither_sent_nor_kept(self) -> None:
        with self.client() as terminal:
            self.lose(terminal)
            terminal.type("login Tom Tom11\r")
            self.server.accept()
            terminal.expect("Connected to 127.0.0.1")
            terminal.type(UP + CTRL["D"])
            self.assertEqual(self.server.hear_all(), ["logout"])

    def test_the_known_users_are_forgotten(self) -> None:
        with self.client() as terminal:
            self.server.say("Beth joins.")
            terminal.expect("Beth joins.")
            self.lose(terminal)
            terminal.type("\r")
            self.server.accept()
            terminal.expect("Connected to 127.0.0.1")
            terminal.type("login Tom Tom11\rsend B\tx y\r")
            self.assertEqual(self.server.hear(), "login Tom Tom11")
            self.assertEqual(self.server.hear(), "send Bx y")

    def test_a_server_that_is_not_back_is_told_and_the_client_goes_on(self) -> None:
        with self.client() as terminal:
            self.lose(terminal)
            self.server.listener.close()
            terminal.type("\r")
            terminal.expect(
                f"Cannot connect to 127.0.0.1:{self.server.port}: nobody listens there."
            )
            terminal.type("logout\r")
            self.assert_ends(terminal, 1)

    def test_a_server_that_does_not_answer_can_be_given_up(self) -> None:
        with self.client(program=HANGING_CONNECT) as terminal:
            self.lose(terminal)
            terminal.type("\r")
            terminal.expect("connecting")
            # Nothing but Ctrl-C is a signal: any other would leave the terminal as it is now.
            keys = termios.tcgetattr(terminal.slave)[6]
            self.assertEqual([keys[termios.VSUSP], keys[termios.VQUIT]], [b"\0", b"\0"])
            terminal.type(CTRL["C"])
            terminal.expect("> ")
            terminal.type(CTRL["D"])
            self.assert_ends(terminal, 1)

    def test_logout_is_logout_whatever_spaces_are_around_it(self) -> None:
        with self.client() as terminal:
            self.lose(terminal)
            terminal.type("\u3000LOGOUT\u00a0\r")
            self.assert_ends(terminal, 1)

    def test_a_farewell_is_no_lost_connection(self) -> None:
        with self.client() as terminal:
            self.server.say("The server is shutting down.")
            self.server.reset()
            terminal.expect(f"Disconnected from 127.0.0.1:{self.server.port}.")
            terminal.expect("Press Enter to connect again, Ctrl-D to end.")

    def test_a_plain_terminal_connects_again_too(self) -> None:
        for environment, program in PlainTest.PLAIN:
            with (
                self.subTest(environment=environment, program=program),
                self.client(environment=environment, program=program) as terminal,
            ):
                self.lose(terminal)
                terminal.type("send all hello\n")
                self.server.accept()
                terminal.expect("Connected to 127.0.0.1")
                terminal.type("login Tom Tom11\n")
                self.assertEqual(self.server.hear(), "login Tom Tom11")
            self.server.die()

    def test_a_logout_that_nobody_answers_is_a_lost_connection(self) -> None:
        program = ("-c", IMPATIENT)
        with self.client(program=program) as terminal:
            terminal.type("logout\r")
            self.assertEqual(self.server.hear_all(), ["logout"])
            self.assert_ends(terminal, 1)
            terminal.expect("lost.")
            self.assertNotIn("Press Enter", terminal.output)


class FirstMinuteTest(TerminalTest):
    def test_it_explains_itself(self) -> None:
        with self.client(login=False) as terminal:
            address = f"127.0.0.1:{self.server.port}"
            self.assertIn(
                f"\x1b[2mConnected to {address}. Type help for the commands.\x1b[0m\r\n",
                terminal.output,
            )
            terminal.type("hello everybody\r")
            terminal.expect('Unknown command "hello"')
            terminal.expect(
                "\x1b[2mTo speak: send all Message. Type help for the commands.\x1b[0m\r\n"
            )

    def test_the_time_stands_before_each_line_that_arrives(self) -> None:
        with self.client(options=("--time",)) as terminal:
            self.server.say("Beth: hi", "Beth joins.")
            terminal.expect("\x1b[2m")
            stamp = terminal.expect("\x1b[0mBeth: hi\r\n")
            self.assertRegex(stamp, r"\A\d\d:\d\d \Z")
            terminal.expect("\x1b[0m\x1b[2mBeth joins.\x1b[0m\r\n")
            terminal.type("foo bar\r")
            terminal.expect("\x1b[31mDenied. Unknown")

    def test_the_bell_rings_once_for_private_messages_that_arrive_together(self) -> None:
        with self.client(options=("--bell",)) as terminal:
            self.server.say("Beth: hi", "Beth (at 12:04): before")
            terminal.expect("before")
            self.server.say("Beth (to Tom): one", "David (to Tom): two", "Beth: three")
            terminal.expect("three\r\n")
            self.assertEqual(terminal.output.count("\a"), 1)

    def test_a_long_line_is_broken_and_indented(self) -> None:
        with self.client(columns=30) as terminal:
            self.server.say("Beth: hi" + " " * 100 + "David: I give up")
            terminal.expect("Beth: hi\r\n  David: I give up\r\n")


class BlockedTest(TerminalTest):
    """With a server that reads slowly, or not at all."""

    PASTE = tuple(f"send all line {number} of a text much too long" for number in range(3000))

    def setUp(self) -> None:
        self.server = self.enterContext(FakeServer(4096))

    def paste(self, terminal: Terminal) -> None:
        terminal.type(f"\x1b[200~{chr(13).join([*self.PASTE, ''])}\x1b[201~half")

    def wait_until_blocked(self, terminal: Terminal) -> None:
        """Wait until the client has sent whole lines that the server's machine does not take."""
        for number in range(2, len(self.PASTE)):
            terminal.expect(self.PASTE[number])  # so all before it are sent
            if self.server.unheard() < len("\n".join(self.PASTE[: number - 1])):
                return

    def test_ctrl_c_behind_a_paste_is_seen_at_once_and_drops_what_is_not_sent(self) -> None:
        with self.client() as terminal:
            self.paste(terminal)
            terminal.type(CTRL["C"])
            terminal.expect("^C\r\n")
            terminal.expect("> ")
            terminal.type("send all after\r")
            lines = []
            while (line := self.server.hear()) != "send all after":
                lines.append(line)
            self.assertEqual(lines, [*self.PASTE[: len(lines)]])
            self.assertLess(len("\n".join(self.PASTE[: len(lines)])), 16 * 1024)
            terminal.type(CTRL["D"])
            self.assertEqual(self.server.hear_all(), ["logout"])
            self.server.die()
            self.assert_ends(terminal)

    def test_a_second_ctrl_c_ends_it_with_a_reset(self) -> None:
        with self.client() as terminal:
            self.paste(terminal)
            terminal.type(CTRL["C"])
            terminal.expect("^C\r\n")
            terminal.type(CTRL["C"])
            self.assert_ends(terminal)
            lines = self.server.hear_reset()
            self.assertEqual(lines, [*self.PASTE[: len(lines)]])

    def test_lines_go_on_arriving_while_others_wait_to_be_sent(self) -> None:
        with self.client() as terminal:
            self.paste(terminal)
            self.server.say("Beth: can you hear me?")
            terminal.expect("Beth: can you hear me?\r\n")
            for line in self.PASTE:
                terminal.read(0)  # a client whose terminal is full cannot go on
                self.assertEqual(self.server.hear(), line)
            terminal.type("-typed" + CTRL["C"])
            terminal.expect("half-typed^C")

    def test_a_lost_connection_is_told_while_lines_wait_to_be_sent(self) -> None:
        with self.client() as terminal:
            self.paste(terminal)
            self.wait_until_blocked(terminal)
            self.server.reset()
            terminal.expect("lost.")
            shown = terminal.expect("Press Enter to connect again, Ctrl-D to end.")
            lines = re.findall("Not delivered: (.*?)\x1b", shown)
            first = self.PASTE.index(lines[0])
            self.assertEqual(lines, [*self.PASTE[first : first + len(lines)]])
            self.assertLessEqual(len(lines), 5)
            terminal.expect("\r\n\x1b[?7l> ")
            terminal.type("\rlogin Tom Tom11\r")
            self.server.accept()
            self.assertEqual(self.server.hear(), "login Tom Tom11")


# A client that says so before it connects again, to a machine that does not answer.
HANGING_CONNECT = (
    "-c",
    """
import client, os, sys, time
class Hanging(client.Connection):
    count = 0
    def __init__(self, host, port):
        Hanging.count += 1
        if Hanging.count > 1:
            os.write(1, b"connecting")
            time.sleep(60)
        super().__init__(host, port)
client.Connection = Hanging
sys.exit(client.main(sys.argv[1:]))
""",
)
# A client that logs out only when a key has come that it has not read.
SLOW_LOG_OUT = (
    "-c",
    """
import client, os, select, sys
class Slow(client.Connection):
    def log_out(self):
        os.write(1, b"logging out")
        select.select([0], [], [])
        return super().log_out()
client.Connection = Slow
sys.exit(client.main(sys.argv[1:]))
""",
)
IMPATIENT = "import client, sys; client.LOGOUT_WAIT = 0.2; sys.exit(client.main(sys.argv[1:]))"
JOB_CONTROL = """
import os, signal, sys, termios
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if not job:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpgrp())
    cooked = bool(termios.tcgetattr(0)[3] & termios.ICANON)
    print("stopped, cooked:", cooked, flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class JobControlTest(TerminalTest):
    def test_ctrl_z_and_fg_keep_the_half_typed_line(self) -> None:
        with self.client(program=("-c", JOB_CONTROL, str(CLIENT))) as terminal:
            terminal.type("send all ha")
            terminal.expect("send all ha")
            terminal.type(CTRL["Z"])
            terminal.expect("stopped, cooked: True")
            terminal.type("fg\r")
            terminal.expect("> send all ha")
            self.assertTrue(terminal.is_raw())
            terminal.type("lf\r")
            self.assertEqual(self.server.hear(), "send all half")

    def test_a_stop_from_elsewhere_is_survived_too(self) -> None:
        with self.client() as terminal:
            terminal.type("half")
            terminal.expect("half")
            terminal.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
            termios.tcsetattr(terminal.slave, termios.TCSANOW, terminal.settings)
            terminal.process.send_signal(signal.SIGCONT)
            terminal.expect("> half")
            self.assertTrue(terminal.is_raw())


class PlainTest(TerminalTest):
    """Where no escape sequence belongs."""

    PLAIN: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (
        ({"TERM": "dumb"}, (str(CLIENT),)),
        ({"TERM": ""}, (str(CLIENT),)),
        ({}, NO_TERMIOS),
    )

    def test_a_session_without_escapes(self) -> None:
        for environment, program in self.PLAIN:
            with (
                self.subTest(environment=environment, program=program),
                self.client(environment=environment, program=program) as terminal,
            ):
                terminal.type("who\n")
                self.assertEqual(self.server.hear(), "who")
                self.assertEqual(terminal.expect("> "), "who\r\n")
                self.server.say("Beth joins.", "Denied. No.", "\x1b[2J")
                terminal.expect("\nBeth joins.\r\nDenied. No.\r\n\\x1b[2J\r\n> ")
                terminal.type("foo\n")
                terminal.expect("Denied. Unknown command")
                terminal.expect("> ")
                terminal.type(CTRL["D"])
                self.assertEqual(self.server.hear(), "logout")
                self.server.die()
                self.assert_ends(terminal)
                self.assertNotIn("\x1b", terminal.output)

    def test_ctrl_c_ends_it_also_with_half_a_line_typed(self) -> None:
        for typed in ("", "half"):
            with self.subTest(typed), self.client(environment={"TERM": "dumb"}) as terminal:
                terminal.type(typed + CTRL["C"])
                self.assert_ends(terminal, 128 + signal.SIGINT)
            self.server.die()

    def test_a_terminal_without_echo_gets_none(self) -> None:
        with self.client(environment={"TERM": "dumb"}, echo=False) as terminal:
            terminal.type("who\n")
            self.assertEqual(self.server.hear(), "who")
            self.server.say("Tom")
            terminal.expect("Tom\r\n> ")
            terminal.type("login Beth\n")
            terminal.expect("Password: ")
            terminal.type("Beth33\n")
            self.assertEqual(self.server.hear(), "login Beth Beth33")
            terminal.type(CTRL["D"])
            self.assertEqual(self.server.hear(), "logout")
            self.server.die()
            self.assert_ends(terminal)
            self.assertNotIn("who", terminal.output)
            self.assertNotIn("Beth", terminal.output)

    def test_the_password_is_unseen_on_a_dumb_terminal(self) -> None:
        with self.client(login=False, environment={"TERM": "dumb"}) as terminal:
            terminal.type("login Tom\n")
            terminal.expect("Password: ")
            self.server.say("Beth joins.")
            terminal.expect("Beth joins.\r\nPassword: ")
            terminal.type("Tom11\n")
            self.assertEqual(self.server.hear(), "login Tom Tom11")
            terminal.expect("> ")
            self.assertNotIn("Tom11", terminal.output)
            terminal.type("login Tom\n")
            terminal.expect("Password: ")
            terminal.type("sec" + CTRL["C"])
            self.assert_ends(terminal, 128 + signal.SIGINT)

    def test_the_password_is_asked_for_without_termios(self) -> None:
        with self.client(program=NO_TERMIOS) as terminal:
            terminal.type("login Tom\n")
            terminal.expect("Password: ")
            terminal.type("Tom11\n")
            self.assertEqual(self.server.hear(), "login Tom Tom11")

    def test_standard_output_may_be_a_pipe_while_input_is_a_terminal(self) -> None:
        reading, writing = os.pipe()
        with open(reading, "rb") as output:
            terminal = Terminal(self.server, stdout=writing)
            os.close(writing)
            try:
                terminal.type("login Tom Tom11\n")
                self.assertEqual(self.server.hear(), "login Tom Tom11")
                self.server.say("Beth joins.")
                self.assertEqual(output.readline(), b"Beth joins.\n")
                terminal.type(CTRL["D"])
                self.assertEqual(self.server.hear(), "logout")
                self.server.die()
                self.assert_ends(terminal)
                self.assertEqual(output.read(), b"")
                self.assertNotIn("\x1b", terminal.output)
            finally:
                terminal.close()

    def test_a_password_is_asked_for_on_the_terminal_itself(self) -> None:
        reading, writing = os.pipe()
        with open(reading, "rb") as output:
            terminal = Terminal(self.server, stdout=writing)  # as in `client.py | tee log`
            os.close(writing)
            try:
                terminal.type("login Tom\n")
                terminal.expect("Password: ")
                terminal.type("Tom11\n")
                self.assertEqual(self.server.hear(), "login Tom Tom11")
                terminal.type(CTRL["D"])
                self.assertEqual(self.server.hear(), "logout")
                self.server.die()
                self.assert_ends(terminal)
                self.assertEqual(output.read(), b"")
                self.assertNotIn("Tom11", terminal.output)
            finally:
                terminal.close()

    def test_standard_input_may_be_a_pipe_while_output_is_a_terminal(self) -> None:
        terminal = Terminal(self.server, stdin=subprocess.DEVNULL)
        try:
            self.server.say("Beth joins.", "Denied. No.")
            self.assertEqual(self.server.hear(), "logout")
            self.server.die()
            self.assert_ends(terminal)
            self.assertEqual(terminal.output, "Beth joins.\r\nDenied. No.\r\n")
        finally:
            terminal.close()
