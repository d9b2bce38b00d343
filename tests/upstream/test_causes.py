"""What the log says about trouble upstream: who was asked, why it failed, how often."""

from __future__ import annotations

import errno
import socket
import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import structlog
from structlog.testing import capture_logs
from yarl import URL

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError, Unavailable
from mirror.upstream.causes import address, cause_of, late
from mirror.upstream.failures import TransportError, Trouble, from_trouble
from tests.support.scripted import Fault, Upstream, serve
from tests.upstream.conftest import Connect, client_of

ALPINE = Repository("library/alpine")
THREE = Tag("3")
KEY: Any = SimpleNamespace(host="registry.test", port=443, ssl=True)  # as much of a key as the errors read


def refused_port() -> socket.socket:
    """A bound socket that does not listen: connections to it are refused."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    return bound


def unverified(code: int, message: str) -> aiohttp.ClientConnectorCertificateError:
    """The library's error for a certificate with this fault."""
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_code, inner.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(KEY, inner)


@pytest.mark.parametrize(
    ("error", "trouble", "text"),
    [
        (
            aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "to ('10.0.0.1', 1)")),
            Trouble.REFUSED,
            "connection refused",
        ),
        (
            aiohttp.ClientConnectorError(KEY, OSError("Multiple exceptions: a, b")),
            Trouble.REFUSED,
            "Multiple exceptions: a, b",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "Unknown")),
            Trouble.NAME,
            "no such host",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "Temporary failure")),
            Trouble.NAME,
            "the name server does not answer",
        ),
        (
            aiohttp.ClientProxyConnectionError(KEY, OSError(errno.EHOSTUNREACH, "x")),
            Trouble.PROXY,
            "no route to host",
        ),
        (unverified(10, "expired."), Trouble.UNTRUSTED, "certificate verify failed: expired"),
        (aiohttp.ServerDisconnectedError(), Trouble.BROKEN, "the connection was closed before an answer"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "x"), Trouble.BROKEN, "connection reset by peer"),
        (ssl.SSLError(1, "no reason"), Trouble.TLS, "TLS: the connection was closed"),
        (aiohttp.InvalidURL("http://h/?secret=1"), Trouble.NONSENSE, "the answer is not HTTP: InvalidURL"),
    ],
)
def test_a_librarys_error_becomes_words(error: Exception, trouble: Trouble, text: str) -> None:
    cause = cause_of(error)
    assert (cause.trouble, cause.text) == (trouble, text)


def test_a_name_without_an_address_is_told_with_where_to_look() -> None:
    cause = cause_of(aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "Unknown")))
    assert cause.hint == "see this machine's DNS for registry.test, or proxy.httpproxy"


@pytest.mark.parametrize(
    ("name", "host", "said"),
    [
        ("docker.io", "registry-1.docker.io", "registry-1.docker.io"),
        ("the token server of docker.io", "auth.docker.io", "auth.docker.io"),
        ("docker.io", "production.cloudflare.docker.com", "production.cloudflare.docker.com"),
        ("docker.io", "secret.example", "its name"),
        ("the upstream registry", "registry-1.docker.io", "its name"),
        ("quay.io", "secret.quay.io", "its name"),
    ],
)
def test_docker_hubs_hosts_are_told_to_clients_and_nobody_elses(name: str, host: str, said: str) -> None:
    """Who looks `docker.io` up in DNS finds another host, that has an address."""
    error = from_trouble(TransportError(Trouble.NAME, cause="no such host", host=f"{host}:443"), name)
    assert error.message == f"{name} cannot be reached: {said} has no address in DNS"


@pytest.mark.parametrize("code", [2, 18, 19, 20, 21])
def test_only_a_missing_authority_is_mended_by_proxy_ca(code: int) -> None:
    assert "proxy.ca" in cause_of(unverified(code, "x")).hint
    assert "proxy.ca" not in cause_of(unverified(10, "x")).hint


def test_an_address_has_its_port() -> None:
    assert address(URL("https://registry.test/v2/")) == "registry.test:443"
    assert address(URL("http://[::1]:5000")) == "[::1]:5000"


def test_a_time_out_says_how_long_was_waited() -> None:
    assert late(Trouble.FIRSTBYTE_TIMEOUT, 30.0) == "no answer within 30 s"
    assert late(Trouble.CONNECT_TIMEOUT, 0.5) == "no connection within 0.5 s"


