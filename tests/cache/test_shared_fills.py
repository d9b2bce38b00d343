"""One blob at several upstreams: what they share, and that the bad day of one is not the others'."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import Condition, RateLimited, RegistryError, Unavailable
from tests.cache.kit import joined, until, whole
from tests.support.puppet import Puppet

DATA = bytes(range(256)) * 2000
HERE, THERE, ELSEWHERE = Repository("one.test/a"), Repository("two.test/a"), Repository("two.test/b")
GIVE_UP = RateLimited("come back later", retry_after=3600)


class Several(Puppet):
    """Upstreams by the first part of the name."""

    def condition(self, repository: Repository) -> Condition:
        return Condition(repository.name.split("/")[0])

    def add_to(self, *repositories: Repository) -> Digest:
        """DATA, as a blob of these."""
        for repository in repositories:
            self.add(DATA, repository.name)
        return Digest.of(DATA)


async def test_a_blob_that_one_upstream_gives_up_is_carried_on_by_another_that_has_confirmed_it(
    tmp_path: Path,
) -> None:
    upstream = Several()
    digest = upstream.add_to(HERE, THERE)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(HERE, digest))
        transfer = await upstream.next_transfer()
        transfer.send(300_000)
        blobs = [await opening, await parts.registry.blob(THERE, digest)]
        reading = [asyncio.create_task(whole(blob)) for blob in blobs]
        transfer.fail(GIVE_UP)
        rest = await upstream.next_transfer()
        assert rest.start == 300_000
        rest.finish()
        assert await asyncio.gather(*reading) == [DATA, DATA]
        await until(lambda: parts.fills.ended(digest) == 1)
        assert await parts.store.is_linked(HERE, digest)
        assert await parts.store.is_linked(THERE, digest)
    asked = [call.rpartition(" ")[0] for call in upstream.calls if call.startswith("blob")]
    short = digest.hex[:8]
    assert asked == [f"blob one.test/a {short} from", f"blob two.test/a {short} from"]


async def test_each_upstream_is_given_up_once(tmp_path: Path) -> None:
    upstream = Several()
    digest = upstream.add_to(HERE, THERE, ELSEWHERE)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(HERE, digest))
        transfer = await upstream.next_transfer()
        transfer.send(1000)
        blobs = [await opening, *[await parts.registry.blob(other, digest) for other in (THERE, ELSEWHERE)]]
        reading = [asyncio.create_task(whole(blob)) for blob in blobs]
        transfer.fail(GIVE_UP)
        (await upstream.next_transfer()).fail(GIVE_UP)
        for failed in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(failed, RateLimited)
    assert [call.split()[0] for call in upstream.calls].count("blob") == 2


async def test_a_blob_is_not_carried_on_by_an_upstream_that_does_not_have_it(tmp_path: Path) -> None:
    upstream = Several()
    digest = upstream.add_to(HERE)
    async with joined(tmp_path, upstream) as parts:
        opening = asyncio.create_task(parts.registry.blob(HERE, digest))
        transfer = await upstream.next_transfer()
        transfer.send(1000)
        reading = asyncio.create_task(whole(await opening))
        with pytest.raises(RegistryError) as caught:
            await parts.registry.blob(THERE, digest)
        assert caught.value.code is ErrorCode.BLOB_UNKNOWN
        transfer.fail(GIVE_UP)
        with pytest.raises(RateLimited):
            await reading


async def test_fills_that_wait_for_one_upstream_leave_room_to_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.cache.fills.EACH_LIMIT", 1)
    monkeypatch.setattr("mirror.cache.fills.EACH_WAITING_LIMIT", 3)
    monkeypatch.setattr("mirror.cache.fills.WAITING_LIMIT", 6)
    upstream = Several()
    hanging = [upstream.add(b"%d" % number, HERE.name) for number in range(5)]
    digest = upstream.add_to(THERE)
    async with joined(tmp_path, upstream) as parts:
        waiting = [asyncio.create_task(parts.registry.blob(HERE, each)) for each in hanging]
        stuck = await upstream.next_transfer()
        # One is refused, whichever comes last: each looks into the store first.
        await until(lambda: any(task.done() and task.exception() for task in waiting))
        done = [task for task in waiting if task.done() and task.exception()]
        assert [type(task.exception()) for task in done] == [Unavailable]
        opening = asyncio.create_task(parts.registry.blob(THERE, digest))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == DATA
        stuck.finish()
        for _ in hanging[2:]:
            (await upstream.next_transfer()).finish()
        for each in waiting:
            if each not in done:
                await whole(await each)
        await until(lambda: not parts.fills._turns)
