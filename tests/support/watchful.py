"""`mirror serve FILE` that looks at its certificate's files twice a second.

A program of its own: a test of a renewal would wait for three looks of five seconds.
"""

from __future__ import annotations

import inspect
import sys

from mirror.cli import main
from mirror.server.certificates import Certificates

LOOK = 0.5  # seconds between two looks

if __name__ == "__main__":
    inspect.unwrap(Certificates.watched).__defaults__ = (LOOK,)
    sys.argv.insert(1, "serve")
    main()
