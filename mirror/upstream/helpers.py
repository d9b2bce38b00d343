"""Credential helpers, asked as seldom as their answers allow.

One run at a time for one helper and server, shared by all who want its answer; it belongs to the Helpers, not
to the request that began it. An answer is used for its lifetime, or until it is refused; a failure is
remembered for a moment, so that a broken helper is not started by every request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import PurePath

import structlog
from cachetools import LRUCache

from mirror.registry import Unavailable
from mirror.upstream.credentials import Credentials
from mirror.upstream.helperprocess import HelperError, ask

PAUSE = 10.0  # seconds after an answer that was refused, or a failure, before the helper is asked again
KNOWN = 64  # helpers and servers whose answers are kept; one upstream has one, unless its files change

_Key = tuple[tuple[str, ...], str]  # command, server

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one helper and server; times as in `loop.time()`."""

    credentials: Credentials | None = None  # the last ones that it gave
    obtained: float = 0.0
    refused: bool = False  # they were not taken
    failure: str = ""  # why the last run gave none; empty if it did
    failed: float = 0.0

    def usable(self, now: float, lifetime: float | None) -> Credentials | None:
        """Credentials that need no run now. `lifetime` in seconds; None: until they are refused, 0: never."""
        age = now - self.obtained
        if self.credentials is None or lifetime == 0:
            return None
        if self.refused:
            return self.credentials if age < PAUSE else None  # the answer would be the same
        return self.credentials if lifetime is None or age < lifetime else None

    def pause(self, now: float) -> float:
        """Seconds during which a failure is remembered; 0 or less: ask."""
        return self.failed + PAUSE - now if self.failure else 0.0

    def last_resort(self, lifetime: float | None) -> Credentials | None:
        """Credentials that are past their lifetime and were never refused: better than a failure."""
        return None if self.refused or lifetime == 0 else self.credentials


class Helpers:
    """Asks helpers. `lifetime` in seconds; None: until an answer is refused, 0: for every use."""

    def __init__(self, lifetime: float | None) -> None:
        self._lifetime = lifetime
        self._known: LRUCache[_Key, Known] = LRUCache(KNOWN)
        self._runs: dict[_Key, asyncio.Task[Credentials]] = {}
        self._closed = False

    async def get(self, command: tuple[str, ...], server: str) -> Credentials:
        """What the helper has for this server. Raises Unavailable, which names the helper's file only."""
        if self._closed:
            raise Unavailable("the mirror is stopping")
        key = (command, server)
        now, known = asyncio.get_running_loop().time(), self._known.get(key, Known())
        usable = known.usable(now, self._lifetime)
        if usable is None and known.pause(now) > 0:
            usable = known.last_resort(self._lifetime)
            if usable is None:
                raise _unavailable(command, known.failure, known.pause(now))
        return usable if usable is not None else await self._shared(key)

    def refused(self, credentials: Credentials) -> None:
        """These were not taken: the helper that gave them is asked again, unless it was only just asked."""
        for key, known in list(self._known.items()):
            if known.credentials == credentials:
                self._known[key] = replace(known, refused=True)

    async def close(self) -> None:
        """End the helpers that run. Safe to call twice."""
        self._closed = True
        running = list(self._runs.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _shared(self, key: _Key) -> Credentials:
        """The outcome of the run that goes on for this key, or of a new one."""
        task = self._runs.get(key)
        if task is None:
            task = self._runs[key] = asyncio.create_task(self._run(key), name=f"credentials for {key[1]}")
            task.add_done_callback(lambda done: self._ended(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `close`, not this waiter
                raise Unavailable("the mirror is stopping") from None
            raise

    def _ended(self, key: _Key, task: asyncio.Task[Credentials]) -> None:
        del self._runs[key]
        if not task.cancelled():
            task.exception()  # its waiters may have left

    async def _run(self, key: _Key) -> Credentials:
        """Ask now, and remember what came of it. Raises Unavailable."""
        command, server = key
        time = asyncio.get_running_loop().time
        started = time()
        try:
            credentials = await ask(command, server)
        except HelperError as error:
            _log.warning("upstream.helper.failed", helper=_name(command), server=server, cause=error.cause)
            known = replace(self._known.get(key, Known()), failure=str(error), failed=time())
            self._known[key] = known
            kept = known.last_resort(self._lifetime)
            if kept is None:
                raise _unavailable(command, known.failure, PAUSE) from error
            return kept
        now = time()
        self._known[key] = Known(credentials, now)
        _log.debug(
            "upstream.helper.answered",
            helper=_name(command),
            server=server,
            found=not credentials.is_empty,
            duration_ms=round((now - started) * 1000),
        )
        return credentials


class Helper:
    """A Source: one configured helper."""

    def __init__(self, command: tuple[str, ...], lifetime: float | None) -> None:
        self._command = command
        self._helpers = Helpers(lifetime)

    async def get(self, host: str) -> Credentials:
        """What it has for this host, which it is given as registry:3 does. Raises Unavailable."""
        return await self._helpers.get(self._command, host)

    def refused(self, credentials: Credentials) -> None:
        """Ask it again."""
        self._helpers.refused(credentials)

    async def close(self) -> None:
        """End it if it runs."""
        await self._helpers.close()


def _name(command: tuple[str, ...]) -> str:
    """The file's name: arguments may be secret, and folders are nobody's business."""
    return PurePath(command[0]).name


def _unavailable(command: tuple[str, ...], failure: str, pause: float) -> Unavailable:
    return Unavailable(f"the credential helper {_name(command)} {failure}", retry_after=pause)
