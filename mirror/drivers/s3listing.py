"""What is in the bucket: one request for each thousand keys."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from mirror.drivers import paths
from mirror.drivers.advice import coded
from mirror.drivers.answers import taken_apart
from mirror.drivers.base import DriverError, Entry, PathNotFoundError
from mirror.drivers.flat import Page
from mirror.drivers.s3client import S3Client

PAGE = 1000  # keys; no server gives more at once
AT_ONCE = 16  # questions for sizes that a listing does not tell


def modified(answer: Any) -> float:
    """Whole seconds since the epoch: HEAD says no more, and both must say the same."""
    return float(int(answer["LastModified"].timestamp()))


class Listing:
    """The listings of one bucket. What is no path of ours is passed over."""

    def __init__(self, client: S3Client, *, hidden_sizes: bool = False) -> None:
        """`hidden_sizes`: what seems to be empty is asked for its size: so are Swift's large objects."""
        self._client = client
        self._hidden_sizes = hidden_sizes

    async def pages(self, prefix: str, after: str = "") -> AsyncGenerator[Page, None]:
        """All files whose path begins with `prefix` and sorts behind `after`. Raises DriverError."""
        parameters: dict[str, Any] = {"StartAfter": self._client.key(after)} if after else {}
        token: str | None = None
        while True:
            answer = await self._list(prefix, **parameters)
            token = _token(prefix, answer, token)
            entries = self._entries(prefix, answer)
            if self._hidden_sizes:
                await self._measure(entries)
            yield Page(entries, token is not None)
            if token is None:
                return
            parameters = {"ContinuationToken": token}

    def _entries(self, prefix: str, answer: Any) -> list[Entry]:
        entries = []
        with taken_apart(prefix.rstrip("/")):
            for each in answer.get("Contents", ()):
                path = self._client.path(each["Key"])
                if path is not None and paths.is_path(path):
                    if each["Size"] < 0:
                        raise ValueError(path)
                    entries.append(Entry(path, each["Size"], modified(each)))
        return entries

    async def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted. Raises PathNotFoundError."""
        prefix = f"{folder}/" if folder else ""
        start = len(self._client.key(prefix))
        found: set[str] = set()
        parameters: dict[str, Any] = {}
        token: str | None = None
        while True:
            answer = await self._list(prefix, Delimiter="/", **parameters)
            with taken_apart(folder):
                keys = [each["Key"] for each in answer.get("Contents", ())]
                keys += [each["Prefix"].rstrip("/") for each in answer.get("CommonPrefixes", ())]
            found.update(key[start:] for key in keys)
            token = _token(prefix, answer, token)
            if token is None:
                break
            parameters = {"ContinuationToken": token}
        names = sorted(name for name in found if paths.is_name(name))
        if not names and folder:
            raise PathNotFoundError(folder)
        return names

    async def _measure(self, entries: list[Entry]) -> None:
        """Put the true sizes where there seems to be none."""
        empty = [at for at, entry in enumerate(entries) if not entry.size]
        while empty:
            some, empty = empty[:AT_ONCE], empty[AT_ONCE:]
            sizes = await asyncio.gather(*(self._size(entries[at].path) for at in some))
            for at, size in zip(some, sizes, strict=True):
                entries[at] = replace(entries[at], size=size)

    async def _size(self, path: str) -> int:
        with contextlib.suppress(PathNotFoundError):  # gone meanwhile
            return await self._client.size_of(path)
        return 0

    async def has_folder(self, path: str) -> bool:
        """Whether anything is below."""
        answer = await self._list(f"{path}/" if path else "", MaxKeys=1)
        return not path or bool(answer.get("Contents"))

    async def _list(self, prefix: str, **parameters: Any) -> Any:
        try:
            return await self._client.call(
                prefix.rstrip("/"),
                "list_objects_v2",
                Prefix=self._client.key(prefix),
                **{"MaxKeys": PAGE, **parameters},
            )
        except PathNotFoundError as error:  # a 404 that names no bucket: a listing has no other
            found = DriverError(prefix.rstrip("/"), "the storage does not list the bucket: 404")
            raise coded(found, "404") from error


def _token(prefix: str, answer: Any, last: str | None) -> str | None:
    """By what the next page is asked for; None: there is none. Raises DriverError.

    NB: what a listing leaves out is taken for gone, and what only it leads to is deleted. A server that knows
    only the older listing says that there is more, and no token.
    """
    if not answer.get("IsTruncated"):
        return None
    token = answer.get("NextContinuationToken")
    if not token or token == last:
        raise DriverError(prefix.rstrip("/"), "the storage does not say how its listing goes on")
    return str(token)
