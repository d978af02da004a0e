"""What only a room with TLS may meet. Each room here is encrypted, with and without --tls."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import hmac
import itertools
import random
import select
import socket
import ssl
import struct
import threading
import time
import unittest
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.helpers.census import eventually
from tests.helpers.process import CHEAP_PASSWORD, PATIENCE, ServerProcess
from tests.helpers.talker import Talker
from tests.helpers.tls_socket import TlsSocket
from tests.long.faults.stage import (
    SMALL_DOOR,
    Collector,
    Scene,
    Stage,
    again_and_again,
    fault,
    meanwhile,
    mebibytes,
)

ENCRYPTED = b"Denied. This room is encrypted. Use: python client.py --tls\n"
TLS_1_2, TLS_1_3 = 0x0303, 0x0304


@functools.cache
def hello() -> bytes:
    """Return what a client says first."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def dial(server: ServerProcess, source: str = "127.0.0.2") -> socket.socket:
    """Connect, and begin nothing. source: any 127.x.y.z is this machine."""
    return socket.create_connection(
        (server.host, server.port), 2 * PATIENCE, source_address=(source, 0)
    )


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that comes, however it ends."""
    data = b""
    with connection, contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


def secured(talker: Talker) -> TlsSocket:
    assert isinstance(talker.socket, TlsSocket)
    return talker.socket


@fault("handshakes that stall: closed after 10 s with nothing said; a silent one is told")
def tls_stalls(stage: Stage) -> None:
    seconds = stage.choose(1, 10)
    constants = {"HANDSHAKE_SECONDS": seconds} if stage.quick else {}
    count = stage.choose(10, 18)
    with stage.scene(("Tom",), SMALL_DOOR, tls=True, constants=constants) as scene:
        before = scene.census()
        began = time.monotonic()
        with scene.fault():
            beginnings = (b"", hello()[:1], hello()[:100], hello(), hello() + b"\x17\x03\x03\x00")
            begun = [(dial(scene.server), data) for data in beginnings for _ in range(count)]
            for connection, data in begun:
                connection.sendall(data)
            quiet, busy = scene.cpu(), 0.0
            time.sleep(seconds / 2)
            busy = (scene.cpu() - quiet) / (seconds / 2)
            for connection, data in begun:
                said = read_to_end(connection)
                assert said == ENCRYPTED if not data else b"Denied" not in said, (data[:9], said)
            lasted = time.monotonic() - began
        assert seconds * 0.9 < lasted < seconds + 5, f"closed after {lasted:.1f} s"
        scene.settle(before)
        stage.note(f"{len(begun)} of them, closed after {lasted:.1f} s; CPU {busy:.2f} s a second")


@fault("a flood of hellos, each gone at once: nobody waits, a newcomer from elsewhere gets in")
def tls_hellos(stage: Stage) -> None:
    greeting = hello()

    def begin(scene: Scene) -> None:
        with dial(scene.server) as connection:
            connection.sendall(greeting)

    flood_the_door(stage, begin)


@fault("a flood of whole handshakes: nobody waits, a newcomer from elsewhere gets in")
def tls_handshakes(stage: Stage) -> None:
    def shake_hands(scene: Scene) -> None:
        scene.server.connect(source="127.0.0.2").close()

    flood_the_door(stage, shake_hands)


def flood_the_door(stage: Stage, task: Callable[[Scene], None]) -> None:
    """Do it again and again in two threads."""
    seconds = stage.choose(1, 10)
    done = itertools.count()

    def count(scene: Scene) -> None:
        task(scene)
        next(done)

    with stage.scene(("Tom",), SMALL_DOOR, rate=10, tls=True) as scene:
        before = scene.census()
        with scene.fault(median=0.03, worst=0.3):
            spent, began = -scene.cpu(), time.monotonic()
            flood = partial(again_and_again, partial(count, scene))
            with meanwhile(flood, flood):
                time.sleep(seconds / 2)
                tried = time.monotonic()
                newcomer = scene.connect()
                answer = newcomer.ask(f"login Tom {CHEAP_PASSWORD}")
                assert answer == "login confirmed", answer
                waited = time.monotonic() - tried
                time.sleep(seconds / 2)
            spent, lasted = spent + scene.cpu(), time.monotonic() - began
        scene.hang_up()
        scene.settle(before)
        stage.note(
            f"{next(done) / lasted:.0f} a second, server CPU {spent / lasted:.2f} s a second; "
            f"a newcomer is in after {waited:.2f} s"
        )


class OpenSsl:
    """A client through OpenSSL's own functions: Python's ssl has no word for what is wanted."""

    def __init__(self, server: ServerProcess, version: int) -> None:
        """Shake hands. version: of TLS at most, as on the wire."""
        self.library = openssl()
        self.socket = dial(server)
        self.socket.setblocking(False)
        context = self.library.SSL_CTX_new(self.library.TLS_client_method())
        set_max_version = 124  # SSL_CTRL_SET_MAX_PROTO_VERSION
        self.library.SSL_CTX_ctrl(context, set_max_version, version, None)
        self.tls = self.library.SSL_new(context)
        self.library.SSL_CTX_free(context)
        self.library.SSL_set_fd(self.tls, self.socket.fileno())
        self.library.SSL_set_connect_state(self.tls)
        while not self.shake_hands():
            self.wait(select.POLLIN)

    def shake_hands(self) -> bool:
        """Go on with a handshake; return whether it is done. Raises ConnectionError."""
        return self._is_done(self.library.SSL_do_handshake(self.tls))

    def write(self, data: bytes) -> None:
        while not self._is_done(self.library.SSL_write(self.tls, data, len(data))):
            self.wait(select.POLLOUT)

    def read(self) -> bytes:
        """Return what has come, which may be nothing yet."""
        buffer = ctypes.create_string_buffer(65536)
        got = self.library.SSL_read(self.tls, buffer, len(buffer))
        return buffer.raw[:got] if self._is_done(got) else b""

    def _is_done(self, result: int) -> bool:
        if result > 0:
            return True
        if self.library.SSL_get_error(self.tls, result) in (2, 3):  # SSL_ERROR_WANT_READ, _WRITE
            return False
        self.library.ERR_clear_error()
        raise ConnectionAbortedError("OpenSSL gave up")

    def wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.socket, event)
        if not poll.poll(1000 * PATIENCE):
            raise TimeoutError

    def wait_for(self, wanted: bytes) -> None:
        data = b""
        while wanted not in data:
            if not (piece := self.read()):
                self.wait(select.POLLIN)
            data += piece

    def __enter__(self) -> OpenSsl:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.SSL_free(self.tls)
        self.socket.close()


def openssl() -> ctypes.CDLL:
    """Return OpenSSL's library. Raises SkipTest where there is none."""
    name = ctypes.util.find_library("ssl")
    if name is None:
        raise unittest.SkipTest("there is no libssl")
    library = ctypes.CDLL(name)
    for function in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, function).restype = ctypes.c_void_p
    pointer, number, data = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for function in ("CTX_new", "CTX_free", "new", "free", "renegotiate", "do_handshake"):
        getattr(library, f"SSL_{function}").argtypes = [pointer]
    library.SSL_set_connect_state.argtypes = [pointer]
    library.SSL_CTX_ctrl.argtypes = [pointer, number, ctypes.c_long, pointer]
    for function in ("set_fd", "key_update", "get_error"):
        getattr(library, f"SSL_{function}").argtypes = [pointer, number]
    for function in ("write", "read"):
        getattr(library, f"SSL_{function}").argtypes = [pointer, data, number]
    return library


