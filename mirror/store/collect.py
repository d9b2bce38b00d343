"""What nothing leads to any more, found in the tree alone. Nothing is deleted here.

Live is what a manifest that a repository has names, and what is too young to judge: a fill keeps the blob
first and the manifest last. What cannot be read ends the collection, for it might name anything. What is
reached by a symbolic link keeps alive what it names, and is no garbage itself: it may be another's.

The garbage comes in the order in which it may be deleted: names first, data after all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from mirror.drivers.base import Entry, StorageDriver
from mirror.oci.names import Repository
from mirror.store import layout
from mirror.store.garbage import Garbage, Kind, Step
from mirror.store.links import Links
from mirror.store.marks import Marks
from mirror.store.places import blob_of, repository_of
from mirror.store.shelf import Shelf

GRACE = 3600.0  # seconds; longer than between the first blob of a pull and its manifest


async def collect(
    driver: StorageDriver, links: Links, *, now: float, untagged: bool = False
) -> AsyncGenerator[Step, None]:
    """All garbage, in steps; whoever takes them sets the pace. Raises DriverError.

    `now` is in seconds since the epoch. With `untagged` a manifest to which no tag leads is garbage too.
    """
    before = now - GRACE
    marks = Marks()
    repositories: dict[Repository, None] = {}
    folders: list[Garbage] = []
    async with aclosing(driver.walk(layout.REPOSITORIES)) as batches:
        async for batch in batches:
            for entry in batch:
                repository = repository_of(entry.path)
                if repository is not None:
                    repositories[repository] = None
            folders.extend(_empty(batch, before))
            yield Step(len(batch))
    for repository in repositories:
        shelf = Shelf(driver, links, repository, before, marks)
        async with aclosing(shelf.collect(untagged)) as steps:
            async for step in steps:
                yield step
    async with aclosing(driver.walk(layout.BLOBS)) as batches:
        async for batch in batches:
            garbage = [_blob(entry, before, marks) for entry in batch]
            yield Step(len(batch), tuple(each for each in (*garbage, *_empty(batch, before)) if each))
    yield Step(0, tuple(folders))


def _blob(entry: Entry, before: float, marks: Marks) -> Garbage | None:
    digest = None if entry.is_folder else blob_of(entry.path)
    if digest is None or digest in marks or entry.linked or entry.modified > before:
        return None
    return Garbage(Kind.BLOB, entry.path, entry.size, entry.modified, digest=digest)


def _empty(batch: list[Entry], before: float) -> list[Garbage]:
    return [
        Garbage(Kind.FOLDER, entry.path, 0, entry.modified)
        for entry in batch
        if entry.is_folder and not entry.linked and entry.modified <= before
    ]
