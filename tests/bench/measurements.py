"""What is measured, and the goals: each measurement returns rows of the table."""

from __future__ import annotations

import base64
import contextlib
import os
import pty
import resource
import select
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from tests.bench.contenders import (
    C_LOOP,
    CLIENT,
    IRC,
    OURS,
    PYTHON_LOOP,
    REAL_PASSWORD,
    STOP_PATIENCE,
    TLS_C_LOOP,
    TLS_OURS,
    BenchError,
    child_environment,
    process,
    progress,
    scrypt,
    wait_for,
)
from tests.bench.rounds import CORES, Bench, Figure, Run, on_one_core
from tests.bench.table import Row, Size

ALL = (OURS, C_LOOP, PYTHON_LOOP, IRC)
REACH = "a line reaches everyone"

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


def small_rooms(bench: Bench) -> list[Row]:
    """Few people: what a line costs before it is multiplied by listeners."""
    lines = bench.scale.room_lines
    return [
        *line_at_a_time(bench, "room of 3", 3, lines, cpu_goal=2.5, reach_goal=1.6),
        *line_at_a_time(bench, "room of 10", 10, lines, cpu_goal=2.0, reach_goal=1.5),
    ]


def calm(bench: Bench) -> list[Row]:
    users, lines = bench.scale.users, bench.scale.lines
    what = f"calm, {users} users"
    return line_at_a_time(
        bench, what, users, lines, cpu_goal=1.35, reach_goal=1.25, irc_goal=1.0, reach_99_goal=1.5
    )


def line_at_a_time(
    bench: Bench,
    what: str,
    users: int,
    lines: int,
    *,
    cpu_goal: float,
    reach_goal: float,
    irc_goal: float | None = None,
    reach_99_goal: float | None = None,
) -> list[Row]:
    """Judge what a line costs on one core, and show what it costs wherever the system places it.

    The goals are for ratios to the C loop; irc_goal for that of CPU time to ngIRCd.
    """
    job = {"phase": "calm", "users": users, "lines": lines}
    one = f"{what}, one core"
    with on_one_core():
        found = bench.alternate(one, ALL, job)
    cpu_goals = {C_LOOP: cpu_goal, PYTHON_LOOP: None, IRC: irc_goal}
    reach_goals = {C_LOOP: reach_goal, PYTHON_LOOP: None}
    rows = compare(f"{one}: CPU for each line", "µs", found, line_cpu, cpu_goals)
    rows += compare(f"{one}: {REACH}, median", "ms", found, reach_median, reach_goals)
    rows += compare(f"{one}: {REACH}, 99 %", "ms", found, reach_99, {C_LOOP: reach_99_goal})
    free = f"{what}, {CORES} cores"
    found = bench.alternate(free, (OURS, C_LOOP, PYTHON_LOOP), job)
    no_goals = dict.fromkeys((C_LOOP, PYTHON_LOOP))
    rows += compare(f"{free}: CPU for each line", "µs", found, line_cpu, no_goals)
    rows += compare(f"{free}: {REACH}, median", "ms", found, reach_median, no_goals)
    return rows


def busy(bench: Bench) -> list[Row]:
    senders = bench.scale.users // 4
    what = f"busy, {bench.scale.users} users, {senders} senders"
    job = {"phase": "busy", "users": bench.scale.users, "seconds": bench.scale.seconds}
    found = bench.alternate(what, ALL, job | {"senders": senders, "each": 4})
    rate_goals = {C_LOOP: 15.0, PYTHON_LOOP: None, IRC: 3.0}
    cpu_goals = {C_LOOP: 1.0, PYTHON_LOOP: None, IRC: 1.0}
    return [
        *compare(f"{what}: lines delivered", "1/s", found, line_rate, rate_goals, at_least=True),
        *compare(f"{what}: CPU for each line", "µs", found, line_cpu, cpu_goals),
    ]


