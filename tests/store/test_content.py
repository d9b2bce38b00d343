"""The store's own rules: what is broken reads as missing and heals; what it writes, in which order."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.drivers.base import DriverError, NoSpaceError, PathNotFoundError, StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import parse
from mirror.oci.names import Repository, Tag
from mirror.registry import MANIFEST_LIMIT, RawManifest, RegistryError, Unavailable
from mirror.store import layout
from mirror.store.content import ContentStore
from mirror.store.errors import StoreError, StoreFull
from mirror.store.tree import Tree
from tests.store.faulty import FaultyDriver
from tests.store.samples import adopt, body_of, raw_manifest

REPOSITORY = Repository("library/app")
OTHER = Repository("library/other")
TAG = Tag("1.0")
LAYER = b"the bytes of a layer"
LAYER_DIGEST = Digest.of(LAYER)


def image_of(*layers: bytes, **more: object) -> bytes:
    """An OCI manifest with these layers."""
    parts = [
        {"mediaType": "application/x", "digest": str(Digest.of(layer)), "size": len(layer)}
        for layer in layers
    ]
    media_type = "application/vnd.oci.image.manifest.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, "config": parts[0], "layers": parts[1:], **more}
    return json.dumps(document).encode()


MANIFEST = raw_manifest(image_of(b"{}", LAYER))
DIGEST = MANIFEST.descriptor.digest
SUBJECT = {"mediaType": "application/x", "digest": str(DIGEST), "size": len(MANIFEST.body)}


async def fill(store: ContentStore, folder: Path) -> None:
    """One tagged manifest with one layer."""
    await adopt(store, REPOSITORY, LAYER, folder)
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)


async def read_tag(store: ContentStore) -> bytes:
    return (await store.manifest(REPOSITORY, TAG)).body


async def read_digest(store: ContentStore) -> bytes:
    return (await store.manifest(REPOSITORY, DIGEST)).body


async def read_layer(store: ContentStore) -> bytes:
    blob = await store.blob(REPOSITORY, LAYER_DIGEST)
    try:
        return await body_of(blob)
    finally:
        await blob.close()


Read = Callable[[ContentStore], Awaitable[bytes]]

BROKEN_LINKS = {
    "empty": b"",
    "no digest": b"garbage",
    "cut short": str(DIGEST).encode()[:40],
    "a newline more": str(DIGEST).encode() + b"\n",
    "not ASCII": "sha256:é".encode(),
    "too long": b"sha256:" + b"0" * 5000,
    "of nothing here": str(Digest.of(b"nothing here")).encode(),
}
CURRENT = layout.tag_current_link(REPOSITORY, TAG)
REVISION = layout.revision_link(REPOSITORY, DIGEST)
LAYER_LINK = layout.layer_link(REPOSITORY, LAYER_DIGEST)
BREAKS = [
    *((path, data, read_tag, name) for path in (CURRENT, REVISION) for name, data in BROKEN_LINKS.items()),
    *((LAYER_LINK, data, read_layer, name) for name, data in BROKEN_LINKS.items()),
    (layout.blob_data(DIGEST), b"", read_digest, "empty"),
    (layout.blob_data(DIGEST), MANIFEST.body[:-1], read_digest, "cut short"),
    (layout.blob_data(DIGEST), image_of(b"{}"), read_digest, "another manifest"),
    (layout.blob_data(DIGEST), b" " * (MANIFEST_LIMIT + 1), read_digest, "too long"),
    (layout.blob_data(DIGEST), None, read_digest, "missing"),
    (layout.blob_data(LAYER_DIGEST), b"", read_layer, "empty"),
    (layout.blob_data(LAYER_DIGEST), None, read_layer, "missing"),
]


@pytest.mark.parametrize(
    ("path", "data", "read"),
    [case[:3] for case in BREAKS],
    ids=[f"{case[0].removeprefix(layout.ROOT)[:40]}-{case[3]}" for case in BREAKS],
)
async def test_what_is_broken_reads_as_missing_is_told_once_and_heals(
    path: str, data: bytes | None, read: Read, driver: StorageDriver, tmp_path: Path
) -> None:
    await fill(ContentStore(driver), tmp_path)
    if data is None:
        await driver.delete(path)
    else:
        await driver.put(path, data)
    store = ContentStore(driver)
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(RegistryError) as caught:
                await read(store)
            assert caught.value.code in (ErrorCode.MANIFEST_UNKNOWN, ErrorCode.BLOB_UNKNOWN)
    # A tag that points to what this repository does not have is in order: the revision was expired.
    if not (path == CURRENT and data == BROKEN_LINKS["of nothing here"]):
        told = [entry["path"] for entry in logs if entry["event"] == "store.link.broken" and entry["reason"]]
        assert told
        assert len(told) == len(set(told)) == len(logs)
        assert set(told) <= {path, REVISION, LAYER_LINK}
    with capture_logs() as logs:
        await fill(store, tmp_path)
        assert await read(store) == (LAYER if read is read_layer else MANIFEST.body)
    assert logs == []


async def test_an_empty_file_is_the_blob_of_no_bytes(store: ContentStore, tmp_path: Path) -> None:
    digest = await adopt(store, REPOSITORY, b"", tmp_path)
    assert (await store.stat_blob(REPOSITORY, digest)).size == 0
    assert await store.blob_size(digest) == 0
    blob = await store.blob(REPOSITORY, digest)
    assert await body_of(blob) == b""
    await blob.close()


async def test_a_blob_of_another_size_than_known_is_broken(store: ContentStore, tmp_path: Path) -> None:
    await fill(store, tmp_path)
    blob = await store.blob(REPOSITORY, LAYER_DIGEST, size=len(LAYER))
    await blob.close()
    with pytest.raises(RegistryError) as caught:
        await store.blob(REPOSITORY, LAYER_DIGEST, size=len(LAYER) + 1)
    assert caught.value.code is ErrorCode.BLOB_UNKNOWN


async def test_a_revision_link_that_names_another_manifest_is_broken(
    driver: StorageDriver, store: ContentStore, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    another = raw_manifest(image_of(b"[]"))
    await store.put_manifest(REPOSITORY, another)
    await driver.put(REVISION, layout.link_bytes(another.descriptor.digest))
    with pytest.raises(RegistryError):
        await read_digest(store)
    assert not await store.is_linked(REPOSITORY, DIGEST)


async def test_a_link_may_lead_to_the_data_under_another_algorithm(
    driver: StorageDriver, store: ContentStore, tmp_path: Path
) -> None:
    """distribution keeps what was pushed by its sha512 under its sha256."""
    await fill(store, tmp_path)
    alias = Digest.of(LAYER, "sha512")
    await driver.put(layout.layer_link(REPOSITORY, alias), layout.link_bytes(LAYER_DIGEST))
    assert (await store.stat_blob(REPOSITORY, alias)).digest == alias
    blob = await store.blob(REPOSITORY, alias)
    assert await body_of(blob) == LAYER
    await blob.close()
    assert await store.blob_size(alias) is None


async def test_the_manifests_of_a_repository_are_its_blobs_as_well(
    store: ContentStore, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    blob = await store.blob(REPOSITORY, DIGEST)
    assert await body_of(blob) == MANIFEST.body
    await blob.close()
    assert (await store.stat_blob(REPOSITORY, DIGEST)).size == len(MANIFEST.body)


async def test_details_are_those_of_distribution_3(store: ContentStore) -> None:
    details = []
    for verb in (
        store.manifest(REPOSITORY, TAG),
        store.manifest(REPOSITORY, DIGEST),
        store.blob(REPOSITORY, DIGEST),
        store.tags(REPOSITORY, None, ""),
    ):
        with pytest.raises(RegistryError) as caught:
            await verb
        details.append((caught.value.code, caught.value.detail))
    assert details == [
        (ErrorCode.MANIFEST_UNKNOWN, "unknown tag=1.0"),
        (ErrorCode.MANIFEST_UNKNOWN, f"unknown manifest name=library/app revision={DIGEST}"),
        (ErrorCode.BLOB_UNKNOWN, str(DIGEST)),
        (ErrorCode.NAME_UNKNOWN, {"name": "library/app"}),
    ]


async def test_a_tag_moves_keeps_its_history_and_can_be_forgotten(
    driver: StorageDriver, store: ContentStore
) -> None:
    another = raw_manifest(image_of(b"[]"))
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    await store.put_manifest(REPOSITORY, another, TAG)
    assert (await store.resolve(REPOSITORY, TAG)).descriptor == another.descriptor
    history = f"{layout.tag_folder(REPOSITORY, TAG)}/index/sha256"
    assert await driver.list(history) == sorted([DIGEST.hex, another.descriptor.digest.hex])
    await store.tag(REPOSITORY, TAG, DIGEST)
    assert (await store.resolve(REPOSITORY, TAG)).manifest == MANIFEST
    await store.untag(REPOSITORY, TAG)
    await store.untag(REPOSITORY, TAG)
    with pytest.raises(RegistryError):
        await store.resolve(REPOSITORY, TAG)
    assert await read_digest(store) == MANIFEST.body


@pytest.mark.parametrize("is_tag_first", [True, False])
async def test_a_tag_that_is_forgotten_leaves_no_repository_behind(
    driver: StorageDriver, store: ContentStore, is_tag_first: bool
) -> None:
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    for step in (0, 1) if is_tag_first else (1, 0):
        if step == 0:
            await store.untag(REPOSITORY, TAG)
        else:
            await Tree(driver).drop_image(REPOSITORY, DIGEST)
    assert (await store.repositories(None, "")).names == ()
    with pytest.raises(PathNotFoundError):
        await driver.stat(f"{layout.REPOSITORIES}/{REPOSITORY}")


async def test_writing_goes_from_the_data_to_what_names_it_and_only_where_it_is_not_so_already(
    tmp_path: Path,
) -> None:
    driver = FaultyDriver(InMemoryDriver())
    store = ContentStore(driver)
    await fill(store, tmp_path)
    assert driver.writes == [
        ("move_in", layout.blob_data(LAYER_DIGEST)),
        ("put", LAYER_LINK),
        ("put", layout.blob_data(DIGEST)),
        ("put", REVISION),
        ("put", layout.tag_index_link(REPOSITORY, TAG, DIGEST)),
        ("put", CURRENT),
    ]
    driver.writes.clear()
    await store.put_manifest(REPOSITORY, MANIFEST, TAG)
    await store.tag(REPOSITORY, TAG, DIGEST)
    await store.link_blob(REPOSITORY, LAYER_DIGEST)
    assert driver.writes == []
    await store.put_manifest(OTHER, MANIFEST)
    assert driver.writes == [("put", layout.revision_link(OTHER, DIGEST))]


async def test_a_blob_is_kept_once_and_given_through_each_repository_that_was_given_it(
    store: ContentStore, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    assert await store.blob_size(LAYER_DIGEST) == len(LAYER)
    assert not await store.is_linked(OTHER, LAYER_DIGEST)
    with pytest.raises(RegistryError):
        await store.stat_blob(OTHER, LAYER_DIGEST)
    await store.link_blob(OTHER, LAYER_DIGEST)
    assert await store.is_linked(OTHER, LAYER_DIGEST)
    assert (await store.stat_blob(OTHER, LAYER_DIGEST)).size == len(LAYER)


async def test_a_blob_is_opened_without_a_repository(store: ContentStore, tmp_path: Path) -> None:
    with pytest.raises(RegistryError) as caught:
        await store.open_blob(LAYER_DIGEST)
    assert caught.value.code is ErrorCode.BLOB_UNKNOWN
    await fill(store, tmp_path)
    blob = await store.open_blob(LAYER_DIGEST)
    assert await body_of(blob, 4, 9) == LAYER[4:9]
    await blob.close()


async def test_a_discarded_blob_is_missing_until_it_is_kept_anew(
    driver: StorageDriver, store: ContentStore, tmp_path: Path
) -> None:
    await fill(store, tmp_path)
    reading = await store.open_blob(LAYER_DIGEST)
    await store.discard_blob(LAYER_DIGEST)
    await store.discard_blob(LAYER_DIGEST)
    assert await body_of(reading) == LAYER, "who reads it goes on"
    await reading.close()
    assert await store.blob_size(LAYER_DIGEST) is None
    with pytest.raises(PathNotFoundError):
        await driver.stat(layout.blob_folder(LAYER_DIGEST))
    with pytest.raises(RegistryError):
        await read_layer(store)
    await adopt(store, OTHER, LAYER, tmp_path)
    assert await read_layer(store) == LAYER


async def test_names_finds_what_a_manifest_of_this_repository_names(
    store: ContentStore,
) -> None:
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [SUBJECT]}
    ).encode()
    await store.put_manifest(REPOSITORY, MANIFEST)
    await store.put_manifest(OTHER, raw_manifest(index))
    found = await store.names(REPOSITORY, LAYER_DIGEST)
    assert found is not None
    assert (found.digest, found.size) == (LAYER_DIGEST, len(LAYER))
    assert await store.names(REPOSITORY, Digest.of(b"{}")) is not None, "the config"
    assert await store.names(REPOSITORY, DIGEST) is None, "a manifest does not name itself"
    assert await store.names(OTHER, DIGEST) is None, "an index does not make its children blobs"
    assert await store.names(OTHER, LAYER_DIGEST) is None, "its own manifests only"


async def test_names_passes_over_foreign_blobs_which_no_registry_checks(store: ContentStore) -> None:
    foreign = {
        "mediaType": "application/x",
        "digest": str(LAYER_DIGEST),
        "size": 1,
        "urls": ["https://x.test/"],
    }
    await store.put_manifest(REPOSITORY, raw_manifest(image_of(b"{}", layers=[foreign])))
    assert await store.names(REPOSITORY, Digest.of(b"{}")) is not None
    assert await store.names(REPOSITORY, LAYER_DIGEST) is None


async def test_matches_reads_the_bytes(driver: StorageDriver, store: ContentStore, tmp_path: Path) -> None:
    await fill(store, tmp_path)
    assert await store.matches(LAYER_DIGEST)
    await driver.put(layout.blob_data(LAYER_DIGEST), b"x" * len(LAYER))
    assert not await store.matches(LAYER_DIGEST)
    assert not await store.matches(Digest.of(b"not here"))


async def test_names_forgets_a_manifest_whose_link_is_gone(
    driver: StorageDriver, store: ContentStore
) -> None:
    await store.put_manifest(REPOSITORY, MANIFEST)
    assert await store.names(REPOSITORY, LAYER_DIGEST) is not None
    await driver.put(REVISION, b"")
    assert await store.names(REPOSITORY, LAYER_DIGEST) is None
    await driver.delete(REVISION)
    assert await store.names(REPOSITORY, LAYER_DIGEST) is None


async def test_a_scan_passes_over_broken_manifests_and_stray_names(
    driver: StorageDriver, store: ContentStore
) -> None:
    for number in range(40):
        await store.put_manifest(REPOSITORY, raw_manifest(image_of(b"{}", str(number).encode())))
    await driver.put(f"{layout.revisions(REPOSITORY, 'sha256')}/stray", b"x")
    await driver.put(layout.revision_link(REPOSITORY, Digest.of(b"not here")), b"sha256:")
    await driver.put(layout.blob_data(Digest.of(image_of(b"{}", b"7"))), b"broken")
    named = [await store.names(REPOSITORY, Digest.of(str(number).encode())) for number in range(40)]
    assert [number for number, found in enumerate(named) if found is None] == [7]


async def test_a_scan_is_bounded(store: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.store.manifests.SCAN_LIMIT", 20)
    layers = [str(number).encode() for number in range(30)]
    for layer in layers:
        await store.put_manifest(REPOSITORY, raw_manifest(image_of(b"{}", layer)))
    with capture_logs() as logs:
        found = [await store.names(REPOSITORY, Digest.of(layer)) for layer in layers]
    assert sum(descriptor is not None for descriptor in found) == 20
    assert logs[0]["event"] == "store.scan.cut"


async def test_referrers_have_their_type_and_annotations_and_their_bytes(
    driver: StorageDriver, store: ContentStore
) -> None:
    notes = {"org.example": "note"}
    signature = raw_manifest(
        image_of(b"{}", subject=SUBJECT, artifactType="application/sig", annotations=notes)
    )
    lost = raw_manifest(image_of(b"[]", subject=SUBJECT))
    for manifest in (MANIFEST, signature, lost):
        await store.put_manifest(REPOSITORY, manifest)
    await store.put_manifest(OTHER, raw_manifest(image_of(b"1", subject=SUBJECT)))
    assert len(await store.referrers(REPOSITORY, DIGEST)) == 2
    await store.discard_blob(lost.descriptor.digest)
    assert await store.referrers(REPOSITORY, DIGEST) == (
        {
            "mediaType": signature.descriptor.media_type,
            "digest": str(signature.descriptor.digest),
            "size": len(signature.body),
            "artifactType": "application/sig",
            "annotations": notes,
        },
    )


async def test_large_manifests_are_served_too(store: ContentStore) -> None:
    manifest = raw_manifest(image_of(b"{}", annotations={"filling": "x" * 3_000_000}))
    await store.put_manifest(REPOSITORY, manifest, TAG)
    assert await store.manifest(REPOSITORY, TAG) == manifest


async def test_a_failing_storage_is_unavailable_and_says_nothing_of_the_machine(tmp_path: Path) -> None:
    inner = InMemoryDriver()
    await fill(ContentStore(inner), tmp_path)
    driver = FaultyDriver(inner, fail_at=0, dead=True)
    store = ContentStore(driver)
    reads = {
        "resolve": store.resolve(REPOSITORY, TAG),
        "manifest": store.manifest(REPOSITORY, DIGEST),
        "blob": store.blob(REPOSITORY, LAYER_DIGEST),
        "stat_blob": store.stat_blob(REPOSITORY, LAYER_DIGEST),
        "tags": store.tags(REPOSITORY, None, ""),
        "repositories": store.repositories(None, ""),
        "referrers": store.referrers(REPOSITORY, DIGEST),
        "names": store.names(REPOSITORY, LAYER_DIGEST),
        "is_linked": store.is_linked(REPOSITORY, LAYER_DIGEST),
        "blob_size": store.blob_size(LAYER_DIGEST),
        "open_blob": store.open_blob(LAYER_DIGEST),
    }
    for name, verb in reads.items():
        with capture_logs() as logs, pytest.raises(Unavailable) as caught:
            await verb
        assert isinstance(caught.value.__cause__, DriverError), name
        assert "docker/" not in str(caught.value)
        assert [entry["event"] for entry in logs] == ["store.read.failed"]


async def test_a_storage_that_fails_in_the_middle_of_a_blob_breaks_it_off(tmp_path: Path) -> None:
    driver = FaultyDriver(InMemoryDriver())
    store = ContentStore(driver)
    await fill(store, tmp_path)
    blob = await store.open_blob(LAYER_DIGEST)
    driver.fail_reading = True
    with pytest.raises(Unavailable):
        await body_of(blob)
    await blob.close()


@pytest.mark.parametrize(("failure", "expected"), [(DriverError, StoreError), (NoSpaceError, StoreFull)])
async def test_what_cannot_be_kept_is_a_store_error_with_its_cause(
    failure: type[DriverError], expected: type[StoreError], tmp_path: Path
) -> None:
    driver = FaultyDriver(InMemoryDriver(), fail_at=0, dead=True, failure=failure)
    store = ContentStore(driver)
    source = tmp_path / "source"
    source.write_bytes(LAYER)
    for verb in (
        store.adopt_blob(REPOSITORY, LAYER_DIGEST, source),
        store.link_blob(REPOSITORY, LAYER_DIGEST),
        store.put_manifest(REPOSITORY, MANIFEST, TAG),
        store.tag(REPOSITORY, TAG, DIGEST),
        store.untag(REPOSITORY, TAG),
        store.discard_blob(LAYER_DIGEST),
    ):
        with pytest.raises(StoreError) as caught:
            await verb
        assert type(caught.value) is expected
        assert isinstance(caught.value.__cause__, failure)
    assert source.read_bytes() == LAYER


async def test_what_a_manifest_says_is_known_once_it_was_read(store: ContentStore, tmp_path: Path) -> None:
    """Of the type under which it was read only: one that does not say its type is what it is taken for."""
    await fill(store, tmp_path)
    assert store.parsed(MANIFEST) is None
    read = await store.manifest(REPOSITORY, DIGEST)
    assert store.parsed(read) == parse(MANIFEST.body)
    descriptor = Descriptor(
        DIGEST, len(MANIFEST.body), "application/vnd.docker.distribution.manifest.v2+json"
    )
    assert store.parsed(RawManifest(descriptor, MANIFEST.body)) is None


async def test_what_is_kept_is_said_at_once_or_not_at_all(store: ContentStore, tmp_path: Path) -> None:
    await fill(store, tmp_path)
    for digest in (LAYER_DIGEST, DIGEST):
        assert await store.blob_size(digest) is not None
    said = store.kept_at_once([LAYER_DIGEST, DIGEST])
    assert said in (None, [LAYER_DIGEST, DIGEST])
    missing = Digest.of(b"not here")
    assert await store.blob_size(missing) is None  # looked for once, so that the kernel knows
    assert store.kept_at_once([missing, LAYER_DIGEST]) in (None, [LAYER_DIGEST])


async def test_what_a_crash_has_left_of_a_blob_is_not_kept_at_once_either(tmp_path: Path) -> None:
    driver = FilesystemDriver(tmp_path / "root", 2)
    store = ContentStore(driver)
    await driver.put(layout.blob_data(LAYER_DIGEST), b"")
    with capture_logs() as events:
        assert store.kept_at_once([LAYER_DIGEST]) in (None, [])
        assert await store.blob_size(LAYER_DIGEST) is None
    assert [event["reason"] for event in events] == ["no bytes"]
    await driver.close()
