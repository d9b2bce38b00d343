"""What is set aside stays for a month, within limits of its own, and then goes by itself."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.cache import quarantine, scrubber
from mirror.cache.memory import Memory
from mirror.cache.quarantine import AGE, Cleaned, Quarantine
from mirror.cache.scrubber import Scrubber
from mirror.drivers.inmemory import InMemoryDriver
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.registry import Unavailable
from mirror.store import layout
from mirror.store.tree import Tree

OLD = 1e9  # seconds since the epoch: when a file was written, which says nothing of when it was set aside


def aside(folder: Path, name: str, data: bytes = b"spoilt") -> Path:
    """A file in the quarantine, since now."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(data)
    os.utime(file, (OLD, OLD))
    return file


def test_what_was_set_aside_a_month_ago_goes(tmp_path: Path) -> None:
    there = Quarantine(tmp_path / "quarantine")
    assert there.clean(time.time()) == Cleaned(0, 0)
    file = aside(there.folder, "sha256-a")
    (there.folder / "notes").mkdir()
    (there.folder / "link").symlink_to(tmp_path / "elsewhere")
    assert there.clean(time.time() + AGE - 60) == Cleaned(0, 0)
    assert file.exists()
    assert there.clean(time.time() + AGE + 60) == Cleaned(1, 6)
    assert {path.name for path in there.folder.iterdir()} == {"link", "notes"}


@pytest.mark.parametrize(("files", "size"), [(2, 100), (100, 12)])
def test_what_is_too_much_is_not_kept_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, size: int
) -> None:
    monkeypatch.setattr(quarantine, "FILES", files)
    monkeypatch.setattr(quarantine, "BYTES", size)
    there = Quarantine(tmp_path / "quarantine")
    first, second = (aside(there.folder, name) for name in ("a", "b"))
    assert there.accept(second)
    third = aside(there.folder, "c")
    assert not there.accept(third)
    assert (first.exists(), second.exists(), third.exists()) == (True, True, False)


class Shop:
    """A scrubber with its inventory, on a driver in memory."""

    def __init__(self, folder: Path, *, interval: float = 0.0, later: float = 0.0) -> None:
        self.driver, self.inventory, self.folder = InMemoryDriver(), Inventory(None), folder
        self.scrubber = Scrubber(
            Tree(self.driver),
            self.inventory,
            Memory(100, 0.0),
            folder,
            interval=interval,
            rate=1e9,
            clock=lambda: time.time() + later,
        )


async def test_the_scrub_empties_it_also_where_nothing_is_scrubbed(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "quarantine", later=AGE + 60)
    file = aside(shop.folder, "sha256-a")
    with capture_logs() as told:
        await shop.scrubber.run()
    assert not file.exists()
    assert [(line["event"], line["files"], line["bytes"]) for line in told] == [("quarantine.cleaned", 1, 6)]
    again = aside(shop.folder, "sha256-b")
    await shop.scrubber.run()  # it looks once a day
    assert again.exists()


async def test_a_folder_that_cannot_be_read_stops_no_scrub(tmp_path: Path) -> None:
    shop = Shop(tmp_path / "quarantine")
    shop.folder.write_text("no folder")
    with capture_logs() as told:
        await shop.scrubber.run()
    assert [line["event"] for line in told] == ["quarantine.not_cleaned"]


async def test_what_is_bad_is_known_by_whose_it_is_and_where_it_is_now(tmp_path: Path) -> None:
    shop, digest = Shop(tmp_path / "quarantine"), Digest.of(b"right")
    await shop.driver.put(layout.blob_data(digest), b"wrong")
    await shop.inventory.open()
    try:
        bad = await shop.scrubber.check(digest)
        assert bad is not None
        assert (bad.kind, bad.repositories, bad.moved_to) == (
            "blob",
            (),
            shop.folder / f"sha256-{digest.hex}",
        )
        assert await shop.scrubber.check(digest) is None  # it is not here any more
    finally:
        await shop.inventory.close()


async def test_of_a_disk_that_spoils_all_only_some_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look is a walk of all repositories."""
    monkeypatch.setattr(scrubber, "LOOKED_UP", 1)
    walks = 0

    async def holders(_tree: Tree, _digest: Digest) -> None:
        nonlocal walks
        walks += 1
        await asyncio.sleep(0)
        raise Unavailable("unreadable")

    monkeypatch.setattr(Tree, "holders", holders)
    shop = Shop(tmp_path / "quarantine")
    await shop.inventory.open()
    try:
        for data in (b"a", b"b"):
            await shop.driver.put(layout.blob_data(Digest.of(data)), b"wrong")
            assert await shop.scrubber.check(Digest.of(data)) is not None
    finally:
        await shop.inventory.close()
    assert walks == 1
