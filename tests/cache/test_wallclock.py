"""A clock that is set, forward or back, by an hour or by decades, deletes nothing that is in use."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirror import app, appkeeping, appupstreams
from mirror.cache.eviction import GRACE, Disk, Limits
from mirror.cache.pullthrough import PullThrough
from mirror.cache.wallclock import STEPS, WallClock
from mirror.config import Config
from mirror.drivers import paths
from mirror.drivers.filesystem import FilesystemDriver
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import OCI_INDEX
from mirror.registry import RawManifest
from tests.cache.kit import A, B, Clock
from tests.cache.test_keeper import HOUR, KIB, Shop, shop

YEAR = 365 * 24 * HOUR
JUMPS = [59 * 60.0, HOUR, 2 * HOUR, YEAR, 56 * YEAR]


@dataclass(frozen=True, slots=True)
class Times:
    """Two clocks: `wall` can be set, `steady` shows how much time has really passed."""

    wall: Clock
    steady: Clock
    clock: WallClock

    def __call__(self) -> float:
        return self.clock()

    def pass_by(self, seconds: float) -> None:
        """So much time passes, and the mirror looks at the clock meanwhile, as it does once a minute."""
        self.wall.now += seconds
        self.steady.now += seconds
        self.clock()


def _times(now: float) -> Times:
    wall, steady = Clock(now), Clock(77.0)
    return Times(wall, steady, WallClock(wall, steady))


@asynccontextmanager
async def _set(root: Path, limits: Limits) -> AsyncIterator[tuple[Shop, Times]]:
    """A shop whose files are as old as they are: they bear the time of this machine."""
    times = _times(time.time())
    async with shop(root, limits, clock=times.wall, ago=times.clock.ago) as at:
        yield at, times


async def _collected(at: Shop) -> set[str]:
    """The names of what a collection has removed."""
    return {event["name"] async for event in at.collector.collect() if event["event"] == "removed"}


def _data(root: Path, digest: Digest) -> Path:
    """Where a blob lies."""
    return root / "docker/registry/v2/blobs/sha256" / digest.hex[:2] / digest.hex / "data"


# The clock alone.


def test_without_a_step_the_clock_has_shown_what_it_should() -> None:
    times = _times(1e9)
    times.pass_by(500.0)
    assert times() == 1e9 + 500
    assert times.clock.ago(60.0) == 1e9 + 440


@pytest.mark.parametrize("jump", [1.0, HOUR, YEAR])
def test_after_a_step_forward_it_may_have_shown_the_time_before_for_as_long_as_is_asked(jump: float) -> None:
    times = _times(1e9)
    times.pass_by(100.0)
    times.wall.now += jump
    assert times.clock.ago(60.0) == 1e9 + 40
    times.pass_by(60.0)
    assert times.clock.ago(60.0) == 1e9 + 100
    times.pass_by(1.0)
    assert times.clock.ago(60.0) == 1e9 + 101 + jump
    assert times.clock.ago(100.0) == 1e9 + 61  # others ask about longer


def test_a_step_counts_from_when_it_is_seen_and_not_from_when_it_was_made() -> None:
    times = _times(1e9)
    times.wall.now += HOUR
    times.wall.now += 5000.0
    times.steady.now += 5000.0
    assert times.clock.ago(60.0) == 1e9 + 4940
    times.pass_by(61.0)
    assert times.clock.ago(60.0) == 1e9 + HOUR + 5001


def test_after_a_step_back_it_has_shown_nothing_earlier_than_it_shows_since() -> None:
    times = _times(1e9)
    times.pass_by(100.0)
    times.wall.now -= HOUR
    assert times.clock.ago(60.0) == 1e9 + 40 - HOUR


def test_there_and_back_the_earliest_of_the_times_between_counts() -> None:
    times = _times(1e9)
    for step in (-HOUR, YEAR, -YEAR, 3 * HOUR, YEAR):
        times.pass_by(1.0)
        times.wall.now += step
    times.pass_by(1.0)
    assert times.clock.ago(10.0) == 1e9 + 6 - HOUR - 10
    times.pass_by(8.5)
    assert times.clock.ago(10.0) == 1e9 + 14.5 - HOUR - 10
    times.pass_by(10.0)
    assert times.clock.ago(10.0) == 1e9 + 24.5 + 2 * HOUR + YEAR - 10


def test_a_drift_that_clocks_have_is_no_step_and_many_of_it_are() -> None:
    times = _times(1e9)
    for _ in range(4):
        times.wall.now += 0.4
        times.pass_by(1.0)
    assert times.clock.ago(60.0) == pytest.approx(1e9 + 4 - 60)
    times.pass_by(61.0)
    assert times.clock.ago(60.0) == pytest.approx(1e9 + 66.6 - 60, abs=1.0)


def test_however_often_it_is_set_little_is_remembered_and_a_wide_step_is_forgotten_in_time() -> None:
    times = _times(1e9)
    times.wall.now += YEAR
    for _ in range(5 * STEPS):
        times.pass_by(10.0)
        times.wall.now += 2.0
    times.clock()
    assert len(times.clock._before) <= STEPS
    assert times.clock.ago(HOUR) >= 1e9 + YEAR


# What is spared.


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_clock_that_is_put_forward_makes_no_pull_garbage(tmp_path: Path, jump: float) -> None:
    """Its blobs come first, its manifest last; all files are as old as the jump is wide."""
    async with _set(tmp_path, Limits()) as (at, times):
        await at.blob(b"a" * KIB, A)
        times.pass_by(60.0)
        times.wall.now += jump
        assert await _collected(at) == set()
        times.pass_by(HOUR - 120.0)
        assert await _collected(at) == set()
        times.pass_by(120.0)
        assert str(Digest.of(b"a" * KIB)) in await _collected(at)


async def test_a_clock_that_was_ahead_at_the_start_and_is_set_right_makes_no_pull_garbage(
    tmp_path: Path,
) -> None:
    async with _set(tmp_path, Limits()) as (at, times):
        times.wall.now += 2 * HOUR
        times.pass_by(10.0)
        await at.blob(b"a" * KIB, A)
        times.wall.now -= 2 * HOUR
        assert await _collected(at) == set()


@pytest.mark.parametrize("steps", [*((-jump,) for jump in JUMPS), (-HOUR, HOUR), (-YEAR, 2 * YEAR)])
async def test_what_is_used_during_a_collection_stays_though_the_clock_is_put_back(
    tmp_path: Path, steps: tuple[float, ...]
) -> None:
    """The use bears a time from before the collection; and the clock may be set right again soon."""
    async with _set(tmp_path, Limits()) as (at, times):
        orphans = [await at.blob(each * KIB, B) for each in (b"a", b"b")]
        times.pass_by(2 * HOUR)
        collection = at.collector.collect()
        assert (await anext(collection))["event"] == "removed"  # their links, together; their data is next
        times.wall.now += steps[0]
        for each in orphans:
            at.use(B, each)
        for step in steps[1:]:
            times.pass_by(0.0)
            times.wall.now += step
        rest = [event async for event in collection]
        assert rest[-1]["removed"] == 2, "the links"
        assert [await at.store.blob_size(each) for each in orphans] == [KIB, KIB]


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_write_that_goes_on_is_not_swept_away_when_the_clock_is_put_forward(
    tmp_path: Path, jump: float
) -> None:
    async with _set(tmp_path, Limits()) as (at, times):
        await at.image(A, "1", b"a" * KIB)
        writing = _data(tmp_path, Digest.of(b"a" * KIB)).with_name(f"{paths.TEMPORARY}{0:032x}")
        writing.write_bytes(b"half")
        times.wall.now += jump
        await _collected(at)
        assert writing.exists()
        times.pass_by(2 * HOUR)
        await _collected(at)
        assert not writing.exists()


@pytest.mark.parametrize("jump", JUMPS)
async def test_what_was_used_a_moment_ago_stays_when_the_clock_is_put_forward(
    tmp_path: Path, jump: float
) -> None:
    async with _set(tmp_path, Limits(maxsize=20 * KIB)) as (at, times):
        image = await at.image(A, "1", b"a" * 15 * KIB)
        times.pass_by(10.0)
        times.wall.now += jump
        assert not await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert await at.has(A, image)
        times.pass_by(60.0)
        assert await at.keeper.make_room(Digest.of(b"c"), 12 * KIB)
        assert not await at.has(A, image)


async def test_a_pass_over_the_limit_takes_nothing_because_the_clock_is_put_forward(tmp_path: Path) -> None:
    async with _set(tmp_path, Limits(maxsize=10 * KIB)) as (at, times):
        image = await at.image(A, "1", b"a" * 15 * KIB)
        times.wall.now += HOUR
        await at.keeper._look()
        assert await at.has(A, image)
        times.pass_by(61.0)
        await at.keeper._look()
        assert not await at.has(A, image)


async def test_what_the_disk_lacks_is_not_looked_for_in_what_was_used_a_moment_ago(tmp_path: Path) -> None:
    """Without it the disk would not be brought to `minfree`, and the old one would go for nothing."""
    disk = Disk(1000 * KIB, 10 * KIB)
    times = _times(time.time())
    limits = Limits(minfree=20 * KIB)
    async with shop(tmp_path, limits, disk=disk, clock=times.wall, ago=times.clock.ago) as at:
        old = await at.image(A, "1", b"a" * 5 * KIB)
        times.pass_by(HOUR)
        await at.image(B, "2", b"b" * 12 * KIB)
        times.wall.now += HOUR
        await at.keeper._look()
        assert await at.has(A, old)


async def test_nothing_old_goes_in_vain_because_the_clock_is_put_forward(tmp_path: Path) -> None:
    """What was used a moment ago cannot go; without it there would not be room enough."""
    async with _set(tmp_path, Limits(maxsize=20 * KIB)) as (at, times):
        old = await at.image(A, "1", b"a" * 5 * KIB)
        times.pass_by(HOUR)
        await at.image(B, "2", b"b" * 12 * KIB)
        times.wall.now += HOUR
        assert not await at.keeper.make_room(Digest.of(b"c"), 16 * KIB)
        assert await at.has(A, old)


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("ttl", [HOUR, 10 * HOUR])
async def test_nothing_expires_because_the_clock_is_put_forward(
    tmp_path: Path, ttl: float, jump: float
) -> None:
    """Also less than the gap after which all ages begin anew."""
    async with _set(tmp_path, Limits(ttl=ttl)) as (at, times):
        await at.keeper._look()
        image = await at.image(A, "1", b"a" * KIB)
        for share in (0.3, 0.3):
            times.pass_by(share * ttl)
            await at.keeper._look()
        times.wall.now += jump
        await at.keeper._look()
        times.pass_by(0.3 * ttl)
        await at.keeper._look()
        assert await at.has(A, image)
        for _ in range(5):
            times.pass_by(0.4 * ttl)
            await at.keeper._look()
        assert not await at.has(A, image)


async def test_a_machine_that_starts_in_1970_loses_nothing_when_its_clock_is_set(tmp_path: Path) -> None:
    """What was kept before it started, and what has come since, is collected and looked at throughout."""
    now = time.time()
    limits = Limits(ttl=10 * HOUR, maxsize=100 * KIB)
    async with shop(tmp_path, limits, clock=Clock(now)) as at:
        before = await at.image(A, "before", b"a" * KIB)
        await at.keeper._look()
    times = _times(30.0)
    async with shop(tmp_path, limits, clock=times.wall, ago=times.clock.ago) as at:
        since = await at.image(B, "since", b"b" * KIB)
        coming = await at.blob(b"coming" * KIB, B)
        for digest in (Digest.of(b"b" * KIB), since, coming):
            os.utime(_data(tmp_path, digest), (30.0, 30.0))
        await at.keeper._look()
        times.pass_by(120.0)
        assert await _collected(at) == set()
        times.wall.now = now
        await at.keeper._look()
        assert await _collected(at) == set()
        assert await at.keeper.make_room(Digest.of(b"c"), 10 * KIB)
        times.pass_by(5 * HOUR)
        await at.keeper._look()
        assert await at.has(A, before)
        assert await at.has(B, since)
        assert await at.kept(b"b" * KIB)
        assert str(coming) in await _collected(at)


# The whole mirror: what notes a use looks at the clock, so that no step stays unseen between two passes.


def _config(root: Path) -> Config:
    text = {"storage": {"filesystem": {"rootdirectory": str(root)}}, "proxy": {"remoteurl": "http://x.test"}}
    return Config.model_validate(text)


async def test_a_clock_that_is_put_back_and_forward_between_two_passes_makes_no_use_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = _times(time.time())
    monkeypatch.setattr(appkeeping, "WallClock", lambda: times.clock)
    config, driver = _config(tmp_path), FilesystemDriver(tmp_path, 4)
    keeping = appkeeping.build(config, driver, tmp_path / "mirror", appupstreams.routes(config.proxy))
    await keeping.inventory.open()
    try:
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
        digest = Digest.of(body)
        times.wall.now -= HOUR
        await keeping.store.put_manifest(A, RawManifest(Descriptor(digest, len(body), OCI_INDEX), body))
        times.wall.now += HOUR
        kept = await keeping.inventory.blob(digest)
    finally:
        await keeping.inventory.close()
        await driver.close()
    assert kept is not None
    assert kept.used == times.wall.now - HOUR
    assert times.clock.ago(GRACE) < kept.used, "it was used a moment ago"


def test_what_clients_are_given_is_noted_by_the_clock_of_those_who_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []

    class Told(PullThrough):
        def __init__(self, *parts: Any, **settings: Any) -> None:
            given.append(settings["clock"])
            super().__init__(*parts, **settings)

    clock = WallClock()
    monkeypatch.setattr(appkeeping, "WallClock", lambda: clock)
    monkeypatch.setattr(app, "PullThrough", Told)
    app.build(_config(tmp_path), FilesystemDriver(tmp_path, 4), tmp_path / "mirror" / "spool")
    assert given == [clock]
