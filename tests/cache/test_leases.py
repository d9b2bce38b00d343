"""Leave to repeat an answer: given for what is kept and fresh, and ended by whatever changes that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from mirror.cache import leases as leasing
from mirror.cache import lessor
from mirror.cache.freshness import Policy
from mirror.cache.leases import Leases
from mirror.cache.lessor import LEASE_SECONDS
from mirror.cache.memory import Memory
from mirror.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import Condition, RegistryError, Unavailable
from tests.cache.kit import A, B, Clock, Parts, joined, whole
from tests.cache.test_pullthrough import IMAGE, LAYER, NEWER, ONE, pull
from tests.support.puppet import Puppet

DIGEST, BLOB = Digest.of(IMAGE), Digest.of(LAYER)
POLICY = Policy(default=40.0, negative=10.0)


@pytest.fixture
def upstream() -> Puppet:
    """Has IMAGE as library/a:1, and its blobs."""
    made = Puppet()
    made.add_manifest(IMAGE, "library/a", "1")
    made.add(LAYER)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory() -> Memory:
    return Memory(1000, 10.0)


@pytest.fixture
async def parts(
    tmp_path: Path, upstream: Puppet, clock: Clock, memory: Memory
) -> AsyncGenerator[Parts, None]:
    """IMAGE was pulled a moment ago, by its tag."""
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock, memory=memory) as made:
        made.put(b"{}")
        await made.registry.manifest(A, ONE)
        await pull(made, BLOB, upstream)
        await made.registry.settle()
        await whole(await made.registry.blob(A, BLOB))
        yield made


def by_tag(parts: Parts) -> Lease | None:
    return parts.registry.lease_manifest(A, ONE, DIGEST)


def by_digest(parts: Parts) -> Lease | None:
    return parts.registry.lease_manifest(A, DIGEST, DIGEST)


def of_blob(parts: Parts) -> Lease | None:
    return parts.registry.lease_blob(A, BLOB, len(LAYER))


Ask = Callable[[Parts], Lease | None]


async def test_a_tag_may_be_repeated_while_it_is_fresh(parts: Parts, clock: Clock) -> None:
    """Not a moment longer; and after a check for as long again."""
    lease = by_tag(parts)
    assert lease is not None
    assert lease.fresh_until == clock.now + 40.0
    assert lease.holds(clock.now + 39.9)
    assert not lease.holds(clock.now + 40.0)
    clock.now += 40
    assert by_tag(parts) is None
    await parts.registry.manifest(A, ONE)
    renewed = by_tag(parts)
    assert renewed is not None
    assert renewed.holds(clock.now + 39.9)


@pytest.mark.parametrize("ask", [by_digest, of_blob])
async def test_what_a_digest_names_is_always_fresh_but_comes_by_again(
    ask: Ask, parts: Parts, clock: Clock
) -> None:
    """So that whatever nobody thought of ends some time."""
    lease = ask(parts)
    assert lease is not None
    assert lease.fresh_until is None
    assert lease.holds(clock.now + LEASE_SECONDS - 0.1)
    assert not lease.holds(clock.now + LEASE_SECONDS)


async def test_a_place_is_repeated_until_its_url_is_near_its_end(parts: Parts, clock: Clock) -> None:
    lease = parts.registry.lease_blob(A, BLOB, len(LAYER), clock.now + 10)
    assert lease is not None
    assert lease.holds(clock.now + 9.9)
    assert not lease.holds(clock.now + 10)
    clock.now += 10
    assert parts.registry.lease_blob(A, BLOB, len(LAYER), clock.now) is None


async def test_a_place_has_no_part_in_a_longer_lease(parts: Parts, clock: Clock) -> None:
    assert of_blob(parts) is not None
    placed = parts.registry.lease_blob(A, BLOB, len(LAYER), clock.now + 10)
    assert placed is not None
    assert not placed.holds(clock.now + 10)


async def test_a_manifest_that_was_read_as_a_blob_depends_on_its_image_all_the_same(
    parts: Parts, clock: Clock
) -> None:
    """Where some of the image is missing, on its upstream; a blob's bytes depend on neither."""
    await whole(await parts.registry.blob(A, DIGEST))
    as_blob = parts.registry.lease_blob(A, DIGEST, len(IMAGE))
    assert as_blob is not None
    assert by_digest(parts) is not as_blob
    parts.registry.lease_blob(A, DIGEST, len(IMAGE), clock.now + 10)
    named = by_digest(parts)
    assert named is not None
    assert named.holds(clock.now + 10)


async def test_one_lease_serves_all_who_ask_for_the_same(parts: Parts) -> None:
    assert by_tag(parts) is by_tag(parts)
    assert by_tag(parts) is not by_digest(parts)


async def test_nothing_is_leased_that_is_not_here_or_not_what_was_answered(parts: Parts) -> None:
    other = Digest.of(NEWER)
    assert parts.registry.lease_manifest(A, ONE, other) is None
    assert parts.registry.lease_manifest(A, Tag("2"), DIGEST) is None
    assert parts.registry.lease_manifest(B, DIGEST, DIGEST) is None
    assert parts.registry.lease_manifest(A, other, other) is None
    assert parts.registry.lease_blob(B, BLOB, len(LAYER)) is None
    assert parts.registry.lease_blob(A, BLOB, len(LAYER) + 1) is None


