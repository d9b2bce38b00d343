"""A connection in TLS: OpenSSL between the socket's transport and the protocol that answers.

asyncio and uvloop each have such a layer. This one stands in for both, because of what they cannot say or do:

1. What costs time runs in threads, where OpenSSL needs no lock of Python's: handshakes, and all of a large
   body. A file is read, encrypted and written to the socket there, as far as that has room at once; the
   event loop hands on what is left, and waits for the client.
2. While a thread has the engine nobody else touches it: what comes meanwhile waits (and no more is read from
   the socket), what is written meanwhile waits, a `close` waits. See `_busy`.
3. A protocol is told of a connection once the handshake is done, and always of its end: `connection_lost` may
   come alone. So whoever counts connections counts those that never say who they are.
4. `get_write_buffer_size` is all that the client does not have yet, as far as this process holds it.
5. The end is `close_notify`, then FIN, without waiting for the other side's: it may say nothing for ever.

Which certificate is shown is decided at each handshake (`certificates`).

It is longer than other modules: each of its verbs (shaking hands, reading, writing, closing) changes the one
engine and the one state that rule 2 guards, and is right only as long as the others are read beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum, auto
from typing import Any, Protocol, cast

import structlog

HANDSHAKE_TIMEOUT = 10.0  # seconds; Go's http.Server has none, nginx 60
# OpenSSL encrypts some 3 GB/s on each.
ENCRYPTING_THREADS = 4
# Apart from the others, so that a flood of handshakes holds up no body.
SHAKING_THREADS = 2
# Bytes that are encrypted in one call. The engine keeps a buffer of as many until the connection ends, also
# while that idles; with four times as many nothing is quicker.
STEP = 64 << 10
# Bytes that the engine may say by itself before the client has taken them: who asks for new keys is answered
# with 27 (RFC 8446 section 4.6.3), and clients ask once in some million records.
OWED = 4 << 10
READ = 64 << 10  # bytes of a request that are asked for at a time; a record has 16 KiB at most
# What clients begin with that speak HTTP, as Go's net/http tells them.
HTTP_BEGINNINGS = (b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO")
# Word for word Go's answer, which people search for.
SPOKE_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"

log = structlog.get_logger()


class Threads:
    """Those of all connections; to be closed."""

    def __init__(self) -> None:
        self.encrypting = ThreadPoolExecutor(ENCRYPTING_THREADS, "encrypting")
        self.shaking = ThreadPoolExecutor(SHAKING_THREADS, "handshake")

    def close(self) -> None:
        """What has begun ends by itself."""
        self.encrypting.shutdown(wait=False)
        self.shaking.shutdown(wait=False, cancel_futures=True)


class Handshakes(Protocol):
    """What a connection needs to know, and tells: `certificates.Certificates`."""

    threads: Threads

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake."""

    def failed(self, remote: object, reason: str, *, certificate: bool) -> None:
        """One came to nothing; `certificate`: since the client's own was not accepted."""


