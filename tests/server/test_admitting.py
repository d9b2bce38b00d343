"""Which requests need whose leave: every endpoint asks, and what is not one asks nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mirror.access.base import CATALOG, Access, Allowed, Asked, Refused
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.server import connections, routes
from mirror.server.settings import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry

D = "sha256:" + "0" * 64
PULL, PUSH, DELETE = ([Access("repository", "library/x", action)] for action in ("pull", "push", "delete"))


class Guard:
    """Notes what it is asked; lets in who sends `yes`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.refusal = Refused("because", ['Basic realm="x"', "Bearer y"])

    async def authorize(self, asked: Asked) -> Allowed:
        self.asked.append(asked)
        if asked.authorization == "yes":
            return Allowed("bob")
        raise self.refusal

    async def close(self) -> None:
        """Nothing to do."""


def locate(ns: str | None, _host: str, repository: Repository) -> Repository:
    """`other` and `ns=other.example` are another registry's; nobody has `ns=none`."""
    if ns == "none":
        raise RegistryError(ErrorCode.NAME_UNKNOWN, "not served")
    if ns == "other.example":
        return Repository(f"other.example/{repository}")
    return Repository(f"library/{repository}") if "/" not in repository.name else repository


@asynccontextmanager
async def served(registry: MemoryRegistry, **settings: Any) -> AsyncIterator[Callable[..., Any]]:
    app = routes.build(registry, Settings(locate=locate, access_log=False, **settings))
    runner = web.AppRunner(app)
    await runner.setup()
    site = connections.Site(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{site.port}") as session:

        async def ask(method: str, path: str, authorization: str = "") -> tuple[int, Any, bytes]:
            headers = {"Authorization": authorization} if authorization else {}
            async with session.request(method, path, headers=headers, allow_redirects=False) as answer:
                return answer.status, answer.headers, await answer.read()

        yield ask
    await runner.cleanup()


@pytest.mark.parametrize(
    ("method", "path", "records", "located", "target"),
    [
        ("GET", "/v2/", [], None, ""),
        ("POST", "/v2/", [], None, ""),
        ("GET", "/v2/_catalog", [CATALOG], None, ""),
        ("GET", "/v2/_catalog?n=x", [CATALOG], None, ""),
        ("OPTIONS", "/v2/_catalog", [CATALOG], None, ""),
        ("GET", "/v2/library/x/manifests/1", PULL, "library/x", "manifests/1"),
        ("HEAD", f"/v2/library/x/manifests/{D}", PULL, "library/x", f"manifests/{D}"),
        ("GET", f"/v2/library/x/blobs/{D}", PULL, "library/x", f"blobs/{D}"),
        ("GET", "/v2/library/x/blobs/sha256:1", PULL, "library/x", ""),
        ("GET", "/v2/library/x/tags/list", PULL, "library/x", "tags/list"),
        ("GET", "/v2/library/x/tags/list?n=x", PULL, "library/x", ""),
        ("GET", f"/v2/library/x/referrers/{D}", PULL, "library/x", "tags/list"),
        ("PUT", "/v2/library/x/manifests/1", [*PULL, *PUSH], "library/x", ""),
        ("DELETE", f"/v2/library/x/blobs/{D}", DELETE, "library/x", ""),
        ("POST", "/v2/library/x/blobs/uploads/", [*PULL, *PUSH], "library/x", ""),
        ("GET", "/v2/library/x/blobs/uploads/a", PULL, "library/x", ""),
        ("OPTIONS", "/v2/library/x/manifests/1", [], "library/x", ""),
        ("PROPFIND", "/v2/library/x/manifests/1", [], "library/x", ""),
        # by the mirror's own name, whatever the client calls it; but for what docker makes of a short one
        ("GET", "/v2/x/tags/list", [Access("repository", "x", "pull")], "library/x", "tags/list"),
        (
            "GET",
            "/v2/org/x/tags/list?ns=other.example",
            [Access("repository", "other.example/org/x", "pull")],
            "other.example/org/x",
            "tags/list",
        ),
        ("GET", "/v2/library/x/tags/list?ns=none", PULL, None, ""),
        (
            "POST",
            "/v2/library/x/blobs/uploads/?from=a/b",
            [*PULL, *PUSH, Access("repository", "a/b", "pull")],
            "library/x",
            "",
        ),
        ("POST", '/v2/library/x/blobs/uploads/?from=a"b', [*PULL, *PUSH], "library/x", ""),
    ],
)
async def test_every_endpoint_asks_for_what_it_gives(
    registry: MemoryRegistry, method: str, path: str, records: list[Access], located: str | None, target: str
) -> None:
    access = Guard()
    async with served(registry, access=access) as ask:
        status, headers, body = await ask(method, path)
        assert status == 401
        assert headers.getall("WWW-Authenticate") == ['Basic realm="x"', "Bearer y"]
        if method != "HEAD":
            assert body.startswith(b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required",')
            assert (b'"detail":null' in body) == (not records)
        assert b"because" not in body
        (asked,) = access.asked
        assert list(asked.records) == records
        assert (asked.repository and asked.repository.name) == located
        assert (asked.target, asked.address) == (target, "127.0.0.1")
        assert (await ask(method, path, "yes"))[0] != 401


@pytest.mark.parametrize(
    "path", ["/", "/v2", "/v1/x", "/v2/UPPER/tags/list", "/v2/library/x/tags/list/", "/nothing", "/v2//x"]
)
async def test_what_is_no_endpoint_asks_nobody(registry: MemoryRegistry, path: str) -> None:
    access = Guard()
    async with served(registry, access=access) as ask:
        for method in ("GET", "POST"):
            assert (await ask(method, path))[0] in (200, 301, 404)
        assert access.asked == []


async def test_nothing_is_asked_of_a_registry_before_leave_is_given(registry: MemoryRegistry) -> None:
    async with served(registry, access=Guard()) as ask:
        registry.calls.clear()
        for path in ("manifests/1", f"blobs/{D}", "tags/list", f"referrers/{D}"):
            assert (await ask("GET", f"/v2/library/x/{path}"))[0] == 401
        assert (await ask("GET", "/v2/_catalog"))[0] == 401
        assert registry.calls == []


async def test_other_refusals_have_their_code_and_no_challenge(registry: MemoryRegistry) -> None:
    access = Guard()
    access.refusal = Refused("r", code=ErrorCode.TOOMANYREQUESTS, message="later", retry_after=1.2)
    async with served(registry, access=access) as ask:
        status, headers, body = await ask("GET", "/v2/")
        assert (status, headers["Retry-After"]) == (429, "2")
        assert body == b'{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}\n'
        assert "WWW-Authenticate" not in headers


async def test_the_log_says_who_it_was_and_why_not(registry: MemoryRegistry, events: Events) -> None:
    async with served(registry, access=Guard()) as ask:
        await ask("GET", "/v2/")
        await ask("GET", "/v2/", "yes")
    refused, allowed = events.named("response completed with error"), events.named("response completed")
    assert (refused[0]["err.code"], refused[0]["err.message"]) == ("unauthorized", "because")
    assert "auth.user.name" not in refused[0]
    assert allowed[0]["auth.user.name"] == "bob"
    assert "yes" not in str(events.all)


async def test_without_access_credentials_are_nobodys_business(registry: MemoryRegistry) -> None:
    async with served(registry) as ask:
        for authorization in ("Basic Og==", "Bearer x", "nonsense"):
            assert (await ask("GET", "/v2/", authorization))[0] == 200


async def test_what_is_given_to_nobody_is_denied_by_its_key(registry: MemoryRegistry) -> None:
    def forbids(repository: Repository) -> str | None:
        return "proxy.deny" if repository.name == "library/x" else None

    listed = {"listed": lambda repository: forbids(repository) is None}
    async with served(registry, forbids=forbids, **listed) as ask:
        for path in ("manifests/1", f"blobs/{D}", "tags/list", f"referrers/{D}"):
            status, _, body = await ask("GET", f"/v2/x/{path}")
            assert (status, b"proxy.deny" in body, b"DENIED" in body) == (403, True, True)
        assert (await ask("PUT", "/v2/x/manifests/1"))[0] == 405


async def test_the_catalog_looks_over_what_it_does_not_show(registry: MemoryRegistry) -> None:
    """Pages are as long as they were asked for, and lead to one another."""
    registry.names[:] = [f"library/y{number:02}" for number in range(20)]
    listed = {"listed": lambda repository: repository.name.endswith(("3", "7"))}
    async with served(registry, **listed) as ask:
        status, headers, body = await ask("GET", "/v2/_catalog?n=3")
        assert (status, body) == (
            200,
            b'{"repositories":["library/y03","library/y07","library/y13"]}\n',
        )
        assert "last=library%2Fy13" in headers["Link"]
        assert (await ask("GET", "/v2/_catalog?n=3&last=library/y13"))[2] == (
            b'{"repositories":["library/y17"]}\n'
        )


async def test_who_asks_for_one_name_where_none_is_shown_costs_a_few_looks(registry: MemoryRegistry) -> None:
    """Each look reads the tree from its top: one for each of thousands would be minutes of work."""
    registry.names[:] = [f"library/y{number:04}" for number in range(5000)]
    async with served(registry, listed=lambda repository: repository.name == "library/y4999") as ask:
        assert (await ask("GET", "/v2/_catalog?n=1"))[2] == b'{"repositories":["library/y4999"]}\n'
    looks = [call for call in registry.calls if call.startswith("repositories")]
    assert len(looks) <= 6, looks
