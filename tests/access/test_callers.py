"""Callers' rights: how often a registry is asked, and what is remembered of its word."""

from __future__ import annotations

import asyncio

import pytest

from mirror.access import callers
from mirror.access.base import CATALOG, Asked, Refused
from mirror.access.callers import Callers, Whose
from mirror.oci.challenge import Said
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository

A, B = Repository("a"), Repository("b")


class Registry:
    """Says `said`, once `gate` is open; notes what it is asked."""

    def __init__(self) -> None:
        self.said = Said(200)
        self.asked: list[tuple[str, str, str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = 0.0
        self.callers = Callers(lambda whose: whose not in (B, "shared.example"), self.ask, lambda: self.now)

    async def ask(self, whose: Whose, target: str, authorization: str) -> Said:
        self.asked.append((str(whose), target, authorization))
        await self.gate.wait()
        return self.said

    async def refused(self, asked: Asked) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.callers.authorize(asked)
        return caught.value


def want(
    authorization: str = "x",
    target: str = "manifests/1",
    repository: Repository | None = A,
    address: str = "192.0.2.1",
) -> Asked:
    return Asked(authorization, repository=repository, target=target, address=address)


async def test_a_yes_is_for_these_credentials_and_this_repository_for_a_minute() -> None:
    registry = Registry()
    allowed = await registry.callers.authorize(want())
    for target in ("blobs/x", "tags/list"):
        await registry.callers.authorize(want(target=target))
    assert len(registry.asked) == 1
    assert allowed.holds is not None
    await registry.callers.authorize(want("y"))
    await registry.callers.authorize(want(repository=Repository("c")))
    assert len(registry.asked) == 3
    registry.now = callers.GRANTED - 1
    assert allowed.holds()
    registry.now = callers.GRANTED
    assert not allowed.holds()
    await registry.callers.authorize(want())
    assert len(registry.asked) == 4


@pytest.mark.parametrize(("status", "again"), [(401, 1), (403, 1), (404, 2), (429, 2), (503, 2), (302, 2)])
async def test_a_no_is_remembered_where_it_is_about_the_caller(status: int, again: int) -> None:
    registry = Registry()
    registry.said = Said(status, ('Bearer realm="r"',))
    for target in ("manifests/1", "blobs/x"):
        await registry.refused(want(target=target))
    assert len(registry.asked) == again
    registry.now = callers.DENIED
    await registry.refused(want())
    assert len(registry.asked) == again + 1


@pytest.mark.parametrize(
    ("said", "target", "code"),
    [
        (Said(401), "manifests/1", ErrorCode.UNAUTHORIZED),
        (Said(403), "manifests/1", ErrorCode.DENIED),
        (Said(404), "manifests/1", ErrorCode.MANIFEST_UNKNOWN),
        (Said(404), "blobs/x", ErrorCode.BLOB_UNKNOWN),
        (Said(404), "tags/list", ErrorCode.NAME_UNKNOWN),
        (Said(429, retry_after=7), "blobs/x", ErrorCode.TOOMANYREQUESTS),
        (Said(503), "blobs/x", ErrorCode.UNAVAILABLE),
        (Said(302), "blobs/x", ErrorCode.UNAVAILABLE),
        (Said(0), "blobs/x", ErrorCode.UNAVAILABLE),
    ],
)
async def test_what_the_registry_says_is_what_the_caller_is_told(
    said: Said, target: str, code: ErrorCode
) -> None:
    registry = Registry()
    registry.said = said
    refused = await registry.refused(want(target=target))
    assert (refused.code, refused.retry_after) == (code, said.retry_after)


async def test_a_challenge_is_written_anew() -> None:
    """With what a client can answer, and nothing that could be a header of its own."""
    registry = Registry()
    registry.said = Said(
        401,
        (
            'Bearer realm="https://r/t",service="s",scope="repository:a:pull",error="x",evil="y"',
            'Basic realm="a \\"b\\" \u00e4\r\nSet-Cookie: c"',
            "Negotiate, Digest realm=x",
            "Bearer service=s",
        ),
    )
    assert (await registry.refused(want())).challenges == (
        'Bearer realm="https://r/t",service="s",scope="repository:a:pull",error="x"',
        'Basic realm="a \\"b\\" \u00e4Set-Cookie: c"',
    )


async def test_nobody_is_asked_about_what_is_shared_or_gives_nothing_away() -> None:
    registry = Registry()
    registry.said = Said(401)
    for asked in (
        want(repository=B),
        want(target=""),
        Asked("", (CATALOG,)),
        Asked("", namespace="shared.example"),
        Asked(""),  # of nothing that is served here
    ):
        allowed = await registry.callers.authorize(asked)
        assert allowed.holds is None
    assert registry.asked == []
    await registry.refused(Asked("", namespace="a.example"))
    assert registry.asked == [("a.example", "", "")]


async def test_how_to_log_in_is_remembered_of_each_registry() -> None:
    """And not told for another's, nor to whoever has sent a login, which nobody has looked at."""
    registry = Registry()
    at_a, at_b = Asked("", namespace="a.example"), Asked("", namespace="b.example")
    registry.said = Said(401, ('Basic realm="a"',))
    assert (await registry.refused(at_a)).challenges == ('Basic realm="a"',)
    registry.said = Said(503)
    assert (await registry.refused(at_b)).code is ErrorCode.UNAVAILABLE
    registry.now = callers.DENIED
    again = await registry.refused(at_a)
    assert (again.code, again.challenges) == (ErrorCode.UNAUTHORIZED, ('Basic realm="a"',))
    assert (await registry.refused(Asked("x", namespace="a.example"))).code is ErrorCode.UNAVAILABLE


async def test_credentials_that_cannot_be_sent_are_nobodys() -> None:
    registry = Registry()
    for text in ("Basic \u00e4", "Basic a\tb", "Basic \udc80", "\x7f"):
        await registry.callers.authorize(want(text))
    assert {authorization for _, _, authorization in registry.asked} == {""}


async def test_so_many_questions_are_asked_at_a_time_and_so_many_wait() -> None:
    registry = Registry()
    registry.gate.clear()
    wanted = [want(f"t{number}", address=f"192.0.2.{number % 5}") for number in range(300)]
    tasks = [asyncio.ensure_future(registry.callers.authorize(each)) for each in wanted]
    same = asyncio.ensure_future(registry.callers.authorize(want("t0")))
    async with asyncio.timeout(5):
        while len(registry.asked) < callers.QUESTIONS:  # noqa: ASYNC110 - of many tasks, no event
            await asyncio.sleep(0)
    refused = [task.exception() for task in tasks if task.done()]
    assert len(refused) == 300 - callers.WAITING
    assert {error.code for error in refused if isinstance(error, Refused)} == {ErrorCode.TOOMANYREQUESTS}
    assert len(registry.asked) == callers.QUESTIONS
    registry.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await same).holds is not None
    assert not registry.callers._waiting


async def test_one_client_takes_no_more_than_half_of_the_places() -> None:
    """Also where he makes up other credentials each time, and leaves before he is answered."""
    registry = Registry()
    registry.gate.clear()
    made_up = [want(f"t{number}", address=f"2001:db8::{number % 9}") for number in range(300)]
    tasks = [asyncio.ensure_future(registry.callers.authorize(each)) for each in made_up]
    async with asyncio.timeout(5):
        while len(registry.asked) < callers.QUESTIONS_EACH:  # noqa: ASYNC110 - of many tasks, no event
            await asyncio.sleep(0)
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 300 - callers.WAITING_EACH
    another = asyncio.ensure_future(registry.callers.authorize(want("bob", address="192.0.2.1")))
    async with asyncio.timeout(5):  # though none of his ends
        while registry.asked[-1][2] != "bob":  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    assert len(registry.asked) == callers.QUESTIONS_EACH + 1
    for task in tasks:
        task.cancel()
    registry.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await another).holds is not None
    async with asyncio.timeout(5):  # questions go on when who asked has left
        while registry.callers._waiting:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
    assert not registry.callers._turns_of


async def test_credentials_are_kept_as_hashes() -> None:
    registry = Registry()
    await registry.callers.authorize(want("Basic aHVudGVyMg=="))
    assert "aHVudGVyMg" not in repr(list(registry.callers._grants)) + repr(vars(registry.callers))
    await registry.callers.close()
