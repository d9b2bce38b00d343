"""Deleting what the caller names, and nothing else. No policy.

Whatever stops a deletion, what is left is right: names go first and data last, a name is deleted in one step,
and an empty folder is nothing. The same deletion, made again, completes; that there is nothing to delete is
no error. All raise DriverError.

A power cut may bring back what was deleted. What leads to bytes is a manifest's link: that one is gone for
good before anything that the manifest names is touched, and so is a tag that is deleted for its own sake. All
else need not be, which saves several waits for the disk at each image: a tag without its manifest, and a
blob's link without its data, read as missing and are found by the next survey and the next collection; so is
data that is there again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from mirror.drivers.base import (
    DriverError,
    Info,
    PathNotFoundError,
    StorageDriver,
    ThrottledError,
    UnreachableError,
)
from mirror.oci.digest import HEX_LENGTH, Digest
from mirror.oci.names import Repository, Tag
from mirror.store import layout
from mirror.store.garbage import Garbage, Kind
from mirror.store.links import Links
from mirror.store.marks import look

LOOKS_AT_ONCE = 16  # pieces of garbage; each look is a request of a bucket


async def drop_tag(driver: StorageDriver, repository: Repository, tag: Tag) -> bool:
    """Delete a tag and its history; whether there was one."""
    return await _drop(driver, layout.tag_folder(repository, tag), layout.REPOSITORIES, durable=True)


async def drop_image(
    driver: StorageDriver, links: Links, repository: Repository, digest: Digest, tags: Iterable[Tag]
) -> bool:
    """Delete those of `tags` that point to the manifest, then the manifest's link; whether there was one."""
    for tag in tags:
        await drop_tag_to(driver, links, repository, tag, digest)
    link = layout.revision_link(repository, digest)
    return await _drop(driver, link, layout.REPOSITORIES, durable=True)


async def drop_tag_to(
    driver: StorageDriver, links: Links, repository: Repository, tag: Tag, digest: Digest
) -> bool:
    """Delete a tag that points to this manifest; whether it is gone. Where it does not, its history does."""
    # What the caller knows of the tag may be older than what it points to.
    if await links.read(layout.tag_current_link(repository, tag)) in (digest, None):
        await drop_file(driver, layout.tag_folder(repository, tag), layout.REPOSITORIES)
        return True
    await drop_file(driver, layout.tag_index_link(repository, tag, digest), layout.REPOSITORIES)
    return False


async def drop_layer(driver: StorageDriver, repository: Repository, digest: Digest) -> bool:
    """Take a blob from a repository; whether it had it."""
    return await drop_file(driver, layout.layer_link(repository, digest), layout.REPOSITORIES)


async def drop_blob(driver: StorageDriver, digest: Digest) -> bool:
    """Delete a blob's data; whether it was there. Those who have it open read on."""
    return await drop_file(driver, layout.blob_data(digest), layout.BLOBS)


async def drop_layers(driver: StorageDriver, linked: Iterable[tuple[Repository, Digest]]) -> None:
    """Take blobs from repositories, in any order: at once where the storage can."""
    doomed = [layout.layer_link(repository, digest) for repository, digest in linked]
    await driver.remove(doomed, layout.REPOSITORIES, durable=False, listed=True)


async def drop_blobs(driver: StorageDriver, digests: Iterable[Digest]) -> None:
    """Delete the data of blobs, in any order: at once where the storage can."""
    doomed = [layout.blob_data(digest) for digest in digests]
    await driver.remove(doomed, layout.BLOBS, durable=False, listed=True)


async def prune(driver: StorageDriver, repository: Repository) -> None:
    """Remove the repository's folders that are empty, and those above them, but not REPOSITORIES."""
    for path in layout.branches(repository, HEX_LENGTH):
        await driver.prune(path, layout.REPOSITORIES)


async def set_aside(driver: StorageDriver, digest: Digest, folder: Path) -> Path | None:
    """Move a blob's data to a local folder, for whoever wants to know what became of it; None: none here."""
    target = folder / f"{digest.algorithm}-{digest.hex}"
    try:
        await driver.move_out(layout.blob_data(digest), target)
    except PathNotFoundError:
        return None
    await driver.prune(layout.blob_folder(digest), layout.BLOBS)
    return target


async def drop(driver: StorageDriver, links: Links, garbage: Garbage) -> bool:
    """Delete what a collection found, if it is that still; whether it was there."""
    (outcome,) = await drop_each(driver, links, [garbage])
    if isinstance(outcome, DriverError):
        raise outcome
    return outcome


