"""What the measurements write into docs/performance.md: the part between two markers, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
FILE = DOCS / "performance.md"


def replace(part: str, text: str) -> None:
    """Put `text` between `<!-- part -->` and `<!-- /part -->`."""
    begin, end = f"<!-- {part} -->", f"<!-- /{part} -->"
    before, found, rest = FILE.read_text().partition(begin)
    assert found, f"{FILE.name} has no {begin}"
    _, found, after = rest.partition(end)
    assert found, f"{FILE.name} has no {end}"
    FILE.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(folder: Path) -> str:
    """Its cores, and the kind of disk that the folder is on."""
    return f"{os.cpu_count()} cores, {_disk(folder)}"


def _disk(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = {Path(mount[1]): mount[2] for mount in mounts}
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if each in above)
    device = folder.stat().st_dev
    rotational = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/queue/rotational")
    if not rotational.exists():
        return above[place]
    turns = rotational.read_text().strip() == "1"
    return f"{'a disk that reports itself as rotating' if turns else 'an SSD'}, {above[place]}"
