"""Long operations for the mirror's own commands: collection, verification, purge; told line by line.

What the operation does is given by the composition root; here is how it is run and told:

1. One at a time: a second one is refused with 409, for both would do the same work. But a purge goes on
   beside the others, which take hours: what must not be there any more cannot wait for them.
2. An option that this version does not know is refused: a `dry_run` that is overlooked would delete.
3. Whoever asked may leave at any time. The step under way is let finish, the next does not begin.
4. It is told as it happens, at the pace of whoever asked; who takes nothing for a long time has left.
5. What is found damaged stands in the log too: who asked may be a cron job.
6. Each answer ends with one `summary` or `error`, which is sent when the operation has let go of everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

import structlog
from aiohttp import web

from mirror import jsontext
from mirror.oci.reference import ImageError
from mirror.registry import RegistryError

HEARTBEAT = 10.0  # seconds without news, after which a line says that it goes on
TAKE_TIMEOUT = 300.0  # seconds for one line to be taken: somebody may look at a page of a pager
GRACE = 5.0  # seconds that the step under way has when it is to stop; most are one file
WAITING = 16  # events between the operation and who asked for it
LINE_LIMIT = 64 << 10  # bytes of one event; names have some hundreds
VALUE_LIMIT = 1024  # characters of an option; an image reference has fewer

FLAGS: Final = ("dry_run", "delete_untagged")
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "garbage-collect": FLAGS,
    "verify": (),
    "purge": ("what",),
}
BRIEF: Final = ("purge",)  # goes on beside another operation
LAST: Final = ("summary", "error")  # events that end an answer

Event = dict[str, Any]  # "event" says what: progress, removed, bad, found, heartbeat, summary, error

# The operation's name and options -> its events. May raise ImageError, RegistryError and OSError; closing it
# stops the operation.
Operate = Callable[[str, Mapping[str, str]], AsyncGenerator[Event, None]]

log = structlog.get_logger()


class Operations:
    """`POST /<operation>?option=...` -> lines of JSON. Close it when nobody can ask any more."""

    def __init__(self, operate: Operate) -> None:
        self._operate = operate
        self._running: dict[str, _Running] = {}  # one that may take long, and one purge

    def add_to(self, router: web.UrlDispatcher) -> None:
        """One route for each operation."""
        for operation in OPTIONS:
            router.add_post(f"/{operation}", self.handle, name=operation)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """NB: aiohttp must cancel this when the client leaves: see `handler_cancellation`."""
        operation = request.path.removeprefix("/")
        try:
            options = _options(operation, request)
        except ValueError as error:
            return _refused(400, str(error))
        kind = operation if operation in BRIEF else "long"
        if kind in self._running:
            text = f"{self._running[kind].operation} is under way already: try again when it has ended"
            return _refused(409, text)
        running = self._running[kind] = _Running(operation, options, self._operate(operation, options))
        running.task.add_done_callback(lambda _task: self._running.pop(kind))
        try:
            return await _tell(request, running)
        finally:
            running.stop("left")

    async def close(self) -> None:
        """Stop what is under way, and say so to who asked for it."""
        under_way = list(self._running.values())
        for running in under_way:
            running.stop("stopped", "the mirror is stopping; what was done so far stays done")
        await asyncio.gather(*(running.task for running in under_way), return_exceptions=True)


class _Running:
    """One operation: a task of its own, so that nothing of it hangs on who asked for it."""

    def __init__(
        self, operation: str, options: Mapping[str, str], events: AsyncGenerator[Event, None]
    ) -> None:
        self.operation = operation
        self._options, self._source = options, events
        self.events: asyncio.Queue[Event] = asyncio.Queue(WAITING)
        self._stopped = ""  # why
        self.task = asyncio.create_task(self._run())

    def stop(self, outcome: str, farewell: str = "") -> None:
        """Begin no further step; `farewell` is the last that who asked is told. Does nothing at the end."""
        if self.task.done() or self._stopped:
            return
        self._stopped = outcome
        while not self.events.empty():  # so that what waits to put something there goes on
            self.events.get_nowait()
        if farewell:
            self.events.put_nowait(_failed(farewell))
        asyncio.get_running_loop().call_later(GRACE, self.task.cancel)

    async def _run(self) -> None:
        began = time.monotonic()
        log.info("operation.started", operation=self.operation, options=dict(self._options))
        last = _failed("it ended without a result: see the log of the mirror")
        try:
            last = await self._steps() or last
        except (ImageError, RegistryError, OSError) as error:
            last = _failed(error.message if isinstance(error, RegistryError) else str(error))
        except Exception:  # a defect: told whole in the log, as nobody else waits for this task
            log.exception("operation.failed", operation=self.operation)
            last = _failed("internal error, see the log of the mirror")
        finally:
            log.info(
                "operation.ended",
                operation=self.operation,
                outcome=self._stopped or last["event"],
                seconds=round(time.monotonic() - began, 3),
                result={} if self._stopped else {name: last[name] for name in last if name != "event"},
            )
        if not self._stopped:
            await self.events.put(last)

    async def _steps(self) -> Event | None:
        """All events but the last, which is returned. The operation is closed at the end of this."""
        last = None
        async with contextlib.aclosing(self._source) as source:
            async for event in source:
                if event.get("event") in LAST:
                    last = event
                elif not self._stopped:
                    await self.events.put(event)
                if event.get("event") == "bad":
                    _log_bad(event)
                if self._stopped:
                    break
        return last


def _log_bad(event: Event) -> None:
    if event.get("kind") == "link":  # who reads it tells so: store.link.broken
        return
    told = {name: event[name] for name in event if name not in ("event", "name", "digest")}
    log.error("scrub.bad", digest=event.get("name"), **told)


async def _tell(request: web.Request, running: _Running) -> web.StreamResponse:
    """Every event as a line, and a heartbeat where there is none for a time."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    event: Event = {}
    while event.get("event") not in LAST:
        try:
            async with asyncio.timeout(HEARTBEAT):
                event = await running.events.get()
        except TimeoutError:
            event = {"event": "heartbeat"}
        line = _line(event)
        if len(line) > LINE_LIMIT:
            line = _line(event := _failed("what there is to tell is too long"))
        try:
            async with asyncio.timeout(TAKE_TIMEOUT):
                await response.write(line)
        except (TimeoutError, ConnectionError) as error:
            log.info("operation.not_taken", operation=running.operation, reason=str(error) or "time-out")
            if request.transport is not None:
                request.transport.abort()
            return response
    await response.write_eof()
    return response


def _options(operation: str, request: web.Request) -> dict[str, str]:
    """All options of the operation; flags are `true` or `false`. Raises ValueError."""
    known = OPTIONS[operation]
    given = request.query
    for name in given:
        if name not in known:
            raise ValueError(f"the running mirror knows no option {name[:VALUE_LIMIT]!r} of {operation}")
        if len(given.getall(name)) > 1:
            raise ValueError(f"{name}: given twice")
    return {name: _value(name, given.get(name)) for name in known}


def _value(name: str, text: str | None) -> str:
    if name in FLAGS:
        if text not in (None, "true", "false"):
            raise ValueError(f"{name}: got {text[:VALUE_LIMIT]!r}, wanted true or false")
        return text or "false"
    if not text or len(text) > VALUE_LIMIT:
        raise ValueError(f"{name}: wanted a value of at most {VALUE_LIMIT} characters")
    return text


def _failed(text: str) -> Event:
    return {"event": "error", "error": text}


def _line(event: Event) -> bytes:
    return jsontext.encoded(event, default=str) + b"\n"


def _refused(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
