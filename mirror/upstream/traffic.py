"""What goes over the network to one upstream, in numbers: requests, answers, bytes, times."""

from __future__ import annotations

from mirror.tally import Distributions, Tally

# From a registry next door to the longest that an answer may take to begin.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
STATUSES = range(100, 600)


class Traffic:
    """Shared by all addresses of one upstream. Roles are those of `breakers.Role`."""

    def __init__(self) -> None:
        self.requests = Tally()  # role, status or trouble
        self.latency = Distributions(SECONDS)  # role: seconds from a request to the header of its answer
        self.bytes = 0  # of all bodies
        self.pulled = Tally()  # blob, manifest: bytes of bodies that were asked for

    def answered(self, role: str, status: int, seconds: float) -> None:
        """An answer began."""
        self.requests.add(role, str(status) if status in STATUSES else "other")
        self.latency.observe((role,), seconds)

    def failed(self, role: str, trouble: str) -> None:
        """None did."""
        self.requests.add(role, trouble)

    def came(self, part: bytes) -> bytes:
        """Bytes of a body came: the same."""
        self.bytes += len(part)
        return part
