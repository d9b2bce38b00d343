"""The whole mirror with `auth`: what is repeated from memory is for whoever may have it, and no longer."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import bcrypt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mirror.access import token as tokens
from mirror.server import lane
from tests.support.jwts import ISSUER, SERVICE, Signer, pem
from tests.support.modes import ENVIRONMENT
from tests.support.registries import basic_auth
from tests.support.scripted import Upstream, serve
from tests.support.waiting import PATIENCE
from tests.wire.conftest import Mirror, running

NAME = "library/a"
BOB = ("bob", "a secret: word")
LIVES = 4  # seconds, a token that is to be seen to end; on a busy machine it has to begin, too
WARM = 5  # requests, of which the last are repeated from memory


def write(path: Path, *logins: tuple[str, str]) -> dict[str, Any]:
    """The `auth` section for these users."""
    lines = [
        b"%b:%b\n" % (user.encode(), bcrypt.hashpw(word.encode(), bcrypt.gensalt(4))) for user, word in logins
    ]
    path.write_bytes(b"".join(lines))
    return {"htpasswd": {"realm": "r", "path": str(path)}}


async def warm(mirror: Mirror, path: str, authorization: str) -> None:
    for _ in range(WARM):
        answer = await mirror.ask("GET", path, {"Authorization": authorization})
        assert answer.status == 200
        await mirror.kept(answer.headers["Docker-Content-Digest"])


async def status(mirror: Mirror, path: str, authorization: str) -> int:
    return (await mirror.ask("GET", path, {"Authorization": authorization})).status


async def test_a_user_who_is_taken_out_is_out_a_second_later(tmp_path: Path, upstream: Upstream) -> None:
    """Of the ordinary way and of the fast lane, where his answers were repeated."""
    image = upstream.add_image(NAME, "1")
    auth = write(tmp_path / "htpasswd", BOB)
    async with serve(upstream) as url, running(tmp_path / "data", url, auth=auth) as mirror:
        paths = [f"{NAME}/manifests/{image.digest}", *(f"{NAME}/blobs/{each}" for each in image.blobs)]
        for path in paths:
            await warm(mirror, path, basic_auth(BOB))
        write(tmp_path / "htpasswd", ("eve", "x"))
        async with asyncio.timeout(PATIENCE):
            while await status(mirror, paths[0], basic_auth(BOB)) == 200:  # noqa: ASYNC110 - a file, no event
                await asyncio.sleep(0.02)
        assert {await status(mirror, path, basic_auth(BOB)) for path in paths} == {401}
        assert await status(mirror, paths[0], basic_auth(("eve", "x"))) == 200


async def test_passwords_are_not_kept_with_the_answers_that_are_repeated(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ENVIRONMENT, "REGISTRY_HTTP_FASTLANE", raising=False)  # on, in every mode
    made: list[lane.Lane] = []
    original = lane.Lane

    def note(*arguments: Any, **named: Any) -> lane.Lane:
        made.append(original(*arguments, **named))
        return made[-1]

    image = upstream.add_image(NAME, "1")
    auth = write(tmp_path / "htpasswd", BOB)
    with mock.patch("mirror.server.routes.Lane", note):
        async with serve(upstream) as url, running(tmp_path / "data", url, auth=auth) as mirror:
            path = f"{NAME}/manifests/{image.digest}"
            await warm(mirror, path, basic_auth(BOB))
            (one,) = made
            async with asyncio.timeout(PATIENCE):
                while not one._answers:  # what is kept is written behind the answers
                    assert await status(mirror, path, basic_auth(BOB)) == 200
            assert basic_auth(BOB) not in repr(one._answers.keys())
            assert all(len(key) == 32 for key in one._answers)


async def test_an_event_names_who_has_pulled(tmp_path: Path, upstream: Upstream) -> None:
    """`actor.name`, as in distribution; each his own, also where the answer is repeated from memory."""
    image = upstream.add_image(NAME, "1")
    alice = ("alice", "another word")
    told: list[dict[str, Any]] = []

    async def take(request: web.Request) -> web.Response:
        told.extend((await request.json())["events"])
        return web.Response()

    hook = web.Application()
    hook.router.add_post("/", take)
    async with TestServer(hook) as server, serve(upstream) as url:
        sections = {"notifications": {"endpoints": [{"name": "e", "url": str(server.make_url("/"))}]}}
        auth = write(tmp_path / "htpasswd", BOB, alice)
        async with running(tmp_path / "data", url, auth=auth, sections=sections) as mirror:
            path = f"{NAME}/manifests/{image.digest}"
            for login in (BOB, alice):
                await warm(mirror, path, basic_auth(login))
            assert await status(mirror, path, basic_auth(("eve", "x"))) == 401
            async with asyncio.timeout(PATIENCE):
                while len(told) < 2 * WARM:  # noqa: ASYNC110 - what an endpoint was told, no event
                    await asyncio.sleep(0.01)
    assert [event["actor"] for event in told] == [{"name": "bob"}] * WARM + [{"name": "alice"}] * WARM


async def test_no_answer_outlives_its_token(tmp_path: Path, upstream: Upstream) -> None:
    signer = Signer()
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pem(signer.root))
    image = upstream.add_image(NAME, "1")
    section = {"realm": "https://t.example", "service": SERVICE, "issuer": ISSUER}
    auth = {"token": {**section, "rootcertbundle": str(bundle)}}
    with mock.patch.object(tokens, "LEEWAY", 0.0):
        async with serve(upstream) as url, running(tmp_path / "data", url, auth=auth) as mirror:
            path = f"{NAME}/manifests/{image.digest}"
            end = int(time.time()) + LIVES
            short = f"Bearer {signer.token(NAME, exp=end)}"
            await warm(mirror, path, short)
            async with asyncio.timeout(LIVES + PATIENCE):
                began = time.time()
                while await status(mirror, path, short) == 200:
                    # When it was asked for: the answer may have come late.
                    assert began < end + 1.5
                    await asyncio.sleep(0.02)
                    began = time.time()
            assert time.time() >= end
            refused = await mirror.ask("GET", path, {"Authorization": short})
            assert refused.headers["WWW-Authenticate"].endswith(',error="invalid_token"')
            assert await status(mirror, path, f"Bearer {signer.token(NAME)}") == 200
            assert await status(mirror, path, f"Bearer {signer.token('library/b')}") == 401


async def test_an_open_mirror_ignores_credentials_that_it_does_not_know(
    mirror: Mirror, upstream: Upstream
) -> None:
    """docker may send its Docker Hub login, podman an empty one; none of it goes upstream."""
    upstream.add_image(NAME, "1")
    for authorization in ("Basic Og==", basic_auth(BOB), "Bearer x"):
        assert await status(mirror, f"{NAME}/manifests/1", authorization) == 200
    assert not any("Authorization" in seen.headers for seen in upstream.seen)


async def test_what_is_denied_is_given_to_nobody_kept_or_not(tmp_path: Path, upstream: Upstream) -> None:
    image = upstream.add_image(NAME, "1")
    upstream.add_image("org/private", "1")
    upstream.add_image("org/open", "1")
    async with serve(upstream) as url:
        async with running(tmp_path / "data", url) as mirror:
            found = await mirror.get(f"{NAME}/manifests/1")
            await mirror.kept(found.headers["Docker-Content-Digest"])
        upstream.seen.clear()
        rules: dict[str, Any] = {"allow": ["org/*"], "deny": ["*private*"]}
        async with running(tmp_path / "data", url, **rules) as mirror:
            for path in (
                "manifests/1",
                f"manifests/{image.digest}",
                "tags/list",
                f"referrers/{image.digest}",
            ):
                answer = await mirror.get(f"{NAME}/{path}")
                assert (answer.status, answer.error["code"]) == (403, "DENIED")
                assert "proxy.allow" in answer.error["message"]
                assert "org" not in answer.error["message"]
            assert "proxy.deny" in (await mirror.get("org/private/manifests/1")).error["message"]
            assert upstream.seen == []
            assert (await mirror.get("org/open/manifests/1")).status == 200
            assert b"library" not in (await mirror.get("_catalog")).body


async def test_the_patterns_of_an_upstream_are_its_own(tmp_path: Path) -> None:
    """They compare its own names, however a client has named the registry; others' are not touched."""
    one, two = Upstream(), Upstream()
    for upstream in (one, two):
        upstream.add_image("org/app", "1")
    async with serve(one) as first, serve(two) as second:
        others = {"two.example": {"remoteurl": second, "deny": ["org/*"], "aliases": ["two"]}}
        async with running(tmp_path / "data", first, upstreams=others) as mirror:
            assert (await mirror.get("org/app/manifests/1")).status == 200
            for path in (
                "two.example/org/app/tags/list",
                "two/org/app/tags/list",
                "org/app/tags/list?ns=two.example",
            ):
                answer = await mirror.get(path)
                assert answer.status == 403
                assert "proxy.upstreams.two.example.deny" in answer.error["message"]


