"""What the upstream refuses: whom that concerns, for how long, and what is remembered of it."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

import pytest

from mirror import provenance
from mirror.cache.freshness import Policy
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import RawManifest, RegistryError, Resolved
from tests.cache.kit import A, joined, until, whole
from tests.cache.test_pullthrough import IMAGE, LAYER, verbs
from tests.support.puppet import Puppet

POLICY = Policy(default=60.0, negative=10.0)


async def test_a_blob_that_is_not_there_says_nothing_of_a_manifest_of_that_digest(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        with pytest.raises(RegistryError) as caught:
            await parts.registry.stat_blob(A, digest)
        assert caught.value.code is ErrorCode.BLOB_UNKNOWN
        assert (await parts.registry.manifest(A, digest)).body == IMAGE


async def test_a_manifest_that_is_not_there_says_nothing_of_a_blob_of_that_digest(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(IMAGE)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        with pytest.raises(RegistryError) as caught:
            await parts.registry.manifest(A, digest)
        assert caught.value.code is ErrorCode.MANIFEST_UNKNOWN
        assert (await parts.registry.stat_blob(A, digest)).size == len(IMAGE)


async def test_a_manifest_that_was_not_there_is_not_asked_for_again_and_the_answer_says_so(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    said = []
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for _ in range(2):
            told = provenance.begin()
            with pytest.raises(RegistryError):
                await parts.registry.manifest(A, Digest.of(IMAGE))
            said.append((told.hit, told.fwd, told.fwd_status, told.stored, told.detail))
    assert verbs(upstream) == ["manifest"]
    assert said == [(False, "uri-miss", 404, False, ""), (True, "", None, False, "negative")]


@pytest.mark.parametrize("code", [ErrorCode.UNAUTHORIZED, ErrorCode.DENIED, ErrorCode.BLOB_UNKNOWN])
@pytest.mark.parametrize("verb", ["blob", "stat_blob"])
async def test_a_refused_blob_is_not_asked_for_again_for_a_while(
    tmp_path: Path, verb: str, code: ErrorCode
) -> None:
    upstream = Puppet()
    digest = upstream.add(b"blob")
    upstream.refuse[verb] = RegistryError(code, "no")
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for _ in range(3):
            with pytest.raises(RegistryError) as caught:
                await (
                    parts.registry.blob(A, digest) if verb == "blob" else parts.registry.stat_blob(A, digest)
                )
            assert caught.value.status == code.status
    assert verbs(upstream) == [verb]


async def test_a_refusal_that_comes_after_the_deadline_counts(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream, policy=POLICY, deadline=0.02) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, Tag("1"))
        await parts.registry.settle()
        upstream.refuse["stat_blob"] = RegistryError(ErrorCode.DENIED, "no more for you")
        upstream.hold["stat_blob"] = asyncio.Event()
        assert await whole(await parts.registry.blob(A, Digest.of(LAYER))) == LAYER
        upstream.hold["stat_blob"].set()
        await until(lambda: not parts.registry._blobs._stats._tasks)
        upstream.hold["stat_blob"].clear()
        with pytest.raises(RegistryError, match="no more for you"):
            await parts.registry.blob(A, Digest.of(LAYER))


class Wordy(Puppet):
    """Refuses everything, with a large answer in hand."""

    def _refuse(self, what: Reference) -> RegistryError:
        answer = bytes(60_000) + str(what).encode()
        raise RegistryError(ErrorCode.MANIFEST_UNKNOWN, f"no, in {len(answer)} bytes")

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        raise self._refuse(tag)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        raise self._refuse(reference)


@pytest.mark.parametrize("kind", ["tag", "digest"])
async def test_of_a_refusal_its_words_are_remembered_and_not_the_answer_that_it_came_in(
    tmp_path: Path, kind: str
) -> None:
    names: list[Reference] = [
        Tag(f"t{number}") if kind == "tag" else Digest.of(b"%d" % number) for number in range(200)
    ]
    async with joined(tmp_path, Wordy(), policy=POLICY) as parts:
        gc.collect()
        tracemalloc.start()
        try:
            for name in names:
                with pytest.raises(RegistryError):
                    await parts.registry.manifest(A, name)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] / len(names)
        finally:
            tracemalloc.stop()
    assert held < 5000, "bytes for each"
