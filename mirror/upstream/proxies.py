"""Which proxy a request goes through: the upstream's own, else by HTTP_PROXY, HTTPS_PROXY and
NO_PROXY as registry:2 (Go) reads them.

Not `trust_env` of the HTTP library: that reads ~/.netrc as well, whose credentials belong to nobody here,
and knows no address ranges in NO_PROXY. Source: golang.org/x/net/http/httpproxy, documentation of Config.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is for its Proxy-Authorization, empty where there is none."""

    url: URL
    authorization: str = field(default="", repr=False)


DIRECT = "direct"  # in place of a proxy's URL: none, whatever the environment says


def proxy_for(url: URL, environ: Mapping[str, str], configured: str = "") -> Proxy | None:
    """The proxy for this URL, None for the direct way. What is `configured` replaces the environment.

    Raises ValueError when a value is no http(s) URL; the text says where it stands, without it.
    """
    if configured:
        return None if configured == DIRECT else parse(configured, "the configured proxy")
    variable = "HTTPS_PROXY" if url.scheme == "https" else "HTTP_PROXY"
    value = environ.get(variable) or environ.get(variable.lower()) or ""
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    return parse(value, variable) if value and not _is_direct(url, no_proxy) else None


def parse(value: str, what: str) -> Proxy:
    """A proxy as it is written: `http(s)://[user:password@]host:port`, without a scheme http.

    Raises ValueError, whose text calls the value `what`: it may hold a password.
    """
    try:
        proxy = URL(value if "://" in value else f"http://{value}")
    except ValueError:
        raise ValueError(f"{what} is not a URL") from None
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise ValueError(f"{what} is not the URL of an HTTP proxy")
    bare = proxy.with_user(None).with_path("/")
    if not proxy.user:
        return Proxy(bare)
    login = f"{proxy.user}:{proxy.password or ''}".encode()
    return Proxy(bare, "Basic " + base64.b64encode(login).decode())


def _is_direct(url: URL, no_proxy: str) -> bool:
    host = (url.host or "").lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    entries = (entry.strip().lower() for entry in no_proxy.split(","))
    return any(_matches(entry, host, url.port, address) for entry in entries if entry)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _matches(
    entry: str,
    host: str,
    port: int | None,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    """One entry: `*`, address, range, `domain` (with all below it), `.domain` or `*.domain` (below it)."""
    if entry == "*":
        return True
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, digits = entry.rpartition(":")
    if colon and digits.isdigit() and _address(entry) is None:
        if int(digits) != port:
            return False
        entry = name
    if address is not None:
        return _address(entry) == address
    entry = entry.removeprefix("*")
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")