async def test_somebody_who_tries_passwords_is_not_in_the_way_of_others(
    tmp_path: Path, upstream: Upstream
) -> None:
    """From another address one gets in, with a password that was not seen before, while they try."""
    upstream.add_image(NAME, "1")
    path = tmp_path / "htpasswd"
    auth = write(path, BOB)
    hashed = bcrypt.hashpw(BOB[1].encode(), bcrypt.gensalt(10))
    path.write_bytes(b"bob:" + hashed)
    async with serve(upstream) as url, running(tmp_path / "data", url, auth=auth) as mirror:
        answers: list[int] = []

        async def guess(number: int) -> None:
            answers.append(await status(mirror, "", basic_auth(("bob", f"guess {number}"))))

        guesses = [asyncio.ensure_future(guess(number)) for number in range(300)]
        async with asyncio.timeout(20):
            while not answers:  # noqa: ASYNC110 - until the first is refused for what waits already
                await asyncio.sleep(0.005)
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(connector=elsewhere) as session:
            headers = {"Authorization": basic_auth(BOB)}
            async with session.get(f"{mirror.url}/v2/", headers=headers) as answer:
                assert answer.status == 200
        assert not all(each.done() for each in guesses)  # he has not waited for them
        await asyncio.gather(*guesses)
        assert set(answers) == {401, 429}


