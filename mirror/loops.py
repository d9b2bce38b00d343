"""Which event loop the server runs on.

uvloop does the same on libuv, in compiled code: twice the small answers per second. Files leave by sendfile
on either (`server.kernel`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

try:
    import uvloop
except ImportError:  # it is not there on every platform, and need not be
    _uvloop = None
else:
    _uvloop = uvloop.new_event_loop


class NoLoopError(Exception):
    """The loop that was asked for is not there."""


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """`auto` (uvloop where it is installed), `uvloop` or `asyncio`. Raises NoLoopError."""
    if name == "asyncio" or (name == "auto" and _uvloop is None):
        return asyncio.new_event_loop
    if _uvloop is None:
        raise NoLoopError(
            "http.eventloop: uvloop is not installed: install it, or choose auto, which works without it."
        )
    return _uvloop
