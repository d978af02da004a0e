"""How fast is it? Measures server.py side by side with a bare C loop and with ngIRCd.

    python -m tests.bench [--quick] [--only NAME] [--runs N] [--json FILE] [--server FILE]

Each figure is a median of several runs, which alternate between the contenders, and each goal is
a ratio between two figures of the same run of this program, so that it means the same on every
machine. A load generator of its own process (tests/load.py) drives all contenders with the same
lines from the same users; the time until a line has reached everyone, and the server's CPU time
from the operating system's clock for that process, are taken there. Every line is counted: one too
few or too many is a failure, and nothing waits for ever.

The contenders: server.py with `--rate 0` and its display on, into a file; tests/broadcast.c,
compiled on the spot if there is a C compiler; Debian's ngircd, if installed, with its penalties and
limits off. All traffic stays on the loopback interface. Linux only, as it needs epoll and /proc.

--quick is a smoke run: small, under a minute, and it judges no speed.
The exit status is 0 if all was measured, whether fast or slow, and 1 if not.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import os
import platform
import pty
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tests.helpers.process import (
    CHEAP_HASH,
    CLIENT,
    ROOT,
    SERVER,
    child_environment,
    temporary_folder,
)

START_PATIENCE = 120.0  # seconds until a server must accept connections
LOAD_PATIENCE = 300.0  # seconds until the load generator must be done
STOP_PATIENCE = 10.0
LOAD_BOUND = 0.85  # share of a core above which the load generator may be what is measured
FULL_CORE = 0.95
OTHERS_BOUND = 0.10  # share of the machine above which other programs disturb the figures
HERE = Path(__file__).resolve().parent
NGIRCD = shutil.which("ngircd", path=os.environ.get("PATH", "") + ":/usr/sbin")
CORES = len(os.sched_getaffinity(0))
REAL_PASSWORD = "Beth33"
OURS, LOOP, IRC = "server.py", "C loop", "ngIRCd"

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

# The yardstick for reading users.txt, a program of its own as the server is.
BARE_READER = """
import sys
accounts = {}
with open(sys.argv[1]) as file:
    for line in file:
        name, _, record = line.partition(", ")
        accounts[name[1:]] = record[:-2]
