"""A cold and a warm pull through the mirror, against a small local upstream: `make demo`.

Starts a tiny registry with one made-up image on a loopback port, starts the mirror in front of it with an
empty data folder, pulls the image twice as a container engine would, then stops the registry and pulls
once more. Prints what each pull asked of the upstream. No network is used and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME, TAG = "library/demo", "1"
LAYERS = (4 << 20, 16 << 20, 1 << 20)  # bytes
RATE = 40 << 20  # bytes a second that the upstream sends on each connection, as if it were far away
ROUND_TRIP = 0.04  # seconds that it takes to answer
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
START_LIMIT = 20.0  # seconds for the mirror to listen


def describe(data: bytes, media_type: str) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }


class Upstream(ThreadingHTTPServer):
    """A read-only registry of one image; counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        source = random.Random(1)
        layers = [source.randbytes(size) for size in LAYERS]
        config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": describe(config, "application/vnd.oci.image.config.v1+json"),
            "layers": [describe(layer, "application/vnd.oci.image.layer.v1.tar") for layer in layers],
        }
        manifest = json.dumps(document).encode()
        self.digest = str(describe(manifest, MANIFEST_TYPE)["digest"])
        self.content = {str(describe(blob, "")["digest"]): blob for blob in (config, *layers)}
        self.manifests = {TAG: manifest, self.digest: manifest}
        self.asked: list[str] = []
        self.sent = 0
        self.down = False
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def forget(self) -> None:
        self.asked, self.sent = [], 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def log_message(self, *_args: object) -> None:
        """Quiet: the tables below tell."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.down:  # a connection that was kept alive
            self.close_connection = True
            return
        time.sleep(ROUND_TRIP)
        self.server.asked.append(self.command)
        kind, _, reference = self.path.removeprefix(f"/v2/{NAME}/").partition("/")
        body = {"manifests": self.server.manifests, "blobs": self.server.content}.get(kind, {}).get(reference)
        self.send_response(200 if body is not None else 404)
        body = body or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", MANIFEST_TYPE if kind == "manifests" else "application/octet-stream")
        if kind == "manifests":
            self.send_header("Docker-Content-Digest", self.server.digest)
        self.end_headers()
        if self.command == "GET":
            piece = RATE // 50
            for start in range(0, len(body), piece):
                self.wfile.write(body[start : start + piece])
                self.server.sent += len(body[start : start + piece])
                time.sleep(len(body[start : start + piece]) / RATE)


@contextlib.contextmanager
def mirror(upstream_url: str, folder: Path) -> Iterator[int]:
    """The mirror as a process; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
        f"storage: {{filesystem: {{rootdirectory: {json.dumps(str(folder / 'data'))}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nproxy: {{remoteurl: '{upstream_url}'}}\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_")}
    process = subprocess.Popen([sys.executable, "-m", "mirror", "serve", str(config)], env=environment)
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("demo: the mirror did not start")
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(15)


def ask(port: int, method: str, kind: str, reference: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, f"/v2/{NAME}/{kind}/{reference}")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"demo: {method} {kind}/{reference}: {response.status} {body!r}")
    return response, body


def pull(port: int) -> tuple[float, int]:
    """As an engine does it: HEAD the tag, GET the manifest, GET what it names side by side, check all."""
    began = time.monotonic()
    digest = ask(port, "HEAD", "manifests", TAG)[0].headers["Docker-Content-Digest"]
    body = ask(port, "GET", "manifests", digest)[1]
    manifest = json.loads(body)
    got: dict[str, bytes] = {}

    def fetch(wanted: str) -> None:
        got[wanted] = ask(port, "GET", "blobs", wanted)[1]

    wanted = [part["digest"] for part in (manifest["config"], *manifest["layers"])]
    threads = [threading.Thread(target=fetch, args=(each,)) for each in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in wanted:
        if each not in got or "sha256:" + hashlib.sha256(got[each]).hexdigest() != each:
            raise SystemExit(f"demo: wrong bytes for {each}")
    return time.monotonic() - began, len(body) + sum(map(len, got.values()))


def main() -> None:
    upstream = Upstream()
    thread = threading.Thread(target=upstream.serve_forever, args=(0.05,))
    thread.start()
    print(f"{NAME}:{TAG}, {len(LAYERS)} layers, {sum(LAYERS) >> 20} MiB, from an upstream that answers after "
          f"{ROUND_TRIP * 1000:.0f} ms\nand sends {RATE >> 20} MiB/s on each connection\n")  # fmt: skip
    print(f"{'pull':<28}{'seconds':>8}{'MiB':>7}   asked of the upstream")

    def row(title: str, port: int) -> None:
        upstream.forget()
        seconds, size = pull(port)
        asked = f"{len(upstream.asked)} requests, {upstream.sent / 2**20:.1f} MiB"
        print(f"{title:<28}{seconds:>8.2f}{size / 2**20:>7.1f}   {asked}", flush=True)

    try:
        with (
            tempfile.TemporaryDirectory(prefix="mirror-demo-") as folder,
            mirror(upstream.url, Path(folder)) as port,
        ):
            row("cold", port)
            row("warm", port)
            upstream.down = True
            upstream.shutdown()
            upstream.server_close()
            thread.join()
            row("warm, the upstream is down", port)
    finally:
        upstream.shutdown()
        upstream.server_close()
        thread.join()


if __name__ == "__main__":
    main()
