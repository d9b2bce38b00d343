"""Upstreams that repeat a request in their errors: no client and no log hears of it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError
from mirror.upstream.confidential import LATEST, TEXT_LIMIT, Confidential
from mirror.upstream.credentials import Credentials
from mirror.upstream.settings import Settings
from tests.support.scripted import Basic, Bearer, Fault, Upstream
from tests.upstream.conftest import Connect

ALPINE = Repository("library/alpine")
THREE = Tag("3")
LOGIN = Credentials("user", "Hush Hush")
WORD = base64.b64encode(b"user:Hush Hush").decode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("repository library/alpine of user is not here", False),
        ("Basic authentication required, or a bearer token", False),
        ("use the basic plan", True),  # a scheme and a word: better silent than sorry
        (f"you sent Authorization: Basic {WORD}", True),
        (f"you sent {WORD.lower()}", True),
        ("no user with password hush hush", True),
        ("you sent Bearer abcdef", True),
        ("token-77 is no good", True),
        ("the identity refresh/+=1 is no good", True),
        ("refresh_token=refresh%2F%2B%3D1&scope=x", True),
        ("x-key: topmost-secret", True),
        ("x-flag: yes", False),
        ("proxy login bWU6cHc= refused", True),
        ("proxy password pw refused", True),
        ("x" * (TEXT_LIMIT + 1), True),
    ],
)
def test_a_text_with_a_secret_in_whatever_form_is_known(text: str, *, told: bool) -> None:
    headers = {"X-Key": "Topmost-Secret", "X-Flag": "yes"}
    confidential = Confidential(Settings("https://h", headers=headers, http_proxy="http://me:pw@p.test"))
    confidential.learn(LOGIN)
    confidential.learn(Credentials(identity_token="refresh/+=1"))
    assert confidential.is_told(text, ["token-7", "token-77"]) is told


def test_secrets_that_were_given_out_lately_are_remembered_and_no_others() -> None:
    confidential = Confidential(Settings("https://h"))
    for number in range(1000):
        confidential.learn(Credentials(identity_token=f"number-{number}."))
    assert not confidential.is_told("number-1.", [])
    assert all(confidential.is_told(f"number-{number}.", []) for number in range(1000 - LATEST // 2, 1000))


@pytest.mark.parametrize(
    ("auth", "settings"),
    [
        (Basic("user", "hush-1"), {"username": "user", "password": "hush-1"}),
        (Bearer(username="user", password="hush-1"), {"username": "user", "password": "hush-1"}),
        (Bearer(identity_token="hush-1"), {"identity_token": "hush-1"}),
        (None, {"headers": {"X-Key": "hush-1"}}),
    ],
)
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_an_error_that_repeats_the_request_is_told_without_its_words(
    connect: Connect, auth: Basic | Bearer | None, settings: dict[str, Any], status: int
) -> None:
    """`echo` sends the request's header lines back; the token server repeats its own the same way."""
    upstream = Upstream(auth=auth)
    upstream.add_image("library/alpine", "3")
    with capture_logs() as logs:
        async with connect(upstream, retries=0, **settings) as client:
            await client.resolve(ALPINE, THREE)
            upstream.fault("GET", "alpine", Fault(status=status, echo=True))
            upstream.fault("*", "^/token", Fault(status=status, echo=True))
            for repository in (ALPINE, Repository("library/busybox")):
                with pytest.raises(RegistryError) as caught:
                    await client.manifest(repository, THREE)
                everything = f"{caught.value} {caught.value.detail} {json.dumps(logs, default=repr)}"
                word = base64.b64encode(b"user:hush-1").decode()
                assert all(secret not in everything for secret in ("hush-1", word, "token-1"))


@pytest.mark.parametrize("auth", [Basic("user", "hush-1"), Bearer(username="user", password="hush-1")])
async def test_an_error_that_tells_the_password_is_told_without_its_words(
    connect: Connect, auth: Basic | Bearer
) -> None:
    upstream = Upstream(auth=auth)
    body = b'{"errors": [{"code": "DENIED", "message": "\\u0068ush-1 is no password"}]}'
    async with connect(upstream, username="user", password="hush-1") as client:
        upstream.fault("*", "/", Fault(status=403, body=body))
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert "hush-1" not in str(caught.value)
    assert "denies access" in caught.value.message


async def test_an_errors_words_are_passed_on_where_they_tell_nothing(connect: Connect) -> None:
    upstream = Upstream(auth=Basic())
    body = {"errors": [{"code": "DENIED", "message": "this image is not free"}]}
    upstream.fault("GET", "", Fault(status=403, body=json.dumps(body).encode()))
    async with connect(upstream, username="user", password="pass") as client:
        with pytest.raises(RegistryError, match="upstream says: this image is not free"):
            await client.manifest(ALPINE, THREE)
