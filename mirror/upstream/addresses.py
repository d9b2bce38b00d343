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

from mirror.upstream.lookups import Lookups

NOT_PUBLIC = "no public address"


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
    """Whether an address is one of the public network; True for a name, which the resolver looks at."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_global and not address.is_multicast
