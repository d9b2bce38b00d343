"""Which tests run beside others where pytest has several workers (`-n 3`, pytest-xdist), and which run alone.

Files are handed to the workers whole. Those that run alone come last, one after the other on one worker, when
the others have ended: they measure a few milliseconds.

Nothing is shared but the processors: each worker has servers, ports (procs.free_port) and folders of its own,
and a daemon has no network. What a server needs to be installed is installed once, behind a lock.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# The beginnings of their names.
ALONE = ("tests/bench/test_link.py", "tests/wire/test_outages.py")
# What takes longest begins first: the container image is built from nothing. Small files fill the end.
FIRST = (
    "tests/image/",
    "tests/clients/test_pulls.py",
    "tests/bench/test_side_by_side.py",
    "tests/wire/",
    "tests/clients/",
    "tests/hostile/",
    "tests/drivers/",
)

_LAST = "alone"  # the name of the one unit of work that ALONE is


class AloneLast(LoadFileScheduling):
    """pytest-xdist's own distribution by files, but for those of ALONE.

    NB: a worker does not begin its last test before it has another, or is told to end.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _LAST if nodeid.startswith(ALONE) else super()._split_scope(nodeid)

    def _reschedule(self, node: WorkerController) -> None:
        """Until it has a test to do and another, or is told to end; or has to wait."""
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            if self._only_last() and len(self.nodes) > 1:
                self._stop_all_but_one(node)
                return
            super()._reschedule(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self._only_last() and len(self.nodes) > 1:
            self._stop_all_but_one(node)
            return
        for scope in sorted(self.workqueue, key=_turn):
            self.workqueue.move_to_end(scope)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """It has ended: what it has not done is anybody's. The test in which it died, if it did.

        NB: that test is not tried again; and what is done is not given out again, after which pytest-xdist's
        own would wait for ever.
        """
        left = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        crashed: str | None = None
        if left:
            scope, unit = next(iter(left.items()))
            crashed = next(test for test, done in unit.items() if not done)
            unit[crashed] = True
            if all(unit.values()):
                del left[scope]
        self.workqueue.update(left)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _only_last(self) -> bool:
        return list(self.workqueue) == [_LAST]

    def _stop_all_but_one(self, node: WorkerController) -> None:
        """This one ends when it has done what it has, unless all others do so already; then it waits."""
        if any(other is not node and not other.shutting_down for other in self.nodes):
            node.shutdown()


def _turn(scope: str) -> int:
    """In the order of FIRST, then as they come, then the last."""
    if scope == _LAST:
        return len(FIRST) + 1
    return next((at for at, name in enumerate(FIRST) if scope.startswith(name)), len(FIRST))
