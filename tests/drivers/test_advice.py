"""What is said where a bucket cannot be looked at: what is wrong, where it is, and which setting it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.identity.aio import ClientSecretCredential

from mirror.drivers.advice import coded
from mirror.drivers.azure import AzureObjects
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import DeniedError, DriverError, Remote, StorageDriver
from mirror.drivers.breaker import FAILURES, NOT_ASKED
from mirror.drivers.gcs import GcsObjects
from mirror.drivers.objects import ObjectsDriver
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import Keys, S3Settings
from tests.support.azurite import CONTAINER, KEY, Container
from tests.support.buckets import Bucket
from tests.support.clouds import LIFE, azure_settings, gcs_settings
from tests.support.gcs import BUCKET, GcsBucket
from tests.support.procs import free_port
from tests.support.recorder import Rule

Handle = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def answering(handle: Handle) -> AsyncIterator[str]:
    """The URL of a server that answers so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def other() -> AsyncIterator[str]:
    """The URL of a server that is no storage."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html><body>Welcome<br></body></html>", content_type="text/html")

    async with answering(page) as url:
        yield url


async def told(driver: StorageDriver) -> tuple[str, str]:
    """Why its root cannot be looked at, and the advice; nothing secret is in either."""
    try:
        with pytest.raises(DriverError) as caught:
            await driver.stat("")
    finally:
        await driver.close()
    assert isinstance(driver, Remote)
    found = driver.advice(caught.value)
    advice = f"{found.where}: {found.what}"
    for secret in ("wrong", "nobody", "Signature="):
        assert secret not in caught.value.cause + advice
    return caught.value.cause, advice


@pytest.mark.parametrize(
    ("wrong", "cause", "advice"),
    [
        ({"secret_key": "wrong"}, "403 SignatureDoesNotMatch", "see storage.s3.secretkey"),
        ({"access_key": "test:nobody"}, "403 ", "see storage.s3."),
        ({"access_key": "test:reader", "secret_key": "reading"}, "403 AccessDenied", "rights of docs/"),
        ({"bucket": "no-such-bucket"}, "404 NoSuchBucket", "see storage.s3.bucket"),
        ({"section": "swift", "bucket": "no-such"}, "404 NoSuchBucket", "see storage.swift.container"),
        ({"section": "oss", "secret_key": "wrong"}, "403 Sig", "see storage.oss.accesskeysecret"),
    ],
    ids=str,
)
async def test_s3_says_which_setting_is_wrong(
    bucket: Bucket, wrong: dict[str, Any], cause: str, advice: str
) -> None:
    settings = bucket.settings(**wrong)
    found = await told(S3Driver(settings))
    assert found[0].startswith(f"the storage answers {cause}")
    assert found[1].startswith(f"bucket {settings.bucket} at {bucket.server.url}: ")
    assert advice in found[1]


async def test_s3_says_that_the_endpoint_is_wrong(bucket: Bucket, other: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    cause, advice = await told(S3Driver(bucket.settings(nobody)))
    assert cause == "the storage cannot be connected to"
    assert advice.startswith(f"bucket tests at {nobody}: see whether it runs")
    assert advice.endswith("storage.s3.regionendpoint")
    cause, advice = await told(S3Driver(bucket.settings(other)))
    assert cause == "what answers is no S3 server: 200 with text/html where a listing was asked for"
    assert advice == (
        f"bucket tests at {other}: see storage.s3.regionendpoint"
        " (MinIO's console is on another port than its API)"
    )


@pytest.mark.parametrize(
    ("status", "text", "cause", "what"),
    [
        (
            400,
            "AuthorizationHeaderMalformed",
            "400 AuthorizationHeaderMalformed: m",
            "in another region: see",
        ),
        (301, "", "301 Moved Permanently", "in another region: see storage.s3.region"),
        (403, "RequestTimeTooSkewed", "403 RequestTimeTooSkewed: m", "set this one right"),
        (403, "ExpiredToken", "403 ExpiredToken: m", "the login has ended"),
        (403, "", "403 Forbidden", "may not list the bucket"),
        (404, "", "", "no such bucket, or is no such storage: see storage.s3.bucket and storage.s3.reg"),
    ],
)
async def test_s3_says_what_the_real_server_never_answers(
    bucket: Bucket, status: int, text: str, cause: str, what: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        body = f"<Error><Code>{text}</Code><Message>m</Message></Error>" if text else ""
        return web.Response(status=status, text=body, content_type="application/xml")

    async with answering(answer) as url:
        found = await told(S3Driver(bucket.settings(url)))
    assert found[0] == (
        f"the storage answers {cause}" if cause else "the storage does not list the bucket: 404"
    )
    assert what in found[1]


async def test_a_wrong_region_is_no_fault_where_the_server_names_the_right_one(bucket: Bucket) -> None:
    driver = S3Driver(bucket.settings(region="eu-west-9"))
    assert (await driver.stat("")).is_folder
    await driver.close()


class _Denied:
    """A Login that gives nothing, as Keystone to who has a wrong password."""

    async def keys(self) -> Keys:
        raise DriverError("", "no keys")


def test_where_it_is_is_said_also_where_no_endpoint_is_configured() -> None:
    error = DriverError("", "x")
    for settings, where in (
        (S3Settings("b", region="eu-west-1"), "bucket b at Amazon S3, region eu-west-1"),
        (S3Settings("b", section="swift", login=_Denied()), "bucket b at the endpoint that Keystone names"),
        (S3Settings("b", endpoint="https://u:p@h/x?q"), "bucket b at https://h/x"),
    ):
        assert S3Driver(settings).advice(error).where == where


@pytest.mark.parametrize(
    ("wrong", "cause", "advice"),
    [
        ({"key": "d3Jvbmc="}, "403 A", "see storage.azure.accountname and storage.azure.accountkey"),
        ({"container": "no-such"}, "404 ContainerNotFound", "see storage.azure.container"),
        ({"account": "nobody"}, "40", "see storage.azure."),
    ],
    ids=str,
)
async def test_azure_says_which_setting_is_wrong(
    container: Container, wrong: dict[str, Any], cause: str, advice: str
) -> None:
    settings = azure_settings(container, container.server.url, retries=0, **wrong)
    found = await told(ObjectsDriver(AzureObjects(settings), LIFE))
    assert found[0].startswith(f"the storage answers {cause}")
    assert found[1].startswith(f"container {settings.container} at {settings.endpoint}: ")
    assert advice in found[1]


async def test_azure_says_that_the_endpoint_is_wrong(container: Container, other: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    settings = azure_settings(container, nobody, retries=0)
    cause, advice = await told(ObjectsDriver(AzureObjects(settings), LIFE))
    assert cause == "the storage cannot be connected to"
    assert advice.startswith(f"container {CONTAINER} at {settings.endpoint}: see whether it runs")
    settings = azure_settings(container, other, retries=0)
    _, advice = await told(ObjectsDriver(AzureObjects(settings), LIFE))
    assert "is no such storage: see storage.azure.container and storage.azure.accountname" in advice
    assert KEY not in advice


@pytest.mark.parametrize(
    ("wrong", "status", "cause", "advice"),
    [
        ({"bucket": "no-such"}, None, "the storage does not list the bucket: 404", "see storage.gcs.bucket"),
        ({}, 401, "the storage answers 401", "it does not know this login: see storage.gcs.keyfile"),
        ({}, 403, "the storage answers 403", "give it the rights of docs/"),
    ],
)
async def test_google_says_which_setting_is_wrong(
    gcs_bucket: GcsBucket, wrong: dict[str, Any], status: int | None, cause: str, advice: str
) -> None:
    """The emulator lets everybody in: refusals are the proxy's."""
    proxy = gcs_bucket.server.proxy
    proxy.clear(*([Rule(status=status)] if status else []))
    settings = gcs_settings(gcs_bucket, gcs_bucket.server.url, **wrong)
    found = await told(ObjectsDriver(GcsObjects(settings), LIFE))
    proxy.clear()
    assert found[0].startswith(cause)
    assert found[1].startswith(f"bucket {settings.bucket} at {gcs_bucket.server.url}: ")
    assert advice in found[1]


