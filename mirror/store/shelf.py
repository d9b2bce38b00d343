"""The garbage of one repository, and the marks that the rest of it leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing

from mirror.drivers.base import Entry, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from mirror.store.garbage import Garbage, Kind, Step
from mirror.store.links import Links
from mirror.store.manifests import in_batches
from mirror.store.marks import Marks, Named, look
from mirror.store.places import CurrentLink, IndexLink, LayerLink, RevisionLink, place_of
from mirror.store.survey import believed

UPLOAD_GRACE = 168 * 3600.0  # seconds; registry:2's `uploadpurging.age`


class Shelf:
    """One repository during a collection; `before` as in collect, seconds since the epoch."""

    def __init__(
        self, driver: StorageDriver, links: Links, repository: Repository, before: float, marks: Marks
    ) -> None:
        self._driver = driver
        self._links = links
        self._repository = repository
        self._before = before
        self._marks = marks
        self._revisions: dict[Digest, Entry] = {}
        self._currents: dict[Tag, Entry] = {}
        self._indexes: dict[tuple[Tag, Digest], Entry] = {}

    async def collect(self, untagged: bool) -> AsyncGenerator[Step, None]:
        """The garbage, tags and manifests before blobs. Raises DriverError."""
        async with aclosing(self._read_names()) as steps:
            async for step in steps:
                yield step
        named: dict[Digest, Named] = {}
        digests = list(self._revisions)
        async with aclosing(in_batches(digests, self._look)) as looks:
            async for digest, found in looks:
                if found is not None:
                    named[digest] = found
                yield Step(1)
        points = await self._points()
        live = self._live(named, points) if untagged else set(named)
        own = Marks()
        for digest in live:
            for each in (digest, named[digest].data, *named[digest].parts):
                own.add(each)
                self._marks.add(each)
        yield Step(0, tuple(self._tags(points, live)))
        yield Step(0, tuple(self._images(named, live)))
        async with aclosing(self._layers(own)) as steps:
            async for step in steps:
                yield step
        async with aclosing(self._uploads()) as steps:
            async for step in steps:
                yield step

    async def _read_names(self) -> AsyncGenerator[Step, None]:
        async with aclosing(self._driver.walk(layout.manifests(self._repository))) as batches:
            async for batch in batches:
                for entry in batch:
                    match None if entry.is_folder else place_of(entry.path):
                        case RevisionLink(_, digest):
                            self._revisions[digest] = entry
                        case CurrentLink(_, tag):
                            self._currents[tag] = entry
                        case IndexLink(_, tag, digest):
                            self._indexes[tag, digest] = entry
                yield Step(len(batch))

    async def _look(self, digest: Digest) -> tuple[Digest, Named | None]:
        return digest, await look(self._driver, self._links, self._repository, digest)

    async def _points(self) -> dict[Tag, Digest]:
        """What the tags point to, as far as their links are whole."""

        async def read(tag: Tag) -> tuple[Tag, Digest | None]:
            return tag, await self._links.read(layout.tag_current_link(self._repository, tag))

        async with aclosing(in_batches(list(self._currents), read)) as found:
            return {tag: digest async for tag, digest in found if digest is not None}

    def _live(self, named: dict[Digest, Named], points: dict[Tag, Digest]) -> set[Digest]:
        """The manifests to which a tag leads: by itself, as a child, or as what refers to one of these."""
        referrers: dict[Digest, list[Digest]] = {}
        for digest, found in named.items():
            if found.subject is not None:
                referrers.setdefault(found.subject, []).append(digest)
        left = [*points.values(), *(digest for digest in named if not self._old(self._revisions[digest]))]
        live: set[Digest] = set()
        while left:
            digest = left.pop()
            if digest in named and digest not in live:
                live.add(digest)
                left.extend(named[digest].parts)
                left.extend(referrers.get(digest, ()))
        return live

    def _tags(self, points: dict[Tag, Digest], live: set[Digest]) -> Iterator[Garbage]:
        """Tags that lead nowhere, and what is left of where others have pointed to."""
        for (tag, digest), entry in self._indexes.items():
            if tag not in self._currents:
                yield from self._garbage(Kind.TAG, entry, tag=tag)
            elif digest not in live and points.get(tag) != digest:
                yield from self._garbage(Kind.BROKEN, entry, tag=tag, digest=digest)
        for tag, entry in self._currents.items():
            if points.get(tag) not in live:
                yield from self._garbage(Kind.TAG, entry, tag=tag)

    def _images(self, named: dict[Digest, Named], live: set[Digest]) -> Iterator[Garbage]:
        for digest, entry in self._revisions.items():
            if digest not in named:
                yield from self._garbage(Kind.BROKEN, entry, digest=digest)
            elif digest not in live:
                yield from self._garbage(Kind.IMAGE, entry, digest=digest)

    async def _layers(self, own: Marks) -> AsyncGenerator[Step, None]:
        async with aclosing(self._driver.walk(layout.layers(self._repository))) as batches:
            async for batch in batches:
                garbage: list[Garbage] = []
                for entry in batch:
                    match None if entry.is_folder else place_of(entry.path):
                        case LayerLink() as place:
                            garbage.extend(await self._layer(entry, place, own))
                yield Step(len(batch), tuple(garbage))

    async def _layer(self, entry: Entry, place: LayerLink, own: Marks) -> Iterable[Garbage]:
        target = believed(entry, place) or await self._links.read(entry.path, place.digest)
        if target is None:
            return self._garbage(Kind.BROKEN, entry, digest=place.digest)
        if place.digest not in own:
            garbage = list(self._garbage(Kind.LAYER, entry, digest=place.digest))
            if garbage:
                return garbage
        self._marks.add(target)
        return ()

    async def _uploads(self) -> AsyncGenerator[Step, None]:
        """What registry:2 did not finish, once all of it is old."""
        folder = layout.uploads(self._repository)
        found: dict[str, list[Entry]] = {}
        async with aclosing(self._driver.walk(folder)) as batches:
            async for batch in batches:
                for entry in batch:
                    if not entry.is_folder:
                        found.setdefault(entry.path[len(folder) + 1 :].partition("/")[0], []).append(entry)
                yield Step(len(batch))
        garbage = []
        for name, entries in found.items():
            modified = max(entry.modified for entry in entries)
            size = sum(entry.size for entry in entries)
            if modified <= self._before - UPLOAD_GRACE and not any(entry.linked for entry in entries):
                garbage.append(Garbage(Kind.UPLOAD, f"{folder}/{name}", size, modified, self._repository))
        yield Step(0, tuple(garbage))

    def _old(self, entry: Entry) -> bool:
        return entry.modified <= self._before and not entry.linked

    def _garbage(
        self, kind: Kind, entry: Entry, *, tag: Tag | None = None, digest: Digest | None = None
    ) -> Iterator[Garbage]:
        if self._old(entry):
            yield Garbage(kind, entry.path, entry.size, entry.modified, self._repository, tag, digest)
