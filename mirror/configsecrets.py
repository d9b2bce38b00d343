"""What is never shown: in messages, in the log, in the printed configuration."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import PlainSerializer, SecretStr

HIDDEN: Final = "***"  # stands wherever a secret would

_SECRET_KEY = re.compile(
    r"password|secret|token|credential|connectionstring|authorization|cookie|headers\Z|.key\Z", re.I
)
_PATHS: Final = frozenset({"clientkey"})  # where a secret is, and not the secret

Secret = Annotated[SecretStr, PlainSerializer(lambda secret: HIDDEN if secret.get_secret_value() else "")]


def is_secret(key: str) -> bool:
    """Whether what stands at this key, or header name, is never shown."""
    return key not in _PATHS and _SECRET_KEY.search(key) is not None


def redacted(text: str) -> str:
    """The text without the user and password of a URL in it, and without its query, in which a token may be.

    Hides too much rather than too little.
    """
    start, end = text.find("//"), text.rfind("@")
    if 0 <= start < end:
        text = f"{text[: start + 2]}{HIDDEN}{text[end:]}"
    before, mark, _query = text.partition("?")
    return f"{before}?{HIDDEN}" if mark and "://" in before else text
