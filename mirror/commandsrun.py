"""Runs a long operation for the command line: in the running mirror, else here; and shows what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import click

from mirror import commands, commandsask, commandstext
from mirror import log as logging
from mirror.config import Config
from mirror.explainwords import clean
from mirror.logplain import sentence
from mirror.server.control import SOCKET
from mirror.server.operations import Event

REDRAW: Final = 0.1  # seconds between two states of the line on a terminal
REPEAT: Final = 10.0  # seconds between two lines of progress elsewhere: in a file, in a cron job's mail
ERASE: Final = "\r\x1b[K"  # ECMA-48: carriage return, erase in line


def run(config: Config, operation: str, options: Mapping[str, str], *, quiet: bool = False) -> int:
    """The exit status: 1 for what somebody has to look at. Raises CommandError and AskError.

    `quiet`: nothing is shown but what is wrong.
    """
    root = commands.root_of(config)
    screen = Screen(operation, options, quiet=quiet)
    try:
        try:
            for event in commandsask.operate(root / SOCKET, operation, options):
                screen.show(event)
        except commandsask.NobodyThereError:
            logging.configure_for_people("error" if quiet else "warn", sentence, screen.remark)
            commands.become_owner(root)
            try:
                asyncio.run(_here(config, operation, options, screen.show))
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
    finally:
        screen.erase()
    return screen.end()


async def _here(
    config: Config, operation: str, options: Mapping[str, str], show: Callable[[Event], None]
) -> None:
    """Ctrl-C cancels it.

    NB: between two callbacks of the loop. asyncio's own handler cancels between any two steps of Python, also
    between those in which a future gets its result, which then fails with a traceback.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        async with contextlib.aclosing(commands.offline(config, operation, options)) as events:
            async for event in events:
                show(event)
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class Screen:
    """Items on the standard output, a line each; progress and what is wrong on the standard error."""

    def __init__(
        self,
        operation: str,
        options: Mapping[str, str],
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._operation, self._options, self._quiet = operation, options, quiet
        self._clock = clock
        self._terminal = sys.stderr.isatty()
        self._shown = clock() if not self._terminal else float("-inf")
        self._drawn = False
        self._items: Counter[str] = Counter()
        self._last: Event = {"event": "error", "error": "it ended without a result"}

    def show(self, event: Event) -> None:
        """One event of the operation."""
        if event.get("event") in ("summary", "error"):
            self._last = event
            return
        if event.get("event") in ("removed", "found"):
            self._items[str(event.get("kind") or "item")] += 1
        if self._quiet and event.get("event") != "bad":
            return
        if event.get("event") == "progress":
            self._progress(event)
        elif line := commandstext.item(event):
            self.erase()
            for each in filter(None, (line, commandstext.about(event))):
                click.echo(f"mirror: {each}" if self._quiet else each, err=self._quiet)

    def end(self) -> int:
        """Show what came of it; the exit status."""
        if self._last["event"] == "error":
            click.echo(f"mirror: {clean(str(self._last.get('error')))}", err=True)
            return 1
        line = commandstext.summary(self._operation, self._options, self._last, self._items)
        bad = commandstext.failed(self._operation, self._last, self._items)
        if bad:
            click.echo(f"mirror: {line}", err=True)
        elif not self._quiet:
            click.echo(line)
        return int(bad)

    def remark(self, text: str) -> None:
        """What the log has to say meanwhile. For any thread."""
        self.erase()
        for line in text.splitlines():
            click.echo(f"mirror: {clean(line)}", err=True)

    def erase(self) -> None:
        """Take the line of progress away, where there is one."""
        if self._drawn:
            click.echo(ERASE, err=True, nl=False)
            self._drawn = False

    def _progress(self, event: Event) -> None:
        now = self._clock()
        if now - self._shown < (REDRAW if self._terminal else REPEAT):
            return
        self._shown = now
        line = commandstext.progress(event)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            click.echo(f"{ERASE}{line[:width]}", err=True, nl=False)
            self._drawn = True
        else:
            click.echo(line, err=True)
