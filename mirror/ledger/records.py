"""What a ledger keeps."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class TagRecord:
    """An upstream's last word about a tag: where it points, or that it is refused.

    `checked` is in seconds since the epoch (time.time()): it must hold across restarts. `refusal` is the name
    of an ErrorCode where `digest` is None, and empty otherwise.
    """

    digest: Digest | None
    checked: float
    refusal: str = ""
