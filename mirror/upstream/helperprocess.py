"""One run of a credential helper: a program of docker's credential helper protocol.

`COMMAND get` reads the server's name from its input and writes {"ServerURL", "Username", "Secret"} to its
output. The username `<token>` marks an identity token. "credentials not found in native keychain", with an
exit status other than 0, means that there are none. Source: docker/docker-credential-helpers, "Development".

What it writes is secret, or may be: no text made here repeats its output, and of its errors the log gets a
little, with whatever looks like a secret hidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import Sequence
from typing import cast

from mirror.upstream.credentials import ANONYMOUS, Credentials

RUN_SECONDS = 30.0  # from the start to the end; a cloud's metadata service takes some 5 s at its worst
LINGER_SECONDS = 1.0  # for output after the program has ended: a child of it may keep the pipe open
REAP_SECONDS = 5.0  # for a killed program to be gone
OUTPUT_LIMIT = 64 << 10  # bytes; tokens have some 4 KiB
CHATTER_LIMIT = 1 << 20  # bytes of output and errors together
ERRORS_KEPT = 2 << 10  # bytes, the first
ERRORS_TOLD = 400  # characters of them that get into the log

_NOT_FOUND = b"credentials not found in native keychain"
_TOKEN_USER = "<token>"  # noqa: S105 - a name, no secret
_HIDDEN = "REDACTED"
_LABELLED = re.compile(
    r"""(?ix) ([\w-]*(?:secret|passw|pwd|token|auth|key|credential)[\w-]*["']?\s*[:=]\s*)
    (?:(?:basic|bearer)\s+)? (?:"[^"]*"? | '[^']*'? | \S+)"""
)
_OPAQUE = re.compile(r"[\w+/=-]{32,}")  # no word of a language


class HelperError(Exception):
    """A run that gave nothing. `str()` is for a client, read after the helper's name; `cause` for the log."""

    def __init__(self, text: str, cause: str = "") -> None:
        self.cause = cause or text
        super().__init__(text)


class _Run(asyncio.SubprocessProtocol):
    """What a running helper says."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self.over = asyncio.Event()  # everything was said, or too much
        self.gone = asyncio.Event()
        self._received = 0

    @property
    def flooded(self) -> bool:
        """Whether it said too much."""
        return len(self.output) > OUTPUT_LIMIT or self._received > CHATTER_LIMIT

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept, limit = (self.output, OUTPUT_LIMIT + 1) if fd == 1 else (self.errors, ERRORS_KEPT)
        kept += data[: limit - len(kept)]
        self._received += len(data)
        if self.flooded:
            self.over.set()

    def process_exited(self) -> None:
        self.gone.set()
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.over.set)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, and so have its pipes."""
        self.over.set()


async def ask(command: Sequence[str], server: str) -> Credentials:
    """What the helper has for this server. Raises HelperError.

    The program is gone when this returns or raises, whatever the reason; if it had to be ended, so are its
    children, unless they left its process group.
    """
    starting = asyncio.create_task(_start(command))
    try:
        transport, run = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(HelperError):
            await _end(*await starting)  # NB: the library would leave the children of a half-started program
        raise
    try:
        async with asyncio.timeout(RUN_SECONDS):
            _say(transport, server)
            await run.over.wait()
    except TimeoutError:
        raise HelperError(f"did not answer within {RUN_SECONDS:g} s", _with(run, "timed out")) from None
    finally:
        status = transport.get_returncode()
        await _end(transport, run)
    if run.flooded:
        raise HelperError("answered with more than can be right", _with(run, "wrote too much"))
    assert status is not None, "it ends before its pipes do, or by `_end`"
    try:
        return read(status, bytes(run.output))
    except HelperError as error:
        raise HelperError(str(error), _with(run, error.cause)) from error.__cause__


def read(status: int, output: bytes) -> Credentials:
    """The answer of a helper that ended with this exit status (negative: by a signal). Raises HelperError."""
    if status != 0:
        if output.strip() == _NOT_FOUND:
            return ANONYMOUS
        how = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise HelperError("failed", f"ended with {how}")
    try:
        answer = json.loads(output)
        username, secret = answer.get("Username", ""), answer.get("Secret", "")
    except (ValueError, AttributeError, RecursionError):
        # No cause: a JSON error holds the document.
        raise HelperError("answered with nonsense", "its answer is not a JSON object") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise HelperError("answered with nonsense", "its Username or Secret is not a text")
    if bool(username) != bool(secret):
        raise HelperError("answered with nonsense", "its Username or its Secret is empty")
    return Credentials(identity_token=secret) if username == _TOKEN_USER else Credentials(username, secret)


async def _start(command: Sequence[str]) -> tuple[asyncio.SubprocessTransport, _Run]:
    """Raises HelperError."""
    try:
        return await asyncio.get_running_loop().subprocess_exec(_Run, *command, "get", start_new_session=True)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the command
        reason = getattr(error, "strerror", None) or "not a command"
        raise HelperError("cannot be started", f"cannot be started: {reason}") from error


def _say(transport: asyncio.SubprocessTransport, server: str) -> None:
    # uvloop's transports are none of asyncio's by inheritance.
    stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    stdin.write(server.encode())
    stdin.write_eof()


async def _end(transport: asyncio.SubprocessTransport, run: _Run) -> None:
    """Kill what still runs, wait until it is reaped, and close the pipes."""
    try:
        if transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)  # its own group: it began a session
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REAP_SECONDS):
                    await run.gone.wait()
    finally:
        transport.close()


def _with(run: _Run, cause: str) -> str:
    """The cause, and what the helper wrote to its errors, in one line without secrets."""
    words = " ".join(run.errors.decode(errors="replace").split())
    words = "".join(letter for letter in words if letter.isprintable())
    words = _OPAQUE.sub(_HIDDEN, _LABELLED.sub(rf"\1{_HIDDEN}", words))[:ERRORS_TOLD]
    return f"{cause}; it says: {words}" if words else cause
