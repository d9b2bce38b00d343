"""Challenges, tokens and credentials: what the registry and its token server see."""

from __future__ import annotations

import asyncio
import base64
import json
from urllib.parse import parse_qs

import pytest
from structlog.testing import capture_logs

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.names import Repository, Tag
from mirror.registry import RateLimited, RegistryError, Unavailable
from mirror.upstream import auth
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import Connect

ALPINE = Repository("library/alpine")
THREE = Tag("3")
TOKEN = "GET /token?service=registry.test&scope=repository:library/alpine:pull"
HEAD = "HEAD /v2/library/alpine/manifests/3"
LOGIN = {"username": "user", "password": "pass"}
LOGIN_HEADER = "Basic " + base64.b64encode(b"user:pass").decode()


def registry(scheme: Basic | Bearer | None) -> Upstream:
    """An upstream with library/alpine:3 and library/busybox:3."""
    upstream = Upstream(auth=scheme)
    upstream.add_image("library/alpine", "3")
    upstream.add_image("library/busybox", "3")
    return upstream


async def test_no_request_is_made_before_the_first_call(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream):
        pass
    assert upstream.lines() == []


async def test_an_open_registry_is_asked_without_a_ping(connect: Connect) -> None:
    upstream = registry(None)
    async with connect(upstream, **LOGIN) as client:
        await client.resolve(ALPINE, THREE)
        await client.resolve(ALPINE, THREE)
    assert upstream.lines() == [HEAD, HEAD]
    assert all("Authorization" not in seen.headers for seen in upstream.seen), "nobody asked for it"


async def test_basic_is_sent_from_the_first_challenge_on(connect: Connect) -> None:
    upstream = registry(Basic())
    async with connect(upstream, **LOGIN) as client:
        await client.resolve(ALPINE, THREE)
        await client.resolve(ALPINE, THREE)
    assert [seen.headers.get("Authorization") for seen in upstream.seen] == [None, LOGIN_HEADER, LOGIN_HEADER]


async def test_a_token_is_kept_for_its_scope_and_another_scope_gets_its_own(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream) as client:
        for _ in range(3):
            await client.resolve(ALPINE, THREE)
        await client.resolve(Repository("library/busybox"), THREE)
    assert upstream.lines() == [
        HEAD,
        TOKEN,
        HEAD,
        HEAD,
        HEAD,
        "GET /token?service=registry.test&scope=repository:library/busybox:pull",
        "HEAD /v2/library/busybox/manifests/3",
    ]


async def test_tokens_are_kept_up_to_so_many_bytes(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "TOKENS_SIZE", 2 * (auth.TOKEN_EXTRA + 7000) - 1)
    for length, exchanges in ((100, 2), (7000, 4)):
        upstream = registry(Bearer(prefix="t" * length))
        async with connect(upstream) as client:
            for _ in range(2):
                await client.resolve(ALPINE, THREE)
                await client.resolve(Repository("library/busybox"), THREE)
        assert len(upstream.find("GET", "/token")) == exchanges


async def test_a_token_server_with_an_endless_address_is_not_asked(connect: Connect) -> None:
    upstream = registry(Bearer(realm="https://registry.test/" + "a" * auth.REALM_LIMIT))
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert not upstream.find("", "/token")


async def test_a_login_is_sent_to_the_token_server_with_the_account_and_never_to_the_registry(
    connect: Connect,
) -> None:
    upstream = registry(Bearer(username="user", password="pass", answer_field="access_token"))
    async with connect(upstream, **LOGIN) as client:
        await client.resolve(ALPINE, THREE)
    (exchange,) = upstream.find(path="^/token")
    assert exchange.headers["Authorization"] == LOGIN_HEADER
    assert exchange.query == "service=registry.test&scope=repository:library/alpine:pull&account=user"
    assert [s.headers.get("Authorization") for s in upstream.find("HEAD")] == [None, "Bearer token-1"]


async def test_the_realms_own_query_is_kept(connect: Connect) -> None:
    bearer = Bearer()
    upstream = registry(bearer)
    async with connect(upstream) as client:
        bearer.realm = f"{upstream.url}/token?tenant=a%2Fb"
        await client.resolve(ALPINE, THREE)
    (exchange,) = upstream.find(path="^/token")
    assert parse_qs(exchange.query)["tenant"] == ["a/b"]
    assert parse_qs(exchange.query)["scope"] == ["repository:library/alpine:pull"]


