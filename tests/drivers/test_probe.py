"""Whether a data folder can be written is found out by writing, and said in words that help."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mirror.drivers import probe


def test_folders_that_take_a_file_are_not_reported_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    assert probe.refusals(tmp_path, ("docker", "not-there")) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["docker"]


def test_a_folder_that_takes_none_is_reported_with_its_cause_and_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").mkdir()
    touch = Path.touch

    def refuse(self: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        if self.parent.name == "docker":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        touch(self, mode, exist_ok)

    monkeypatch.setattr(Path, "touch", refuse)
    (found,) = probe.refusals(tmp_path, ("docker",))
    assert (found.folder, found.cause) == (tmp_path / "docker", "Read-only file system")
    assert found.owner == os.getuid()


def test_the_advice_is_chown_only_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = probe.Refusal(Path("/d/docker"), "Permission denied", 0)
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    assert "chown -R 65532 /d" in probe.advice(refusal, Path("/d"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "chown" not in probe.advice(refusal, Path("/d"))
    assert "read-only or full" in probe.advice(refusal, Path("/d"))