async def test_google_says_that_the_endpoint_is_wrong(gcs_bucket: GcsBucket, other: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    cause, advice = await told(ObjectsDriver(GcsObjects(gcs_settings(gcs_bucket, nobody)), LIFE))
    assert cause == "the storage cannot be connected to"
    assert advice.startswith(f"bucket {BUCKET} at {nobody}: see whether it runs")
    _, advice = await told(ObjectsDriver(GcsObjects(gcs_settings(gcs_bucket, other)), LIFE))
    assert "is no such storage: see storage.gcs.bucket and STORAGE_EMULATOR_HOST" in advice


SECURE = "write http:// in storage.s3.regionendpoint, or set storage.s3.secure: false"


async def test_tls_of_a_port_that_has_none_is_no_fault_of_a_certificate(
    container: Container, bucket: Bucket, other: str
) -> None:
    url = other.replace("http:", "https:")
    cause, advice = await told(S3Driver(bucket.settings(url)))
    assert cause == "the storage answers without TLS"
    assert advice == f"bucket tests at {url}: the port answers without TLS: {SECURE}"
    settings = azure_settings(container, url, retries=0)
    cause, advice = await told(ObjectsDriver(AzureObjects(settings), LIFE))
    assert cause == "the storage answers without TLS"
    assert advice.endswith("the port answers without TLS: write http:// in storage.azure.serviceurl")


PRINCIPAL = {"client": "c", "tenant": "t", "secret": "wrong"}
PRINCIPALS_KEYS = (
    "see storage.azure.credentials.clientid, storage.azure.credentials.tenantid"
    " and storage.azure.credentials.secret"
)


def azure_settings_of(login: dict[str, str]) -> AzureSettings:
    return replace(AzureSettings("images", "abc", "https://h:1/abc"), **login)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("login", "reason", "what"),
    [
        ({"key": "a2V5"}, "ContainerNotFound", "no such container: make it, or see storage.azure.container"),
        ({"key": "a2V5"}, "AuthorizationFailure", "or the account's firewall keeps this machine out"),
        ({"key": "a2V5"}, "AuthenticationFailed", "storage.azure.accountname and storage.azure.accountkey"),
        ({"shared_access": "sig=1"}, "AuthenticationFailed", ": see storage.azure.connectionstring"),
        (PRINCIPAL, "", PRINCIPALS_KEYS),
        ({}, "", "see storage.azure.accountname and storage.azure.credentials"),
    ],
    ids=str,
)
async def test_azure_names_the_settings_of_the_login_that_is_used(
    login: dict[str, str], reason: str, what: str
) -> None:
    objects = AzureObjects(azure_settings_of(login))
    found = objects.advice(coded(DeniedError("", "x"), reason))
    assert found.where == "container images at https://h:1/abc"
    assert what in found.what
    await objects.close()


