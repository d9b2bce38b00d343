"""An Azure blob container as an ObjectStore: by obstore, but for what is put there, which is `azuresending`.

A blob is put with one request, or in blocks of which the list is committed last: it appears whole either
way. Blocks that are never committed are never seen, and Azure forgets them after a week. What is put has its
MD5 with it: Azure refuses what arrives otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore

from mirror.drivers.advice import Place, fault_of
from mirror.drivers.azureclient import SILENCE, AzureClient
from mirror.drivers.azureerrors import ERRORS, FAULTS, failure, keys
from mirror.drivers.azuresending import WHOLE
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import Advice, DriverError, Entry, PathNotFoundError
from mirror.drivers.flat import Page
from mirror.drivers.growing import GrowingUpload, Uploads
from mirror.drivers.manycalls import of_each
from mirror.drivers.objectstore import Body, Meta
from mirror.drivers.paths import is_path
from mirror.drivers.slice import Slice, Source
from mirror.drivers.storeclient import time_for

PAGE = 1000  # names that a listing gives at once
BLOCK = 4 << 20  # bytes; distribution's own size
MOST_BLOCKS = 50_000  # of one blob; Azure's limit
BLOCKS_AT_ONCE = 3  # of one blob; they are read while they are sent: in memory is what the sockets take
READ_AHEAD = 256 << 10  # bytes that are taken from the network at once


class AzureObjects:
    """An ObjectStore."""

    name = "azure"

    def __init__(self, settings: AzureSettings) -> None:
        self._client = AzureClient(settings)
        self._store = self._client.store
        self._is_guest = bool(settings.shared_access)
        self._place = Place(f"container {settings.container}", settings.endpoint, keys(settings))
        self._uploads = Uploads(self._send, BLOCK)

    async def open(self) -> None:
        """Nothing: connections are made when they are needed."""

    async def head(self, path: str) -> Meta:
        key = self._client.key(path)
        return _meta(await self._client.call(path, lambda: obstore.head_async(self._store, key)))

    async def size_of(self, path: str) -> int:
        return (await self.head(path)).size

    async def get(self, path: str, start: int, version: str = "") -> Body:
        options: dict[str, Any] = {}
        if start:
            options["range"] = {"offset": start}
        if version:
            options["if_match"] = version
        key, readers = self._client.key(path), self._client.readers
        return _Body(
            path,
            await self._client.call(
                path,
                lambda: obstore.get_async(readers, key, options=options),  # type: ignore[arg-type]
            ),
        )

    async def put(self, path: str, data: bytes) -> None:
        key, sending = self._client.key(path), self._client.sending
        if len(data) <= WHOLE:
            await self._client.call(path, lambda: sending.put(key, data))
            return
        name = uuid4().hex
        await self._stage(path, name, data)
        await self._client.call(path, lambda: sending.commit(key, [name]))

    async def put_file(self, path: str, source: Source) -> None:
        await self._uploads.put_file(path, source)

    def begin(self, path: str, file: Path, size: int) -> GrowingUpload | None:
        return self._uploads.begin(path, file, size)

    async def _send(self, upload: GrowingUpload) -> None:
        """Some blocks at once; which of them are the blob is said last. Their names are this upload's own."""
        if upload.size <= WHOLE:
            await self.put(upload.path, await upload.piece(0, upload.size))
            return
        size = max(BLOCK, -(-upload.size // MOST_BLOCKS))
        own = uuid4().hex
        names = {start: f"{own}{start:016x}" for start in range(0, upload.size, size)}
        left = iter(names.items())

        async def some() -> None:
            for start, name in left:
                part = await upload.part(start, min(start + size, upload.size))
                await self._stage(upload.path, name, part)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(BLOCKS_AT_ONCE):
                    group.create_task(some())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        key, sending = self._client.key(upload.path), self._client.sending
        await self._client.call(upload.path, lambda: sending.commit(key, list(names.values())))

    async def _stage(self, path: str, name: str, data: bytes | Slice) -> None:
        key, sending = self._client.key(path), self._client.sending
        await self._client.call(path, lambda: sending.stage(key, name, data), limit=time_for(len(data)))

    async def pages(self, prefix: str, after: str = "") -> AsyncGenerator[Page, None]:
        """NB: Azure's listings begin at their beginning: to leave anything out would save nothing."""
        folder = prefix.rpartition("/")[0]  # obstore's prefixes are folders
        listing = obstore.list(self._store, self._client.key(folder) or None, chunk_size=PAGE).__aiter__()
        while True:
            try:
                some = await self._client.call(folder, lambda: anext(listing))
            except StopAsyncIteration:
                return
            entries = []
            for each in some:
                path = self._client.path(each["path"])
                if path is not None and is_path(path) and path.startswith(prefix) and path > after:
                    meta = _meta(each)
                    entries.append(Entry(path, meta.size, meta.modified))
            yield Page(entries, more=False)

    async def names(self, folder: str) -> set[str]:
        prefix = self._client.key(f"{folder}/" if folder else "")
        found = await self._client.call(
            folder, lambda: obstore.list_with_delimiter_async(self._store, prefix.rstrip("/") or None)
        )
        keys = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return {key[len(prefix) :] for key in keys}

    async def delete(self, doomed: Sequence[str], *, listed: bool = False) -> list[bool]:
        """In batches, of what is there."""
        if len(doomed) == 1:
            return [await self._delete_one(doomed[0])]
        there = [True] * len(doomed) if listed else await of_each(self._is_there, doomed)
        some = [path for path, is_there in zip(doomed, there, strict=True) if is_there]
        if some:
            keys = [self._client.key(path) for path in some]
            try:
                await self._client.call(
                    some[0], lambda: obstore.delete_async(self._store, keys), limit=30 + len(some) / 10
                )
            except PathNotFoundError:  # one of them went meanwhile, and the others may not have been tried
                await of_each(self._delete_one, some)
        return there

    async def _delete_one(self, path: str) -> bool:
        key = self._client.key(path)
        try:
            await self._client.call(path, lambda: obstore.delete_async(self._store, key))
        except PathNotFoundError:
            return False
        return True

    async def _is_there(self, path: str) -> bool:
        try:
            await self.head(path)
        except PathNotFoundError:
            return False
        return True

    async def presign(self, path: str, seconds: float) -> str:
        """A shared access signature for reading: by the account's key, or a key that Azure gives us.

        Who has no more than such a signature himself can make none.
        """
        if self._is_guest:
            return ""
        key, life = self._client.key(path), timedelta(seconds=seconds)
        return await self._client.call(path, lambda: obstore.sign_async(self._store, "GET", key, life))

    def trouble(self) -> str:
        return self._client.trouble()

    def denials(self) -> int:
        return self._client.denials()

    def advice(self, error: DriverError) -> Advice:
        return self._place.advice(fault_of(error, FAULTS))

    def broke(self, error: DriverError) -> None:
        self._client.broke(error)

    async def close(self) -> None:
        await self._uploads.close()
        await self._client.close()


class _Body:
    """A Body. What obstore gives at once may be more than is asked for: the rest waits here."""

    def __init__(self, path: str, answer: Any) -> None:
        self.meta = _meta(answer.meta)
        self._path = path
        self._stream: Any = answer.stream(min_chunk_size=READ_AHEAD)
        self._rest = memoryview(b"")

    async def read(self, limit: int) -> bytes:
        try:
            while not self._rest and self._stream is not None:
                async with asyncio.timeout(2 * SILENCE):
                    self._rest = memoryview(await anext(self._stream))
        except StopAsyncIteration:
            return b""
        except (TimeoutError, *ERRORS) as error:
            raise failure(self._path, error) from error
        data = bytes(self._rest[:limit])
        self._rest = self._rest[limit:]
        return data

    def close(self) -> None:
        """The connection is closed when the stream goes."""
        self._stream, self._rest = None, memoryview(b"")


def _meta(found: Any) -> Meta:
    return Meta(int(found["size"]), found["e_tag"] or "", float(int(found["last_modified"].timestamp())))