def tls(bench: Bench) -> list[Row]:
    """What encryption costs, beside the C loop over OpenSSL and beside the same room in plain text.

    The limit is one record, and so one use of the cipher, for each `send`: the C loop makes one for
    each line and recipient, server.py one for each round and recipient.
    """
    everyone = (TLS_OURS, TLS_C_LOOP, OURS)
    if TLS_C_LOOP not in bench.contenders.names:
        progress("TLS left out: it needs a C compiler and libssl-dev")
        return []
    compared = partial(compare, ours=TLS_OURS)
    no_goals = dict.fromkeys((TLS_C_LOOP, OURS))
    rows = []
    for room, users, lines, cpu_goal in (
        ("room of 3", 3, bench.scale.room_lines, None),
        ("room of 10", 10, bench.scale.room_lines, 2.0),
        (f"calm, {bench.scale.users} users", bench.scale.users, bench.scale.lines, None),
    ):
        what = f"TLS, {room}, one core"
        with on_one_core():
            job = {"phase": "calm", "users": users, "lines": lines}
            found = bench.alternate(what, everyone, job)
        cpu_goals = {TLS_C_LOOP: cpu_goal, OURS: None}
        rows += compared(f"{what}: CPU for each line", "µs", found, line_cpu, cpu_goals)
        rows += compared(f"{what}: {REACH}, median", "ms", found, reach_median, no_goals)
    senders = bench.scale.users // 4
    what = f"TLS, busy, {bench.scale.users} users, {senders} senders"
    job = {"phase": "busy", "users": bench.scale.users, "seconds": bench.scale.seconds}
    found = bench.alternate(what, everyone, job | {"senders": senders, "each": 4})
    rate_goals = {TLS_C_LOOP: 5.0, OURS: None}
    rows += compared(f"{what}: lines delivered", "1/s", found, line_rate, rate_goals, at_least=True)
    rows += compared(f"{what}: CPU for each line", "µs", found, line_cpu, no_goals)
    what = f"TLS, {bench.scale.joining:,} users"
    job = {"phase": "calm", "users": bench.scale.joining, "lines": 10}
    found = bench.alternate(what, everyone, job, quiet=True, runs=bench.scale.few_runs)
    rows += compared(f"{what}: memory for each user", "kB", found, user_kilobytes, no_goals)
    what = "TLS, connect, log in, leave"
    job = {"phase": "churn", "users": 64, "at_once": 8, "seconds": bench.scale.seconds}
    found = bench.alternate(what, everyone, job, quiet=True, runs=bench.scale.few_runs)
    rows += compared(f"{what}: how often", "1/s", found, login_rate, no_goals)
    rows += compared(f"{what}: CPU for each", "µs", found, login_cpu, no_goals)
    return rows


def joining(bench: Bench) -> list[Row]:
    what = f"{bench.scale.joining:,} join at once, everyone told"
    job = {"phase": "join", "users": bench.scale.joining}
    found = bench.alternate(what, (OURS, C_LOOP), job)
    return compare(what, "s", found, seconds, {C_LOOP: 0.5})


def crowd(bench: Bench) -> list[Row]:
    """The largest room, wherever the system places the threads."""
    users = sizes_that_fit(bench)[-1]
    what = f"{users:,} users in one room"
    found = room_of(bench, what, users)
    memory = [size / 1000 for size in each(found[OURS], user_memory)]
    return [
        *compare(f"{what}: {REACH}", "ms", found, reach_median, {C_LOOP: 1.3}),
        Row(f"{what}: memory for each user", "kB", memory, goal=26),
    ]


def growth(bench: Bench) -> list[Row]:
    """How cost grows with the room, on one core: the table of sizes, and README's picture."""
    for users in sizes_that_fit(bench):
        with on_one_core():
            found = room_of(bench, f"{users:,} users, one core", users)
        for name, runs in found.items():
            figures = [each(runs, kind) for kind in (line_cpu, reach_median, user_memory)]
            bench.sizes.append(Size(users, name, *map(statistics.median, figures)))
    return []


def sizes_that_fit(bench: Bench) -> list[int]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200
    if bench.scale.sizes[-1] > limit:
        progress(f"rooms of more than {limit:,} left out: the limit for descriptors")
    return [users for users in bench.scale.sizes if users <= limit]


