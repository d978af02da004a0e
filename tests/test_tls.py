"""Encryption: what is refused, what is said, what a connection may do; and Tls without a socket."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import random
import signal
import socket
import ssl
import subprocess
import tempfile
import unittest
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import client
import server
from tests.helpers.census import eventually
from tests.helpers.certificates import make_certificate, openssl
from tests.helpers.fake_server import FakeServer
from tests.helpers.process import (
    CHEAP_PASSWORD,
    CLIENT_AS_IT_IS,
    PATIENCE,
    ServerProcess,
    altered_server,
    child_environment,
    run_server,
    running_server,
    serving,
    write_cheap_users,
)
from tests.helpers.talker import Talker

NO_PAIR = "no certificate and its key in PEM form"
ENCRYPTED = "Denied. This room is encrypted. Use: python client.py --tls"
LOGIN = f"login Tom {CHEAP_PASSWORD}\n".encode()


class Shared:
    """What all tests here share: certificates, and a room for many."""

    folder: Path
    certificate: Path
    key: Path
    room: ServerProcess


def setUpModule() -> None:
    Shared.folder = Path(
        unittest.enterModuleContext(tempfile.TemporaryDirectory(prefix="chatroom-"))
    )
    Shared.certificate, Shared.key = make_certificate(Shared.folder)
    write_cheap_users(Shared.folder / "users.txt", ["Tom", "Beth", "David"])
    options = ["--max-clients", "30", "--rate", "0", *options_of("cert")]
    Shared.room = unittest.enterModuleContext(
        serving(Shared.folder / "users.txt", options, program=altered_server(HASTE))
    )


HASTE = {"GONE_CHECK": 0.1, "OUTBOX_LIMIT": 65536}


def files_of(name: str) -> tuple[Path, Path]:
    return Shared.folder / f"{name}.pem", Shared.folder / f"{name}-key.pem"


def options_of(name: str) -> list[str]:
    certificate, key = files_of(name)
    return ["--tls-cert", str(certificate), "--tls-key", str(key)]


def run_client(*options: str, typed: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CLIENT_AS_IT_IS, "--port", str(Shared.room.port), *options],
        input=typed,
        capture_output=True,
        env=child_environment(),
        timeout=PATIENCE,
        check=False,
    )


class RoomTest(unittest.TestCase):
    def plain(self) -> Talker:
        return self.enterContext(Talker("127.0.0.1", Shared.room.port))

    def test_all_hear_each_other_in_one_order(self) -> None:
        tom = self.enterContext(Shared.room.login("Tom"))
        beth = self.enterContext(Shared.room.login("Beth"))
        tom.expect("Beth joins.")
        tom.send(*[f"send all line {number}" for number in range(500)], "who")
        beth.expect(*[f"Tom: line {number}" for number in range(500)])
        tom.expect("Beth, Tom")

    def test_close_notify_is_a_logout_and_what_is_owed_is_sent_first(self) -> None:
        tom = self.enterContext(Shared.room.login("Tom"))
        tom.send("who")
        tom.finish()
        self.assertEqual(tom.rest(), ["Tom", "Tom left."])
        Shared.room.display.until("Tom logout.")

    def test_an_end_without_close_notify_is_a_lost_connection(self) -> None:
        tom = self.enterContext(Shared.room.login("Tom"))
        tom.socket.cut()  # type: ignore[attr-defined]
        Shared.room.display.until("Tom logout (connection lost).")

    def test_who_logs_in_elsewhere_takes_over(self) -> None:
        older = self.enterContext(Shared.room.login("Tom"))
        self.enterContext(Shared.room.login("Tom"))
        self.assertEqual(older.rest(), ["Denied. Tom logged in from another connection."])

    def test_who_does_not_read_is_dropped(self) -> None:
        tom = self.enterContext(Shared.room.login("Tom"))
        stalled = self.enterContext(Shared.room.connect(receive_buffer=4096))
        stalled.send(f"login Beth {CHEAP_PASSWORD}")
        tom.expect("Beth joins.")
        said = 0
        while "Beth left." not in (answers := self.say_and_list(tom)):
            said += 100
            self.assertLess(said, 20_000, answers)
        Shared.room.display.until("Beth logout (not reading).")

    def say_and_list(self, talker: Talker) -> list[str]:
        talker.send(*[f"send all {'x' * 250}"] * 100, "who")
        return talker.until(lambda line: line in ("Tom", "Beth, Tom"))

    def test_a_plain_line_is_answered_in_plain_text(self) -> None:
        self.assertEqual(self.plain().ask("who"), ENCRYPTED)

    def test_silence_is_answered_in_plain_text_and_half_a_handshake_not_at_all(self) -> None:
        hasty = altered_server(HASTE | {"HANDSHAKE_SECONDS": 0.4})
        with (
            running_server(["Tom"], options_of("cert"), program=hasty) as room,
            Talker("127.0.0.1", room.port) as silent,
            Talker("127.0.0.1", room.port) as half_way,
        ):
            half_way.socket.sendall(b"\x16\x03\x01\x02\x00\x01")
            self.assertEqual(silent.rest(), [ENCRYPTED])
            self.assertEqual(half_way.rest(), [])

    def test_a_handshake_may_come_byte_by_byte(self) -> None:
        context = ssl.create_default_context(cafile=str(Shared.certificate))
        end = client.Tls(context, "127.0.0.1")
        talker = self.plain()
        talker.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.opened(b"")
        while not end.is_open:
            for byte in end.sealed(b""):
                talker.socket.sendall(bytes([byte]))
            end.opened(talker.socket.recv(65536))
        talker.socket.sendall(end.sealed(b"who\n"))
        heard = b""
        while not heard:
            heard = end.opened(talker.socket.recv(65536))
        self.assertEqual(heard, b"Denied. Please login first.\n")

    def test_renegotiation_and_old_versions_are_refused(self) -> None:
        context = server.encrypt(Shared.certificate, Shared.key)
        self.assertEqual(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        self.assertTrue(context.options & ssl.OP_NO_RENEGOTIATION)

    def test_stopping_tells_everyone_and_ends_with_status_0(self) -> None:
        hasty = altered_server(HASTE)
        with running_server(["Tom"], options_of("cert"), program=hasty) as room:
            tom = self.enterContext(room.login("Tom"))
            silent = self.enterContext(Talker("127.0.0.1", room.port))
            silent.socket.sendall(b"\x16\x03")
            room.process.send_signal(signal.SIGTERM)
            self.assertEqual(tom.rest(), ["The server is shutting down."])
            tom.close()
            silent.close()
            self.assertEqual(room.process.wait(PATIENCE), 0)


class StartTest(unittest.TestCase):
    def refusal(self, certificate: Path, key: Path | None = None) -> str:
        with self.assertRaises(OSError) as caught:
            server.encrypt(certificate, key)
        return f"{caught.exception.filename}: {server.explain(caught.exception)}."

    def test_the_first_lines_tell_that_it_is_encrypted_and_what_others_type(self) -> None:
        hosts = ["DNS:*.lab.example", "DNS:chat.lab.example"]
        make_certificate(Shared.folder, "lab", hosts=hosts)
        options = ["--host", "0.0.0.0", "--history", "5", *options_of("lab")]
        with running_server(["Tom"], options) as room:
            first = f"Chat room server on 0.0.0.0:{room.port}, room for 3, last 5 lines kept, TLS."
            self.assertEqual(room.display.seen, [f"{first} Ctrl-C stops it."])
            command = f"python client.py --host chat.lab.example --port {room.port}"
            others = f"Others join with: {command} --tls-ca lab.pem"
            self.assertEqual(room.display.next(), others)

    def test_key_and_certificate_may_be_in_one_file(self) -> None:
        both = Shared.folder / "both.pem"
        both.write_bytes(Shared.key.read_bytes() + Shared.certificate.read_bytes())
        server.encrypt(both, None)

    def test_a_file_that_is_missing_is_named_in_one_line(self) -> None:
        missing = str(Shared.folder / "missing.pem")
        users = ["--users", str(Shared.folder / "nobody.txt"), "--port", "0"]
        result = run_server(*users, "--tls-cert", str(Shared.certificate), "--tls-key", missing)
        line = f"server.py: {missing}: No such file or directory.\n"
        self.assertEqual((result.returncode, result.stdout, result.stderr), (1, "", line))

    def test_what_is_no_certificate_is_refused(self) -> None:
        users = Shared.folder / "users.txt"
        refusal = self.refusal(users, Shared.key)
        self.assertEqual(refusal, f"{Shared.key}: {NO_PAIR}.")

    def test_a_certificate_without_its_key_is_refused(self) -> None:
        cure = "Name the key with --tls-key, if it is in another file."
        refusal = self.refusal(Shared.certificate)
        self.assertEqual(refusal, f"{Shared.certificate}: {NO_PAIR}. {cure}")

    def test_a_key_that_does_not_match_is_refused(self) -> None:
        _, other = make_certificate(Shared.folder, "other")
        problem = f"not the key of the certificate in {Shared.certificate}"
        self.assertEqual(self.refusal(Shared.certificate, other), f"{other}: {problem}.")

    def test_a_passphrase_is_not_asked_for(self) -> None:
        locked = Shared.folder / "locked.pem"
        into = ["-out", str(locked), "-aes256", "-passout", "pass:secret"]
        openssl("ec", "-in", str(Shared.key), *into)
        problem = "a key with a passphrase cannot be used: nobody is asked for it"
        self.assertEqual(self.refusal(Shared.certificate, locked), f"{locked}: {problem}.")

    def test_a_key_without_a_certificate_is_a_wrong_option(self) -> None:
        with self.assertRaises(SystemExit) as caught, contextlib.redirect_stderr(io.StringIO()):
            server.parse_options(["--tls-key", str(Shared.key)])
        self.assertEqual(caught.exception.code, 2)


class ClientTest(unittest.TestCase):
    """Against a server that is played by the test, but for the first and the last."""

    def setUp(self) -> None:
        self.fake = self.enterContext(FakeServer(4096))
        self.threads = self.enterContext(ThreadPoolExecutor())

    def options(self, trusted: Path | None) -> SimpleNamespace:
        ca = str(trusted) if trusted else None
        return SimpleNamespace(host="127.0.0.1", port=self.fake.port, tls=True, tls_ca=ca)

    def connect(self, trusted: Path | None) -> Future[client.Connection]:
        """Have a client connect with --tls-ca, or with --tls alone."""
        future = self.threads.submit(client.connect, self.options(trusted))
        self.fake.accept()
        return future

    def shake_hands(self, name: str, at_a_time: int = 65536, greeting: bytes = b"") -> bytes:
        """Play the server's part with a certificate; return what the client said after that.

        greeting: is said in one piece with the end of the handshake, by TLS 1.2.
        """
        encryption = server.encrypt(*files_of(name))
        if greeting:
            encryption.maximum_version = ssl.TLSVersion.TLSv1_2
        end = server.Tls(encryption)
        self.fake.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = b""
        with contextlib.suppress(ssl.SSLError):
            while not end.is_open and (data := self.fake.client.recv(65536)):
                said += end.opened(data)
                wire = end.sealed(greeting)
                for start in range(0, len(wire), at_a_time):
                    self.fake.client.sendall(wire[start : start + at_a_time])
        return said

    def refusal(self, future: Future[client.Connection], trusted: Path | None = None) -> str:
        error = future.exception(PATIENCE)
        assert isinstance(error, (OSError, ValueError)), error
        return client.failure_of(error, self.options(trusted))

    def refusal_of(self, name: str, trusted: Path | None) -> str:
        """Return why a certificate is not trusted, and what to do."""
        future = self.connect(trusted)
        self.assertEqual(self.shake_hands(name), b"")
        refusal = self.refusal(future, trusted)
        begin = f"Cannot connect to 127.0.0.1:{self.fake.port}: its certificate is not trusted ("
        self.assertTrue(refusal.startswith(begin), refusal)
        return refusal.removeprefix(begin)

    def test_a_pipe_gets_every_reply_that_is_owed(self) -> None:
        typed = LOGIN + b"send Tom hello\nwho\n"
        result = run_client("--tls-ca", str(Shared.certificate), typed=typed)
        shown = b"login confirmed\nTom (to Tom): hello\nTom\nTom left.\n"
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, shown, b""))

    def test_an_unknown_certificate_is_refused_in_one_line(self) -> None:
        result = run_client("--tls", typed=LOGIN)
        reason = "its certificate is not trusted (self-signed certificate)."
        cure = "Get it as a file, and name that with --tls-ca."
        line = f"Cannot connect to 127.0.0.1:{Shared.room.port}: {reason} {cure}\n"
        shown = result.stderr.decode().replace("self signed", "self-signed")  # by OpenSSL 1.1.1
        self.assertEqual((result.returncode, result.stdout, shown), (1, b"", line))

    def test_another_certificate_than_the_trusted_one_is_refused(self) -> None:
        trusted, _ = make_certificate(Shared.folder, "elsewhere")
        self.assertIn("name that with --tls-ca.", self.refusal_of("cert", trusted))

    def test_a_certificate_for_another_name_is_refused(self) -> None:
        trusted, _ = make_certificate(Shared.folder, "away", hosts=["DNS:away.example"])
        self.assertIn("Give --host an address that is in it.", self.refusal_of("away", trusted))

    def test_an_expired_certificate_is_refused(self) -> None:
        trusted, _ = make_certificate(Shared.folder, "old", days=-1)
        expired = "certificate has expired). The server needs a new one."
        self.assertEqual(self.refusal_of("old", trusted), expired)

    def test_a_file_that_is_missing_or_holds_no_certificate_is_named(self) -> None:
        users, missing = Shared.folder / "users.txt", Shared.folder / "missing.pem"
        for file, problem in (
            (users, "no certificate in PEM form"),
            (missing, "No such file or directory"),
        ):
            with self.assertRaises(OSError) as caught:
                client.connect(self.options(file))
            line = client.failure_of(caught.exception, self.options(file))
            self.assertEqual(line, f"{file}: {problem}.")

    def test_a_server_that_speaks_no_tls_is_sent_nothing(self) -> None:
        future = self.connect(None)
        self.assertEqual(self.fake.client.recv(1), b"\x16")
        self.fake.say("SSH-2.0-something")
        line = f"The server at 127.0.0.1:{self.fake.port} does not speak TLS."
        self.assertEqual(self.refusal(future), line)

    def test_an_end_in_the_handshake_is_told(self) -> None:
        for beginning in (b"", b"\x16\x03\x03\x00"):
            with self.subTest(beginning):
                future = self.connect(None)
                self.assertEqual(self.fake.client.recv(65536)[:1], b"\x16")
                self.fake.say_bytes(beginning)
                self.fake.die()
                self.assertIn("the server closed the connection", self.refusal(future))

    def test_a_handshake_may_come_byte_by_byte(self) -> None:
        future = self.connect(Shared.certificate)
        self.shake_hands("cert", at_a_time=1)
        future.result(PATIENCE).reset()

    def test_what_comes_with_the_end_of_the_handshake_is_not_lost(self) -> None:
        future = self.connect(Shared.certificate)
        self.shake_hands("cert", greeting=b"The server is shutting down.\n")
        connection = future.result(PATIENCE)
        self.fake.die()
        self.assertEqual(connection.receive_some(), b"The server is shutting down.\n")
        connection.reset()

    def test_lines_that_did_not_arrive_are_named_whole(self) -> None:
        future = self.connect(Shared.certificate)
        self.shake_hands("cert")
        connection = future.result(PATIENCE)
        sent = [b"login Tom Tom11"]
        connection.send(sent[0])
        eventually(lambda: not connection.undelivered(), "the login has arrived")
        while not connection.has_unsent():
            sent.append(f"send all {len(sent)} {'x' * 200}".encode())
            connection.send(sent[-1])
        lines = connection.undelivered()
        self.assertIn(sent[-1], lines)
        self.assertEqual(lines, sent[-len(lines) :])
        self.assertLess(len(lines), len(sent))
        connection.reset()

    def test_a_plain_client_reads_what_to_use(self) -> None:
        result = run_client(typed=LOGIN)
        self.assertEqual(result.stdout.decode(), f"{ENCRYPTED}\n")


class TlsTest(unittest.TestCase):
    """Two ends, and no socket between them."""

    def setUp(self) -> None:
        self.server = server.Tls(server.encrypt(Shared.certificate, Shared.key))
        trusting = ssl.create_default_context(cafile=str(Shared.certificate))
        self.client = client.Tls(trusting, "localhost")

    def shake_hands(self) -> None:
        while not self.client.is_open or not self.server.is_open:
            self.client.opened(self.server.sealed(b""))
            self.server.opened(self.client.sealed(b""))

    def test_both_files_have_the_same_text(self) -> None:
        self.assertEqual(inspect.getsource(server.Tls), inspect.getsource(client.Tls))

    def test_any_cut_of_the_bytes_gives_the_same_text(self) -> None:
        chance = random.Random(7)
        self.shake_hands()
        text = b"".join(os.urandom(chance.choice([1, 100, 40_000])) for _ in range(20))
        wire, rest = self.client.sealed(text, is_last=True), b""
        while wire:
            size = chance.choice([1, 5, 100, 20_000])
            rest += self.server.opened(wire[:size])
            wire = wire[size:]
        self.assertEqual(rest, text)
        self.assertTrue(self.server.has_ended)

    def test_nothing_is_sealed_during_the_handshake(self) -> None:
        self.client.opened(b"")
        self.server.opened(self.client.sealed(b"")[:50])
        self.assertEqual(self.server.sealed(b"secret\n"), b"")

    def test_before_it_text_stays_plain(self) -> None:
        self.assertEqual(self.server.sealed(b"Denied.\n"), b"Denied.\n")

    def test_a_changed_byte_is_an_error(self) -> None:
        self.shake_hands()
        wire = bytearray(self.client.sealed(b"login Tom Tom11\n"))
        wire[-1] ^= 1
        with self.assertRaises(ssl.SSLError):
            self.server.opened(bytes(wire))

    def test_an_end_can_still_be_said_after_the_other_sides(self) -> None:
        self.shake_hands()
        self.client.opened(self.server.sealed(b"bye\n", is_last=True))
        self.assertTrue(self.client.has_ended)
        with contextlib.suppress(ssl.SSLZeroReturnError):  # both ends are done
            self.server.opened(self.client.sealed(b"", is_last=True))
