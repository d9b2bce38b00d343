"""Small requests to addresses that an operator has configured beside the upstreams: checks and notifications.

1. Configured headers may hold a login: they go to the configured origin, never along a redirect to another.
2. No redirect takes a body from https to http: events say who has pulled what.
3. An answer is its status: of the body a bounded part is read, so that the connection can be used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

import aiohttp
from yarl import URL

BODY_LIMIT = 64 << 10  # bytes of an answer that are read
HOPS = 5  # redirects that are followed
FOLLOWED_BY_POST = frozenset({307, 308})  # those after which a body is sent again (RFC 9110 §15.4)
FOLLOWED_BY_HEAD = frozenset({301, 302, 303, 307, 308})

Headers = Iterable[tuple[str, str]]


class OutgoingError(Exception):
    """No answer came; the text says why, without the URL's query."""


def session(user_agent: str) -> aiohttp.ClientSession:
    """For such requests. As in the registry, HTTP_PROXY and its like count; no cookies are kept."""
    return aiohttp.ClientSession(
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"User-Agent": user_agent},
        timeout=aiohttp.ClientTimeout(total=None),  # `ask` keeps the time
    )


async def ask(
    client: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Headers = (),
    body: bytes | None = None,
    content_type: str = "",
    timeout: float,
    followed: Collection[int],
) -> int:
    """The status of the final answer, within `timeout` seconds in all. Raises OutgoingError."""
    own = list(headers)
    always = [("Content-Type", content_type)] if content_type else []
    try:
        here = start = URL(url)
        async with asyncio.timeout(timeout):
            for _ in range(HOPS + 1):
                sent = always + (own if here.origin() == start.origin() else [])
                async with client.request(
                    method, here, headers=sent, data=body, allow_redirects=False
                ) as response:
                    await response.content.read(BODY_LIMIT)
                    location = response.headers.get("Location")
                    if response.status not in followed or location is None:
                        return response.status
                    before, here = here, here.join(URL(location))
                    if here.scheme not in ("http", "https") or not here.host:
                        raise OutgoingError(f"it answered {response.status} with a Location that is no URL")
                    if body is not None and (before.scheme, here.scheme) == ("https", "http"):
                        raise OutgoingError(f"it answered {response.status}, from https to http")
    except TimeoutError as error:
        raise OutgoingError(f"no answer within {timeout:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise OutgoingError(_cause(error)) from error
    raise OutgoingError(f"it redirects more than {HOPS} times")


def _cause(error: Exception) -> str:
    """Of an exception whose own text may hold the URL, and with it a secret."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or type(error.os_error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"the request failed: {type(error).__name__}"