@pytest.mark.parametrize("is_away", [True, False])
async def test_azure_says_why_there_is_no_token(monkeypatch: pytest.MonkeyPatch, is_away: bool) -> None:
    """Neither library does. What Entra and a name server answer is Microsoft's library's error here."""
    objects = AzureObjects(azure_settings_of(PRINCIPAL))

    async def refuse(*_: Any, **__: Any) -> None:
        if not is_away:
            raise ClientAuthenticationError("AADSTS7000215: Invalid client secret provided: wrong.")
        key = ConnectionKey("login.example.com", 443, True, True, None, None, None)
        lost = aiohttp.ClientConnectorDNSError(key, OSError("no name"))
        raise ServiceRequestError("x", error=lost)

    monkeypatch.setattr(ClientSecretCredential, "get_token", refuse)
    cause, advice = await told(ObjectsDriver(objects, LIFE))
    why = (
        "there is no host login.example.com, or no name server answers"
        if is_away
        else "the login is refused (AADSTS7000215)"
    )
    assert cause == f"no login for the storage can be had: {why}"
    assert PRINCIPALS_KEYS in advice


async def test_a_storage_that_is_left_alone_is_told_with_the_same_advice(bucket: Bucket) -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")

    found: set[tuple[str, str]] = set()
    last = ""
    async with answering(broken) as url:
        driver = S3Driver(bucket.settings(url))
        for _ in range(FAILURES + 1):
            with pytest.raises(DriverError) as caught:
                await driver.stat("")
            last = caught.value.cause
            found.add((last.removeprefix(NOT_ASKED), driver.advice(caught.value).what))
        assert last.startswith(NOT_ASKED)
        await driver.close()
    assert len(found) == 1
