"""When the upstream is told that blobs will be asked for, and when it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mirror.cache.freshness import Policy
from mirror.oci.digest import Digest
from mirror.oci.names import Tag
from mirror.registry import RegistryError
from tests.cache.kit import A, Clock, joined, until
from tests.cache.test_pullthrough import IMAGE, LAYER, NEWER, ONE, verbs
from tests.support.puppet import Puppet

POLICY = Policy(default=60.0, negative=10.0)


@pytest.fixture
def upstream() -> Puppet:
    """Has IMAGE as library/a:1."""
    made = Puppet()
    made.add_manifest(IMAGE, "library/a", "1")
    return made


async def test_it_is_told_before_it_is_asked_for_a_cold_tag_and_for_a_cold_manifest(
    tmp_path: Path, upstream: Puppet
) -> None:
    upstream.hold = {"resolve": asyncio.Event(), "manifest": asyncio.Event()}
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for verb, ask in (
            ("resolve", parts.registry.resolve(A, ONE)),
            ("manifest", parts.registry.manifest(A, Digest.of(IMAGE))),
        ):
            asking = asyncio.create_task(ask)
            await until(lambda: bool(upstream.calls) and upstream.calls[-1].startswith(verb))  # noqa: B023
            assert upstream.expected == [A]
            upstream.expected.clear()
            upstream.hold[verb].set()
            await asking


async def test_what_is_kept_with_its_blobs_tells_nothing(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.expected.clear()
        for wait in (0.0, 61.0):  # fresh, and due
            clock.now += wait
            await parts.registry.stat_manifest(A, ONE)
            await parts.registry.manifest(A, ONE)
            await parts.registry.manifest(A, Digest.of(IMAGE))
        assert upstream.expected == []
        clock.now += 61.0
        upstream.add_manifest(NEWER, "library/a", "1")
        await parts.registry.stat_manifest(A, ONE)
        assert upstream.expected == [A], "it has moved, and the new one is fetched"


async def test_a_kept_image_with_blobs_missing_tells_it_before_the_upstream_is_asked_whether_it_is_there(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
    upstream.expected.clear()
    async with joined(tmp_path, upstream, policy=POLICY) as parts:  # nothing was heard of it since the start
        await parts.registry.manifest(A, Digest.of(IMAGE))
    assert upstream.expected == [A]


async def test_a_tag_that_is_refused_tells_it_once(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        for wait in (0.0, 1.0, 60.0):
            clock.now += wait
            with pytest.raises(RegistryError):
                await parts.registry.manifest(A, Tag("none"))
    assert verbs(upstream).count("resolve") == 2
    assert upstream.expected == [A]