async def test_an_identity_token_is_posted_and_never_in_a_url(connect: Connect) -> None:
    upstream = registry(Bearer(identity_token="secret/+ &=", answer_field="access_token"))
    async with connect(upstream, identity_token="secret/+ &=") as client:
        await client.resolve(ALPINE, THREE)
    (exchange,) = upstream.find(path="^/token")
    assert str(exchange) == "POST /token"
    assert "Authorization" not in exchange.headers
    assert parse_qs(exchange.body.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["secret/+ &="],
        "client_id": ["mirror"],
        "service": ["registry.test"],
        "scope": ["repository:library/alpine:pull"],
    }


async def test_a_token_server_without_oauth2_gets_the_login_by_get(connect: Connect) -> None:
    upstream = registry(Bearer(username="user", password="pass"))
    upstream.fault("POST", "^/token", Fault(status=405))
    async with connect(upstream, identity_token="secret", **LOGIN) as client:
        await client.resolve(ALPINE, THREE)
    assert upstream.lines(path="^/token") == ["POST /token", f"{TOKEN}&account=user"]


async def test_a_posted_secret_does_not_follow_a_redirect(connect: Connect) -> None:
    upstream, elsewhere = registry(Bearer(identity_token="secret")), Upstream()
    async with serve(elsewhere, host="127.0.0.2") as url:
        for status in (307, 308, 301):
            upstream.fault("POST", "^/token", Fault(status=status, headers={"Location": f"{url}/t"}), times=1)
        async with connect(upstream, identity_token="secret") as client:
            for _ in range(3):
                with pytest.raises(Unavailable, match="redirect"):
                    await client.resolve(ALPINE, THREE)
    assert elsewhere.lines() == []


async def test_fifty_requests_at_once_share_one_exchange(connect: Connect) -> None:
    bearer = Bearer()
    upstream = registry(bearer)
    async with connect(upstream) as client:
        await client.resolve(Repository("library/busybox"), THREE)  # learns the challenge
        await asyncio.gather(*(client.resolve(ALPINE, THREE) for _ in range(50)))
    assert upstream.lines(path="^/token").count(TOKEN) == 1
    assert len(upstream.lines("HEAD", "alpine")) == 50


async def test_a_caller_that_leaves_does_not_end_the_exchange_for_the_others(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream) as client:
        await client.resolve(Repository("library/busybox"), THREE)
        upstream.fault("GET", "^/token", Fault(rate=1000))  # some 30 ms
        leaver = asyncio.create_task(client.resolve(ALPINE, THREE))
        await upstream.arrived(path="^/token", count=2)
        stayer = asyncio.create_task(client.resolve(ALPINE, THREE))
        leaver.cancel()
        await stayer
        with pytest.raises(asyncio.CancelledError):
            await leaver
    assert upstream.lines(path="^/token").count(TOKEN) == 1


async def test_a_failed_exchange_fails_everybody_who_waited_for_it(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream, retries=0) as client:
        await client.resolve(Repository("library/busybox"), THREE)
        upstream.fault("GET", "^/token", Fault(status=503))
        outcomes = await asyncio.gather(
            *(client.resolve(ALPINE, THREE) for _ in range(10)), return_exceptions=True
        )
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert upstream.lines(path="^/token").count(TOKEN) == 1


async def test_a_revoked_token_is_renewed_once_and_the_request_succeeds(connect: Connect) -> None:
    bearer = Bearer()
    upstream = registry(bearer)
    async with connect(upstream) as client:
        await client.resolve(ALPINE, THREE)
        bearer.tokens.clear()
        await client.resolve(ALPINE, THREE)
    assert upstream.lines() == [HEAD, TOKEN, HEAD, HEAD, TOKEN, HEAD]


async def test_a_token_that_expires_is_renewed_without_a_401(connect: Connect) -> None:
    """`expires_in` 1 leaves 0.9 s: the condition to wait for is the loop's own clock."""
    upstream = registry(Bearer(expires_in=1))
    async with connect(upstream) as client:
        await client.resolve(ALPINE, THREE)
        loop = asyncio.get_running_loop()
        end = loop.time() + 0.95
        expired = asyncio.Event()
        loop.call_at(end, expired.set)
        await expired.wait()
        await client.resolve(ALPINE, THREE)
    assert upstream.lines() == [HEAD, TOKEN, HEAD, TOKEN, HEAD]


