"""Tags and images while time passes and the upstream has bad days: what is asked, given, and told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from mirror import provenance
from mirror.cache import images, manifests, pulse
from mirror.cache.fills import EACH_LIMIT
from mirror.cache.freshness import Policy, Rule
from mirror.cache.memory import Memory
from mirror.cache.patience import BEHIND
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import Condition, RateLimited, RawManifest, RegistryError, Unavailable
from tests.cache.kit import WAIT, A, B, Clock, Parts, joined, until, whole
from tests.cache.test_pullthrough import IMAGE, LAYER, NEWER, OCI_INDEX, ONE, describe, verbs
from tests.support.puppet import Puppet

POLICY = Policy(default=60.0, rules=(Rule("*:pinned", 3600.0),), stale=1000.0, negative=10.0)
CONFIG = b"{}"
AWAY = Unavailable("the upstream registry cannot be reached", retry_after=7)
GONE = RegistryError(ErrorCode.MANIFEST_UNKNOWN, "deleted")


async def kept_image(parts: Parts) -> None:
    """IMAGE is here under its tag, with its blobs."""
    parts.put(CONFIG, LAYER)
    await parts.registry.manifest(A, ONE)
    await parts.registry.settle()


async def told(parts: Parts, reference: Tag | Digest = ONE) -> tuple[RawManifest, provenance.Provenance]:
    """What a client gets, and what it is told."""
    said = provenance.begin()
    return await parts.registry.manifest(A, reference), said


@pytest.fixture
def upstream() -> Puppet:
    """Has IMAGE as library/a:1."""
    made = Puppet()
    made.add_manifest(IMAGE, "library/a", "1")
    return made


async def test_a_kept_image_is_read_once_however_much_is_asked_about_it(
    tmp_path: Path, upstream: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest is parsed where its digest is checked, and not again to see whether all of it is here."""
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await kept_image(parts)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        monkeypatch.setattr(images, "parse", lambda *_of: pytest.fail("it is parsed again"))
        given, said = await told(parts, Digest.of(IMAGE))
        assert (given.body, said.hit) == (IMAGE, True)
    assert verbs(upstream) == ["resolve", "manifest"], "of the first time"


