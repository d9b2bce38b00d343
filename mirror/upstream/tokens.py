"""Token answers (distribution-spec's token specification, "Token Response Fields"), read with distrust."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

DEFAULT_LIFE = 60.0  # seconds; the specification's value where `expires_in` is missing
LONGEST_LIFE = 12 * 3600.0  # seconds; what ECR gives. A refused token is renewed at once in any case
MARGIN = 10.0  # seconds before its end that a token is renewed, or a tenth of its life if that is less
TOKEN_LIMIT = 48 << 10  # characters; more does not fit into a header anywhere

_TOKEN = re.compile(r"[\x21-\x7e]+\Z")  # nothing that ends a header line
_FRACTION = re.compile(r"(\.\d{6})\d+")  # Go writes nanoseconds


class TokenError(ValueError):
    """Not the answer of a token server; `str()` says why, without any of it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; times as in `loop.time()`."""

    value: str = field(repr=False)
    obtained: float
    renew_at: float

    def usable(self, now: float) -> bool:
        """Whether it is far enough from its end."""
        return now < self.renew_at


def parse(body: bytes, now: float, wall: datetime) -> Token:
    """The token in a token server's answer; `now` as in `loop.time()`, `wall` the server's clock (its Date).

    `access_token` goes before `token`. Raises TokenError.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TokenError("its answer is not JSON") from error
    if not isinstance(answer, dict):
        raise TokenError("its answer is not a JSON object")
    value = answer.get("access_token") or answer.get("token")
    if not isinstance(value, str):
        raise TokenError("its answer has no token")
    if len(value) > TOKEN_LIMIT or _TOKEN.match(value) is None:
        raise TokenError("its token cannot be sent in a header")
    life = _life(answer.get("expires_in"))
    left = life - _age(answer.get("issued_at"), wall, life)
    return Token(value, now, now + left - min(MARGIN, life / 10))


def _life(expires_in: Any) -> float:
    """Seconds; the default for what is no positive number."""
    if isinstance(expires_in, str) and expires_in.isascii() and expires_in.isdigit():
        expires_in = float(expires_in[:12])
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or not expires_in >= 1:
        return DEFAULT_LIFE
    return float(min(expires_in, LONGEST_LIFE))


def _age(issued_at: Any, wall: datetime, life: float) -> float:
    """Seconds that the token had lived when it was sent, at most half its life.

    More than that is a wrong clock, and believing it would mean one exchange for every request.
    """
    if not isinstance(issued_at, str):
        return 0.0
    try:
        issued = datetime.fromisoformat(_FRACTION.sub(r"\1", issued_at))
        age = wall - issued
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return 0.0
    return min(max(age, timedelta(0)).total_seconds(), life / 2)
