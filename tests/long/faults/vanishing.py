"""Peers that vanish without a word: a network namespace whose cable is pulled."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import unittest
from collections.abc import Callable, Iterator

from tests.helpers.process import CHEAP_PASSWORD
from tests.helpers.talker import Talker
from tests.long.faults.stage import Stage, fault
from tests.long.faults.witnesses import run_here

OUTSIDE, INSIDE = (f"10.231.{os.getpid() % 251}.{end}" for end in (1, 2))
SHORT_KEEPALIVE = (
    ("TCP_NODELAY", 1),
    ("SO_KEEPALIVE", 1),
    ("TCP_KEEPIDLE", 2),
    ("TCP_KEEPINTVL", 1),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", 5000),
)
# Prints what the kernel was really told about each connection.
SHOW_OPTIONS = """
import socket
def set_options(connection, options, set_options=server.set_options):
    set_options(connection, options)
    if options is not server.CONNECTION_OPTIONS:
        return
    told = [connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
    told += [connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in (
        "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")]
    print("options:", *told, file=sys.stderr, flush=True)
server.set_options = set_options
"""


@fault("every connection has the socket options that find dead peers", fast=True)
def keepalive(stage: Stage) -> None:
    with stage.scene(patch=SHOW_OPTIONS) as scene:
        with scene.fault():
            scene.connect()
        told = scene.server.errors.until(lambda line: line.startswith("options: "))
        options = [int(word) for word in told.split()[1:]]
        alive, no_delay, idle, interval, count, user_timeout = options
        assert alive, told
        assert no_delay, told
        # Data sent to a dead peer silences keepalive, so that at worst one follows the other.
        worst = idle + interval * count + user_timeout / 1000
        assert user_timeout > 0, told
        assert worst <= 120, f"a dead peer may be found after {worst:.0f} s"
        stage.note(f"probes after {idle} s, {count} of them {interval} s apart")
        stage.note(f"unacknowledged data given up after {user_timeout / 1000:.0f} s")


@fault("no FIN, cable pulled: found within 2 minutes")
def vanishes(stage: Stage) -> None:
    constants: dict[str, object] = {"CONNECTION_OPTIONS": SHORT_KEEPALIVE} if stage.quick else {}
    limit = 15 if stage.quick else 125
    with (
        cable() as (namespace, pull),
        stage.scene(
            ("Idle", "Busy", "Tom"), ("--host", OUTSIDE), constants=constants, private=True
        ) as scene,
    ):
        tom = scene.login("Tom")
        before = scene.census()
        enter = ("ip", "netns", "exec", namespace)
        address = (OUTSIDE, str(scene.server.port), scene.server.certificate)
        peers = [run_here(sit, (*address, name), enter) for name in ("Idle", "Busy")]
        try:
            scene.shown("(Idle|Busy) login\\.")
            scene.shown("(Idle|Busy) login\\.")
            with scene.fault():
                pull()
                began = time.monotonic()
                tom.send("send Busy are you there?")
                for _ in peers:
                    left = max(0.1, began + limit - time.monotonic())
                    gone = scene.shown(r"\w+ logout \(connection lost\)\.", left)
                    stage.note(f"{gone.split()[0]} gone after {time.monotonic() - began:.0f} s")
        finally:
            for peer in peers:
                peer.kill()
                peer.communicate()
        scene.settle(before)
        if stage.quick:
            stage.note("with keepalive after 2 s and TCP_USER_TIMEOUT of 5 s")


def sit(host: str, port: str, certificate: str, userid: str) -> None:
    """Be a client that only reads."""
    with Talker(host, int(port), certificate=certificate) as talker:
        talker.socket.settimeout(None)
        talker.send(f"login {userid} {CHEAP_PASSWORD}")
        while talker.line() is not None:
            pass


@contextlib.contextmanager
def cable() -> Iterator[tuple[str, Callable[[], None]]]:
    """Lay a cable to a network namespace; yield the name of that, and what pulls the cable."""
    namespace, near, far = (f"chat{end}{os.getpid()}" for end in "xyz")
    if not shutil.which("ip") or not administer("netns", "add", namespace):
        raise unittest.SkipTest("network namespaces are not permitted here")
    inside = ("-n", namespace)
    try:
        for command in (
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", namespace),
            ("addr", "add", f"{OUTSIDE}/30", "dev", near),
            ("link", "set", near, "up"),
            (*inside, "addr", "add", f"{INSIDE}/30", "dev", far),
            (*inside, "link", "set", far, "up"),
        ):
            if not administer(*command):
                raise unittest.SkipTest(f"not permitted here: ip {' '.join(command)}")
        yield namespace, lambda: pull_cable(namespace, far)
    finally:
        administer("link", "del", near)
        administer("netns", "del", namespace)


def pull_cable(namespace: str, device: str) -> None:
    assert administer("-n", namespace, "link", "set", device, "down")


def administer(*command: str) -> bool:
    return subprocess.run(["ip", *command], capture_output=True, check=False).returncode == 0