print(len(accounts), flush=True)
"""


class BenchError(Exception):
    """Something could not be measured; the text says what and why."""


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    runs: int
    users: int
    lines: int  # calm
    seconds: float  # busy
    joining: int
    sizes: tuple[int, ...]
    login_seconds: float
    accounts: int
    starts: int  # of the client


FULL = Scale(5, 200, 1000, 2.0, 1000, (10, 100, 1000, 10_000), 8.0, 1_000_000, 15)
QUICK = Scale(1, 60, 50, 0.3, 100, (10, 100), 2.0, 20_000, 1)


@dataclass(frozen=True)
class Row:
    """A figure of ours, one to compare it with, and the goal for their ratio."""

    measure: str
    unit: str
    ours: float
    versus: str
    theirs: float
    goal: float
    at_least: bool = False  # otherwise the ratio may at most be the goal

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def cells(self, judged: bool) -> list[str]:
        goal = f"{'at least' if self.at_least else 'at most'} {self.goal:.4g}"
        verdict = ("yes" if self.met else "NO") if judged else "-"
        ours, theirs = (f"{figure:,.4g}" for figure in (self.ours, self.theirs))
        if max(self.ours, self.theirs) >= 10_000:
            ours, theirs = (f"{figure:,.0f}" for figure in (self.ours, self.theirs))
        measure = f"{self.measure}, {self.unit}"
        return [measure, ours, f"{theirs} ({self.versus})", f"{self.ratio:.2f}", goal, verdict]


@dataclass(frozen=True)
class Size:
    """What a room of so many users costs: microseconds, milliseconds and bytes."""

    users: int
    contender: str
    cpu: float  # for each delivered line
    reach: float  # until a line has reached everyone, median
    memory: float  # for each user


def progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------
# Contenders: each a process of ours that listens on a free port of 127.0.0.1, and ends with us.
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    port: int
    pid: int
    dialect: str
    memory: int  # bytes, before anyone came


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


def wait_for(child: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
    until = time.monotonic() + START_PATIENCE
    while not is_ready():
        if child.poll() is not None:
            raise BenchError(f"{child.args!r} ended with status {child.returncode}")
        if time.monotonic() > until:
            raise BenchError(f"{child.args!r} was not ready after {START_PATIENCE:.0f} s")
        time.sleep(0.002)


def resident_memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Bench:
    def __init__(self, scale: Scale, server: Path, folder: Path) -> None:
        self.scale = scale
        # A copy, so that one program is measured even if somebody edits it meanwhile.
        self.server = Path(shutil.copy(server, folder))
        self.digest = hashlib.sha256(self.server.read_bytes()).hexdigest()[:12]
        self.folder = folder
        self.loop = self.compile("broadcast.c", "broadcast")
        self.library = self.compile("load.c", "load.so", "-shared", "-fPIC")
        self.conditions: dict[str, tuple[float, float, float]] = {}  # see note_conditions
        self.sizes: list[Size] = []
        if self.loop is None:
            progress("no C compiler, so no C loop to compare with")
        if NGIRCD is None:
            progress("no ngircd to compare with")

    def compile(self, source: str, target: str, *options: str) -> Path | None:
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        made = self.folder / target
        subprocess.run(
            [compiler, "-O2", *options, "-o", str(made), str(HERE / source)], check=True, timeout=60
        )
        return made

    @contextlib.contextmanager
    def running(self, contender: str, users: int, quiet: bool = False) -> Iterator[Running]:
        """Run a contender with room for so many users; quiet: a C loop that tells no joins."""
        with contextlib.ExitStack() as stack:
            if contender == IRC:
                yield stack.enter_context(self.running_ngircd())
                return
            if contender == LOOP:
                command = [str(self.loop), *(["quiet"] if quiet else [])]
            else:
                command = self.server_command(self.write_users(users), users)
            yield stack.enter_context(self.running_printer(command))

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
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        configuration = self.folder / "ngircd.conf"
        configuration.write_text(NGIRCD_CONFIGURATION.format(port=port))
        command = [str(NGIRCD), "--nodaemon", "--config", str(configuration)]
        with (
            open(self.folder / "display", "wb") as output,
            process(command, output) as child,
        ):
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
        path.write_text("".join(lines))
        return path

    # ----------------------------------------------------------------------------------------------
    # Load: one run of the generator against one contender.
    # ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def loading(self, server: Running, job: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        whole = {"port": server.port, "pid": server.pid, "dialect": server.dialect, **job}
        if server.dialect == "irc":
            whole["at_once"] = job["users"]  # it has no lobby
        whole["library"] = str(self.library or "")
        command = [sys.executable, "-m", "tests.load", json.dumps(whole)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=ROOT, env=child_environment()
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def finish(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Return what the load generator found."""
        try:
            output, _ = child.communicate(timeout=LOAD_PATIENCE)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load was not done after {LOAD_PATIENCE:.0f} s") from None
        if child.returncode:
            raise BenchError("the load generator failed")
        found: dict[str, Any] = json.loads(output.splitlines()[-1])
        return found

    def note_conditions(self, what: str, runs: Sequence[dict[str, Any]]) -> None:
        """Keep what can make runs doubtful: how busy the server, the load and all others were."""
        seconds = sum(run["seconds"] for run in runs)
        load = sum(run["load_cpu"] for run in runs)
        server = sum(run["server_cpu"] for run in runs)
        others = max(0.0, sum(run["machine_cpu"] for run in runs) - server - load)
        self.conditions[what] = (server / seconds, load / seconds, others / (seconds * CORES))

    def alternate(
        self, contenders: Sequence[str], job: dict[str, Any], quiet: bool = False, runs: int = 0
    ) -> dict[str, list[dict[str, Any]]]:
        """Run a job against each contender in turn, several times."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
        runs = runs or self.scale.runs
        for number in range(runs):
            for name in contenders:
                progress(f"{job['phase']}, {job['users']:,} users, {name}, {number + 1} of {runs}")
                with (
                    self.running(name, job["users"], quiet) as server,
                    self.loading(server, job) as load,
                ):
                    found[name].append(self.finish(load) | {"memory_before": server.memory})
        for name in contenders:
            self.note_conditions(f"{job['phase']}, {job['users']:,} users, {name}", found[name])
        return found

    @property
    def contenders(self) -> list[str]:
        return [OURS, *([LOOP] if self.loop else []), *([IRC] if NGIRCD else [])]

    @property
    def pair(self) -> list[str]:
        return [name for name in self.contenders if name != IRC]

    # ----------------------------------------------------------------------------------------------
    # The measurements, each of which returns its rows of the table.
    # ----------------------------------------------------------------------------------------------

    def calm(self) -> list[Row]:
        job = {"phase": "calm", "users": self.scale.users, "lines": self.scale.lines}
        found = self.alternate(self.contenders, job)
        what, reach = f"calm, {self.scale.users} users", "a line reaches everyone"
        return [
            *compare(f"{what}: CPU for each line", "µs", found, line_cpu, {LOOP: 1.15, IRC: 1.0}),
            *compare(f"{what}: {reach}, median", "ms", found, reach_median, {LOOP: 1.5}),
            *compare(f"{what}: {reach}, 99 %", "ms", found, reach_99, {LOOP: 1.5}),
        ]

    def busy(self) -> list[Row]:
        senders = self.scale.users // 4
        job = {"phase": "busy", "users": self.scale.users, "seconds": self.scale.seconds}
        found = self.alternate(self.contenders, job | {"senders": senders, "each": 4})
        what, goals = f"busy, {self.scale.users} users, {senders} senders", {LOOP: 12.0, IRC: 3.0}
        return [
            *compare(f"{what}: lines delivered", "1/s", found, line_rate, goals, at_least=True),
            *compare(f"{what}: CPU for each line", "µs", found, line_cpu, {LOOP: 1.0, IRC: 1.0}),
        ]

    def joining(self) -> list[Row]:
        job = {"phase": "join", "users": self.scale.joining}
        found = self.alternate(self.pair, job)
        what = f"{self.scale.joining:,} join at once, everyone told"
        return compare(what, "s", found, lambda run: float(run["seconds"]), {LOOP: 0.5})

    def crowd(self) -> list[Row]:
        found = {}
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200
        for users in self.scale.sizes:
            if users > room:
                progress(f"{users:,} users left out: the limit for descriptors is {room:,}")
                continue
            lines = min(1000, max(60, 200_000 // users))
            job = {"phase": "calm", "users": users, "lines": lines}
            found = self.alternate(self.pair, job, quiet=True, runs=min(3, self.scale.runs))
            for name, runs in found.items():
                figures = (median(runs, kind) for kind in (line_cpu, reach_median, user_memory))
                self.sizes.append(Size(users, name, *figures))
        what = f"{users:,} users in one room"
        memory = median(found[OURS], user_memory) / 1000
        return [
            *compare(f"{what}: a line reaches everyone", "ms", found, reach_median, {LOOP: 1.3}),
            Row(f"{what}: memory for each user", "kB", memory, "1 kB", 1, 26),
        ]

    def logins(self) -> list[Row]:
        """Real logins as fast as they go, while 50 others chat at an easy pace."""
        pairs = [self.login_run() for _ in range(min(3, self.scale.runs))]
        rate, bare, meanwhile, calm = (
            statistics.median(column) for column in zip(*pairs, strict=True)
        )
        what = "a line reaches everyone meanwhile, median"
        return [
            Row("logins", "1/s", rate, f"bare scrypt, {CORES} threads", bare, 0.9, at_least=True),
            Row(f"logins: {what}", "ms", meanwhile, "without logins", calm, 2.0),
        ]

    def login_run(self) -> tuple[float, float, float, float]:
        users, seconds = min(50, self.scale.users), self.scale.login_seconds
        chat = {"phase": "calm", "users": users, "lines": int(seconds * 20) - 20, "pause": 0.05}
        churn = {"phase": "churn", "users": 64, "first": users, "password": REAL_PASSWORD}
        churn |= {"seconds": seconds, "at_once": 8}
        progress(f"bare scrypt in {CORES} threads")
        before = scrypt_rate(seconds / 4)
        command = self.server_command(self.write_users(users, real=64), users + 64)
        with self.running_printer(command) as server:
            progress("chat without logins")
            with self.loading(server, chat) as load:
                calm = self.finish(load)
        with (
            self.running_printer(command) as server,
            self.loading(server, chat | {"wait": 1}) as load,
        ):
            progress("chat with logins")
            assert load.stdout is not None
            load.stdout.readline()  # they are in the room
            with self.loading(server, churn) as logins:
                rate = self.finish(logins)
                meanwhile = self.finish(load)
        bare = (before + scrypt_rate(seconds / 4)) / 2  # on both sides, as others may disturb
        self.note_conditions("chat without logins", [calm])
        disturbed = rate | {"server_cpu": rate["server_cpu"] + meanwhile["load_cpu"]}
        self.note_conditions("logins", [disturbed])
        return rate["logins"] / rate["seconds"], bare, reach_median(meanwhile), reach_median(calm)

    def accounts(self) -> list[Row]:
        count = self.scale.accounts
        progress(f"writing {count:,} accounts")
        path = self.folder / "many.txt"
        with open(path, "w") as file:
            for number in range(count):
                salt = base64.b64encode(os.urandom(16)).decode()[:22]
                key = base64.b64encode(os.urandom(32)).decode()[:43]
                file.write(f"(user{number:07}, $scrypt$ln=14,r=8,p=1${salt}${key})\n")
        ours, bare = [], []
        for number in range(min(3, self.scale.runs)):
            progress(f"reading {count:,} accounts, {number + 1}")
            ours.append(self.seconds_to_first_line(self.server_command(path, 3)))
            bare.append(self.seconds_to_first_line([sys.executable, "-c", BARE_READER, str(path)]))
        path.unlink()
        medians = (statistics.median(times) for times in (ours, bare))
        return [
            Row(f"{count:,} accounts: ready", "s", next(medians), "bare loop", next(medians), 3)
        ]

    def seconds_to_first_line(self, command: Sequence[str]) -> float:
        display = self.folder / "display"
        started = time.perf_counter()
        with open(display, "wb") as output, process(command, output) as child:
            with contextlib.suppress(BenchError):  # the bare reader ends at once
                wait_for(child, lambda: display.stat().st_size > 0)
            if display.stat().st_size == 0:
                raise BenchError(f"{command!r} printed nothing")
            return time.perf_counter() - started

    def client(self) -> list[Row]:
        if not CLIENT.exists():
            progress("no client.py yet")
            return []
        ours, bare = [], []
        with self.running(OURS, 3) as server:
            for number in range(self.scale.starts):
                progress(f"client, start {number + 1} of {self.scale.starts}")
                ours.append(seconds_to_prompt(server.port))
                bare.append(seconds_to_end([sys.executable, "-c", "pass"]))
        medians = (statistics.median(times) * 1000 for times in (ours, bare))
        return [Row("client: prompt", "ms", next(medians), "python -c pass", next(medians), 2.5)]


# --------------------------------------------------------------------------------------------------
# Figures
# --------------------------------------------------------------------------------------------------

Figure = Callable[[dict[str, Any]], float]


def line_cpu(run: dict[str, Any]) -> float:
    return float(run["server_cpu"] / run["delivered"] * 1e6)


def line_rate(run: dict[str, Any]) -> float:
    return float(run["delivered"] / run["seconds"])


def reach_median(run: dict[str, Any]) -> float:
    return float(statistics.median(run["latencies"]) * 1000)


def reach_99(run: dict[str, Any]) -> float:
    return float(sorted(run["latencies"])[int(len(run["latencies"]) * 0.99)] * 1000)


def user_memory(run: dict[str, Any]) -> float:
    return float(
        (run["memory"] - run["memory_before"]) / (run["delivered"] / len(run["latencies"]))
    )


def median(runs: list[dict[str, Any]], figure: Figure) -> float:
    return statistics.median(figure(run) for run in runs)


def compare(
    measure: str,
    unit: str,
    found: dict[str, list[dict[str, Any]]],
    figure: Figure,
    goals: dict[str, float],
    *,
    at_least: bool = False,
) -> list[Row]:
    """Return a row for each contender that ran and that there is a goal for."""
    ours = median(found[OURS], figure)
    return [
        Row(measure, unit, ours, name, median(found[name], figure), goal, at_least)
        for name, goal in goals.items()
        if name in found
    ]


def scrypt(salt: bytes) -> bytes:
    """As server.py does it with ln=14."""
    return hashlib.scrypt(
        REAL_PASSWORD.encode(), salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 25, dklen=32
    )


def scrypt_rate(seconds: float) -> float:
    """Return how many hashes a second as many threads as cores can do, and nothing else."""
    until = time.perf_counter() + seconds
    counts: list[float] = []

    def work() -> None:
        started, done = time.perf_counter(), 0
        while time.perf_counter() < until:
            scrypt(bytes(16))
            done += 1
        counts.append(done / (time.perf_counter() - started))

    threads = [threading.Thread(target=work) for _ in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def seconds_to_end(command: Sequence[str]) -> float:
    """Time a program, to the moment that it ends: Popen.wait with a time-out only polls for it."""
    started = time.perf_counter()
    child = subprocess.Popen(command, env=child_environment())
    descriptor = os.pidfd_open(child.pid)
    try:
        if not select.select([descriptor], [], [], STOP_PATIENCE)[0]:
            raise BenchError(f"{command!r} did not end")
        return time.perf_counter() - started
    finally:
        os.close(descriptor)
        child.kill()
        child.wait()


def seconds_to_prompt(port: int) -> float:
    """Start the client on a terminal, and wait until it shows its prompt."""
    terminal, far_side = pty.openpty()
    seen = b""
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, str(CLIENT), "--port", str(port)],
        stdin=far_side,
        stdout=far_side,
        stderr=far_side,
        env=child_environment() | {"TERM": "xterm"},
    )
    os.close(far_side)
    try:
        while b"> " not in seen:
            seen += os.read(terminal, 4096)
        return time.perf_counter() - started
    except OSError:
        raise BenchError(f"the client ended without a prompt: {seen!r}") from None
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


# --------------------------------------------------------------------------------------------------
# Report
# --------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its columns aligned."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = [" | ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)) for line in lines]
    shown.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in shown)


def size_cells(size: Size) -> list[str]:
    figures = [f"{size.cpu:.2f}", f"{size.reach:.3g}", f"{size.memory / 1000:.1f}"]
    return [f"{size.users:,}", size.contender, *figures]


def condition_cells(what: str, shares: tuple[float, float, float]) -> list[str]:
    server, load, others = shares
    # A busy generator is no limit while the server itself has a core's worth to do.
    doubts = ["load"] if load > LOAD_BOUND and server < FULL_CORE else []
    doubts += ["others"] if others > OTHERS_BOUND else []
    return [what, *(f"{share:.0%}" for share in shares), " ".join(doubts)]


def report(bench: Bench, rows: list[Row], judged: bool) -> None:
    heads = ["what", OURS, "compared with", "ratio", "goal", "met"]
    print(table(heads, [row.cells(judged) for row in rows]))
    if bench.sizes:
        print()
        heads = ["users", "", "CPU for each line, µs", "reaches everyone, ms", "memory each, kB"]
        print(table(heads, [size_cells(size) for size in bench.sizes]))
    print()
    heads = [
        "conditions",
        "server, of a core",
        "load, of a core",
        "others, of the machine",
        "doubtful",
    ]
    print(table(heads, [condition_cells(*item) for item in bench.conditions.items()]))
    print(f"\nMachine: {json.dumps(machine())}; server.py: sha256 {bench.digest}")


def machine() -> dict[str, str | int]:
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": CORES,
        "processor": model.group(1) if model else platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
    }


def save(path: Path, bench: Bench, rows: list[Row]) -> None:
    results = {
        "machine": machine(),
        "server": bench.digest,
        "rows": [asdict(row) | {"ratio": row.ratio, "met": row.met} for row in rows],
        "sizes": [asdict(size) for size in bench.sizes],
        "conditions": bench.conditions,
    }
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "calm": Bench.calm,
    "busy": Bench.busy,
    "joining": Bench.joining,
    "logins": Bench.logins,
    "crowd": Bench.crowd,
    "accounts": Bench.accounts,
    "client": Bench.client,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="How fast is it?")
    parser.add_argument("--quick", action="store_true", help="a smoke run that judges no speed")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="may be repeated")
    parser.add_argument("--runs", type=int, help="runs of which the median is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results")
    parser.add_argument("--server", type=Path, default=SERVER, metavar="FILE", help="another one")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    if options.runs:
        scale = Scale(**(asdict(scale) | {"runs": options.runs}))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is cleaned up
    rows: list[Row] = []
    failed = False
    with temporary_folder() as folder:
        bench = Bench(scale, options.server.resolve(), folder)
        for name in options.only or MEASUREMENTS:
            try:
                rows += MEASUREMENTS[name](bench)
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                progress(f"{name} FAILED: {error}")
                failed = True
    report(bench, rows, judged=not options.quick)
    if options.json:
        save(options.json, bench, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
