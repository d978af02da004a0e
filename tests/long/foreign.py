"""Programs that none of us wrote: other clients, editors, logrotate, and what README says runs it.

    python -m tests.long.foreign [--quick] [NAME ...]

Each case drives real programs, and is skipped by name where one is missing. The editors and
logrotate come at a running server from the side. The last three take the systemd unit, the
Dockerfile and the logrotate stanza out of README.md, and try them as they are written there.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import server as server_module
from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.certificates import tls_options
from tests.helpers.fake_server import FakeServer
from tests.helpers.process import (
    CHEAP_PASSWORD,
    CLIENT,
    PATIENCE,
    ROOT,
    SERVER,
    ServerProcess,
    altered_server,
    child_environment,
    running_server,
    serving,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.talker import Talker

UNLIMITED = ("--rate", "0", "--max-clients", "100")
LOGIN = f"login Tom {CHEAP_PASSWORD}"
MADE = "New user account created. Please login."
NO_WEB = "Denied. This is not a web server."
NOBODY = 65534  # a user and a group that own nothing


def need(*programs: str) -> None:
    """Raise SkipTest unless all these programs are installed."""
    for program in programs:
        if find(program) is None:
            raise unittest.SkipTest(f"there is no {program}")


def find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def run_program(
    *command: str, lines: Sequence[str] = (), patience: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with these lines and no more on its standard input."""
    return subprocess.run(
        command,
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=patience,
        env=child_environment(),
        check=False,
    )


def hold_equal(got: object, wanted: object) -> None:
    assert got == wanted, f"wanted {wanted!r}, got {got!r}"


