"""The commands without a running mirror, on a real tree: what they delete, and what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mirror import log
from mirror.cli import cli
from mirror.drivers.base import StorageDriver
from mirror.store.tree import Tree
from tests.cli.kit import data_folder

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = 1.7e9  # seconds since the epoch
SMALL, SHARED = b"small" * 100, b"shared" * 1000
LAYER = "application/vnd.oci.image.layer.v1.tar"


class Folder:
    """distribution's tree, as registry:2 has left it some time ago."""

    def __init__(self, root: Path) -> None:
        self._tree = root / "docker" / "registry" / "v2"
        self._tree.mkdir(parents=True)

    def blob(self, data: bytes) -> Path:
        """Write a blob's data."""
        digest = hashlib.sha256(data).hexdigest()
        return self._write(f"blobs/sha256/{digest[:2]}/{digest}/data", data)

    def image(self, repository: str, tag: str, *layers: bytes) -> str:
        """Write an image; its digest."""
        parts = [json.dumps({"tag": tag}).encode(), *layers]
        named = [
            {"mediaType": LAYER, "size": len(part), "digest": f"sha256:{hashlib.sha256(part).hexdigest()}"}
            for part in parts
        ]
        manifest = {"schemaVersion": 2, "config": named[0], "layers": named[1:]}
        body = json.dumps(manifest).encode()
        digest = hashlib.sha256(body).hexdigest()
        base = f"repositories/{repository}"
        for part in (*parts, body):
            self.blob(part)
        for part in parts:
            self._link(f"{base}/_layers/sha256/{hashlib.sha256(part).hexdigest()}", part)
        self._link(f"{base}/_manifests/revisions/sha256/{digest}", body)
        self._link(f"{base}/_manifests/tags/{tag}/current", body)
        self._link(f"{base}/_manifests/tags/{tag}/index/sha256/{digest}", body)
        return f"sha256:{digest}"

    def has(self, data: bytes) -> bool:
        """Whether the blob is kept."""
        digest = hashlib.sha256(data).hexdigest()
        return (self._tree / "blobs" / "sha256" / digest[:2] / digest / "data").exists()

    def tags(self, repository: str) -> list[str]:
        """Those that the repository has."""
        folder = self._tree / "repositories" / repository / "_manifests" / "tags"
        return sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []

    def _link(self, path: str, named: bytes) -> None:
        self._write(f"{path}/link", f"sha256:{hashlib.sha256(named).hexdigest()}".encode())

    def _write(self, path: str, data: bytes) -> Path:
        file = self._tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (LONG_AGO, LONG_AGO))
        return file


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder that the configuration names; this process' log stays as it is."""
    monkeypatch.setattr(log, "configure_for_people", lambda _level, _render, _say: None)
    with data_folder(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def folder(root: Path) -> Folder:
    """Two repositories that share a layer, and a blob that nothing names."""
    made = Folder(root)
    made.image("library/a", "1", SMALL, SHARED)
    made.image("team/b", "1", SHARED)
    made.image("team/b", "2", SHARED, b"second")
    made.blob(b"orphan")
    return made


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


ORPHAN = f"sha256:{hashlib.sha256(b'orphan').hexdigest()}"


def test_a_collection_takes_what_no_image_names(folder: Folder) -> None:
    dry = run("garbage-collect", "-d")
    assert (dry.exit_code, folder.has(b"orphan")) == (0, True)
    assert f"blob eligible for deletion (6 bytes): {ORPHAN}\n" in dry.stdout
    assert dry.stdout.endswith("1 blob, 6 bytes, eligible for deletion; nothing was changed\n")
    real = run("garbage-collect")
    assert (real.exit_code, folder.has(b"orphan")) == (0, False)
    assert real.stdout == f"blob deleted (6 bytes): {ORPHAN}\n1 blob deleted, 6 bytes freed\n"
    assert all(folder.has(data) for data in (SMALL, SHARED, b"second"))
    assert run("garbage-collect").stdout == "nothing to collect\n"


def test_untagged_images_are_taken_where_it_is_asked_for(folder: Folder, root: Path) -> None:
    for link in root.glob("docker/registry/v2/repositories/team/b/_manifests/tags/2/**/link"):
        link.unlink()
    assert run("garbage-collect", "-q").exit_code == 0
    assert folder.has(b"second")
    assert run("garbage-collect", "-q", "-m").exit_code == 0
    assert not folder.has(b"second")
    assert folder.has(SHARED)


def test_a_verification_sets_aside_what_is_damaged(folder: Folder, root: Path) -> None:
    assert run("verify").stdout.endswith(": all match their digests; 13 links read\n")
    folder.blob(SHARED).write_bytes(b"spoilt")
    result = run("verify")
    assert (result.exit_code, folder.has(SHARED)) == (1, False)
    [aside] = (root / "mirror" / "quarantine").iterdir()
    assert aside.read_bytes() == b"spoilt"
    digest = hashlib.sha256(SHARED).hexdigest()
    assert f"blob does not match its digest (6 bytes): sha256:{digest}\n" in result.stdout
    assert f"\n  of library/a, team/b; now in {aside}\n" in result.stdout
    assert "1 does not match its digest: it was set aside" in result.stderr
    assert run("verify").exit_code == 0


def test_a_quiet_verification_says_what_is_damaged_and_whose(folder: Folder, root: Path) -> None:
    digest = folder.image("team/c", "1", b"third").removeprefix("sha256:")
    [manifest] = root.glob(f"docker/registry/v2/blobs/sha256/*/{digest}/data")
    manifest.write_bytes(b"{}")
    result = run("verify", "-q")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[:2] == [
        f"mirror: manifest does not match its digest (2 bytes): sha256:{digest}",
        f"mirror:   of team/c; now in {root}/mirror/quarantine/sha256-{digest}",
    ]
    assert (run("verify", "-q").exit_code, run("verify", "-q").output) == (0, "")


@pytest.mark.parametrize("what", ["team/b:2", "docker.io/team/b:2"])
def test_a_tag_is_forgotten_with_what_it_alone_has(folder: Folder, what: str) -> None:
    """Also on a folder that no mirror has looked at yet."""
    result = run("purge", what)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(" freed\n")
    assert (folder.tags("team/b"), folder.has(b"second"), folder.has(SHARED)) == (["1"], False, True)
    again = run("purge", what)
    assert (again.exit_code, again.stderr) == (1, f"mirror: {what}: team/b has no tag 2; its tags: 1\n")


def test_a_purge_says_all_that_went(folder: Folder) -> None:
    digest = folder.image("team/c", "1", b"third")
    folder.image("team/c", "other", b"fourth")
    said = [line for line in run("purge", "team/c:1").stdout.splitlines() if "survey." not in line]
    layer = hashlib.sha256(b"third").hexdigest()
    assert said[:2] == ["tag deleted: team/c:1", f"image deleted: team/c@{digest}"]
    assert f"blob deleted (5 bytes): sha256:{layer}" in said
    assert said[-1].startswith("team/c:1: 1 tag, 1 image and 2 blobs deleted, ")


def test_what_the_log_would_say_is_said_in_plain_words(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    folder.image("team/c", "1", b"third")
    (link,) = tmp_path.glob("data/**/revisions/sha256/*/link")
    link.write_bytes(b"nonsense")
    config = tmp_path / "config.yml"
    config.write_text(f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n")
    command = [sys.executable, "-m", "mirror", "purge", "team/c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    first = done.stderr.splitlines()[0]
    assert first.startswith("mirror: warning: docker/registry/v2/repositories/team/c/_manifests/revisions/")
    assert "/link is no link, and counts as missing: " in first
    assert "level=" not in done.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nope", "no repository library/nope is kept"),
        ("team/b:3", "team/b has no tag 3; its tags: 1, 2"),
        (f"team/b@sha256:{'0' * 64}", f"team/b has no image sha256:{'0' * 64}; its tags: 1, 2"),
    ],
)
def test_what_is_not_kept_is_said_with_what_is(folder: Folder, what: str, said: str) -> None:
    result = run("purge", what)
    assert (result.exit_code, result.stderr) == (1, f"mirror: {what}: {said}\n")


def test_a_repository_is_forgotten_whole(folder: Folder) -> None:
    assert run("purge", "-q", "team/b").exit_code == 0
    assert (folder.tags("team/b"), folder.has(b"second"), folder.has(SHARED)) == ([], False, True)
    assert run("purge", "-q", "a").exit_code == 0  # library/a, on Docker Hub
    assert not folder.has(SHARED)


def test_a_disk_that_fails_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tree: Tree) -> StorageDriver:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Tree, "survey_blobs", broken)
    result = run("verify")
    assert (result.exit_code, result.stderr) == (1, "mirror: [Errno 5] Input/output error\n")
