"""The driver on an object store that is not S3: a StorageDriver made of an ObjectStore.

Its rules are those of `s3`: an object appears whole, with one step, and is durable then; there are no
folders; each verb is one request where that can be; each failure names the path and the cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from mirror.drivers import paths
from mirror.drivers.base import (
    Advice,
    DeniedError,
    DriverError,
    Elsewhere,
    Incoming,
    Info,
    OpenFile,
    PathNotFoundError,
)
from mirror.drivers.flatdriver import FlatDriver
from mirror.drivers.growing import GrowingUpload
from mirror.drivers.objectfile import ObjectFile
from mirror.drivers.objectstore import BehindError, Body, ObjectStore
from mirror.drivers.remote import check_file, check_writable, open_source, remove_source
from mirror.drivers.urls import Urls

AT_ONCE = 16  # small files read at the same time
BATCH = 1000  # objects that are deleted in one go
DENIED = 600.0  # seconds for which no URL is asked for, after one was denied

log = structlog.get_logger()


class ObjectsDriver(FlatDriver):
    """A StorageDriver. `presigned`: seconds that URLs for clients work; 0: clients are given none."""

    def __init__(self, store: ObjectStore, presigned: float) -> None:
        self.name = store.name
        self._store = store
        self._redirects = presigned > 0
        super().__init__(store.pages, Urls(Signer(store), presigned))

    async def start(self) -> None:
        await self._store.open()

    def trouble(self) -> str:
        return self._store.trouble()

    def denials(self) -> int:
        return self._store.denials()

    def advice(self, error: DriverError) -> Advice:
        return self._store.advice(error)

    async def get_many(self, wanted: Sequence[str], limit: int, total: int) -> list[bytes | DriverError]:
        """Asked for at once are AT_ONCE; read are only those that the answers' sizes leave room for."""
        answers = await asyncio.gather(*(self._ask(path) for path in wanted[:AT_ONCE]))
        found: list[bytes | DriverError] = []
        try:
            for path, answer in zip(wanted, answers, strict=False):
                if found and total <= 0:
                    break
                found.append(await self._read(path, answer, limit))
                total -= len(found[-1]) if isinstance(found[-1], bytes) else 0
        finally:
            for answer in answers:
                if not isinstance(answer, DriverError):
                    answer.close()
        return found

    async def _ask(self, path: str) -> Body | DriverError:
        try:
            check_file(path)
            return await self._store.get(path, 0)
        except DriverError as error:
            return error

    async def _read(self, path: str, answer: Body | DriverError, limit: int) -> bytes | DriverError:
        if isinstance(answer, DriverError):
            return answer
        if answer.meta.size > limit:
            return DriverError(path, f"has {answer.meta.size} bytes, more than the {limit} allowed")
        file = ObjectFile(self._store, path, answer, 0)
        try:
            return b"".join([chunk async for chunk in file.chunks(0, file.size)])
        except DriverError as error:
            return error
        finally:
            await file.close()

    async def put(self, path: str, data: bytes) -> None:
        check_writable(path)
        await self._store.put(path, data)
        self._urls.forget(path)

    def incoming(self, source: Path, path: str, size: int) -> Incoming | None:
        return self._store.begin(path, source, size)

    async def move_in(self, source: Path, path: str, incoming: Incoming | None = None) -> None:
        check_writable(path)
        file = await open_source(source, path)
        if not isinstance(incoming, GrowingUpload) or not await incoming.is_completed(file.size):
            await self._store.put_file(path, file)
        self._urls.forget(path)
        await remove_source(path, source)

    async def open(self, path: str, start: int = 0) -> OpenFile:
        """One GET, from `start` on. What is then read from elsewhere in the file costs another."""
        check_file(path)
        if start:
            with contextlib.suppress(BehindError):
                return ObjectFile(self._store, path, await self._store.get(path, start), start)
        return ObjectFile(self._store, path, await self._store.get(path, 0), 0)

    async def elsewhere(self, path: str) -> Elsewhere | None:
        if not self._redirects:
            return None
        check_file(path)
        if self.trouble():
            self._urls.forget(path)  # clients would find it as we do
        found = await self._urls.get(path)
        return found if found.url else None

    async def stat(self, path: str) -> Info:
        paths.split(path)
        if not path:
            async with contextlib.aclosing(self._store.pages("")) as pages:
                async for _ in pages:  # whether it answers
                    break
            return Info(0, True, 0.0)
        with contextlib.suppress(PathNotFoundError):
            found = await self._store.head(path)
            return Info(found.size, False, found.modified)
        async with contextlib.aclosing(self._store.pages(f"{path}/")) as pages:
            async for page in pages:
                if page.entries:
                    return Info(0, True, 0.0)
        raise PathNotFoundError(path)

    async def list(self, path: str) -> list[str]:
        paths.split(path)
        names = sorted(name for name in await self._store.names(path) if paths.is_name(name))
        if not names and path:
            raise PathNotFoundError(path)
        return names

    async def _remove(self, doomed: Sequence[str], listed: bool) -> Sequence[bool]:
        once = list(dict.fromkeys(doomed))
        gone: dict[str, bool] = {}
        for start in range(0, len(once), BATCH):
            some = once[start : start + BATCH]
            found = await self._store.delete(some, listed=listed)
            gone.update(dict.fromkeys(some, True) if listed else zip(some, found, strict=True))
        return [gone[path] or await self._remove_tree(path) for path in doomed]

    async def _remove_tree(self, path: str) -> bool:
        found = False
        async with contextlib.aclosing(self._store.pages(f"{path}/")) as pages:
            async for page in pages:
                found = found or bool(page.entries)
                if page.entries:
                    await self._store.delete([entry.path for entry in page.entries], listed=True)
        return found

    async def sweep(self, before: float) -> int:
        """Nothing: both clouds forget what was begun and not completed within a week, and never show it."""
        return 0

    async def close(self) -> None:
        await self._store.close()


class Signer:
    """As urls.Signer; where no URL can be signed there is none, and clients get the bytes from us."""

    def __init__(self, store: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock  # in seconds
        self._until = 0.0  # it is not tried before

    async def size_of(self, path: str) -> int:
        return await self._store.size_of(path)

    async def life(self, path: str, seconds: float) -> float:
        return seconds

    async def presign(self, path: str, seconds: float) -> str:
        if self._clock() < self._until:
            return ""
        try:
            return await self._store.presign(path, seconds)
        except DeniedError as error:
            self._until = self._clock() + DENIED
            log.warning("storage.unsigned", cause=error.cause)
            return ""
