"""The secrets of one upstream, so that none of its texts can tell them to a client or the log.

Some registries, and more of the proxies before them, repeat the request in an error: headers and all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote_plus

from cachetools import LRUCache

from mirror.upstream import proxies
from mirror.upstream.credentials import Credentials
from mirror.upstream.settings import Settings

LATEST = 64  # secrets that were given out last; a helper has new ones now and then
SHORTEST = 6  # characters of a header's value that may be a secret; `1` or `yes` would stand in many a text

TEXT_LIMIT = 8 << 10  # characters; a longer message is not worth looking through

# A scheme and what follows it, except where that makes it plain prose ("bearer token required").
_CREDENTIALS = re.compile(
    r"(?i)\b(?:basic|bearer)\s+(?!auth|challenge|credential|realm|scheme|token)[\w.~+/=-]{4,}"
)


class Confidential:
    """What is sent in confidence. Case does not count: some servers write all headers small."""

    def __init__(self, settings: Settings) -> None:
        secrets = [value.strip() for value in settings.headers.values()]
        secrets = [value.lower() for value in secrets if len(value) >= SHORTEST]
        if settings.http_proxy and settings.http_proxy != proxies.DIRECT:
            proxy = proxies.parse(settings.http_proxy, "the configured proxy")
            word = proxy.authorization.removeprefix("Basic ")
            password = base64.b64decode(word).decode().partition(":")[2]
            secrets += [secret.lower() for secret in (word, password) if secret]
        self._fixed = tuple(secrets)
        self._latest: LRUCache[str, None] = LRUCache(LATEST)

    def learn(self, credentials: Credentials) -> None:
        """These are given out now."""
        word, token = credentials.basic.removeprefix("Basic "), credentials.identity_token
        for secret in (credentials.password, word, token, quote_plus(token)):
            if secret:
                self._latest[secret.lower()] = None

    def is_told(self, text: str, tokens: Iterable[str]) -> bool:
        """Whether a text has a secret in it, or one of these tokens, or what looks like credentials."""
        if len(text) > TEXT_LIMIT or _CREDENTIALS.search(text):
            return True
        lowered = text.lower()
        return any(secret in lowered for secret in (*self._fixed, *self._latest)) or any(
            token in text for token in tokens
        )
