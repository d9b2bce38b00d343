"""One request that two parsers understand differently, and paths that mean more than they say.

Behind a proxy, whoever can make the mirror see a request where the proxy sees none puts words into another
client's mouth. So whatever is ambiguous is refused, and its connection ends; also where the fast lane knows
the hidden request by heart.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.server import connections
from mirror.server.routes import Settings
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, exchange, running
from tests.support.modes import FASTLANE
from tests.support.scripted import Upstream, serve
from tests.wire.conftest import running as running_mirror

BODY = b'{"hidden": 1}'
HIDDEN = b"GET /v2/library/x/manifests/v1 HTTP/1.1\r\nHost: m\r\n\r\n"
LINE = b"POST /v2/ HTTP/1.1\r\nHost: m\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(HIDDEN)
END = b"\r\n\r\n"

# Each is followed by HIDDEN. A parser that takes the other view of it sees that as a request.
FORMS = {
    "CL and TE": LINE + b"Content-Length: 4\r\n" + CHUNKED + END + b"0\r\n\r\n",
    "TE and CL": LINE + CHUNKED + b"\r\nContent-Length: 4" + END + b"0\r\n\r\n",
    "two CLs": LINE + b"Content-Length: 0\r\n" + LENGTH + END,
    "two CLs in one": LINE + b"Content-Length: 0, %d" % len(HIDDEN) + END,
    "CL with a sign": LINE + b"Content-Length: +%d" % len(HIDDEN) + END,
    "CL in hexadecimal": LINE + b"Content-Length: 0x%x" % len(HIDDEN) + END,
    "CL with an underscore": LINE + b"Content-Length: 0_0" + END,
    "CL that is negative": LINE + b"Content-Length: -1" + END,
    "CL with a space in its name": LINE + b"Content-Length : %d" % len(HIDDEN) + END,
    "TE with a space in its name": LINE + b"Transfer-Encoding : chunked" + END + b"0\r\n\r\n",
    "TE with a tab": LINE + b"Transfer-Encoding:\tchunked\r\nContent-Length: 5" + END + b"0\r\n\r\n",
    "TE that is unknown": LINE + b"Transfer-Encoding: xchunked\r\n" + LENGTH + END,
    "TE twice": LINE + CHUNKED + b"\r\nTransfer-Encoding: identity\r\nContent-Length: 5" + END + b"0\r\n\r\n",
    "TE not at last": LINE
    + b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5"
    + END
    + b"0\r\n\r\n",
    "TE folded": LINE + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 5" + END + b"0\r\n\r\n",
    "TE in HTTP/1.0": LINE.replace(b"1.1", b"1.0") + CHUNKED + b"\r\nContent-Length: 5" + END + b"0\r\n\r\n",
    "a bare LF": b"POST /v2/ HTTP/1.1\nHost: m\nContent-Length: 0\n\n",
    "a bare CR": b"POST /v2/ HTTP/1.1\r\nHost: m\rContent-Length: 0\r\n\r\n",
    "a bare LF in a head": LINE + b"A: b\nContent-Length: 0" + END,
    "a NUL in a value": LINE + b"A: b\x00c" + END,
    "a chunk of no size": LINE + CHUNKED + END + b"\r\n\r\n",
    "a chunk with a sign": LINE + CHUNKED + END + b"+0\r\n\r\n",
    "a chunk in hexadecimal words": LINE + CHUNKED + END + b"0x0\r\n\r\n",
    "a chunk that ends in LF": LINE + CHUNKED + END + b"0\n\n",
    "a chunk that overflows": LINE + CHUNKED + END + b"ffffffffffffffff0\r\n",
    "a chunk longer than it says": LINE + CHUNKED + END + b"1\r\nabc\r\n0\r\n\r\n",
    "a space before the first field": b"POST /v2/ HTTP/1.1\r\n Host: m\r\n" + LENGTH + END,
    "a version of its own": b"POST /v2/ HTTP/1.1x\r\nHost: m" + END,
    "two spaces": b"POST  /v2/  HTTP/1.1 \r\nHost: m" + END,
    "HTTP/0.9": b"GET /v2/\r\n\r\n",
}


@asynccontextmanager
async def warmed(registry: MemoryRegistry) -> AsyncIterator[int]:
    """The port of a server that has given the hidden answer so often that it repeats it."""
    registry.add_manifest("v1", BODY)
    registry.notes["manifest"] = {"hit": True}
    async with running(registry, Settings(access_log=False)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        for _ in range(5):
            writer.write(HIDDEN)
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(BODY)
        writer.close()
        assert len([call for call in registry.calls if call.startswith("manifest")]) == (2 if FASTLANE else 5)
        registry.calls.clear()
        yield made.port


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("cut", ["at once", "in pieces"])
async def test_what_is_ambiguous_is_refused_and_nothing_behind_it_is_a_request(
    form: bytes, cut: str, registry: MemoryRegistry
) -> None:
    """Whether it comes with it, or after the answer, as a request of the next client would."""
    async with warmed(registry) as port:
        if cut == "at once":
            answered = await exchange(port, form + HIDDEN)
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answered = b""
            try:
                async with asyncio.timeout(PATIENCE):
                    for piece in (form[:20], form[20:], HIDDEN, b""):
                        writer.write(piece)
                        await writer.drain()
                    answered = await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()
    assert BODY not in answered
    assert registry.calls == []
    assert len(re.findall(rb"HTTP/1\.[01] [0-9]{3} ", answered)) <= 1
    assert not answered or answered.split()[1] in (b"400", b"404", b"405", b"501", b"505")


async def test_a_body_that_is_whole_is_no_request_and_the_next_is_one(registry: MemoryRegistry) -> None:
    """The lane must not take a body for the request that it looks like."""
    async with warmed(registry) as port:
        asked = LINE + LENGTH + END + HIDDEN + HIDDEN.replace(b"Host", b"Connection: close\r\nHost")
        answered = await exchange(port, asked)
    assert answered.count(b"HTTP/1.1 ") == 2
    assert answered.count(BODY) == 1


async def test_a_body_that_comes_later_is_no_request(registry: MemoryRegistry) -> None:
    """In a piece of its own, equal to a head that the lane knows."""
    async with warmed(registry) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LINE + LENGTH + END)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HIDDEN)
            try:
                answered = await reader.read()
            except ConnectionError:
                answered = b""
        writer.close()
    assert BODY not in answered
    assert registry.calls == []


PATHS = [
    "/v2/../../../../etc/passwd",
    "/v2/library/a/blobs/../../../../../../secret",
    "/v2/library/a/manifests/../../../secret",
    "/v2/library/a/manifests/..%2f..%2f..%2fsecret",
    "/v2/library/a/manifests/%2e%2e%2f%2e%2e%2fsecret",
    "/v2/library/%2e%2e/secret/manifests/1",
    "/v2/..%5c..%5csecret/manifests/1",
    "/v2/library/a%00/manifests/1",
    "/v2/library/a/manifests/1%00.json",
    "/v2/library%2fa/manifests/%00",
    "/v2//library//a//manifests//secret",
    "/v2/./library/./a/./tags/../../../../secret",
    "/v2/library/a/blobs/sha256:../../../secret",
    "/v2/library/a/blobs/sha256%3a..%2f..%2fsecret",
    "/v2/_catalog/../../../secret",
    "/v2/library/a/tags/list/../../../../../secret",
    "/v2/" + "../" * 2000 + "secret",
    "/v2/" + "a/" * 3500 + "manifests/1",
    "/v2/" + "%2e%2e%2f" * 800 + "secret",
    "/v2/library/a/manifests/" + "a" * 7000,
    "/v2/\u00ff\u00fe/manifests/1",
    "//evil.test/v2/",
    "http://evil.test/secret",
    "/\\evil.test/v2/",
    "/v2/..;/secret",
    "*",
    "/../mirror/ledger.sqlite",
    "/v2/library/a/manifests/1?ns=../../secret",
    "/v2/library/a/manifests/1?ns=evil.test%00",
    "/v2/mirror/control.sock/manifests/1",
]


async def test_no_path_leads_out_of_the_store_nor_to_another_host(tmp_path: Path) -> None:
    """Of the whole mirror, byte for byte as written: no client cleans these."""
    upstream = Upstream()
    upstream.add_image("library/a", "1")
    secret = b"nobody may read this"
    root = tmp_path / "data"
    async with serve(upstream) as url, running_mirror(root, url) as mirror:
        for folder in (tmp_path, root, root / "docker/registry/v2", root / "mirror"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "secret").write_bytes(secret)
        port = int(mirror.url.rpartition(":")[2])
        for path in PATHS:
            line = f"GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode("latin-1")
            answered = await exchange(port, line)
            head, _, body = answered.partition(b"\r\n\r\n")
            assert answered, path
            # With one upstream that is not Docker Hub, `?ns=` is not looked at.
            allowed = (200, 404) if "?ns=" in path else (301, 400, 404)
            assert int(head.split()[1]) in allowed, (path, head)
            assert secret not in answered
            assert b"SQLite" not in body
            location = head.partition(b"ocation: ")[2].partition(b"\r\n")[0]
            assert not location or (location[:1] == b"/" and location[1:2] not in (b"/", b"\\")), path
        assert not any(
            "secret" in seen.path or ".." in seen.path or "%" in seen.path for seen in upstream.seen
        ), upstream.seen


@pytest.mark.parametrize(("size", "statuses"), [(30_000, (401,)), (40_000, (400,)), (70_000, (400, 431))])
async def test_a_huge_token_is_refused_and_costs_little(
    size: int, statuses: tuple[int, ...], tmp_path: Path
) -> None:
    """Of each kind: nonsense, many parts, deep JSON; and the mirror goes on."""
    from tests.support.jwts import ISSUER, SERVICE, Signer, pem

    signer = Signer()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pem(signer.root))
    auth = {
        "token": {
            "realm": "http://t.example/token",
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(bundle),
        }
    }
    upstream = Upstream()
    upstream.add_image("library/a", "1")
    access = [{"type": "repository", "name": f"a/{number}", "actions": ["pull"]} for number in range(5000)]
    tokens = ["a" * size, "." * size, "eyJ" + "a." * (size // 2), signer.token(access=access)[:size]]
    async with serve(upstream) as url, running_mirror(tmp_path / "data", url, auth=auth) as mirror:
        port = int(mirror.url.rpartition(":")[2])
        for token in tokens:
            line = f"GET /v2/library/a/manifests/1 HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer {token}\r\n"
            answered = await exchange(port, line.encode() + b"Connection: close\r\n\r\n")
            assert int(answered.split()[1]) in statuses
        good = {"Authorization": f"Bearer {signer.token('library/a')}"}
        assert (await mirror.ask("GET", "library/a/manifests/1", good)).status == 200
