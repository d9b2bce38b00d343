"""The garbage of one repository; and what the rest of it names is no garbage any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from itertools import islice

from mirror.drivers.base import WALK_BATCH, DriverError, Entry, StorageDriver
from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from mirror.store.garbage import Garbage, Kind, Step
from mirror.store.links import Links
from mirror.store.marks import Named, Unnamed, look_at
from mirror.store.places import CurrentLink, IndexLink, LayerLink, RevisionLink, place_of
from mirror.store.survey import believed

UPLOAD_GRACE = 168 * 3600.0  # seconds; registry:2's `uploadpurging.age`
LOOKS = 25  # manifests looked at in one step: 3 ms


class Shelf:
    """One repository during a collection; what was `modified` after `before` (as in collect) stays."""

    def __init__(
        self, driver: StorageDriver, links: Links, repository: Repository, before: float, blobs: Unnamed
    ) -> None:
        self._driver = driver
        self._links = links
        self._repository = repository
        self._before = before
        self._blobs = blobs
        self._layers = Unnamed()  # the links that may be garbage
        self._odd: list[tuple[Entry, Digest]] = []  # links of blobs that have to be read
        self._broken: list[Garbage] = []  # of these, those that are none
        self._names: list[Garbage] = []  # what goes first, when all is judged
        self._aliases: dict[Digest, Digest] = {}  # of these, those that name a digest of another algorithm
        self._revisions: dict[Digest, Entry] = {}
        self._currents: dict[Tag, Entry] = {}
        self._indexes: dict[tuple[Tag, Digest], Entry] = {}

    async def collect(self, untagged: bool) -> AsyncGenerator[Step, None]:
        """The garbage: tags and manifests before blobs. Raises DriverError where a folder cannot be read.

        Of a file that cannot be read: then nothing is garbage here, and what this may name is none either.
        """
        for reader in (self._read_layers(), self._read_manifests()):
            async with aclosing(reader) as steps:
                async for step in steps:
                    yield step
        try:
            async with aclosing(self._judge(untagged)) as steps:
                async for step in steps:
                    yield step
        except DriverError as error:
            self._keep_all()
            yield Step(0, unreadable=(self._repository, str(error)))
            return
        for reader in (self._told(), self._read_uploads()):
            async with aclosing(reader) as steps:
                async for step in steps:
                    yield step

    async def _judge(self, untagged: bool) -> AsyncGenerator[Step, None]:
        """Look at all, and say nothing yet. Raises DriverError where anything cannot be read."""
        await self._read_odd_layers()
        points = await self._read_currents()
        wanted: set[Digest] = set(self._revisions)
        if untagged:
            leads: dict[Digest, set[Digest]] = {}
            async with aclosing(self._look_at(wanted)) as looks:
                async for digest, named in looks:
                    self._note_leads(leads, digest, named)
                    yield Step(1)
            wanted = _reached((*points.values(), *self._staying()), leads)
        live: set[Digest] = set()
        async with aclosing(self._look_at(wanted & self._revisions.keys())) as looks:
            async for digest, named in looks:
                if named is not None:
                    live.add(digest)
                    self._keep((digest, named.data, *named.parts))
                yield Step(1)
        broken = {digest for digest in wanted if digest not in live}
        self._names = [*self._broken, *self._dead_tags(points, live), *self._dead_images(live, broken)]

    async def _told(self) -> AsyncGenerator[Step, None]:
        """What was judged, names first."""
        for some in (iter(self._names), self._dead_layers()):
            while garbage := tuple(islice(some, WALK_BATCH)):
                yield Step(0, garbage)

    # Reading the repository.

    async def _read_layers(self) -> AsyncGenerator[Step, None]:
        """The links of blobs, as far as their sizes say that they are such."""
        async with aclosing(self._driver.walk(layout.layers(self._repository))) as batches:
            async for batch in batches:
                for entry in batch:
                    place = None if entry.is_folder else place_of(entry.path)
                    if not isinstance(place, LayerLink):
                        continue
                    if believed(entry, place) is None:
                        self._odd.append((entry, place.digest))
                    else:
                        self._note_layer(entry, place.digest, place.digest)
                yield Step(len(batch), tuple(empty_folders(batch, self._before)))

    async def _read_odd_layers(self) -> None:
        """Those of another size: an algorithm's other than their digest's, or broken."""
        for entry, digest in self._odd:
            target = await self._links.read(entry.path, digest)
            if target is None:
                self._broken.extend(self._garbage(Kind.BROKEN, entry, digest=digest))
            else:
                self._note_layer(entry, digest, target)

    def _note_layer(self, entry: Entry, digest: Digest, target: Digest) -> None:
        """A link that stays in any case keeps its blob."""
        if not self._old(entry):
            self._blobs.discard(target)
            return
        self._layers.add(digest, entry.size, entry.modified)
        if target != digest:
            self._aliases[digest] = target

    def _keep_all(self) -> None:
        """Of this repository nothing is garbage."""
        self._keep([digest for digest, _, _ in self._layers.left()])
        self._keep([*self._revisions, *(digest for _, digest in self._odd)])

    async def _read_manifests(self) -> AsyncGenerator[Step, None]:
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
                yield Step(len(batch), tuple(empty_folders(batch, self._before)))

    async def _read_currents(self) -> dict[Tag, Digest]:
        """What the tags point to, as far as their links are whole."""
        found = await self._links.read_many(
            [(layout.tag_current_link(self._repository, tag), None) for tag in self._currents]
        )
        return {tag: digest for tag, digest in zip(self._currents, found, strict=True) if digest is not None}

    async def _look_at(self, digests: Iterable[Digest]) -> AsyncGenerator[tuple[Digest, Named | None], None]:
        left = list(digests)
        for at in range(0, len(left), LOOKS):
            some = [(self._repository, digest) for digest in left[at : at + LOOKS]]
            found = await look_at(self._driver, self._links, some)
            for (_, digest), named in zip(some, found, strict=True):
                yield digest, named

    async def _read_uploads(self) -> AsyncGenerator[Step, None]:
        """What registry:2 did not finish: an upload is one folder, garbage once all in it is old."""
        folder = layout.uploads(self._repository)
        found: dict[str, tuple[int, float]] = {}
        async with aclosing(self._driver.walk(folder)) as batches:
            async for batch in batches:
                for entry in batch:
                    if not entry.is_folder:
                        name = entry.path[len(folder) + 1 :].partition("/")[0]
                        size, modified = found.get(name, (0, 0.0))
                        stays = float("inf") if entry.linked else entry.modified
                        found[name] = (size + entry.size, max(modified, stays))
                yield Step(len(batch), tuple(empty_folders(batch, self._before)))
        yield Step(
            0,
            tuple(
                Garbage(Kind.UPLOAD, f"{folder}/{name}", size, modified, self._repository)
                for name, (size, modified) in found.items()
                if modified <= self._before - UPLOAD_GRACE
            ),
        )

    # Deciding.

    def _note_leads(self, leads: dict[Digest, set[Digest]], digest: Digest, named: Named | None) -> None:
        """An index leads to its children, and a manifest to those that refer to it."""
        if named is None:
            return
        leads.setdefault(digest, set()).update(named.parts & self._revisions.keys())
        if named.subject in self._revisions:
            leads.setdefault(named.subject, set()).add(digest)

    def _staying(self) -> Iterator[Digest]:
        """Manifests that are too young to judge, or another's."""
        return (digest for digest, entry in self._revisions.items() if not self._old(entry))

    def _keep(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            self._blobs.discard(digest)
            self._layers.discard(digest)
            if digest in self._aliases:
                self._blobs.discard(self._aliases[digest])

    def _dead_tags(self, points: Mapping[Tag, Digest], live: set[Digest]) -> Iterator[Garbage]:
        """Tags that lead nowhere, and the history of others as far as it does."""
        for tag, entry in self._currents.items():
            if points.get(tag) not in live:
                yield from self._garbage(Kind.TAG, entry, tag=tag)
        remains: dict[Tag, Entry] = {}  # of tags that point to nothing: the youngest file
        for (tag, digest), entry in self._indexes.items():
            if tag not in self._currents:
                known = remains.setdefault(tag, entry)
                remains[tag] = max(known, entry, key=lambda each: (each.linked, each.modified))
            elif digest not in live and points.get(tag) in live:
                yield from self._garbage(Kind.BROKEN, entry, tag=tag, digest=digest)
        for tag, entry in remains.items():
            yield from self._garbage(Kind.TAG, entry, tag=tag)

    def _dead_images(self, live: set[Digest], broken: set[Digest]) -> Iterator[Garbage]:
        for digest, entry in self._revisions.items():
            if digest not in live:
                kind = Kind.BROKEN if digest in broken else Kind.IMAGE
                yield from self._garbage(kind, entry, digest=digest)

    def _dead_layers(self) -> Iterator[Garbage]:
        for digest, size, modified in self._layers.left():
            path = layout.layer_link(self._repository, digest)
            yield Garbage(Kind.LAYER, path, size, modified, self._repository, digest=digest)

    def _old(self, entry: Entry) -> bool:
        return entry.modified <= self._before and not entry.linked

    def _garbage(
        self, kind: Kind, entry: Entry, *, tag: Tag | None = None, digest: Digest | None = None
    ) -> Iterator[Garbage]:
        if self._old(entry):
            yield Garbage(kind, entry.path, entry.size, entry.modified, self._repository, tag, digest)


def empty_folders(batch: Iterable[Entry], before: float) -> Iterator[Garbage]:
    """The folders of a walk that have nothing in them, but for those that the tree cannot do without."""
    for entry in batch:
        if not entry.is_folder or entry.linked or entry.path in layout.FOLDERS:
            continue
        if entry.modified <= before:
            yield Garbage(Kind.FOLDER, entry.path, 0, entry.modified)


def _reached(start: Iterable[Digest], leads: Mapping[Digest, Iterable[Digest]]) -> set[Digest]:
    """All to which something leads from the start."""
    left, reached = list(start), set[Digest]()
    while left:
        digest = left.pop()
        if digest not in reached:
            reached.add(digest)
            left.extend(leads.get(digest, ()))
    return reached
