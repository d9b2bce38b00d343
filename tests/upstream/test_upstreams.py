"""Many registries behind one face: who is asked, by which name, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from mirror.oci.challenge import Said
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference, Repository, Tag
from mirror.registry import Condition, Page, Part, RawManifest, RegistryError, Resolved, Unavailable
from mirror.upstream import upstreams as module
from mirror.upstream.routes import Names, Routes
from mirror.upstream.upstreams import ELASTIC_LIMIT, Upstreams

LAYER = b"a layer"
DIGEST = Digest.of(LAYER)
DESCRIPTOR = Descriptor(DIGEST, len(LAYER), "application/octet-stream")
MANIFEST = RawManifest(Descriptor(Digest.of(b"{}"), 2, "application/vnd.oci.image.manifest.v1+json"), b"{}")
TAG = Tag("1")
ROUTES = Routes(
    Names("docker.io", hub=True),
    [Names("quay.io"), Names("localhost:5555"), Names("*.reg.example")],
    strict=True,
)


class Layer:
    """LAYER, open."""

    descriptor = DESCRIPTOR
    start = 0

    def __init__(self) -> None:
        self.closed = 0

    async def read(self, start: int, stop: int) -> AsyncGenerator[Part, None]:
        yield LAYER[start:stop]

    async def close(self) -> None:
        self.closed += 1


class Fake:
    """Has everything, and notes what it is asked. While `gate` is closed it does not answer."""

    def __init__(self, namespace: str, calls: list[str]) -> None:
        self.namespace = namespace
        self.calls = calls
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()
        self.closed = 0  # calls of `close`
        self.ended = 0  # those that returned
        self.failure: Exception | None = None  # of a question
        self.close_failure: Exception | None = None
        self.layers: list[Layer] = []

    async def _note(self, *words: object) -> None:
        self.calls.append(" ".join(str(word) for word in (self.namespace, *words)))
        self.asked.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def ask_as(self, authorization: str, repository: Repository | None, rest: str) -> Said:
        await self._note("ask_as", authorization, repository, rest)
        return Said(200)

    async def resolve(self, repository: Repository, tag: Tag) -> Resolved:
        await self._note("resolve", repository, tag)
        return Resolved(MANIFEST.descriptor)

    async def manifest(self, repository: Repository, reference: Reference) -> RawManifest:
        await self._note("manifest", repository, reference)
        return MANIFEST

    async def stat_manifest(self, repository: Repository, reference: Reference) -> Descriptor:
        await self._note("stat_manifest", repository, reference)
        return MANIFEST.descriptor

    async def blob(
        self,
        repository: Repository,
        digest: Digest,
        *,
        start: int = 0,
        size: int | None = None,
        stop: int | None = None,
    ) -> Layer:
        await self._note("blob", repository, digest, start, size)
        self.layers.append(Layer())
        return self.layers[-1]

    async def stat_blob(self, repository: Repository, digest: Digest) -> Descriptor:
        await self._note("stat_blob", repository, digest)
        return DESCRIPTOR

    async def tags(self, repository: Repository, n: int | None, last: str) -> Page:
        await self._note("tags", repository, n, last)
        return Page(("1",), more=False)

    async def repositories(self, n: int | None, last: str) -> Page:
        raise AssertionError

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[dict[str, Any], ...]:
        await self._note("referrers", repository, digest)
        return ()

    def condition(self, repository: Repository) -> Condition:
        return Condition(self.namespace, stretch=2.0)

    def expect(self, repository: Repository) -> None:
        self.calls.append(f"{self.namespace} expect {repository}")

    def describe(self, now: float, repository: Repository | None = None) -> dict[str, Any]:
        return {"namespace": self.namespace, "now": now, "repository": str(repository)}

    async def close(self) -> None:
        self.closed += 1
        await self.gate.wait()
        if self.close_failure is not None:
            raise self.close_failure
        self.ended += 1


class World:
    """Upstreams over Fakes: `made` in order, by namespace; `calls` in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.made: dict[str, list[Fake]] = {}
        self.upstreams = Upstreams(ROUTES, self._open)

    def _open(self, namespace: str) -> Fake:
        fake = Fake(namespace, self.calls)
        self.made.setdefault(namespace, []).append(fake)
        return fake

    def fake(self, namespace: str) -> Fake:
        return self.made[namespace][-1]

    async def ask(self, name: str) -> None:
        await self.upstreams.resolve(Repository(name), TAG)

    async def fill(self) -> None:
        """Name as many registries as there is room for."""
        for number in range(ELASTIC_LIMIT):
            await self.ask(f"{number}.reg.example/app")


