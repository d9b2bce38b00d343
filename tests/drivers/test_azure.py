"""The driver for Azure, on Microsoft's emulator. What all clouds have in common: test_clouds."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
from azure.storage.blob import ContainerSasPermissions, generate_container_sas

from mirror.drivers import azurelogin
from mirror.drivers.azure import BLOCK, AzureObjects
from mirror.drivers.azureerrors import failure
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import DeniedError, DriverError, StorageDriver
from mirror.drivers.objects import ObjectsDriver
from tests.drivers.conformance import DriverConformance, content, walk
from tests.support.azurite import ACCOUNT, ANY_CERTIFICATE, CONTAINER, KEY, Azurite, Container
from tests.support.clouds import LIFE, Cloud, azure_settings
from tests.support.recorder import Rule


class TestConformance(DriverConformance):
    often, batches = 10, 1  # each request takes milliseconds

    @pytest.fixture
    async def driver(self, container: Container) -> AsyncIterator[StorageDriver]:
        driver = ObjectsDriver(AzureObjects(azure_settings(container, container.server.url)), LIFE)
        yield driver
        await driver.close()


@pytest.mark.parametrize(
    "wrong", [{"key": "d3Jvbmc="}, {"account": "nobody"}, {"container": "no-such"}], ids=str
)
async def test_without_a_right_the_storage_denies_and_nothing_secret_is_said(
    container: Container, wrong: dict[str, Any]
) -> None:
    settings = azure_settings(container, container.server.url, **wrong)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    with pytest.raises(DeniedError) as caught:
        await driver.put("a/b", b"x")
    await driver.close()
    assert str(caught.value).startswith("a/b: the storage answers 40")
    for secret in (settings.key, "SharedKey", "http"):
        assert secret not in caught.value.cause


def test_a_login_that_cannot_be_had_is_a_denial() -> None:
    text = "Generic MicrosoftAzure error: Error performing token request: Error performing POST in 3s\nmore"
    assert isinstance(failure("a", ValueError(text)), DeniedError)


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
async def test_a_damaged_link_is_refused_and_the_old_one_stays_until_it_is_put_again(cloud: Cloud) -> None:
    driver = cloud.make()
    await driver.put("link", b"sha256:old")
    cloud.proxy.clear(Rule(method="PUT", damage=0, times=1))
    with pytest.raises(DriverError, match="link: the storage answers 400"):
        await driver.put("link", b"sha256:new")
    assert await driver.get("link", 20) == b"sha256:old"
    await driver.put("link", b"sha256:new")
    assert await driver.get("link", 20) == b"sha256:new"
    await driver.close()


@pytest.mark.parametrize("cloud", ["azure"], indirect=True)
async def test_uploads_of_one_path_at_a_time_do_not_mix_their_blocks(cloud: Cloud, tmp_path: Path) -> None:
    """One of them may be told that its blocks are gone: the other's commit has dropped them."""
    driver = cloud.make()
    contents = [bytes([number]) * (2 * BLOCK + 1) for number in range(2)]
    for number, data in enumerate(contents):
        (tmp_path / str(number)).write_bytes(data)
    moves = (driver.move_in(tmp_path / str(number), "blob") for number in range(2))
    ended = await asyncio.gather(*moves, return_exceptions=True)
    assert None in ended
    assert all(each is None or isinstance(each, DriverError) for each in ended)
    assert await content(driver, "blob") in contents
    await driver.close()


