"""`mirror serve FILE` that looks after its limits all the time and spares little of what was just used, and
that fetches every blob over several connections which is large enough, and takes longer than a moment.

A program of its own: a test that waits for a minute of grace would see one eviction where it needs hundreds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mirror.cache import helpers, keeper, passes, spoolmap
from mirror.cli import main

GRACE = 0.2  # seconds that what was used stays
PASS = 0.1  # seconds between two looks
TICK = 0.01  # seconds until further connections are opened
NOTE = 1 << 10  # bytes that came and are lost in a crash


def segments(put: Callable[[object, str, float], None]) -> None:
    """Further connections are opened soon, and whatever the pace. `put`: setattr, or one that is undone."""
    for name, value in {"TICK": TICK, "WORTH": 0.0, "FAST": 1e12, "BUSY": 1e9}.items():
        put(helpers, name, value)


if __name__ == "__main__":
    vars(keeper).update(PASS=PASS)
    vars(passes).update(GRACE=GRACE)
    segments(setattr)
    vars(spoolmap).update(NOTE=NOTE)
    sys.argv.insert(1, "serve")
    main()
