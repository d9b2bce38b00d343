"""A real Keystone with a user, and a real Swift whose S3 API asks it who somebody is; all on loopback."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import Any
from urllib.request import Request, urlopen

from botocore.session import get_session

from tests.support.procs import Workspace, accepts, client_env, free_port, wait_until
from tests.support.swift import KEYSTONE, SwiftServer, programs

USER, PASSWORD, PROJECT, REGION = "admin", "correct horse", "admin", "RegionOne"
PATIENCE = 60.0  # seconds for one of its commands, or for its start; they take three
START = 300  # seconds, for pytest: the first test that asks for it waits for all of it, on a busy machine

_CONFIG = """[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{folder}/keystone.db
[token]
provider = fernet
[fernet_tokens]
key_repository = {folder}/fernet
[fernet_receipts]
key_repository = {folder}/receipts
[credential]
key_repository = {folder}/credentials
[security_compliance]
lockout_failure_attempts = 100
"""
# Importing it takes longer than its commands do: each has a process of its own, made of one that has.
_MANAGE = """
import json, os, sys
from keystone.cmd.manage import main
for words in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        sys.argv = words
        sys.exit(main())
    if os.waitpid(child, 0)[1]:
        sys.exit(" ".join(words[:4]))
"""
_SERVE = """
import os, socketserver, sys
from wsgiref.simple_server import WSGIServer, make_server
os.environ["OS_KEYSTONE_CONFIG_FILES"] = sys.argv[1]
port = int(sys.argv[2])
sys.argv = sys.argv[:1]
from keystone.wsgi.api import application
class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
make_server("127.0.0.1", port, application, server_class=Server).serve_forever()
"""
_ASKING = """[filter:s3token]
use = egg:swift#s3token
auth_uri = {url}
auth_type = password
auth_url = {url}
username = {user}
password = {password}
user_domain_id = default
project_name = {project}
project_domain_id = default
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin
"""


class KeystoneServer:
    """Keystone, and `swift`; both end with the workspace. The user may do everything in his project."""

    def __init__(self, space: Workspace) -> None:
        self.folder = space.folder("keystone")
        self._space = space
        self._programs = programs(KEYSTONE)
        self._env = client_env(self.folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v3"
        (self.folder / "keystone.conf").write_text(_CONFIG.format(folder=self.folder))
        for name in ("fernet", "receipts", "credentials"):
            (self.folder / name).mkdir(mode=0o700)
        owner = ["--keystone-user", self.folder.owner(), "--keystone-group", self.folder.group()]
        addresses = ["--bootstrap-public-url", self.url, "--bootstrap-region-id", REGION]
        self._manage(
            ["db_sync"],
            ["fernet_setup", *owner],
            ["credential_setup", *owner],
            ["bootstrap", "--bootstrap-password", PASSWORD, *addresses],
        )
        self._service = self._start()
        asking = _ASKING.format(url=self.url, user=USER, password=PASSWORD, project=PROJECT)
        self.swift = SwiftServer(space, keystone=asking)
        self.token, self.project, self.user = self._log_in()
        self.add_endpoint("object-store", f"{self.swift.url}/v1/AUTH_{self.project}")

    def stop(self) -> None:
        """Connections to Keystone are refused; Swift asks it anew after a minute only."""
        self._service.kill()

    def revive(self) -> None:
        """After `stop`: on the same port, with all that it knew."""
        self._service = self._start()

    def make_container(self, name: str) -> None:
        """An empty one, by the S3 API."""
        ours = self.pairs()
        if not ours:
            self._ask("POST", f"/users/{self.user}/credentials/OS-EC2", {"tenant_id": self.project})
            ours = self.pairs()
        client = get_session().create_client(
            "s3",
            endpoint_url=self.swift.url,
            region_name="us-east-1",
            aws_access_key_id=ours[0][0],
            aws_secret_access_key=ours[0][1],
        )
        client.create_bucket(Bucket=name)

    def pairs(self) -> list[tuple[str, str]]:
        """The user's keys of the S3 API, each with its secret."""
        found = self._ask("GET", f"/users/{self.user}/credentials/OS-EC2")["credentials"]
        return [(each["access"], each["secret"]) for each in found]

    def parameters(self, container: str, url: str | None = None) -> dict[str, Any]:
        """registry:2's `swift` section for a container here."""
        return {
            "authurl": url or self.url,
            "username": USER,
            "password": PASSWORD,
            "tenant": PROJECT,
            "domain": "Default",
            "region": REGION,
            "container": container,
        }

    def add_endpoint(self, kind: str, url: str) -> None:
        """To the catalog."""
        service = self._ask("POST", "/services", {"service": {"type": kind, "name": kind}})["service"]["id"]
        endpoint = {"service_id": service, "interface": "public", "url": url, "region_id": REGION}
        self._ask("POST", "/endpoints", {"endpoint": endpoint})

    def _start(self) -> Any:
        argv = [str(self._programs / "python"), "-c", _SERVE, str(self.folder / "keystone.conf")]
        service = self._space.start(self._space.folder("keystone-server"), [*argv, str(self.port)], self._env)
        self._space.on_close(service.kill)
        wait_until(partial(accepts, self.port), "keystone", PATIENCE, service)
        return service

    def _log_in(self) -> tuple[str, str, str]:
        domain = {"id": "default"}
        user = {"name": USER, "domain": domain, "password": PASSWORD}
        login = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": PROJECT, "domain": domain}},
        }
        body = json.dumps({"auth": login}).encode()
        request = Request(f"{self.url}/auth/tokens", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=PATIENCE) as answer:
            found = json.load(answer)["token"]
            return answer.headers["X-Subject-Token"], found["project"]["id"], found["user"]["id"]

    def _ask(self, method: str, path: str, document: object = None) -> Any:
        headers = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        body = None if document is None else json.dumps(document).encode()
        with urlopen(Request(f"{self.url}{path}", body, headers, method=method), timeout=PATIENCE) as answer:
            return json.load(answer)

    def _manage(self, *commands: list[str]) -> None:
        program = ["keystone-manage", "--config-file", str(self.folder / "keystone.conf")]
        words = json.dumps([[*program, *command] for command in commands])
        argv = [str(self._programs / "python"), "-c", _MANAGE, words]
        limit = PATIENCE * len(commands)
        subprocess.run(argv, check=True, capture_output=True, env=self._env, timeout=limit, cwd=self.folder)
