"""What a spool file with holes says of itself after a crash: never more than is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mirror.cache import spoolmap
from mirror.cache.spool import Spool, SpoolFile
from mirror.oci.digest import Digest

DIGEST = Digest.of(b"x")
NAME = f"sha256-{DIGEST.hex}.part"
MAP = NAME + ".map"


@pytest.fixture(autouse=True)
def _each_write_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoolmap, "NOTE", 1)


def crash(file: SpoolFile) -> None:
    """The process is gone: nothing is written any more, and the lock is free."""
    if file._map is not None:
        os.close(file._map._file)
        file._map._file = -1
        file._map = None
    file.file.close()


def there(folder: Path) -> list[tuple[int, int]]:
    file = Spool(folder).open(DIGEST)
    try:
        return list(file.there)
    finally:
        crash(file)


def test_a_file_that_grew_at_its_end_has_no_map(tmp_path: Path) -> None:
    file = Spool(tmp_path).open(DIGEST)
    file.write(0, [b"abc", b"def"])
    file.write(6, [b"ghi"])
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    crash(file)
    assert there(tmp_path) == [(0, 9)]


def test_holes_are_known_after_a_crash_and_after_another(tmp_path: Path) -> None:
    file = Spool(tmp_path).open(DIGEST)
    file.write(0, [b"x" * 10])
    file.write(100, [b"x" * 10])
    file.write(10, [b"x" * 5])
    crash(file)
    assert there(tmp_path) == [(0, 15), (100, 110)]
    file = Spool(tmp_path).open(DIGEST)
    file.write(110, [b"x" * 5])
    file.write(200, [b"x"])
    crash(file)
    assert there(tmp_path) == there(tmp_path) == [(0, 15), (100, 115), (200, 201)]


def test_a_file_without_holes_needs_no_map_any_more(tmp_path: Path) -> None:
    file = Spool(tmp_path).open(DIGEST)
    file.write(10, [b"x" * 10])
    file.write(0, [b"x" * 10])
    crash(file)
    assert there(tmp_path) == [(0, 20)]
    assert not (tmp_path / MAP).exists()
    assert (tmp_path / NAME).stat().st_size == 20


def test_what_was_written_and_is_in_no_line_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolmap, "NOTE", 1000)
    file = Spool(tmp_path).open(DIGEST)
    file.write(0, [b"x" * 10])
    file.write(100, [b"x" * 10])
    crash(file)
    assert there(tmp_path) == [(0, 10)]
    assert (tmp_path / NAME).stat().st_size == 10, "nothing behind it may be taken for right later"
    file = Spool(tmp_path).open(DIGEST)
    file.write(100, [b"x" * 10])
    file.close()
    assert there(tmp_path) == [(0, 10), (100, 110)], "closing writes it down"


def test_a_map_that_was_cut_off_anywhere_says_less_and_never_more(tmp_path: Path) -> None:
    file = Spool(tmp_path).open(DIGEST)
    right = set[int]()
    for start in (0, 1000, 300, 12345, 1010):
        file.write(start, [b"x" * 10])
        right |= set(range(start, start + 10))
    crash(file)
    whole, size = (tmp_path / MAP).read_bytes(), (tmp_path / NAME).stat().st_size
    inode = (tmp_path / NAME).stat().st_ino
    for cut in range(len(whole) + 1):
        (tmp_path / MAP).write_bytes(whole[:cut])
        found = spoolmap.read(tmp_path / NAME, inode, size)
        assert found is not None
        assert {each for start, stop in found for each in range(start, stop)} <= right
        (tmp_path / MAP).write_bytes(whole[:cut] + b"\n20 30\n")
        right_then = right | set(range(20, 30))
        found = spoolmap.read(tmp_path / NAME, inode, size)
        assert found is not None
        assert {each for start, stop in found for each in range(start, stop)} <= right_then


@pytest.mark.parametrize("spoilt", ["boot", "file", "text", "empty", "no boot"])
def test_a_map_that_may_be_wrong_is_not_believed_nor_is_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    file = Spool(tmp_path).open(DIGEST)
    file.write(0, [b"x" * 10])
    file.write(100, [b"x" * 10])
    crash(file)
    if spoilt == "boot":
        (tmp_path / "boot").write_text("another")
        monkeypatch.setattr(spoolmap, "BOOT", tmp_path / "boot")
    elif spoilt == "no boot":
        monkeypatch.setattr(spoolmap, "BOOT", tmp_path / "none")
    elif spoilt == "file":
        (tmp_path / "copy").write_bytes((tmp_path / NAME).read_bytes())
        (tmp_path / "copy").rename(tmp_path / NAME)
    else:
        (tmp_path / MAP).write_bytes(b"" if spoilt == "empty" else b"\xff\x00 1 2\n0 110\n")
    assert there(tmp_path) == []
    assert not (tmp_path / MAP).exists()
    assert (tmp_path / NAME).stat().st_size == 0


def test_a_number_without_end_is_none(tmp_path: Path) -> None:
    """Python refuses to read one of more than 4,300 digits."""
    file = Spool(tmp_path).open(DIGEST)
    file.write(0, [b"x" * 10])
    file.write(100, [b"x" * 10])
    crash(file)
    with (tmp_path / MAP).open("a") as lines:
        lines.write("20 " + "9" * 5000 + "\n")
    assert there(tmp_path) == [(0, 10), (100, 110)]


def test_a_crash_between_any_two_steps_of_emptying_or_removing_leaves_nothing_that_is_believed(
    tmp_path: Path,
) -> None:
    file = Spool(tmp_path).open(DIGEST)
    file.write(100, [b"x" * 10])
    crash(file)
    kept = (tmp_path / MAP).read_bytes()
    os.truncate(tmp_path / NAME, 0)  # emptied, and its map is still there
    assert there(tmp_path) == []
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).touch()  # removed, and its map is still there; a new file may have the old one's number
    inode = (tmp_path / NAME).stat().st_ino
    (tmp_path / MAP).write_bytes(kept.replace(kept.split()[4], b"%d" % inode))
    assert there(tmp_path) == []


def test_the_map_goes_with_its_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    file = spool.open(DIGEST)
    file.write(100, [b"x"])
    assert (tmp_path / MAP).exists()
    file.unlink()
    assert list(tmp_path.iterdir()) == []
    file.close()
    file = spool.open(DIGEST)
    file.write(100, [b"x"])
    file.truncate()
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    file.write(50, [b"x"])
    file.close()
    assert there(tmp_path) == [(50, 51)]


def test_the_sweep_and_the_want_of_room_take_both(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in range(2):
        file = spool.open(Digest.of(b"%d" % number))
        file.write(1 << 20, [b"x"])
        file.close()
    (tmp_path / "sha256-00.part.map").write_text("left by a crash")
    assert spool.shed(1)[0] == 1
    removed = spool.sweep(older_than=-1.0, now=time.time() + 10)
    assert [name.endswith(".map") for name in removed] == [False, True]
    assert list(tmp_path.iterdir()) == []


def test_what_a_file_with_holes_takes_of_the_disk_is_what_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    file = spool.open(DIGEST)
    file.write(100 << 20, [b"x" * 8192])
    os.fsync(file.file.fileno())
    assert 8192 <= spool.sizes()[DIGEST] <= 64 << 10
    file.close()


def test_a_private_file_is_never_gone_on_with_and_has_no_map(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first, second = spool.open(DIGEST), spool.open(DIGEST)
    second.write(100, [b"x"])
    assert [path for path in tmp_path.iterdir() if path.suffix == ".map"] == []
    first.close()
    second.close()
