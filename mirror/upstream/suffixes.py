"""The public suffix list: the endings below which anybody can have a name (`com`, `co.uk`, `github.io`).

The copy that comes with the library: no look-up over the network, no cache folder.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tldextract import ExtractResult, TLDExtract


def split(host: str, *, shared: bool = False) -> ExtractResult:
    """Its public suffix and its registrable domain, "" each where it has none.

    `shared`: endings that a company gives away below its own domain, such as github.io, are suffixes too.
    The first call blocks for 0.1 s: make it in a thread, or before anybody waits.
    """
    return _list()(host, include_psl_private_domains=shared)


@lru_cache(maxsize=1)
def _list() -> TLDExtract:
    # Imported here, as it brings an HTTP client with it: 80 ms of each start, with 30 ms for the list, and
    # many a mirror is never asked.
    import tldextract

    return tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