async def test_a_token_that_is_refused_again_is_unauthorized_after_one_renewal(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream) as client:
        await client.resolve(ALPINE, THREE)
        challenge = f'Bearer realm="{upstream.url}/token",service="registry.test"'
        upstream.fault("*", "/manifests/", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        upstream.seen.clear()
        with pytest.raises(RegistryError, match="wants credentials for this manifest") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    get = "GET /v2/library/alpine/manifests/3"
    assert upstream.lines() == [get, TOKEN, get]


async def test_a_fresh_token_without_the_scope_is_not_exchanged_for_another(connect: Connect) -> None:
    """Docker Hub answers so to whatever does not exist: each such request must not cost two more."""
    upstream = registry(Bearer())
    async with connect(upstream) as client:
        await client.resolve(Repository("library/busybox"), THREE)
        challenge = f'Bearer realm="{upstream.url}/token",service="registry.test",error="insufficient_scope"'
        upstream.fault("*", "alpine", Fault(status=401, headers={"WWW-Authenticate": challenge}))
        upstream.seen.clear()
        with pytest.raises(RegistryError) as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 401
    assert upstream.lines() == [TOKEN, HEAD, "GET /v2/library/alpine/manifests/3"]


async def test_wrong_credentials_are_named_and_not_tried_for_ever(connect: Connect) -> None:
    upstream = registry(Basic())
    async with connect(upstream, username="user", password="wrong") as client:
        with pytest.raises(RegistryError, match="refuses the configured credentials") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert len(upstream.seen) == 2


async def test_wrong_credentials_at_the_token_server(connect: Connect) -> None:
    upstream = registry(Bearer(username="user", password="pass"))
    async with connect(upstream, username="user", password="wrong") as client:
        with pytest.raises(
            RegistryError, match=r"token server .* refuses the configured credentials"
        ) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 401
    assert len(upstream.seen) == 2


@pytest.mark.parametrize("auth", [Basic(), Bearer(username="user", password="pass")])
async def test_without_credentials_a_private_registry_is_unauthorized(
    connect: Connect, auth: Basic | Bearer
) -> None:
    async with connect(registry(auth)) as client:
        with pytest.raises(RegistryError, match="wants credentials") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 401


async def test_a_realm_elsewhere_gets_neither_credentials_nor_a_request(connect: Connect) -> None:
    """CVE-2026-33540: the upstream names a token server of its choice."""
    thief = Upstream(auth=Bearer())
    async with serve(thief, host="127.0.0.2") as url:
        upstream = registry(Bearer(realm=f"{url}/token"))
        for secret in (LOGIN, {"identity_token": "secret"}):
            async with connect(upstream, **secret) as client:
                with pytest.raises(RegistryError, match=r"127\.0\.0\.2:\d+.*proxy\.realms") as caught:
                    await client.resolve(ALPINE, THREE)
            assert caught.value.status == 401
            upstream.url = ""  # served again
    assert thief.lines() == []


async def test_a_realm_elsewhere_that_is_listed_gets_the_credentials(connect: Connect) -> None:
    bearer = Bearer(username="user", password="pass")
    server = Upstream(auth=bearer)
    async with serve(server, host="127.0.0.2") as url:
        bearer.realm = f"{url}/token"
        upstream = registry(bearer)
        async with connect(upstream, realms=("127.0.0.2",), **LOGIN) as client:
            await client.resolve(ALPINE, THREE)
    assert server.find()[0].headers["Authorization"] == LOGIN_HEADER


async def test_a_realm_elsewhere_may_give_anonymous_tokens(connect: Connect) -> None:
    """lscr.io sends to ghcr.io: nothing secret is told."""
    bearer = Bearer()
    server = Upstream(auth=bearer)
    async with serve(server, host="127.0.0.2") as url:
        bearer.realm = f"{url}/token"
        async with connect(registry(bearer)) as client:
            await client.resolve(ALPINE, THREE)
    assert server.lines() == [TOKEN]


async def test_basic_of_the_registry_itself_is_used_where_the_realm_is_a_stranger(connect: Connect) -> None:
    thief = Upstream(auth=Bearer())
    async with serve(thief, host="127.0.0.2") as url:
        upstream = registry(Basic())
        upstream.challenges = [f'Bearer realm="{url}/token"', 'Basic realm="registry"']
        async with connect(upstream, **LOGIN) as client:
            await client.resolve(ALPINE, THREE)
    assert thief.lines() == []


@pytest.mark.parametrize(
    "challenges",
    [
        ['Basic realm="a, b", Bearer realm="{url}/token", service="s", scope="repository:x:pull,push"'],
        ['Basic realm="a"', 'Bearer realm="{url}/token",service="s"'],
        ["Negotiate", 'BEARER Realm="{url}/token" , Service=s'],
        ['Bearer service="no realm"', 'Bearer realm="{url}/token",service="s"'],
    ],
)
async def test_a_token_is_found_among_several_challenges(connect: Connect, challenges: list[str]) -> None:
    upstream = registry(Bearer())
    async with connect(upstream, **LOGIN) as client:
        upstream.challenges = [line.replace("{url}", upstream.url) for line in challenges]
        await client.resolve(ALPINE, THREE)
    assert len(upstream.lines(path="^/token")) == 1


@pytest.mark.parametrize(
    "challenges", [[""], ["Negotiate abc=="], ["Bearer"], ['Basic realm="r"'], [',,,="x']]
)
async def test_a_challenge_that_cannot_be_met_is_unauthorized(
    connect: Connect, challenges: list[str]
) -> None:
    upstream = registry(Basic())
    upstream.challenges = challenges
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert len(upstream.seen) == 1


async def test_a_token_of_a_megabyte_is_refused(connect: Connect) -> None:
    upstream = registry(Bearer())
    huge = json.dumps({"token": "x" * (1 << 20)}).encode()
    upstream.fault("GET", "^/token", Fault(body=huge))
    async with connect(upstream) as client:
        with pytest.raises(RegistryError, match=r"token server of .* more than can be right") as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 502
    assert upstream.lines() == [HEAD, TOKEN], "and not asked for again"


async def test_a_token_cannot_break_out_of_its_header(connect: Connect) -> None:
    upstream = registry(Bearer())
    upstream.fault("GET", "^/token", Fault(body=b'{"token": "a\\r\\nX-Evil: 1"}'))
    async with connect(upstream) as client:
        with pytest.raises(Unavailable, match="cannot be sent in a header") as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 502
    assert upstream.lines() == [HEAD, TOKEN]


async def test_a_token_servers_rate_limit_is_passed_on(connect: Connect) -> None:
    upstream = registry(Bearer())
    upstream.fault("GET", "^/token", Fault(status=429, headers={"Retry-After": "60"}))
    async with connect(upstream) as client:
        with pytest.raises(RateLimited, match="token server") as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.retry_after == 60.0
    assert upstream.lines() == [HEAD, TOKEN]


async def test_closing_ends_an_exchange_that_hangs(connect: Connect) -> None:
    upstream = registry(Bearer())
    async with connect(upstream) as client:
        await client.resolve(Repository("library/busybox"), THREE)
        upstream.fault("GET", "^/token", Fault(hang=True))
        waiting = asyncio.create_task(client.resolve(ALPINE, THREE))
        await upstream.arrived(path="^/token", count=2)
        await client.close()
        with pytest.raises(Unavailable, match="stopping"):
            await waiting
        with pytest.raises(Unavailable, match="stopping"):
            await client.stat_blob(Repository("library/other"), Digest.of(b""))


async def test_nothing_secret_is_logged_or_told(connect: Connect) -> None:
    upstream = registry(Bearer(username="user", password="pass"))
    upstream.fault("GET", "alpine", Fault(status=503), times=1)
    with capture_logs() as logs:
        async with connect(upstream, username="user", password="pass") as client:
            await client.resolve(ALPINE, THREE)
            await client.manifest(ALPINE, THREE)
    events = [entry["event"] for entry in logs if entry["event"] != "upstream.request"]
    assert events == ["upstream.token.obtained", "upstream.retried"]
    assert len(logs) - len(events) == len(upstream.seen)
    told = json.dumps(logs)
    assert all(secret not in told for secret in ("pass", "token-1", LOGIN_HEADER))
