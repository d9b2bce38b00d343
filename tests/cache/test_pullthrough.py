"""The registry made of store and upstream: what it asks, what it keeps, whom it lets read."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from mirror.cache.freshness import Policy
from mirror.cache.tags import WAITING_TAGS
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import RateLimited, RawManifest, RegistryError, Unavailable
from mirror.store.errors import StoreFull
from tests.cache.kit import A, B, Parts, joined, until, whole
from tests.support.puppet import Puppet

ONE = Tag("1")
LAYER = b"layer" * 1000
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def describe(data: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def manifest(*blobs: bytes, **more: object) -> bytes:
    config, *layers = blobs or (b"{}",)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(config),
        "layers": [describe(layer) for layer in layers],
        **more,
    }
    return json.dumps(document).encode()


IMAGE = manifest(b"{}", LAYER)
NEWER = manifest(b"{}", LAYER, b"more")


async def pull(parts: Parts, digest: Digest, upstream: Puppet) -> bytes:
    """A cold blob through repository A, to its end and kept."""
    before = parts.fills.ended(digest)
    opening = asyncio.create_task(parts.registry.blob(A, digest))
    (await upstream.next_transfer()).finish()
    data = await whole(await opening)
    await until(lambda: parts.fills.ended(digest) > before)
    return data


def verbs(upstream: Puppet) -> list[str]:
    return [call.split()[0] for call in upstream.calls]


async def test_a_cold_tag_costs_one_head_and_one_get_by_the_digest_that_the_head_gave(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        await parts.registry.settle()
        assert (await parts.store.manifest(A, ONE)).descriptor.digest == digest
    assert upstream.calls == ["resolve library/a 1", f"manifest library/a {digest}"]


async def test_simultaneous_requests_for_a_tag_share_one_head_and_one_get(tmp_path: Path) -> None:
    """Also those that look at the disk for longer than the HEAD takes."""
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    upstream.hold["resolve"] = asyncio.Event()
    async with joined(tmp_path, upstream, policy=Policy(default=60.0)) as parts:
        many = [asyncio.create_task(parts.registry.manifest(A, ONE)) for _ in range(200)]
        await until(lambda: bool(upstream.calls))
        upstream.hold["resolve"].set()
        assert {found.body for found in await asyncio.gather(*many)} == {IMAGE}
    assert verbs(upstream) == ["resolve", "manifest"]


@pytest.mark.parametrize("exists", [True, False])
async def test_who_looks_at_the_disk_while_a_check_ends_believes_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    upstream = Puppet()
    if exists:
        upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream, policy=Policy(default=60.0, negative=10.0)) as parts:
        looks, disk, slow = parts.store.manifest, asyncio.Event(), list[Tag]()

        async def look(repository: Repository, reference: Tag | Digest) -> RawManifest:
            """The first look takes until `disk`."""
            if isinstance(reference, Tag) and not slow:
                slow.append(reference)
                await disk.wait()
            return await looks(repository, reference)

        monkeypatch.setattr(parts.store, "manifest", look)
        late = asyncio.create_task(parts.registry.manifest(A, ONE))
        await until(lambda: bool(slow))
        asked = asyncio.create_task(parts.registry.manifest(A, ONE))
        await asyncio.wait([asked])
        disk.set()
        if exists:
            assert ((await asked).body, (await late).body) == (IMAGE, IMAGE)
        else:
            for task in (asked, late):
                with pytest.raises(RegistryError) as refused:
                    await task
                assert refused.value.code is ErrorCode.MANIFEST_UNKNOWN
    assert verbs(upstream) == ["resolve", *["manifest"] * exists]


async def test_a_head_of_a_tag_then_its_digest_leaves_the_tag_kept(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:  # as dockerd and containerd ask
        assert (await parts.registry.stat_manifest(A, ONE)).digest == digest
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
        assert (await parts.store.resolve(A, ONE)).descriptor.digest == digest
    assert verbs(upstream) == ["resolve", "manifest"]


async def test_a_tag_that_moves_is_followed(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.add_manifest(NEWER, "library/a", "1")
        assert (await parts.registry.manifest(A, ONE)).body == NEWER
        await parts.registry.settle()
        assert (await parts.store.manifest(A, ONE)).body == NEWER


async def test_a_warm_digest_asks_the_upstream_nothing_also_after_a_restart(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.manifest(A, digest)).body == IMAGE
        assert (await parts.registry.stat_manifest(A, digest)).size == len(IMAGE)
    assert verbs(upstream) == ["manifest"]


@pytest.mark.parametrize("failure", [Unavailable("away"), RateLimited("slow down", retry_after=60)])
async def test_a_kept_tag_is_given_when_the_upstream_is_away(tmp_path: Path, failure: RegistryError) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
    upstream.refuse = {"resolve": failure, "manifest": failure}
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        assert (await parts.registry.stat_manifest(A, ONE)).size == len(IMAGE)
        with pytest.raises(RegistryError) as caught:
            await parts.registry.manifest(A, Tag("cold"))
        assert caught.value is failure


async def test_a_kept_tag_is_given_when_only_the_new_manifest_cannot_be_had(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.add_manifest(NEWER, "library/a", "1")
        upstream.refuse = {"manifest": RateLimited("quota")}
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE


@pytest.mark.parametrize("code", [ErrorCode.MANIFEST_UNKNOWN, ErrorCode.UNAUTHORIZED, ErrorCode.DENIED])
async def test_a_refusal_of_the_upstream_is_passed_on_also_for_a_kept_tag(
    tmp_path: Path, code: ErrorCode
) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.refuse = {"resolve": RegistryError(code)}
        with pytest.raises(RegistryError) as caught:
            await parts.registry.manifest(A, ONE)
        assert caught.value.code is code


async def test_an_upstream_that_hangs_holds_a_kept_tag_no_longer_than_the_deadline(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream, deadline=0.02) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.add_manifest(NEWER, "library/a", "1")
        upstream.hold["resolve"] = asyncio.Event()
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        assert (await parts.registry.stat_manifest(A, ONE)).size == len(IMAGE)
        assert verbs(upstream).count("resolve") == 2, "the question goes on behind, once"
        upstream.hold["resolve"].set()


async def test_a_store_that_cannot_write_fails_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file where the root folder should be")
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path / "root", upstream, spool=tmp_path / "spool") as parts:
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        assert (await parts.registry.manifest(A, digest)).body == IMAGE
        upstream.refuse["resolve"] = RateLimited("slow down")
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE, "memory has it"


async def test_a_manifest_that_is_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
    path = tmp_path / f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
    path.write_bytes(b"")
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.manifest(A, digest)).body == IMAGE
    assert path.read_bytes() == IMAGE


async def test_a_head_of_a_cold_blob_moves_no_content(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.stat_blob(A, digest)).size == len(LAYER)
        assert await parts.store.blob_size(digest) is None
    assert verbs(upstream) == ["stat_blob"]


async def test_a_warm_blob_asks_the_upstream_nothing_also_after_a_restart(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream) as parts:
        assert await pull(parts, digest, upstream) == LAYER
    async with joined(tmp_path, upstream) as parts:
        assert await whole(await parts.registry.blob(A, digest)) == LAYER
        assert (await parts.registry.stat_blob(A, digest)).size == len(LAYER)
    assert verbs(upstream) == ["blob"]


async def test_a_repository_without_the_blob_gets_none_of_what_another_has(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        for ask in (parts.registry.blob, parts.registry.stat_blob):
            with pytest.raises(RegistryError) as caught:
                await ask(B, digest)
            assert caught.value.code is ErrorCode.BLOB_UNKNOWN
        upstream.refuse["stat_blob"] = Unavailable("away")
        with pytest.raises(Unavailable):
            await parts.registry.blob(B, digest)


async def test_a_repository_that_has_the_blob_upstream_is_linked_and_nothing_is_fetched_again(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    upstream.add(LAYER, "library/b")
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        assert await whole(await parts.registry.blob(B, digest)) == LAYER
        assert await whole(await parts.registry.blob(B, digest)) == LAYER
        assert await parts.store.is_linked(B, digest)
    assert verbs(upstream) == ["blob", "stat_blob"]


async def test_a_blob_that_a_kept_manifest_names_is_given_without_the_upstreams_word_only_when_it_is_away(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    image = upstream.add_manifest(IMAGE, "library/b", "1")
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        await parts.registry.manifest(B, image)
        with pytest.raises(RegistryError) as caught:
            await parts.registry.blob(B, digest)
        assert caught.value.code is ErrorCode.BLOB_UNKNOWN
    upstream.refuse["stat_blob"] = Unavailable("away")
    async with joined(tmp_path, upstream) as parts:  # nothing is in memory: the store is asked
        assert await whole(await parts.registry.blob(B, digest)) == LAYER
        upstream.refuse.clear()
        for _ in range(2):
            with pytest.raises(RegistryError) as caught:
                await parts.registry.blob(B, digest)
            assert caught.value.code is ErrorCode.BLOB_UNKNOWN, "the outage has left no right behind"
        assert not await parts.store.is_linked(B, digest)


@pytest.mark.parametrize("how", ["child", "urls", "type"])
async def test_naming_what_no_registry_checks_gives_access_to_nothing(tmp_path: Path, how: str) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    link = describe(LAYER, OCI_MANIFEST if how == "child" else foreign if how == "type" else "application/x")
    document: dict[str, object] = {"schemaVersion": 2}
    if how == "child":
        document |= {"mediaType": OCI_INDEX, "manifests": [link]}
    else:
        layers = [{**link, "urls": ["https://example.com/x"]} if how == "urls" else link]
        document |= {"mediaType": OCI_MANIFEST, "config": describe(b"{}"), "layers": layers}
    evil = upstream.add_manifest(json.dumps(document).encode(), "library/b")
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        await parts.registry.manifest(B, evil)
        for away in (False, True):
            if away:
                upstream.refuse["stat_blob"] = Unavailable("away")
            with pytest.raises(RegistryError):
                await parts.registry.blob(B, digest)
            with pytest.raises(RegistryError):
                await parts.registry.stat_blob(B, digest)


async def test_a_fill_under_way_serves_a_repository_only_after_it_was_allowed(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        blob = await opening
        with pytest.raises(RegistryError) as caught:
            await parts.registry.blob(B, digest)
        assert caught.value.code is ErrorCode.BLOB_UNKNOWN
        upstream.add(LAYER, "library/b")
        shared = await parts.registry.blob(B, digest)
        transfer.finish()
        assert await whole(blob) == await whole(shared) == LAYER
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await parts.store.is_linked(B, digest)
    assert verbs(upstream) == ["blob", "stat_blob", "stat_blob"]


async def test_a_blob_whose_data_is_gone_is_fetched_again_though_all_links_are_there(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        path = tmp_path / f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
        path.unlink()
        assert await pull(parts, digest, upstream) == LAYER
        os.truncate(path, 0)
        assert await pull(parts, digest, upstream) == LAYER
        assert path.read_bytes() == LAYER


async def test_a_blob_of_another_size_than_its_manifest_says_is_fetched_again(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    image = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, image)
        await parts.registry.settle()
        await pull(parts, digest, upstream)
        path = tmp_path / f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
        os.truncate(path, 100)
        assert await pull(parts, digest, upstream) == LAYER


async def test_a_manifest_that_lies_about_a_size_destroys_nothing(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER, "library/a")
    upstream.add(LAYER, "library/b")
    lie = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": describe(b"{}"),
            "layers": [{**describe(LAYER), "size": 1}],
        }
    ).encode()
    evil = upstream.add_manifest(lie, "library/b")
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
        await parts.registry.manifest(B, evil)
        assert (await parts.registry.stat_blob(B, digest)).size == len(LAYER)
        assert await whole(await parts.registry.blob(B, digest)) == LAYER
        assert await parts.store.blob_size(digest) == len(LAYER)
    async with joined(tmp_path / "cold", upstream) as parts:
        await parts.registry.manifest(B, evil)
        opening = asyncio.create_task(parts.registry.blob(B, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == LAYER


async def test_a_truncated_blob_is_noticed_after_a_restart_without_its_manifest_being_asked_for(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    image = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, image)
        await pull(parts, digest, upstream)
    path = tmp_path / f"docker/registry/v2/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data"
    os.truncate(path, 100)
    async with joined(tmp_path, upstream) as parts:
        assert await pull(parts, digest, upstream) == LAYER


async def test_a_tag_that_moved_is_not_moved_back_by_a_pull_of_the_old_manifest(tmp_path: Path) -> None:
    upstream = Puppet()
    old = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.stat_manifest(A, ONE)
        upstream.add_manifest(NEWER, "library/a", "1")
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        await parts.registry.manifest(A, old)
        await parts.registry.settle()
        assert (await parts.store.manifest(A, ONE)).body == NEWER


async def test_a_tag_that_was_refused_does_not_come_back_when_the_upstream_is_slow_or_away(
    tmp_path: Path,
) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.refuse["resolve"] = RegistryError(ErrorCode.MANIFEST_UNKNOWN, "deleted")
        for _ in range(2):
            with pytest.raises(RegistryError, match="deleted"):
                await parts.registry.manifest(A, ONE)
        upstream.refuse["resolve"] = Unavailable("away")
        with pytest.raises(RegistryError, match="deleted"):
            await parts.registry.manifest(A, ONE)
        upstream.refuse.clear()
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
        upstream.refuse["resolve"] = Unavailable("away")
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE


async def test_head_and_get_of_a_tag_agree_when_the_new_manifest_cannot_be_had(tmp_path: Path) -> None:
    upstream = Puppet()
    old = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        parts.put(b"{}", LAYER)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        new = upstream.add_manifest(NEWER, "library/a", "1")
        upstream.refuse["manifest"] = Unavailable("away")
        assert (await parts.registry.stat_manifest(A, ONE)).digest == old
        upstream.refuse.clear()
        assert (await parts.registry.stat_manifest(A, ONE)).digest == new


async def test_a_head_of_a_tag_whose_manifest_is_here_is_answered_from_its_bytes(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        upstream.lie = Descriptor(digest, 7, "application/vnd.docker.distribution.manifest.list.v2+json")
        found = await parts.registry.stat_manifest(A, ONE)
        assert (found.size, found.media_type) == (len(IMAGE), OCI_MANIFEST)


async def test_a_manifest_that_found_no_room_is_kept_once_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1")
    async with joined(tmp_path, upstream) as parts:

        async def full(*_args: object) -> None:
            raise StoreFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(parts.store, "put_manifest", full)
            await parts.registry.manifest(A, ONE)
            await parts.registry.settle()
            with pytest.raises(RegistryError):
                await parts.store.manifest(A, ONE)
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        assert (await parts.store.manifest(A, ONE)).body == IMAGE


async def test_many_tags_of_one_manifest_cost_its_first_client_nothing(tmp_path: Path) -> None:
    upstream = Puppet()
    tags = [f"t{number}" for number in range(200)]
    digest = upstream.add_manifest(IMAGE, "library/a", *tags)
    async with joined(tmp_path, upstream) as parts:
        for tag in tags:
            await parts.registry.stat_manifest(A, Tag(tag))
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
        kept = (await parts.store.tags(A, None, "")).names
    assert sorted(kept) == sorted(tags[-WAITING_TAGS:]), "the newest, bounded"


async def test_a_store_that_cannot_read_a_link_asks_the_upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream) as parts:
        await pull(parts, digest, upstream)
    async with joined(tmp_path, upstream) as parts:

        async def unreadable(*_args: object) -> None:
            raise Unavailable("the storage cannot be read")

        monkeypatch.setattr(parts.store, "is_linked", unreadable)
        monkeypatch.setattr(parts.store, "names", unreadable)
        assert await whole(await parts.registry.blob(A, digest)) == LAYER


async def test_many_cold_blobs_on_a_slow_disk_are_all_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Puppet()
    blobs = [upstream.add(b"%d" % number) for number in range(150)]
    async with joined(tmp_path, upstream) as parts:
        real = parts.store.open_blob

        async def slow(digest: Digest, start: int | None = 0) -> object:
            await asyncio.sleep(0.02)
            return await real(digest, start)

        monkeypatch.setattr(parts.store, "open_blob", slow)
        waiting = [asyncio.create_task(parts.registry.blob(A, digest)) for digest in blobs]
        for _ in blobs:
            (await upstream.next_transfer()).finish()
        for number, blob in enumerate(await asyncio.gather(*waiting)):
            assert await whole(blob) == b"%d" % number


async def test_tags_are_the_upstreams_else_ours_else_the_upstreams_failure(tmp_path: Path) -> None:
    upstream = Puppet()
    upstream.add_manifest(IMAGE, "library/a", "1", "2")
    async with joined(tmp_path, upstream) as parts:
        assert (await parts.registry.tags(A, None, "")).names == ("1", "2")
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.refuse["tags"] = Unavailable("away")
        assert (await parts.registry.tags(A, None, "")).names == ("1",)
        with pytest.raises(Unavailable, match="away"):
            await parts.registry.tags(B, None, "")
        upstream.refuse["tags"] = RegistryError(ErrorCode.NAME_UNKNOWN)
        with pytest.raises(RegistryError):
            await parts.registry.tags(A, None, "")


async def test_referrers_come_from_the_tag_where_the_upstream_has_no_api(tmp_path: Path) -> None:
    upstream = Puppet()
    subject = Digest.of(IMAGE)
    entry = {**describe(b"sbom", OCI_MANIFEST), "artifactType": "application/spdx+json"}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    upstream.add_manifest(index, "library/a", f"sha256-{subject.hex}")
    upstream.refuse["referrers"] = RegistryError(ErrorCode.UNSUPPORTED)
    async with joined(tmp_path, upstream) as parts:
        assert await parts.registry.referrers(A, subject) == (entry,)
        assert await parts.registry.referrers(A, Digest.of(b"other")) == ()


async def test_referrers_are_the_kept_ones_when_the_upstream_is_away(tmp_path: Path) -> None:
    upstream = Puppet()
    artifact = manifest(b"{}", subject=describe(IMAGE, OCI_MANIFEST), artifactType="application/spdx+json")
    digest = upstream.add_manifest(artifact, "library/a", "sbom")
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, digest)
        await parts.registry.settle()
        upstream.refuse["referrers"] = Unavailable("away")
        (found,) = await parts.registry.referrers(A, Digest.of(IMAGE))
        assert found["digest"] == str(digest)
        with pytest.raises(Unavailable):
            await parts.registry.referrers(A, Digest.of(b"other"))
