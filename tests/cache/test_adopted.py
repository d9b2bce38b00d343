"""What registry:2 has left in its folder: read once, and left as it is, for the way back."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror import appkeeping, appupstreams
from mirror.cache.surveyor import Surveyor
from mirror.config import Config
from mirror.drivers.filesystem import FilesystemDriver
from mirror.ledger import scheduler
from mirror.ledger.inventory import Inventory
from mirror.oci.digest import Digest
from mirror.oci.names import Repository
from mirror.store import layout
from mirror.store.tree import Tree

NOW = 1.8e9  # seconds since the epoch
DIGEST, NAME = Digest.of(b"blob"), Repository("library/a")
KEY = f"{NAME}@{DIGEST}"
STATE = {KEY: {"Key": KEY, "ExpiryData": "2027-01-10T00:00:00Z", "EntryType": 0}}


async def survey(root: Path) -> tuple[list[str], float]:
    """One start: what is logged of registry:2's memory, and when the blob counts as used."""
    driver, inventory = FilesystemDriver(root, 25), Inventory(root / "mirror" / "inventory.sqlite")
    await inventory.open()
    try:
        with capture_logs() as told:
            await Surveyor(Tree(driver), inventory, root, lambda: NOW).survey()
        kept = await inventory.blob(DIGEST)
        assert kept is not None
        return [line["event"] for line in told if line["event"].startswith("scheduler.")], kept.used
    finally:
        await inventory.close()
        await driver.close()


async def test_what_registry_2_remembers_is_read_once_and_left(tmp_path: Path) -> None:
    file = tmp_path / scheduler.FILE
    file.write_text(json.dumps(STATE))
    before = file.read_bytes(), file.stat().st_mtime_ns
    data = tmp_path / layout.blob_data(DIGEST)
    data.parent.mkdir(parents=True)
    data.write_bytes(b"blob")
    link = tmp_path / layout.layer_link(NAME, DIGEST)
    link.parent.mkdir(parents=True)
    link.write_bytes(layout.link_bytes(DIGEST))
    first = await survey(tmp_path)
    assert first[0] == ["scheduler.read"]
    assert await survey(tmp_path) == ([], first[1])
    for path in (tmp_path / "mirror").iterdir():  # with all that is known of uses
        path.unlink()
    assert (await survey(tmp_path))[0] == ["scheduler.read"]
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


async def test_what_was_not_read_to_the_end_is_read_again(tmp_path: Path) -> None:
    """A first survey that a kill has ended has not told the inventory yet."""
    inventory = Inventory(tmp_path / "inventory.sqlite")
    await inventory.open()
    assert not await inventory.surveyed()
    await inventory.begin_survey(NOW)
    assert not await inventory.surveyed()
    await inventory.end_survey()
    assert await inventory.surveyed()
    await inventory.close()


@pytest.mark.parametrize(("ttl", "seconds"), [("720h", 720 * 3600.0), ("24h", 86400.0), ("0", 168 * 3600.0)])
async def test_what_registry_3_has_kept_was_fetched_its_ttl_before_it_expires(
    tmp_path: Path, ttl: str, seconds: float
) -> None:
    """registry:2 has no `ttl`, and where it is 0 nothing expires: then it is a week."""
    data = tmp_path / layout.blob_data(DIGEST)
    data.parent.mkdir(parents=True)
    data.write_bytes(b"blob")
    os.utime(data, (1.0, 1.0))  # a copy of the folder has lost the files' times
    fetched = int(time.time()) - 3600.0
    expiry = datetime.fromtimestamp(fetched + seconds, UTC).isoformat()
    (tmp_path / scheduler.FILE).write_text(json.dumps({KEY: {"ExpiryData": expiry}}))
    config = Config.model_validate(
        {
            "storage": {"filesystem": {"rootdirectory": str(tmp_path)}},
            "proxy": {"remoteurl": "http://upstream.test", "ttl": ttl},
        }
    )
    driver = FilesystemDriver(tmp_path, 25)
    built = appkeeping.build(config, driver, tmp_path / "mirror", appupstreams.routes(config.proxy))
    await built.inventory.open()
    try:
        await built.surveyor.survey()
        kept = await built.inventory.blob(DIGEST)
    finally:
        await built.inventory.close()
        await driver.close()
    assert kept is not None
    assert kept.used == fetched
