"""What `mirror explain` says of an image, held against what the next pull then does."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mirror.cache.freshness import Policy
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Reference
from mirror.registry import Condition, RateLimited, RegistryError, Unavailable
from tests.cache.kit import A, Clock, Parts, joined, until
from tests.cache.test_pullthrough import IMAGE, LAYER, NEWER, ONE, verbs
from tests.support.puppet import Puppet

POLICY = Policy(default=60.0, stale=1000.0, negative=10.0)
AWAY = Unavailable("it cannot be reached")
LIMITED = RateLimited("it limits us", retry_after=60)
BY_DIGEST = Digest.of(IMAGE)


@pytest.fixture
def upstream() -> Puppet:
    """Has IMAGE as library/a:1."""
    made = Puppet()
    made.add_manifest(IMAGE, "library/a", "1")
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def parts(tmp_path: Path, upstream: Puppet, clock: Clock) -> AsyncGenerator[Parts, None]:
    async with joined(tmp_path, upstream, policy=POLICY, clock=clock, deadline=3.0) as made:
        yield made


async def keep(parts: Parts, *, whole: bool = True) -> None:
    """IMAGE is here under its tag; with its blobs if it is here `whole`."""
    if whole:
        parts.put(b"{}", LAYER)
    await parts.registry.manifest(A, ONE)
    await parts.registry.settle()


def trouble(upstream: Puppet, error: RegistryError, *, blobs: bool = True) -> None:
    """The upstream would not be asked, and is not."""
    upstream.well = Condition("upstream.test", trouble=error, blobs=error if blobs else None)
    upstream.refuse = dict.fromkeys(("resolve", "manifest"), error)


async def explained(parts: Parts, upstream: Puppet, reference: Reference = ONE) -> tuple[str, list[str], str]:
    """What was said, what the upstream was then asked, and how the pull ended."""
    before = len(upstream.calls)
    said = (await parts.registry.explain(A, reference))["next_pull"]
    assert len(upstream.calls) == before, "explaining asks nobody"
    try:
        body = (await parts.registry.manifest(A, reference)).body
    except RegistryError as error:
        return said, verbs(upstream)[before:], str(error.status)
    return said, verbs(upstream)[before:], "kept" if body == IMAGE else "newer"


async def test_what_was_never_asked_for(parts: Parts, upstream: Puppet) -> None:
    said, asked, _ = await explained(parts, upstream)
    assert said == "asks the upstream where the tag points (one HEAD), then fetches what is new"
    assert asked == ["resolve", "manifest"]


async def test_a_digest_that_is_not_here(parts: Parts, upstream: Puppet) -> None:
    said, asked, _ = await explained(parts, upstream, BY_DIGEST)
    assert (said, asked) == ("fetches the manifest and its blobs", ["manifest"])


@pytest.mark.parametrize("reference", [ONE, BY_DIGEST])
async def test_what_is_not_here_while_the_upstream_is_not_asked(
    parts: Parts, upstream: Puppet, reference: Reference
) -> None:
    trouble(upstream, AWAY)
    said, _, ended = await explained(parts, upstream, reference)
    assert (said, ended) == ("fails at once: it cannot be reached", "503")


@pytest.mark.parametrize("reference", [ONE, BY_DIGEST])
async def test_what_is_fresh(parts: Parts, upstream: Puppet, reference: Reference) -> None:
    await keep(parts)
    assert await explained(parts, upstream, reference) == ("asks the upstream nothing", [], "kept")


async def test_what_is_fresh_and_lacks_blobs(parts: Parts, upstream: Puppet) -> None:
    await keep(parts, whole=False)
    said, asked, _ = await explained(parts, upstream)
    assert (said, asked) == ("asks the upstream nothing, and 2 blobs are fetched", [])


async def test_a_tag_that_only_head_has_asked_for(parts: Parts, upstream: Puppet) -> None:
    await parts.registry.stat_manifest(A, ONE)
    said, asked, _ = await explained(parts, upstream)
    assert (said, asked) == ("fetches the manifest and its blobs", ["manifest"])


async def test_a_due_tag(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    await keep(parts)
    clock.now += 61
    said, asked, ended = await explained(parts, upstream)
    assert said == "asks the upstream whether the tag has moved (one HEAD)"
    assert (asked, ended) == (["resolve"], "kept")


async def test_a_tag_whose_new_manifest_could_not_be_had(
    parts: Parts, upstream: Puppet, clock: Clock
) -> None:
    await keep(parts)
    clock.now += 61
    upstream.add_manifest(NEWER, "library/a", "1")
    upstream.refuse["manifest"] = LIMITED
    await parts.registry.manifest(A, ONE)
    await until(lambda: not parts.registry._checks._running._tasks)
    upstream.refuse.clear()
    said, asked, ended = await explained(parts, upstream)
    assert said == "fetches the manifest to which the tag has moved, and its blobs"
    assert (asked, ended) == (["manifest"], "newer")


async def test_a_due_tag_while_the_upstream_is_not_asked(
    parts: Parts, upstream: Puppet, clock: Clock
) -> None:
    await keep(parts)
    clock.now += 61
    trouble(upstream, AWAY)
    said, asked, ended = await explained(parts, upstream)
    assert said == "is given the kept copy with a warning: it cannot be reached"
    assert (asked, ended) == ([], "kept")


async def test_a_due_tag_that_lacks_blobs_while_only_manifests_are_limited(
    parts: Parts, upstream: Puppet, clock: Clock
) -> None:
    await keep(parts, whole=False)
    clock.now += 61
    trouble(upstream, LIMITED, blobs=False)
    said, asked, ended = await explained(parts, upstream)
    assert said == "is given the kept copy with a warning: it limits us, and 2 blobs are fetched"
    assert (asked, ended) == ([], "kept")


@pytest.mark.parametrize("reference", [ONE, BY_DIGEST])
@pytest.mark.parametrize("passed", [0, 61])
async def test_what_lacks_blobs_while_they_cannot_be_had(
    parts: Parts, upstream: Puppet, clock: Clock, reference: Reference, passed: float
) -> None:
    await keep(parts, whole=False)
    clock.now += passed
    trouble(upstream, AWAY)
    said, _, ended = await explained(parts, upstream, reference)
    assert (said, ended) == ("fails with 503: 2 blobs are not kept here, and it cannot be reached", "503")


async def test_a_copy_that_is_too_old(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    await keep(parts)
    clock.now += 1001
    trouble(upstream, AWAY)
    said, _, ended = await explained(parts, upstream)
    assert (said, ended) == ("fails at once: it cannot be reached, and the kept copy is too old", "503")


async def test_a_refusal(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    await keep(parts)
    clock.now += 61
    upstream.refuse["resolve"] = RegistryError(ErrorCode.DENIED, "not for you")
    with pytest.raises(RegistryError):
        await parts.registry.manifest(A, ONE)
    clock.now += 4
    assert await explained(parts, upstream) == ("is refused without asking, for another 6 s", [], "403")
    trouble(upstream, AWAY)
    assert (await explained(parts, upstream))[0] == "is refused without asking, for another 6 s"
    clock.now += 10
    said, _, ended = await explained(parts, upstream)
    assert said == "is refused, as it was last time, since it cannot be reached"
    assert ended == "403"
    upstream.well, upstream.refuse = Condition("upstream.test"), {}
    said, asked, ended = await explained(parts, upstream)
    assert said == "asks the upstream where the tag points (one HEAD), then fetches what is new"
    assert (asked, ended) == (["resolve"], "kept")


async def test_an_upstream_that_was_too_slow(parts: Parts, upstream: Puppet, clock: Clock) -> None:
    await keep(parts)
    clock.now += 61
    upstream.hold["resolve"] = asyncio.Event()
    await parts.registry.manifest(A, ONE)
    said, _, ended = await explained(parts, upstream)
    assert said == "is given the kept copy at once, and the upstream, lately too slow, is asked behind"
    assert ended == "kept"
    upstream.hold["resolve"].set()
    await until(lambda: not parts.registry._checks._running._tasks)


async def test_a_word_alone_is_not_called_usable(parts: Parts, upstream: Puppet) -> None:
    """A manifest that was evicted leaves what the upstream has said of its tag."""
    await keep(parts)
    assert (await parts.registry.explain(A, ONE))["reference"]["stale_left"] > 0
    await parts.store.untag(A, ONE)
    shutil.rmtree(parts.root / "docker")
    parts.registry._manifests._memory.forget_image(A, BY_DIGEST)
    told = (await parts.registry.explain(A, ONE))["reference"]
    assert (told["kept"], told["stale_left"]) == (False, None)
