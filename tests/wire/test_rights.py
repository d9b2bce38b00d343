"""`proxy.rights: caller`: nobody is given more than the registry itself would give him."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mirror.access import callers
from mirror.cache import helpers
from tests.support.scripted import Basic, Bearer, Fault, Image, Upstream, serve, sha256
from tests.support.waiting import until
from tests.wire.conftest import Answer, Clock, Mirror, running

NAME = "library/a"
OWN = {"username": "robot", "password": "hunter2"}
ALICE, EVE = "Bearer alice-token", "Bearer eve-token"
SCOPE = f"repository:{NAME}:pull"
TIMES = 30  # of each kind of answer, whose times are compared


@dataclass(frozen=True, slots=True)
class World:
    """A mirror of a registry with one private image. Alice may have it, Eve something else."""

    mirror: Mirror
    upstream: Upstream
    image: Image
    clock: Clock

    @property
    def paths(self) -> list[str]:
        """All that is Alice's."""
        blobs = [f"{NAME}/blobs/{digest}" for digest in self.image.blobs]
        return [
            f"{NAME}/manifests/1",
            f"{NAME}/manifests/{self.image.digest}",
            *blobs,
            f"{NAME}/tags/list",
            f"{NAME}/referrers/{self.image.digest}",
        ]

    def wants_login(self) -> None:
        """At `/v2/` too, as registries do."""
        line = f'Bearer realm="{self.upstream.url}/token",service="registry.test"'
        self.upstream.fault("GET", "^/v2/$", Fault(status=401, headers={"WWW-Authenticate": line}))

    async def ask(self, path: str, who: str, method: str = "GET") -> Answer:
        return await self.mirror.ask(method, path, {"Authorization": who} if who else {})

    async def warm(self) -> None:
        """Alice has all of it, some of it so often that it is repeated from memory."""
        for _ in range(4):
            for path in self.paths:
                assert (await self.ask(path, ALICE)).status == 200, path
        await self.mirror.linked(NAME, self.image.digest, *self.image.blobs)
        await self.mirror.tagged(NAME, "1")

    async def refused(self, who: str) -> list[Answer]:
        """Everything that is hers, asked for by somebody else: his answers."""
        found = []
        for path in self.paths:
            for method in ("GET", "HEAD") if "tags" not in path else ("GET",):
                answer = await self.ask(path, who, method)
                assert answer.status >= 400, f"{method} {path}: {answer.status}"
                assert self.image.digest not in str(answer.headers)
                assert not any(layer in answer.body for layer in self.image.layers)
                found.append(answer)
        return found


@asynccontextmanager
async def world(folder: Path, auth: Bearer | Basic | None = None, **proxy: Any) -> AsyncIterator[World]:
    """The mirror has a login of its own, with which it may read everything."""
    bearer = auth or Bearer(username="robot", password="hunter2")
    upstream = Upstream(auth=bearer)
    image = upstream.add_image(NAME, "1", layers=[b"secret layer"])
    upstream.add_image("library/public", "1")
    if isinstance(bearer, Bearer):
        bearer.tokens["alice-token"] = SCOPE
        bearer.tokens["eve-token"] = "repository:library/public:pull"
    clock = Clock()
    settings = {"freshness": {"default": "60s"}, **OWN, "rights": "caller", **proxy}
    async with serve(upstream) as url, running(folder / "data", url, clock=clock, **settings) as mirror:
        yield World(mirror, upstream, image, clock)


@pytest.mark.parametrize("who", [EVE, "", "Bearer x", "Basic ZXZlOnB3", "Basic Og=="])
async def test_another_client_gets_nothing_of_it_cold_or_warm(tmp_path: Path, who: str) -> None:
    """And the same answers, whether it is kept here or not."""
    async with world(tmp_path) as it:
        cold = await it.refused(who)
        await it.warm()
        warm = await it.refused(who)
        assert [(a.status, a.body, a.headers.get("WWW-Authenticate")) for a in cold] == [
            (a.status, a.body, a.headers.get("WWW-Authenticate")) for a in warm
        ]
        assert {answer.status for answer in warm} == {401}
        assert {answer.headers["Cache-Status"] for answer in warm} == {"mirror; detail=local"}


def headers_of(answer: Answer) -> dict[str, str]:
    """All that could tell something."""
    return {name: value for name, value in answer.headers.items() if name != "Date"}