def room_of(bench: Bench, what: str, users: int) -> dict[str, list[Run]]:
    """One line at a time, fewer in a larger room. 10,000 joins told to all would take minutes."""
    lines = min(bench.scale.room_lines, max(60, 200_000 // users))
    job = {"phase": "calm", "users": users, "lines": lines}
    runs = bench.scale.few_runs
    return bench.alternate(what, (OURS, C_LOOP), job, quiet=True, runs=runs)


def logins(bench: Bench) -> list[Row]:
    """Real logins as fast as they go, while 50 others chat at an easy pace."""
    rounds = [login_round(bench) for _ in range(bench.scale.few_runs)]
    rate, bare, meanwhile, without = (list(column) for column in zip(*rounds, strict=True))
    yardstick = f"bare scrypt, {CORES} threads"
    return [
        Row("logins", "1/s", rate, yardstick, bare, 0.9, at_least=True),
        Row(f"logins: {REACH} meanwhile, median", "ms", meanwhile, "without logins", without, 2.0),
    ]


def login_round(bench: Bench) -> tuple[float, float, float, float]:
    """Return logins a second, bare hashes a second, and the chat's median with and without."""
    users, duration = min(50, bench.scale.users), bench.scale.login_seconds
    chat = {"phase": "calm", "users": users, "lines": int(duration * 20) - 20, "pause": 0.05}
    churn = {"phase": "churn", "users": 64, "first": users, "password": REAL_PASSWORD}
    churn |= {"seconds": duration, "at_once": 8}
    progress(f"bare scrypt in {CORES} threads")
    before = scrypt_rate(duration / 4)
    accounts = bench.contenders.write_users(users, real=64)
    command = bench.contenders.server_command(accounts, users + 64)
    with bench.contenders.running_printer(command) as server:
        progress("chat without logins")
        without = bench.load(server, chat)
    with (
        bench.contenders.running_printer(command) as server,
        bench.loading(server, chat | {"wait": 1}) as load,
    ):
        progress("chat with logins")
        assert load.stdout is not None
        load.stdout.readline()  # they are in the room
        rate = bench.load(server, churn)
        meanwhile = bench.finish(load)
    bare = (before + scrypt_rate(duration / 4)) / 2  # on both sides, as others may disturb
    bench.note_conditions("chat without logins", [without])
    # The chat's own load belongs to the measurement: it is not one of the others.
    disturbed = rate | {"server_cpu": rate["server_cpu"] + meanwhile["load_cpu"]}
    bench.note_conditions("logins", [disturbed])
    return rate["logins"] / rate["seconds"], bare, reach_median(meanwhile), reach_median(without)


def accounts(bench: Bench) -> list[Row]:
    count = bench.scale.accounts
    progress(f"writing {count:,} accounts")
    path = bench.folder / "many.txt"
    with open(path, "w") as file:
        for number in range(count):
            salt = base64.b64encode(os.urandom(16)).decode()[:22]
            key = base64.b64encode(os.urandom(32)).decode()[:43]
            file.write(f"(user{number:07}, $scrypt$ln=14,r=8,p=1${salt}${key})\n")
    ours, bare = [], []
    for number in range(bench.scale.few_runs):
        progress(f"reading {count:,} accounts, {number + 1}")
        ours.append(seconds_to_first_line(bench, bench.contenders.server_command(path, 3)))
        bare.append(seconds_to_first_line(bench, [sys.executable, "-c", BARE_READER, str(path)]))
    path.unlink()
    return [Row(f"{count:,} accounts: ready", "s", ours, "bare loop", bare, 3)]


def seconds_to_first_line(bench: Bench, command: Sequence[str]) -> float:
    display = bench.folder / "display"
    started = time.perf_counter()
    with open(display, "wb") as output, process(command, output) as child:
        with contextlib.suppress(BenchError):  # the bare reader ends at once
            wait_for(child, lambda: display.stat().st_size > 0)
        if display.stat().st_size == 0:
            raise BenchError(f"{command!r} printed nothing")
        return time.perf_counter() - started


def client(bench: Bench) -> list[Row]:
    ours, bare = [], []
    with bench.contenders.running(OURS, 3) as server:
        for number in range(bench.scale.starts):
            progress(f"client, start {number + 1} of {bench.scale.starts}")
            ours.append(seconds_to_prompt(server.port) * 1000)
            bare.append(seconds_to_end([sys.executable, "-c", "pass"]) * 1000)
    return [Row("client: prompt", "ms", ours, "python -c pass", bare, 2.5)]


def scrypt_rate(duration: float) -> float:
    """Return how many hashes a second as many threads as cores can do, and nothing else."""
    until = time.perf_counter() + duration
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
# Figures: from what the load generator found in a run, one number.
# --------------------------------------------------------------------------------------------------


def seconds(run: Run) -> float:
    return float(run["seconds"])


def line_cpu(run: Run) -> float:
    """Microseconds for each delivered line."""
    return float(run["server_cpu"] / run["delivered"] * 1e6)


def line_rate(run: Run) -> float:
    return float(run["delivered"] / run["seconds"])


def reach_median(run: Run) -> float:
    """Milliseconds until a line has reached everyone."""
    return float(statistics.median(run["latencies"]) * 1000)


def reach_99(run: Run) -> float:
    return float(sorted(run["latencies"])[int(len(run["latencies"]) * 0.99)] * 1000)


def user_memory(run: Run) -> float:
    """Bytes for each user."""
    listeners = run["delivered"] / len(run["latencies"])
    return float((run["memory"] - run["memory_before"]) / listeners)


def user_kilobytes(run: Run) -> float:
    return user_memory(run) / 1000


def login_rate(run: Run) -> float:
    return float(run["logins"] / run["seconds"])


def login_cpu(run: Run) -> float:
    """Microseconds for each connection: the handshake, the login, the end."""
    return float(run["server_cpu"] / run["logins"] * 1e6)


def each(runs: Sequence[Run], figure: Figure) -> list[float]:
    return [figure(run) for run in runs]


def compare(
    measure: str,
    unit: str,
    found: dict[str, list[Run]],
    figure: Figure,
    goals: Mapping[str, float | None],
    *,
    at_least: bool = False,
    ours: str = OURS,
) -> list[Row]:
    """Return a row for each contender that ran and that is in `goals`, be it without one."""
    figures = {name: each(runs, figure) for name, runs in found.items()}
    return [
        Row(measure, unit, figures[ours], name, figures[name], goal, at_least)
        for name, goal in goals.items()
        if name in found
    ]


MEASUREMENTS: dict[str, Callable[[Bench], list[Row]]] = {
    "rooms": small_rooms,
    "calm": calm,
    "busy": busy,
    "tls": tls,
    "joining": joining,
    "logins": logins,
    "crowd": crowd,
    "growth": growth,
    "accounts": accounts,
    "client": client,
}
