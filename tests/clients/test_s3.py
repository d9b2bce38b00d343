"""Real clients go where they are sent: a bucket of a real S3 server behind the mirror."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.buckets import Bucket
from tests.support.clients import Client, Podman, Skopeo, hub_ref
from tests.support.daemons import Containerd
from tests.support.images import Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.recorder import Recorder

pytestmark = pytest.mark.clients

MAKERS: dict[str, Callable[[Workspace, str], Client]] = {
    "skopeo": Skopeo,
    "podman": Podman,
    "containerd": Containerd,
}
REFS = ("library/small:1", "library/multi:1")


@pytest.mark.parametrize("name", MAKERS)
def test_a_client_pulls_cold_and_then_from_the_bucket(
    space: Workspace,
    recorder: Recorder,
    catalog: Catalog,
    bucket: Bucket,
    start_mirror: Callable[..., MirrorProcess],
    name: str,
) -> None:
    """The cold pull through the mirror, the warm one by redirects, without a blob from the upstream."""
    storage = {"s3": bucket.parameters()}
    folder = space.folder("own")
    config = {"storage": storage, "cache": {"folder": str(folder)}}
    mirror = start_mirror(recorder.url, name="on-s3", config=config, storage=folder)
    client = MAKERS[name](space, mirror.url)
    for ref in REFS:
        done = client.pull(hub_ref(catalog[ref]))
        assert done.ok, done.output
    wait_until(lambda: mirror.log.count("fill.done") == mirror.log.count("fill.started"), "all is kept")
    recorder.clear()
    client.clear()
    before = mirror.log.count("http.response.status=307")
    for ref in REFS:
        done = client.pull(hub_ref(catalog[ref]))
        assert done.ok, done.output
        client.verify(catalog[ref], hub_ref(catalog[ref]))
    assert recorder.select("GET", "/blobs/") == []
    assert mirror.log.count("http.response.status=307") > before
