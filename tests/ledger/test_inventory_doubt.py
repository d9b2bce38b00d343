"""What was perhaps done, and what was done by halves: nobody is told less than is so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.ledger import asks
from mirror.ledger import inventory as module
from mirror.ledger.decision import Decision, LeftError
from mirror.ledger.facts import Dropped
from mirror.ledger.inventory import Inventory, NotKept, SurveyLost
from mirror.ledger.rows import Rows
from tests.ledger.inventorykit import APP, T0, Tree, digest, pull, running

WAITS = 30.0  # seconds; longer than any of this takes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inventory.sqlite"


async def surveyed(inventory: Inventory) -> None:
    await inventory.begin_survey(T0)
    await Tree().add("i", "a", tag="1").show(inventory)
    await inventory.end_survey()


class Gate:
    """`drop_image` waits behind it, after all that it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        drop = asks.drop_image

        def slow(rows: Rows, repository: str, digest: bytes, unused_since: float) -> Dropped | None:
            dropped = drop(rows, repository, digest, unused_since)
            self.reached.set()
            assert self.opened.wait(WAITS)
            return dropped

        monkeypatch.setattr(asks, "drop_image", slow)


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_drop_whose_answer_nobody_waits_for_any_more_is_not_done(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    async with running(path) as inventory:
        await surveyed(inventory)
        await inventory.flush()
        gate = Gate(monkeypatch)
        if is_cancelled:
            doing = asyncio.create_task(inventory.drop_image(APP, digest("i")))
            await asyncio.to_thread(gate.reached.wait, WAITS)
            doing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await doing
        else:
            monkeypatch.setattr(module, "ASK_SECONDS", 0.02)
            with pytest.raises(NotKept, match="does not answer"):
                await inventory.drop_image(APP, digest("i"))
            monkeypatch.setattr(module, "ASK_SECONDS", WAITS)
        gate.opened.set()
        assert await inventory.images(APP) == [digest("i")]
        assert inventory.complete


async def test_a_drop_that_was_done_though_no_answer_came_puts_the_inventory_in_doubt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the disk hangs in the very last step."""
    async with running(path) as inventory:
        await surveyed(inventory)
        await inventory.flush()
        made, opened, make = threading.Event(), threading.Event(), Decision.make

        def slow(decision: Decision) -> None:
            make(decision)
            made.set()
            assert opened.wait(WAITS)

        monkeypatch.setattr(Decision, "make", slow)
        doing = asyncio.create_task(inventory.drop_image(APP, digest("i")))
        await asyncio.to_thread(made.wait, WAITS)
        doing.cancel()
        opened.set()
        with pytest.raises(asyncio.CancelledError):
            await doing
        assert not inventory.complete
        assert await inventory.images(APP) == []
    async with running(path) as inventory:
        assert not inventory.complete
        await surveyed(inventory)
        assert await inventory.images(APP) == [digest("i")]


async def test_a_survey_begins_again_when_what_it_was_told_to_be_gone_was_not_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take the image, which is there, for one that was deleted while it went on."""
    async with running(path) as inventory:
        await surveyed(inventory)
        await inventory.begin_survey(T0)
        gate = Gate(monkeypatch)
        monkeypatch.setattr(module, "ASK_SECONDS", 0.02)
        with pytest.raises(NotKept):
            await inventory.drop_image(APP, digest("i"))
        monkeypatch.setattr(module, "ASK_SECONDS", WAITS)
        gate.opened.set()
        with pytest.raises(SurveyLost):
            await inventory.end_survey()
        await surveyed(inventory)
        assert await inventory.images(APP) == [digest("i")]


async def test_in_doubt_it_is_not_complete_and_nothing_else_is_lost(path: Path) -> None:
    async with running(path) as inventory:
        await surveyed(inventory)
        pull(inventory, "j", "b")
        inventory.doubt("a test")
        assert not inventory.complete
        assert await inventory.flush()
        assert not inventory.complete
        assert await inventory.images(APP) == [digest("i"), digest("j")]
    async with running(path) as inventory:
        assert not inventory.complete


@pytest.mark.parametrize(
    ("turns", "was_made"), [((Decision.make, Decision.leave), True), ((Decision.leave, Decision.make), False)]
)
def test_a_decision_is_made_or_left_whichever_comes_first(
    turns: tuple[Callable[[Decision], bool | None], ...], *, was_made: bool
) -> None:
    decision = Decision()
    turns[0](decision)
    if was_made:
        assert turns[1](decision)
    else:
        with pytest.raises(LeftError):
            turns[1](decision)
