"""Credentials that change: what the registry and its token server see of helpers and docker's config.json.

And what others must not see: a foreign realm, a redirect's target, the log, a client's error.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from structlog.testing import capture_logs
from yarl import URL

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError, Unavailable
from mirror.upstream.auth import host_of
from mirror.upstream.credentials import ANONYMOUS, Credentials, Fixed
from mirror.upstream.dockerlogin import DockerLogin
from mirror.upstream.helpers import PAUSE, Helper
from mirror.upstream.settings import Settings
from mirror.upstream.sources import source_of
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import Clock, Connect
from tests.upstream.scripts import Scripted, script

ALPINE = Repository("library/alpine")
BUSYBOX = Repository("library/busybox")
THREE = Tag("3")
SECRETS = ("hush-1", "hush-2", *(base64.b64encode(f"user:hush-{n}".encode()).decode() for n in (1, 2)))


@pytest.fixture
def helper(tmp_path: Path) -> Scripted:
    """A helper that has user/hush-1."""
    scripted = Scripted(tmp_path)
    scripted.says("user", "hush-1")
    return scripted


def registry(auth: Basic | Bearer | None) -> Upstream:
    """An upstream with library/alpine:3 and library/busybox:3."""
    upstream = Upstream(auth=auth)
    upstream.add_image("library/alpine", "3")
    upstream.add_image("library/busybox", "3")
    return upstream


def sent(upstream: Upstream) -> str:
    """Everything that it was sent, as text, with what is base64 decoded."""
    words = [f"{seen} {dict(seen.headers)} {seen.body!r}" for seen in upstream.seen]
    logins = [seen.headers.get("Authorization", "").removeprefix("Basic ") for seen in upstream.seen]
    return " ".join(words + [base64.b64decode(login + "==").decode("latin-1") for login in logins])


def test_a_name_without_a_password_is_no_login() -> None:
    for half in (Credentials("user"), Credentials(password="hush")):
        assert half.is_empty
        assert half.basic == ""
    assert Credentials("user", "hush").has_login
    assert Credentials("user", "pass").basic == "Basic dXNlcjpwYXNz"
    token = Credentials(identity_token="hush")
    assert not token.is_empty
    assert "hush" not in repr(token) + repr(Credentials("user", "hush"))


def test_config_json_goes_before_a_helper_and_a_helper_before_the_settings(tmp_path: Path) -> None:
    login: dict[str, Any] = {"username": "user", "password": "hush"}
    assert isinstance(source_of(Settings("https://h", **login)), Fixed)
    assert isinstance(source_of(Settings("https://h", helper="a 'b c'", **login)), Helper)
    both = Settings("https://h", helper="a", docker_config=tmp_path / "config.json", **login)
    assert isinstance(source_of(both), DockerLogin)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://registry.example", "registry.example"),
        ("https://registry.example/prefix", "registry.example"),
        ("https://registry.example:443", "registry.example:443"),
        ("http://localhost:5000", "localhost:5000"),
        ("http://[fd00::1]:5000", "[fd00::1]:5000"),
    ],
)
def test_a_source_is_asked_for_the_host_as_the_url_has_it(url: str, host: str) -> None:
    assert host_of(URL(url)) == host


async def test_no_helper_runs_before_a_challenge_wants_credentials(
    connect: Connect, helper: Scripted
) -> None:
    upstream = registry(None)
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(ALPINE, THREE)
    assert helper.runs == []


async def test_basic_is_what_the_helper_says_and_asked_for_once(connect: Connect, helper: Scripted) -> None:
    upstream = registry(Basic("user", "hush-1"))
    async with connect(upstream, helper=str(helper.path)) as client:
        for _ in range(3):
            await client.resolve(ALPINE, THREE)
    assert len(upstream.seen) == 4
    assert helper.runs == [f"get {upstream.url.removeprefix('http://')}"]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_password_that_has_expired_is_asked_for_again_and_the_request_succeeds(
    connect: Connect, helper: Scripted, clock: Clock, status: int
) -> None:
    """ECR's passwords live for 12 hours, and it refuses older ones with 403."""
    upstream = registry(Basic("user", "hush-1"))
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(ALPINE, THREE)
        clock.advance(12 * 3600)
        helper.says("user", "hush-2")
        upstream.auth = Basic("user", "hush-2")
        if status == 403:
            upstream.fault("HEAD", "/", Fault(status=403, early=True), times=1)
        upstream.seen.clear()
        await client.resolve(ALPINE, THREE)
        await client.resolve(ALPINE, THREE)
    assert [seen.status for seen in upstream.seen] == [status, 200, 200]
    assert len(helper.runs) == 2


