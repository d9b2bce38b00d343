"""When HEAD is tried, and when a GET comes first: a stray answer costs one repository's HEADs, no more."""

from __future__ import annotations

import pytest

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.upstream.heads import REFUSED_SECONDS, REPOSITORIES, RULE, Heads
from tests.support.scripted import Fault, Upstream
from tests.upstream.conftest import Connect

NAMES = tuple(f"library/{letter}" for letter in "abcdef")
A, B, C, D, E, F = map(Repository, NAMES)
THREE = Tag("3")
BY_THING = (400, 401, 403, 404)  # and what else says that this thing is not to be had
BY_METHOD = (405, 501)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def holding() -> tuple[Upstream, Digest]:
    """An upstream with an image in each of NAMES, and the digest of a layer of them all."""
    upstream = Upstream()
    for name in NAMES:
        upstream.add_image(name, "3", layers=[b"layer"])
    return upstream, Digest.of(b"layer")


@pytest.mark.parametrize(
    "fault", [*(Fault(status=status) for status in BY_THING), Fault(drop=("Content-Length",))]
)
async def test_one_stray_answer_to_a_head_costs_the_others_nothing(connect: Connect, fault: Fault) -> None:
    """A tag pushed between HEAD and GET: Docker Hub counts each GET, and would count them for an hour."""
    upstream, _ = holding()
    upstream.fault("HEAD", "library/a/manifests/", fault, times=1)
    async with connect(upstream) as client:
        for repository in (A, A, B, C):
            await client.resolve(repository, THREE)
    assert [(seen.method, seen.path.split("/")[3]) for seen in upstream.seen] == [
        ("HEAD", "a"),
        ("GET", "a"),
        ("GET", "a"),
        ("HEAD", "b"),
        ("HEAD", "c"),
    ]


@pytest.mark.parametrize("status", BY_METHOD)
async def test_a_refused_method_is_refused_for_all_repositories(connect: Connect, status: int) -> None:
    """405 and 501 are about HEAD, not about a repository."""
    upstream, _ = holding()
    upstream.fault("HEAD", "/manifests/", Fault(status=status))
    async with connect(upstream) as client:
        for repository in (A, B, C):
            await client.resolve(repository, THREE)
    assert [seen.method for seen in upstream.seen] == ["HEAD", "GET", "GET", "GET"]


@pytest.mark.parametrize("status", BY_THING)
async def test_a_registry_that_refuses_every_head_is_asked_by_get_after_three_repositories(
    connect: Connect, status: int
) -> None:
    """ECR Public answers 401 to all, Harbor's proxy 404."""
    upstream, _ = holding()
    upstream.fault("HEAD", "/manifests/", Fault(status=status))
    async with connect(upstream) as client:
        for repository in (A, B, C, D, E):
            await client.resolve(repository, THREE)
    assert [seen.method for seen in upstream.seen] == ["HEAD", "GET"] * RULE + ["GET", "GET"]


async def test_heads_that_do_work_in_between_keep_strays_from_being_a_rule(connect: Connect) -> None:
    """Three strays in an hour are no wonder on a busy day."""
    upstream, _ = holding()
    for name in ("a", "b", "d"):
        upstream.fault("HEAD", f"library/{name}/manifests/", Fault(status=404))
    async with connect(upstream) as client:
        for repository in (A, B, C, D, E, F):
            await client.resolve(repository, THREE)
    assert [seen.method for seen in upstream.find(path="library/[cef]/")] == ["HEAD"] * 3


async def test_blobs_and_manifests_are_told_apart(connect: Connect) -> None:
    """HEAD of a blob may be refused where HEAD of a manifest is not, and the other way about."""
    upstream, layer = holding()
    upstream.fault("HEAD", "/blobs/", Fault(status=405))
    async with connect(upstream) as client:
        for repository in (A, B):
            await client.stat_blob(repository, layer)
            await client.resolve(repository, THREE)
    assert [seen.method for seen in upstream.find(path="/blobs/")] == ["HEAD", "GET", "GET"]
    assert [seen.method for seen in upstream.find(path="/manifests/")] == ["HEAD", "HEAD"]


async def test_a_stray_answer_about_a_blob_costs_the_other_repositories_nothing(connect: Connect) -> None:
    """As for manifests, with the same three repositories to make a rule."""
    upstream, layer = holding()
    upstream.fault("HEAD", "library/[abc]/blobs/", Fault(status=404))
    async with connect(upstream) as client:
        for repository in (A, D, A, B, E, B, A, C, F):
            await client.stat_blob(repository, layer)
    assert [seen.method for seen in upstream.find(path="library/[def]/")] == ["HEAD"] * 3
    assert len(upstream.find("HEAD", "library/[abc]/")) == 3


@pytest.mark.parametrize("status", [*BY_THING, *BY_METHOD])
def test_head_is_tried_again_after_an_hour(status: int) -> None:
    """What refused it may have been a proxy on a bad day."""
    clock = Clock()
    heads = Heads(clock)
    heads.contradicted(A, status)
    clock.now += REFUSED_SECONDS - 1
    assert not heads.worth(A)
    clock.now += 2
    assert heads.worth(A)


def test_three_strays_make_a_rule_only_within_an_hour_and_for_an_hour() -> None:
    """And of three repositories, not of one three times."""
    clock = Clock()
    heads = Heads(clock)
    for repository in (A, A, A, B):
        heads.contradicted(repository, 404)
    clock.now += REFUSED_SECONDS + 1
    heads.contradicted(C, 404)
    assert heads.worth(D)
    for repository in (A, B):
        heads.contradicted(repository, 404)
    assert not heads.worth(D)
    clock.now += REFUSED_SECONDS + 1
    assert heads.worth(D)


def test_so_many_repositories_are_remembered_and_no_more() -> None:
    """Their names are whatever clients ask for, if the upstream has it."""
    heads = Heads(Clock())
    many = [Repository(f"a/{number}") for number in range(REPOSITORIES + 1)]
    for repository in many:
        heads.worked()
        heads.contradicted(repository, 404)
    assert [heads.worth(repository) for repository in (many[0], many[1], many[-1])] == [True, False, False]
