"""Whether the processors, and not the link, set a transfer's pace: by figures of two moments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror.cache import helpers
from mirror.cache.helpers import Look, is_busy


@pytest.mark.parametrize(
    ("loop", "process", "processors", "busy"),
    [
        (0.2, 0.3, 1, False),
        (0.71, 0.71, 1, True),
        (0.2, 0.71, 1, True),
        (0.71, 0.71, 64, True),  # the loop can have one of them
        (0.5, 1.5, 64, False),  # threads that hash and write have others
        (0.5, 44.0, 64, False),
        (0.5, 45.0, 64, True),
        (0.5, 1.3, 2, False),
        (0.5, 1.5, 2, True),
        (0.1, 0.4, 0.5, True),  # half a processor is all that the group is given
    ],
)
@pytest.mark.parametrize("seconds", [0.25, 2.0])
def test_the_loop_has_one_processor_and_the_process_all_of_them(
    loop: float, process: float, processors: float, busy: bool, seconds: float
) -> None:
    before = Look(at=10.0, received=0, held=0.0, used=100.0, wanted=50.0)
    now = Look(10.0 + seconds, 0, 0.0, 100.0 + process * seconds, 50.0 + loop * seconds)
    assert is_busy(before, now, processors) is busy


@pytest.mark.parametrize(
    ("own", "limit", "count"),
    [
        ("0::/a/b\n", "50000 100000\n", 0.5),
        ("1:cpu:/x\n0::/a/b\n", "150000 100000\n", 1.5),
        ("0::/a/b\n", "max 100000\n", 8),
        ("0::/a/b\n", "99900000 100000\n", 8),
        ("0::/a/b\n", "nonsense", 8),
        ("0::/a/b\n", "1 0", 8),
        ("0::/elsewhere\n", "50000 100000\n", 8),
        ("1:cpu:/x\n", "50000 100000\n", 8),
    ],
)
def test_the_processors_are_those_that_the_process_may_use(
    own: str, limit: str, count: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(helpers, "OWN_GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(helpers, "GROUPS", tmp_path)
    (tmp_path / "cgroup").write_text(own)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "cpu.max").write_text(limit)
    assert helpers.processors.__wrapped__() == count
