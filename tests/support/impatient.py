"""`mirror serve FILE` that looks after its limits all the time and spares little of what was just used, and
that fetches every blob over several connections which is large enough, and takes longer than a moment.

A program of its own: a test that waits for a minute of grace would see one eviction where it needs hundreds.
"""

from __future__ import annotations

import sys

from mirror.cache import helpers, keeper, passes, spoolmap
from mirror.cli import main

GRACE = 0.2  # seconds that what was used stays
PASS = 0.1  # seconds between two looks
TICK = 0.01  # seconds until further connections are opened
NOTE = 1 << 10  # bytes that came and are lost in a crash

if __name__ == "__main__":
    vars(keeper).update(PASS=PASS)
    vars(passes).update(GRACE=GRACE)
    vars(helpers).update(TICK=TICK, WORTH=0.0, BUSY=1e9)
    vars(spoolmap).update(NOTE=NOTE)
    sys.argv.insert(1, "serve")
    main()
