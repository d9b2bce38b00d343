"""One fill, many readers: early, late, ranged, and those that leave."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients.conftest import Source
from tests.support.images import AMD64, Catalog
from tests.support.layers import sha256
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import wait_until
from tests.support.pulls import Answer, blob_url, fetch, pull
from tests.support.recorder import Recorder, Rule

pytestmark = [pytest.mark.clients, pytest.mark.usefixtures("each_mode")]

HALF = 1 << 20  # bytes: half of a layer of library/big
READERS = 50
RANGES = 6  # containerd 2.1 asks for as many at once


@pytest.fixture
def layer(catalog: Catalog) -> str:
    """The digest of a layer of 2 MiB."""
    return catalog["library/big:1"].platforms[AMD64].layers[0]


@pytest.fixture
def url(start_mirror: Callable[..., MirrorProcess], recorder: Recorder, catalog: Catalog, layer: str) -> str:
    """Where a mirror that has nothing yet has that layer; the upstream holds it back after half of it."""
    recorder.clear(Rule(path=layer, hold=HALF))
    mirror = start_mirror(recorder.url)
    return blob_url(mirror.url, catalog["library/big:1"], layer)


def assert_one_whole_get(recorder: Recorder, layer: str) -> None:
    """The upstream was asked for the layer once, for all of it."""
    asked = recorder.select("GET", layer)
    assert len(asked) == 1, recorder.trace()
    assert "range" not in asked[0].request_headers


def test_fifty_simultaneous_readers_of_a_cold_blob_share_one_fetch(
    url: str, recorder: Recorder, layer: str
) -> None:
    """All have their headers while the upstream holds back the second half; all get the right bytes."""
    begun: list[int] = []

    def read(number: int) -> Answer:
        return fetch(url, watch=lambda count: begun.append(number) if count == 0 else None)

    with ThreadPoolExecutor(READERS) as pool:
        answers = pool.map(read, range(READERS))
        wait_until(lambda: len(begun) == READERS, "every reader has its headers")
        recorder.release()
        assert {(answer.status, answer.digest) for answer in answers} == {(200, layer)}
    assert_one_whole_get(recorder, layer)


def test_fifty_simultaneous_pulls_of_whole_images_fetch_each_object_once(
    source: Source, mirror: MirrorProcess, catalog: Catalog
) -> None:
    """Cold, several images at once, also with tokens; each puller checks every digest."""
    mirror.fresh(source.recorder.url, source.login)
    images = [catalog[ref] for ref in ("library/small:1", "library/multi:1", "library/empty:1")]
    with ThreadPoolExecutor(READERS) as pool:
        pulls = [pool.submit(pull, mirror.url, catalog, images[n % len(images)]) for n in range(READERS)]
        for each in pulls:
            each.result()
    fetched = {what: count for what, count in source.asked().items() if what.startswith("GET")}
    assert fetched
    assert set(fetched.values()) == {1}, source.recorder.trace()


def test_six_open_ended_ranges_that_each_leave_early_share_one_fetch(
    url: str, recorder: Recorder, catalog: Catalog, layer: str
) -> None:
    """As containerd 2.1 asks: `bytes=N-`, closed after the chunk. Every chunk is right, with 206."""
    data = catalog.blobs[layer]
    size = -(-len(data) // RANGES)
    begun: list[int] = []

    def read(number: int) -> Answer:
        start = number * size
        return fetch(
            url,
            {"Range": f"bytes={start}-"},
            leave_at=min(size, len(data) - start),
            watch=lambda count: begun.append(number) if count == 0 else None,
        )

    with ThreadPoolExecutor(RANGES) as pool:
        answers = pool.map(read, range(RANGES))
        # A range's headers wait for its first bytes, so the other half of the readers has none yet.
        wait_until(lambda: len(begun) == RANGES // 2, "every reader of the first half has its headers")
        recorder.release()
        parts = list(answers)
    assert [part.status for part in parts] == [206] * RANGES
    assert [part.headers["content-range"] for part in parts] == [
        f"bytes {number * size}-{len(data) - 1}/{len(data)}" for number in range(RANGES)
    ]
    assert sha256(b"".join(part.body for part in parts)) == layer
    assert_one_whole_get(recorder, layer)


def test_a_late_reader_gets_what_is_there_and_then_the_rest_of_the_same_fetch(
    url: str, recorder: Recorder, layer: str
) -> None:
    """It joins when half has come, and has bytes of it before the upstream sends more."""
    late_bytes: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(fetch, url)
        wait_until(lambda: any(e.body_bytes == HALF for e in recorder.select("GET", layer)), "half has come")
        late = pool.submit(fetch, url, watch=late_bytes.append)
        wait_until(lambda: max(late_bytes, default=0) > 0, "the late reader has bytes")
        assert not early.done()
        recorder.release()
        assert [early.result().digest, late.result().digest] == [layer, layer]
    assert_one_whole_get(recorder, layer)


def test_the_fetch_goes_on_after_every_reader_has_left(url: str, recorder: Recorder, layer: str) -> None:
    """The only reader goes away in mid-body; the next one needs no upstream."""
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(fetch, url, leave_at=1)
        assert len(gone.result().body) == 1
    recorder.release()
    wait_until(lambda: all(e.outcome == "ok" for e in recorder.select("GET", layer)), "the fetch is whole")
    assert fetch(url).digest == layer
    assert_one_whole_get(recorder, layer)