async def test_microsofts_library_does_not_log_what_it_asks(
    container: Container, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = ObjectsDriver(AzureObjects(azure_settings(container, container.server.url)), LIFE)
    await driver.put("a", b"x")
    await driver.close()
    assert [record for record in caplog.records if record.name.startswith("azure")] == []


# Logins other than the account's key.


class Given:
    """What Microsoft's library for logins would be: tokens of the right form, or a failure."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.scopes: set[str] = set()
        self.closed = False

    async def get_token(self, *scopes: str, **_others: Any) -> AccessToken:
        self.scopes.update(scopes)
        if self.error is not None:
            raise self.error
        now = int(time.time())
        claims = {
            "iss": "https://sts.windows.net/0/",
            "aud": "https://storage.azure.com",
            "oid": "0",
            "tid": "0",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        return AccessToken(jwt.encode(claims, "k" * 32), now + 3600)

    async def close(self) -> None:
        self.closed = True


async def use(driver: ObjectsDriver, folder: Path) -> str:
    """Every verb; the URL that clients are given, if any."""
    data = os.urandom(2 * BLOCK + 17)
    (folder / "source").write_bytes(data)
    await driver.move_in(folder / "source", "a/blob")
    await driver.put("a/small", b"x")
    assert await content(driver, "a/blob") == data
    assert await driver.get("a/small", 1) == b"x"
    assert [entry.path for entry in await walk(driver, "")] == ["a/blob", "a/small"]
    assert await driver.list("a") == ["blob", "small"]
    assert list(await driver.remove(["a/small", "a/none"], "", durable=True)) == [True, False]
    place = await driver.elsewhere("a/blob")
    return place.url if place is not None else ""


def fetched(url: str) -> int:
    """Bytes that somebody without a login gets there."""
    with urllib.request.urlopen(url, timeout=20, context=ANY_CERTIFICATE) as answer:
        return len(answer.read())


async def test_a_login_by_tokens_reads_writes_and_signs(
    azurite_tls: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given()
    monkeypatch.setattr(azurelogin, "_credential", lambda _settings: given)
    container = Container(azurite_tls)
    settings = azure_settings(container, azurite_tls.url, key="", verify=False)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    url = await use(driver, tmp_path)
    await driver.close()
    assert fetched(url) == 2 * BLOCK + 17
    assert given.scopes == {azurelogin.SCOPE}
    assert given.closed


@pytest.mark.parametrize(
    "error", [ClientAuthenticationError("hush"), ServiceRequestError("https://login/hush")], ids=str
)
async def test_without_a_token_reading_and_writing_are_denied(
    azurite_tls: Azurite, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(azurelogin, "_credential", lambda _settings: Given(error))
    settings = azure_settings(Container(azurite_tls), azurite_tls.url, key="", verify=False, retries=0)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    for work in (driver.put("a", b"x"), driver.get("a", 1)):
        with pytest.raises(DeniedError) as caught:
            await work
        assert "hush" not in caught.value.cause
    await driver.close()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"key": "k"}, None),
        ({"shared_access": "s"}, None),
        ({"client": "c", "tenant": "t", "secret": "s"}, "ClientSecretCredential"),
        ({}, "DefaultAzureCredential"),
    ],
    ids=str,
)
async def test_tokens_are_a_service_principals_or_come_from_the_chain(
    given: dict[str, Any], kind: str | None
) -> None:
    login = azurelogin.login(AzureSettings("c", "a", "https://a.example", **given))
    assert (None if login is None else type(login._credential).__name__) == kind
    if login is not None:
        await login.close()


async def test_a_shared_access_signature_reads_and_writes_and_gives_no_urls(
    container: Container, tmp_path: Path
) -> None:
    signature = generate_container_sas(
        ACCOUNT,
        CONTAINER,
        KEY,
        permission=ContainerSasPermissions(read=True, write=True, delete=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    settings = azure_settings(container, container.server.url, key="", shared_access=signature)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    assert await use(driver, tmp_path) == ""
    await driver.close()


@pytest.mark.parametrize("verify", [True, False])
async def test_a_certificate_that_nobody_knows_is_taken_only_where_that_is_said(
    azurite_tls: Azurite, verify: bool
) -> None:
    settings = azure_settings(Container(azurite_tls), azurite_tls.url, verify=verify, retries=0)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    try:
        if not verify:
            await driver.put("a", b"x")
            return
        for work in (driver.put("a", b"x"), driver.get("a", 1)):
            with pytest.raises(DriverError, match="a: no trusted TLS connection to the storage"):
                await work
    finally:
        await driver.close()
