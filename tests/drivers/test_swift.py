"""Keys from a real Keystone for a real Swift, which asks it who has signed. All else: test_s3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.drivers import s3opening
from mirror.drivers.base import DeniedError, DriverError, UnreachableError
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.swiftlogin import Keystone, KeystoneSettings
from tests.drivers.kit import tls_server
from tests.support.keystone import PASSWORD, PROJECT, REGION, START, USER, KeystoneServer
from tests.support.recorder import Recorder, Rule

WITHIN = 60.0  # seconds

pytestmark = pytest.mark.timeout(START)


@pytest.fixture
def settings(keystone: KeystoneServer) -> KeystoneSettings:
    """That let us in."""
    return KeystoneSettings(
        url=keystone.url,
        username=USER,
        password=PASSWORD,
        user_domain_id="default",
        project_name=PROJECT,
        project_domain_id="default",
        region=REGION,
    )


@pytest.fixture
async def proxy(keystone: KeystoneServer) -> AsyncIterator[Recorder]:
    """Between us and Keystone."""
    recorder = Recorder(keystone.url.removesuffix("/v3"))
    yield recorder
    await asyncio.to_thread(recorder.stop)


def by_way_of(proxy: Recorder, settings: KeystoneSettings) -> KeystoneSettings:
    return replace(settings, url=f"{proxy.url}/v3")


def driver_of(login: Keystone) -> S3Driver:
    return S3Driver(S3Settings(bucket="driver", path_style=True, login=login, root="files"))


async def test_keys_are_made_once_and_used_again(
    keystone: KeystoneServer, settings: KeystoneSettings
) -> None:
    first = await Keystone(settings).keys()
    assert first == await Keystone(settings).keys()
    assert first.endpoint == keystone.swift.url, "where the catalog has object-store"
    (made,) = keystone.pairs()
    assert made == (first.access_key, first.secret_key)
    by_id = replace(settings, project_name="", project_domain_id="", project_id=keystone.project)
    assert await Keystone(by_id).keys() == first
    assert (await Keystone(replace(settings, endpoint="https://s3.example.com")).keys()).endpoint == (
        "https://s3.example.com"
    )


async def test_what_is_written_with_such_keys_is_there(
    keystone: KeystoneServer, settings: KeystoneSettings
) -> None:
    await asyncio.to_thread(keystone.make_container, "driver")
    driver = driver_of(Keystone(settings))
    await driver.start()
    await driver.put("a/b", b"content")
    assert await driver.get("a/b", 100) == b"content"
    elsewhere = await driver.elsewhere("a/b")
    assert elsewhere is not None
    assert (await driver.remove(["a/b"], "", durable=True)) == [True]
    await driver.close()


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"password": "hush"}, DeniedError, "Keystone refuses the login: The request you have made requires"),
        ({"username": "nobody"}, DeniedError, "Keystone refuses the login: "),
        ({"project_name": ""}, DriverError, "set tenant or tenantid"),
        (
            {"region": "Mars"},
            DriverError,
            "no public endpoint of s3 or object-store in region Mars: see storage.swift.s3endpoint",
        ),
        ({"url": "http://127.0.0.1:1/v3"}, UnreachableError, "Keystone cannot be connected to"),
    ],
)
async def test_a_login_that_fails_says_why(
    settings: KeystoneSettings, change: dict[str, str], kind: type[DriverError], said: str
) -> None:
    if change.get("project_name") == "":
        change = {**change, "project_domain_id": ""}
    with pytest.raises(DriverError) as refused:
        await Keystone(replace(settings, **change)).keys()  # type: ignore[arg-type]
    assert isinstance(refused.value, kind)
    assert said in refused.value.cause
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("known", [True, False])
async def test_a_keystone_whose_authority_this_machine_knows_is_trusted(
    settings: KeystoneSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """As by registry:2. It fails in any case: what answers is no Keystone."""
    with tls_server(tmp_path, 503, b"") as (url, certificate):
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate if known else tmp_path / "none"))
        with pytest.raises(UnreachableError) as failed:
            await Keystone(replace(settings, url=f"{url}/v3")).keys()
    assert failed.value.cause.startswith("Keystone answers ") == known, failed.value.cause


async def test_a_refused_login_is_not_tried_again_at_once(
    settings: KeystoneSettings, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who tries often with a wrong password is locked out, for whatever else he is used for."""
    driver = driver_of(Keystone(replace(by_way_of(proxy, settings), password="hush")))
    for _ in range(3):
        with pytest.raises(DeniedError):
            await driver.get("a/b", 100)
    assert len(proxy.select("POST", "/auth/tokens")) == 1
    await driver.close()
    monkeypatch.setattr(s3opening, "DENIED_PAUSE", 0.0)
    driver = driver_of(Keystone(replace(by_way_of(proxy, settings), password="hush")))
    for _ in range(2):
        with pytest.raises(DeniedError):
            await driver.get("a/b", 100)
    assert len(proxy.select("POST", "/auth/tokens")) == 3
    await driver.close()


async def test_a_keystone_that_is_away_is_left_alone_and_asked_again_later(
    settings: KeystoneSettings, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(Keystone(by_way_of(proxy, settings)))
    proxy.clear(Rule(status=503))
    await driver.start()
    assert not proxy.exchanges, "a start waits for no login"
    for _ in range(5):
        with pytest.raises(UnreachableError):
            await driver.get("a/b", 100)
    asked = len(proxy.exchanges)
    with pytest.raises(UnreachableError, match="not asked now"):
        await driver.get("a/b", 100)
    assert len(proxy.exchanges) == asked
    assert "Keystone answers" in driver.trouble()
    proxy.clear()
    monkeypatch.setattr("mirror.drivers.breaker.PAUSE", 0.05)
    async with asyncio.timeout(WITHIN):
        while driver.trouble():
            with pytest.raises(DriverError):  # there is no such object, once it can be asked
                await driver.get("a/b", 100)
            await asyncio.sleep(0.05)
    await driver.close()
