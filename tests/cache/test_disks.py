"""Which disk the limits are about."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror import appkeeping, appupstreams
from mirror.cache.disks import measured
from mirror.cache.spool import Spool
from mirror.config import Config
from mirror.drivers.filesystem import FilesystemDriver
from mirror.oci.digest import Digest
from mirror.store import layout

KIB = 1024
DIGEST = Digest.of(b"x")


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`, of another size."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is only one file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        assert shutil.disk_usage(folder).total != shutil.disk_usage(tmp_path).total
        yield Path(folder)


def spool_of(folder: Path, size: int) -> Spool:
    """One with so many bytes of a fill in it."""
    spool = Spool(folder)
    file = spool.open(DIGEST)
    file.write(0, [b"a" * size])
    file.close()
    return spool


def blobs(root: Path) -> Path:
    return root / layout.BLOBS


@pytest.mark.parametrize("link", ["docker", layout.ROOT, layout.BLOBS])
@pytest.mark.parametrize("is_there", [False, True])
def test_the_disk_is_that_on_which_blobs_lie(
    tmp_path: Path, other_disk: Path, link: str, is_there: bool
) -> None:
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(other_disk)
    if is_there:
        blobs(tmp_path).mkdir(parents=True, exist_ok=True)
    assert measured(blobs(tmp_path), Spool(tmp_path / "spool")).size == shutil.disk_usage(other_disk).total


def test_where_nothing_is_kept_yet_it_is_the_data_folders(tmp_path: Path) -> None:
    root = tmp_path / "none" / "yet"
    assert measured(blobs(root), Spool(root / "spool")).size == shutil.disk_usage(tmp_path).total


def test_what_is_spooled_on_another_disk_is_still_to_come_to_this_one(
    tmp_path: Path, other_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)  # what others write meanwhile is none of this test's business
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    there, here = spool_of(other_disk, 100 * KIB), spool_of(tmp_path / "spool", 100 * KIB)
    assert sum(there.sizes().values()) >= 100 * KIB
    assert measured(blobs(tmp_path), there).free == usage.free - sum(there.sizes().values())
    assert measured(blobs(tmp_path), here).free == usage.free


async def test_the_mirror_measures_it(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "docker").symlink_to(other_disk)
    text = {
        "storage": {"filesystem": {"rootdirectory": str(tmp_path)}},
        "proxy": {"remoteurl": "http://x.test"},
    }
    config = Config.model_validate(text)
    driver = FilesystemDriver(tmp_path, 4)
    keeping = appkeeping.build(config, driver, tmp_path / "mirror", appupstreams.routes(config.proxy))
    await keeping.inventory.open()
    try:
        held = await keeping.keeper._measure.take()
    finally:
        await keeping.inventory.close()
        await driver.close()
    assert held.disk is not None
    assert held.disk.size == shutil.disk_usage(other_disk).total
