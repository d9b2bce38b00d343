"""The driver for Google Cloud Storage, on an emulator. What all clouds have in common: test_clouds."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mirror.drivers import gcsclient
from mirror.drivers.base import DeniedError, PathNotFoundError, StorageDriver, UnreachableError
from mirror.drivers.gcs import GcsObjects
from mirror.drivers.gcserrors import refused
from mirror.drivers.gcslogin import SCOPE, Login
from mirror.drivers.gcssettings import ENDPOINT
from mirror.drivers.gcssign import prepare
from mirror.drivers.objects import ObjectsDriver
from tests.drivers.conformance import DriverConformance, walk
from tests.support.clouds import LIFE, PART, gcs_settings
from tests.support.gcs import EMAIL, GcsBucket, key
from tests.support.recorder import Recorder


class TestConformance(DriverConformance):
    often, batches = 10, 1  # each request takes a millisecond or more

    @pytest.fixture
    async def driver(self, gcs_bucket: GcsBucket) -> AsyncIterator[StorageDriver]:
        driver = ObjectsDriver(GcsObjects(gcs_settings(gcs_bucket, gcs_bucket.server.direct)), LIFE)
        yield driver
        await driver.close()


async def test_names_are_those_of_distribution_and_others_are_passed_over(gcs_bucket: GcsBucket) -> None:
    driver = ObjectsDriver(GcsObjects(gcs_settings(gcs_bucket, gcs_bucket.server.direct)), LIFE)
    await driver.put("docker/registry/v2/file", b"x")
    assert gcs_bucket.names() == ["docker/registry/v2/file"]
    for name in ("docker/registry/v2/not ours", "docker//double"):
        gcs_bucket.write(name, b"")
    assert [entry.path for entry in await walk(driver, "")] == ["docker/registry/v2/file"]
    assert await driver.list("docker/registry/v2") == ["file"]
    await driver.close()


async def test_what_arrived_otherwise_than_it_was_sent_is_an_error_and_not_kept(
    gcs_bucket: GcsBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's word is compared with what was meant: here the two differ in what was meant."""
    driver = ObjectsDriver(GcsObjects(gcs_settings(gcs_bucket, gcs_bucket.server.direct)), LIFE)
    other = base64.b64encode(b"another digest, of 16"[:16]).decode()
    monkeypatch.setattr("mirror.drivers.gcsupload.base64.b64encode", lambda _digest: other.encode())
    with pytest.raises(Exception, match="file: the storage has stored something else than it was sent"):
        await driver.put("file", b"x")
    assert gcs_bucket.names() == []
    await driver.close()


async def test_a_signature_is_of_googles_form_and_made_with_the_key() -> None:
    """https://cloud.google.com/storage/docs/authentication/signatures#string-to-sign"""
    now = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    unsigned = prepare(ENDPOINT, "images", "a/b c", EMAIL, 600, now)
    assert unsigned.url == (
        "https://storage.googleapis.com/images/a/b%20c?X-Goog-Algorithm=GOOG4-RSA-SHA256"
        "&X-Goog-Credential=mirror%40tests.iam.gserviceaccount.com%2F20260203%2Fauto%2Fstorage%2Fgoog4_request"
        "&X-Goog-Date=20260203T040506Z&X-Goog-Expires=600&X-Goog-SignedHeaders=host"
    )
    lines = unsigned.text.decode().split("\n")
    assert lines[:3] == ["GOOG4-RSA-SHA256", "20260203T040506Z", "20260203/auto/storage/goog4_request"]
    login = Login(key())
    signature = bytes.fromhex(await login.sign("a", unsigned.text))
    login.close()
    private = load_pem_private_key(key()["private_key"].encode(), None)
    assert isinstance(private, RSAPrivateKey)
    private.public_key().verify(signature, unsigned.text, PKCS1v15(), SHA256())


async def test_a_token_is_asked_for_once_and_is_for_google_alone(
    gcs_bucket: GcsBucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where an answer names another host, as it may for an upload."""
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(str((await request.post())["assertion"]))
        return web.json_response({"access_token": "hush", "expires_in": 3600, "token_type": "Bearer"})

    app = web.Application()
    app.router.add_post("/token", give)
    google = Recorder(gcs_bucket.server.direct)
    monkeypatch.setattr(gcsclient, "ENDPOINT", google.url)
    source = tmp_path / "source"
    source.write_bytes(b"x" * (PART + 1))
    async with TestServer(app) as tokens:
        login = {**key(), "token_uri": str(tokens.make_url("/token"))}
        store = GcsObjects(gcs_settings(gcs_bucket, google.url, key=login))
        driver = ObjectsDriver(store, LIFE)
        await asyncio.gather(*(driver.put(f"a/{number}", b"x") for number in range(5)))
        await driver.move_in(source, "blob")
        assert (await driver.stat("blob")).size == PART + 1
        await store._client.call("blob", "GET", f"{gcs_bucket.server.url}/storage/v1/b/tests/o")
        await driver.close()
    google.stop()
    claims = jwt.decode(asked[0], options={"verify_signature": False})
    assert (len(asked), claims["iss"], claims["scope"]) == (1, EMAIL, SCOPE)
    assert {exchange.request_headers["authorization"] for exchange in google.exchanges} == {"Bearer hush"}
    (elsewhere,) = gcs_bucket.server.proxy.exchanges
    assert "authorization" not in elsewhere.request_headers


@pytest.mark.parametrize(("status", "kind"), [(400, DeniedError), (401, DeniedError)])
async def test_a_key_that_google_refuses_is_a_denial(status: int, kind: type[Exception]) -> None:
    async def refuse(_request: web.Request) -> web.Response:
        return web.json_response({"error": "invalid_grant", "error_description": "no"}, status=status)

    app = web.Application()
    app.router.add_post("/token", refuse)
    async with TestServer(app) as tokens:
        login = Login({**key(), "token_uri": str(tokens.make_url("/token"))})
        with pytest.raises(kind, match="a/b: Google gives no token: "):
            await login.token("a/b")
        login.close()


async def test_a_token_server_that_is_away_is_a_storage_that_is_away() -> None:
    login = Login(key())  # its token server is nowhere
    with pytest.raises(UnreachableError, match="a/b: Google's token server cannot be reached"):
        await login.token("a/b")
    login.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"No such object: tests/a/b", PathNotFoundError),
        (json.dumps({"error": {"message": "The specified bucket does not exist."}}).encode(), DeniedError),
    ],
)
def test_a_bucket_that_is_not_there_is_another_matter_than_an_object(body: bytes, kind: type) -> None:
    assert type(refused("a/b", 404, body)) is kind
