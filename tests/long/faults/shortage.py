"""Shortage: of descriptors, threads, disk; and a users.txt that others have changed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.census import eventually
from tests.helpers.process import run_server, temporary_folder
from tests.long.faults.stage import BUSY, SAVED, UNSAVED, Stage, fault
from tests.long.faults.witnesses import PING, PONG


@contextlib.contextmanager
def limited(process: int, name: str, amount: int) -> Iterator[None]:
    """Hold a running process to a soft limit for a while."""
    import resource  # which Windows has not

    if not hasattr(resource, "prlimit"):
        raise unittest.SkipTest("the limits of a running process cannot be changed here")
    what = getattr(resource, name)
    soft, hard = resource.prlimit(process, what)
    resource.prlimit(process, what, (amount, hard))
    try:
        yield
    finally:
        resource.prlimit(process, what, (soft, hard))


NO_HANDSHAKE = "who was not accepted, or has no thread, cannot shake hands and be told anything"


@fault("shown; no spinning; served when they are back", plain_only=NO_HANDSHAKE)
def descriptors(stage: Stage) -> None:
    seconds = stage.choose(0.3, 10)
    constants = {"ACCEPT_PAUSE": 0.1} if stage.quick else {}
    with stage.scene(constants=constants) as scene:
        before = scene.census()
        with scene.fault(), limited(scene.server.pid, "RLIMIT_NOFILE", before.descriptors + 5):
            talkers = [scene.connect() for _ in range(10)]
            scene.shown(r"New connections have to wait: Too many open files\.")
            spent = -scene.cpu()
            time.sleep(seconds)  # it tries again after each pause
            spent += scene.cpu()
            assert spent < 0.4 * seconds, f"{spent:.2f} s of CPU in {seconds} s: it spins"
            for talker in talkers[:5]:
                talker.close()
            scene.shown(r"Accepting connections again\.")
            assert talkers[-1].ask("who") == "Denied. Please login first."
        scene.hang_up()
        scene.settle(before)
        stage.note(f"server CPU {spent:.2f} s in {seconds} s without; served when they are back")


@fault("that connection is told `The server is busy.`, then on", fast=True, plain_only=NO_HANDSHAKE)
def threads(stage: Stage) -> None:
    with stage.scene(("Tom",)) as scene:
        before = scene.census()
        status = Path(f"/proc/{scene.server.pid}/status").read_text()
        size = int((re.search(r"VmSize:\s+(\d+) kB", status) or ["", "0"])[1]) * 1024
        refused = 0
        with scene.fault(), limited(scene.server.pid, "RLIMIT_AS", size):
            while not refused:
                refused += scene.connect().line() == BUSY
            scene.shown(r"Connection refused: can't start new thread\.")
        scene.hang_up()
        scene.login("Tom")
        scene.hang_up()
        scene.settle(before)
        stage.note("no memory for another stack; the next in once there is some")


@fault("account refused, users.txt as it was; saved once there is room")
def disk_full(stage: Stage) -> None:
    with small_disk() as disk, stage.scene(("Tom",), folder=disk) as scene:
        users = scene.server.users
        with users.open("a") as file:  # up to just before the next page: it must take a new one
            file.write("#" * (4050 - users.stat().st_size) + "\n")
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            with contextlib.suppress(OSError), (disk / "filler").open("wb", 0) as filler:
                while True:
                    filler.write(bytes(4096))
            assert talker.ask("newuser Mike secret") == UNSAVED
            scene.shown("Account Mike not saved: No space left on device")
            assert users.read_bytes() == before, "a part of the line stayed"
            (disk / "filler").unlink()
            assert talker.ask("newuser Mike secret") == SAVED
        assert users.read_bytes().startswith(before + b"(Mike, $scrypt$")
        stage.note("a tmpfs filled to the brim")


@fault("the same when a line, or a new file, is torn in the middle", fast=True)
def file_limit(stage: Stage) -> None:
    with stage.scene(("Tom",), constants=stage.hash_cost()) as scene:
        users = scene.server.users
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            with limited(scene.server.pid, "RLIMIT_FSIZE", len(before) + 30):
                assert talker.ask("newuser Mike secret") == UNSAVED
                assert users.read_bytes() == before, "a part of the line stayed"
            assert talker.ask("newuser Mike secret") == SAVED
            users.unlink()
            with limited(scene.server.pid, "RLIMIT_FSIZE", 30):
                assert talker.ask("newuser Jane secret") == UNSAVED
            assert talker.ask("newuser Jane secret") == SAVED
        assert accounts_in(users) == [PING, PONG, "Tom", "Mike", "Jane"]
        stage.note("torn after 30 bytes, mended; the same with the whole file to be written")


def accounts_in(users: Path) -> list[str]:
    return re.findall(r"^\((\w+), \$scrypt\$[^)]+\)$", users.read_text(), re.MULTILINE)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    with temporary_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise unittest.SkipTest("mounting a small disk is not permitted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)


@fault("account refused, logins go on", fast=True)
def read_only(stage: Stage) -> None:
    prefix: Sequence[str] = ()
    if os.geteuid() == 0:  # who may write to every file, unless that is taken away
        if not shutil.which("setpriv"):
            raise unittest.SkipTest("no setpriv, without which root may write everywhere")
        taken = "-dac_override,-dac_read_search"
        prefix = ("setpriv", f"--bounding-set={taken}", f"--inh-caps={taken}")
    with stage.scene(("Tom",), constants=stage.hash_cost(), prefix=prefix) as scene:
        users = scene.server.users
        before = users.read_bytes()
        talker = scene.connect()
        with scene.fault():
            users.chmod(0o400)
            assert talker.ask("newuser Mike secret") == UNSAVED
            shown = scene.shown("Account Mike not saved: .*")
            assert users.read_bytes() == before
            scene.login("Tom")
            users.chmod(0o600)
            assert talker.ask("newuser Mike secret") == SAVED
        assert accounts_in(users) == [PING, PONG, "Tom", "Mike"]
        stage.note(f"shown: {shown.partition(': ')[2]}; logins go on; saved once it may be written")


@fault("users.txt is a FIFO or a folder: one line, status 1, no hang; later: logins go on")
def users_no_file(stage: Stage) -> None:
    refusal = "users.txt is no regular file. Name another one with --users."
    with temporary_folder() as folder:
        for make in (os.mkfifo, os.mkdir):
            users = folder / make.__name__ / "users.txt"
            users.parent.mkdir()
            make(users)
            began = time.monotonic()
            ended = run_server("--port", "0", "--users", str(users))
            assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"{refusal}\n"), ended
            stage.note(f"{make.__name__}: ended after {time.monotonic() - began:.1f} s")
    with stage.scene(("Tom",)) as scene:
        users = scene.server.users
        with scene.fault():
            for make, unmake in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir)):
                users.unlink()
                make(users)
                scene.login("Tom")
                scene.shown(re.escape(refusal))
                assert scene.connect().ask("newuser Mike secret") == UNSAVED
                unmake(users)
                users.touch()
        stage.note("put in its place later: told once, logins go on")


@fault("newuser writes users.txt anew, with every account", fast=True)
def users_lost(stage: Stage) -> None:
    with stage.scene(("Tom",), constants=stage.hash_cost()) as scene:
        users = scene.server.users
        talker = scene.connect()
        with scene.fault():
            users.unlink()
            assert talker.ask("newuser Mike secret") == SAVED
            assert accounts_in(users) == [PING, PONG, "Tom", "Mike"]
            users.unlink()
            talker.ask("who")  # its session is there, and with it all descriptors that it takes
            with limited(scene.server.pid, "RLIMIT_NOFILE", scene.census().descriptors):
                assert talker.ask("newuser Jane secret") == UNSAVED
            assert talker.ask("newuser Jane secret") == SAVED
            saved = accounts_in(users)
            assert saved == [PING, PONG, "Tom", "Mike", "Jane"], f"only {saved} are left"
        assert users.stat().st_mode & 0o777 == 0o600
        stage.note("also when descriptors run out in the middle of it")


# What the server waits for is made short: until users.txt has been still, and between looks at it.
SOON = {"SETTLED_SECONDS": 0.3, "WATCH_SECONDS": 0.05}


@fault("others' accounts count at once, are hashed once the file is still; a mistake is shown once")
def users_edited(stage: Stage) -> None:
    constants = {**stage.hash_cost(), **(SOON if stage.quick else {})}
    with stage.scene(("Tom",), constants=constants) as scene:
        users = scene.server.users
        talker = scene.connect()
        with scene.fault():
            with users.open("a") as file:
                file.write("(Jane, secret)")
            scene.login("Jane")
            assert "(Jane, secret)" in users.read_text(), "rewritten while an editor may be at it"
            assert talker.ask("newuser Mike secret") == SAVED
            hashed = [PING, PONG, "Tom", "Jane", "Mike"]
            eventually(lambda: accounts_in(users) == hashed, "Jane's password is hashed")
            text = users.read_text()
            replacement = users.with_name("replacement")  # as editors do it
            replacement.write_text(f"# replaced\n{text}(Rosa, secret)\n")
            replacement.replace(users)
            assert talker.ask("newuser Luis secret") == SAVED
            hashed = ["Mike", "Rosa", "Luis"]
            eventually(lambda: accounts_in(users)[-3:] == hashed, "Rosa's password is hashed")
            assert "secret" not in users.read_text()
            wrong = f"nonsense\n{users.read_text()}"
            users.write_text(wrong)
            assert talker.ask("newuser Olga secret") == SAVED
            scene.shown(r"users\.txt:1: .*")
            scene.login("Rosa")
            scene.login("Tom")
            scene.login("Olga")
            assert users.read_text().startswith(wrong), "what has a mistake in it was rewritten"
            users.write_text(users.read_text().partition("\n")[2])  # the mistake is taken out
            scene.login("Luis")
        scene.stop()
        told = [line for line in scene.server.display.all() if line.startswith("users.txt:")]
        assert len(told) <= 2, f"told again and again: {told}"
        stage.note("appended to, and replaced; with a mistake: shown, newuser and logins go on")
