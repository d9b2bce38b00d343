"""What nothing leads to any more, found in the tree alone. Nothing is deleted here.

Live is what a manifest that a repository has names, and what is too young to judge: a pull keeps its blobs
first and its manifest last. A manifest or a link that cannot be read might name anything of its repository:
that is left alone. A folder that cannot be read ends the collection, and so do many such files: they are the
disk's. What is reached by a symbolic link keeps alive what it names, and is no garbage itself: it may be
another's.

Only blobs that were here, and old, when the collection began can be garbage; so the memory that it takes
grows with what is here, not with what manifests name. The garbage comes in the order in which it may be
deleted: names first, data after all of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice

from mirror.drivers.base import WALK_BATCH, DriverError, StorageDriver
from mirror.oci.names import Repository
from mirror.store import layout
from mirror.store.garbage import Garbage, Kind, Step
from mirror.store.links import Links
from mirror.store.marks import Unnamed
from mirror.store.places import blob_of, repository_of
from mirror.store.shelf import Shelf, empty_folders

UNREADABLE = 100  # repositories that a collection goes on without
GRACE = 3600.0  # seconds; longer than between the first blob of a pull and its manifest


async def collect(
    driver: StorageDriver, links: Links, *, now: float, untagged: bool = False
) -> AsyncGenerator[Step, None]:
    """All garbage, in steps; whoever takes them sets the pace. Raises DriverError.

    `now` is in seconds since the epoch. With `untagged` a manifest to which no tag leads is garbage too.
    """
    before = now - GRACE
    unnamed, doubts = Unnamed(), 0
    repositories: dict[Repository, None] = {}  # a set that keeps the order
    async with aclosing(driver.walk(layout.BLOBS)) as batches:
        async for batch in batches:
            for entry in batch:
                digest = None if entry.is_folder else blob_of(entry.path)
                if digest is not None and not entry.linked and entry.modified <= before:
                    unnamed.add(digest, entry.size, entry.modified)
            yield Step(len(batch), tuple(empty_folders(batch, before)))
    async with aclosing(driver.walk(layout.REPOSITORIES, layout.PARTS)) as batches:
        async for batch in batches:
            others = []
            for entry in batch:
                repository = repository_of(entry.path)
                if repository is not None:
                    repositories[repository] = None
                elif entry.path.rpartition("/")[2] not in layout.PARTS:  # of what is no repository
                    others.append(entry)
            yield Step(len(batch), tuple(empty_folders(others, before)))
    for repository in repositories:
        shelf = Shelf(driver, links, repository, before, unnamed)
        async with aclosing(shelf.collect(untagged)) as steps:
            async for step in steps:
                doubts += step.unreadable is not None
                if doubts > UNREADABLE:
                    raise DriverError(layout.REPOSITORIES, f"has {doubts} repositories that cannot be read")
                yield step
    blobs = (
        Garbage(Kind.BLOB, layout.blob_data(digest), size, modified, digest=digest)
        for digest, size, modified in unnamed.left()
    )
    while garbage := tuple(islice(blobs, WALK_BATCH)):
        yield Step(0, garbage)
