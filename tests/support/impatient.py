"""`mirror serve FILE` that looks after its limits all the time and spares little of what was just used.

A program of its own: a test that waits for a minute of grace would see one eviction where it needs hundreds.
"""

from __future__ import annotations

import sys

from mirror.cache import keeper, passes
from mirror.cli import main

GRACE = 0.2  # seconds that what was used stays
PASS = 0.1  # seconds between two looks

if __name__ == "__main__":
    vars(keeper).update(PASS=PASS)
    vars(passes).update(GRACE=GRACE)
    sys.argv.insert(1, "serve")
    main()
