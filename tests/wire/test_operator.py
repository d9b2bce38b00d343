"""The operator's commands as processes: beside a running mirror, and on its folder when none runs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import Skopeo, hub_ref
from tests.support.images import AMD64, Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.pulls import fetch
from tests.support.registries import Registry, push
from tests.support.scripted import Upstream, in_thread

LIMIT = 60.0  # seconds that a command takes at most, on a busy machine
AGO = 7200.0  # seconds; a collection spares what is younger than an hour
MANY = 1500  # orphans: a collection of them takes seconds, so that it can be interrupted
NAME = "library/a"
ORPHAN = b"orphan"
# What is loaded before is not looked for by somebody who may not read it.
AS_NOBODY = """
import os, pathlib, sys
import mirror.cli, mirror.commandsrun, mirror.commands, mirror.configfile
mirror.configfile.load(pathlib.Path(sys.argv[-1]), {})
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
mirror.cli.main()
"""


def arguments(mirror: MirrorProcess, *args: str) -> list[str]:
    return [sys.executable, "-m", "mirror", *args, str(mirror.folder / "config.yml")]


def run(mirror: MirrorProcess, *args: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """`mirror ARGS CONFIG` to its end; as a `program` that has these arguments, where one is given."""
    called = arguments(mirror, *args)
    return subprocess.run(
        [called[0], "-c", program, *called[3:]] if program else called,
        env={**mirror.env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def orphan(mirror: MirrorProcess, data: bytes) -> Path:
    """A blob that nothing names, since long ago."""
    file = mirror.blob_file(f"sha256:{hashlib.sha256(data).hexdigest()}")
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    old = time.time() - AGO
    os.utime(file, (old, old))
    return file


def files(mirror: MirrorProcess) -> list[str]:
    """All of registry:2's tree."""
    tree = mirror.storage / "docker"
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


@pytest.fixture
def mirror(space: Workspace) -> Iterator[MirrorProcess]:
    """A mirror that keeps one image."""
    upstream = Upstream()
    image = upstream.add_image(NAME, "1", layers=[b"layer" * 1000])
    with in_thread(upstream):
        mirror = MirrorProcess(space, upstream.url, name="operated")
        for path in ("manifests/1", *(f"blobs/{digest}" for digest in image.blobs)):
            assert fetch(f"{mirror.url}/v2/{NAME}/{path}").status == 200
        home = mirror.storage / "docker/registry/v2/repositories" / NAME
        links = [home / f"_layers/{digest.replace(':', '/')}/link" for digest in image.blobs]
        links.append(home / "_manifests/tags/1/current/link")
        wait_until(lambda: all(link.exists() for link in links), "all of it is kept")
        yield mirror
        mirror.stop()


def test_a_collection_says_the_same_whoever_does_it(mirror: MirrorProcess) -> None:
    """The running mirror; or the command, beside the socket of one that was killed."""
    told = []
    for is_running in (True, False):
        if not is_running:
            mirror.kill()
            assert (mirror.storage / "mirror" / "control.sock").exists()
        before = files(mirror)
        orphan(mirror, ORPHAN)
        dry, real, again = (run(mirror, "garbage-collect", *args) for args in (["-d"], [], ["-q"]))
        assert [done.returncode for done in (dry, real, again)] == [0, 0, 0]
        assert [done.stderr for done in (dry, real, again)] == ["", "", ""]
        assert files(mirror) == before
        told.append((dry.stdout.splitlines(), real.stdout.splitlines(), again.stdout))
    digest = f"sha256:{hashlib.sha256(ORPHAN).hexdigest()}"
    assert told[0] == (
        [
            f"blob eligible for deletion (6 bytes): {digest}",
            "1 blob, 6 bytes, eligible for deletion; nothing was changed",
        ],
        [f"blob deleted (6 bytes): {digest}", "1 blob deleted, 6 bytes freed"],
        "",
    )
    assert told[0] == told[1]


def test_a_dry_run_leaves_all_as_it_is(mirror: MirrorProcess) -> None:
    orphan(mirror, ORPHAN)
    before = files(mirror)
    for is_running in (True, False):
        if not is_running:
            mirror.stop()
        assert "1 blob, 6 bytes, eligible for deletion" in run(mirror, "garbage-collect", "-dm").stdout
        assert files(mirror) == before


