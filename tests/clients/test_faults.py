"""What goes wrong behind or below the mirror, and what a client gets then."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.clients import Skopeo, hub_ref
from tests.support.images import AMD64, Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.programs import require, require_root
from tests.support.pulls import blob_url, fetch
from tests.support.recorder import Recorder, Rule

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("each_mode")]

TINY = 1 << 20  # bytes: a disk on which no layer of library/big has room
MOST = 3 << 19  # bytes: three quarters of such a layer


@pytest.fixture
def layer(catalog: Catalog) -> str:
    """The digest of a layer of 2 MiB."""
    return catalog["library/big:1"].platforms[AMD64].layers[0]


@pytest.mark.parametrize("offset", [0, 1 << 20, -1], ids=["first byte", "in the middle", "last byte"])
def test_a_corrupted_blob_never_reaches_a_client_whole_and_is_not_kept(
    start_mirror: Callable[..., MirrorProcess], recorder: Recorder, catalog: Catalog, layer: str, offset: int
) -> None:
    """Wherever the wrong byte is; once the upstream is well again, so is the answer."""
    image, data = catalog["library/big:1"], catalog.blobs[layer]
    recorder.clear(Rule(path=layer, corrupt=offset % len(data)))
    mirror = start_mirror(recorder.url)
    answer = fetch(blob_url(mirror.url, image, layer))
    assert answer.status != 200 or (len(answer.body) < len(data) and not answer.complete)
    assert recorder.select("GET", layer), "the upstream was not asked"
    assert not mirror.blob_file(layer).exists()
    wait_until(lambda: mirror.spooled() == [], "the wrong bytes are dropped")

    recorder.clear()
    assert fetch(blob_url(mirror.url, image, layer)).digest == layer


@pytest.mark.parametrize(
    "fault",
    [{"truncate": TINY}, {"truncate": TINY, "reset": True}, {"reset": True}, {"status": 503}],
    ids=["cut with FIN", "cut with RST", "reset before the answer", "503"],
)
def test_a_client_without_a_way_back_notices_nothing_of_an_upstream_that_breaks_off(
    fault: dict[str, Any],
    mirror: MirrorProcess,
    skopeo: Skopeo,
    recorder: Recorder,
    catalog: Catalog,
    layer: str,
) -> None:
    """skopeo fails for good after one cut, one reset or one 503 of a layer: it gets none of them."""
    image = catalog["library/big:1"]
    recorder.clear(Rule(path=layer, method="GET", times=1, **fault))
    mirror.fresh(recorder.url)
    done = skopeo.pull(hub_ref(image))
    assert done.ok, done.output
    skopeo.verify(image, hub_ref(image))
    resumed = [e.request_headers.get("range") is not None for e in recorder.select("GET", layer)]
    assert resumed == [False, "truncate" in fault], recorder.trace()


def test_after_kill_9_in_mid_fill_the_next_pull_resumes_by_range(
    start_mirror: Callable[..., MirrorProcess], recorder: Recorder, catalog: Catalog, layer: str
) -> None:
    """What the spool had is not fetched again, and the bytes are right."""
    image, data = catalog["library/big:1"], catalog.blobs[layer]
    recorder.clear(Rule(path=layer, hold=MOST))
    mirror = start_mirror(recorder.url)
    got: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        broken = pool.submit(fetch, blob_url(mirror.url, image, layer), watch=got.append)
        wait_until(lambda: mirror.spooled() != [] and got != [], "some of it is in the spool, and sent")
        mirror.kill()
        recorder.release()
        assert not broken.result().complete
    recorder.clear()
    mirror.start()
    assert fetch(blob_url(mirror.url, image, layer)).digest == layer
    asked = recorder.select("GET", layer)
    assert len(asked) == 1, recorder.trace()
    resumed = re.fullmatch(r"bytes=(\d+)-", asked[0].request_headers.get("range", ""))
    assert resumed is not None, recorder.trace()
    assert 0 < int(resumed[1]) <= MOST
    assert (asked[0].status, asked[0].body_bytes) == (206, len(data) - int(resumed[1]))


def test_with_a_full_disk_a_pull_succeeds_and_nothing_of_it_is_kept(
    space: Workspace, mirror: MirrorProcess, skopeo: Skopeo, recorder: Recorder, catalog: Catalog
) -> None:
    """The mirror says in its log that the disk is full, and goes on."""
    require_root()
    require("mount")
    image = catalog["library/big:1"]
    roomy, tiny = mirror.storage, space.folder("tiny")
    space.mount_tmpfs(tiny, TINY)
    mirror.stop()
    mirror.storage = tiny
    try:
        mirror.point_at(recorder.url)
        mirror.start()
        done = skopeo.pull(hub_ref(image))
        assert done.ok, done.output
        skopeo.verify(image, hub_ref(image))
        kept = [digest for digest in image.platforms[AMD64].layers if mirror.blob_file(digest).exists()]
        assert kept == []
        wait_until(lambda: mirror.spooled() == [], "the room is free again")
        assert re.search("fill.not_keeping.*bytes are wanted", mirror.log)
    finally:
        mirror.stop()
        mirror.storage = roomy
        mirror.start()
