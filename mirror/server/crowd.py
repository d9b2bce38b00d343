"""How many connections each client has, by the address of the other side as the kernel tells it.

What a proxy says of whom it asks for is not looked at: it stands in a request, and the connection is there
before. So proxies that are trusted (`http.trustedproxies`), and everyone at a Unix socket, are not counted:
they have to bound their own clients.
"""

from __future__ import annotations

import asyncio
import ipaddress

from mirror.server.forwarded import Network, address_of, is_trusted

# Bits of an IPv6 address that are one client's: whoever has one has as a rule all of these.
V6_CLIENT = 64


class Crowd:
    """Counts. `most` for each client; not for `exempt`."""

    def __init__(self, most: int, exempt: tuple[Network, ...]) -> None:
        self.most = most
        self._exempt = exempt
        self._counts: dict[str, int] = {}

    def enter(self, transport: asyncio.BaseTransport) -> str | None:
        """By what name the client is counted, "" where he is not; None: he has as many as he may."""
        peer = transport.get_extra_info("peername")
        if not isinstance(peer, tuple | list) or is_trusted(transport, self._exempt):
            return ""
        name = client_of(str(peer[0]))
        count = self._counts.get(name, 0)
        if count >= self.most:
            return None
        self._counts[name] = count + 1
        return name

    def leave(self, name: str) -> None:
        """One connection less; "" is taken."""
        count = self._counts.get(name, 0)
        if count > 1:
            self._counts[name] = count - 1
        else:
            self._counts.pop(name, None)

    def __len__(self) -> int:
        return len(self._counts)


def client_of(text: str) -> str:
    """`192.0.2.1` -> itself, also in IPv6's form; `2001:db8::1` -> `2001:db8::/64`."""
    address = address_of(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, V6_CLIENT), strict=False))
    return str(address) if address is not None else text
