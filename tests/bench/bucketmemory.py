"""What many cold blobs at once cost in memory while they go to a bucket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.bench.bucketstage import PEERS, Sample, Stage
from tests.bench.reading import WrongError, get
from tests.bench.usage import memory, peak

# How many blobs, and of how many bytes. All are asked for at once, by a client each.
MANY = ((100, 4 << 20), (20, 32 << 20))
RATE = 8e6  # bytes a second of each connection to the upstream
UPLOADING = 12.0  # seconds that what still goes to the bucket is watched behind the clients' backs, at most


def measure(stage: Stage) -> Iterator[Sample]:
    """Peak (PSS) of a fresh process over what it was, until all is kept; the clients' time; all in one."""
    image = stage.image("many", *(size for count, size in MANY for _ in range(count)))
    for who in PEERS:
        place, link = stage.place(), stage.links[who]
        link.shape(rate=RATE)
        process = stage.start(who, place, redirect=True)
        try:
            pid = process.service.process.pid
            before, began = memory(pid), time.monotonic()
            with peak(pid) as most:
                with ThreadPoolExecutor(len(image.layers)) as pool:
                    answers = list(pool.map(partial(get, process.url), map(image.blob, image.layers)))
                yield Sample("many-seconds", who, time.monotonic() - began)
                stage.wait_kept(place, image, *image.layers, within=UPLOADING)
            yield Sample("many", who, most.bytes / 1e6)
            yield Sample("many-more", who, (most.bytes - before) / 1e6)
            for answer, layer in zip(answers, image.layers, strict=True):
                if (answer.status, answer.size) != (200, layer.size):
                    raise WrongError(f"{who}: {answer.status}, {answer.size} bytes of {layer.size}")
        finally:
            link.shape()
            process.stop()
