"""What a call costs the processor."""

from __future__ import annotations

import time
from collections.abc import Callable

ATTEMPTS = 3


def effort(call: Callable[[], object]) -> float:
    """Seconds of this thread's processor time, the least of some attempts.

    Python's collector runs within whatever call is under way, and takes half a second where many tests have
    left their objects; processors are slower beside others. What is quadratic is slow each time.
    """
    taken = []
    for _ in range(ATTEMPTS):
        began = time.thread_time()
        call()
        taken.append(time.thread_time() - began)
    return min(taken)