class State(Enum):
    """What may be done with a connection."""

    HANDSHAKE = auto()
    OPEN = auto()
    CLOSING = auto()  # nothing more is taken from either side; what was written leaves
    CLOSED = auto()


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """Protocol of the socket's transport, and transport of `inner`."""

    def __init__(
        self,
        handshakes: Handshakes,
        inner: asyncio.Protocol,
        timeout: float = HANDSHAKE_TIMEOUT,
        admits: Callable[[asyncio.Transport], bool] = lambda _below: True,
    ) -> None:
        super().__init__()
        self._handshakes, self._inner, self._admits = handshakes, inner, admits
        self._context = handshakes.context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._state = State.HANDSHAKE
        self._busy = False  # a thread has the engine
        self._late: list[bytes] = []  # what the socket gave meanwhile: one piece, as it is paused then
        self._unsent: list[bytes] = []  # what was written meanwhile
        self._owed = 0  # bytes of the engine's own that have left since the client had taken all
        self._held_back = False  # nothing is read from the socket until the engine is back
        self._reads = True  # the inner protocol takes data
        self._begun = False  # something came
        self._empty: asyncio.Future[None] | None = None  # somebody waits until all is written
        self._below: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(timeout, self._too_slow)

    # The socket's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if not self._admits(self._below):  # before any work is done for him
            self._state = State.CLOSING
            self._deadline.cancel()
            self._below.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is State.HANDSHAKE:
            self._note("the client went away")
        self._state = State.CLOSED
        self._deadline.cancel()
        self._late.clear()
        self._unsent.clear()
        self._tell_empty()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._busy:
            self._late.append(data)
            self._held_back = True
            self._below.pause_reading()
            return
        if self._state is State.HANDSHAKE and not self._begun:
            self._begun = True
            if data.startswith(HTTP_BEGINNINGS):
                self._note("the client spoke HTTP")
                self._below.write(SPOKE_HTTP)
                self._finish()
                return
        self._incoming.write(data)
        if self._state is State.HANDSHAKE:
            self._shake()
        else:
            self._read()

    def eof_received(self) -> bool | None:
        """FIN without `close_notify`: as on a plain connection, it ends."""
        if self._state is State.OPEN:
            self._inner.eof_received()
        return None

    def pause_writing(self) -> None:
        if self._state is not State.HANDSHAKE:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._tell_empty()
        if self._state is not State.HANDSHAKE:
            self._inner.resume_writing()

    def _tell_empty(self) -> None:
        if self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    # The engine.

    def _shake(self) -> None:
        """The next step of the handshake, in a thread: it may sign, and check a chain of certificates."""
        self._busy = True
        self._loop.run_in_executor(self._handshakes.threads.shaking, self._step).add_done_callback(
            self._stepped
        )

    def _step(self) -> bool | ssl.SSLError:
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            return error
        return True

    def _stepped(self, step: asyncio.Future[bool | ssl.SSLError]) -> None:
        self._busy = False
        if self._state is not State.HANDSHAKE or step.cancelled():
            return  # too late: the connection is closed
        self._flush()
        result = step.result()
        if isinstance(result, ssl.SSLError):
            self._note(reason_of(result), certificate="CERTIFICATE" in (result.reason or ""))
            self._finish()
        elif result:
            self._deadline.cancel()
            self._state = State.OPEN
            self._inner.connection_made(self)
            self._catch_up()
            self._read()
        else:
            self._catch_up()

    def _read(self) -> None:
        """Give the inner protocol what has come, as long as it takes it."""
        while self._state is State.OPEN and self._reads and not self._busy:
            try:
                data = self._engine.read(READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                log.debug("client.tls.broken", remote=self._remote(), reason=reason_of(error))
                self._flush()
                self._below.abort()
                return
            if not data:  # close_notify
                self._inner.eof_received()
                self.close()
                return
            self._inner.data_received(data)
        self._answer()

    def _answer(self) -> None:
        """Let leave what the engine says by itself.

        NB: who asks for new keys on and on, and takes no answer, would fill the memory; and to those who
        look at what is held for him (`progress`) he would seem to take something, as that changes.
        """
        if self._busy:
            return
        if not self._below.get_write_buffer_size():
            self._owed = 0
        self._owed += self._outgoing.pending
        if self._owed > OWED:
            log.debug("client.tls.broken", remote=self._remote(), reason="it asks for new keys all the time")
            self._below.abort()
            return
        self._flush()

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        for start in range(0, len(view), STEP):
            self._engine.write(view[start : start + STEP])
            self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self._busy and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    def _catch_up(self) -> None:
        """A thread has given the engine back: what had to wait is done now, in its order."""
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            self._encrypt(data)
        if self._state is State.CLOSING:
            self._end()
            return
        late, self._late = self._late, []
        for data in late:
            self.data_received(data)
        if self._held_back and not self._busy:
            self._held_back = False
            if self._reads and not self.is_closing():
                self._below.resume_reading()

    # The inner protocol's side.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data or self._state is not State.OPEN:
            return
        if self._busy:
            self._unsent.append(bytes(data))
        else:
            self._encrypt(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    async def drained(self) -> None:
        """Wait until the kernel has all that was written, or the connection is closed. One call at a time."""
        # Once more each time: the engine may have said something since it was empty: an answer to new keys.
        while self._is_open() and self._below.get_write_buffer_size():
            self._empty = self._loop.create_future()
            self._below.set_write_buffer_limits(high=0)  # full until it is empty
            try:
                await self._empty
            finally:
                self._empty = None
                if not self._below.is_closing():  # uvloop's raises then
                    self._below.set_write_buffer_limits()

    def _is_open(self) -> bool:
        return self._state is State.OPEN and not self._below.is_closing()

    async def send_file(self, file: int, offset: int, count: int) -> int:
        """Encrypt bytes of the file of that descriptor and hand them to the kernel; how many.

        Fewer at the file's end, and where the client has no room for more. Does not wait for it: whoever
        calls this waits first until all before has left (`drained`), so that what is in memory of a body is
        one STEP. One call at a time.
        Raises OSError (the file cannot be read), ConnectionError when the connection is closed.
        """
        connection = self._below.get_extra_info("socket")
        # Once it is closing, what was to leave before may be dropped: nothing may follow.
        if not self._is_open() or connection is None or connection.fileno() < 0:
            raise ConnectionResetError("the connection is closed")
        assert not self._busy
        try:
            out = os.dup(connection.fileno())  # the transport may close its own while the thread writes
        except OSError as error:  # EMFILE, which is no fault of the file's
            raise ConnectionResetError("no descriptor is left for this connection") from error
        try:
            job = self._loop.run_in_executor(
                self._handshakes.threads.encrypting, self._seal, out, file, offset, count
            )
        except BaseException:  # the threads are gone: the mirror ends
            os.close(out)
            raise
        self._busy = True
        try:
            sent, rest = await asyncio.shield(job)
        except BaseException:
            # What was encrypted and does not leave is missing in the stream, so nothing may follow it. The
            # file is the caller's to close, so the thread must have ended first.
            self._below.abort()
            while not job.done():
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await asyncio.shield(job)
            self._busy = False
            raise
        finally:
            os.close(out)
        self._busy = False
        if self._below.is_closing():
            raise ConnectionResetError("the connection is closed")
        if rest:
            self._below.write(rest)
        self._catch_up()
        return sent

    def _seal(self, out: int, file: int, offset: int, count: int) -> tuple[int, bytes]:
        """How much was encrypted, and what of that the socket `out` does not take now.

        What was encrypted just now is still near the processor, and leaves without a turn of the loop.
        """
        sent, rest = 0, b""
        while sent < count and not rest and (data := os.pread(file, min(STEP, count - sent), offset + sent)):
            self._engine.write(data)
            rest = _give(out, self._outgoing.read())
            sent += len(data)
        return sent, rest

    def close(self) -> None:
        if self._state is State.OPEN:
            self._state = State.CLOSING
            if not self._busy:
                self._end()
        elif self._state is State.HANDSHAKE:
            self.abort()

    def _end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it would wait for the other side's close_notify
            self._engine.unwrap()
        self._flush()
        self._below.close()

    def _finish(self) -> None:
        """A handshake has failed; the alert, or what else was written, leaves."""
        self._state = State.CLOSING
        self._deadline.cancel()
        self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._state in (State.CLOSING, State.CLOSED) or self._below.is_closing()

    def pause_reading(self) -> None:
        self._reads = False
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._reads = True
        if self._state is State.OPEN:
            self._loop.call_soon(self._read)
            if not self._held_back:
                self._below.resume_reading()

    def is_reading(self) -> bool:
        return self._reads and self._state is State.OPEN

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size() + sum(map(len, self._unsent))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._context
            case "ssl_object":
                return self._engine
        return self._below.get_extra_info(name, default)

    # Failures.

    def _too_slow(self) -> None:
        self._note("no handshake within the time")
        self._state = State.CLOSING
        self._below.abort()

    def _note(self, reason: str, *, certificate: bool = False) -> None:
        self._handshakes.failed(self._remote(), reason, certificate=certificate)

    def _remote(self) -> object:
        peer = self._below.get_extra_info("peername")
        return peer[0] if isinstance(peer, tuple | list) else peer


def _give(out: int, data: bytes) -> bytes:
    """Let a socket have what it has room for; the rest. Raises ConnectionError."""
    try:
        return data[os.write(out, data) :]
    except BlockingIOError:
        return data
    except OSError as error:  # ETIMEDOUT and others are no ConnectionError, and none of the file's
        raise ConnectionResetError("the client is gone") from error


def reason_of(error: ssl.SSLError) -> str:
    """OpenSSL's words, of a certificate also what is wrong with it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (error.reason or str(error)).replace("_", " ").lower()
