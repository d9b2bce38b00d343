"""Requests that mean other upstreams: what the registry is asked for, and what the client is told."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository
from mirror.registry import RegistryError
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import ask, exchange, parse, serving

BODY = b'{"schemaVersion":2}'
D = Digest.of(BODY)
B = Digest.of(b"0123456789")
QUAY = {"Host": "quay.io.mirror.test:5000"}


@dataclass
class Routes:
    """Two upstreams, the default one and quay.io; a third with a port; all else is unknown."""

    asked: list[tuple[str | None, str, str]] = field(default_factory=list)

    def locate(self, namespace: str | None, host: str, repository: Repository) -> Repository:
        self.asked.append((namespace, host, repository.name))
        if namespace == "nobody.test":
            raise RegistryError(ErrorCode.NAME_UNKNOWN, "this mirror does not serve nobody.test")
        if namespace == "localhost:5555":
            return Repository(f"localhost_5555/{repository}")
        if namespace == "quay.io" or host.startswith("quay.io."):
            return Repository(f"quay.io/{repository}")
        return repository

    def namespace_of(self, repository: Repository) -> str:
        first = repository.name.partition("/")[0].replace("_", ":")
        return first if first in ("quay.io", "localhost:5555") else "docker.io"

    def settings(self) -> Settings:
        return Settings(
            locate=self.locate, namespace_of=self.namespace_of, access_log=False, prefix="/sub", tags_max=2
        )


@pytest.mark.parametrize(
    ("target", "method", "calls"),
    [
        ("manifests/v1?ns=quay.io", "GET", ["manifest quay.io/org/x v1"]),
        (f"manifests/{D}?ns=quay.io", "HEAD", [f"stat_manifest quay.io/org/x {D}"]),
        (f"blobs/{B}?ns=quay.io", "GET", ["blob quay.io/org/x 0 None"]),
        (f"blobs/{B}?ns=quay.io", "HEAD", ["stat_blob quay.io/org/x"]),
        ("tags/list?ns=quay.io&n=2", "GET", ["tags quay.io/org/x 2 "]),
        (f"referrers/{D}?ns=quay.io", "GET", ["referrers quay.io/org/x"]),
        ("blobs/uploads/?ns=quay.io", "GET", []),
        ("blobs/uploads/1?ns=quay.io", "GET", []),
        ("manifests/v1", "GET", ["manifest org/x v1"]),
        ("manifests/v1?ns=", "GET", ["manifest org/x v1"]),
        ("manifests/v1?ns=localhost%3A5555", "GET", ["manifest localhost_5555/org/x v1"]),
    ],
)
async def test_every_endpoint_asks_for_the_located_repository(
    target: str, method: str, calls: list[str], registry: MemoryRegistry
) -> None:
    routes = Routes()
    async with serving(registry, routes.settings()) as port:
        await ask(port, f"/sub/v2/org/x/{target}", method)
    assert registry.calls == calls
    assert [(host, name) for _, host, name in routes.asked] == [("mirror.test", "org/x")]


async def test_the_host_is_what_the_client_sent(registry: MemoryRegistry, events: Events) -> None:
    """With its port; nothing is made up for a client that sends none."""
    routes = Routes()
    old = b"GET /sub/v2/org/x/manifests/v1 HTTP/1.0\r\n\r\n"
    request = f"GET /sub/v2/org/x/manifests/v1 HTTP/1.1\r\nHost: {QUAY['Host']}\r\nConnection: close\r\n\r\n"
    async with serving(registry, routes.settings()) as port:
        await exchange(port, request.encode())
        await exchange(port, old)
    assert [asked[1] for asked in routes.asked] == [QUAY["Host"], ""]
    assert registry.calls == ["manifest quay.io/org/x v1", "manifest org/x v1"]


async def test_clients_read_their_own_words(registry: MemoryRegistry, events: Events) -> None:
    """In a list's name and link, and in the details of errors; the log has both names."""
    registry.names.append("quay.io/org/x")
    registry.tag_names = ["v1", "v2", "v3"]
    async with serving(registry, Routes().settings()) as port:
        tags = await ask(port, "/sub/v2/org/x/tags/list?n=2&ns=quay.io")
        unknown = await ask(port, "/sub/v2/org/y/tags/list?ns=quay.io")
        none = await ask(port, f"/sub/v2/org/x/manifests/sha256:{'0' * 64}?ns=quay.io")
    assert tags.body == b'{"name":"org/x","tags":["v1","v2"]}\n'
    assert tags.one("Link") == '</sub/v2/org/x/tags/list?last=v2&n=2&ns=quay.io>; rel="next"'
    assert b'"detail":{"name":"org/y"}' in unknown.body
    assert f'"unknown manifest name=org/x revision=sha256:{"0" * 64}"'.encode() in none.body
    first = events.all[0]
    assert (first["vars.name"], first["upstream.repository"]) == ("org/x", "quay.io/org/x")
    assert first["upstream.namespace"] == "quay.io"


async def test_a_name_that_stays_the_same_is_logged_once(registry: MemoryRegistry, events: Events) -> None:
    async with serving(registry, Routes().settings()) as port:
        await ask(port, "/sub/v2/org/x/tags/list")
        await ask(port, "/sub/v2/")
    named, version = events.all
    assert (named["upstream.namespace"], "upstream.repository" in named) == ("docker.io", False)
    assert "upstream.namespace" not in version


@pytest.mark.parametrize("kind", ["manifests/v1", f"blobs/{B}", "tags/list", f"referrers/{D}"])
async def test_an_unknown_namespace_is_refused_without_a_question(
    kind: str, registry: MemoryRegistry, events: Events
) -> None:
    """404 with a text: clients go on to the next host."""
    async with serving(registry, Routes().settings()) as port:
        answer = await ask(port, f"/sub/v2/org/x/{kind}?ns=nobody.test")
    assert answer.status == 404
    assert answer.body.decode() == (
        '{"errors":[{"code":"NAME_UNKNOWN","message":"this mirror does not serve nobody.test",'
        '"detail":{"name":"org/x"}}]}\n'
    )
    assert answer.one("Cache-Status") == "mirror; detail=local"
    assert registry.calls == []
    assert events.all[0]["vars.name"] == "org/x"


MIRROR = "this is a read-only pull-through mirror: "


@pytest.mark.parametrize(
    ("method", "query", "there"),
    [
        ("PUT", "", "push to docker.io/org/x instead"),
        ("PUT", "?ns=quay.io", "push to quay.io/org/x instead"),
        ("DELETE", "?ns=quay.io", "delete it in quay.io/org/x instead"),
        ("PUT", "?ns=localhost:5555", "push to localhost:5555/org/x instead"),
        ("PUT", "?ns=nobody.test", "push to the registry itself instead"),
    ],
)
async def test_a_push_is_sent_where_it_belongs(
    method: str, query: str, there: str, registry: MemoryRegistry
) -> None:
    """405 in any case: docker prints it at once."""
    request = f"{method} /sub/v2/org/x/manifests/v1{query} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
    async with serving(registry, Routes().settings()) as port:
        answer = parse(await exchange(port, request.encode()))
    assert answer.status == 405
    assert f'"message":"{MIRROR}{there}"' in answer.body.decode()


async def test_a_push_to_nobody_knows_where_has_a_text_too(registry: MemoryRegistry) -> None:
    settings = Settings(namespace_of=lambda _repository: "", access_log=False)
    async with serving(registry, settings) as port:
        answer = await ask(port, "/v2/org/x/manifests/v1", "PUT")
    assert f'"message":"{MIRROR}push to the registry itself instead"' in answer.body.decode()