async def test_a_fresh_tag_asks_nobody_also_after_a_restart(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        parts.put(CONFIG, LAYER)
        for _ in range(500):
            assert (await parts.registry.manifest(A, ONE)).body == IMAGE
            assert (await parts.registry.stat_manifest(A, ONE)).size == len(IMAGE)
        await parts.registry.settle()
    clock.now += 59
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        _, said = await told(parts)
    assert verbs(upstream) == ["resolve", "manifest"]
    assert (said.hit, said.ttl, said.fwd) == (True, 1, "")


async def test_a_cold_tag_that_is_asked_by_head_again_and_again_costs_one_head(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for _ in range(10):
            await parts.registry.stat_manifest(A, ONE)
        assert (await parts.registry.manifest(A, ONE)).body == IMAGE
    assert verbs(upstream) == ["resolve", "manifest"]


async def test_two_hundred_clients_of_a_due_tag_cost_one_question(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await kept_image(parts)
        clock.now += 60
        upstream.hold["resolve"] = asyncio.Event()
        many = [asyncio.create_task(told(parts)) for _ in range(200)]
        await until(lambda: len(upstream.calls) == 3)
        upstream.hold["resolve"].set()
        answers = await asyncio.gather(*many)
        assert {manifest.body for manifest, _ in answers} == {IMAGE}
        assert [said.collapsed for _, said in answers].count(False) == 1
        assert {(said.fwd, said.fwd_status, said.stored) for _, said in answers} == {("stale", 200, False)}
        await told(parts)
    assert verbs(upstream) == ["resolve", "manifest", "resolve"]


async def test_the_rule_of_a_tag_says_how_long_it_is_fresh(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    upstream.add_manifest(IMAGE, "library/a", "pinned")
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await parts.registry.manifest(A, Tag("pinned"))
        clock.now += 3599
        await parts.registry.manifest(A, Tag("pinned"))
        assert verbs(upstream).count("resolve") == 1
        clock.now += 1
        await parts.registry.manifest(A, Tag("pinned"))
        assert verbs(upstream).count("resolve") == 2


@pytest.mark.parametrize(
    ("namespace", "kept_as", "match"),
    [
        ("docker.io", "library/a", "library/a:1"),
        ("docker.io", "library/a", "docker.io/library/a:1"),
        ("quay.io", "quay.io/org/a", "quay.io/org/a:1"),
        ("reg.test:5000", "reg.test_5000/a", "reg.test_5000/a:1"),
        ("reg.test:5000", "reg.test_5000/a", "reg.test:5000/a:1"),
    ],
)
async def test_a_rule_may_name_a_tag_as_it_is_kept_and_as_people_type_it(
    tmp_path: Path, namespace: str, kept_as: str, match: str
) -> None:
    upstream, clock, name = Puppet(), Clock(), Repository(kept_as)
    upstream.well = Condition(namespace)
    upstream.add_manifest(IMAGE, kept_as, "1")
    policy = Policy(default=60.0, rules=(Rule(match, 3600.0),))
    async with joined(tmp_path, upstream, policy=policy, clock=clock) as parts:
        await parts.registry.manifest(name, ONE)
        clock.now += 3000
        await parts.registry.manifest(name, ONE)
    assert verbs(upstream).count("resolve") == 1


async def test_a_quota_that_runs_low_stretches_freshness(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    upstream.well = Condition("upstream.test", stretch=10.0)
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await kept_image(parts)
        clock.now += 599
        await told(parts)
        assert verbs(upstream).count("resolve") == 1
        upstream.well = Condition("upstream.test")
        await told(parts)
        assert verbs(upstream).count("resolve") == 2


async def test_a_deleted_tag_is_gone_after_its_freshness_and_stays_gone(
    tmp_path: Path, upstream: Puppet
) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await kept_image(parts)
        upstream.refuse["resolve"] = GONE
        assert (await told(parts))[0].body == IMAGE, "it is still fresh"
        clock.now += 60
        with pytest.raises(RegistryError, match="deleted"):
            await told(parts)
        await parts.registry.settle()
        with pytest.raises(RegistryError):
            await parts.store.manifest(A, ONE)
    upstream.refuse["resolve"] = AWAY
    for later in (5, 500):
        clock.now += later
        async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
            with pytest.raises(RegistryError) as caught:
                await told(parts)
            assert caught.value.code is ErrorCode.MANIFEST_UNKNOWN


async def test_a_refusal_of_credentials_takes_no_tag_out_of_the_tree(
    tmp_path: Path, upstream: Puppet
) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await kept_image(parts)
        upstream.refuse["resolve"] = RegistryError(ErrorCode.DENIED, "no")
        clock.now += 60
        with pytest.raises(RegistryError, match="no"):
            await told(parts)
        await parts.registry.settle()
        assert (await parts.store.manifest(A, ONE)).body == IMAGE
        upstream.refuse.clear()
        clock.now += 10
        assert (await told(parts))[0].body == IMAGE


async def test_what_is_not_there_is_asked_for_once_in_its_time(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    unknown = Digest.of(b"nothing")
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        for _ in range(3):
            for ask in (
                parts.registry.manifest(A, Tag("unknown")),
                parts.registry.manifest(A, unknown),
                parts.registry.stat_blob(B, unknown),
                parts.registry.blob(A, Digest.of(b"no blob")),
            ):
                with pytest.raises(RegistryError) as caught:
                    await ask
                assert caught.value.status == 404
        assert sorted(verbs(upstream)) == ["blob", "manifest", "resolve", "stat_blob"]
        clock.now += 10
        with pytest.raises(RegistryError):
            await told(parts, Tag("unknown"))
        assert verbs(upstream).count("resolve") == 2


async def test_a_copy_stands_in_until_it_is_too_old_and_says_so(tmp_path: Path, upstream: Puppet) -> None:
    clock = Clock()
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock) as parts:
        await kept_image(parts)
        upstream.refuse["resolve"] = AWAY
        clock.now += 900
        manifest, said = await told(parts)
        assert manifest.body == IMAGE
        assert (said.hit, said.ttl, said.detail) == (True, -840, "away")
        assert said.warning == (
            "this copy was last checked 15 min ago: the upstream registry cannot be reached"
        )
        clock.now += 100
        with pytest.raises(Unavailable, match="cannot be reached"):
            await told(parts)


async def test_a_tag_of_an_adopted_folder_stands_in_whatever_its_age(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await kept_image(parts)
    (tmp_path / "mirror" / "ledger.sqlite").unlink()
    upstream.refuse["resolve"] = AWAY
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        manifest, said = await told(parts)
    assert manifest.body == IMAGE
    assert "at an unknown time" in said.warning
    assert said.ttl is None


async def test_once_one_client_has_waited_in_vain_the_next_do_not_wait_and_few_checks_go_on_behind(
    tmp_path: Path, upstream: Puppet
) -> None:
    names = [Tag(f"t{number}") for number in range(20)]
    upstream.add_manifest(IMAGE, "library/a", *map(str, names))
    async with joined(tmp_path, upstream, deadline=3.0) as parts:
        await kept_image(parts)
        for name in names:
            await parts.registry.manifest(A, name)
        await parts.registry.settle()
        upstream.hold["resolve"] = asyncio.Event()
        before = len(upstream.calls)
        _, said = await told(parts)
        assert "did not answer within 3 s" in said.warning
        began = asyncio.get_running_loop().time()
        for name in names:
            assert (await told(parts, name))[0].body == IMAGE
        assert asyncio.get_running_loop().time() - began < 3.0, "all of them together"
        assert len(upstream.calls) - before == BEHIND
        upstream.hold["resolve"].set()
        upstream.hold.clear()
        await until(lambda: not parts.registry._checks._running._tasks)


async def test_where_nobody_is_to_wait_few_checks_go_on_behind(tmp_path: Path, upstream: Puppet) -> None:
    names = [Tag(f"t{number}") for number in range(20)]
    upstream.add_manifest(IMAGE, "library/a", *map(str, names))
    async with joined(tmp_path, upstream, deadline=0.0) as parts:
        parts.put(CONFIG, LAYER)
        for name in names:
            await parts.registry.manifest(A, name)
        await parts.registry.settle()
        before = len(upstream.calls)
        upstream.hold["resolve"] = asyncio.Event()
        for name in names:
            assert (await told(parts, name))[0].body == IMAGE
        await until(lambda: len(upstream.calls) > before)
        assert len(upstream.calls) - before <= BEHIND
        upstream.hold["resolve"].set()
        await until(lambda: not parts.registry._checks._running._tasks)
        upstream.add_manifest(NEWER, "library/a", "t0")
        await told(parts, names[0])
        await until(lambda: not parts.registry._checks._running._tasks)
        assert (await told(parts, names[0]))[0].body == NEWER


async def test_a_check_that_answers_in_time_makes_clients_wait_again(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, deadline=3.0) as parts:
        await kept_image(parts)
        upstream.hold["resolve"] = asyncio.Event()
        await told(parts)
        upstream.hold["resolve"].set()
        await until(lambda: not parts.registry._checks._running._tasks)
        del upstream.hold["resolve"]
        await told(parts)  # given at once; the check behind it is quick
        await until(lambda: not parts.registry._checks._running._tasks)
        upstream.add_manifest(NEWER, "library/a", "1")
        assert (await told(parts))[0].body == NEWER


async def test_an_upstream_in_trouble_is_not_asked_about_what_is_kept(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream) as parts:
        await kept_image(parts)
        upstream.well = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
        before = len(upstream.calls)
        for reference in (ONE, Digest.of(IMAGE)):
            manifest, said = await told(parts, reference)
            assert manifest.body == IMAGE
            assert said.hit
        assert len(upstream.calls) == before


@pytest.mark.parametrize("reference", [ONE, Digest.of(IMAGE)])
async def test_an_image_that_lacks_blobs_is_refused_while_they_cannot_be_had(
    tmp_path: Path, upstream: Puppet, reference: Tag | Digest
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        parts.put(CONFIG)
        assert (await told(parts, reference))[0].body == IMAGE, "the upstream is well"
        upstream.well = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
        upstream.refuse = dict.fromkeys(("resolve", "manifest", "stat_blob", "blob"), AWAY)
        said = provenance.begin()
        with pytest.raises(Unavailable, match="1 of 2 parts of this image are not kept here") as caught:
            await parts.registry.manifest(A, reference)
        assert (caught.value.status, caught.value.retry_after) == (503, 7)
        assert said.detail == "incomplete"
    async with joined(tmp_path, upstream, policy=POLICY) as parts:  # nobody remembers what is missing
        parts.put(LAYER)
        assert (await told(parts, reference))[0].body == IMAGE


async def test_many_clients_in_an_outage_look_at_the_disk_once(
    tmp_path: Path, upstream: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await kept_image(parts)
        upstream.well = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
        looks: list[Digest] = []
        look = parts.store.blob_size

        async def counted(digest: Digest) -> int | None:
            looks.append(digest)
            return await look(digest)

        monkeypatch.setattr(parts.store, "blob_size", counted)
        answers = await asyncio.gather(*(told(parts) for _ in range(100)))
        assert {manifest.body for manifest, _ in answers} == {IMAGE}
    assert sorted(looks, key=str) == sorted({Digest.of(CONFIG), Digest.of(LAYER)}, key=str)


async def test_an_incomplete_image_is_refused_also_by_the_first_who_finds_the_upstream_away(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.refuse["resolve"] = Unavailable("no answer", status=504)
        with pytest.raises(Unavailable, match="2 of 2 parts") as caught:
            await told(parts)
        assert caught.value.status == 503


async def test_an_incomplete_image_waits_longer_than_the_deadline_for_a_slow_upstream(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, deadline=0.02) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.hold["resolve"] = asyncio.Event()
        asking = asyncio.create_task(told(parts))
        await until(lambda: "upstream.test" in parts.registry._tagged._patience._slow)
        assert not asking.done()
        upstream.hold["resolve"].set()
        manifest, said = await asking
        assert manifest.body == IMAGE
        assert (said.fwd_status, said.detail) == (200, "")  # not the kept one, as one that stands in


async def test_a_limit_on_manifests_does_not_make_an_image_incomplete(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        upstream.refuse["resolve"] = RateLimited("the upstream registry limits us", retry_after=60)
        manifest, said = await told(parts)
        assert manifest.body == IMAGE
        assert said.detail == "limited"
        said = provenance.begin()
        with pytest.raises(RateLimited) as caught:
            await parts.registry.manifest(A, Tag("cold"))
        assert caught.value.retry_after == 60
        assert (said.fwd, said.fwd_status, said.warning) == (
            "uri-miss",
            429,
            "the upstream registry limits us",
        )


async def test_an_index_is_complete_with_any_one_platform(tmp_path: Path) -> None:
    upstream = Puppet()
    here, elsewhere = upstream.add_manifest(IMAGE), upstream.add_manifest(NEWER)
    entries = [describe(body, "application/vnd.oci.image.manifest.v1+json") for body in (NEWER, IMAGE)]
    index = f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":{entries}}}'.replace("'", '"')
    upstream.add_manifest(index.encode(), "library/a", "1")
    bad = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for reference in (ONE, elsewhere):
            await parts.registry.manifest(A, reference)
        await parts.registry.settle()
        upstream.well = bad
        with pytest.raises(Unavailable, match="3 of 3 parts"):
            await told(parts)
        upstream.well = Condition("upstream.test")
        await parts.registry.manifest(A, here)
        await parts.registry.settle()
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        parts.put(CONFIG, LAYER)
        upstream.well = bad
        assert (await told(parts))[0].body == index.encode()
        assert (await told(parts, here))[0].body == IMAGE
        with pytest.raises(Unavailable, match="1 of 3 parts"):
            await told(parts, elsewhere)


@pytest.mark.parametrize("is_alone", [False, True])
async def test_what_is_attached_to_an_image_makes_no_index_whole(tmp_path: Path, is_alone: bool) -> None:
    upstream = Puppet()
    provenance_of = upstream.add_manifest(IMAGE)
    entries = [
        {**describe(NEWER), "platform": {"os": "linux", "architecture": "amd64"}},
        {**describe(IMAGE), "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries[is_alone:]}).encode()
    upstream.add_manifest(index, "library/a", "1")
    missing = "2 of 2 parts" if is_alone else "1 of 1 parts"
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for reference in (ONE, provenance_of):
            await parts.registry.manifest(A, reference)
        await parts.registry.settle()
        upstream.well = Condition("upstream.test", trouble=AWAY, blobs=AWAY)
        with pytest.raises(Unavailable, match=missing):
            await told(parts)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        parts.put(CONFIG, LAYER)
        if is_alone:
            assert (await told(parts))[0].body == index
        else:
            with pytest.raises(Unavailable, match=missing):
                await told(parts)


async def test_a_cold_image_is_refused_when_only_its_blobs_cannot_be_had(
    tmp_path: Path, upstream: Puppet
) -> None:
    upstream.well = Condition("upstream.test", blobs=AWAY)
    async with joined(tmp_path, upstream) as parts:
        for reference in (ONE, Digest.of(IMAGE)):
            with pytest.raises(Unavailable, match="parts of this image"):
                await told(parts, reference)


async def test_a_blob_that_a_kept_manifest_names_waits_for_the_deadline_and_no_longer(
    tmp_path: Path, upstream: Puppet
) -> None:
    async with joined(tmp_path, upstream, deadline=0.02) as parts:
        await kept_image(parts)
        upstream.hold["stat_blob"] = asyncio.Event()
        said = provenance.begin()
        assert await whole(await parts.registry.blob(A, Digest.of(LAYER))) == LAYER
        assert (said.hit, said.detail) == (True, "away")
        assert not await parts.store.is_linked(A, Digest.of(LAYER))


async def test_a_confirmation_that_comes_after_the_deadline_is_remembered(
    tmp_path: Path, upstream: Puppet
) -> None:
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream, deadline=0.02) as parts:
        await kept_image(parts)
        upstream.hold["stat_blob"] = asyncio.Event()
        assert await whole(await parts.registry.blob(A, digest)) == LAYER
        upstream.hold["stat_blob"].set()
        await until(lambda: not parts.registry._blobs._confirmations._tasks)
        said = provenance.begin()
        assert await whole(await parts.registry.blob(A, digest)) == LAYER
        assert (said.hit, said.detail) == (True, "")
        assert await parts.store.is_linked(A, digest)
    assert verbs(upstream).count("stat_blob") == 1


async def test_where_a_blob_came_from(tmp_path: Path) -> None:
    upstream = Puppet()
    digest = upstream.add(LAYER)
    async with joined(tmp_path, upstream) as parts:
        said = [provenance.begin()]
        opening = asyncio.create_task(parts.registry.blob(A, digest))
        transfer = await upstream.next_transfer()
        first = await opening
        said.append(provenance.begin())
        second = await parts.registry.blob(A, digest)
        transfer.finish()
        assert await whole(first) == await whole(second) == LAYER
        await until(lambda: parts.fills.ended(digest) == 1)
        said.append(provenance.begin())
        await whole(await parts.registry.blob(A, digest))
    assert [(s.hit, s.fwd, s.fwd_status, s.collapsed, s.stored) for s in said] == [
        (False, "uri-miss", 200, False, True),
        (False, "uri-miss", 200, True, True),
        (True, "", None, False, False),
    ]


async def test_fills_through_one_upstream_leave_turns_to_those_through_others(tmp_path: Path) -> None:
    upstream = Puppet()
    hanging = [upstream.add(b"%d" % number, "hang.test/a") for number in range(EACH_LIMIT + 5)]
    fine = upstream.add(LAYER, "fine.test/a")

    def condition(repository: Repository) -> Condition:
        return Condition(repository.name.split("/")[0])

    upstream.condition = condition  # type: ignore[method-assign] # each repository is an upstream's
    async with joined(tmp_path, upstream) as parts:
        asking = [
            asyncio.create_task(parts.registry.blob(Repository("hang.test/a"), each)) for each in hanging
        ]
        await until(lambda: verbs(upstream).count("blob") == EACH_LIMIT)
        for _ in range(EACH_LIMIT):
            await upstream.next_transfer()
        opening = asyncio.create_task(parts.registry.blob(Repository("fine.test/a"), fine))
        (await upstream.next_transfer()).finish()
        assert await whole(await opening) == LAYER
        for task in asking:
            task.cancel()
        for result in await asyncio.gather(*asking, return_exceptions=True):
            if not isinstance(result, BaseException):
                await result.close()


@pytest.mark.parametrize("reference", [ONE, Digest.of(IMAGE)])
async def test_what_is_kept_in_part_is_given_only_while_its_upstream_is_known_to_answer(
    tmp_path: Path, upstream: Puppet, reference: Tag | Digest
) -> None:
    """The first client after a restart, or of an outage: no breaker is open, and nobody has failed yet."""
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await parts.registry.manifest(A, ONE)
        await parts.registry.settle()
        assert (await told(parts, reference))[0].body == IMAGE, "it answered a moment ago"
    before = len(upstream.calls)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        for _ in range(3):
            manifest, said = await told(parts, reference)
            assert manifest.body == IMAGE
            assert said.hit
        assert len(upstream.calls) == before + 1, "one question for all"
    upstream.refuse = {"manifest": AWAY}
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        with pytest.raises(Unavailable, match="2 of 2 parts"):
            await told(parts, reference)
    upstream.refuse = {"manifest": RateLimited("slow down")}
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        assert (await told(parts, reference))[0].body == IMAGE, "manifests are limited, not blobs"
    before = len(upstream.calls)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        parts.put(CONFIG, LAYER)
        assert (await told(parts, reference))[0].body == IMAGE
    assert len(upstream.calls) == before, "all of it is here"


async def test_a_manifest_whose_bytes_are_gone_is_forgotten_in_every_repository() -> None:
    memory = Memory(100, 10.0)
    digest, other = Digest.of(IMAGE), Digest.of(NEWER)
    for repository in (A, B):
        for body in (IMAGE, NEWER):
            manifest = RawManifest(Descriptor(Digest.of(body), len(body), OCI_INDEX), body)
            memory.remember(repository, manifest, None)
            memory.kept(repository, Digest.of(body))
    memory.forget_blob(digest)
    for repository in (A, B):
        assert memory.manifest(repository, digest) is None
        assert not memory.is_kept(repository, digest)
        assert memory.manifest(repository, other) is not None
        assert memory.is_kept(repository, other)


async def test_a_store_that_says_nothing_does_not_hold_what_is_in_memory_while_the_upstream_answers(
    tmp_path: Path, upstream: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that hangs, for one. While the upstream is away too, its answer is waited for."""
    monkeypatch.setattr(manifests, "LOOK", 0.05)
    monkeypatch.setattr(pulse, "LATELY", 0.0)
    says = asyncio.Event()
    async with joined(tmp_path, upstream, policy=POLICY) as parts:
        await kept_image(parts)
    async with joined(tmp_path, upstream, policy=POLICY) as parts:  # nobody has looked yet
        size = parts.store.blob_size

        async def later(digest: Digest) -> int | None:
            await says.wait()
            return await size(digest)

        monkeypatch.setattr(parts.store, "blob_size", later)
        monkeypatch.setattr(parts.store, "kept_at_once", lambda _: None)
        upstream.calls.clear()
        async with asyncio.timeout(WAIT):
            for reference in (Digest.of(IMAGE), ONE):
                assert (await told(parts, reference))[0].body == IMAGE
        assert verbs(upstream) == ["manifest"] * 2, "whether it is there"
        upstream.refuse["manifest"] = AWAY
        waits = asyncio.create_task(parts.registry.manifest(A, Digest.of(IMAGE)))
        async with asyncio.timeout(WAIT):
            await until(lambda: len(upstream.calls) == 3)
            assert not waits.done()
            says.set()
            assert (await waits).body == IMAGE
