"""What a registry says to somebody else's credentials: asked without anything of ours."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mirror.oci.names import Repository, Tag
from mirror.registry import Unavailable
from mirror.upstream.breaker import FAILURES
from mirror.upstream.breakers import SCOPES
from mirror.upstream.endpoints import Endpoints
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.kit import Clock, fails, make_client, timed_client

NAME = "library/a"
REPOSITORY = Repository(NAME)
SECRETS: dict[str, Any] = {"username": "robot", "password": "hunter2", "headers": {"X-Api-Key": "hunter3"}}
HIS = "Bearer his"


def private() -> Upstream:
    """Of which only he may have library/a."""
    bearer = Bearer(username="robot", password="hunter2")
    bearer.tokens["his"] = f"repository:{NAME}:pull "  # the last one is that of `/v2/`
    return Upstream(auth=bearer)


async def test_only_his_credentials_are_sent() -> None:
    upstream = private()
    image = upstream.add_image(NAME, "1")
    digest = next(iter(image.blobs))
    async with serve(upstream) as url, timed_client(url, Clock(), **SECRETS) as client:
        for rest in ("manifests/1", f"manifests/{image.digest}", f"blobs/{digest}", "tags/list"):
            assert (await client.ask_as(HIS, REPOSITORY, rest)).status == 200
            refused = await client.ask_as("", REPOSITORY, rest)
            assert (refused.status, "Bearer realm" in refused.challenges[0]) == (401, True)
        assert (await client.ask_as(HIS, None, "")).status == 200
        assert {seen.headers.get("Authorization") for seen in upstream.seen} == {HIS, None}
        assert not any("X-Api-Key" in seen.headers for seen in upstream.seen)
        assert upstream.lines(path="/token") == []
    assert upstream.lines("GET", "manifests") == []


async def test_a_registry_that_refuses_every_head_is_asked_for_a_byte() -> None:
    """ECR Public answers HEAD of a blob by 401; object storage that of what was signed for GET by 403."""
    upstream = private()
    digest = upstream.add_blob(NAME, b"x" * 100_000)
    for status in (401, 403, 404, 405):
        upstream.clear_faults()
        upstream.fault("HEAD", "/blobs/", Fault(status=status))
        async with serve(upstream) as url, timed_client(url, Clock()) as client:
            assert (await client.ask_as(HIS, REPOSITORY, f"blobs/{digest}")).status == 206
            (seen,) = upstream.find("GET", "/blobs/")
            assert seen.headers["Range"] == "bytes=0-0"
            assert (await client.ask_as("Bearer other", REPOSITORY, f"blobs/{digest}")).status == 401
        upstream = private()
        digest = upstream.add_blob(NAME, b"x" * 100_000)


async def test_storage_that_knows_nobody_is_no_challenge() -> None:
    """Its 401 is not the registry's, and nothing that a client should answer."""
    storage, upstream = Upstream(auth=Basic("a", "b")), private()
    digest = upstream.add_blob(NAME, b"x")
    async with serve(storage) as there, serve(upstream) as url, timed_client(url, Clock()) as client:
        moved = Fault(status=307, headers={"Location": f"{there}/v2/{NAME}/blobs/{digest}"})
        upstream.fault("*", "/blobs/", moved)
        said = await client.ask_as(HIS, REPOSITORY, f"blobs/{digest}")
        assert (said.status, said.challenges) == (403, ())
        assert not any("Authorization" in seen.headers for seen in storage.seen)


@pytest.mark.parametrize("rest", ["manifests/1", "blobs/", "tags/list", ""])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_page_to_log_in_at_is_no_yes(rest: str, where: str) -> None:
    """Single sign-on in front of a registry has one for whomever it does not know."""
    upstream, portal = private(), Upstream()
    rest += str(upstream.add_blob(NAME, b"x")) if rest == "blobs/" else ""
    upstream.add_image(NAME, "1")
    html = {"Content-Type": "text/html; charset=utf-8"}
    page = Fault(status=200, headers=html, body=b"<html>who are you?</html>", early=True)
    portal.fault("*", "/login", page)
    async with serve(portal) as there, serve(upstream) as url, timed_client(url, Clock()) as client:
        moved = Fault(status=302, headers={"Location": f"{there}/login"}, early=True)
        upstream.fault("*", "/v2/", page if where == "here" else moved)
        repository = REPOSITORY if rest else None
        said = await client.ask_as("", repository, rest)
        assert (said.status, said.challenges) == (403, ())
        assert bool(portal.seen) is (where == "elsewhere")