async def test_a_wrong_password_runs_the_helper_once_in_ten_seconds_however_many_pull(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    upstream = registry(Basic("user", "another"))
    async with connect(upstream, helper=str(helper.path)) as client:
        for _ in range(5):
            with pytest.raises(RegistryError, match="refuses the configured credentials") as caught:
                await client.manifest(ALPINE, THREE)
            assert caught.value.code is ErrorCode.UNAUTHORIZED
        assert len(helper.runs) == 1
        assert len(upstream.seen) == 6, "one to learn the challenge, then one each"
        clock.advance(PAUSE)
        with pytest.raises(RegistryError):
            await client.manifest(ALPINE, THREE)
    assert len(helper.runs) == 2


async def test_a_repository_that_is_denied_costs_no_second_request(connect: Connect) -> None:
    upstream = registry(Basic())
    async with connect(upstream, username="user", password="pass") as client:
        await client.resolve(BUSYBOX, THREE)
        upstream.fault("GET", "alpine", Fault(status=403))
        upstream.seen.clear()
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.code is ErrorCode.DENIED
    assert len(upstream.seen) == 1


async def test_the_token_server_gets_the_login_and_a_newer_one_when_it_refuses(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    bearer = Bearer(username="user", password="hush-1")
    upstream = registry(bearer)
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(ALPINE, THREE)
        clock.advance(60)
        bearer.password = "hush-2"
        helper.says("user", "hush-2")
        await client.resolve(ALPINE, THREE)  # its token is as good as ever
        assert len(helper.runs) == 1
        await client.resolve(BUSYBOX, THREE)
    assert [seen.status for seen in upstream.find(path="^/token")] == [200, 401, 200]
    assert len(helper.runs) == 2
    assert all("Basic" not in seen.headers.get("Authorization", "") for seen in upstream.find("HEAD"))


async def test_lifetime_0_runs_the_helper_for_each_exchange_and_each_basic_request(
    connect: Connect, helper: Scripted
) -> None:
    upstream = registry(Bearer(username="user", password="hush-1"))
    async with connect(upstream, helper=str(helper.path), helper_lifetime=0) as client:
        for repository in (ALPINE, ALPINE, BUSYBOX):
            await client.resolve(repository, THREE)
    assert len(helper.runs) == 2
    upstream = registry(Basic("user", "hush-1"))
    async with connect(upstream, helper=str(helper.path), helper_lifetime=0) as client:
        await client.resolve(ALPINE, THREE)
        before = len(helper.runs)
        await client.resolve(ALPINE, THREE)
        await client.resolve(ALPINE, THREE)
    assert len(helper.runs) == before + 2


async def test_an_identity_token_of_a_helper_is_posted(connect: Connect, helper: Scripted) -> None:
    helper.says("<token>", "hush-1")
    upstream = registry(Bearer(identity_token="hush-1"))
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(ALPINE, THREE)
    (exchange,) = upstream.find(path="^/token")
    assert exchange.method == "POST"
    assert parse_qs(exchange.body.decode())["refresh_token"] == ["hush-1"]
    assert "Authorization" not in exchange.headers


async def test_an_identity_token_refused_as_oauth2_has_it_is_asked_for_again(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    helper.says("<token>", "hush-1")
    bearer = Bearer(identity_token="hush-1")
    upstream = registry(bearer)
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(ALPINE, THREE)
        clock.advance(60)
        bearer.identity_token = "hush-2"
        helper.says("<token>", "hush-2")
        upstream.fault("POST", "^/token", Fault(status=400), times=1)
        await client.resolve(BUSYBOX, THREE)
    assert [seen.status for seen in upstream.find(path="^/token")] == [200, 400, 200]


@pytest.mark.parametrize("auth", [Basic("user", "hush-1"), Bearer(username="user", password="hush-1")])
async def test_a_login_that_comes_later_is_found(
    connect: Connect, helper: Scripted, clock: Clock, auth: Basic | Bearer
) -> None:
    helper.has_none()
    upstream = registry(auth)
    async with connect(upstream, helper=str(helper.path)) as client:
        for _ in range(3):
            with pytest.raises(RegistryError, match="wants credentials"):
                await client.manifest(ALPINE, THREE)
        assert len(helper.runs) == 1
        helper.says("user", "hush-1")
        clock.advance(PAUSE)
        await client.manifest(ALPINE, THREE)


async def test_a_registry_that_wants_more_than_nobodys_token_has_the_helper_asked_again(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    """The token server gives a token to anybody: only the registry says that it is not enough."""
    helper.has_none()
    upstream = registry(Bearer())
    async with connect(upstream, helper=str(helper.path)) as client:
        await client.resolve(BUSYBOX, THREE)
        challenge = f'Bearer realm="{upstream.url}/token",service="registry.test"'
        upstream.fault("*", "alpine", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        for runs in (1, 2, 3):
            for _ in range(2):
                with pytest.raises(RegistryError, match="wants credentials"):
                    await client.manifest(ALPINE, THREE)
            assert len(helper.runs) == runs
            clock.advance(PAUSE)


async def test_closing_ends_a_helper_that_hangs(connect: Connect, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    program = script(tmp_path, 'cat > /dev/null; echo $$ > "$here/pid"; exec sleep 1000')
    async with connect(registry(Basic()), helper=str(program)) as client:
        waiting = asyncio.create_task(client.resolve(ALPINE, THREE))
        pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))
        await client.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(Unavailable, match="stopping"):
            await waiting


async def test_a_helper_that_fails_is_unavailable_and_the_registry_is_not_asked_without_a_login(
    connect: Connect, helper: Scripted
) -> None:
    helper.fails()
    upstream = registry(Basic("user", "hush-1"))
    async with connect(upstream, helper=f"{helper.path} --secret=hush-2") as client:
        for _ in range(2):
            with pytest.raises(
                Unavailable, match="the credential helper docker-credential-test failed"
            ) as caught:
                await client.resolve(ALPINE, THREE)
            assert caught.value.status == 503
            assert "hush" not in caught.value.message
            assert str(helper.path.parent) not in caught.value.message
    assert len(helper.runs) == 1
    assert "Authorization" not in sent(upstream)


async def test_docker_config_json_is_read_when_it_is_wanted_and_when_it_has_changed(
    connect: Connect, tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "config.json"
    upstream = registry(Basic("user", "hush-1"))

    def write(password: str) -> None:
        auth = base64.b64encode(f"user:{password}".encode()).decode()
        path.write_text(json.dumps({"auths": {upstream.url: {"auth": auth}, "evil.test": {"auth": "eDp5"}}}))

    async with connect(upstream, docker_config=path) as client:
        write("hush-1")
        await client.resolve(ALPINE, THREE)
        write("hush-2")
        upstream.auth = Basic("user", "hush-2")
        clock.advance(60)
        await client.resolve(ALPINE, THREE)
    assert [seen.status for seen in upstream.seen] == [401, 200, 200]


async def test_a_foreign_realm_gets_nothing_of_a_helper(connect: Connect, helper: Scripted) -> None:
    """CVE-2026-33540, with credentials that are looked up."""
    thief = Upstream(auth=Bearer())
    async with serve(thief, host="127.0.0.2") as url:
        upstream = registry(Bearer(realm=f"{url}/token"))
        async with connect(upstream, helper=str(helper.path)) as client:
            with pytest.raises(RegistryError, match=r"proxy\.realms") as caught:
                await client.resolve(ALPINE, THREE)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert thief.seen == []


async def test_a_foreign_realm_that_was_asked_by_nobody_does_not_learn_who_we_have_become(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    """The plan was made while there was no login: it must not carry one later."""
    helper.has_none()
    bearer = Bearer()
    thief = Upstream(auth=bearer)
    async with serve(thief, host="127.0.0.2") as url:
        bearer.realm = f"{url}/token"
        async with connect(registry(bearer), helper=str(helper.path)) as client:
            await client.resolve(ALPINE, THREE)
            helper.says("user", "hush-1")
            clock.advance(PAUSE)
            await client.resolve(BUSYBOX, THREE)
            clock.advance(3600)  # all tokens have expired
            bearer.tokens.clear()
            await client.resolve(ALPINE, THREE)
            thief.fault("*", "^/token", Fault(status=401))
            clock.advance(3600)
            for _ in range(2):
                with pytest.raises(RegistryError):
                    await client.resolve(ALPINE, THREE)
    assert len(thief.seen) >= 4
    assert "Basic" not in sent(thief)
    assert all(secret not in sent(thief) for secret in SECRETS)


async def test_a_foreign_realm_that_refuses_nobody_is_judged_anew_when_there_is_a_login(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    """Then the operator is told what to configure."""
    helper.has_none()
    thief = Upstream(auth=Bearer(username="user", password="hush-1"))
    async with serve(thief, host="127.0.0.2") as url:
        upstream = registry(Bearer(realm=f"{url}/token"))
        async with connect(upstream, helper=str(helper.path)) as client:
            with pytest.raises(RegistryError, match="wants credentials"):
                await client.manifest(ALPINE, THREE)
            helper.says("user", "hush-1")
            clock.advance(PAUSE)
            with pytest.raises(RegistryError, match=r"proxy\.realms"):
                await client.manifest(ALPINE, THREE)
    assert len(thief.seen) == 1
    assert all(secret not in sent(thief) for secret in SECRETS)


async def test_a_redirects_target_gets_nothing_of_a_helper(connect: Connect, helper: Scripted) -> None:
    upstream, storage = registry(Basic("user", "hush-1")), Upstream()
    digest = storage.add_blob("library/alpine", b"data")
    async with serve(storage, host="127.0.0.2") as url:
        there = {"Location": f"{url}/v2/library/alpine/blobs/{digest}"}
        upstream.fault("GET", "/blobs/", Fault(status=307, headers=there))
        async with connect(upstream, helper=str(helper.path)) as client:
            blob = await client.blob(ALPINE, Digest.parse(digest))
            assert b"".join([part async for part in blob.read(0, 4)]) == b"data"
            await blob.close()
    assert all(secret in sent(upstream) for secret in SECRETS[::2])
    assert all(secret not in sent(storage) for secret in SECRETS)
    assert "Authorization" not in storage.seen[0].headers


async def test_two_upstreams_with_one_helper_get_their_own_logins(connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "helper"
    path.write_text('#!/bin/sh\nread host; echo "{\\"Username\\":\\"user\\",\\"Secret\\":\\"of $host\\"}"\n')
    path.chmod(0o755)
    upstreams = [registry(Bearer(username="user", password="")) for _ in range(2)]
    for upstream in upstreams:
        async with connect(upstream, helper=str(path)) as client:
            assert isinstance(upstream.auth, Bearer)
            upstream.auth.password = f"of {upstream.url.removeprefix('http://')}"
            await client.resolve(ALPINE, THREE)
    one, other = upstreams
    assert f"of {one.url.removeprefix('http://')}" in sent(one)
    assert f"of {one.url.removeprefix('http://')}" not in sent(other)


async def test_nothing_secret_is_logged_or_told_whatever_goes_wrong(
    connect: Connect, helper: Scripted, clock: Clock
) -> None:
    bearer = Bearer(username="user", password="hush-1")
    upstream = registry(bearer)
    told: list[str] = []
    with capture_logs() as logs:
        async with connect(upstream, helper=str(helper.path), retries=0) as client:
            await client.resolve(ALPINE, THREE)
            helper.says("user", "hush-2")
            for fault in (Fault(status=401), Fault(status=500), Fault(body=b"hush"), Fault(reset=True)):
                upstream.fault("GET", "^/token", fault, times=2)
                clock.advance(400)
                with pytest.raises(RegistryError) as caught:
                    await client.manifest(ALPINE, THREE)
                told.append(f"{caught.value} {caught.value.detail} {caught.value.__cause__!r}")
                upstream.clear_faults()
            helper.fails()
            clock.advance(400)
            with pytest.raises(RegistryError) as caught:
                await client.manifest(ALPINE, THREE)
            told.append(str(caught.value))
    everything = json.dumps(logs, default=repr) + " ".join(told)
    assert "upstream.helper.failed" in everything
    assert all(secret not in everything for secret in SECRETS)


async def test_a_fixed_login_is_the_same_for_ever() -> None:
    source = Fixed(Credentials("user", "hush"))
    source.refused(await source.get("h"))
    assert await source.get("h") == Credentials("user", "hush") != ANONYMOUS
    await source.close()
