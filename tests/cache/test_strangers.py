"""Registries that the operator has not named, and what others have brought."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest

from mirror.cache.strangers import Strangers
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Condition, RateLimited, RegistryError, Unavailable
from tests.cache.kit import A, Parts, joined, take, until, whole
from tests.cache.test_pullthrough import manifest, pull
from tests.support.puppet import Puppet

SECRET = b"what only library/a has" * 20_000
DIGEST = Digest.of(SECRET)
EVIL, EVIL_TOO, OTHER = Repository("evil.test/x"), Repository("evil.test/y"), Repository("other.test/x")


class Liars(Puppet):
    """All but library/a belong to registries that have every blob, as they say."""

    def condition(self, repository: Repository) -> Condition:
        return Condition(stranger(repository) or "docker.io", self.well.trouble, self.well.blobs)

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        await self._called("stat_blob", repository, digest.hex[:8])
        return Descriptor(digest, len(SECRET), "application/octet-stream")


def stranger(repository: Repository) -> str:
    first = repository.name.split("/")[0]
    return "" if first == "library" else first


def is_idle(parts: Parts, repository: Repository) -> bool:
    return parts.fills.running(repository, DIGEST) is None


@pytest.fixture
def upstream() -> Liars:
    made = Liars()
    made.add(SECRET, A.name)
    return made


@pytest.fixture
async def parts(tmp_path: Path, upstream: Liars) -> AsyncGenerator[Parts, None]:
    async with joined(tmp_path, upstream, strangers=Strangers(stranger)) as made:
        yield made


async def test_a_registry_that_says_it_has_a_blob_is_not_given_what_another_has_brought(
    parts: Parts, upstream: Liars
) -> None:
    assert await pull(parts, DIGEST, upstream) == SECRET
    with pytest.raises(RegistryError) as caught:
        await parts.registry.blob(EVIL, DIGEST)
    assert caught.value.code is ErrorCode.BLOB_UNKNOWN
    assert not await parts.store.is_linked(EVIL, DIGEST)


async def test_a_manifest_that_names_a_blob_gives_it_to_no_stranger_that_goes_away(
    parts: Parts, upstream: Liars
) -> None:
    assert await pull(parts, DIGEST, upstream) == SECRET
    naming = upstream.add_manifest(manifest(SECRET), EVIL.name, "1")
    await parts.registry.manifest(EVIL, naming)
    await parts.registry.settle()
    gone = Unavailable("away")
    upstream.well = Condition("", trouble=gone, blobs=gone)
    upstream.refuse = {"blob": gone, "stat_blob": gone}
    with pytest.raises(Unavailable):
        await parts.registry.blob(EVIL, DIGEST)


async def test_a_stranger_is_not_given_what_another_is_bringing(parts: Parts, upstream: Liars) -> None:
    opening = asyncio.create_task(parts.registry.blob(A, DIGEST))
    transfer = await upstream.next_transfer()
    transfer.send(100_000)
    blob = await opening
    with pytest.raises(RegistryError) as caught:
        await parts.registry.blob(EVIL, DIGEST)
    assert caught.value.code is ErrorCode.BLOB_UNKNOWN
    transfer.finish()
    assert await whole(blob) == SECRET


async def test_nobody_is_given_what_a_stranger_is_bringing_or_has_left(parts: Parts, upstream: Liars) -> None:
    upstream.add(bytes(len(SECRET)), EVIL.name, DIGEST)
    bad = asyncio.create_task(parts.registry.blob(EVIL, DIGEST))
    transfer = await upstream.next_transfer()
    transfer.send(200_000)
    broken = await bad
    for repository in (A, OTHER):
        upstream.add(SECRET, repository.name)
        opening = asyncio.create_task(parts.registry.blob(repository, DIGEST))
        own = await upstream.next_transfer()
        assert own.start == 0
        own.send(100_000)
        blob = await opening
        assert await take(blob, 0, 1000) == SECRET[:1000]
        own.fail(RateLimited("later", retry_after=3600))
        await until(partial(is_idle, parts, repository))
        await blob.close()
    transfer.fail(RateLimited("later", retry_after=3600))
    await until(partial(is_idle, parts, EVIL))
    await broken.close()
    again = asyncio.create_task(parts.registry.blob(A, DIGEST))
    rest = await upstream.next_transfer()
    assert rest.start == 100_000, "what it has brought itself is there"
    rest.finish()
    assert await whole(await again) == SECRET


async def test_what_a_stranger_has_brought_is_its_own_and_is_not_brought_again(
    tmp_path: Path, parts: Parts, upstream: Liars
) -> None:
    assert await pull(parts, DIGEST, upstream) == SECRET
    upstream.add(SECRET, EVIL.name)
    opening = asyncio.create_task(parts.registry.blob(EVIL, DIGEST))
    (await upstream.next_transfer()).finish()
    assert await whole(await opening) == SECRET
    await until(lambda: parts.fills.ended(DIGEST) == 2)
    assert await parts.store.is_linked(EVIL, DIGEST)
    upstream.calls.clear()
    assert await whole(await parts.registry.blob(EVIL, DIGEST)) == SECRET
    assert upstream.calls == []
    assert await whole(await parts.registry.blob(EVIL_TOO, DIGEST)) == SECRET
    assert upstream.calls == [f"stat_blob {EVIL_TOO} {DIGEST.hex[:8]}"]


async def test_what_a_stranger_has_brought_is_others_once_their_registry_says_so(
    parts: Parts, upstream: Liars
) -> None:
    upstream.add(SECRET, EVIL.name)
    opening = asyncio.create_task(parts.registry.blob(EVIL, DIGEST))
    (await upstream.next_transfer()).finish()
    assert await whole(await opening) == SECRET
    await until(lambda: parts.fills.ended(DIGEST) == 1)
    upstream.calls.clear()
    assert await whole(await parts.registry.blob(A, DIGEST)) == SECRET
    assert upstream.calls == [f"stat_blob {A} {DIGEST.hex[:8]}"]
