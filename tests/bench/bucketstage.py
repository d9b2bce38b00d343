"""What `bucket` measures: a mirror and a docker-registry, each on a bucket of the tests' S3 server.

The upstream is a docker-registry, behind a link for each of them, and one for who asks it directly. All of it
runs beside the load on one machine, in processes of its own.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from mirror.store import layout
from tests.bench.content import Blob, Content, Image
from tests.support.buckets import Bucket
from tests.support.linkprocess import Links
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace
from tests.support.registries import Registry, RegistryProcess
from tests.support.swift import SwiftServer

MIRROR, RIVAL, ITSELF = "mirror", "docker-registry 2.8.2", "upstream, or bucket, itself"
PEERS = (MIRROR, RIVAL)
LOOK = 0.05  # seconds between two looks at what the bucket has

Process = MirrorProcess | RegistryProcess


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run gave for a line of the table."""

    line: str
    who: str
    value: float | str


@dataclass(slots=True)
class Samples:
    """All of them."""

    values: dict[tuple[str, str], list[float | str]] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        self.values.setdefault((sample.line, sample.who), []).append(sample.value)

    def cell(self, line: str, who: str, form: str) -> str:
        """The median, and of several runs the least and the most, as `form` has them."""
        found = self.values.get((line, who), [])
        numbers = [value for value in found if not isinstance(value, str)]
        if not numbers:
            return "; ".join(map(str, found))
        median = form.format(statistics.median(numbers))
        if len(numbers) == 1:
            return median
        return f"{median} ({form.format(min(numbers))} to {form.format(max(numbers))})"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the programs keeps what it has: a bucket, and a folder of the mirror's own beside it."""

    bucket: Bucket
    folder: str


class Stage:
    """Everything that runs, in one workspace, with which it ends."""

    def __init__(self, space: Workspace) -> None:
        self._space = space
        upstream = Registry(space, "upstream")
        self._content = Content(upstream.storage)
        self.links = dict(zip((*PEERS, ITSELF), Links(space, upstream.port, 3).all, strict=True))
        self.server = SwiftServer(space)
        self._places = 0

    def image(self, name: str, *layers: int) -> Image:
        """A new one at the upstream, with layers of these sizes in bytes."""
        return self._content.image(f"bench/{name}", layers)

    def place(self) -> Place:
        """With nothing in it."""
        self._places += 1
        return Place(Bucket(self.server), str(self._space.folder(f"own-{self._places}")))

    def start(
        self, who: str, place: Place, *, redirect: bool, disk: Any = None, url: str | None = None
    ) -> Process:
        """One of the programs, which comes to the bucket by way of `url` where that is given."""
        storage = {"s3": place.bucket.parameters(url), "redirect": {"disable": not redirect}}
        config: dict[str, Any] = {"log": {"level": "info"}, "storage": storage}
        if who == MIRROR:
            config["cache"] = {"folder": place.folder, "disk": disk or {}}
            return MirrorProcess(self._space, self.links[who].url, config=config)
        config["proxy"] = {"remoteurl": self.links[who].url}
        process = RegistryProcess(self._space, "registry", ["docker-registry", "serve"], config)
        process.start()
        return process

    def wait_kept(self, place: Place, image: Image, *blobs: Blob, within: float) -> float:
        """Seconds until the bucket has these, with their links; `within` where it has not by then.

        NB: the bucket is asked, not the program: a registry that has not kept a blob yet would fetch it anew.
        """
        bucket, began = place.bucket, time.monotonic()
        wanted = set()
        for blob in blobs:
            for path in (layout.blob_data(blob.digest), layout.layer_link(image.repository, blob.digest)):
                wanted.add(f"{bucket.root}/{path}")
        while wanted - set(self.server.names(bucket.name, f"{bucket.root}/")):
            if time.monotonic() > began + within:
                return within
            time.sleep(LOOK)
        return time.monotonic() - began
