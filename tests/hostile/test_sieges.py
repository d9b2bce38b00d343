"""The running mirror while somebody harms it: its memory stays within bounds, and others are answered.

Small numbers: `python -m tests.bench.hostile` has the large ones, and what they cost others in time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.siege import Town, besieged, town
from tests.support.procs import Workspace
from tests.support.scripted import Upstream, in_thread

MEASURED = 2.0  # seconds
PATIENT = 2.0  # seconds within which 99 of 100 are answered, on a machine that has other work to do


@pytest.fixture(scope="module", params=["plain", "tls"])
def made(request: pytest.FixtureRequest, space: Workspace) -> Iterator[Town]:
    """In front of an upstream that is not asked any more."""
    upstream = Upstream()
    tls = request.param == "tls"
    with (
        in_thread(upstream),
        town(space, upstream, f"siege-{request.param}", tls=tls, headertimeout="2s") as it,
    ):
        yield it


ATTACKS = [
    # (attack, connections, times a second, bytes of memory for each connection at most)
    ("idle", 600, 1, 200_000),
    ("halves", 300, 1, 200_000),
    ("slow", 300, 1000, 200_000),
    ("heads", 20, 100, 2_000_000),
    ("noise", 20, 100, 2_000_000),
    ("pipelines", 40, 1, 3_000_000),
    ("unread", 40, 1, 3_000_000),
    ("shakes", 20, 100, 2_000_000),
    ("hellos", 300, 1, 300_000),
]


# In TLS those to which the handshake makes a difference.
OVER = {
    "plain": [row for row in ATTACKS if row[0] not in ("shakes", "hellos")],
    "tls": [row for row in ATTACKS if row[0] in ("idle", "unread", "shakes", "hellos")],
}


@pytest.mark.parametrize(
    ("made", "attack", "count", "rate", "each"),
    [(kind, *row) for kind, rows in OVER.items() for row in rows],
    ids=[f"{kind}-{row[0]}" for kind, rows in OVER.items() for row in rows],
    indirect=["made"],
    scope="module",
)
def test_others_are_answered_and_memory_is_bounded(
    made: Town, attack: str, count: int, rate: float, each: int
) -> None:
    """And it goes on as before when it is over."""
    before = made.memory()
    with besieged(made, attack, count, rate):
        times = made.times(MEASURED)
        grown = made.memory() - before
    assert len(times.found) > 10
    assert times.share(0.99) < PATIENT
    assert grown < count * each, f"{grown / 1e6:.1f} MB more"
    made.times(0.2)
    assert [
        line for line in made.mirror.log.splitlines() if "Traceback" in line or "level=error" in line
    ] == []
