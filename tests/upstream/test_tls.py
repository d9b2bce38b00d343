"""TLS: whom we trust and who we say we are; proxies tunnel, and https is never left."""

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
from mirror.upstream.settings import Settings
from mirror.upstream.tls import Contexts, contexts
from tests.support.scripted import Basic, Bearer, Fault, Upstream, serve
from tests.upstream.conftest import client_of

ALPINE = Repository("library/alpine")
THREE = Tag("3")


def self_signed(folder: Path, names: str) -> Path:
    """A self-signed certificate for these names, with its key beside it."""
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=test"
    )
    files: list[str | Path] = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(
        [*command.split(), "-addext", f"subjectAltName={names}", *files], check=True, capture_output=True
    )
    return folder / "cert.pem"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1 and registry.test."""
    return self_signed(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1,DNS:registry.test")


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    """The server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


def test_registries_that_trust_the_system_share_what_that_is_and_nobody_else_does(certificate: Path) -> None:
    url, key = "https://registry.test", certificate.with_name("key.pem")
    system = contexts(Settings(url)).others
    assert contexts(Settings("https://other.test")) == Contexts(system, system)
    assert contexts(Settings(url, client_cert=certificate, client_key=key)).others is system
    for settings in (
        Settings(url, ca_file=certificate),
        Settings(url, insecure=True),
        Settings(url, client_cert=certificate, client_key=key),
    ):
        assert contexts(settings).own is not system
    assert (system.verify_mode, system.check_hostname) == (ssl.CERT_REQUIRED, True)


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


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own certificate `us.pem`; its key `us.key` beside it, `both.pem`, and keys that do not fit."""
    folder = tmp_path_factory.mktemp("us")
    curve = "-pkeyopt ec_paramgen_curve:prime256v1"
    for command in (
        f"req -x509 -newkey ec {curve} -nodes -days 1 -subj /CN=us -keyout us.key -out us.pem",
        "ec -in us.key -aes128 -passout pass:hush -out encrypted.key",
        f"genpkey -algorithm ec {curve} -out other.key",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=folder)
    (folder / "both.pem").write_bytes((folder / "us.pem").read_bytes() + (folder / "us.key").read_bytes())
    (folder / "junk.pem").write_text("junk")
    return folder / "us.pem"


@pytest.fixture
def demanding(tls: ssl.SSLContext, identity: Path) -> ssl.SSLContext:
    """A server's side that talks to `identity` only."""
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cafile=identity)
    return tls


@pytest.mark.parametrize("names", [("us.pem", "us.key"), ("both.pem", None)])
async def test_a_client_certificate_is_shown_to_the_registry(
    certificate: Path, identity: Path, demanding: ssl.SSLContext, names: tuple[str, str | None]
) -> None:
    cert, key = (identity.with_name(name) if name else None for name in names)
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    async with (
        serve(upstream, tls=demanding) as url,
        client_of(url, ca_file=certificate, client_cert=cert, client_key=key) as client,
    ):
        await client.resolve(ALPINE, THREE)
    assert len(upstream.seen) == 1


async def test_without_one_a_registry_that_demands_it_gives_no_connection(
    certificate: Path, demanding: ssl.SSLContext
) -> None:
    upstream = Upstream()
    async with (
        serve(upstream, tls=demanding) as url,
        client_of(url, ca_file=certificate, retries=0) as client,
    ):
        with pytest.raises(Unavailable, match=r"no TLS connection|broke off"):
            await client.resolve(ALPINE, THREE)
    assert upstream.seen == []


async def test_a_redirects_target_is_not_told_who_we_are(
    tmp_path: Path, identity: Path, demanding: ssl.SSLContext
) -> None:
    """The storage demands a certificate: a client that showed the registry's to it would get an answer."""
    authority = self_signed(tmp_path, "IP:127.0.0.1,IP:127.0.0.2")
    demanding.load_cert_chain(authority, authority.with_name("key.pem"))
    ours = {"client_cert": identity, "client_key": identity.with_name("us.key")}
    upstream, storage = Upstream(), Upstream()
    digest = storage.add_blob("library/alpine", b"data")
    async with (
        serve(upstream, tls=demanding) as url,
        serve(storage, host="127.0.0.2", tls=demanding) as there,
    ):
        location = {"Location": f"{there}/v2/library/alpine/blobs/{digest}"}
        upstream.fault("GET", "/blobs/", Fault(status=307, headers=location))
        async with client_of(url, ca_file=authority, retries=0, **ours) as client:
            with pytest.raises(Unavailable):
                await client.blob(ALPINE, Digest.parse(digest))
    assert len(upstream.seen) == 1, "the registry got the certificate"
    assert storage.seen == []


@pytest.mark.parametrize(
    ("cert", "key", "cause"),
    [
        ("missing.pem", None, "proxy.clientcert: {}/missing.pem: No such file or directory"),
        ("us.pem", "missing.key", "proxy.clientkey: {}/missing.key: No such file or directory"),
        ("us.pem", "other.key", "proxy.clientcert: {}/us.pem: key values mismatch"),
        ("us.pem", "encrypted.key", "proxy.clientcert: {}/us.pem: no usable pem in it"),
        ("us.pem", None, "proxy.clientcert: {}/us.pem: no usable pem in it"),
        ("junk.pem", "us.key", "proxy.clientcert: {}/junk.pem: no usable pem in it"),
    ],
)
async def test_a_client_certificate_that_cannot_be_used_is_our_own_trouble(
    identity: Path, cert: str, key: str | None, cause: str
) -> None:
    """An encrypted key in particular: OpenSSL would ask for its password on the terminal, and wait."""
    folder = identity.parent
    files = {"client_cert": folder / cert, "client_key": folder / key if key else None}
    async with client_of("https://registry.invalid", **files) as client:
        with capture_logs() as logs, pytest.raises(Unavailable, match="client certificate") as caught:
            await client.manifest(ALPINE, THREE)
    assert str(folder) not in caught.value.message
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert failed["cause"].startswith(cause.format(folder))


async def test_an_insecure_upstream_may_have_any_certificate_but_must_have_one(tls: ssl.SSLContext) -> None:
    upstream, plain = Upstream(), Upstream()
    upstream.add_image("library/alpine", "3")
    with capture_logs() as logs:
        async with (
            serve(upstream, host="127.0.0.2", tls=tls) as url,  # a wrong name, signed by nobody
            serve(plain) as weaker,
            client_of(url, insecure=True) as client,
            client_of(weaker.replace("http:", "https:"), insecure=True) as other,
        ):
            await client.resolve(ALPINE, THREE)
            await client.resolve(ALPINE, THREE)
            with pytest.raises(Unavailable, match="does not speak TLS"):
                await other.resolve(ALPINE, THREE)
    assert len(upstream.seen) == 2
    assert plain.seen == []
    warned = [entry["host"] for entry in logs if entry["event"] == "upstream.insecure"]
    assert warned == [address.partition("//")[2] for address in (url, weaker)], "once each"


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
