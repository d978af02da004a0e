"""The contenders: each a process of ours, on a free port of 127.0.0.1, that ends with us.

This is the only file of the bench that knows the suites' helpers.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import hashlib
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.helpers.certificates import make_certificate
from tests.helpers.process import CHEAP_HASH, CLIENT, ROOT, SERVER, child_environment
from tests.helpers.suite import news, progress

START_PATIENCE = 120.0  # seconds until a server must accept connections
STOP_PATIENCE = 10.0
HERE = Path(__file__).resolve().parent
NGIRCD = shutil.which("ngircd", path=os.environ.get("PATH", "") + ":/usr/sbin")
OPENSSL_HEADER = Path("/usr/include/openssl/ssl.h")  # of Debian's libssl-dev
REAL_PASSWORD = "Beth33"
OURS, C_LOOP, PYTHON_LOOP, IRC = "server.py", "C loop", "Python loop", "ngIRCd"
TLS_OURS, TLS_C_LOOP = "server.py, TLS", "C loop, TLS"

NGIRCD_CONFIGURATION = """
[Global]
Name = bench.local
Info = bench
AdminEMail = bench@localhost
Listen = 127.0.0.1
Ports = {port}
[Limits]
MaxConnections = 0
MaxConnectionsIP = 0
MaxJoins = 0
MaxNickLength = 16
MaxPenaltyTime = 0
PingTimeout = 3600
[Options]
DNS = no
Ident = no
PAM = no
"""

# Helpers that others here need as well.
__all__ = ["CLIENT", "SERVER", "child_environment", "news", "progress"]


class BenchError(Exception):
    """Something could not be measured; the text says what and why."""


@dataclass(frozen=True)
class Running:
    port: int
    pid: int
    dialect: str  # how it is spoken to, see load.py
    memory: int  # bytes, before anyone came
    tls: bool = False


class Contenders:
    """Starts the contenders, whose files are kept in a folder of their own."""

    def __init__(self, folder: Path, server: Path) -> None:
        """server: the server.py to measure; a copy is run, as somebody may edit it meanwhile."""
        self.folder = folder
        self.server = Path(shutil.copy(server, folder / "server.py"))
        self.digest = hashlib.sha256(self.server.read_bytes()).hexdigest()[:12]
        self.c_loop = self.compile("broadcast.c", "broadcast")
        self.load_library = self.compile("load.c", "load.so", "-shared", "-fPIC")
        self.tls_c_loop = self.compile("broadcast.c", "broadcast-tls", tls=True)
        self.tls_load_library = self.compile("load.c", "load-tls.so", "-shared", "-fPIC", tls=True)

    @property
    def names(self) -> list[str]:
        """The contenders that can be run here."""
        needs = {C_LOOP: self.c_loop, IRC: NGIRCD, TLS_C_LOOP: self.tls_c_loop}
        needs[TLS_OURS] = self.tls_load_library
        names = [OURS, C_LOOP, PYTHON_LOOP, IRC, TLS_OURS, TLS_C_LOOP]
        return [name for name in names if needs.get(name, OURS)]

    def compile(self, source: str, target: str, *options: str, tls: bool = False) -> Path | None:
        """Compile a file of ours; return None where there is no compiler, or no OpenSSL for it."""
        compiler = shutil.which("cc")
        if compiler is None or (tls and not OPENSSL_HEADER.exists()):
            return None
        made = self.folder / target
        command = [compiler, "-O2", *options, "-o", str(made), str(HERE / source)]
        command += ["-DTLS", "-lssl", "-lcrypto"] if tls else []
        subprocess.run(command, check=True, timeout=60)
        return made

    @functools.cached_property
    def certificate(self) -> tuple[str, str]:
        """Return the files of a certificate for this machine and of its key."""
        certificate, key = make_certificate(self.folder)
        return str(certificate), str(key)

    @contextlib.contextmanager
    def running(self, name: str, users: int, quiet: bool = False) -> Iterator[Running]:
        """Run a contender with room for so many users; quiet: a bare loop that tells no joins."""
        if name == IRC:
            with self.running_ngircd() as running:
                yield running
            return
        option = ["quiet"] if quiet else []
        tls = name in (TLS_OURS, TLS_C_LOOP)
        if name == C_LOOP:
            command = [str(self.c_loop), *option]
        elif name == TLS_C_LOOP:
            command = [str(self.tls_c_loop), *self.certificate, *option]
        elif name == PYTHON_LOOP:
            command = [sys.executable, str(HERE / "broadcast.py"), *option]
        else:
            command = self.server_command(self.write_users(users), users)
        if name == TLS_OURS:
            certificate, key = self.certificate
            command += ["--tls-cert", certificate, "--tls-key", key]
        with self.running_printer(command) as running:
            yield dataclasses.replace(running, tls=tls)

    def server_command(self, accounts: Path, users: int) -> list[str]:
        options = ["--port", "0", "--rate", "0", "--users", str(accounts)]
        return [sys.executable, str(self.server), *options, "--max-clients", str(users)]

    @contextlib.contextmanager
    def running_printer(self, command: Sequence[str]) -> Iterator[Running]:
        """Run a contender whose first line tells its port."""
        display = self.folder / "display"
        with open(display, "wb") as output, process(command, output) as child:
            wait_for(child, lambda: b"\n" in display.read_bytes()[:200])
            first = display.read_text().partition("\n")[0]
            found = re.search(r"127\.0\.0\.1:(\d+)", first)
            if found is None:
                raise BenchError(f"no port in {first!r}")
            yield Running(int(found.group(1)), child.pid, "room", resident_memory(child.pid))

    @contextlib.contextmanager
    def running_ngircd(self) -> Iterator[Running]:
        port = free_port()
        configuration = self.folder / "ngircd.conf"
        configuration.write_text(NGIRCD_CONFIGURATION.format(port=port))
        command = [str(NGIRCD), "--nodaemon", "--config", str(configuration)]
        with open(self.folder / "display", "wb") as output, process(command, output) as child:
            wait_for(child, lambda: can_connect(port))
            yield Running(port, child.pid, "irc", resident_memory(child.pid))

    def write_users(self, count: int, real: int = 0) -> Path:
        """Write accounts whose hash costs nothing, and `real` ones more with a real one."""
        lines = [f"(u{number:05}, {CHEAP_HASH})\n" for number in range(count)]
        if real:
            salt = os.urandom(16)
            encoded = [base64.b64encode(data).decode().rstrip("=") for data in (salt, scrypt(salt))]
            record = "$scrypt$ln=14,r=8,p=1${}${}".format(*encoded)
            lines += [f"(u{number:05}, {record})\n" for number in range(count, count + real)]
        path = self.folder / "users.txt"
        path.touch(0o600)  # or the server advises it
        path.write_text("".join(lines))
        return path


@contextlib.contextmanager
def process(command: Sequence[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and see to it that it ends."""
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, cwd=ROOT, env=child_environment()
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def load_generator(job: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run load.py, which ends with us."""
    command = [sys.executable, "-m", "tests.bench.load", job]
    environment = child_environment()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for(child: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_PATIENCE
    while not is_ready():
        if child.poll() is not None:
            raise BenchError(f"{child.args!r} ended with status {child.returncode}")
        if time.monotonic() > until:
            raise BenchError(f"{child.args!r} was not ready after {START_PATIENCE:.0f} s")
        time.sleep(0.002)  # a file that grows gives no event


def free_port() -> int:
    """Return a port that nobody has, from below those that the system hands out meanwhile."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(lowest - 10_000, lowest), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise BenchError("no port to be had")


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def resident_memory(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def scrypt(salt: bytes) -> bytes:
    """Hash REAL_PASSWORD as server.py does it with ln=14."""
    return hashlib.scrypt(
        REAL_PASSWORD.encode(), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 25, dklen=32
    )