class OnTerminal:
    """A program as the leader of a session on a pseudo-terminal of its own."""

    def __init__(
        self, *command: str, echo: bool = True, environment: Mapping[str, str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        if not echo:
            settings = termios.tcgetattr(slave)
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(slave, termios.TCSANOW, settings)
        self.output = ""
        self.seen = 0  # characters of the output that were waited for
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=child_environment() | {"TERM": "xterm"} | dict(environment or {}),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, *wanted: str) -> str:
        """Wait until one of these comes after what was waited for before; return which it was."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for text in wanted:
                if (found := self.output.find(text, self.seen)) >= 0:
                    self.seen = found + len(text)
                    return text
            if not self.read(deadline - time.monotonic()):
                raise AssertionError(f"{wanted} never came: {self.output[self.seen :]!r}")

    def read(self, seconds: float) -> bool:
        """Take in what is written within so many seconds; False if there is nothing."""
        if not select.select([self.master], [], [], max(0, seconds))[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux: the program has closed the other side
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)

    def status(self) -> int:
        """Take in all that is written up to the program's end; return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self.read(deadline - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)


# --------------------------------------------------------------------------------------------------
# Other clients. Beth listens meanwhile: what a stranger must not say, she must not hear.
# --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def room_with_beth(options: Sequence[str] = UNLIMITED) -> Iterator[tuple[ServerProcess, Talker]]:
    with running_server(options=options) as server, server.login("Beth") as beth:
        yield server, beth


@contextlib.contextmanager
def encrypted_room() -> Iterator[tuple[ServerProcess, Talker]]:
    """Its certificate, which is for 127.0.0.1 and localhost, is `server.certificate`."""
    with (
        temporary_folder() as folder,
        room_with_beth((*UNLIMITED, *tls_options(folder))) as room,
    ):
        yield room


@contextlib.contextmanager
def telnet_in_a_room() -> Iterator[tuple[OnTerminal, Talker]]:
    """Log Tom in by way of telnet, and out again; Beth hears him come and go."""
    with room_with_beth() as (server, beth):
        with OnTerminal("inetutils-telnet", server.host, str(server.port)) as telnet:
            telnet.expect("Escape character is")
            telnet.type(f"{LOGIN}\n")
            telnet.expect("login confirmed")
            beth.expect("Tom joins.")
            yield telnet, beth
            telnet.type("logout\n")
            telnet.expect("Tom left.")
            telnet.status()
        beth.expect("Tom left.")


def telnet_interrupt(quick: bool) -> str:
    """telnet: after Ctrl-C, with half a line typed or sent, what follows is answered and shown."""
    need("inetutils-telnet")
    rounds = 3 if quick else 50
    with telnet_in_a_room() as (telnet, beth):
        for _ in range(rounds):
            for half in ("send all half", "send all sent\x04"):  # Ctrl-D: sent without an end
                telnet.type(half)
                telnet.expect("send all ")
                telnet.type("\x03")
                telnet.expect("^C")
                telnet.type("who\n")
                telnet.expect("\nBeth, Tom\r\n")
        telnet.type("send all whole\n")
        beth.expect("Tom: whole")
    return f"{2 * rounds} times"


def telnet_commands(quick: bool) -> str:
    """telnet: nothing that its prompt can send costs more than the line after it."""
    need("inetutils-telnet")
    words = ["ip", "synch", "ao", "ayt", "brk", "ec", "el", "ga", "nop"]
    words += ["do echo", "do 6", "will echo", "dont echo", "wont echo"]
    younger = ["abort", "susp", "eor"]  # than RFC 854: bytes under 0xF0, which make no UTF-8
    with telnet_in_a_room() as (telnet, _):
        for word in (*words, *younger):
            telnet.type("\x1d")
            telnet.expect("telnet> ")
            telnet.type(f"send {word}\n")
            telnet.expect(f"send {word}\r\n")
            if word in younger:
                telnet.type("who\n")
                telnet.expect("Denied. Not valid UTF-8.\r\n")
            telnet.type("who\n")
            telnet.expect("Beth, Tom\r\n")
        hold_equal(telnet.output.count("Denied. "), len(younger))
    return f"{len(words)} commands obeyed or ignored, {len(younger)} cost the line after them"


def plink_pipe(quick: bool) -> str:
    """plink -telnet in a pipe: its opening negotiation does not swallow the login."""
    need("plink")
    commands = (LOGIN, "who", "send Beth hello", "logout")
    replies = "login confirmed\nBeth, Tom\nTom left.\n"
    command = ("plink", "-telnet", "-batch", "-P")
    with FakeServer() as fake:  # to know that it negotiates before it says anything
        arguments = (*command, str(fake.port), "127.0.0.1")
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as plink:
            assert plink.stdin is not None
            fake.accept()
            plink.stdin.write(b"login\n")
            plink.stdin.flush()
            opening = hear_opening(fake)
            fake.die()
            plink.stdin.close()
            plink.wait(PATIENCE)
    assert opening.startswith(b"\xff"), opening
    rounds = 2 if quick else 30
    with room_with_beth() as (server, beth):
        for _ in range(rounds):
            done = run_program(*command, str(server.port), server.host, lines=commands)
            hold_equal((done.returncode, done.stdout), (0, replies))
            beth.expect("Tom joins.", "Tom (to Beth): hello", "Tom left.")
    return f"{rounds} times; it opens with {len(opening)} bytes of negotiation"


def hear_opening(fake: FakeServer) -> bytes:
    """Return what a client sends before its first line."""
    data = b""
    while b"login" not in data:
        piece = fake.client.recv(65536)
        assert piece, f"it ended: {data!r}"
        data += piece
    return data.partition(b"login")[0]


def plink_terminal(quick: bool) -> str:
    """plink -telnet at a terminal: log in, be asked, hear others, leave; status 0."""
    need("plink")
    with room_with_beth() as (server, beth):
        with OnTerminal("plink", "-telnet", "-P", str(server.port), server.host) as plink:
            plink.type(f"{LOGIN}\n")
            plink.expect("login confirmed")
            beth.expect("Tom joins.")
            beth.send("send Tom hello")
            plink.expect("Beth (to Tom): hello")
            plink.type("who\n")
            plink.expect("Beth, Tom")
            plink.type("logout\n")
            plink.expect("Tom left.")
            hold_equal(plink.status(), 0)
        beth.expect("Tom left.")
    return ""


Room = contextlib.AbstractContextManager[tuple[ServerProcess, Talker]]


def converse(
    command: Callable[[ServerProcess], Sequence[str]],
    count: int,
    end: str = "",
    room: Callable[[], Room] = room_with_beth,
) -> str:
    """Have a program send a login and `count` whos, then end its input, or say `end` before.

    It has to print each reply, and the room has to hear of the logout.
    """
    with room() as (server, beth):
        commands = [LOGIN, *["who"] * count, "send Mike hello", *([end] if end else [])]
        done = run_program(*command(server), lines=commands)
        replies = [
            "login confirmed",
            *["Beth, Tom"] * count,
            "Denied. Mike is not in the chat room.",
            "Tom left.",
        ]
        hold_equal(done.stdout.splitlines(), replies)
        hold_equal(done.returncode, 0)
        beth.expect("Tom joins.", "Tom left.")
        server.display.until("Tom logout.")  # and not (connection lost)
    return f"{len(replies)} replies"


def netcat(quick: bool) -> str:
    """nc -N: the end of its input is a logout, and every reply still comes."""
    need("nc")
    if "-N" not in run_program("nc", "-h").stderr:
        raise unittest.SkipTest("this nc is not netcat-openbsd")
    return converse(lambda server: ("nc", "-N", server.host, str(server.port)), 1000)


def ncat(quick: bool) -> str:
    """ncat: the end of its input is a logout, and every reply still comes."""
    need("ncat")
    return converse(lambda server: ("ncat", server.host, str(server.port)), 1000)


def socat(quick: bool) -> str:
    """socat: the end of its input is a logout, and every reply still comes."""
    need("socat")
    seconds = str(PATIENCE)  # it gives up half a second after its input's end otherwise
    return converse(
        lambda server: ("socat", "-t", seconds, "-", f"TCP:{server.host}:{server.port}"), 1000
    )


def socat_crlf(quick: bool) -> str:
    """socat with crnl: lines that end in CRLF are commands like any other."""
    need("socat")
    seconds = str(PATIENCE)
    return converse(
        lambda server: ("socat", "-t", seconds, "-", f"TCP:{server.host}:{server.port},crnl"), 100
    )


def curl_telnet(quick: bool) -> str:
    """curl telnet://: a client like any other."""
    need("curl")
    url = "telnet://{0.host}:{0.port}"
    return converse(lambda server: ("curl", "-sS", url.format(server)), 100, end="logout")


def web(quick: bool) -> str:
    """curl and wget: a web page cannot have a browser say anything in the room."""
    need("curl", "wget")
    with temporary_folder() as folder, room_with_beth() as (server, beth):
        url = f"http://{server.host}:{server.port}/"
        attack = folder / "attack"
        attack.write_text(f"{LOGIN}\r\nsend all bought\r\nnewuser Mallory mall77\r\n" * 5000)
        curl = ("curl", "-sS", "--http0.9", "--noproxy", "*")
        wget = ("wget", "-q", "--no-proxy", "-t", "1", "-O", "-")
        requests = {
            "curl": (*curl, url),
            "curl, HTTP/1.0": (*curl, "--http1.0", url),
            "curl, HEAD": (*curl, "-X", "HEAD", url),
            "curl, POST": (*curl, "-d", f"\n{LOGIN}\nsend all bought\n", url),
            "curl, POST of 300 kB": (*curl, "-H", "Expect:", "--data-binary", f"@{attack}", url),
            "curl, PUT of 300 kB": (*curl, "-H", "Expect:", "-T", str(attack), url),
            "wget": (*wget, url),
            "wget, POST": (*wget, "--post-data", LOGIN, url),
        }
        for name, request in requests.items():
            done = run_program(*request)
            assert done.stdout == f"{NO_WEB}\n", (name, done)
        hold_equal(beth.ask("who"), "Beth")
        hold_equal(beth.ask("send Beth nothing but this"), "Beth (to Beth): nothing but this")
        assert "Mallory" not in server.users.read_text()
    return f"{len(requests)} requests refused"


def ssh(quick: bool) -> str:
    """ssh and ssh-keyscan: strangers like any other; the room hears nothing of them."""
    need("ssh", "ssh-keyscan")
    with room_with_beth() as (server, beth):
        scan = run_program("ssh-keyscan", "-T", "1", "-p", str(server.port), server.host)
        hold_equal(scan.stdout, "")
        options = ("BatchMode=yes", "IdentityFile=none", "IdentityAgent=none")
        command = ["ssh", "-v", "-F", "none", "-p", str(server.port)]
        command += [part for option in options for part in ("-o", option)]
        with subprocess.Popen(
            [*command, server.host, "true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as stranger:
            assert stranger.stderr is not None
            try:
                refused = wait_for_line(stranger.stderr, 'Denied. Unknown command "SSH-2.0-')
            finally:
                stranger.terminate()
                stranger.wait(PATIENCE)
        hold_equal(beth.ask("who"), "Beth")
    return refused[refused.index("Denied") :][:60]


def wait_for_line(stream: IO[str], part: str) -> str:
    """Return the first line with this in it. Whoever calls ends the program that is too slow."""
    seen = []
    for line in stream:
        seen.append(line)
        if part in line:
            return line.rstrip("\n")
    raise AssertionError(f"{part!r} never came: {seen[-5:]}")


# --------------------------------------------------------------------------------------------------
# Other clients in an encrypted room.
# --------------------------------------------------------------------------------------------------

NOT_ENCRYPTED = "Denied. This room is encrypted. Use: python client.py --tls"
# A client by Python's own ssl, in blocking mode and one thread.
PYTHON_CLIENT = """
import socket, ssl, sys
host, port, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate)
with socket.create_connection((host, int(port))) as plain:
    with context.wrap_socket(plain, server_hostname=host) as secured:
        replies = secured.makefile(encoding="utf-8")
        for command in sys.stdin:
            secured.sendall(command.encode())
            sys.stdout.write(replies.readline())
        assert replies.read() == ""
        secured.unwrap()
"""


def s_client(server: ServerProcess, options: Sequence[str]) -> tuple[str, ...]:
    """Return the command of openssl that is README's client without client.py."""
    address = f"{server.host}:{server.port}"
    return ("openssl", "s_client", "-connect", address, "-CAfile", server.certificate, *options)


def tls_openssl(quick: bool) -> str:
    """openssl s_client -quiet: a full client, TLS 1.2 and 1.3, the certificate checked."""
    need("openssl")
    check = ("-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1")
    for version in ("-tls1_2", "-tls1_3"):
        options = (*check, version)
        command = partial(s_client, options=options)
        said = converse(command, 1000, "logout", encrypted_room)
    return f"twice {said}"


def tls_ncat(quick: bool) -> str:
    """ncat --ssl, the certificate checked: a client like any other."""
    need("ncat")
    check = ("--ssl", "--ssl-verify", "--ssl-trustfile")
    return converse(
        lambda server: ("ncat", *check, server.certificate, "localhost", str(server.port)),
        1000,
        "logout",
        encrypted_room,
    )


def tls_socat(quick: bool) -> str:
    """socat OPENSSL, the certificate checked: a client like any other."""
    need("socat")
    seconds = str(PATIENCE)  # it says nothing at the end of its input, and waits for so long
    target = "OPENSSL:localhost:{0.port},cafile={0.certificate}"
    return converse(
        lambda server: ("socat", "-t", seconds, "-", target.format(server)),
        1000,
        "logout",
        encrypted_room,
    )


def tls_gnutls(quick: bool) -> str:
    """gnutls-cli, which is not OpenSSL: a client like any other."""
    need("gnutls-cli")
    options = ("--logfile", "/dev/null", "--x509cafile")
    return converse(
        lambda server: (
            *("gnutls-cli", *options, server.certificate, "-p", str(server.port), "localhost"),
        ),
        1000,
        "logout",
        encrypted_room,
    )


def tls_python(quick: bool) -> str:
    """Python's own ssl, blocking, one thread: a client like any other, ended by unwrap."""
    program = (sys.executable, "-c", PYTHON_CLIENT)
    return converse(
        lambda server: (*program, server.host, str(server.port), server.certificate),
        1000,
        "logout",
        encrypted_room,
    )


def tls_web(quick: bool) -> str:
    """curl and wget, https: a web page cannot have a browser say anything; http: it is told."""
    need("curl", "wget")
    with encrypted_room() as (server, beth):
        place = f"localhost:{server.port}/"
        curl = ("curl", "-sS", "--http0.9", "--noproxy", "*", "--cacert", server.certificate)
        wget = ("wget", "-q", "--no-proxy", "-t", "1", "-O", "-")
        trusting = ("--ca-certificate", server.certificate)
        form = ("-d", f"\n{LOGIN}\nsend all bought\n")
        requests = {
            "curl": (*curl, f"https://{place}"),
            "curl, POST": (*curl, *form, f"https://{place}"),
            "wget": (*wget, *trusting, f"https://{place}"),
            "wget, POST": (*wget, *trusting, "--post-data", LOGIN, f"https://{place}"),
            "curl, http": (*curl, f"http://{place}"),
            "curl, http, POST": (*curl, *form, f"http://{place}"),
            "wget, http": (*wget, f"http://{place}"),
        }
        for name, request in requests.items():
            done = run_program(*request)
            wanted = NOT_ENCRYPTED if "http" in name else NO_WEB
            assert done.stdout == f"{wanted}\n", (name, done)
        hold_equal(beth.ask("who"), "Beth")
        hold_equal(beth.ask("send Beth nothing but this"), "Beth (to Beth): nothing but this")
    return f"{len(requests)} requests refused"


def tls_plain(quick: bool) -> str:
    """nc and telnet in an encrypted room are told; so is s_client in one that is not."""
    need("nc", "openssl")
    with encrypted_room() as (server, beth):
        done = run_program("nc", "-N", server.host, str(server.port), lines=[LOGIN, "send all hi"])
        hold_equal(done.stdout, f"{NOT_ENCRYPTED}\n")
        hold_equal(beth.ask("who"), "Beth")
    with room_with_beth() as (server, beth):
        address = f"{server.host}:{server.port}"
        done = run_program("openssl", "s_client", "-quiet", "-connect", address, lines=[LOGIN])
        assert done.returncode, done
        hold_equal(beth.ask("who"), "Beth")
    return ""


# The beginning of a handshake (RFC 6101, 2246, 4346), up to the version it asks for, and the rest:
# no session, ciphers that those versions have (AES, 3DES, RC4 with RSA), no compression.
def old_hello(minor: int) -> bytes:
    ciphers = bytes.fromhex("c013 c014 002f 0035 000a 0005 0004 0016 0033 0039".replace(" ", ""))
    body = b"\x03" + bytes([minor]) + bytes(range(32)) + b"\0"
    body += len(ciphers).to_bytes(2, "big") + ciphers + b"\x01\0"
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03" + bytes([minor]) + len(hello).to_bytes(2, "big") + hello


def tls_versions(quick: bool) -> str:
    """SSL 3, TLS 1.0 and 1.1, and bad ciphers, are refused by the server; TLS 1.2 and 1.3 not."""
    need("openssl")
    weak = "aNULL:eNULL:EXPORT:RC4:3DES:DES:MD5:PSK:@SECLEVEL=0"
    refused = {
        "TLS 1.0": ("-tls1", "-cipher", "ALL:@SECLEVEL=0"),
        "TLS 1.1": ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        "bad ciphers": ("-tls1_2", "-cipher", weak),
    }
    accepted = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}
    with encrypted_room() as (server, beth):
        for name, options in refused.items():
            done = run_program(*s_client(server, options), lines=[LOGIN])
            alert = re.search(r"alert (protocol version|handshake failure)", done.stderr)
            assert done.returncode and alert, (name, done)
        for version, option in accepted.items():
            done = run_program(*s_client(server, [option]), lines=["logout"])
            assert re.search(rf"New, {version}, Cipher is .*(GCM|POLY1305)", done.stdout), done
            assert "Compression: NONE" in done.stdout, done.stdout
            assert "Verify return code: 0 (ok)" in done.stdout, done.stdout
        for minor in (0, 1, 2):  # SSL 3, which this openssl may not have, TLS 1.0 and 1.1
            with socket.create_connection((server.host, server.port), PATIENCE) as connection:
                connection.sendall(old_hello(minor))
                said = b""
                with contextlib.suppress(ConnectionError):
                    while piece := connection.recv(4096):
                        said += piece
            assert re.fullmatch(rb"\x15\x03.\0\x02\x02[\x46\x28]", said, re.DOTALL), said
        hold_equal(beth.ask("who"), "Beth")
    return "SSL 3, TLS 1.0, TLS 1.1 and 6 kinds of ciphers: each ended by the server's alert"


def tls_renegotiation(quick: bool) -> str:
    """openssl s_client, `R` (TLS 1.2): no new handshake; `K` (KeyUpdate, TLS 1.3): talks on."""
    need("openssl")
    with encrypted_room() as (server, beth):
        for version, key in (("-tls1_2", "R"), ("-tls1_3", "K"), ("-tls1_3", "k")):
            client = subprocess.Popen(
                s_client(server, [version]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
            )
            with client:
                assert client.stdin is not None
                assert client.stdout is not None
                try:
                    client.stdin.write(f"{LOGIN}\n")
                    client.stdin.flush()
                    wait_for_line(client.stdout, "login confirmed")
                    beth.expect("Tom joins.")
                    client.stdin.write(f"{key}\n")
                    client.stdin.flush()
                    if key == "R":
                        wait_for_line(client.stdout, "no renegotiation")
                    else:
                        wait_for_line(client.stdout, "KEYUPDATE")
                        client.stdin.write("who\nlogout\n")
                        client.stdin.flush()
                        wait_for_line(client.stdout, "Beth, Tom")
                finally:
                    client.kill()
            beth.expect("Tom left.")
    return ""


# --------------------------------------------------------------------------------------------------
# client.py between other programs.
# --------------------------------------------------------------------------------------------------


def emacs_shell(quick: bool) -> str:
    """client.py in what Emacs' shell is (TERM=dumb, no echo): each command stands there once."""
    with room_with_beth() as (server, beth):
        command = (sys.executable, str(CLIENT), "--port", str(server.port))
        with OnTerminal(*command, echo=False, environment={"TERM": "dumb"}) as client:
            client.expect("> ")
            client.type(f"{LOGIN}\n")
            client.expect("login confirmed")
            beth.expect("Tom joins.")
            for number in range(20):
                client.type(f"send Beth line {number}\n")
                beth.expect(f"Tom (to Beth): line {number}")
                beth.send(f"send Tom answer {number}")
                client.expect(f"Beth (to Tom): answer {number}")
            client.type("logout\n")
            client.expect("Tom left.")
            hold_equal(client.status(), 0)
            # Emacs itself shows what is typed, so that none of it may come back from the client.
            for typed in ("login Tom", CHEAP_PASSWORD, "send Beth", "logout"):
                assert typed not in client.output, (typed, client.output)
            assert "\x1b" not in client.output, client.output
        beth.expect("Tom left.")
    return ""


def tee(quick: bool) -> str:
    """client.py | tee log: asks for the password on the terminal, unseen; the log has the rest."""
    need("tee")
    with temporary_folder() as folder, room_with_beth() as (server, beth):
        log = folder / "log"
        client = f"{shlex.quote(sys.executable)} {shlex.quote(str(CLIENT))} --port {server.port}"
        with OnTerminal("sh", "-c", f"{client} | tee {shlex.quote(str(log))}") as shell:
            shell.type("login Tom\n")
            shell.expect("Password: ")
            shell.type(f"{CHEAP_PASSWORD}\n")
            shell.expect("login confirmed")
            beth.expect("Tom joins.")
            beth.send("send Tom hello")
            shell.expect("Beth (to Tom): hello")
            shell.type("who\n")
            shell.expect("Beth, Tom")
            shell.type("logout\n")
            hold_equal(shell.status(), 0)
            assert CHEAP_PASSWORD not in shell.output, shell.output
        text = log.read_text()
        for wanted in ("login confirmed", "Beth (to Tom): hello", "Beth, Tom", "Tom left."):
            assert wanted in text, (wanted, text)
        for unwanted in (CHEAP_PASSWORD, "Password: ", "\x1b"):
            assert unwanted not in text, (unwanted, text)
        beth.expect("Tom left.")
    return ""


# --------------------------------------------------------------------------------------------------
# Editors. Each adds an account to users.txt, in plain text; while it has the file open, accounts
# are made with newuser, which it does not know of and overwrites.
# --------------------------------------------------------------------------------------------------


class Ed:
    """ed writes in place, over what is there."""

    def __init__(self, users: Path) -> None:
        self.process = subprocess.Popen(
            ["ed", str(users)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        can_read, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        size = self.process.stdout.readline() if can_read else "nothing"
        assert size.strip().isdigit(), size  # it tells how much it has read

    def add(self, line: str) -> None:
        output, _ = self.process.communicate(f"$a\n{line}\n.\nw\nq\n", timeout=PATIENCE)
        assert self.process.returncode == 0, (self.process.returncode, output)


class Vim:
    """vim as it comes renames the old file where it can, and writes a new one.

    It is at a terminal because it asks before it overwrites what has changed, also with w!, and
    `vim -es` takes the rest of its input for the answer and saves nothing.
    """

    settings = "backupcopy=auto writebackup"

    def __init__(self, users: Path) -> None:
        command = (vim_here(), "-u", "NONE", "-N", "-n", f"+set {self.settings} shortmess=a")
        self.screen = OnTerminal(*command, str(users), environment={"TERM": "vt100"})
        self.screen.expect("L, ")  # "users.txt" 4L, 240B

    def add(self, line: str) -> None:
        with self.screen as screen:
            screen.type(f"Go{line}\x1b:w!\r")
            if screen.expect("[w]", "(y/n)?") == "(y/n)?":
                screen.type("y")
                screen.expect("[w]")
            screen.type(":q!\r")
            hold_equal(screen.status(), 0)


def vim_here() -> str:
    """Return the name that vim has here: Debian's vim-tiny has another. Raises SkipTest."""
    if find("vim.tiny"):
        return "vim.tiny"
    need("vim")
    return "vim"


class VimInPlace(Vim):
    """vim with backupcopy=yes, as with a link: writes over the old file."""

    settings = "backupcopy=yes writebackup"


class Sed:
    """sed -i writes a new file and renames it; it reads and saves in one go."""

    def __init__(self, users: Path) -> None:
        self.users = users

    def add(self, line: str) -> None:
        done = run_program("sed", "-i", f"$a{line}", str(self.users))
        assert done.returncode == 0, done


class Newcomers:
    """Somebody who makes one account after another, without a pause."""

    def __init__(self, talker: Talker) -> None:
        self.talker = talker
        self.confirmed: list[str] = []
        self.news = threading.Semaphore(0)  # one for each account that was confirmed
        self.enough = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for number in itertools.count():
                if self.enough.is_set():
                    return
                userid = f"New{number:05}"
                reply = self.talker.ask(f"newuser {userid} {password_of(userid)}")
                hold_equal(reply, MADE)
                self.confirmed.append(userid)
                self.news.release()
        except BaseException as failure:  # noqa: BLE001 - raised again by who waits
            self.failure = failure

    def wait_for_next(self) -> None:
        while self.news.acquire(blocking=False):
            pass
        assert self.news.acquire(timeout=PATIENCE), self.failure or "newuser takes too long"

    def finish(self) -> list[str]:
        self.enough.set()
        self.thread.join(2 * PATIENCE)
        if self.failure is not None:
            raise self.failure
        return self.confirmed


def password_of(userid: str) -> str:
    return f"pw{userid[-5:]}"


def edit(editors: Sequence[type[Ed] | type[Vim] | type[Sed]], saves: int) -> str:
    """Save users.txt so often while accounts are made; hold all accounts to logging in."""
    # The time of a hash and the bound on an address' accounts are lifted, so that there are many.
    program = altered_server({"HASH_COST": (4, 1, 1), "NEW_ACCOUNTS": 1_000_000})
    with temporary_folder() as folder:
        users = folder / "users.txt"
        write_cheap_users(users, ["Tom"])
        edited = [f"Edit{number:05}" for number in range(saves)]
        with serving(users, UNLIMITED, program=program) as running, running.login("Tom"):
            with running.connect() as talker:
                newcomers = Newcomers(talker)
                try:
                    for number, (userid, editor) in enumerate(
                        zip(edited, itertools.cycle(editors), strict=False)
                    ):
                        suite.at(f"{number} of {saves} times saved")
                        opened = editor(users)
                        newcomers.wait_for_next()
                        opened.add(f"({userid}, {password_of(userid)})")
                        if number % 2:  # else the next editor opens the file without them
                            newcomers.wait_for_next()
                finally:
                    confirmed = newcomers.finish()
            # As the next start will have to.
            server_module.UsersFile(users.read_bytes(), users.name)
            everybody = {"Tom", *edited, *confirmed}
            eventually(
                lambda: everybody <= userids_in(users),
                lambda: f"lost: {sorted(everybody - userids_in(users))}",
            )
            eventually(  # the server has settled on the file: no plain password is left
                lambda: not re.search(r", pw\d+\)", users.read_text()), "plain passwords hashed"
            )
        hold_equal(sorted(userids_in(users)), sorted(everybody))
        with serving(users, UNLIMITED, program=program) as running:
            for userid in [*edited, *confirmed]:
                with running.login(userid, password_of(userid)) as talker:
                    hold_equal(talker.ask("logout"), f"{userid} left.")
    return f"{saves} saves among {len(confirmed)} newusers: none lost (hash cost lowered)"


def userids_in(users: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError):  # an editor is renaming it
        return set(re.findall(r"^\(([\w]+),", users.read_text(), re.MULTILINE))
    return set()


def ed(quick: bool) -> str:
    """ed, writing users.txt in place while accounts are made: none confirmed is lost."""
    need("ed")
    return edit([Ed], 20 if quick else 200)


def vim(quick: bool) -> str:
    """vim, renaming users.txt and writing it anew meanwhile: none confirmed is lost."""
    vim_here()
    return edit([Vim], 20 if quick else 200)


def sed(quick: bool) -> str:
    """sed -i, replacing users.txt meanwhile: none confirmed is lost."""
    need("sed")
    return edit([Sed], 20 if quick else 200)


def all_editors(quick: bool) -> str:
    """ed, vim (renaming, and in place) and sed -i in turn meanwhile: none confirmed is lost."""
    need("ed", "sed")
    vim_here()
    return edit([Ed, Vim, Sed, VimInPlace], 20 if quick else 200)


# --------------------------------------------------------------------------------------------------
# logrotate, while somebody talks without a pause.
# --------------------------------------------------------------------------------------------------


class Chatter:
    """Tom, who says numbered lines until he is told to stop."""

    def __init__(self, tom: Talker) -> None:
        self.tom = tom
        self.said = 0
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.enough.is_set():
            numbers = range(self.said, self.said + 10)
            self.tom.send(*[f"send all line {number}" for number in numbers], "who")
            self.tom.until("Tom")
            self.said += 10

    def finish(self) -> int:
        self.enough.set()
        self.thread.join(2 * PATIENCE)
        return self.said


def rotate(stanza: Callable[[Path, ServerProcess], str], rounds: int) -> str:
    """Rotate a log so often; hold the files together to every line once, in order."""
    need("logrotate")
    logrotate = find("logrotate")
    assert logrotate is not None
    with temporary_folder() as folder:
        (folder / "private").mkdir()
        (folder / "logs").symlink_to("private")  # as systemd makes it for a DynamicUser
        log, configuration = folder / "logs" / "chat.log", folder / "logrotate.conf"
        write_cheap_users(folder / "users.txt", ["Tom"])
        options = (*UNLIMITED, "--log", str(log))
        with serving(folder / "users.txt", options) as server, server.login("Tom") as tom:
            configuration.write_text(stanza(log, server))
            configuration.chmod(0o644)
            chatter = Chatter(tom)
            try:
                for _ in range(rounds):
                    eventually(
                        lambda: log.exists() and log.stat().st_size > 0,
                        "the log goes on under its name",
                    )
                    done = run_program(
                        logrotate, "-f", "-s", str(folder / "state"), str(configuration)
                    )
                    hold_equal((done.returncode, done.stderr), (0, ""))
            finally:
                said = chatter.finish()
            tom.send("logout")
            server.display.until("Tom logout.")
        logs = sorted(log.parent.glob("chat.log.*"), key=lambda path: -int(path.suffix[1:]))
        logs.append(log)
        text = "".join(path.read_text() for path in logs)
        hold_equal(len(logs), rounds + 1)
        for path in logs:
            hold_equal((path.name, path.stat().st_mode & 0o777), (path.name, 0o600))
    numbers = [int(number) for number in re.findall(r" Tom: line (\d+)$", text, re.MULTILINE)]
    hold_equal(numbers, list(range(said)))
    hold_equal(len(text.splitlines()), said + 4)  # the first, login, logout, the farewell
    return f"{rounds} rotations among {said:,} lines: each logged once, in order"


def logrotate_hup(quick: bool) -> str:
    """logrotate with postrotate kill -HUP: no line is lost, and none is logged twice."""
    return rotate(
        lambda log, server: (
            f"{log} {{\nrotate 1000\npostrotate\nkill -HUP {server.pid}\nendscript\n}}\n"
        ),
        5 if quick else 100,
    )


def logrotate_create(quick: bool) -> str:
    """logrotate with create and no signal at all: no line is lost, and none is logged twice."""
    return rotate(lambda log, server: f"{log} {{\nrotate 1000\ncreate\n}}\n", 5 if quick else 100)


# --------------------------------------------------------------------------------------------------
# What README says keeps it running, as it is written there.
# --------------------------------------------------------------------------------------------------


def readme_block(part: str) -> str:
    """Return the indented block of README.md with this in it."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (ROOT / "README.md").read_text(), re.M)
    found = [textwrap.dedent(block).strip("\n") + "\n" for block in blocks if part in block]
    assert len(found) == 1, f"README.md has {len(found)} blocks with {part!r}"
    return found[0]


def readme_logrotate(quick: bool) -> str:
    """README's logrotate stanza, only the path and the number of files changed: no line is lost."""
    stanza = readme_block("rotate ")

    def adapted(log: Path, server: ServerProcess) -> str:
        text = re.sub(r"rotate \d+", "rotate 1000", stanza)
        changed = re.sub(r"^/var/\S+", str(log), text)
        assert changed != text, stanza
        return changed

    return rotate(adapted, 5 if quick else 100)


def readme_unit(quick: bool) -> str:
    """README's systemd unit: systemd finds no fault, and its command runs as a user of its own."""
    need("systemd-analyze", "setpriv", "/usr/bin/python3")
    unit = readme_block("[Service]")
    with temporary_folder() as folder:
        file = folder / "chatroom.service"
        file.write_text(unit)
        done = run_program("systemd-analyze", "verify", str(file), patience=4 * PATIENCE)
        complaints = [line for line in done.stderr.splitlines() if "chatroom" in line]
        hold_equal((done.returncode, complaints), (0, []))
        settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        hold_equal(settings["DynamicUser"], "yes")
        hold_equal(settings["Restart"], "on-failure")
        folder.chmod(0o755)
        (folder / "opt").mkdir()
        shutil.copy(SERVER, folder / "opt")
        places = {"/opt/chatroom": folder / "opt"}
        for directory in ("State", "Logs"):
            if f"{directory}Directory" in settings:
                places[f"${{{directory.upper()}_DIRECTORY}}"] = folder / directory
        for place in places.values():  # as systemd makes them
            place.mkdir(exist_ok=True)
            if os.geteuid() == 0:
                os.chown(place, NOBODY, NOBODY)
        command = settings["ExecStart"]
        for name, place in places.items():
            command = command.replace(name, str(place))
        hold_new_account(
            ServerProcess(
                folder / "State" / "users.txt", program=(*as_nobody(), *shlex.split(command))
            )
        )
    return "systemd itself did not run it: its directories and its user were made by the test"


def as_nobody() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def hold_new_account(server: ServerProcess, stop: Callable[[], None] | None = None) -> None:
    """Make an account and log in with it; stop the server with SIGTERM: status 0.

    stop: sends the signal, if that is not to go to the process that was started.
    """
    try:
        with server.connect() as talker:
            hold_equal(talker.ask("newuser Mike mike77"), MADE)
            hold_equal(talker.ask("login Mike mike77"), "login confirmed")
            (stop or server.process.terminate)()
            talker.expect("The server is shutting down.")
            hold_equal(talker.line(), None)
        hold_equal(server.process.wait(PATIENCE), 0)
    finally:
        server.stop(signal.SIGKILL)
    hold_equal([line for line in server.errors.all() if "Traceback" in line], [])
    assert re.search(r"^\(Mike, \$scrypt\$", server.users.read_text(), re.MULTILINE)


def readme_container(quick: bool) -> str:
    """README's Dockerfile: its command as PID 1, users.txt a mounted file; SIGTERM ends it."""
    need("unshare", "mount", "setpriv", "/usr/bin/python3")
    if os.geteuid() != 0:
        raise unittest.SkipTest("only root can make the namespaces of a container")
    dockerfile = readme_block("FROM ")
    found = re.search(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert found, dockerfile
    with temporary_folder() as folder:
        folder.chmod(0o755)
        (folder / "data").mkdir()  # root's, as an image's folders are
        shutil.copy(SERVER, folder / "server.py")
        outside = folder / "users.txt"
        outside.write_text("(Anna, Anna55)\n")
        os.chown(outside, NOBODY, NOBODY)
        outside.chmod(0o600)
        mounted = folder / "data" / "users.txt"
        mounted.touch()
        command: list[str] = json.loads(found[1])
        hold_equal(command[0], "python")
        command[0] = "/usr/bin/python3"
        command = [
            word.replace("/data/", f"{folder}/data/") if word.startswith("/data/") else word
            for word in command
        ]
        command = [word.replace("/server.py", f"{folder}/server.py", 1) for word in command]
        inside = f'mount --bind {outside} {mounted} && exec "$@"'
        program = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inside)
        try:
            server = ServerProcess(mounted, program=(*program, "sh", *as_nobody(), *command))
        except AssertionError as error:
            if "unshare" in str(error):
                raise unittest.SkipTest(f"no namespaces here: {error}") from None
            raise
        server.users = outside  # from here the mount is not seen
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        hold_equal(len(children), 1)
        first = int(children[0])
        status = Path(f"/proc/{first}/status").read_text()
        ids = re.search(r"^NSpid:\s+\d+\s+(\d+)$", status, re.MULTILINE)
        assert ids and ids[1] == "1", status
        with server.connect() as talker:
            hold_equal(talker.ask("login Anna Anna55"), "login confirmed")
        told = server.errors.until(lambda line: "cannot be replaced" in line)
        hold_new_account(server, lambda: os.kill(first, signal.SIGTERM))
        assert outside.read_text().startswith("(Anna, Anna55)\n(Mike, $scrypt$")
    return f"no Docker here: a PID and a mount namespace. It says: {told}"


CASES = [
    suite.case_of(run)
    for run in (
        telnet_interrupt,
        telnet_commands,
        plink_pipe,
        plink_terminal,
        netcat,
        ncat,
        socat,
        socat_crlf,
        curl_telnet,
        web,
        ssh,
        tls_openssl,
        tls_ncat,
        tls_socat,
        tls_gnutls,
        tls_python,
        tls_web,
        tls_plain,
        tls_versions,
        tls_renegotiation,
        emacs_shell,
        tee,
        ed,
        vim,
        sed,
        all_editors,
        logrotate_hup,
        logrotate_create,
        readme_logrotate,
        readme_unit,
        readme_container,
    )
]

if __name__ == "__main__":
    sys.exit(suite.main("tests.long.foreign", __doc__, CASES))