@fault("renegotiation (TLS 1.2), tried again and again: refused, nobody waits")
def tls_renegotiation(stage: Stage) -> None:
    seconds = stage.choose(1, 10)
    tried = itertools.count()
    openssl()

    def renegotiate(scene: Scene) -> None:
        with OpenSsl(scene.server, TLS_1_2) as client:
            client.write(b"who\n")
            client.wait_for(b"Denied. Please login first.\n")
            assert client.library.SSL_renegotiate(client.tls) == 1
            next(tried)
            while True:
                assert not client.shake_hands(), "it was granted"
                client.wait(select.POLLIN)

    with stage.scene(tls=True) as scene:
        before = scene.census()
        with scene.fault(median=0.02, worst=0.3):
            loop = partial(again_and_again, partial(renegotiate, scene))
            with meanwhile(loop, loop):
                time.sleep(seconds)
        scene.settle(before)
        count = next(tried)
        assert count, "it was never tried"
        stage.note(f"{count / seconds:.0f} times a second, never granted")


@fault("a flood of KeyUpdate (TLS 1.3), answers read or not: counts as lines, nobody waits")
def tls_key_updates(stage: Stage) -> None:
    openssl()
    for reads in (True, False):
        flood_with_key_updates(stage, reads)


def flood_with_key_updates(stage: Stage, reads: bool) -> None:
    """reads: the client takes the answers, each of which it asks for."""
    seconds = stage.choose(1, 10)
    updates = itertools.count()

    def update(client: OpenSsl, over: threading.Event) -> None:
        while not over.is_set():
            assert client.library.SSL_key_update(client.tls, 1) == 1  # asks for one in return
            while not client.shake_hands() and not over.is_set():
                poll = select.poll()
                poll.register(client.socket, select.POLLOUT)
                poll.poll(100)
            next(updates)
            while reads and client.read():
                pass

    with stage.scene(rate=10, tls=True) as scene:
        before = scene.census()
        with scene.fault(median=0.02, worst=0.2), OpenSsl(scene.server, TLS_1_3) as client:
            client.write(b"who\n")
            client.wait_for(b"Denied. Please login first.\n")
            with meanwhile(partial(update, client)):
                time.sleep(0.7)  # until its burst is used up
                spent = -scene.cpu()
                time.sleep(seconds)
                now = scene.census()
                spent += now.cpu
        scene.settle(before)
        grown = now.memory - before.memory
        assert grown < 8 << 20, f"memory grew by {mebibytes(grown)}"
        share = spent / seconds
        assert share < 0.4, f"{share:.2f} s of CPU a second"
        stage.note(
            f"answers {'' if reads else 'not '}read: {next(updates)} in {seconds + 0.7:.0f} s, "
            f"server CPU {share:.2f} s a second, memory +{mebibytes(max(0, grown))}"
        )


