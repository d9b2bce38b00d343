"""What makes the process pause for all clients, and can be made shorter: Python's collector."""

from __future__ import annotations

import gc


def shorten() -> None:
    """To be called once, when all is set up.

    What is there by then stays, and is not looked through again and again: 70,000 objects, mostly of the
    libraries, which took 15 ms each time.

    NB: `sys.setswitchinterval` stays as it is. With less than 5 ms the threads that hash and write take the
    interpreter from the event loop more often, and keep it while they themselves wait for a processor.
    """
    gc.collect()
    gc.freeze()
