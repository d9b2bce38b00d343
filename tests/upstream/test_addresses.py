"""An open mirror reaches the public network only, however it is led elsewhere."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from mirror.oci.names import Repository, Tag
from mirror.registry import Unavailable
from mirror.upstream.addresses import Resolver, is_public
from mirror.upstream.lookups import Lookups
from tests.support.scripted import Upstream, serve
from tests.upstream.conftest import client_of

A, ONE = Repository("org/a"), Tag("1")
PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    ("host", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1::1", True),
        ("registry.example.com", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("[::1]", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        # What a resolver takes for 127.0.0.1, and `ipaddress` for no address.
        ("127.1", False),
        ("2130706433", False),
        ("0x7f000001", False),
        ("0177.0.0.1", False),
        ("127.0.0.1.", False),
        ("127.0.0.0x1", False),
        ("\uff11\uff12\uff17.0.0.\uff11", False),
        ("0xexample.com", True),
        ("registry.3x", True),
        # IPv4 in IPv6, by which a translator of this network may lead back to it.
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::1", False),
        ("2002:5db8:d822::1", True),
        ("::127.0.0.1", False),
        ("2001:0:1234::1", False),
        ("192.0.0.192", False),
        ("::ffff:192.0.0.192", False),
        ("fec0::1", False),
    ],
)
def test_which_addresses_are_public(host: str, public: bool) -> None:
    assert is_public(host) is public


async def test_only_the_public_ones_of_a_names_addresses_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"mixed.test": ["10.0.0.1", PUBLIC], "inner.test": ["10.0.0.1"], "proxy.test": ["10.0.0.2"]}

    async def getaddrinfo(host: str, port: int, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in known[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    resolver = Resolver(Lookups(), public_only=True)
    resolver.exempt.add("proxy.test")
    assert [each["host"] for each in await resolver.resolve("mixed.test", 443)] == [PUBLIC]
    assert [each["host"] for each in await resolver.resolve("proxy.test", 443)] == ["10.0.0.2"]
    with pytest.raises(OSError, match="no public address"):
        await resolver.resolve("inner.test", 443)


async def test_a_private_registry_is_asked_nothing_by_name_or_by_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = Upstream()
    upstream.add_image("org/a", "1")
    async with serve(upstream) as url:
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
            return await resolve("127.0.0.1" if host == "registry.test" else host, port, **options)

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        named = url.replace("127.0.0.1", "registry.test")
        for target in (url, named):
            async with client_of(target, public_only=True, retries=0) as client:
                with pytest.raises(Unavailable):
                    await client.resolve(A, ONE)
        assert upstream.seen == []
        async with client_of(named) as client:
            await client.resolve(A, ONE)
        assert upstream.seen


@pytest.mark.parametrize("written", ["127.1", "2130706433", "0x7f000001", "127.0.0.1.", "0177.0.0.1"])
async def test_an_address_that_is_written_otherwise_is_asked_nothing(written: str) -> None:
    """A hostile registry would write it into a redirect, or as its token server."""
    upstream = Upstream()
    upstream.add_image("org/a", "1")
    async with serve(upstream) as url:
        async with client_of(url.replace("127.0.0.1", written), public_only=True, retries=0) as client:
            with pytest.raises(Unavailable):
                await client.resolve(A, ONE)
        assert upstream.seen == []
