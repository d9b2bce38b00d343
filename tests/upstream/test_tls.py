"""TLS: verification is always on, a CA file adds to the system's, proxies tunnel, https is never left."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError, Unavailable
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import client_of

ALPINE = Repository("library/alpine")
THREE = Tag("3")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and registry.test, with its key beside it."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    )
    names = "subjectAltName=IP:127.0.0.1,DNS:registry.test"
    subprocess.run(
        [*command.split(), "-addext", names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem"


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


async def test_a_ca_file_is_trusted_besides_the_systems(certificate: Path, tls: ssl.SSLContext) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    async with serve(upstream, tls=tls) as url, client_of(url, ca_file=certificate) as client:
        await client.resolve(ALPINE, THREE)
    assert len(upstream.seen) == 1


async def test_an_unknown_authority_is_unavailable_and_not_tried_again(tls: ssl.SSLContext) -> None:
    upstream = Upstream()
    async with serve(upstream, tls=tls) as url, client_of(url, retries=3) as client:
        with (
            capture_logs() as logs,
            pytest.raises(Unavailable, match="cannot be reached: its certificate is not trusted") as caught,
        ):
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 503
    [failed] = [entry for entry in logs if entry["log_level"] != "debug"]
    assert (failed["event"], failed["log_level"], failed["attempts"]) == ("upstream.failed", "warning", 1)
    assert failed["host"] == url.removeprefix("https://")
    assert failed["cause"] == "certificate verify failed: self-signed certificate"
    assert "proxy.ca" in failed["hint"]
    assert "127.0.0.1" not in caught.value.message
    assert upstream.seen == []


async def test_a_certificate_for_another_name_is_refused(certificate: Path, tls: ssl.SSLContext) -> None:
    upstream = Upstream()
    async with (
        serve(upstream, host="127.0.0.2", tls=tls) as url,
        client_of(url, ca_file=certificate) as client,
    ):
        with capture_logs() as logs, pytest.raises(Unavailable, match="its certificate is not trusted"):
            await client.resolve(ALPINE, THREE)
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert "IP address mismatch, certificate is not valid for '127.0.0.2'" in failed["cause"]
    assert "proxy.ca" not in failed["hint"], "another authority would not help"
    assert upstream.seen == []


async def test_https_to_a_plain_server_is_no_trusted_connection() -> None:
    upstream = Upstream()
    async with serve(upstream) as url, client_of(url.replace("http:", "https:")) as client:
        with capture_logs() as logs, pytest.raises(Unavailable, match="does not speak TLS") as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == 503
    assert "127.0.0.1" not in caught.value.message
    assert upstream.seen == []
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert failed["host"] == url.removeprefix("http://")
    assert failed["cause"] == "TLS: wrong version number"
    assert failed["hint"] == "the port answers without TLS: write http://"


async def test_a_redirect_to_http_is_refused(certificate: Path, tls: ssl.SSLContext) -> None:
    upstream, plain = Upstream(), Upstream()
    async with serve(plain) as weaker, serve(upstream, tls=tls) as url:
        upstream.fault("GET", "/blobs/", Fault(status=307, headers={"Location": f"{weaker}/blob"}))
        async with client_of(url, ca_file=certificate) as client:
            with pytest.raises(Unavailable, match="from https to http") as caught:
                await client.blob(ALPINE, Digest.of(b"x"))
    assert caught.value.status == 502
    assert plain.seen == []


@pytest.mark.parametrize("login", [{}, {"username": "user", "password": "pass"}])
async def test_a_realm_by_http_of_an_https_registry_gets_nothing(
    certificate: Path, tls: ssl.SSLContext, login: dict[str, str]
) -> None:
    bearer = Bearer()
    server, upstream = Upstream(auth=bearer), Upstream(auth=bearer)
    async with serve(server) as weaker, serve(upstream, tls=tls) as url:
        bearer.realm = f"{weaker}/token"
        async with client_of(url, ca_file=certificate, realms=("127.0.0.1",), **login) as client:
            with pytest.raises(RegistryError, match="not safe") as caught:
                await client.manifest(ALPINE, THREE)
    assert caught.value.status == 401
    assert server.seen == []


async def test_a_tunnel_through_a_proxy_shows_it_no_credentials_of_the_registry(
    certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = Upstream(auth=Basic())
    upstream.add_image("library/alpine", "3")
    async with serve(upstream, tls=tls) as url, tunnel(int(url.rpartition(":")[2])) as (address, said):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        login = {"username": "user", "password": "pass"}
        async with client_of("https://registry.test", ca_file=certificate, **login) as client:
            await client.resolve(ALPINE, THREE)
    head = b"".join(said)
    assert head.startswith(b"CONNECT registry.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" in head
    assert b"\r\nAuthorization" not in head
    assert all("Proxy-Authorization" not in seen.headers for seen in upstream.seen)
    assert len(upstream.seen) == 2


@contextlib.asynccontextmanager
async def tunnel(port: int) -> AsyncGenerator[tuple[str, list[bytes]], None]:
    """An HTTP proxy that tunnels all to this port; gives its address and the heads it read."""
    heads: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        tasks.add(asyncio.create_task(pump(reader, inner_writer)))
        tasks.add(asyncio.create_task(pump(inner_reader, writer)))

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    await asyncio.gather(*tasks, return_exceptions=True)
