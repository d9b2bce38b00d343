"""nginx as the tests use it: static files, which is what the machine gives; and as a cache of a registry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.bench.content import Image
from tests.support.images import OCI_MANIFEST
from tests.support.procs import Service, Workspace, accepts, client_env, free_port, wait_until

_MAIN = """
{user}
daemon off;
worker_processes auto;
error_log stderr;
pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {rest}
}}
"""
# The limit: no log, and files that stay open.
_STATIC = """
  access_log off;
  open_file_cache max=1000;
  server {{
    listen 127.0.0.1:{port}{tls};
    root {folder}/files;
    types {{}}
    default_type application/octet-stream;
    location ~ /manifests/ {{ default_type {manifest}; }}
  }}
"""
# As one would set it up in front of a registry: the first fills, the others wait for it.
_CACHE = """
  access_log {folder}/access.log;
  proxy_cache_path {folder}/cache keys_zone=registry:10m inactive=1d use_temp_path=off;
  upstream registry {{ server 127.0.0.1:{upstream}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://registry;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache registry;
      proxy_cache_key $request_uri;
      proxy_cache_valid 200 1h;
      proxy_cache_lock on;
      proxy_cache_lock_age 5m;
      proxy_cache_lock_timeout 5m;
    }}
  }}
"""


class Nginx:
    """An nginx, started; with `upstream`, a port, a cache of what is there; `tls`: certificate and key."""

    def __init__(
        self,
        space: Workspace,
        name: str,
        upstream: int | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self._folder = space.folder(name)
        self._folder.joinpath("files").mkdir()
        port = free_port()
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        secure = "" if tls is None else f" ssl; ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]}"
        rest = (_STATIC if upstream is None else _CACHE).format(
            folder=self._folder, port=port, upstream=upstream, manifest=OCI_MANIFEST, tls=secure
        )
        user = "user root;" if os.geteuid() == 0 else ""  # the workspace is for its owner only
        config = self._folder / "nginx.conf"
        config.write_text(_MAIN.format(user=user, folder=self._folder, rest=rest))
        argv = ["nginx", "-e", "stderr", "-p", str(self._folder), "-c", str(config)]
        self.service: Service = space.start(self._folder, argv, client_env(self._folder))
        wait_until(lambda: accepts(port), name, service=self.service)

    def publish(self, image: Image) -> None:
        """Make it a tree of files: links to the upstream's."""
        files = {image.by_tag: image.manifest, image.by_digest: image.manifest}
        files |= {image.blob(blob): blob for blob in (image.config, *image.layers)}
        self.publish_files({path: blob.file for path, blob in files.items()})

    def publish_files(self, files: Mapping[str, Path]) -> None:
        """Links to these files, by the paths of their URLs."""
        for path, file in files.items():
            place = Path(f"{self._folder}/files{path}")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
