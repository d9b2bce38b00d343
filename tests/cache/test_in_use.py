"""What is in use stays: an image whose layers are read, or that is being pulled, and all of an index."""

from __future__ import annotations

from pathlib import Path

from mirror.cache.eviction import GRACE, Limits
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX, OCI_MANIFEST
from tests.cache.kit import A, B
from tests.cache.test_keeper import HOUR, KIB, shop


async def test_an_image_of_which_only_a_layer_is_read_stays(tmp_path: Path) -> None:
    """Lazy pullers read the manifest once, and then ranges of its layers for weeks."""
    data = b"a" * KIB
    async with shop(tmp_path, Limits(ttl=10 * HOUR)) as at:
        image = await at.image(A, "1", data)
        other = await at.image(B, "1", b"b" * KIB)
        at.clock.now += 11 * HOUR
        at.use(A, Digest.of(data))
        await at.keeper._look()
        assert await at.has(A, image)
        assert await at.kept(data)
        assert not await at.has(B, other)


async def test_a_base_layer_in_use_does_not_keep_every_tag_that_was_built_on_it(tmp_path: Path) -> None:
    base = b"base" * KIB
    async with shop(tmp_path, Limits(ttl=10 * HOUR)) as at:
        old = await at.image(A, "1", base, b"1" * KIB)
        at.clock.now += HOUR
        new = await at.image(A, "2", base, b"2" * KIB)
        at.clock.now += 11 * HOUR
        at.use(A, Digest.of(base))
        await at.keeper._look()
        assert not await at.has(A, old)
        assert not await at.kept(b"1" * KIB)
        assert await at.has(A, new)
        assert await at.kept(b"2" * KIB)


async def test_a_tag_that_is_asked_for_keeps_all_that_it_leads_to(tmp_path: Path) -> None:
    """A node that has the image asks for its tag and nothing else; the next new node wants all of it."""
    data = b"a" * KIB
    async with shop(tmp_path, Limits(ttl=10 * HOUR)) as at:
        child = await at.image(A, "", data)
        entry = {"mediaType": OCI_MANIFEST, "digest": str(child), "size": 1}
        index = await at.manifest(A, "1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
        at.clock.now += 11 * HOUR
        at.use(A, index)
        await at.keeper._look()
        assert await at.has(A, index)
        assert await at.has(A, child)
        assert await at.kept(data)


async def test_a_pull_that_takes_an_hour_does_not_lose_what_it_has_brought(tmp_path: Path) -> None:
    """While its last layer comes, others need room: what is older goes, and of the pull nothing."""
    first, last = b"1" * 10 * KIB, b"2" * 10 * KIB
    async with shop(tmp_path, Limits(maxsize=60 * KIB)) as at:
        await at.blob(first, A)
        layers = [{"digest": str(Digest.of(each)), "size": len(each)} for each in (first, last)]
        pulled = await at.manifest(
            A,
            "1",
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": "application/json", **layers[0]},
                "layers": [{"mediaType": "application/octet-stream", **each} for each in layers],
            },
        )
        assert await at.keeper.make_room(Digest.of(last), len(last))  # and now it comes, slowly
        at.clock.now += HOUR
        other = await at.image(B, "1", b"b" * 20 * KIB)
        at.clock.now += 2 * GRACE
        assert await at.keeper.make_room(Digest.of(b"c"), 30 * KIB)
        assert await at.has(A, pulled)
        assert await at.kept(first)
        assert not await at.has(B, other)


async def test_a_layer_that_was_used_otherwise_outlives_its_image_by_its_own_age(tmp_path: Path) -> None:
    """Through a repository of which no image is kept."""
    data = b"a" * KIB
    async with shop(tmp_path, Limits(ttl=10 * HOUR)) as at:
        image = await at.image(A, "1", data)
        await at.store.link_blob(B, Digest.of(data))
        at.clock.now += 11 * HOUR
        at.use(B, Digest.of(data))
        await at.keeper._look()
        assert not await at.has(A, image)
        assert await at.kept(data)
        at.clock.now += 4 * HOUR
        await at.keeper._look()
        assert await at.kept(data)
        at.clock.now += 4 * HOUR
        await at.keeper._look()
        at.clock.now += 4 * HOUR
        await at.keeper._look()
        assert not await at.kept(data)
        assert at.bytes_on_disk() == 0