async def test_a_refused_connection_is_told_with_its_port_at_each_attempt_and_once_as_failed() -> None:
    with refused_port() as bound, capture_logs() as logs:
        host = f"127.0.0.1:{bound.getsockname()[1]}"
        async with client_of(f"http://{host}", retries=2) as client:
            with pytest.raises(Unavailable) as caught:
                await client.manifest(ALPINE, THREE)
    assert "127.0.0.1" not in caught.value.message
    said = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [(entry["event"], entry["log_level"]) for entry in said] == [
        ("upstream.retried", "info"),
        ("upstream.retried", "info"),
        ("upstream.failed", "warning"),
    ]
    for entry in said:
        assert (entry["host"], entry["cause"]) == (host, "connection refused")
        assert (entry["method"], entry["path"]) == ("GET", "/v2/library/alpine/manifests/3")
    assert isinstance(said[0]["pause_ms"], int)
    assert said[2]["attempts"] == 3


async def test_a_silent_upstream_is_told_with_the_time_it_was_given(connect: Connect) -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(hang=True))
    with capture_logs() as logs:
        async with connect(upstream, firstbyte=0.3) as client:
            with pytest.raises(Unavailable):
                await client.manifest(ALPINE, THREE)
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert failed["cause"] == "no answer within 0.3 s"
    assert failed["host"].startswith("127.0.0.1:")


async def test_the_proxy_in_between_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_port() as bound, capture_logs() as logs:
        proxy = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{proxy}")
        async with client_of("http://registry.test", retries=0) as client:
            with pytest.raises(Unavailable, match="the configured proxy"):
                await client.manifest(ALPINE, THREE)
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert failed["host"] == "registry.test:80"
    assert failed["cause"] == f"through the proxy {proxy}: connection refused"
    assert "secret" not in str(logs)


async def test_trouble_behind_a_redirect_is_told_with_the_host_that_has_it(connect: Connect) -> None:
    upstream = Upstream()
    with refused_port() as bound, capture_logs() as logs:
        storage = f"127.0.0.1:{bound.getsockname()[1]}"
        fault = Fault(status=307, headers={"Location": f"http://{storage}/b?signature=1"})
        upstream.fault("GET", "/blobs/", fault)
        async with connect(upstream, retries=0) as client:
            with pytest.raises(Unavailable):
                await client.blob(ALPINE, Digest.of(b""))
    [failed] = [entry for entry in logs if entry["event"] == "upstream.failed"]
    assert failed["redirected_to"] == storage
    assert failed["host"] != storage
    assert "signature" not in str(logs)


async def test_a_blob_that_breaks_off_is_told_with_host_and_cause(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3", layers=[b"x" * 65536])
    layer = next(Digest.parse(digest) for digest, data in image.blobs.items() if len(data) == 65536)
    upstream.fault("GET", "/blobs/", Fault(cut_after=1000))
    with capture_logs() as logs:
        async with connect(upstream) as client:
            blob = await client.blob(ALPINE, layer)
            with pytest.raises(RegistryError):
                [part async for part in blob.read(0, 65536)]
            await blob.close()
    [broken] = [entry for entry in logs if entry["event"] == "upstream.broken"]
    assert broken["host"].startswith("127.0.0.1:")
    assert broken["cause"] == "the connection was closed in the middle of the answer"
    assert broken["log_level"] == "info", "whoever reads it goes on from there"


async def test_debug_tells_each_request_with_status_and_time(connect: Connect) -> None:
    """One event for every request that left, failed attempts with their cause."""
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(status=503, headers={"Retry-After": "0"}), times=1)
    async with serve(upstream) as url:
        with capture_logs() as logs:
            async with client_of(url) as client:
                await client.manifest(ALPINE, THREE)
    requests = [entry for entry in logs if entry["event"] == "upstream.request"]
    host = url.removeprefix("http://")
    about = {"event": "upstream.request", "log_level": "debug", "method": "GET", "host": host}
    for entry in requests:
        assert 0 <= entry.pop("duration_ms") < 20_000
    path = "/v2/library/alpine/manifests/3"
    assert requests == [
        {**about, "path": path, "attempt": 1, "status": 503},
        {**about, "path": path, "attempt": 2, "status": 200},
    ]


async def test_debug_tells_a_failed_request_with_its_cause() -> None:
    with refused_port() as bound, capture_logs() as logs:
        async with client_of(f"http://127.0.0.1:{bound.getsockname()[1]}", retries=0) as client:
            with pytest.raises(Unavailable):
                await client.manifest(ALPINE, THREE)
    [request] = [entry for entry in logs if entry["event"] == "upstream.request"]
    assert request["cause"] == "connection refused"
    assert "status" not in request


async def test_nothing_is_put_together_where_debug_is_off(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that succeeds must not even format its host."""

    def formatted(_url: URL) -> str:
        raise AssertionError("formatted")

    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    before = structlog.get_config()
    monkeypatch.setattr("mirror.upstream.fetch.address", formatted)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    try:
        async with connect(upstream) as client:
            await client.manifest(ALPINE, THREE)
    finally:
        structlog.configure(**before)
    assert len(upstream.seen) == 1
