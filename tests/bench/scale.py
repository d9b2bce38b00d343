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

PATIENCE = 1800.0  # seconds for a survey or a collection; more is a failure
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
    """Of the table; told as they come, for it takes some minutes."""

    def append(self, row: tuple[str, str]) -> None:
        print(": ".join(row), flush=True)
        super().append(row)


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
        rows = _measure(folder, Path(scratch))
        text = f"{document.machine(folder)}:\n\n{document.table(('', ''), rows)}"
    print(text)
    if not options.dry:
        document.replace("scale", text.capitalize() if text[0].isalpha() else text)


def _measure(folder: Path, scratch: Path) -> list[tuple[str, str]]:
    rows = Rows()
    with _serve(folder, scratch / "first", {}) as mirror:
        rows.append(_times("first start, nothing known", mirror))
        survey = mirror.wait_for("survey.done")
        rows.append(("first survey", f"{survey['seconds']:.1f} s, {survey['blobs']} blobs"))
        rows.append(("memory after it", f"{mirror.memory:.0f} MiB"))
    with _serve(folder, scratch / "again", {}) as mirror:
        rows.append(_times("start, all known", mirror))
        mirror.process.kill()
    with _serve(folder, scratch / "killed", {}) as mirror:
        rows.append(_times("start after a kill", mirror))
        survey = mirror.wait_for("survey.done")
        rows.append(("survey with all known", f"{survey['seconds']:.1f} s"))
        rows.append(("memory after it", f"{mirror.memory:.0f} MiB"))
        rows.append(("collection (nothing to take)", _collect(mirror)))
        rows.append(("memory after it", f"{mirror.memory:.0f} MiB"))
    most = {"maxsize": str(survey["bytes"] - 1)}
    with _serve(folder, scratch / "limit", most) as mirror:
        done = mirror.wait_for("eviction.done")
        rows.append(
            (
                f"eviction of {done['images']} images",
                f"{done['seconds']:.1f} s, {done['blobs']} blobs; {mirror.memory:.0f} MiB",
            )
        )
    return rows


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
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mirror", "garbage-collect", "--quiet", str(mirror.config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    return f"{time.monotonic() - began:.1f} s; {last}"


def _times(what: str, mirror: Started) -> tuple[str, str]:
    return (
        what,
        f"{mirror.answered:.2f} s to the first answer, {mirror.served:.2f} s to a manifest",
    )


if __name__ == "__main__":
    main()
