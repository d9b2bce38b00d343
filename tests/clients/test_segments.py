"""Layers that come over several connections, and over one: no client sees a difference."""

from __future__ import annotations

import pytest

from tests.support.clients import Client, hub_ref
from tests.support.images import AMD64, Catalog
from tests.support.linkprocess import Links
from tests.support.mirror_process import MirrorProcess
from tests.support.modes import comes_in_one
from tests.support.procs import Workspace, wait_until
from tests.support.recorder import CHUNK, Recorder
from tests.support.registries import Registry

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("each_mode")]

RATE = 1.5e6  # bytes a second of each connection: a layer of 2 MiB is worth several


@pytest.fixture(scope="module")
def slow(space: Workspace, upstream: Registry) -> Recorder:
    """In front of `upstream`, where each connection brings as much."""
    link = Links(space, upstream.port, 1).all[0]
    link.shape(rate=RATE)
    recorder = Recorder(link.url)
    space.on_close(recorder.stop)
    return recorder


def test_an_image_pulls_right_and_each_byte_of_it_is_fetched_once(
    client: Client, slow: Recorder, mirror: MirrorProcess, catalog: Catalog
) -> None:
    slow.clear()
    before = mirror.log.count("fill.segmented")
    mirror.fresh(slow.url)
    client.clear()
    image = catalog["library/big:1"]
    done = client.pull(hub_ref(image))
    assert done.ok, done.output
    client.verify(image, hub_ref(image))
    for digest in image.platforms[AMD64].layers:
        wait_until(lambda: mirror.blob_file(digest).exists(), "it is kept")  # noqa: B023 - waited for here
        asked, size = slow.select("GET", digest), len(catalog.blobs[digest])
        assert mirror.blob_file(digest).read_bytes() == catalog.blobs[digest]
        assert len(asked) == 1 or not comes_in_one(), slow.trace()
        # Where a first connection is cut because another one goes on, some is under way.
        assert size <= sum(each.body_bytes for each in asked) <= size + 8 * CHUNK, slow.trace()
    assert (mirror.log.count("fill.segmented") == before) == comes_in_one()
