"""With no upstream, and with data directories of registry:2's and for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clients import HUB, Client, hub_ref
from tests.support.images import AMD64, Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, free_port, wait_until
from tests.support.pulls import Answer, blob_url, fetch, manifest_url, pull
from tests.support.recorder import Recorder
from tests.support.registries import Registry

pytestmark = pytest.mark.clients

WARM = ["library/small:1", "library/multi:1", "library/oci:1"]
COLD = "library/big:1"
PATIENCE = 10.0  # seconds that a client may have to wait to hear that there is no upstream


@pytest.fixture
def nowhere() -> str:
    """An upstream that refuses connections."""
    return f"http://127.0.0.1:{free_port()}"


def test_with_a_dead_upstream_it_starts_and_serves_what_it_has_to_every_client(
    client: Client, mirror: MirrorProcess, recorder: Recorder, catalog: Catalog, nowhere: str
) -> None:
    """Warm images pull by tag and by digest."""
    mirror.fresh(recorder.url)
    for ref in WARM:
        pull(mirror.url, catalog, catalog[ref])
    mirror.stop()
    mirror.point_at(nowhere)
    mirror.start()
    client.clear()
    for ref in WARM:
        image = catalog[ref]
        for name in (hub_ref(image), f"{HUB}/{image.name}@{image.digest}"):
            done = client.pull(name)
            assert done.ok, done.output
            client.verify(image, name)


def test_with_a_dead_upstream_cold_images_get_503_with_a_clear_text(
    start_mirror: Callable[..., MirrorProcess], catalog: Catalog, nowhere: str
) -> None:
    """By tag, by digest, and for a blob; soon, and without the address of the upstream's machine."""
    mirror, image = start_mirror(nowhere), catalog[COLD]
    answers: list[Answer] = [
        fetch(manifest_url(mirror.url, image)),
        fetch(manifest_url(mirror.url, image, image.digest)),
        fetch(blob_url(mirror.url, image, image.platforms[AMD64].layers[0])),
    ]
    for answer in answers:
        assert answer.status == 503
        [error] = json.loads(answer.body)["errors"]
        assert error["code"] == "UNAVAILABLE"
        assert error["message"] != "service unavailable", "the standard's text says nothing"
        assert answer.seconds < PATIENCE


def wait_for_blobs(registry: Registry, catalog: Catalog) -> None:
    """docker-registry in proxy mode stores by a second download, behind the client's."""
    digests = [digest for image in catalog.images for digest in catalog.objects(image)[1]]
    wait_until(lambda: all(registry.blob_file(digest).exists() for digest in digests), "all is stored")


def test_a_data_directory_of_docker_registry_in_proxy_mode_serves_its_images(
    space: Workspace,
    start_mirror: Callable[..., MirrorProcess],
    upstream: Registry,
    catalog: Catalog,
    nowhere: str,
) -> None:
    """Every image, by tag and by digest, with no upstream."""
    reference = Registry(space, "reference", proxy_of=upstream.url)
    for image in catalog.images:
        pull(reference.url, catalog, image)
    wait_for_blobs(reference, catalog)
    reference.stop()
    mirror = start_mirror(nowhere, storage=reference.storage)
    for image in catalog.images:
        pull(mirror.url, catalog, image)


@pytest.fixture
def filled(start_mirror: Callable[..., MirrorProcess], recorder: Recorder, catalog: Catalog) -> Path:
    """The storage of a mirror that had every image pulled through it, and has ended."""
    mirror = start_mirror(recorder.url)
    for image in catalog.images:
        pull(mirror.url, catalog, image)
    mirror.stop()
    recorder.clear()
    return mirror.storage


def test_a_data_directory_of_ours_is_served_by_docker_registry(
    space: Workspace, filled: Path, catalog: Catalog
) -> None:
    """As a plain registry: every image, by tag and by digest."""
    registry = Registry(space, "adopter", storage=filled)
    for image in catalog.images:
        pull(registry.url, catalog, image)
    registry.stop()


def test_a_data_directory_of_ours_is_served_by_docker_registry_in_proxy_mode(
    space: Workspace, filled: Path, recorder: Recorder, catalog: Catalog
) -> None:
    """It asks its upstream what the tags are, and fetches nothing."""
    registry = Registry(space, "adopting-proxy", proxy_of=recorder.url, storage=filled)
    for image in catalog.images:
        pull(registry.url, catalog, image)
    registry.stop()
    assert recorder.select("HEAD", "/manifests/"), "it did not ask the recorder"
    assert [str(e) for e in recorder.select("GET", "/(blobs|manifests)/")] == []
