"""Where the peers are measured: one upstream, a link to it for each peer, and images that all of them get."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests.bench.content import Content, Image
from tests.bench.peers import MIRROR, Kind, Peer
from tests.bench.reading import WrongError, check, get
from tests.bench.usage import wait_quiet
from tests.support.linkprocess import Link, Links
from tests.support.procs import HarnessError, Workspace
from tests.support.programs import find
from tests.support.registries import Registry

QUIET = 0.3  # seconds without a byte from the upstream: no fill goes on
SETTLE = 60.0  # seconds; registry:2 goes on after its clients have left
SYNC = 30.0  # seconds for the disk to have what was written; on a slow one the measurement goes on
YIELDING = 15  # nice(2) of what stands for other machines
FIRSTS = 6_000  # images: more than are answered in a second
SMALL = 6 << 10  # bytes of the small blob


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: bytes, seconds, clients."""

    large: int = 256 << 20  # the large blob
    fill: int = 1 << 30  # the blob that is being filled while hits are timed
    layer: int = 4 << 20  # of an image of ten
    load: int = 2  # seconds of one run of wrk
    sample: float = 2.0  # seconds for which hits are timed one by one
    readers: int = 200  # slow ones
    reading: float = 4.0  # seconds for which they read
    crowd: int = 20  # cold clients at once
    trees: Sequence[int] = (1, 1_000)  # images that are kept
    firsts: Sequence[int] = (FIRSTS,)  # images that are asked for for the first time
    many: int = 0  # images that share all but their manifests; 0: this is not measured
    survey: float = 120.0  # seconds to wait for the survey of them
    evicted: int = 400  # images, of which an eviction takes about half


FULL = Scale(many=100_000, survey=600.0)
QUICK = Scale(
    large=16 << 20,
    fill=64 << 20,
    layer=256 << 10,
    load=1,
    sample=0.3,
    readers=20,
    reading=1.0,
    crowd=5,
    trees=(1, 100),
    firsts=(),
    evicted=300,
)


class Stage:
    """Everything that runs, in one workspace, with which it ends."""

    def __init__(self, space: Workspace, scale: Scale, kinds: Iterable[Kind]) -> None:
        kinds = [kind for kind in kinds if kind.installed]
        self.space, self.scale = space, scale
        upstream = self._upstream = Registry(space, "upstream")
        self._content = Content(upstream.storage)
        links = self._links = Links(space, upstream.port, len(kinds) + 1)
        self.direct: Link = links.all[0]
        self.peers: list[Peer] = []
        self.lacking: dict[str, str] = {}  # peers that did not start, and why
        for kind, link in zip(kinds, links.all[1:], strict=True):
            try:
                self.peers.append(kind.start(space, link))
            except HarnessError as error:
                if kind.name == MIRROR:
                    raise
                self.lacking[kind.name] = str(error).partition("\n")[0]
        self._also: dict[str, Peer] = {}
        self._images: dict[str, Image] = {}
        self._slow: dict[str, float] = {}
        self._warm: set[tuple[str, str]] = set()

    @cached_property
    def small(self) -> Image:
        """Of one small layer."""
        return self.image("small", [SMALL])

    @cached_property
    def large(self) -> Image:
        """Of one large layer, for those who ask again."""
        return self.image("large", [self.scale.large])

    def image(self, name: str, layers: Sequence[int]) -> Image:
        """The image of this name, made when it is first asked for, and known to those that fill nothing."""
        if name not in self._images:
            image = self._images[name] = self._content.image(f"bench/{name}", layers)
            for peer in self.peers:
                if peer.publish is not None:
                    peer.publish(image)
        return self._images[name]

    def cold(self, peer: Peer, row: str, size: int) -> Image:
        """An image that the peer does not have yet, but for its manifest: clients have read that before.

        It is a new one for the peer each time; the next peer gets the same. Raises WrongError.
        """
        if peer.whole_images:
            raise WrongError("fills whole images only")
        image = self.new(peer, row, [size])
        for path in (image.by_tag, image.by_digest):
            manifest = image.manifest
            check(peer.url, path, manifest.size, str(manifest.digest))
        self.settle(peer)
        self._sync()
        return image

    def _sync(self) -> None:
        """Let the disk have what was written: nobody is to wait for what another has kept."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([find("sync"), "-f", str(self.space.root)], check=True, timeout=SYNC)

    def new(self, peer: Peer, row: str, layers: Sequence[int]) -> Image:
        """An image of which the peer has nothing; the next peer gets the same."""
        number = 0
        while (peer.name, f"bench/{row}-{number}") in self._warm:
            number += 1
        self._warm.add((peer.name, f"bench/{row}-{number}"))
        return self.image(f"{row}-{number}", layers)

    def warm(self, peer: Peer, image: Image) -> None:
        """Let the peer have all of the image, and see that what it gives is right. Raises WrongError."""
        if (peer.name, str(image.repository)) in self._warm:
            return
        wanted = {image.by_tag: image.manifest, image.by_digest: image.manifest}
        wanted |= {image.blob(blob): blob for blob in (image.config, *image.layers)}
        for path, blob in wanted.items():
            get(peer.url, path)
            self.settle(peer)
            check(peer.url, path, blob.size, str(blob.digest))
        self._warm.add((peer.name, str(image.repository)))

    def slow_direct(self, image: Image, rate: float) -> float:
        """Seconds for this layer from the upstream at so many bytes a second; once for all peers."""
        if image.layer not in self._slow:
            self.direct.shape(rate=rate)
            try:
                self._slow[image.layer] = get(self.direct.url, image.layer).seconds
            finally:
                self.direct.shape()
        return self._slow[image.layer]

    def also(self, name: str, start: Callable[[], Peer]) -> Peer:
        """A peer of one row's own, started when it is first asked for; it ends with the others."""
        if name not in self._also:
            self._also[name] = start()
        return self._also[name]

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The upstream and the links yield the processors; afterwards too, where only root may undo that."""
        groups = [self._upstream.service.process.pid, self._links.pid]
        for group in groups:
            os.setpriority(os.PRIO_PGRP, group, YIELDING)
        try:
            yield
        finally:
            with contextlib.suppress(PermissionError):
                for group in groups:
                    os.setpriority(os.PRIO_PGRP, group, 0)

    def settle(self, peer: Peer) -> None:
        """Wait until nothing comes from the upstream to this peer."""
        if (link := peer.link) is not None:
            wait_quiet(lambda: link.received, QUIET, SETTLE)
