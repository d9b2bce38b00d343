"""A busy machine is no disk that hangs."""

from __future__ import annotations

import pytest

from mirror.ledger import sqlite

PATIENT = 30.0  # seconds that a question waits for the file; its real limit has its own tests


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "READ_SECONDS", PATIENT)