async def test_a_moved_tag_ends_its_lease_and_no_other(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    tagged, named, blob = by_tag(parts), by_digest(parts), of_blob(parts)
    assert tagged is not None
    assert named is not None
    assert blob is not None
    upstream.add_manifest(NEWER, "library/a", "1")
    clock.now += 40
    await parts.registry.manifest(A, ONE)
    assert tagged.is_ended
    assert named.holds(clock.now)
    assert blob.holds(clock.now)


async def test_a_refused_tag_ends_its_lease(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    """However long it would have been fresh."""
    lease = by_tag(parts)
    assert lease is not None
    clock.now += 40
    upstream.refuse["resolve"] = RegistryError(ErrorCode.MANIFEST_UNKNOWN)
    with pytest.raises(RegistryError):
        await parts.registry.manifest(A, ONE)
    clock.now -= 20
    assert not lease.holds(clock.now)
    assert by_tag(parts) is None


def image_goes(memory: Memory) -> None:
    memory.forget_image(A, DIGEST)


def manifest_bytes_go(memory: Memory) -> None:
    memory.forget_blob(DIGEST)


def link_goes(memory: Memory) -> None:
    memory.forget_link(A, BLOB)


def blob_goes(memory: Memory) -> None:
    memory.forget_blob(BLOB)


@pytest.mark.parametrize(
    ("ask", "change"),
    [
        (by_tag, image_goes),
        (by_tag, manifest_bytes_go),
        (by_digest, image_goes),
        (by_digest, manifest_bytes_go),
        (of_blob, link_goes),
        (of_blob, blob_goes),
    ],
)
async def test_what_is_deleted_ends_in_the_same_call(
    ask: Ask, change: Callable[[Memory], None], parts: Parts, memory: Memory, clock: Clock
) -> None:
    """Eviction, purge, collection and scrub tell the memory, whatever they delete; see their own tests."""
    lease = ask(parts)
    assert lease is not None
    change(memory)
    assert not lease.holds(clock.now)
    assert ask(parts) is None


async def test_a_tag_that_is_deleted_here_is_asked_for_anew(
    parts: Parts, memory: Memory, clock: Clock
) -> None:
    """The next request writes it again; one that was repeated would not."""
    lease = by_tag(parts)
    assert lease is not None
    memory.forget_tag(A, ONE)
    assert not lease.holds(clock.now)


async def test_a_part_of_an_image_is_repeated_only_while_the_rest_could_be_had(
    tmp_path: Path, upstream: Puppet, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as it is looked at again; a whole image does not need its upstream."""
    monkeypatch.setattr(lessor, "LATELY", 0.0)
    async with joined(tmp_path / "x", upstream, policy=POLICY, clock=clock) as made:
        await made.registry.manifest(A, ONE)
        await made.registry.settle()
        lease = by_tag(made)
        assert lease is not None
        assert lease.holds(clock.now)
        well, upstream.well = upstream.well, Condition("upstream.test", blobs=Unavailable("away"))
        assert not lease.holds(clock.now)
        upstream.well = well
        assert lease.holds(clock.now)


async def test_a_whole_image_is_repeated_without_its_upstream_until_a_part_of_it_is_gone(
    parts: Parts, upstream: Puppet, clock: Clock, memory: Memory
) -> None:
    """The layer, too, of which the lease says nothing."""
    upstream.well = Condition("upstream.test", blobs=Unavailable("away"))
    await parts.registry.manifest(A, ONE)  # which has looked
    lease = by_tag(parts)
    assert lease is not None
    assert lease.holds(clock.now)
    memory.forget_blob(Digest.of(b"of another image"))
    assert lease.holds(clock.now)
    memory.forget_blob(BLOB)
    assert not lease.holds(clock.now)
    assert not lease.is_ended


async def test_a_stretched_freshness_is_not_leased_beyond_its_own(
    parts: Parts, upstream: Puppet, clock: Clock
) -> None:
    """A quota that recovers makes the tag due at once."""
    upstream.well = Condition("upstream.test", stretch=10.0)
    lease = by_tag(parts)
    assert lease is not None
    assert lease.fresh_until == clock.now + 400.0
    assert not lease.holds(clock.now + 40.0)
    clock.now += 40
    assert by_tag(parts) is None


async def test_repeated_answers_count_as_uses(tmp_path: Path, upstream: Puppet, clock: Clock) -> None:
    """All of them, at the time of the last."""
    uses: list[tuple[Digest, Repository, float, int]] = []
    async with joined(
        tmp_path / "x", upstream, policy=POLICY, clock=clock, note_use=lambda *use: uses.append(use)
    ) as made:
        await made.registry.manifest(A, ONE)
        await made.registry.settle()
        lease = by_tag(made)
        assert lease is not None
        lease.used(7, clock.now + 1)
    assert uses == [(DIGEST, A, clock.now, 1), (DIGEST, A, clock.now + 1, 7)]


def test_so_many_leases_are_out_and_the_oldest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose lease nobody could end must not be repeated."""
    monkeypatch.setattr(leasing, "LIMIT", 2)
    table, clock = Leases(), Clock()
    made = [Lease(clock, 0.0, 2e9) for _ in range(3)]
    for number, lease in enumerate(made):
        table.grant((A, Tag(str(number)), DIGEST), lease)
    assert [lease.is_ended for lease in made] == [True, False, False]
    table.digest_changed(DIGEST)
    assert all(lease.is_ended for lease in made)


def test_that_an_upstream_is_there_is_looked_at_now_and_then() -> None:
    """A look costs more than a repeated answer; a no is never believed again."""
    clock, looks, there = Clock(), [], True

    def ask() -> bool:
        looks.append(clock.now)
        return there

    check = lessor._Lately(ask, clock)
    assert all(check() for _ in range(5))
    assert len(looks) == 1
    there = False
    assert check()
    clock.now += lessor.LATELY
    assert not check()
    there = True
    assert check()
    assert len(looks) == 3