async def test_conditions_and_ranges_tell_nothing_where_all_is_warm(tmp_path: Path) -> None:
    """A 304, a 206 or a 416 would say what is here; also where they are repeated for another from memory."""
    async with world(tmp_path) as it:
        probes = [
            (method, path, headers)
            for path in it.paths
            for method in (("GET",) if "tags" in path else ("GET", "HEAD"))
            for headers in (
                {"If-None-Match": f'"{path.rpartition("/")[2]}"'},
                {"If-None-Match": f'"{it.image.digest}"'},
                {"If-None-Match": "*"},
                {"Range": "bytes=0-3"},
                {"Range": "bytes=999999999-"},
                {"Range": "bytes=0-3", "If-Range": f'"{path.rpartition("/")[2]}"'},
            )
        ]

        async def probed(who: str) -> list[Answer]:
            return [
                await it.mirror.ask(method, path, {**headers, "Authorization": who})
                for method, path, headers in probes
            ]

        cold = await probed(EVE)
        await it.warm()
        hers = [answer for _ in range(4) for answer in await probed(ALICE)]
        assert {answer.status for answer in hers} >= {200, 206, 304, 416}
        warm = await probed(EVE)
        assert {answer.status for answer in warm} == {401}
        assert [(a.body, headers_of(a)) for a in warm] == [(a.body, headers_of(a)) for a in cold]


