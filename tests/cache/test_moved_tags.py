"""Tags that have moved: what clients get while the new manifest cannot be had, or the old one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

from mirror import provenance
from mirror.cache.freshness import Policy
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import RateLimited, RegistryError, Unavailable
from tests.cache.kit import A, Clock, Parts, joined
from tests.cache.test_pullthrough import IMAGE, LAYER, NEWER, ONE, verbs
from tests.support.puppet import Puppet

POLICY = Policy(default=60.0, negative=10.0)
LIMITED = RateLimited("the upstream registry limits us", retry_after=60)


@pytest.fixture
def upstream() -> Puppet:
    """Has IMAGE as library/a:1."""
    made = Puppet()
    made.add_manifest(IMAGE, "library/a", "1")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parts(tmp_path: Path, upstream: Puppet, clock: Clock) -> AsyncGenerator[Parts, None]:
    """IMAGE is kept with its blobs, and was tagged until a moment ago: the tag is due, and moved to NEWER."""
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as made:
        made.put(b"{}", LAYER)
        await made.registry.manifest(A, ONE)
        await made.registry.settle()
        clock.now += 61
        upstream.add_manifest(NEWER, "library/a", "1")
        upstream.calls.clear()
        yield made


async def test_head_and_get_agree_as_long_as_the_new_manifest_cannot_be_had(
    parts: Parts, upstream: Puppet, clock: Clock
) -> None:
    upstream.refuse["manifest"] = LIMITED
    for _ in range(3):
        assert (await parts.registry.stat_manifest(A, ONE)).digest == Digest.of(IMAGE)
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        clock.now += 5
    assert verbs(upstream).count("resolve") == 1, "the upstream's word is fresh"
    upstream.refuse.clear()
    assert (await parts.registry.stat_manifest(A, ONE)).digest == Digest.of(NEWER)


async def test_what_is_kept_stands_in_for_a_new_manifest_that_is_not_there_yet(
    parts: Parts, upstream: Puppet
) -> None:
    upstream.refuse["manifest"] = RegistryError(ErrorCode.MANIFEST_UNKNOWN)
    for _ in range(20):
        told = provenance.begin()
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        assert told.detail == "away"
    assert len(upstream.calls) < 5, "not for each client"


@pytest.mark.parametrize("code", [ErrorCode.UNAUTHORIZED, ErrorCode.DENIED])
async def test_a_refusal_of_the_new_manifest_is_passed_on(
    parts: Parts, upstream: Puppet, code: ErrorCode
) -> None:
    upstream.refuse["manifest"] = RegistryError(code, "not for you")
    for _ in range(2):
        with pytest.raises(RegistryError, match="not for you"):
            await parts.registry.manifest(A, ONE)


@pytest.mark.parametrize("head_first", [False, True])
async def test_a_fresh_word_whose_manifest_is_deleted_upstream_is_asked_about_again(
    tmp_path: Path, upstream: Puppet, clock: Clock, head_first: bool
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await parts.registry.stat_manifest(A, ONE)
        upstream.add_manifest(NEWER, "library/a", "1")
        del upstream._manifests["library/a", Digest.of(IMAGE)]
        clock.now += 30
        if head_first:
            assert (await parts.registry.stat_manifest(A, ONE)).digest == Digest.of(IMAGE)
        assert (await parts.registry.manifest(A, ONE)).body == NEWER
        assert (await parts.registry.stat_manifest(A, ONE)).digest == Digest.of(NEWER)
    assert verbs(upstream) == ["resolve", "manifest", "resolve", "manifest"]


async def test_an_upstream_that_fails_is_asked_once_about_an_image_that_is_not_all_here(
    tmp_path: Path, upstream: Puppet, clock: Clock
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        clock.now += 61
        upstream.refuse["resolve"] = Unavailable("no answer", status=504)
        upstream.calls.clear()
        told = provenance.begin()
        with pytest.raises(Unavailable, match="2 of 2 parts") as caught:
            await parts.registry.manifest(A, ONE)
        assert (caught.value.status, told.detail) == (503, "incomplete")
    assert verbs(upstream) == ["resolve"]


async def test_the_tree_has_the_last_word_also_when_an_older_one_is_slow_to_be_written(
    tmp_path: Path, upstream: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.add_manifest(IMAGE, "library/a", "slow")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.stat_manifest(A, Tag("slow"))
        await parts.registry.stat_manifest(A, ONE)
        write, held, go_on, overtaken = parts.store.tag, asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def slowly(repository: Repository, tag: Tag, digest: Digest) -> None:
            if digest == Digest.of(IMAGE):
                held.set()
                await go_on.wait()
                with suppress(TimeoutError):  # what must not happen can only be waited for
                    await asyncio.wait_for(overtaken.wait(), 0.3)
            await write(repository, tag, digest)
            if tag == Tag("slow"):
                overtaken.set()

        monkeypatch.setattr(parts.store, "tag", slowly)
        await parts.registry.manifest(A, Digest.of(IMAGE))  # both tags are to be written now
        await held.wait()
        for tag in ("slow", "1"):
            upstream.add_manifest(NEWER, "library/a", tag)
            await parts.registry.manifest(A, Tag(tag))
        upstream.refuse["resolve"] = RegistryError(ErrorCode.MANIFEST_UNKNOWN)
        with pytest.raises(RegistryError):
            await parts.registry.manifest(A, ONE)
        go_on.set()
        await parts.registry.settle()
        assert (await parts.store.resolve(A, Tag("slow"))).descriptor.digest == Digest.of(NEWER)
        with pytest.raises(RegistryError):
            await parts.store.resolve(A, ONE)
