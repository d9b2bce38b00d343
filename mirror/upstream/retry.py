"""Whether and when a request is sent again. Decides only; the waiting is done in `fetch`."""

from __future__ import annotations

import email.utils
from datetime import datetime
from http import HTTPStatus

LONGEST_WAIT = 5.0  # seconds of Retry-After that a client is made to wait for; a longer one is passed on
BUDGET = 20.0  # seconds from the first attempt, after which no further one starts: clients give up at 30
TROUBLE_BASE = 0.1  # seconds; with two retries a refusing upstream costs 0.3 s at most, 0.7 s with three
STATUS_BASE = 0.5  # seconds; a server that answers 5xx wants a little rest
CAP = 4.0  # seconds, the longest back-off
RETRY_AFTER_LIMIT = 86400.0  # seconds; nobody is told to wait for longer than a day

RETRIED = frozenset({500, 502, 503, 504})


def decide(
    attempt: int,
    status: int | None,
    *,
    worth: bool,
    wait: float | None,
    elapsed: float,
    retries: int,
    chance: float,
) -> float | None:
    """Seconds to wait before the next attempt, or None: this outcome is final.

    `attempt` counts from 0; `status` is the answer's, None when none came, and then `worth` says whether
    that kind of trouble passes; `wait` is its Retry-After; `elapsed` counts from the first attempt;
    `chance` is from [0, 1): full jitter, so that many mirrors do not come back together.
    """
    if attempt >= retries or elapsed > BUDGET or (wait is not None and wait > LONGEST_WAIT):
        return None
    if status is None:
        return chance * min(CAP, TROUBLE_BASE * 2**attempt) if worth else None
    backoff = chance * min(CAP, STATUS_BASE * 2**attempt)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        # Every further request uses up what is left of the quota: only an explicit invitation, and once.
        return max(wait, backoff) if wait is not None and attempt == 0 else None
    return max(wait or 0.0, backoff) if status in RETRIED else None


def retry_after(text: str | None, now: datetime) -> float | None:
    """Retry-After as seconds from now, 0 to a day (RFC 9110 §10.2.3: seconds or a date); None if unusable."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), RETRY_AFTER_LIMIT)
    try:
        moment = email.utils.parsedate_to_datetime(text)
        seconds = (moment - now).total_seconds()
    except (ValueError, TypeError, OverflowError):  # no date, or one without a zone
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_LIMIT)
