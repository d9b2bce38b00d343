"""The mirror's own commands ask the running mirror: over a Unix socket below its data folder, by HTTP.

Who owns that folder may ask (mode 0600: the mirror's user, and root); nothing is to be had on the network.
The mirror serves without it: whatever stands in the way of the socket is told in the log, and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from mirror import jsontext
from mirror.oci.reference import ImageError
from mirror.registry import RegistryError
from mirror.server import listening
from mirror.server.connections import HEADS, Door, bounded
from mirror.server.limits import Limits
from mirror.server.operations import Operate, Operations

SOCKET = Path("mirror", "control.sock")  # below the root directory
MODE = 0o600  # who may ask: the mirror's user, and root
CONNECTIONS = 16  # at once; further ones are closed
BACKLOG = 16  # connections waiting to be accepted
HEAD_TIMEOUT = 10.0  # seconds until a connection has asked for something
EXPLAIN_TIMEOUT = 20.0  # seconds; what is told is known already, or lies on the disk
ANSWER_LIMIT = 1 << 20  # bytes; an index of hundreds of platforms has some tens of KiB
LOOK = 10.0  # seconds between two looks at whether the socket still has its name
STOP_TIMEOUT = 1.0  # seconds that answers under way have at the end

# An image as people type it -> what the mirror knows of it. Raises ImageError, and RegistryError for an image
# that is not served here.
Explain = Callable[[str], Awaitable[dict[str, Any]]]

log = structlog.get_logger()


@asynccontextmanager
async def control(path: Path, explain: Explain, operate: Operate | None = None) -> AsyncGenerator[None, None]:
    """Answer at the socket `path` until the end of the block; without it where that cannot be had.

    An operation that is under way at the end is stopped, and has ended then.
    """
    operations = Operations(operate) if operate is not None else None
    async with contextlib.AsyncExitStack() as stack:
        try:
            made = await asyncio.to_thread(opened, path)
        except OSError as error:
            log.warning("control.off", path=str(path), reason=_reason(error))
        else:
            await stack.enter_async_context(_serving(path, made, explain, operations))
        yield


def build(explain: Explain, operations: Operations | None = None) -> web.Application:
    """`GET /explain?image=...` -> JSON; failures are `{"error": text}` with 400, 404 and so on.

    `POST /garbage-collect` and so on: see `operations`.
    """

    async def handle(request: web.Request) -> web.Response:
        image = request.query.get("image", "")
        log.debug("control.explain", image=image)
        try:
            async with asyncio.timeout(EXPLAIN_TIMEOUT):
                return _json(200, await explain(image))
        except ImageError as error:
            return _json(400, {"error": str(error)})
        except RegistryError as error:
            return _json(error.status, {"error": error.message})
        except TimeoutError:
            return _json(504, {"error": f"no answer within {EXPLAIN_TIMEOUT:g} s: the disk may hang"})
        except Exception:  # a defect: told whole in the log
            log.exception("control.failed", image=image)
            return _json(500, {"error": "internal error, see the log of the mirror"})

    application = web.Application(client_max_size=0, middlewares=[bounded])
    application[HEADS] = {}
    application.router.add_get("/explain", handle)
    if operations is not None:
        operations.add_to(application.router)
    return application


def opened(path: Path) -> socket.socket:
    """A socket of ours at `path` that listens. Blocks. Raises OSError.

    One that a dead process left is replaced; one at which somebody answers is not, nor is any other file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = listening.bound(path, MODE)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        text = "another mirror runs on this folder, and answers there"
        raise OSError(errno.EADDRINUSE, text) from error
    made.listen(BACKLOG)  # only now can anybody connect
    return made


@asynccontextmanager
async def _serving(
    path: Path, made: socket.socket, explain: Explain, operations: Operations | None
) -> AsyncGenerator[None, None]:
    runner = web.AppRunner(
        build(explain, operations),
        access_log=None,
        keepalive_timeout=HEAD_TIMEOUT,
        shutdown_timeout=STOP_TIMEOUT,
        handler_cancellation=True,  # who has left wants no answer, and stops the operation
    )
    await runner.setup()
    try:
        assert runner.server is not None
        limits = Limits(CONNECTIONS, CONNECTIONS, head_timeout=HEAD_TIMEOUT)
        door = Door(runner.server, limits, runner.app[HEADS])
        spot = _Spot(path, door)
        await spot.listen(made)
        watching = asyncio.create_task(spot.watch())
        try:
            yield
        finally:
            watching.cancel()
            spot.close()
            if operations is not None:
                await operations.close()
            await asyncio.wait([watching])
    finally:
        made.close()
        await runner.cleanup()


class _Spot:
    """Where we are asked. Once somebody has deleted the socket there is another; who is connected stays."""

    def __init__(self, path: Path, door: Door) -> None:
        self._path = path
        self._door = door
        self._inode: int | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, made: socket.socket) -> None:
        """Accept connections."""
        self._inode = listening.inode(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(self._door.admit, sock=made)

    async def watch(self) -> None:
        """Look now and then whether the socket is there still, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            if await asyncio.to_thread(listening.inode, self._path) != self._inode:
                made = await _opened_again(self._path)
                if self._server is not None:
                    self._server.close()
                await self.listen(made)
                log.warning("control.replaced", path=str(self._path), reason="the socket was deleted")

    def close(self) -> None:
        """Accept no more."""
        if self._server is not None:
            self._server.close()
        listening.remove(self._path, self._inode)


async def _opened_again(path: Path) -> socket.socket:
    """As `opened`, as soon as that can be had; what stands in the way is told once."""
    told = False
    while True:
        try:
            return await asyncio.to_thread(opened, path)
        except OSError as error:
            if not told:
                log.warning("control.off", path=str(path), reason=_reason(error))
                told = True
        await asyncio.sleep(LOOK)


def _json(status: int, content: dict[str, Any]) -> web.Response:
    """The answer; one that no program of ours would read whole is an error."""
    body = jsontext.encoded(content, default=str)
    if len(body) > ANSWER_LIMIT:
        status, body = 500, b'{"error": "the answer is too large"}'
    return web.Response(status=status, body=body, content_type="application/json")


def _reason(error: OSError) -> str:
    """The library has no number for a path that does not fit into sockaddr_un (107 bytes, unix(7))."""
    return error.strerror or str(error)