@pytest.mark.parametrize(
    ("more", "path"), [({}, "/auth/token"), ({"autoredirectpath": "/login/x"}, "/login/x")], ids=str
)
async def test_with_autoredirect_the_realm_is_at_the_host_that_the_client_asks(
    tmp_path: Path, upstream: Upstream, more: dict[str, str], path: str
) -> None:
    """And a proxy that is trusted says by which scheme and host that was, as in registry:2."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(pem(Signer().root))
    token = {
        "autoredirect": True,
        "service": SERVICE,
        "issuer": ISSUER,
        "rootcertbundle": str(bundle),
        **more,
    }
    sections = {"http": {"addr": "127.0.0.1:0", "trustedproxies": ["127.0.0.1"]}}
    async with (
        serve(upstream) as url,
        running(tmp_path / "data", url, auth={"token": token}, sections=sections) as mirror,
    ):
        for headers, realm in (
            ({"Host": "mirror.example:5000"}, f"https://mirror.example:5000{path}"),
            ({"Host": "m", "X-Forwarded-Proto": "http"}, f"http://m{path}"),
            ({"Host": "m", "X-Forwarded-Host": "front.example"}, f"https://front.example{path}"),
        ):
            answer = await mirror.ask("GET", f"{NAME}/manifests/1", headers)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith(
                f'Bearer realm="{realm}",service="{SERVICE}"'
            )
    assert upstream.seen == []