async def test_a_blob_that_is_arriving_is_for_those_who_may_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several connections: nobody joins whom the registry refuses, and nobody learns that it comes."""
    for name, value in (("TICK", 0.01), ("WORTH", 0.0), ("FAST", 1e12), ("BUSY", 1e12)):
        monkeypatch.setattr(helpers, name, value)  # every pace is worth more connections, soon
    segments = {"segments": {"from": "256KiB", "connections": 4}}
    async with world(tmp_path, cache=segments) as it:
        data = random.Random(3).randbytes(1_000_000)
        digest = it.upstream.add_blob(NAME, data)
        path = f"{NAME}/blobs/{digest}"
        it.upstream.fault("GET", "/blobs/", Fault(rate=400_000, stall_after=100_000))  # until it is released
        before = [await it.ask(path, EVE, method) for method in ("GET", "HEAD")]
        hers = asyncio.create_task(it.ask(path, ALICE))
        await until(lambda: f"GET /v2/{path}" in map(str, it.upstream.seen))
        for range_ in ({}, {"Range": "bytes=0-9"}, {"If-None-Match": f'"{digest}"'}):
            during = [
                await it.mirror.ask(method, path, {**range_, "Authorization": EVE})
                for method in ("GET", "HEAD")
            ]
            assert [(a.status, a.body, headers_of(a)) for a in during] == [
                (a.status, a.body, headers_of(a)) for a in before
            ]
        assert not hers.done()
        it.upstream.clear_faults()
        it.upstream.release()
        assert (await hers).body == data


async def test_the_catalog_and_a_list_are_empty_or_refused_for_everybody_else(tmp_path: Path) -> None:
    """With pages and names that would be known."""
    async with world(tmp_path) as it:
        cold = [
            await it.ask(f"_catalog{query}", EVE) for query in ("", "?n=1", "?last=library", "?n=100&last=a")
        ]
        await it.warm()
        warm = [
            await it.ask(f"_catalog{query}", EVE) for query in ("", "?n=1", "?last=library", "?n=100&last=a")
        ]
        assert [(a.status, a.body, headers_of(a)) for a in warm] == [
            (a.status, a.body, headers_of(a)) for a in cold
        ]
        assert b"library" not in b"".join(answer.body for answer in warm)
        for path in (
            f"{NAME}/tags/list?n=1",
            f"{NAME}/tags/list?last=0",
            f"{NAME}/referrers/{it.image.digest}?artifactType=x",
        ):
            assert (await it.ask(path, EVE)).status == 401


async def test_another_client_gets_nothing_of_it_when_it_is_due(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.warm()
        it.clock.pass_(3600)
        await it.refused(EVE)
        it.upstream.fault("*", "/v2/", Fault(status=500, early=True))
        assert {answer.status for answer in await it.refused("Bearer new")} == {503}


async def test_nobody_gets_it_while_nobody_can_say_who_may(tmp_path: Path) -> None:
    """The registry is down: what is kept and what is not are refused in the same words."""
    ticks = Clock()
    original = callers.Callers
    with (
        mock.patch.object(callers, "Callers", lambda applies, ask: original(applies, ask, ticks)),
        mock.patch("mirror.appaccess.Callers", lambda applies, ask: original(applies, ask, ticks)),
    ):
        async with world(tmp_path) as it:
            await it.warm()
            it.upstream.fault("*", "", Fault(reset=True, early=True))
            assert (await it.ask(it.paths[1], ALICE)).status == 200  # for the rest of her minute
            ticks.pass_(callers.GRANTED + 1)
            known = [await it.ask(path, who) for path in it.paths for who in (ALICE, EVE, "")]
            unknown = await it.ask("library/b/manifests/1", EVE)
            assert {answer.status for answer in known} == {unknown.status}
            assert {answer.body for answer in known} == {unknown.body}
            assert unknown.status in (502, 503, 504)


async def test_a_right_is_asked_for_once_and_lasts_a_minute(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.warm()
        asked = [seen for seen in it.upstream.seen if seen.headers.get("Authorization") == ALICE]
        assert [str(seen) for seen in asked] == [f"HEAD /v2/{NAME}/manifests/1"]


async def test_those_who_ask_at_once_share_one_question(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        answers = await asyncio.gather(*(it.ask(it.paths[1], ALICE) for _ in range(20)))
        assert [answer.status for answer in answers] == [200] * 20
        asked = [seen for seen in it.upstream.seen if seen.headers.get("Authorization") == ALICE]
        assert len(asked) == 1


async def test_the_registrys_challenge_is_one_that_a_client_can_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.wants_login()
        ping = await it.mirror.get("")
        assert ping.status == 401
        told = f'Bearer realm="{it.upstream.url}/token",service="registry.test"'
        assert ping.headers["WWW-Authenticate"].startswith(told)
        refused = await it.mirror.get(f"{NAME}/manifests/1")
        assert refused.headers["WWW-Authenticate"] == f'{told},scope="{SCOPE}"'
        assert refused.error["code"] == "UNAUTHORIZED"


async def test_how_to_log_in_is_known_while_the_registry_is_down(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.wants_login()
        known = await it.mirror.get("")
        it.upstream.clear_faults()
        it.upstream.fault("*", "", Fault(reset=True, early=True))
        again = await it.mirror.get("")
        assert (again.status, again.headers["WWW-Authenticate"]) == (401, known.headers["WWW-Authenticate"])


async def test_a_basic_login_of_the_registry_is_taken(tmp_path: Path) -> None:
    async with world(tmp_path, Basic("robot", "hunter2")) as it:
        assert (await it.mirror.get("")).headers["WWW-Authenticate"] == 'Basic realm="registry"'
        right = "Basic cm9ib3Q6aHVudGVyMg=="
        assert (await it.ask("", right)).status == 200
        assert (await it.ask(it.paths[0], right)).status == 200
        assert {answer.status for answer in await it.refused("Basic ZXZlOnB3")} == {401}


async def test_what_the_registry_gives_to_everybody_needs_no_login(tmp_path: Path) -> None:
    upstream = Upstream()
    image = upstream.add_image(NAME, "1")
    async with serve(upstream) as url, running(tmp_path / "data", url, rights="caller") as mirror:
        assert (await mirror.get("")).status == 200
        for path in (f"{NAME}/manifests/1", f"{NAME}/blobs/{next(iter(image.blobs))}"):
            assert (await mirror.get(path)).status == 200


async def test_the_mirrors_own_login_never_stands_in_for_a_clients(tmp_path: Path) -> None:
    """Nor do the headers that it sends to the registry."""
    async with world(tmp_path, headers={"X-Api-Key": "hunter3"}) as it:
        await it.refused("")
        asked = [seen for seen in it.upstream.seen if seen.path != "/token"]
        assert asked
        assert not any("Authorization" in seen.headers or "X-Api-Key" in seen.headers for seen in asked)


async def test_a_page_to_log_in_at_lets_nobody_in(tmp_path: Path) -> None:
    """Single sign-on in front of the registry answers whomever it does not know with 200 and a page."""
    async with world(tmp_path) as it:
        await it.warm()
        html = {"Content-Type": "text/html; charset=utf-8"}
        page = Fault(status=200, headers=html, body=b"<html>who are you?</html>", early=True)
        it.upstream.fault("*", "/v2/", page)
        assert {answer.status for answer in await it.refused(EVE)} == {403}


async def test_credentials_do_not_go_along_a_redirect_nor_into_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = Upstream()
    async with world(tmp_path) as it, serve(elsewhere) as other:
        digest = next(iter(it.image.blobs))
        elsewhere.add_blob(NAME, it.image.blobs[digest])
        moved = Fault(status=307, headers={"Location": f"{other}/v2/{NAME}/blobs/{digest}"})
        it.upstream.fault("*", "/blobs/", moved)
        answer = await it.ask(f"{NAME}/blobs/{digest}", ALICE)
        assert (answer.status, sha256(answer.body)) == (200, digest)
        assert elsewhere.seen
        assert not any("Authorization" in seen.headers for seen in elsewhere.seen)
    shown = "".join(capfd.readouterr())
    assert "alice-token" not in shown
    assert "hunter2" not in shown


async def test_a_right_that_was_taken_away_ends_with_its_minute(tmp_path: Path) -> None:
    """Also where answers are repeated from memory."""
    ticks = Clock()
    original = callers.Callers
    with mock.patch("mirror.appaccess.Callers", lambda applies, ask: original(applies, ask, ticks)):
        async with world(tmp_path) as it:
            await it.warm()
            assert isinstance(it.upstream.auth, Bearer)
            del it.upstream.auth.tokens["alice-token"]
            assert (await it.ask(it.paths[1], ALICE)).status == 200
            ticks.pass_(callers.GRANTED + 1)
            assert {answer.status for answer in await it.refused(ALICE)} == {401}


async def test_the_catalog_shows_nothing_of_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.warm()
        listed = await it.mirror.get("_catalog")
        assert (listed.status, listed.body) == (200, b'{"repositories":[]}\n')


async def test_a_push_is_refused_in_the_same_words_whoever_asks(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        await it.warm()
        for path in (f"{NAME}/blobs/uploads/", "library/none/blobs/uploads/"):
            answer = await it.ask(path, EVE, "POST")
            assert answer.status == 405


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_the_time_of_a_refusal_does_not_tell_what_is_kept(tmp_path: Path, kind: str) -> None:
    """Each is refused by the registry; what is kept here is not looked at before.

    The quickest are compared: what would be done for one kind only, each of that kind had to wait for, and on
    a busy machine nothing but the quickest is of the mirror's making.
    """
    async with world(tmp_path) as it:
        await it.warm()

        async def took(path: str, number: int) -> float:
            began = time.perf_counter()
            answer = await it.ask(path, f"Bearer guess-{number}")
            assert answer.status == 401
            return time.perf_counter() - began

        kept, absent = [], []
        for number in range(TIMES):
            digest = it.image.digest if kind == "manifests" else next(iter(it.image.blobs))
            kept.append(await took(f"{NAME}/{kind}/{digest}", number))
            absent.append(await took(f"library/b/{kind}/{digest}", number))
        assert min(kept) < 3 * min(absent)
        assert min(absent) < 3 * min(kept)


async def test_who_has_the_registry_fail_keeps_nobody_else_from_it(tmp_path: Path) -> None:
    """By a token at which it fails: for what is hers, for names of his own making, and at `/v2/`."""
    async with world(tmp_path, retries=0) as it:
        it.upstream.fault("*", "/v2/", Fault(status=500, early=True))
        for number in range(8):
            for path in (*it.paths, f"library/b{number}/manifests/1", ""):
                assert (await it.ask(path, "Bearer odd")).status == 503
        it.upstream.clear_faults()
        for path in it.paths:  # all of it has still to be fetched
            assert (await it.ask(path, ALICE)).status == 200, path


@asynccontextmanager
async def several(folder: Path) -> AsyncIterator[tuple[Mirror, dict[str, Upstream], dict[str, Image]]]:
    """Two registries that want logins, each in its own way, and an open one; by their namespaces.

    Alice may have the private image of both, Eve's logins are good for other things.
    """
    bearer = Bearer(service="tokens.example", username="robot", password="hunter2")
    bearer.tokens["alice-token"] = SCOPE + " "  # the last one is that of `/v2/`
    bearer.tokens["eve-token"] = "repository:library/public:pull "
    registries = {
        "tokens.example": Upstream(auth=bearer),
        "words.example": Upstream(auth=Basic("robot", "hunter2")),
        "open.example": Upstream(),
    }
    images = {
        name: registry.add_image(NAME, "1", layers=[f"a layer of {name}".encode()])
        for name, registry in registries.items()
    }
    async with AsyncExitStack() as stack:
        urls = {name: await stack.enter_async_context(serve(each)) for name, each in registries.items()}
        others: dict[str, Any] = {
            "words.example": {"remoteurl": urls["words.example"], **OWN},
            "open.example": {"remoteurl": urls["open.example"], "rights": "shared"},
        }
        settings: dict[str, Any] = {**OWN, "rights": "caller", "upstreams": others}
        settings["freshness"] = {"default": "60s"}
        settings["aliases"] = ["tokens.example", "tokens.example.mirror.example"]
        mirror = await stack.enter_async_context(running(folder / "data", urls["tokens.example"], **settings))
        line = f'Bearer realm="{urls["tokens.example"]}/token",service="tokens.example"'
        registries["tokens.example"].fault(
            "GET", "^/v2/$", Fault(status=401, headers={"WWW-Authenticate": line})
        )
        yield mirror, registries, images


WORDS, EVES_WORDS = "Basic cm9ib3Q6aHVudGVyMg==", "Basic ZXZlOnB3"


async def test_each_registry_tells_how_to_log_in_where_it_is_asked_by_its_own_host_name(
    tmp_path: Path,
) -> None:
    """docker and podman learn at `/v2/` of a host how to log in there, once for all its repositories."""
    async with several(tmp_path) as (mirror, _, images):
        challenges = {}
        for name in ("", "mirror.example", "words.example.mirror.example", "open.example.mirror.example"):
            answer = await mirror.ask("GET", "", {"Host": name} if name else {})
            challenges[name] = (answer.status, answer.headers.get("WWW-Authenticate", "").partition(" ")[0])
        assert challenges == {
            "": (401, "Bearer"),
            "mirror.example": (401, "Bearer"),
            "words.example.mirror.example": (401, "Basic"),
            "open.example.mirror.example": (200, ""),
        }
        for namespace, found in (("words.example", "Basic"), ("tokens.example", "Bearer")):
            answer = await mirror.get(f"?ns={namespace}")
            assert answer.headers["WWW-Authenticate"].startswith(found)
        words = {"Host": "words.example.mirror.example", "Authorization": WORDS}
        assert (await mirror.ask("GET", "", words)).status == 200
        answer = await mirror.ask("GET", f"{NAME}/manifests/1", words)
        assert answer.body == images["words.example"].manifest


async def test_of_two_registries_each_is_asked_with_its_own_clients_logins(tmp_path: Path) -> None:
    """A login that is good for the one is none for the other, also where both have an image of that name."""
    async with several(tmp_path) as (mirror, registries, images):
        hers = {"tokens.example": ALICE, "words.example": WORDS}
        for _ in range(4):  # at last from memory
            for namespace, login in hers.items():
                for path in (f"{NAME}/manifests/1", *(f"{NAME}/blobs/{d}" for d in images[namespace].blobs)):
                    answer = await mirror.ask("GET", f"{path}?ns={namespace}", {"Authorization": login})
                    assert answer.status == 200, path
        refused = [
            ("tokens.example", WORDS),
            ("tokens.example", EVE),
            ("tokens.example", ""),
            ("words.example", ALICE),
            ("words.example", EVES_WORDS),
            ("words.example", ""),
        ]
        for namespace, login in refused:
            image = images[namespace]
            wanted = {"tokens.example": "Bearer", "words.example": "Basic"}[namespace]
            headers = {"Authorization": login} if login else {}
            blobs = [f"{NAME}/blobs/{digest}" for digest in image.blobs]
            for path in (
                f"{NAME}/manifests/1",
                f"{NAME}/manifests/{image.digest}",
                *blobs,
                f"{NAME}/tags/list",
            ):
                for method in ("GET", "HEAD") if "tags" not in path else ("GET",):
                    spellings = [(f"{path}?ns={namespace}", headers)]
                    spellings.append((path, {**headers, "Host": f"{namespace}.mirror.example"}))
                    spellings.append((f"{namespace}/{path}", headers))
                    for spelling, sent in spellings:
                        answer = await mirror.ask(method, spelling, sent)
                        assert answer.status == 401, (namespace, login, method, spelling)
                        assert answer.headers["WWW-Authenticate"].startswith(wanted)
                        assert image.digest not in str(answer.headers) + answer.body.decode()
        assert not registries["open.example"].seen


async def test_shared_upstreams_beside_it_stay_open(tmp_path: Path) -> None:
    private, public = Upstream(auth=Bearer(username="robot", password="hunter2")), Upstream()
    private.add_image(NAME, "1")
    public.add_image("org/app", "1")
    async with serve(private) as one, serve(public) as two:
        others = {"open.example": {"remoteurl": two, "rights": "shared"}}
        settings: dict[str, Any] = {**OWN, "rights": "caller", "upstreams": others}
        async with running(tmp_path / "data", one, **settings) as mirror:
            found = await mirror.get("open.example/org/app/manifests/1")
            await mirror.kept(found.headers["Docker-Content-Digest"])
            assert (await mirror.get("org/app/manifests/1?ns=open.example")).status == 200
            assert (await mirror.get(f"{NAME}/manifests/1")).status == 401
            assert (await mirror.get("_catalog")).body == b'{"repositories":["open.example/org/app"]}\n'