@pytest.fixture
def world() -> World:
    return World()


Ask = Callable[[Upstreams, Repository], Awaitable[object]]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda it, name: it.resolve(name, TAG), "resolve {} 1"),
        (lambda it, name: it.manifest(name, TAG), "manifest {} 1"),
        (lambda it, name: it.stat_manifest(name, DIGEST), f"stat_manifest {{}} {DIGEST}"),
        (lambda it, name: it.blob(name, DIGEST, start=3, size=7), f"blob {{}} {DIGEST} 3 7"),
        (lambda it, name: it.stat_blob(name, DIGEST), f"stat_blob {{}} {DIGEST}"),
        (lambda it, name: it.tags(name, 5, "0"), "tags {} 5 0"),
        (lambda it, name: it.referrers(name, DIGEST), f"referrers {{}} {DIGEST}"),
    ],
)
async def test_each_question_goes_to_the_registry_that_the_name_means_in_its_own_words(
    world: World, ask: Ask, said: str
) -> None:
    for name in ("library/app", "quay.io/org/app", "localhost_5555/app", "a.reg.example/x/y/z"):
        await ask(world.upstreams, Repository(name))
    assert world.calls == [
        "docker.io " + said.format("library/app"),
        "quay.io " + said.format("org/app"),
        "localhost:5555 " + said.format("app"),
        "a.reg.example " + said.format("x/y/z"),
    ]
    assert all(len(made) == 1 for made in world.made.values())
    await ask(world.upstreams, Repository("quay.io/org/app"))
    assert len(world.made["quay.io"]) == 1


async def test_a_catalog_is_asked_of_nobody(world: World) -> None:
    with pytest.raises(RegistryError) as caught:
        await world.upstreams.repositories(None, "")
    assert caught.value.code is ErrorCode.UNSUPPORTED


async def test_a_condition_opens_nothing_and_a_description_may(world: World) -> None:
    name = Repository("quay.io/org/app")
    assert world.upstreams.condition(name) == Condition("quay.io")
    assert world.made == {}
    assert world.upstreams.describe(name, 5.0) == {
        "namespace": "quay.io",
        "now": 5.0,
        "repository": "org/app",
    }
    assert world.upstreams.condition(name) == Condition("quay.io", stretch=2.0)


async def test_only_a_registry_that_was_asked_before_is_told_what_to_expect(world: World) -> None:
    world.upstreams.expect(Repository("quay.io/org/app"))
    assert world.made == {}
    await world.ask("quay.io/org/app")
    world.calls.clear()
    world.upstreams.expect(Repository("quay.io/org/app"))
    assert world.calls == ["quay.io expect org/app"]


async def test_the_registry_that_was_unused_for_longest_makes_room(world: World) -> None:
    await world.fill()
    await world.ask("0.reg.example/app")
    await world.ask("quay.io/app")
    assert not any(fake.closed for made in world.made.values() for fake in made)
    await world.ask("new.reg.example/app")
    await asyncio.sleep(0)
    assert [namespace for namespace, made in world.made.items() if made[-1].closed] == ["1.reg.example"]
    await world.ask("1.reg.example/app")
    await asyncio.sleep(0)
    assert world.fake("2.reg.example").closed == 1
    assert len(world.made["1.reg.example"]) == 2
    await world.upstreams.close()


