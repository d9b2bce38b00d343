"""Whether a data folder can be written, found out by writing: permission bits do not tell it all."""

from __future__ import annotations

import contextlib
import os
import pwd
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Refusal:
    """A folder that takes no file, why, and whose it is."""

    folder: Path
    cause: str
    owner: int  # user number; -1 when even that cannot be told


def refusals(root: Path, below: Sequence[str]) -> list[Refusal]:
    """The first folders, of `root` and those `below` it that are there, that take no file. Blocks."""
    found = []
    for folder in (root, *(root / name for name in below)):
        if not folder.is_dir():
            continue
        probe = folder / f".tmp-{uuid.uuid4().hex}"  # a name that the driver hides and cleans
        try:
            probe.touch(exist_ok=False)
        except OSError as error:
            found.append(Refusal(folder, error.strerror or type(error).__name__, _owner(folder)))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    return found


def advice(refusal: Refusal, root: Path) -> str:
    """What to do about it, as a sentence."""
    me = os.geteuid()
    text = f"user {_name(me)} cannot write in {refusal.folder}: {refusal.cause}"
    if me in (0, refusal.owner):
        return f"{text}; that file system may be read-only or full"
    return f"{text}; it belongs to {_name(refusal.owner)}: chown -R {me} {root}, or run as its owner"


def _owner(folder: Path) -> int:
    try:
        return folder.stat().st_uid
    except OSError:
        return -1


def _name(number: int) -> str:
    try:
        return f"{pwd.getpwuid(number).pw_name} ({number})"
    except KeyError:
        return str(number)
