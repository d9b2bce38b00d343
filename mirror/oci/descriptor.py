"""Descriptors (OCI image-spec, descriptor.md)."""

from __future__ import annotations

from dataclasses import dataclass

from mirror.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is known of some content without its bytes."""

    digest: Digest
    size: int  # bytes
    media_type: str
