"""What the tests of the cache share, beside `kit`."""

from __future__ import annotations

import pytest

from mirror.cache import admission


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room waits until it is made: on a busy machine that may take more than a second.

    What comes then begins all the same, see rule 4 of `admission`; where that is tested the tests say so.
    """
    monkeypatch.setattr(admission, "ROOM", 30.0)
