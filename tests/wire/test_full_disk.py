"""A disk that fills up in the middle of a write: a real one, of a few MiB."""

from __future__ import annotations

import asyncio
import random

import pytest

from mirror.cache.spool import Spool
from tests.support.modes import comes_in_one
from tests.support.procs import Workspace
from tests.support.programs import require, require_root
from tests.support.scripted import Upstream, serve, sha256
from tests.support.waiting import until
from tests.wire.conftest import running

NAME = "library/a"
LAYER = random.Random(10).randbytes(6_000_000)
SMALL = b"a layer that fits"
DISK = 2 << 20  # bytes


async def test_a_disk_that_is_full_in_the_middle_of_a_blob_fails_no_pull_and_is_used_again_afterwards(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    require("mount")
    root = space.folder("full")
    space.mount_tmpfs(root, DISK)
    upstream = Upstream()
    image = upstream.add_image(NAME, "1", layers=[LAYER, SMALL])
    with monkeypatch.context() as patch:
        # As if another process took the room after we had looked.
        patch.setattr(Spool, "free", lambda _self: 1 << 40)
        async with serve(upstream) as url, running(root, url) as mirror:
            assert (await mirror.get(f"{NAME}/manifests/1")).body == image.manifest
            answers = await asyncio.gather(*(mirror.get(f"{NAME}/blobs/{sha256(LAYER)}") for _ in range(4)))
            assert {(answer.status, answer.body) for answer in answers} == {(200, LAYER)}
            assert not mirror.data(sha256(LAYER)).exists()
            assert (await mirror.get(f"{NAME}/blobs/{sha256(SMALL)}")).body == SMALL
            assert await mirror.kept(sha256(SMALL)) == SMALL
            await until(lambda: list((root / "mirror" / "spool").iterdir()) == [])
    if comes_in_one():
        assert len(upstream.find("GET", f"/blobs/{sha256(LAYER)}")) == 1
