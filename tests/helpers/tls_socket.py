"""A socket that speaks TLS and behaves as a plain one does, for the suites' talkers.

ssl.SSLSocket will not do: OpenSSL forbids reading and writing one object from two threads, and no
SSLSocket can say that nothing more will come (`close_notify`) and go on reading.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time

RECORD = 16 * 1024  # bytes of text at most


class TlsSocket(socket.socket):
    """Takes over a connected socket. `recv` and sending may be done by a thread each.

    What has been sealed has to be sent in full: where a plain socket would time out with a part of
    the bytes sent, here the rest is kept, and goes ahead of what is sent next.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Shake hands. Raises OSError, of which ssl.SSLError is a kind."""
        self.patience = connection.gettimeout()  # seconds; None for ever, 0 for not at all
        super().__init__(connection.family, connection.type, fileno=connection.detach())
        super().setblocking(False)  # all waiting is done here
        self.lock = threading.Lock()  # guards all below
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)
        self.is_ready = False  # the handshake is done
        self.has_ended = False  # the other side has said so
        self.opened = bytearray()  # text that was not asked for yet
        self.sealed = bytearray()  # what the kernel did not take
        try:
            self._open()
            while not self.is_ready:
                self._take_in(65536)
        except BaseException:
            self.close()
            raise

    def settimeout(self, patience: float | None, /) -> None:
        self.patience = patience

    def setblocking(self, flag: bool, /) -> None:
        self.patience = None if flag else 0.0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return text; b"" once the other side has said that no more will come.

        Raises ConnectionAbortedError if the connection ends without that.
        """
        while not self.opened and not self.has_ended:
            self._take_in(size)  # no more than that, as the kernel's buffer may have to stay full
        with self.lock:
            data = bytes(self.opened[:size])
            del self.opened[:size]
        return data

    def settle(self) -> None:
        """Wait until the other side's handshake is done as well: its session tickets tell."""
        if self.tls.version() == "TLSv1.3":
            self._take_in(65536)

    def has_news(self) -> bool:
        """Tell whether recv would return at once, or raise: not all that comes is text."""
        if not self.opened and not self.has_ended:
            patience, self.patience = self.patience, 0.0
            try:
                self._take_in(65536)
            except BlockingIOError:
                pass
            except OSError:
                return True
            finally:
                self.patience = patience
        return bool(self.opened) or self.has_ended

    def _take_in(self, size: int) -> None:
        """Wait for some bytes of the other side's, and open what they complete."""
        self._wait(select.POLLIN)
        with self.lock:
            data = super().recv(size)
            if not data:
                raise ConnectionAbortedError("cut without close_notify")
            self.incoming.write(data)
        self._open()

    def _open(self) -> None:
        with self.lock:
            try:
                if not self.is_ready:
                    self.tls.do_handshake()
                    self.is_ready = True
                while data := self.tls.read(65536):
                    self.opened += data
                self.has_ended = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # both sides have said so
                self.has_ended = True
            finally:
                with contextlib.suppress(OSError):  # as a plain socket, that reads to the end
                    self._push()  # OpenSSL may have something to answer

    def _push(self) -> None:
        """Send what the kernel takes; the lock must be held."""
        self.sealed += self.outgoing.read()
        with contextlib.suppress(BlockingIOError):
            while self.sealed:
                del self.sealed[: super().send(self.sealed)]

    def _wait(self, event: int, deadline: float | None = None) -> None:
        """deadline: monotonic seconds, if not as the timeout has it."""
        if deadline is None and self.patience is not None:
            deadline = time.monotonic() + self.patience
        left = None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))
        poll = select.poll()
        poll.register(self, event)
        if not poll.poll(left):
            raise TimeoutError("timed out") if self.patience else BlockingIOError()

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        """Seal one record and send it. Raises BlockingIOError while the last one is on its way."""
        with self.lock:
            self._push()
            if self.sealed:
                raise BlockingIOError
            if not data:
                return 0  # OpenSSL would take it for a failure
            count = self.tls.write(memoryview(data)[:RECORD])
            self._push()
        return count

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override]
        with self.lock:
            for start in range(0, len(data), RECORD):
                self.tls.write(memoryview(data)[start : start + RECORD])
        self.flush()

    def flush(self) -> None:
        """Send all that was sealed. Raises TimeoutError as sendall does."""
        deadline = None if self.patience is None else time.monotonic() + self.patience
        while True:
            with self.lock:
                self._push()
                if not self.sealed:
                    return
            self._wait(select.POLLOUT, deadline)

    def shutdown(self, how: int, /) -> None:
        """Say that nothing more will come (`close_notify`); reading may go on."""
        with self.lock, contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.flush()
        if how == socket.SHUT_RDWR:
            super().shutdown(how)

    def cut(self) -> None:
        """End the connection as a plain one ends, without a word of TLS."""
        super().shutdown(socket.SHUT_WR)

    def seal(self, data: bytes) -> bytes:
        """Return what would go on the wire for this text, without sending it."""
        with self.lock:
            self._push()
            self.tls.write(data)
            return self.outgoing.read()

    def send_sealed(self, sealed: bytes) -> None:
        """Send what `seal` returned, or something else in its place."""
        with self.lock:
            self.sealed += sealed
        self.flush()
