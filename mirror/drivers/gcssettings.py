"""What the driver for Google Cloud Storage is told: registry:2's parameters, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ENDPOINT = "https://storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class GcsSettings:
    """`key`: a service account's, as its JSON file has it; without it Google's own chain is asked."""

    bucket: str
    key: Mapping[str, object] = field(default_factory=dict, repr=False)
    endpoint: str = ENDPOINT  # another one, such as an emulator's, is asked without a login
    root: str = ""  # what all names begin with, without slashes at its ends
    part_size: int = 16 << 20  # bytes; a multiple of 256 KiB
    connections: int = 50  # requests at a time; more wait
    user_agent: str = ""
