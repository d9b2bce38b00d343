"""Where a redirect leads, and what goes along. Followed by hand, because a library forgets rules like these.

1. At most MAX_REDIRECTS, and never to a URL that was asked already.
2. To another origin (scheme, host and port) goes only what says which bytes are wanted: Range and Accept.
   Authorization and the configured headers stay with the origin they were made for: blob storage must not
   see them, and some refuse a request that has both a signature and a token.
3. Never from https to http.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yarl import URL

from mirror.upstream.failures import TransportError, Trouble

MAX_REDIRECTS = 5  # Docker Hub and registry.k8s.io need two
STATUSES = frozenset({301, 302, 303, 307, 308})

_PUBLIC = frozenset({"accept", "range"})  # headers that any host may see


@dataclass(frozen=True, slots=True)
class Hop:
    """A request's target and headers, and the URLs that were asked on the way to it."""

    url: URL
    headers: Mapping[str, str]
    trail: tuple[URL, ...] = ()

    @property
    def elsewhere(self) -> bool:
        """Whether another origin than the first one is asked now."""
        return bool(self.trail) and origin(self.trail[0]) != origin(self.url)


def as_written(text: str) -> URL:
    """A URL that an upstream wrote: signatures cover its spelling, so only what is no URL at all is quoted.

    Raises ValueError, also later from its properties.
    """
    return URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port (RFC 6454). Raises ValueError when the URL's host or port cannot be."""
    return url.scheme, (url.host or "").lower(), url.port


def follow(hop: Hop, location: str | None) -> Hop:
    """The next request after a redirect. Raises TransportError(REDIRECT) with the reason."""
    if not location:
        raise TransportError(Trouble.REDIRECT, "it has no target")
    try:
        target = hop.url.join(as_written(location)).with_fragment(None)
        there = origin(target)
    except ValueError as error:
        raise TransportError(Trouble.REDIRECT, "its target is not a URL") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise TransportError(Trouble.REDIRECT, "its target is not on the web")
    if hop.url.scheme == "https" and target.scheme == "http":
        raise TransportError(Trouble.REDIRECT, "it leads from https to http")
    trail = (*hop.trail, hop.url)
    if target in trail:
        raise TransportError(Trouble.REDIRECT, "it goes round in circles")
    if len(trail) > MAX_REDIRECTS:
        raise TransportError(Trouble.REDIRECT, f"it is one of more than {MAX_REDIRECTS}")
    headers = hop.headers
    if there != origin(hop.url):
        headers = {name: value for name, value in headers.items() if name.lower() in _PUBLIC}
    return Hop(target, headers, trail)
