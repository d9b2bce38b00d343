"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as Go reads them."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from yarl import URL

from mirror.oci.names import Repository, Tag
from mirror.registry import RegistryError
from mirror.upstream.proxies import proxy_for
from tests.support.scripted import Fault, Upstream, serve
from tests.upstream.conftest import client_of

PROXIES = {"HTTP_PROXY": "http://plain.test:3128", "HTTPS_PROXY": "http://secure.test:3128"}


def via(url: str, **environ: str) -> str | None:
    """The proxy's host for this URL."""
    proxy = proxy_for(URL(url), {**PROXIES, **environ})
    return proxy.url.host if proxy else None


def test_each_scheme_has_its_variable() -> None:
    assert via("http://r.example/") == "plain.test"
    assert via("https://r.example/") == "secure.test"
    assert proxy_for(URL("http://r.example"), {}) is None
    assert proxy_for(URL("https://r.example"), {"https_proxy": "p.test:1"}) is not None, (
        "lower case, no scheme"
    )


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "http://localhost:5000/", True),
        ("", "http://127.0.0.9/", True),
        ("", "http://[::1]:5000/", True),
        ("", "http://r.example/", False),
        ("*", "http://r.example/", True),
        ("example", "http://r.example/", True),
        ("r.example", "http://r.example/", True),
        (" other.test , R.Example", "http://r.example/", True),
        ("example", "http://rexample/", False),
        (".example", "http://r.example/", True),
        (".r.example", "http://r.example/", False),
        ("*.example", "http://r.example/", True),
        ("r.example:80", "http://r.example/", True),
        ("r.example:8080", "http://r.example/", False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://r.example/", False),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("10.1.2.3", "http://10.1.2.3:5000/", True),
        ("10.1.2.3:5000", "http://10.1.2.3:5000/", True),
        ("10.1.2.3:5001", "http://10.1.2.3:5000/", False),
        ("10.1.2.3/x,,:", "http://10.1.2.3/", False),
    ],
)
def test_no_proxy_knows_names_ports_addresses_and_ranges(no_proxy: str, url: str, *, direct: bool) -> None:
    assert (via(url, NO_PROXY=no_proxy) is None) is direct
    assert (via(url, no_proxy=no_proxy) is None) is direct


@pytest.mark.parametrize("value", ["socks5://p.test:1", "http://", "http://[::1", "http://p.test:99999"])
def test_a_proxy_that_is_none_is_named_by_its_variable_without_its_value(value: str) -> None:
    with pytest.raises(ValueError, match="HTTP_PROXY") as caught:
        proxy_for(URL("http://r.example"), {"HTTP_PROXY": value})
    assert "p.test" not in str(caught.value)


def test_a_configured_proxy_replaces_the_environment_whatever_the_host() -> None:
    environ = {**PROXIES, "NO_PROXY": "*"}
    for url in ("http://r.example/", "https://r.example/", "http://127.0.0.1/"):
        proxy = proxy_for(URL(url), environ, "http://me:pw@own.test:3128")
        assert proxy is not None
        assert str(proxy.url) == "http://own.test:3128/"
        assert proxy.authorization == "Basic bWU6cHc="
        assert "bWU6cHc" not in repr(proxy)


def test_direct_means_no_proxy_whatever_the_environment_says() -> None:
    assert proxy_for(URL("http://r.example"), PROXIES, "direct") is None
    assert proxy_for(URL("http://r.example"), PROXIES) is not None


async def test_requests_go_through_the_proxy_with_its_credentials_and_not_the_registrys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scripted registry plays a plain HTTP proxy: it answers whatever host it is asked for."""
    proxy = Upstream()
    image = proxy.add_image("library/alpine", "3")
    async with serve(proxy) as url:
        address = url.removeprefix("http://")
        monkeypatch.setenv("HTTP_PROXY", f"http://us%65r:p%40ss@{address}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with client_of("http://registry.example") as client:
            resolved = await client.resolve(Repository("library/alpine"), Tag("3"))
    assert str(resolved.descriptor.digest) == image.digest
    seen = proxy.seen[0]
    assert seen.headers["Host"] == "registry.example"
    assert seen.headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"
    assert "Authorization" not in seen.headers


async def test_an_upstreams_own_proxy_alone_sees_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy would not answer; nothing of the login leaves in a log or an error."""
    proxy = Upstream()
    proxy.add_image("library/alpine", "3")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serve(proxy) as url:
        own = url.replace("http://", "http://me:hush@")
        async with client_of("http://registry.example", http_proxy=own, retries=0) as client:
            with capture_logs() as logs:
                await client.resolve(Repository("library/alpine"), Tag("3"))
                proxy.fault("*", "", Fault(status=407), times=1)
                with pytest.raises(RegistryError) as caught:
                    await client.manifest(Repository("library/alpine"), Tag("3"))
    assert proxy.seen[0].headers["Proxy-Authorization"] == "Basic bWU6aHVzaA=="
    for told in (repr(logs), caught.value.message):
        assert all(secret not in told for secret in ("hush", "bWU6aHVzaA"))


async def test_direct_is_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is direct anyway, so another name for it is used: nothing listens at the proxy."""
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with serve(upstream) as url:
        plain = url.replace("127.0.0.1", "0.0.0.0")
        async with client_of(plain, http_proxy="direct") as client:
            await client.resolve(Repository("library/alpine"), Tag("3"))
        async with client_of(plain, retries=0) as client:
            with pytest.raises(RegistryError, match="proxy"):
                await client.resolve(Repository("library/alpine"), Tag("3"))
    assert len(upstream.seen) == 1
