"""The long runs of the accounts: what is confirmed stays, whatever the moment of the crash.

    python -m tests.long.crash [--quick] [NAME ...]

Needs passlib. Kill -9 in the middle of newusers and at every step of a write, 100,000 accounts,
hashes of another tool, two servers on one file, and what time tells about who has an account.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import server
from tests.helpers import suite
from tests.helpers.census import eventually
from tests.helpers.process import (
    AS_IT_IS,
    CHEAP_PASSWORD,
    PATIENCE,
    ServerProcess,
    altered_server,
    child_environment,
    run_server,
    serving,
    temporary_folder,
    write_cheap_users,
)
from tests.helpers.talker import Talker

OPTIONS = ("--rate", "0", "--max-clients", "1000")
CHEAP_COST = (4, 1, 1)  # instead of (14, 8, 1), where the cost of a hash is not what is asked about
LINE = re.compile(
    r"\(\w[\w.-]{2,31}, \$scrypt\$ln=\d+,r=\d+,p=\d+\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}\)"
)
READY_LIMIT = 2.0  # seconds
RATIO_LIMIT = 1.5  # newuser among 100,000 accounts to newuser among 3
TIMING_LIMIT = 1.2  # unknown user to wrong password, either way


def cheap_server(patch: str = "") -> list[str]:
    return altered_server({"HASH_COST": CHEAP_COST, "FAILURE_DELAY": 0}, patch=patch)


# --------------------------------------------------------------------------------------------------
# Kill -9 in the middle of newusers.
# --------------------------------------------------------------------------------------------------


class Registrar:
    """A connection that asks for one account after another until the server is gone."""

    def __init__(
        self, talker: Talker, userids: Sequence[str], on_confirmed: Callable[[], None]
    ) -> None:
        self.talker = talker
        self.userids = userids
        self.on_confirmed = on_confirmed
        self.confirmed: list[str] = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        # Unread commands at the kill make the kernel reset the connection.
        with self.talker, contextlib.suppress(ConnectionError):
            self.talker.send(*(f"newuser {userid} pw{userid[-4:]}" for userid in self.userids))
            for userid in self.userids:
                line = self.talker.line()
                if line is None:
                    return
                assert line == "New user account created. Please login.", line
                self.confirmed.append(userid)
                self.on_confirmed()


def kill_among_newusers(users: Path, number: int, wanted: int) -> list[str]:
    """Run a server, kill it once `wanted` accounts are confirmed; return all that were."""
    process = ServerProcess(users, OPTIONS, program=cheap_server())
    try:
        due = threading.Semaphore(0)
        registrars = [
            Registrar(
                process.connect(), [f"r{number}c{c}u{u:04}" for u in range(wanted)], due.release
            )
            for c in range(4)
        ]
        for _ in range(wanted):
            assert due.acquire(timeout=PATIENCE), "newuser takes too long"
        process.process.kill()
        for registrar in registrars:
            registrar.thread.join(PATIENCE)
    finally:
        process.stop(signal.SIGKILL)
    return [userid for registrar in registrars for userid in registrar.confirmed]


def log_in(process: ServerProcess, userids: Sequence[str]) -> None:
    for userid in userids:
        with process.login(userid, f"pw{userid[-4:]}") as talker:
            talker.send("logout")
            assert talker.line() == f"{userid} left."


def hold_lines(users: Path) -> int:
    """Hold a file to lines that are whole accounts or comments; return the number of accounts."""
    accounts = [line for line in users.read_text().splitlines() if not line.startswith("#")]
    for line in accounts:
        assert LINE.fullmatch(line), repr(line)
    return len(accounts)


def killed_among_newusers(quick: bool) -> str:
    """Whatever was confirmed before a kill -9 logs in after it, and no line is torn."""
    rounds, total = (3, 90) if quick else (20, 1000)
    confirmed: list[str] = []
    with temporary_folder() as folder:
        users = folder / "users.txt"
        for number in range(rounds):
            suite.at(f"{number} of {rounds} kills, {len(confirmed)} accounts confirmed")
            new = kill_among_newusers(users, number, total // rounds)
            with serving(users, OPTIONS, program=cheap_server()) as process:
                log_in(process, new)
            kept = hold_lines(users)
            confirmed += new
            assert kept >= len(confirmed)
        suite.at(f"{rounds} kills, {len(confirmed)} accounts log in")
        with serving(users, OPTIONS, program=cheap_server()) as process:
            log_in(process, confirmed)
    return (
        f"{rounds} kills among newusers: {len(confirmed)} accounts confirmed, all log in, "
        f"{kept - len(confirmed)} more written but not confirmed, 0 lines torn (hash cost lowered)"
    )


# --------------------------------------------------------------------------------------------------
# Kill -9 at every step of a write: the process kills itself before, in the middle of and after each
# system call that touches the file, which no kill from outside could aim at.
# --------------------------------------------------------------------------------------------------

# All that server.py calls between looking at the file and having it on disk.
CALLS: tuple[str, ...] = ("open", "close", "stat", "fstat", "lseek", "read", "write", "fsync")
CALLS += ("truncate", "ftruncate", "chmod", "fchmod", "unlink", "replace")
DEADLY = """
import signal
steps = 0
def deadly(name):
    call = getattr(os, name)
    def step(*arguments, **options):
        global steps
        steps += 1
        if steps == {last}:
            try:
                if name == "write":
                    call(arguments[0], bytes(arguments[1])[:len(arguments[1]) * {share} // 100])
                elif {share} >= 50:
                    call(*arguments, **options)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return step
def arm():
    for name in {calls!r}:
        setattr(os, name, deadly(name))
"""
ARM_AT_START = """
start = server.Accounts.open
def armed(self):
    arm()
    start(self)
    os.kill(os.getpid(), signal.SIGTERM)  # it got through; main sees to the rest
server.Accounts.open = armed
"""
# As the watch does once a file that an editor saved has stayed as it is. `print` is for the test.
ARM_AT_TIDY = """
server.SETTLED_SECONDS = server.WATCH_SECONDS = 0.01
tidy = server.Accounts.tidy
def armed(self, hash_all):
    if self.plain and self.is_settled():
        arm()
        tidy(self, hash_all)
        if not self.plain:
            print("Replaced.", flush=True)
    else:
        tidy(self, hash_all)
server.Accounts.tidy = armed
"""
ARM_AT_ADD = """
add = server.Accounts.add
def armed(self, userid, record):
    if userid == "Victim":
        arm()
    return add(self, userid, record)
server.Accounts.add = armed
"""


def deadly(last: int, share: int) -> str:
    """Return what has a server die at its step `last`; share: percent of the step that is done."""
    return DEADLY.format(last=last, share=share, calls=CALLS)


def start_and_wait(users: Path, patch: str) -> int:
    """Run a server that ends by itself; return its status, negative for a signal."""
    options = ("--port", "0", "--users", str(users))
    return run_server(*options, program=cheap_server(patch), patience=4 * PATIENCE).returncode


def plain_file(count: int) -> bytes:
    lines = ["# the class of 1999", ""]
    lines += [f"(User{number}, Pass{number:03})" for number in range(count)]
    lines.insert(len(lines) // 2, "# the second half")
    return ("\n".join(lines) + "\n").encode()


def hold_old_or_new(users: Path, old: bytes) -> bool:
    """Hold a file to being the old one to the byte, or all hashed; return whether it is new."""
    now = users.read_bytes()
    assert users.stat().st_mode & 0o777 == 0o640
    if now == old:
        return False
    was, lines = old.decode().split("\n"), now.decode().split("\n")
    assert len(was) == len(lines), "lines were lost"
    for before, line in zip(was, lines, strict=True):
        if before.startswith("("):
            assert LINE.fullmatch(line), repr(line)
            assert line.split(",")[0] == before.split(",")[0]
        else:
            assert line == before
    return True


def lay_out(users: Path, data: bytes) -> None:
    users.write_bytes(data)
    users.chmod(0o640)


def killed_at_each_step_of_hashing(quick: bool) -> str:
    """Dying at any step of the first start leaves the old file or the new one, whole."""
    old = plain_file(50)
    outcomes: list[bool] = []
    with temporary_folder() as folder:
        users = folder / "users.txt"
        for share in (50,) if quick else (0, 50, 100):
            for last in range(1, 200):
                lay_out(users, old)
                patch = deadly(last, share) + ARM_AT_START
                status = start_and_wait(users, patch)
                if status != -signal.SIGKILL:
                    break
                outcomes.append(hold_old_or_new(users, old))
                suite.at(f"{len(outcomes)} steps, {share} % of a write done")
            assert status in (0, -signal.SIGTERM), status
            assert hold_old_or_new(users, old)
    assert {True, False} == set(outcomes), "not every step was reached"
    return (
        f"50 plain lines, killed at each of {len(outcomes)} steps of hashing them: "
        f"{outcomes.count(False)} times the old file, {outcomes.count(True)} times the new, whole"
    )


def killed_at_each_step_of_setting_aside(quick: bool) -> str:
    """Dying at any step of setting a torn line aside loses no account, and the next start does."""
    old, torn = plain_file(5), b"(Victim, $scrypt$ln=4,r=1,p=1$AAAA"
    steps = 0
    with temporary_folder() as folder:
        users = folder / "users.txt"
        for share in (50,) if quick else (0, 50, 100):
            for last in range(1, 200):
                lay_out(users, old + torn)
                status = start_and_wait(users, deadly(last, share) + ARM_AT_START)
                if status != -signal.SIGKILL:
                    break
                steps += 1
                suite.at(f"{steps} steps, {share} % of a write done")
                left = users.read_bytes()
                assert left.startswith((old, b"# the class of 1999\n")), left
                with serving_all(users, OPTIONS):
                    assert hashed_in(users) == 5
                assert not (folder / ".users.txt.new").exists(), "a temporary file stays behind"
            assert status in (0, -signal.SIGTERM), status
    return f"killed at each of {steps} steps of setting a torn line aside: all 5 accounts log in"


def hashed_in(users: Path) -> int:
    return sum(LINE.fullmatch(line) is not None for line in users.read_text().splitlines())


@contextlib.contextmanager
def serving_all(users: Path, options: Sequence[str]) -> Iterator[ServerProcess]:
    """Serve a file that plain_file made, once all of its users have logged in."""
    userids = re.findall(r"\((User\d+),", users.read_text())
    with serving(users, options, program=cheap_server()) as process:
        for userid in userids:
            process.login(userid, f"Pass{userid.removeprefix('User'):>03}").close()
        yield process


def killed_at_each_step_of_a_replacement(quick: bool) -> str:
    """Dying while a saved file is hashed under a running server leaves that one or the new one."""
    outcomes: list[bool] = []
    with temporary_folder() as folder:
        users = folder / "users.txt"
        for share in (50,) if quick else (0, 50, 100):
            for last in range(1, 100):
                lay_out(users, plain_file(3))
                with serving_all(users, OPTIONS):
                    pass
                # An editor adds some: what is hashed already stays as it is.
                edited = users.read_bytes() + b"(User3, Pass003)\n# late\n(User4, Pass004)\n"
                if not dies_at_replacement(users, edited, deadly(last, share) + ARM_AT_TIDY):
                    break
                outcomes.append(hold_old_or_new(users, edited))
                suite.at(f"{len(outcomes)} steps, {share} % of a write done")
                with serving_all(users, OPTIONS):
                    assert hashed_in(users) == 5
            assert hold_old_or_new(users, edited)
    assert {True, False} == set(outcomes), "not every step was reached"
    return (
        f"killed at each of {len(outcomes)} steps of a replacement under a running server: "
        f"{outcomes.count(False)} times the editor's file, {outcomes.count(True)} times the new, "
        f"whole; then all log in"
    )


def dies_at_replacement(users: Path, edited: bytes, patch: str) -> bool:
    process = ServerProcess(users, OPTIONS, program=cheap_server(patch))
    try:
        with process.login("User0", "Pass000"):  # nobody looks at the file in an empty room
            users.write_bytes(edited)
            lines = iter(process.display.next, None)
            if any(line == "Replaced." for line in lines):
                return False
        assert process.process.wait(PATIENCE) == -signal.SIGKILL
        return True
    finally:
        process.stop()


def killed_at_any_time_of_hashing(quick: bool) -> str:
    """The same with kills from outside, at real hash cost, many of them at the very end."""
    chance = random.Random(50)
    old = plain_file(8 if quick else 50)
    outcomes = []
    with temporary_folder() as folder:
        users, temporary = folder / "users.txt", folder / ".users.txt.new"
        turns = 4 if quick else 20
        for turn in range(turns):
            suite.at(f"{turn} of {turns} kills")
            lay_out(users, old)
            temporary.unlink(missing_ok=True)
            with server_to_kill(users):
                if turn % 2:
                    is_near = partial(is_hashed, users, temporary, old)
                    eventually(is_near, "the passwords are hashed", 4 * PATIENCE, pause=0.0005)
                    time.sleep(chance.uniform(0, 0.004))
                else:
                    time.sleep(chance.uniform(0.1, 0.5 if quick else 2.0))
            outcomes.append(hold_old_or_new(users, old))
        with serving(users, OPTIONS) as server_process, server_process.login("User7", "Pass007"):
            assert hold_old_or_new(users, old)
        assert not temporary.exists(), "a temporary file stays behind"
    return (
        f"{len(outcomes)} kills from outside while hashing: {outcomes.count(False)} times the old "
        f"file, {outcomes.count(True)} times the new, whole; then all hashed (real hash cost)"
    )


def is_hashed(users: Path, temporary: Path, old: bytes) -> bool:
    """Tell whether the new file is being written, or has been."""
    return temporary.exists() or users.read_bytes() != old


@contextlib.contextmanager
def server_to_kill(users: Path) -> Iterator[None]:
    """Start a server without waiting until it is ready; kill it in the end."""
    process = subprocess.Popen(
        [*AS_IT_IS, "--port", "0", "--users", str(users)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def killed_at_each_step_of_newuser(quick: bool) -> str:
    """Dying at any step of a newuser keeps the others; the new one is whole, or not there."""
    written = torn = steps = 0
    with temporary_folder() as folder:
        users = folder / "users.txt"
        for share in (30,) if quick else (0, 1, 30, 99, 100):
            for last in range(1, 50):
                write_cheap_users(users, ["Tom", "Beth"])
                patch = deadly(last, share) + ARM_AT_ADD
                if not dies_at_newuser(users, patch):
                    break
                steps += 1
                suite.at(f"{steps} steps, {share} % of a write done")
                torn += not users.read_text().endswith("\n")
                with serving(users, OPTIONS, program=cheap_server()) as process:
                    written += hold_victim(process)
                hold_lines(users)
    return (
        f"newuser killed at each of {steps} steps: the others stay, the new account is whole "
        f"{written} times and absent {steps - written} times, {torn} torn lines set aside"
    )


def dies_at_newuser(users: Path, patch: str) -> bool:
    process = ServerProcess(users, OPTIONS, program=cheap_server(patch))
    try:
        with process.connect() as talker:
            talker.send("newuser Victim victim")
            line = None
            with contextlib.suppress(ConnectionError):
                line = talker.line()
            assert line in (None, "New user account created. Please login."), line
            if line is None:
                assert process.process.wait(PATIENCE) == -signal.SIGKILL
            return line is None
    finally:
        process.stop()


def hold_victim(process: ServerProcess) -> bool:
    """Return whether the account is there; if not, it can be made."""
    for userid in ("Tom", "Beth"):
        process.login(userid).close()
    with process.connect() as talker:
        is_there = talker.ask("newuser Victim victim") == "Denied. User account already exists."
        assert talker.ask("login Victim victim") == "login confirmed"
    return is_there


# --------------------------------------------------------------------------------------------------
# 100,000 accounts.
# --------------------------------------------------------------------------------------------------


def many_accounts(quick: bool) -> str:
    """With 100,000 accounts the server is ready soon, and newuser costs what it costs with 3."""
    del quick  # it is quick enough
    record = server.hash_password("secret")
    with temporary_folder() as folder:
        few, many = folder / "few.txt", folder / "many.txt"
        write_cheap_users(few, ["Tom", "Beth", "David"])
        many.write_text("".join(f"(User{n}, {record})\n" for n in range(100_000)))
        seconds = [time_to_ready(many) for _ in range(3)]
        command = cheap_server()
        with (
            serving(few, OPTIONS, program=command) as small,
            serving(many, OPTIONS, program=command) as large,
        ):
            with large.login("User99999", "secret"):
                pass
            costs = newuser_costs(small, large)
    ready, ratio = statistics.median(seconds), costs[1] / costs[0]
    assert ready < READY_LIMIT, seconds
    assert ratio < RATIO_LIMIT, costs
    return (
        f"100,000 accounts: ready in {ready:.2f} s (median of 3); newuser {costs[1] * 1000:.2f} "
        f"ms, with 3 accounts {costs[0] * 1000:.2f} ms (medians of 60, hash cost lowered): "
        f"{ratio:.2f}"
    )


def time_to_ready(users: Path) -> float:
    began = time.perf_counter()
    with serving(users, OPTIONS):
        return time.perf_counter() - began


def newuser_costs(*processes: ServerProcess) -> list[float]:
    """Return the median seconds of a newuser on each server, asked in turns for a fair weather."""
    seconds: list[list[float]] = [[] for _ in processes]
    talkers = [process.connect() for process in processes]
    for number in range(60):
        for talker, spent in zip(talkers, seconds, strict=True):
            began = time.perf_counter()
            assert talker.ask(f"newuser Late{number} secret") == (
                "New user account created. Please login."
            )
            spent.append(time.perf_counter() - began)
    for talker in talkers:
        talker.close()
    return [statistics.median(spent) for spent in seconds]


# --------------------------------------------------------------------------------------------------
# Other tools, other servers, other people's curiosity.
# --------------------------------------------------------------------------------------------------


def other_tools_agree(quick: bool) -> str:
    """Hashes of passlib log in here, with any parameters; ours verify there."""
    del quick
    warnings.simplefilter("ignore", DeprecationWarning)  # passlib's own, about the module crypt
    from passlib.hash import scrypt  # type: ignore[import-untyped]

    shapes = [(14, 8, 1), (10, 16, 2), (15, 8, 1), (1, 1, 1), (13, 3, 16)]
    theirs = {
        f"User{rounds}": scrypt.using(
            rounds=rounds, block_size=blocks, parallelism=lanes, salt_size=16
        ).hash("Jos\u00e91")
        for rounds, blocks, lanes in shapes
    }
    with temporary_folder() as folder:
        users = folder / "users.txt"
        users.write_text("".join(f"({userid}, {record})\n" for userid, record in theirs.items()))
        with serving(users, OPTIONS) as process:
            for userid in theirs:
                process.login(userid, "Jose\u03011").close()
            with process.connect() as talker:
                talker.send("newuser Mike a),(#$")
                talker.expect("New user account created. Please login.")
        ours = users.read_text().splitlines()[-1].partition(", ")[2].removesuffix(")")
    assert scrypt.verify("a),(#$", ours)
    assert not scrypt.verify("a),(#", ours)
    return f"passlib: {len(theirs)} of its hashes log in, ours verifies there"


def second_server_is_refused(quick: bool) -> str:
    """A second server on the same users.txt says so and ends with status 1, under any name."""
    del quick
    with temporary_folder() as folder:
        users, link = folder / "users.txt", folder / "link.txt"
        write_cheap_users(users, ["Tom"])
        link.symlink_to(users)
        with serving(users, OPTIONS) as process:
            for name in (users, link):
                second = run_server("--port", "0", "--users", str(name))
                assert (second.returncode, second.stdout) == (1, ""), second
                assert "in use by another server" in second.stderr, second.stderr
                assert second.stderr.count("\n") == 1, second.stderr
            process.login("Tom", CHEAP_PASSWORD).close()
        with serving(users, OPTIONS):  # and free again once the first has gone
            pass
    return "two servers on one users.txt: the second is refused in one line with status 1"


def time_tells_nothing(quick: bool) -> str:
    """An unknown UserID takes as long to refuse as a wrong password, at the real hash cost.

    In processor time, which does not depend on who else uses the machine.
    """
    with temporary_folder() as folder:
        users = folder / "users.txt"
        users.touch(0o600)
        users.write_text(f"(Tom, {server.hash_password('secret')})\n")
        accounts = server.Accounts(users, warn=print)
        accounts.open()
        spent: dict[str, list[float]] = {"Tom": [], "Nobody": []}
        for _ in range(11 if quick else 41):
            for userid, seconds in spent.items():
                began = time.thread_time()
                assert not accounts.verify(userid, "wrong")
                seconds.append(time.thread_time() - began)
        accounts.close()
    wrong, unknown = (statistics.median(seconds) for seconds in spent.values())
    assert 1 / TIMING_LIMIT < unknown / wrong < TIMING_LIMIT, (unknown, wrong)
    return (
        f"wrong password {wrong * 1000:.1f} ms, unknown user {unknown * 1000:.1f} ms "
        f"(medians of {len(seconds)}): {unknown / wrong:.3f}"
    )


CASES = [
    suite.case_of(run)
    for run in (
        killed_among_newusers,
        killed_at_each_step_of_newuser,
        killed_at_each_step_of_hashing,
        killed_at_each_step_of_setting_aside,
        killed_at_each_step_of_a_replacement,
        killed_at_any_time_of_hashing,
        many_accounts,
        other_tools_agree,
        second_server_is_refused,
        time_tells_nothing,
    )
]


if __name__ == "__main__":
    sys.exit(suite.main("tests.long.crash", __doc__, CASES))
