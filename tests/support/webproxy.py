"""A forward proxy for plain http that keeps every byte that it was sent."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TIMEOUT = 30.0  # seconds for the server behind, which is on this machine
OWN = {"proxy-authorization", "proxy-connection", "connection"}  # headers that end here


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_args: object) -> None:
        """Nothing is printed: `seen` is the log."""

    def relay(self) -> None:
        """Ask the server that is meant, and pass its answer on."""
        self.server.seen.append(f"{self.requestline}\r\n{self.headers}".encode())
        url = urlsplit(self.path)
        behind = urlsplit(self.server.hosts.get(url.netloc, f"http://{url.netloc}"))
        connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=TIMEOUT)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
            connection.request(self.command, self.path.split(url.netloc, 1)[1], headers=headers)
            response = connection.getresponse()
            body = response.read()
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", response.headers.get("Content-Length", str(len(body))))
            self.end_headers()
            self.wfile.write(body)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # whatever befell the connection behind befalls this one
        finally:
            connection.close()

    # The names that http.server looks for.
    do_GET = do_HEAD = do_POST = relay  # noqa: N815


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    seen: list[bytes]
    hosts: dict[str, str]


class WebProxy:
    """Runs until `stop`. `hosts`: the URL of the server behind, by a name that only the proxy knows."""

    def __init__(self, hosts: dict[str, str]) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.seen, self._server.hosts = [], hosts
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def seen(self) -> list[bytes]:
        """Request line and headers of each request."""
        return self._server.seen

    def stop(self) -> None:
        """From now on its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
