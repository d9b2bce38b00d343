"""Which token server may be asked, and which may see the credentials (CVE-2026-33540 in distribution).

The realm of a challenge is the upstream's word. A hostile or broken-into upstream must not be able to send
the configured password to a host of its choice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from enum import Enum

from yarl import URL

from mirror.upstream import suffixes


class Verdict(Enum):
    """What may be sent to a realm."""

    TRUSTED = "credentials"
    FOREIGN = "a request without credentials"
    REFUSED = "nothing"


def judge(registry: URL, realm: str, allowed: Sequence[str]) -> Verdict:
    """What may be sent to this realm of this registry; `allowed` are hosts, with or without port.

    Trusted: the same host, the same registrable domain, or a host that is listed. Another port of the same
    host is the same machine's business (registry:3 wants the port to be equal, which shuts out test set-ups
    on localhost). Refused: what is no web address, and http where the registry is https, always.
    The first call reads the bundled suffix list: call it in a thread.
    """
    try:
        url = URL(realm)
    except ValueError:
        return Verdict.REFUSED
    if url.scheme not in ("http", "https") or not url.host or url.user is not None or url.raw_fragment:
        return Verdict.REFUSED
    if registry.scheme == "https" and url.scheme != "https":
        return Verdict.REFUSED
    same_host = _host(url) == _host(registry)
    trusted = same_host or any(_is_listed(entry, url) for entry in allowed) or _same_domain(registry, url)
    return Verdict.TRUSTED if trusted else Verdict.FOREIGN


def host_of(realm: str) -> str:
    """The realm's host, with its port when it is not the usual one: for the text that asks to allow it."""
    url = URL(realm)
    return f"{url.host}:{url.port}" if url.explicit_port and not url.is_default_port() else url.host or ""


def _host(url: URL) -> str:
    return (url.host or "").lower().rstrip(".")


def _is_listed(entry: str, url: URL) -> bool:
    """Whether `host` (any port), `host:port` or a URL of that host was configured."""
    try:
        listed = URL(entry if "://" in entry else f"//{entry}")
        port = listed.explicit_port
    except ValueError:
        return False
    return _host(listed) == _host(url) and port in (None, url.port)


def _same_domain(registry: URL, realm: URL) -> bool:
    one, other = _host(registry), _host(realm)
    if _is_address(one) or _is_address(other):
        return False
    # github.io counts as a suffix: two of its customers are two parties
    domain = suffixes.split(one, shared=True).top_domain_under_public_suffix
    return bool(domain) and domain == suffixes.split(other, shared=True).top_domain_under_public_suffix


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
