"""Whose word counts about who has asked."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from aiohttp.test_utils import make_mocked_request

from mirror.confighosts import LOOPBACK
from mirror.oci.names import Repository
from mirror.server import forwarded
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import ask, serving

PROXIES = (*LOOPBACK, ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, ""),
        ({"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        ({"X-Forwarded-For": "1.1.1.1, 203.0.113.9, 10.0.0.1"}, "203.0.113.9"),
        ({"X-Forwarded-For": "evil, 203.0.113.9"}, "203.0.113.9"),
        ({"X-Forwarded-For": "203.0.113.9, evil"}, ""),
        ({"X-Forwarded-For": "203.0.113.9:4711"}, "203.0.113.9"),
        ({"X-Forwarded-For": "10.0.0.2, 10.0.0.1"}, "10.0.0.2"),
        ({"X-Forwarded-For": "::ffff:203.0.113.9"}, "203.0.113.9"),
        ({"X-Forwarded-For": "9" * 10_000}, ""),
        ({"X-Real-Ip": "2001:db8::1"}, "2001:db8::1"),
        ({"X-Real-Ip": "x"}, ""),
        ({"X-Forwarded-For": "203.0.113.9", "X-Real-Ip": "1.1.1.1"}, "203.0.113.9"),
        ({"Forwarded": "for=203.0.113.9"}, "203.0.113.9"),
        ({"Forwarded": 'For="[2001:db8::1]:47";proto=https, for=10.0.0.1'}, "2001:db8::1"),
        ({"Forwarded": "for=203.0.113.9", "X-Forwarded-For": "1.1.1.1"}, "203.0.113.9"),
        ({"Forwarded": "for=_hidden"}, ""),
        ({"Forwarded": "for==,,;", "X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        ({"Forwarded": 'for="203.0.113.9', "X-Real-Ip": "203.0.113.8"}, "203.0.113.8"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy_of_ours(
    headers: dict[str, str], client: str
) -> None:
    request = make_mocked_request("GET", "/", headers)
    assert forwarded.client(request, PROXIES) == client


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ({"Host": "m"}, "m"),
        ({}, ""),
        ({"Host": "m", "X-Forwarded-Host": "quay.io.m, b"}, "quay.io.m"),
        ({"Host": "m", "X-Forwarded-Host": ""}, "m"),
        ({"Host": "m", "Forwarded": "for=1.1.1.1;host=a.m:5000, host=b"}, "a.m:5000"),
        ({"Host": "m", "Forwarded": "host=a", "X-Forwarded-Host": "b"}, "a"),
        ({"Host": "m", "Forwarded": 'host="a\\"b"'}, 'a"b'),
    ],
)
def test_the_host_is_the_first_that_is_told(headers: dict[str, str], host: str) -> None:
    assert forwarded.host(make_mocked_request("GET", "/", headers)) == host


async def test_a_strangers_headers_change_nothing_and_a_proxys_do(
    registry: MemoryRegistry, events: Events
) -> None:
    """Neither the log nor the choice of the upstream, also where the fast lane repeats the answer."""
    hosts: list[str] = []

    def locate(_namespace: str | None, host: str, repository: Repository) -> Repository:
        hosts.append(host)
        return repository

    registry.add_manifest("v1", b"{}")
    registry.notes["manifest"] = {"hit": True}
    settings = Settings(access_log=False, locate=locate)
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "quay.io.m"}
    for proxies in ((), (ip_network("10.0.0.0/8"),), LOOPBACK):
        async with serving(registry, replace(settings, proxies=proxies)) as port:
            for _ in range(4):
                await ask(port, "/v2/library/x/manifests/v1", headers=headers)
    told = [event["http.request.remoteaddr"].partition(":")[0] for event in events.all]
    assert told == ["127.0.0.1"] * 8 + ["203.0.113.9"] * 4
    assert set(hosts[:-1]) >= {"mirror.test"}
    assert hosts[-1] == "quay.io.m"
    assert hosts.count("quay.io.m") == 4