@pytest.mark.parametrize("is_running", [True, False], ids=["asked", "here"])
def test_ctrl_c_stops_a_collection_and_the_next_one_ends_it(mirror: MirrorProcess, is_running: bool) -> None:
    orphans = [orphan(mirror, b"%d" % number) for number in range(MANY)]
    if not is_running:
        mirror.stop()
    # A shell that starts its jobs in the background has them ignore Ctrl-C, and they their children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            arguments(mirror, "garbage-collect"),
            env={**mirror.env, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("blob deleted")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LIMIT)
    assert (process.returncode, said) == (
        130,
        "mirror: garbage-collect: stopped; what was done so far stays done\n",
    )
    if is_running:
        wait_until(lambda: "outcome=left" in mirror.log, "the mirror has stopped it")
    left = [file for file in orphans if file.exists()]
    assert 0 < len(left) < MANY
    done = run(mirror, "garbage-collect", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [file for file in orphans if file.exists()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("operation", ["garbage-collect", "verify"])
def test_who_may_not_touch_the_folder_is_told_so(mirror: MirrorProcess, operation: str) -> None:
    for path in (mirror.space.root, mirror.folder):
        path.chmod(0o755)
    before = files(mirror)
    asked = run(mirror, operation, program=AS_NOBODY)
    assert "ask as the user that the mirror runs as, or as root" in asked.stderr
    mirror.stop()
    if operation != "verify":  # which needs to read only
        alone = run(mirror, operation, program=AS_NOBODY)
        assert (alone.returncode, alone.stdout) == (1, "")
        assert "run this as the user that" in alone.stderr
    mirror.storage.chmod(0o700)
    outside = run(mirror, operation, program=AS_NOBODY)
    assert "cannot look into" in outside.stderr
    for done in (asked, outside):
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
    assert files(mirror) == before


def spoil(file: Path) -> None:
    """One bit, as a disk does it: the size stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.clients
@pytest.mark.parametrize("is_running", [True, False], ids=["asked", "here"])
def test_what_the_disk_has_spoilt_is_named_set_aside_and_fetched_again(
    space: Workspace, catalog: Catalog, is_running: bool
) -> None:
    registry = Registry(space, "whole")
    push(registry.url, catalog)
    mirror = MirrorProcess(space, registry.url, name="spoilt")
    skopeo, image = Skopeo(space, mirror.url), catalog["library/small:1"]
    first = skopeo.pull(hub_ref(image))
    assert first.ok, first.output
    digests = {"manifest": image.digest, "blob": image.platforms[AMD64].layers[1]}
    kept = {kind: mirror.blob_file(digest) for kind, digest in digests.items()}
    wait_until(lambda: all(file.exists() for file in kept.values()), "both are kept")
    for file in kept.values():
        spoil(file)
    spoilt = {file.parent.name: file.read_bytes() for file in kept.values()}
    if not is_running:
        mirror.stop()
    done = run(mirror, "verify", "-q")
    assert (done.returncode, done.stdout) == (1, "")
    assert "2 do not match their digests" in done.stderr
    aside = mirror.storage / "mirror" / "quarantine"
    for kind, digest in digests.items():
        assert f"mirror: {kind} does not match its digest" in done.stderr
        where = aside / digest.replace(":", "-")
        assert f"{digest}\nmirror:   of {image.name}; now in {where}\n" in done.stderr
        assert where.read_bytes() == spoilt[where.name.removeprefix("sha256-")]
        assert (f'msg="scrub.bad" digest="{digest}"' in mirror.log) == is_running
    if not is_running:
        mirror.start()
    again = skopeo.pull(hub_ref(image))
    assert again.ok, again.output
    skopeo.verify(image, hub_ref(image))
    for kind, digest in digests.items():
        wait_until(kept[kind].exists, f"the {kind} is kept again")
        assert kept[kind].read_bytes() == catalog.blobs[digest]
    last = run(mirror, "verify", "-q")
    assert (last.returncode, last.stdout, last.stderr) == (0, "", "")
    mirror.stop()