async def drop_each(
    driver: StorageDriver, links: Links, found: Sequence[Garbage]
) -> list[bool | DriverError]:
    """As `drop`, for garbage of one kind: each is looked at again, and what are files goes together then.

    In the place of what could not be deleted stands the error. Nothing is raised for one that fails. Where
    the answer to a deletion was lost, what it was about is looked for: it may have gone.
    """
    looks: list[bool | DriverError | None] = []
    for at in range(0, len(found), LOOKS_AT_ONCE):
        some = [_drop_or_keep(driver, links, garbage) for garbage in found[at : at + LOOKS_AT_ONCE]]
        looks += await asyncio.gather(*some)
    files = [garbage for garbage, outcome in zip(found, looks, strict=True) if outcome is None]
    gone = iter(await _remove_files(driver, files) if files else ())
    outcomes = [next(gone) if outcome is None else outcome for outcome in looks]
    return await _looked_for(driver, found, outcomes)


async def _drop_or_keep(driver: StorageDriver, links: Links, garbage: Garbage) -> bool | DriverError | None:
    """None: a file, and garbage still. All else is done, or stays, or fails."""
    try:
        found = await _look(driver, garbage.path)
        if found is not None and await _has_changed(driver, links, garbage, found):
            return False
        if garbage.kind is Kind.FOLDER:
            await driver.prune(garbage.path, _above(garbage))
            return found is not None and await _look(driver, garbage.path) is None
        if garbage.kind is Kind.TAG:
            assert garbage.repository is not None
            assert garbage.tag is not None
            return await drop_tag(driver, garbage.repository, garbage.tag)
        if found is not None and not found.is_folder:
            return None
        return await _drop(driver, garbage.path, _above(garbage), durable=_durable(garbage))
    except DriverError as error:
        return error


async def _remove_files(driver: StorageDriver, found: Sequence[Garbage]) -> Sequence[bool | DriverError]:
    """Together; where one of them is in the way of that, one after the other."""
    keep, durable = _above(found[0]), _durable(found[0])
    paths = [garbage.path for garbage in found]
    try:
        return await driver.remove(paths, keep, durable=durable, listed=True)
    except DriverError as error:
        if len(paths) == 1 or isinstance(error, UnreachableError | ThrottledError):
            return [error] * len(paths)
    outcomes: list[bool | DriverError] = []
    for path in paths:
        try:
            await driver.remove([path], keep, durable=durable, listed=True)
        except DriverError as error:
            outcomes.append(error)
        else:
            outcomes.append(True)  # it was there; the first attempt may have taken it
    return outcomes


async def _looked_for(
    driver: StorageDriver, found: Sequence[Garbage], outcomes: Sequence[bool | DriverError]
) -> list[bool | DriverError]:
    """The outcomes, with True for what is gone though its deletion got no answer.

    One look each: the first alone, for while the storage does not answer the others would learn no more.
    """
    known = list(outcomes)
    lost = [at for at, each in enumerate(known) if isinstance(each, UnreachableError | ThrottledError)]
    for start, stop in ((0, 1), *((at, at + LOOKS_AT_ONCE) for at in range(1, len(lost), LOOKS_AT_ONCE))):
        some = lost[start:stop]
        looks = await asyncio.gather(*(_is_gone(driver, found[at].path) for at in some))
        for at, is_gone in zip(some, looks, strict=True):
            known[at] = True if is_gone else known[at]
        if None in looks:
            break
    return known


async def _is_gone(driver: StorageDriver, path: str) -> bool | None:
    """None: nobody can say."""
    try:
        return await _look(driver, path) is None
    except DriverError:
        return None


def _above(garbage: Garbage) -> str:
    """The folder that stays when all in it has gone."""
    return layout.BLOBS if garbage.path.startswith(f"{layout.BLOBS}/") else layout.REPOSITORIES


def _durable(garbage: Garbage) -> bool:
    return garbage.kind is Kind.IMAGE


async def _has_changed(driver: StorageDriver, links: Links, garbage: Garbage, info: Info) -> bool:
    """Whether somebody has written here since, so that this is no garbage any more.

    What a link says is not written again when it says so already: so those that lead to something again are
    not garbage either.
    """
    if not info.is_folder and info.modified != garbage.modified:
        return True
    repository, digest = garbage.repository, garbage.digest
    if repository is None:
        return False
    if garbage.kind is Kind.TAG and garbage.tag is not None:
        digest = await links.read(layout.tag_current_link(repository, garbage.tag))
        return digest is not None and await look(driver, links, repository, digest) is not None
    if (
        garbage.kind is Kind.BROKEN
        and digest is not None
        and garbage.path != layout.layer_link(repository, digest)
    ):
        return await look(driver, links, repository, digest) is not None
    return False


async def _look(driver: StorageDriver, path: str) -> Info | None:
    try:
        return await driver.stat(path)
    except PathNotFoundError:
        return None


async def drop_file(driver: StorageDriver, path: str, keep: str) -> bool:
    """Delete one file or tree, and the folders that are empty then, up to `keep`; whether there was one."""
    return await _drop(driver, path, keep, durable=False)


async def _drop(driver: StorageDriver, path: str, keep: str, *, durable: bool) -> bool:
    (found,) = await driver.remove([path], keep, durable=durable)
    return found
