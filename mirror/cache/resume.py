"""Whether and when a fill that broke off goes on. Decides only; the waiting is done in `fill`."""

from __future__ import annotations

from mirror.registry import RateLimited, RegistryError, Unavailable

ATTEMPTS = 6  # times in a row that the upstream may break off without progress
PROGRESS = 1 << 20  # bytes that make a broken attempt count as progress
BACKOFF = 0.25  # seconds after the first break, doubled each time
BACKOFF_LIMIT = 5.0  # seconds


def backoff(error: RegistryError, breaks: int, chance: float, *, whole: bool = False) -> float | None:
    """Seconds to wait after the `breaks`-th break in a row, or None to give up; `chance` is in [0, 1).

    `whole`: there is another way to ask after this error, whatever it is.
    """
    if not (whole or isinstance(error, Unavailable | RateLimited)) or breaks >= ATTEMPTS:
        return None
    wait: float = min(BACKOFF_LIMIT, BACKOFF * 2 ** (breaks - 1)) * (0.5 + chance / 2)
    if error.retry_after is not None:
        if error.retry_after > BACKOFF_LIMIT:
            return None
        wait = max(wait, error.retry_after)
    return wait
