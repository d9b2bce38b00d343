"""A bucket of Google Cloud Storage as an ObjectStore, by its JSON API."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from mirror.drivers.advice import Place, coded, fault_of
from mirror.drivers.answers import document, taken_apart
from mirror.drivers.base import Advice, DriverError, Entry, PathNotFoundError
from mirror.drivers.broken import BROKEN, broken
from mirror.drivers.flat import Page
from mirror.drivers.gcsclient import GcsClient
from mirror.drivers.gcserrors import FAULTS, KEYS
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.gcssign import prepare
from mirror.drivers.gcsupload import Sessions
from mirror.drivers.growing import GrowingUpload
from mirror.drivers.manycalls import of_each
from mirror.drivers.objectstore import Body, ChangedError, Meta
from mirror.drivers.paths import is_path
from mirror.drivers.slice import Source

PAGE = 1000  # names; Google gives no more at once
ENTRY_FIELDS = "items(name,size,generation,updated),nextPageToken"
_SIZE = re.compile(r"[0-9]{1,18}")
NAME_FIELDS = "items(name),prefixes,nextPageToken"


class GcsObjects:
    """An ObjectStore."""

    name = "gcs"

    def __init__(self, settings: GcsSettings) -> None:
        """Blocks: reads the key. Raises ValueError."""
        self._settings = settings
        self._client = GcsClient(settings)
        self._uploads = Sessions(self._client, settings.part_size)

    async def open(self) -> None:
        self._client.open()

    async def head(self, path: str) -> Meta:
        url = self._client.objects(path, fields="size,generation,updated")
        return _meta(path, _document(path, (await self._client.call(path, "GET", url)).body))

    async def size_of(self, path: str) -> int:
        return (await self.head(path)).size

    async def get(self, path: str, start: int, version: str = "") -> Body:
        query = {"alt": "media", **({"generation": version} if version else {})}
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            answer = await self._client.get(path, self._client.objects(path, **query), headers)
        except PathNotFoundError as error:
            if version:
                raise ChangedError(path, "was changed or deleted while it was read") from error
            raise
        return _Body(path, answer, start)

    async def put(self, path: str, data: bytes) -> None:
        await self._uploads.put(path, data)

    async def put_file(self, path: str, source: Source) -> None:
        await self._uploads.put_file(path, source)

    def begin(self, path: str, file: Path, size: int) -> GrowingUpload | None:
        return self._uploads.begin(path, file, size)

    async def pages(self, prefix: str, after: str = "") -> AsyncGenerator[Page, None]:
        query = {"startOffset": self._client.key(after)} if after else {}
        async for found, more in self._list(prefix, fields=ENTRY_FIELDS, **query):
            yield Page(self._entries(prefix, found, after), more)

    def _entries(self, prefix: str, found: dict[str, Any], after: str) -> list[Entry]:
        entries = []
        with taken_apart(prefix.rstrip("/")):
            for each in found.get("items", ()):
                path = self._client.path(each["name"])
                if path is not None and is_path(path) and path > after:
                    meta = _meta(path, each)
                    entries.append(Entry(path, meta.size, meta.modified))
        return entries

    async def names(self, folder: str) -> set[str]:
        prefix = f"{folder}/" if folder else ""
        start = len(self._client.key(prefix))
        names: set[str] = set()
        async for found, _ in self._list(prefix, fields=NAME_FIELDS, delimiter="/"):
            with taken_apart(folder):
                keys = [str(each["name"]) for each in found.get("items", ())]
                keys += [each.rstrip("/") for each in found.get("prefixes", ())]
            names.update(key[start:] for key in keys)
        return names

    async def _list(self, prefix: str, **query: Any) -> AsyncGenerator[tuple[dict[str, Any], bool], None]:
        """The answers, and whether another follows."""
        query |= {"prefix": self._client.key(prefix), "maxResults": PAGE}
        folder = prefix.rstrip("/")
        while True:
            try:
                reply = await self._client.call(folder, "GET", self._client.objects(**query))
            except PathNotFoundError as error:
                found = DriverError(folder, "the storage does not list the bucket: 404")
                raise coded(found, "404") from error
            answer = _document(folder, reply.body)
            token = answer.get("nextPageToken")
            if token and token == query.get("pageToken"):
                raise DriverError(folder, "the storage does not say how its listing goes on")
            yield answer, bool(token)
            if not token:
                return
            query["pageToken"] = token

    async def delete(self, doomed: Sequence[str], *, listed: bool = False) -> list[bool]:
        """One by one, some at once: Google says of each whether it was there."""
        return await of_each(self._delete_one, doomed)

    async def _delete_one(self, path: str) -> bool:
        try:
            await self._client.call(path, "DELETE", self._client.objects(path), wanted=(200, 204))
        except PathNotFoundError:
            return False
        return True

    async def presign(self, path: str, seconds: float) -> str:
        login = self._client.login
        email = await login.email(path) if login is not None else ""
        if login is None or not email:
            return ""
        settings, key = self._settings, self._client.key(path)
        unsigned = prepare(settings.endpoint, settings.bucket, key, email, seconds, datetime.now(UTC))
        return f"{unsigned.url}&X-Goog-Signature={await login.sign(path, unsigned.text)}"

    def trouble(self) -> str:
        return self._client.trouble()

    def denials(self) -> int:
        return self._client.denials()

    def advice(self, error: DriverError) -> Advice:
        settings = self._settings
        place = Place(f"bucket {settings.bucket}", settings.endpoint, KEYS)
        return place.advice(fault_of(error, FAULTS))

    def broke(self, error: DriverError) -> None:
        self._client.broke(error)

    async def close(self) -> None:
        await self._uploads.close()
        await self._client.close()


class _Body:
    """A Body."""

    def __init__(self, path: str, answer: aiohttp.ClientResponse, start: int) -> None:
        self._path = path
        self._answer = answer
        headers = answer.headers
        size = size_told(headers, start)
        if size is None:
            answer.close()
            raise DriverError(path, "the storage answered with another range than was asked for")
        self.meta = Meta(size, headers.get("X-Goog-Generation", ""), 0.0)

    async def read(self, limit: int) -> bytes:
        try:
            return await self._answer.content.read(limit)
        except BROKEN as error:
            raise broken(self._path, error) from error

    def close(self) -> None:
        """Read to its end, its connection is used again; else it is closed with it."""
        self._answer.close()


def size_told(headers: Mapping[str, str], start: int) -> int | None:
    """An object's size, by the headers of an answer that is to begin at `start`; None: it does not."""
    whole = headers.get("Content-Range", "").rpartition("/")[2]  # bytes 5-9/10
    told = whole or headers.get("X-Goog-Stored-Content-Length") or headers.get("Content-Length", "")
    return int(told) if bool(whole) == bool(start) and _SIZE.fullmatch(told) else None


def _document(path: str, body: bytes) -> dict[str, Any]:
    found = document(body)
    if found is None:
        raise DriverError(path, "the storage answers with something else than JSON")
    return found


def _meta(path: str, found: dict[str, Any]) -> Meta:
    with taken_apart(path):
        moment = datetime.fromisoformat(found["updated"])
        size = int(found["size"])
        if size < 0:
            raise ValueError(size)
        return Meta(size, str(found.get("generation", "")), float(int(moment.timestamp())))