async def test_what_is_no_manifest_by_its_header_is_no_yes() -> None:
    """A page whose server says nothing of its type, or another one."""
    upstream = private()
    upstream.add_image(NAME, "1")
    async with serve(upstream) as url, timed_client(url, Clock()) as client:
        for type_ in ("text/plain", "application/octet-stream"):
            upstream.clear_faults()
            upstream.fault("*", "manifests", Fault(status=200, headers={"Content-Type": type_}, body=b"x"))
            assert (await client.ask_as(HIS, REPOSITORY, "manifests/1")).status == 403
        upstream.clear_faults()
        upstream.fault("HEAD", "manifests", Fault(status=200, headers={"Content-Type": "text/plain"}))
        assert (await client.ask_as(HIS, REPOSITORY, "manifests/1")).status == 200  # by GET


async def test_a_registry_that_fails_says_nothing_and_another_address_is_asked() -> None:
    broken, upstream = private(), private()
    broken.fault("*", "", Fault(status=500, early=True))
    upstream.add_image(NAME, "1")
    async with serve(broken) as one, serve(upstream) as two:
        clock = Clock()
        endpoints = Endpoints([make_client(one, clock), make_client(two, clock)], "a.example", clock)
        assert (await endpoints.ask_as(HIS, REPOSITORY, "manifests/1")).status == 200
        alone = Endpoints([make_client(one, clock)], "a.example", clock)
        error = await fails(lambda: alone.ask_as(HIS, REPOSITORY, "manifests/1"))
        assert isinstance(error, Unavailable)
        await endpoints.close()
        await alone.close()


@pytest.mark.parametrize(
    "fault", [Fault(status=500, early=True), Fault(reset=True, early=True), Fault(hang=True, early=True)]
)
async def test_who_has_the_registry_fail_by_what_he_sends_shuts_it_for_nobody_else(fault: Fault) -> None:
    """Odd credentials at which a registry fails: for one repository, for many, and at `/v2/`."""
    upstream = private()
    upstream.add_image(NAME, "1")
    clock = Clock()
    # Where it hangs soon enough; and long enough for a busy machine to answer what is to be answered.
    timeouts: dict[str, Any] = {"firstbyte": 0.3, "stall": 0.3} if fault.hang else {}
    async with serve(upstream) as url, timed_client(url, clock, **SECRETS, **timeouts) as client:
        upstream.fault("*", "/v2/", fault)
        for number in range(10):
            for about in (REPOSITORY, Repository(f"library/b{number}"), None):
                rest = "manifests/1" if about else ""
                error = await fails(partial(client.ask_as, "Bearer odd", about, rest))
                assert isinstance(error, Unavailable)
        asked = len(upstream.seen)
        await fails(partial(client.ask_as, "Bearer odd", REPOSITORY, "manifests/1"))
        assert len(upstream.seen) == asked, "he himself waits"
        upstream.clear_faults()
        upstream.release()
        assert client.condition(REPOSITORY).trouble is None
        assert (await client.ask_as(HIS, REPOSITORY, "manifests/1")).status == 200
        assert (await client.ask_as(HIS, None, "")).status == 200
        assert (await client.ask_as("", REPOSITORY, "manifests/1")).status == 401
        await client.stat_manifest(REPOSITORY, Tag("1"))
        clock.now += 60
        assert (await client.ask_as("Bearer odd", REPOSITORY, "manifests/1")).status == 401


async def test_many_made_up_credentials_push_out_nothing_that_is_known_of_repositories() -> None:
    upstream = private()
    async with serve(upstream) as url, timed_client(url, Clock(), **SECRETS) as client:
        upstream.fault("*", "manifests", Fault(status=500, early=True))
        for _ in range(FAILURES):
            await fails(lambda: client.stat_manifest(REPOSITORY, Tag("1")))
        assert client.condition(REPOSITORY).trouble is not None
        for number in range(SCOPES + 1):
            await fails(partial(client.ask_as, f"Bearer {number}", REPOSITORY, "manifests/1"))
        assert client.condition(REPOSITORY).trouble is not None
        assert client.condition(Repository("library/b")).trouble is None


async def test_a_registry_that_nobody_reaches_is_shut_for_callers_too() -> None:
    """Whom they are is no matter there; and none of them is the probe, which he could make last."""
    clock = Clock()
    upstream = private()
    async with serve(upstream) as url:
        pass
    async with timed_client(url, clock, **SECRETS) as client:
        for number in range(FAILURES):
            await fails(partial(client.ask_as, f"Bearer {number}", REPOSITORY, "manifests/1"))
        error = await fails(lambda: client.ask_as("Bearer new", REPOSITORY, "manifests/1"))
        assert isinstance(error, Unavailable)
        assert "not asked" in str(error)
        assert client.condition(REPOSITORY).trouble is not None
