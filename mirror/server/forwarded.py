"""What a proxy in front says about a request: who has asked, and by which host name.

A client can write these headers as well. So they count only from a peer that is trusted, and of several
addresses the last one that is not a trusted proxy's: what stands before it may be the client's invention.
`Forwarded` (RFC 7239) comes before `X-Forwarded-*`, as in distribution.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from aiohttp.web_request import BaseRequest

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

SCHEMES = ("http", "https")
SAYING = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")  # who has asked
ADDRESSES = 4096  # of peers, whose texts need not be read anew for each request
LIMIT = 4096  # characters of a header that are looked at; some hundred addresses
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))\s*(?:([;,])|\Z)')


def is_trusted(transport: asyncio.BaseTransport | None, proxies: tuple[Network, ...]) -> bool:
    """Whether the other side of a connection is a proxy of ours. By a Unix socket everyone is: whoever may
    connect there is on this machine, and let in by its mode."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if isinstance(peer, tuple | list):
        return _trusts(str(peer[0]), proxies)
    return transport is not None and bool(proxies)


def client(request: BaseRequest, proxies: tuple[Network, ...]) -> str:
    """The address of the client as trusted proxies say it; "" where none does."""
    headers = request.headers
    if not any(name in headers for name in SAYING):
        return ""
    given = _fors(headers) or ",".join(headers.getall("X-Forwarded-For", ()))[:LIMIT].split(",")
    found = ""
    for text in reversed(given):
        address = address_of(text.strip())
        if address is None:
            break
        found = str(address)
        if not _within(address, proxies):
            break
    if not found and (address := address_of(headers.get("X-Real-Ip", "").strip())) is not None:
        found = str(address)
    return found


def host(request: BaseRequest) -> str:
    """The host name that the client has asked, as a trusted proxy says it; else the one in `Host`, or ""."""
    headers = request.headers
    for element in _elements(headers):
        if "host" in element:
            return element["host"]
    first = headers.get("X-Forwarded-Host", "")[:LIMIT].partition(",")[0].strip()
    return first or headers.get("Host", "")


def scheme(request: BaseRequest) -> str:
    """`http` or `https`, by which the client has asked, as a trusted proxy says it; "" where it does not."""
    said = [element["proto"] for element in _elements(request.headers) if "proto" in element]
    first = said[0] if said else request.headers.get("X-Forwarded-Proto", "")[:LIMIT].partition(",")[0]
    return first.strip().lower() if first.strip().lower() in SCHEMES else ""


def _fors(headers: Mapping[str, str]) -> list[str]:
    return [element["for"] for element in _elements(headers) if "for" in element]


def _elements(headers: Mapping[str, str]) -> list[dict[str, str]]:
    """`for=192.0.2.1;host=a, for="[2001:db8::1]:47"` -> a mapping for each proxy; [] for what is not such."""
    text = headers.get("Forwarded", "")[:LIMIT]
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return []
        name, quoted, plain, end = pair.groups()
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        elements[-1].setdefault(name.lower(), value)
        if end == ",":
            elements.append({})
        at = pair.end()
    return [element for element in elements if element]


def address_of(text: str) -> Address | None:
    """`192.0.2.1`, `192.0.2.1:47`, `2001:db8::1`, `[2001:db8::1]:47`; IPv4 in IPv6's form as IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _trusts(peer: str, proxies: tuple[Network, ...]) -> bool:
    global _known  # noqa: PLW0603 - there is one configuration; hashing its networks takes as long as a look
    if _known[0] is not proxies:
        _known = (proxies, lru_cache(ADDRESSES)(lambda text: _within(address_of(text), proxies)))
    return _known[1](peer)


_known: tuple[tuple[Network, ...], Callable[[str], bool]] = ((), lambda _peer: False)


def _within(address: Address | None, networks: tuple[Network, ...]) -> bool:
    return address is not None and any(address in network for network in networks)