async def test_one_that_is_in_use_is_not_closed(world: World) -> None:
    await world.fill()
    blob = await world.upstreams.blob(Repository("0.reg.example/app"), DIGEST)
    busy = world.fake("1.reg.example")
    busy.gate.clear()
    busy.asked.clear()
    under_way = asyncio.create_task(world.ask("1.reg.example/app"))
    await busy.asked.wait()
    for number in range(2, ELASTIC_LIMIT):
        await world.ask(f"{number}.reg.example/app")
    await world.ask("new.reg.example/app")
    await asyncio.sleep(0)
    closed = [namespace for namespace, made in world.made.items() if made[-1].closed]
    assert closed == ["2.reg.example"]
    assert [part async for part in blob.read(0, len(LAYER))] == [LAYER]
    assert (blob.descriptor, blob.start) == (DESCRIPTOR, 0)
    busy.gate.set()
    await under_way
    await blob.close()
    await world.upstreams.close()


async def test_when_all_are_in_use_one_more_is_too_many_until_a_blob_is_closed(world: World) -> None:
    blobs = [
        await world.upstreams.blob(Repository(f"{number}.reg.example/app"), DIGEST)
        for number in range(ELASTIC_LIMIT)
    ]
    with pytest.raises(Unavailable, match="too many registries at once") as caught:
        await world.ask("new.reg.example/app")
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)
    await world.ask("quay.io/app")  # configured ones have their place
    await world.ask("7.reg.example/app")
    await blobs[7].close()
    await blobs[7].close()
    assert world.fake("7.reg.example").layers[0].closed == 2
    await world.ask("new.reg.example/app")
    await asyncio.sleep(0)
    assert world.fake("7.reg.example").closed == 1
    await world.upstreams.close()


async def test_a_blob_that_is_closed_twice_ends_one_use(world: World) -> None:
    name = Repository("0.reg.example/app")
    one, other = await world.upstreams.blob(name, DIGEST), await world.upstreams.blob(name, DIGEST)
    await one.close()
    await one.close()
    for number in range(1, ELASTIC_LIMIT):
        await world.upstreams.blob(Repository(f"{number}.reg.example/app"), DIGEST)
    with pytest.raises(Unavailable):
        await world.ask("new.reg.example/app")
    await other.close()
    await world.ask("new.reg.example/app")
    await world.upstreams.close()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_blob_that_cannot_be_opened_is_no_use(world: World, cancelled: bool) -> None:
    await world.fill()
    for number in range(ELASTIC_LIMIT):
        name = Repository(f"{number}.reg.example/app")
        fake = world.fake(f"{number}.reg.example")
        if cancelled:
            fake.gate.clear()
            fake.asked.clear()
            task = asyncio.create_task(world.upstreams.blob(name, DIGEST))
            await fake.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            fake.gate.set()
        else:
            fake.failure = Unavailable("away")
            with pytest.raises(Unavailable, match="away"):
                await world.upstreams.blob(name, DIGEST)
    await world.ask("new.reg.example/app")
    await world.upstreams.close()


async def test_registries_that_do_not_close_hold_the_rest_up_only_so_far(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSING_LIMIT", 2)
    await world.fill()
    for number in range(ELASTIC_LIMIT):
        world.fake(f"{number}.reg.example").gate.clear()
    await world.ask("a.reg.example/app")
    await world.ask("b.reg.example/app")
    with pytest.raises(Unavailable, match="too many registries at once"):
        await world.ask("c.reg.example/app")
    closing = asyncio.create_task(world.upstreams.close())
    for number in range(1, ELASTIC_LIMIT):
        world.fake(f"{number}.reg.example").gate.set()
    assert await asyncio.wait([closing], timeout=0.01) == (set(), {closing})
    world.fake("0.reg.example").gate.set()
    await closing
    assert all(fake.ended == 1 for made in world.made.values() for fake in made)


async def test_close_ends_all_of_them_and_opens_no_more(world: World) -> None:
    await world.ask("quay.io/app")
    await world.ask("a.reg.example/app")
    await world.upstreams.close()
    await world.upstreams.close()
    assert [fake.closed for made in world.made.values() for fake in made] == [1, 1]
    for name in ("quay.io/app", "b.reg.example/app"):
        with pytest.raises(Unavailable, match="stopping"):
            await world.ask(name)


async def test_one_that_fails_to_close_keeps_no_other_from_it(world: World) -> None:
    await world.ask("quay.io/app")
    await world.ask("library/app")
    world.fake("quay.io").close_failure = OSError("broken")
    with pytest.raises(OSError, match="broken"):
        await world.upstreams.close()
    assert world.fake("docker.io").closed == 1