class Forger:
    """Makes records of TLS 1.3 that no library would (RFC 8446, section 5.2).

    The handshake is OpenSSL's; from the secret that it logs comes the key, as section 7.3 has it.
    """

    def __init__(self, server: ServerProcess, keys: Path) -> None:
        """keys: file for the secrets, which must not be there."""
        context = ssl.create_default_context(cafile=server.certificate)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.keylog_filename = str(keys)
        self.socket = TlsSocket(dial(server), context, server.host)
        cipher = self.socket.tls.cipher()
        assert cipher is not None and cipher[0] == "TLS_AES_256_GCM_SHA384", cipher
        words = [line.split() for line in keys.read_text().splitlines()]
        secret = bytes.fromhex(
            next(word[2] for word in words if word[0] == "CLIENT_TRAFFIC_SECRET_0")
        )
        self.key, self.iv = expand(secret, b"key", 32), expand(secret, b"iv", 12)
        self.number = 0  # of the next record; nothing was sent before but the handshake
        name = ctypes.util.find_library("crypto")
        if name is None:
            raise unittest.SkipTest("there is no libcrypto")
        self.library = ctypes.CDLL(name)
        for function in ("EVP_CIPHER_CTX_new", "EVP_aes_256_gcm"):
            getattr(self.library, function).restype = ctypes.c_void_p
        self.cipher = ctypes.c_void_p(self.library.EVP_aes_256_gcm())
        self.context = ctypes.c_void_p(self.library.EVP_CIPHER_CTX_new())

    def record(self, text: bytes, padding: int = 0) -> bytes:
        """Return a record of text, with so many bytes of zero behind its type."""
        inner = text + b"\x17" + bytes(padding)
        header = b"\x17\x03\x03" + struct.pack("!H", len(inner) + 16)
        number = int.from_bytes(self.iv, "big") ^ self.number
        self.number += 1
        library, context = self.library, self.context
        sealed, tag = ctypes.create_string_buffer(len(inner)), ctypes.create_string_buffer(16)
        size = ctypes.byref(ctypes.c_int())
        nonce = number.to_bytes(12, "big")
        get_tag = 0x10  # EVP_CTRL_AEAD_GET_TAG
        library.EVP_EncryptInit_ex(context, self.cipher, None, self.key, nonce)
        library.EVP_EncryptUpdate(context, None, size, header, len(header))
        library.EVP_EncryptUpdate(context, sealed, size, inner, len(inner))
        library.EVP_EncryptFinal_ex(context, tag, size)
        library.EVP_CIPHER_CTX_ctrl(context, get_tag, 16, tag)
        return header + sealed.raw + tag.raw


def expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446, section 7.1, for no more than one block of SHA-384."""
    label = b"tls13 " + label
    info = struct.pack("!HB", length, len(label)) + label + b"\0"
    return hmac.digest(secret, info + b"\x01", hashlib.sha384)[:length]


@fault("empty records, and one byte in a record: bounded, never obeyed in part, nobody waits")
def tls_empty_records(stage: Stage) -> None:
    seconds = stage.choose(1, 10)
    with stage.scene(("Tom", "Beth"), rate=10, tls=True) as scene:
        keys = scene.server.users.parent
        beth = scene.login("Beth")
        before = scene.census()
        sent = itertools.count()
        with scene.fault(median=0.02, worst=0.2):
            single = Forger(scene.server, keys / "single")
            line = f"login Tom {CHEAP_PASSWORD}\nsend Beth a byte at a time\nlogout\n".encode()
            single.socket.send_sealed(
                b"".join(single.record(bytes([byte])) + single.record(b"", 100) for byte in line)
            )
            beth.until("Tom (to Beth): a byte at a time")
            beth.until("Tom left.")
            single.socket.close()

            def flood(over: threading.Event) -> None:
                """Thirty empty ones, as many as OpenSSL lets pass, and one with a letter."""
                forger = Forger(scene.server, keys / f"flood{next(sent)}")
                forger.socket.settimeout(0.5)
                with contextlib.closing(forger.socket):
                    while not over.is_set():
                        empty = [forger.record(b"", 1000) for _ in range(30)]
                        with contextlib.suppress(TimeoutError):
                            forger.socket.send_sealed(b"".join([*empty, forger.record(b"x")]))
                        next(sent)

            with meanwhile(flood):
                time.sleep(0.5)  # until its burst is used up
                spent = -scene.cpu()
                time.sleep(seconds)
                spent += scene.cpu()
            endless = Forger(scene.server, keys / "endless")
            with contextlib.suppress(OSError):
                endless.socket.send_sealed(b"".join(endless.record(b"") for _ in range(1000)))
                read_to_end(endless.socket)
        scene.settle(before)
        share = spent / seconds
        assert share < 0.4, f"{share:.2f} s of CPU a second"
        stage.note(f"{30 * next(sent) / seconds:.0f} a second, server CPU {share:.2f} s a second")


@fault("cut without close_notify: shown as (connection lost), the place is free at once")
def tls_cut(stage: Stage) -> None:
    count = stage.choose(10, 100)
    with stage.scene(("Tom", "Beth"), tls=True, private=True) as scene:
        beth = scene.login("Beth")
        before = scene.census()
        slowest = 0.0
        with scene.fault():
            for number in range(count):
                tom = scene.login("Tom")
                beth.until("Tom joins.")
                if number % 2:  # in the middle of a record
                    secured(tom).send_sealed(secured(tom).seal(b"send Beth half\n")[:-1])
                began = time.monotonic()
                secured(tom).cut()
                scene.shown(r"Tom logout \(connection lost\)\.")
                assert beth.until("Tom left.")[:-1] == [], "half a record was obeyed"
                slowest = max(slowest, time.monotonic() - began)
                scene.talkers.remove(tom)
                tom.close()
        scene.settle(before)
        assert slowest < stage.choose(5, 1.5), f"the place was taken for {slowest:.1f} s"
        stage.note(f"{count} times, gone after {1000 * slowest:.0f} ms at most")


@fault("a bit flipped in a record: the connection is lost, nothing of the record is obeyed")
def tls_flipped(stage: Stage) -> None:
    source = random.Random(8446)
    count = stage.choose(20, 400)
    with stage.scene(("Tom", "Beth"), tls=True) as scene:
        beth = Collector(scene.login("Beth"))
        before = scene.census()
        with scene.fault():
            for _ in range(count):
                tom = scene.login("Tom")
                record = bytearray(secured(tom).seal(b"send Beth a lie\nsend Beth a lie\n"))
                # Where the length stands it would wait for bytes that never come.
                place = source.choice([0, 1, *range(5, len(record))])
                record[place] ^= 1 << source.randrange(8)
                secured(tom).send_sealed(bytes(record))
                scene.shown(r"Tom logout \(connection lost\)\.")
                scene.talkers.remove(tom)
                tom.close()
        scene.settle(before)
        scene.stop()
        lies = [line for line in beth.lines() if "a lie" in line]
        assert not lies, lies
        stage.note(f"{count} records")


PLAIN = (
    f"login Tom {CHEAP_PASSWORD}\nsend all hi\n".encode(),
    b"\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"SSH-2.0-Go\r\n",
    b"\xff\xfb\x1f\xff\xfb\x20",
    b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",  # SSL 2
    bytes(range(256)) * 40,
    "\ufeffwho\r\n".encode(),
)


@fault("plain text to an encrypted room: told in plain text, closed, nothing obeyed")
def tls_plain_text(stage: Stage) -> None:
    rounds = stage.choose(2, 50)
    with stage.scene(("Tom", "Beth"), tls=True) as scene:
        beth = Collector(scene.login("Beth"))
        users = scene.server.users.read_bytes()
        before = scene.census()
        with scene.fault():
            for data in PLAIN * rounds:
                connection = dial(scene.server)
                connection.sendall(data)
                said = read_to_end(connection)
                assert said == ENCRYPTED, (data[:20], said)
            for data in PLAIN:  # under way when the room has begun to speak TLS
                connection = dial(scene.server)
                connection.sendall(hello()[:50] + data)
                with contextlib.suppress(OSError):  # it may be closed already
                    connection.shutdown(socket.SHUT_WR)
                said = read_to_end(connection)
                assert b"Denied" not in said, (data[:20], said)
        scene.settle(before)
        assert scene.server.users.read_bytes() == users
        scene.stop()
        heard = [line for line in beth.lines() if "Tom" in line]
        assert not heard, heard
        stage.note(f"{rounds * len(PLAIN)} of them")


@fault("850 idle connections, some within a handshake: whoever types a login elsewhere stays")
def tls_idle_crowd(stage: Stage) -> None:
    count = stage.choose(150, 850)
    with stage.scene(("Tom",), SMALL_DOOR, tls=True) as scene:
        before = scene.census()
        with scene.fault(), contextlib.ExitStack() as stack:
            typist = scene.connect()
            typed = f"login Tom {CHEAP_PASSWORD}\n".encode()
            for number in range(count):
                if number % (count // len(typed)) == 0:
                    typist.send_bytes(typed[:1])
                    typed = typed[1:]
                if number % 3 == 0:
                    scene.connect_and_settle("127.0.0.2")
                else:
                    connection = stack.enter_context(dial(scene.server))
                    connection.sendall(hello()[: 80 * (number % 3 - 1)])
            typist.send_bytes(typed)
            typist.expect("login confirmed")
            most = scene.census()
            eventually(  # the typist, and a full door
                lambda: scene.census().threads <= before.threads + 101, "the evicted have gone"
            )
        scene.hang_up()
        scene.settle(before)
        grown = mebibytes(most.memory - before.memory)
        stage.note(f"{count} of them, 100 of which stay; the typist got in; memory +{grown}")


@fault("200 users over TLS who only listen: memory for each, and what 30 s of silence cost")
def tls_listeners(stage: Stage) -> None:
    count = stage.choose(50, 200)
    names = [f"User{number}" for number in range(count)]
    with stage.scene(names, tls=True, private=True) as scene:
        before = scene.census()
        for name in names:
            scene.login(name)
        grown = scene.census().memory - before.memory
        with scene.fault():
            spent = -scene.cpu()
            time.sleep(stage.choose(0.5, 30))
            spent += scene.cpu()
        each = grown / count
        assert each < 200_000, f"{each / 1000:.0f} kB for each"
        stage.note(f"{count} of them, {each / 1000:.0f} kB for each; server CPU {spent:.2f} s")
