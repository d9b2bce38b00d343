"""A mirror that is killed (SIGKILL) at random moments, under pulls, while it evicts without end and fetches
blobs over several connections at once.

MIRROR_KILLS=200 is the proof, of a quarter of an hour; the few of a usual run only watch over it.
MIRROR_SEED repeats a run, as far as the machine lets it.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mirror.cache.eviction import Limits
from mirror.cache.spool import Spool
from tests.cache.kit import Clock
from tests.cache.test_keeper import shop
from tests.support import impatient
from tests.support.mirror_process import ROOT
from tests.support.modes import ENVIRONMENT, comes_in_one
from tests.support.orphans import Tree
from tests.support.procs import Workspace, wait_until
from tests.support.registries import RegistryProcess
from tests.support.scripted import Fault, Image, Upstream, in_thread

KILLS = int(os.environ.get("MIRROR_KILLS", "8"))
SEED = int(os.environ.get("MIRROR_SEED", "4"))
PULLERS = 4
REPOSITORIES = 12
IMAGES = 5  # of each, which share a layer; and two repositories share that as well
OWN, SHARED = 150_000, 300_000  # bytes of layers
RATE = 4_000_000  # bytes a second of each connection to the upstream
LIMIT = 2_500_000  # bytes: a fifth of what there is
LONGEST = 1.5  # seconds that a process lives, once it answers
ANSWER = 20.0  # seconds that a request takes at most
LATER = 10 * 86400.0  # seconds after which everything is old
PER_KILL = 10.0  # seconds that a round takes at most, on a busy machine

log = logging.getLogger(__name__)  # shown by -o log_cli=true -o log_cli_level=info


class Mirror(RegistryProcess):
    """The mirror of `url`, not started yet, with room for a fifth of it."""

    def __init__(self, space: Workspace, url: str, **cache: Any) -> None:
        argv = [sys.executable, impatient.__file__]
        env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **ENVIRONMENT}
        cache = {"maxsize": LIMIT, "segments": {"from": "64KiB"}, **cache}
        config = {"proxy": {"remoteurl": url, "ttl": "1h"}, "cache": cache}
        super().__init__(space, "killed", argv, config, env=env)


class Catalog:
    """What the upstream has, and what the right bytes are."""

    def __init__(self, upstream: Upstream, seed: int) -> None:
        noise = random.Random(seed)
        self.images: list[tuple[str, str, Image]] = []  # repository, tag
        self.bytes: dict[str, bytes] = {}
        shared = [noise.randbytes(SHARED) for _ in range(REPOSITORIES // 2)]
        for number in range(REPOSITORIES):
            for tag in map(str, range(IMAGES)):
                name = f"library/r{number}"
                image = upstream.add_image(name, tag, layers=[shared[number // 2], noise.randbytes(OWN)])
                self.images.append((name, tag, image))
                self.bytes.update({image.digest: image.manifest, **image.blobs})


class Puller(threading.Thread):
    """Pulls one image after the other from whatever answers at the port, until it is told to stop."""

    def __init__(self, port: int, catalog: Catalog, seed: int) -> None:
        super().__init__()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._port = port
        self._catalog = catalog
        self._chance = random.Random(seed)
        self._ending = threading.Event()
        self.start()

    def end(self) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        while not self._ending.is_set():
            name, tag, image = self._chance.choice(self._catalog.images)
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER)
            try:
                self._get(connection, f"{name}/manifests/{tag}", image.digest)
                for digest in image.blobs:
                    self._get(connection, f"{name}/blobs/{digest}", digest)
            except (OSError, http.client.HTTPException):
                self.outcomes["broken off"] += 1
                self._ending.wait(0.1)
            finally:
                connection.close()

    def _get(self, connection: http.client.HTTPConnection, path: str, digest: str) -> None:
        """What came has to be the beginning of what is right, and all of it where the answer ended well."""
        right = self._catalog.bytes[digest]
        connection.request("GET", f"/v2/{path}")
        response = connection.getresponse()
        got, complete = b"", False
        try:
            got = response.read()
            complete = True
        except http.client.IncompleteRead as error:
            got = error.partial
            raise
        finally:
            if response.status != 200:
                self.outcomes[f"{response.status}"] += 1
                self.wrong.append(f"{path}: {response.status} {got[:200]!r}")
            elif not right.startswith(got) or (complete and got != right):
                self.wrong.append(f"{path}: {len(got)} bytes, {len(right)} wanted")
        self.outcomes["whole"] += 1


@contextmanager
def pulling(port: int, catalog: Catalog) -> Iterator[list[Puller]]:
    """Load, for the time of the block."""
    pullers = [Puller(port, catalog, SEED + number) for number in range(PULLERS)]
    try:
        yield pullers
    finally:
        for puller in pullers:
            puller.end()


@pytest.mark.timeout(120 + KILLS * PER_KILL)
def test_whenever_it_is_killed_it_starts_again_gives_no_wrong_byte_and_leaves_nothing_behind(
    space: Workspace,
) -> None:
    upstream, chance = Upstream(), random.Random(SEED)
    catalog = Catalog(upstream, SEED)
    upstream.fault("GET", "/blobs/", Fault(rate=RATE))
    began, largest = time.monotonic(), 0
    with in_thread(upstream):
        mirror = Mirror(space, upstream.url)
        mirror.start()
        with pulling(mirror.port, catalog) as pullers:
            for _ in range(KILLS):
                time.sleep(chance.uniform(0, LONGEST))  # not for anything: any moment will do
                largest = max(largest, stored(mirror.storage))
                mirror.kill()
                mirror.start()
        outcomes = sum((puller.outcomes for puller in pullers), Counter[str]())
        assert [wrong for puller in pullers for wrong in puller.wrong] == []
        assert outcomes["whole"] > KILLS
        wait_until(lambda: stored(mirror.storage) <= LIMIT, "the limit is kept to")
        pulled = Puller(mirror.port, catalog, SEED)
        wait_until(lambda: pulled.outcomes["whole"] > 100, "it pulls as ever")
        pulled.end()
        assert (pulled.wrong, pulled.outcomes["broken off"]) == ([], 0)
        mirror.kill()
    told = mirror.log
    assert "Traceback" not in told
    evictions, segmented = told.count("eviction.done"), told.count("fill.segmented")
    assert evictions > 0
    assert (segmented == 0) == comes_in_one()
    left = asyncio.run(leave_nothing(mirror.storage, catalog))
    log.info(
        "%d kills in %.0f s: %s, %d segmented, %d evictions, at most %.2f of the limit; collected: %s",
        KILLS,
        time.monotonic() - began,
        dict(outcomes),
        segmented,
        evictions,
        largest / LIMIT,
        left,
    )


async def leave_nothing(root: Path, catalog: Catalog) -> list[str]:
    """What was left by the last kill; a collection, when all of it is old, leaves nothing of it."""
    tree = Tree.read(root)
    assert tree.wrong() == []
    left = tree.orphans()
    clock = Clock(time.time() + LATER)
    async with shop(root, Limits(), clock=clock) as at:
        assert [event async for event in at.collector.collect()][-1]["event"] == "summary"
        total = await at.inventory.total()
    Spool(root / "mirror" / "spool").sweep(86400, clock())
    tree = Tree.read(root)
    assert tree.orphans() == []
    assert tree.spooled == set()
    assert (total.blobs, total.bytes) == (len(tree.blobs), tree.size)
    assert {f"sha256:{digest}" for digest in tree.blobs} <= catalog.bytes.keys()
    return left


def stored(root: Path) -> int:
    """Bytes of blobs, while others write and delete."""
    total = 0
    for folder, _, files in os.walk(root / "docker/registry/v2/blobs"):
        for name in files:
            with suppress(FileNotFoundError):
                total += Path(folder, name).stat().st_size
    return total
