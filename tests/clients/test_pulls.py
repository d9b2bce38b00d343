"""Every image pulls right with every client, and each object crosses the upstream link once."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.clients.conftest import Source
from tests.support.clients import Client, hub_ref
from tests.support.images import AMD64, Catalog
from tests.support.mirror_process import MirrorProcess

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("each_mode")]


def pull_all(client: Client, catalog: Catalog) -> None:
    """Pull each image that this client can take, for each of its platforms, and look at what came."""
    for image in catalog.for_client(client.name):
        for platform in image.platforms:
            done = client.pull(hub_ref(image), platform)
            assert done.ok, f"{image.ref} {platform}: {done.output}"
            client.verify(image, hub_ref(image), platform)


def test_each_object_of_every_image_is_fetched_once(
    client: Client, source: Source, mirror: MirrorProcess, catalog: Catalog
) -> None:
    """A cold pull of all images fetches each blob and manifest once; a warm one none at all."""
    mirror.fresh(source.recorder.url, source.login)
    client.clear()
    pull_all(client, catalog)
    fetched = {what: count for what, count in source.asked().items() if what.startswith("GET")}
    parts = [part for image in catalog.for_client(client.name) for part in image.platforms.values()]
    wanted = {digest for part in parts for digest in (part.manifest, part.config, *part.layers)}
    assert wanted <= {what.rsplit("/", 1)[1] for what in fetched}
    assert set(fetched.values()) == {1}, source.recorder.trace()

    source.clear()
    client.clear()
    pull_all(client, catalog)
    assert [what for what in source.asked() if what.startswith("GET")] == []


def test_a_cold_pull_asks_upstream_for_each_object_once_and_for_the_tag_by_one_head(
    client: Client, source: Source, mirror: MirrorProcess, catalog: Catalog
) -> None:
    """Manifest, config and three layers: five GETs and one HEAD; with tokens also one 401 and one token."""
    mirror.fresh(source.recorder.url, source.login)
    client.clear()
    image = catalog["library/small:1"]
    done = client.pull(hub_ref(image))
    assert done.ok, done.output

    part = image.platforms[AMD64]
    base = f"/v2/{image.name}"
    wanted = Counter([f"HEAD {base}/manifests/{image.tag}", f"GET {base}/manifests/{part.manifest}"])
    wanted.update(f"GET {base}/blobs/{digest}" for digest in (part.config, *part.layers))
    assert source.asked() == wanted, source.recorder.trace()
    if source.tokens is not None:
        refused = [exchange for exchange in source.recorder.exchanges if exchange.status == 401]
        assert (len(refused), len(source.tokens.requests)) == (1, 1), source.recorder.trace()
