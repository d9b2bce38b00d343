"""Events as they are logged."""

from __future__ import annotations

from tests.server.conftest import events

__all__ = ["events"]
