"""Where upstreams are; one that only a client has named, on the public network, whatever its name says.

In the open mode a client chooses the host. A name that looks public may have a private address (by DNS of its
owner, or by a search domain), and a registry there may redirect to one, or name one as its token server: this
network is not the client's to reach through us.
"""

from __future__ import annotations

import ipaddress
import socket

from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from mirror.upstream import hosts
from mirror.upstream.lookups import Lookups

NOT_PUBLIC = "no public address"

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
# What Python's list (`is_global`) lacks, in 3.11 at least: IANA's special-purpose registries have them.
_SPECIAL = ipaddress.IPv4Network("192.0.0.0/24")  # RFC 6890; 192.0.0.192 gives one cloud's credentials
_NOT_PUBLIC = (
    _SPECIAL,
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 section 2.5.5.1
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of a network's own, RFC 8215
    ipaddress.IPv6Network("fec0::/10"),  # site-local, RFC 3879
)


class Resolver(ThreadedResolver):
    """`public_only`: those of the public network; `exempt` are hosts of proxies: these may be anywhere."""

    def __init__(self, lookups: Lookups, *, public_only: bool) -> None:
        super().__init__()
        self._lookups = lookups
        self._public_only = public_only
        self.exempt: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError when there is none that may be used."""
        found = await self._lookups.run(super().resolve(host, port, family))
        if not self._public_only or host in self.exempt:
            return found
        public = [each for each in found if is_public(each["host"])]
        if not public:
            raise OSError(f"{host} has {NOT_PUBLIC}")
        return public


def is_public(host: str) -> bool:
    """Whether an address is one of the public network; True for a name, which the resolver looks at.

    NB: aiohttp does not ask the resolver of what consists of digits and dots, and the system takes that, too,
    for an address: 127.1 and 2130706433 for 127.0.0.1. Newer versions of aiohttp refuse it; here, nothing
    that ends in a number and is no address counts as a name.
    """
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        name = host.rstrip(".").lower()
        return not hosts.is_address(name) and not name.rpartition(".")[2].isdigit()
    embedded = _embedded(address) if isinstance(address, ipaddress.IPv6Address) else None
    if any((embedded or address) in network for network in _NOT_PUBLIC):
        return False
    return (embedded or address).is_global and not address.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is reached by way of this one."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
