"""`Upstreams`: many registries behind one face, each repository asked of the one that its name means."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from mirror.oci.challenge import Said
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import (
    Blob,
    Condition,
    Inlet,
    Page,
    Part,
    RawManifest,
    RegistryError,
    Resolved,
    Unavailable,
    Upstream,
    draw,
)
from mirror.upstream.routes import Routes

# Registries that only clients have named: each has its connections, tokens and breakers, some 100 KiB.
ELASTIC_LIMIT = 128
CLOSING_LIMIT = 16  # of those that made room and are not closed yet; more means that closing hangs
BUSY_SECONDS = 5.0  # Retry-After when all are in use: the time that a small pull takes


class Opened(Upstream, Protocol):
    """An upstream of its own, with what it holds."""

    async def close(self) -> None:
        """Release all that it holds. Safe to call twice."""

    async def ask_as(self, authorization: str, repository: Repository | None, rest: str) -> Said:
        """What it says to somebody else's credentials, by its own name for the repository."""

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        """Its state for operators, or one repository's; without secrets. `now` as time.monotonic()."""


@dataclass(slots=True)
class _Held:
    """`users`: calls under way, and blobs that are open."""

    namespace: str
    upstream: Opened
    users: int = 0


class Upstreams:
    """A registry.Upstream on qualified names (see `routes`).

    `open_(namespace)` makes an upstream, when it is first asked; it must not wait. Those of configured names
    stay until `close`. Those that a pattern or the open mode allowed are ELASTIC_LIMIT at most: the idle one
    that was unused for longest makes room; when none is idle, Unavailable.
    """

    def __init__(self, routes: Routes, open_: Callable[[str], Opened]) -> None:
        self._routes = routes
        self._open = open_
        self._fixed: dict[str, _Held] = {}
        self._elastic: OrderedDict[str, _Held] = OrderedDict()  # the longest-unused first
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Close all of them, and open no more. Safe to call twice."""
        self._closed = True
        held = [*self._fixed.values(), *self._elastic.values()]
        self._fixed.clear()
        self._elastic.clear()
        closing = [*self._closing, *(asyncio.create_task(one.upstream.close()) for one in held)]
        if closing:
            await asyncio.wait(closing)
        for task in closing:
            task.result()

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        with self._using(repository) as (upstream, own):
            return await upstream.resolve(own, tag)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        with self._using(repository) as (upstream, own):
            return await upstream.manifest(own, reference)

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        with self._using(repository) as (upstream, own):
            return await upstream.stat_manifest(own, reference)

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Blob:
        """Open a blob; its upstream is in use until it is closed."""
        held, own = self._hold(repository)
        try:
            blob = await held.upstream.blob(own, digest, start=start, size=size, stop=stop)
        except BaseException:
            self._release(held)
            raise
        return _UsedBlob(blob, lambda: self._release(held))

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        with self._using(repository) as (upstream, own):
            return await upstream.stat_blob(own, digest)

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        with self._using(repository) as (upstream, own):
            return await upstream.tags(own, n, last)

    async def repositories(self, n: int | None, last: str) -> Page:
        """Not asked of upstreams, as in `Client`."""
        raise RegistryError(ErrorCode.UNSUPPORTED, "an upstream's catalog is not mirrored")

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        with self._using(repository) as (upstream, own):
            return await upstream.referrers(own, digest)

    async def ask_as(self, authorization: str, whose: Repository | str, rest: str) -> Said:
        """What a registry says to somebody else's credentials: of a repository, or, by its namespace, at
        `/v2/`. As `Client.ask_as`."""
        if isinstance(whose, Repository):
            with self._using(whose) as (upstream, own):
                return await upstream.ask_as(authorization, own, rest)
        held = self._held(whose) or self._make(whose)
        held.users += 1
        try:
            return await held.upstream.ask_as(authorization, None, rest)
        finally:
            self._release(held)

    def condition(self, repository: Repository) -> Condition:
        """How the registry of this repository is doing; of one that was never asked nothing is known."""
        target = self._routes.split(repository)
        held = self._held(target.namespace)
        return Condition(target.namespace) if held is None else held.upstream.condition(target.repository)

    def expect(self, repository: Repository) -> None:
        """As `Upstream.expect`; nothing is made ready at one that was never asked."""
        target = self._routes.split(repository)
        held = self._held(target.namespace)
        if held is not None:
            held.upstream.expect(target.repository)

    def describe(self, repository: Repository, now: float) -> dict[str, Any]:
        """What the registry of this repository says of itself. `now` as time.monotonic().

        It is made if it was never asked: that sends nothing. Errors: Unavailable, where there is no room.
        """
        with self._using(repository) as (upstream, own):
            return upstream.describe(now, own)

    def described(self, now: float) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those that were asked since the start: their namespaces, and what they say of themselves."""
        for held in (*self._fixed.values(), *self._elastic.values()):
            yield held.namespace, held.upstream.describe(now)

    def _held(self, namespace: str) -> _Held | None:
        return self._fixed.get(namespace) or self._elastic.get(namespace)

    @contextmanager
    def _using(self, repository: Repository) -> Iterator[tuple[Opened, Repository]]:
        """The upstream of this repository, and what the repository is called there."""
        held, own = self._hold(repository)
        try:
            yield held.upstream, own
        finally:
            self._release(held)

    def _hold(self, repository: Repository) -> tuple[_Held, Repository]:
        """Raises Unavailable when there is no room for it."""
        target = self._routes.split(repository)
        held = self._held(target.namespace) or self._make(target.namespace)
        held.users += 1
        return held, target.repository

    def _release(self, held: _Held) -> None:
        held.users -= 1
        if held.namespace in self._elastic:
            self._elastic.move_to_end(held.namespace)

    def _make(self, namespace: str) -> _Held:
        if self._closed:
            raise Unavailable("this mirror is stopping")
        if self._routes.entry(namespace) == namespace:
            held = self._fixed[namespace] = _Held(namespace, self._open(namespace))
            return held
        if len(self._elastic) >= ELASTIC_LIMIT:
            self._make_room()
        held = self._elastic[namespace] = _Held(namespace, self._open(namespace))
        return held

    def _make_room(self) -> None:
        idle = next((held for held in self._elastic.values() if not held.users), None)
        if idle is None or len(self._closing) >= CLOSING_LIMIT:
            raise Unavailable("too many registries at once", retry_after=BUSY_SECONDS)
        del self._elastic[idle.namespace]
        # NB: not in the request that needs the room: its client may go away in the middle.
        task = asyncio.create_task(idle.upstream.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _UsedBlob:
    """A blob that tells when it is closed."""

    def __init__(self, blob: Blob, release: Callable[[], None]) -> None:
        self._blob = blob
        self._release: Callable[[], None] | None = release

    @property
    def descriptor(self) -> Descriptor:
        return self._blob.descriptor

    @property
    def start(self) -> int:
        return self._blob.start

    def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        return self._blob.read(start, stop)

    def draw(self, stop: int, worth: int) -> AsyncGenerator[Part | Inlet, None]:
        return draw(self._blob, stop, worth)

    async def close(self) -> None:
        release, self._release = self._release, None
        try:
            await self._blob.close()
        finally:
            if release is not None:
                release()
