"""A busy machine is no disk that hangs."""

from __future__ import annotations

import pytest

from mirror.ledger import inventory, sqlite

PATIENT = 30.0  # seconds that all wait for the file; their real limits have their own tests


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in ((sqlite, ("READ", "OPEN", "CLOSE")), (inventory, ("ASK", "OPEN", "CLOSE"))):
        for name in names:
            monkeypatch.setattr(module, f"{name}_SECONDS", PATIENT)
