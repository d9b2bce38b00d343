"""A row of a whole image from far away: what a docker daemon does, through a link of 40 ms there and back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.content import Blob, Image
from tests.bench.figures import DIRECTLY, Figure, Line, Row
from tests.bench.peers import Peer
from tests.bench.reading import Client, Got, WrongError
from tests.bench.stage import Stage

ONE_WAY = 0.02  # seconds
LAYERS = 10
AT_A_TIME = 3  # docker's max-concurrent-downloads


def _far(stage: Stage, peer: Peer) -> Iterator[Figure]:
    """One cold pull from the upstream, one through the peer. The way from the client to the peer is short."""
    assert peer.link is not None, "this row is for peers with a link"
    image = stage.new(peer, "far", [stage.scale.layer] * LAYERS)
    for link in (stage.direct, peer.link):
        link.shape(delay=ONE_WAY)
    try:
        direct = pull(stage.direct.url, image)
        through = pull(peer.url, image)
        stage.settle(peer)
    finally:
        for link in (stage.direct, peer.link):
            link.shape()
    yield Figure("far-ratio", through / direct)
    yield Figure("far-seconds", through)
    yield Figure("far-seconds", direct, DIRECTLY)


def pull(base: str, image: Image) -> float:
    """Seconds: ping, HEAD of the tag, manifest by its digest, config, then the layers, a few at a time.

    Each connection is used again. Raises WrongError.
    """
    began = time.monotonic()
    with Client(base) as client:
        client.get("/v2/")
        if (head := client.get(image.by_tag, method="HEAD")).status != 200:
            raise WrongError(f"HEAD of the tag: {head.status}")
        _must(client.get(image.by_digest, digest=True), image.manifest)
        own, clients = threading.local(), [client]

        def one(blob: Blob) -> None:
            if not hasattr(own, "client"):
                own.client = Client(base)
                clients.append(own.client)
            _must(own.client.get(image.blob(blob), digest=True), blob)

        try:
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                list(pool.map(one, (image.config, *image.layers)))
        finally:
            for each in clients[1:]:
                each.close()
    return time.monotonic() - began


def _must(got: Got, blob: Blob) -> None:
    if (got.status, got.size, got.digest) != (200, blob.size, str(blob.digest)):
        raise WrongError(f"{got.status}, {got.size} bytes of {blob.size}, {got.digest}")


ROWS = [
    Row(
        "far",
        _far,
        [
            Line("far-ratio", "10 layers of 4 MB over 40 ms, cold ÷ directly", "<= 1", 2),
            Line("far-seconds", "10 layers of 4 MB over 40 ms, cold, seconds", digits=2),
        ],
        fills=True,
    )
]
