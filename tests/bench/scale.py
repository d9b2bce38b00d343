"""`mirror serve` on a folder of 100,000 blobs: `python -m tests.bench.scale [--folder FOLDER]`.

Measures from the process's start to its first answers, the survey, an eviction and a collection, and the
memory after each. The eviction deletes: a folder that is given is changed by it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import document, largetree

PATIENCE = 300.0  # seconds for a survey or a collection, five times the goal; more is a failure
ORPHANS = 1000
POLL = 0.005  # seconds between two attempts to connect
ROOT = Path(__file__).resolve().parents[2]
TAGS = "/v2/team1/app1/manifests/v1"


@dataclass(frozen=True, slots=True)
class Started:
    """A running mirror: seconds from its start to the first `/v2/`, and to a manifest by its tag."""

    process: subprocess.Popen[bytes]
    log: Path
    config: Path
    answered: float
    served: float

    @property
    def memory(self) -> float:
        """Resident, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def spent(self) -> float:
        """Processor time since its start, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def costs(self, before: float) -> str:
        """What it has spent since then, and what it holds."""
        return f"{self.spent - before:.1f} s of processor time; {self.memory:.0f} MiB"

    def wait_for(self, event: str) -> dict[str, Any]:
        """The first line of the log that tells of this event."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            for line in self.log.read_text().splitlines():
                found: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
                if event in found.values():
                    return found
            time.sleep(POLL * 20)
        raise TimeoutError(f"no {event} in {self.log}")


class Rows(list[tuple[str, str]]):
    """Of the table; each is told, and written into the document, as it comes: all take some minutes."""

    def __init__(self, folder: Path, *, dry: bool) -> None:
        super().__init__()
        self._head = document.machine(folder)
        self._dry = dry

    def append(self, row: tuple[str, str]) -> None:
        super().append(row)
        print(": ".join(row), flush=True)
        if not self._dry:
            document.replace("scale", document.table((self._head, ""), self))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder that largetree has made")
    parser.add_argument("--images", type=int, default=largetree.IMAGES)
    parser.add_argument("--dry", action="store_true", help="print, and write no document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mirror-bench-") as scratch:
        folder = options.folder or Path(scratch) / "data"
        if options.folder is None:
            largetree.make(folder, options.images)
        _measure(folder, Path(scratch), Rows(folder, dry=options.dry))


def _measure(folder: Path, scratch: Path, rows: Rows) -> None:
    with _serve(folder, scratch / "first", {}) as mirror:
        rows.append(_times("first start, nothing known", mirror))
        spent = mirror.spent
        survey = mirror.wait_for("survey.done")
        rows.append(_survey("first survey", survey, mirror, spent))
    with _serve(folder, scratch / "again", {}) as mirror:
        rows.append(_times("start, all known", mirror))
        mirror.process.kill()
    with _serve(folder, scratch / "killed", {}) as mirror:
        rows.append(_times("start after a kill", mirror))
        spent = mirror.spent
        survey = mirror.wait_for("survey.done")
        rows.append(_survey("survey with all known", survey, mirror, spent))
        rows.append(("collection with nothing to take", _collect(mirror)))
        largetree.add_orphans(folder, ORPHANS)
        rows.append((f"collection with {ORPHANS} blobs to take", _collect(mirror)))
    # A pass goes down to nine tenths of the limit: one image in ten.
    most = {"maxsize": str(survey["bytes"] - 1)}
    with _serve(folder, scratch / "limit", most) as mirror:
        spent = mirror.spent  # that of the start; after a good stop there is no survey
        done = mirror.wait_for("eviction.done")
        each = 1000 * done["seconds"] / done["images"]
        took = f"{done['seconds']:.1f} s, {done['blobs']} blobs; {each:.1f} s for 1000 images; "
        rows.append((f"eviction of {done['images']} images", took + mirror.costs(spent)))


def _survey(what: str, survey: dict[str, Any], mirror: Started, spent: float) -> tuple[str, str]:
    return what, f"{survey['seconds']:.1f} s, {survey['blobs']} blobs; {mirror.costs(spent)}"


@contextlib.contextmanager
def _serve(folder: Path, scratch: Path, cache: dict[str, Any]) -> Iterator[Started]:
    """A mirror of an upstream that is not there."""
    scratch.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, log = scratch / "config.yml", scratch / "log"
    document_ = {
        "version": "0.1",
        "log": {"level": "info", "formatter": "json"},
        "http": {"addr": f"127.0.0.1:{port}"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "proxy": {"remoteurl": "http://127.0.0.1:9"},
        "cache": cache,
    }
    config.write_text(json.dumps(document_))  # JSON is YAML
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mirror", "serve", str(config)], stdout=out, stderr=out, env=env
        )
    try:
        answered = _ask(port, "/v2/", began)
        served = _ask(port, TAGS, began)
        yield Started(process, log, config, answered, served)
    finally:
        process.terminate()
        process.wait(60)


def _ask(port: int, path: str, began: float) -> float:
    """Seconds since `began` when it was answered well."""
    while time.monotonic() < began + PATIENCE:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except ConnectionError:
            time.sleep(POLL)
            continue
        finally:
            connection.close()
        assert answer.status == 200, f"{path}: {answer.status} {body[:200]!r}"
        return time.monotonic() - began
    raise TimeoutError(path)


def _collect(mirror: Started) -> str:
    began, spent = time.monotonic(), mirror.spent
    done = subprocess.run(
        [sys.executable, "-m", "mirror", "garbage-collect", "--quiet", str(mirror.config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return f"{time.monotonic() - began:.1f} s; {mirror.costs(spent)}; {last}"


def _times(what: str, mirror: Started) -> tuple[str, str]:
    return (
        what,
        f"{mirror.answered:.2f} s to the first answer, {mirror.served:.2f} s to a manifest",
    )


if __name__ == "__main__":
    main()
