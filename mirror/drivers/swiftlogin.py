"""Who we are for a Swift: the keys of its S3 API, which belong to a login of its own.

Keystone gives a user such keys ("EC2 credentials"), and its catalog says where the S3 API is. All of that is
asked once, by OpenStack's own library, which waits in threads. Swift's own logins (`/auth/v1.0`) are the keys
by themselves: they need nobody.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from keystoneauth1 import exceptions, identity, plugin
from keystoneauth1.session import Session

from mirror.drivers.answers import NONSENSE, line, taken_apart
from mirror.drivers.base import DeniedError, DriverError, UnreachableError
from mirror.drivers.s3settings import Keys

WAIT: Final = 10.0  # seconds for each answer of Keystone's
LIMIT: Final = 30.0  # seconds for all of them
VERSION: Final = "3"  # of Keystone's API; its second has not been served since 2018
NO_PAIR: Final = "no keys from Keystone: its answer is none to this"


@dataclass(frozen=True, slots=True)
class KeystoneSettings:
    """What a login is made of, in Keystone's words; empty texts are what is not given."""

    url: str
    username: str
    password: str
    user_domain_id: str = ""
    user_domain_name: str = ""
    project_id: str = ""
    project_name: str = ""
    project_domain_id: str = ""
    project_domain_name: str = ""
    trust_id: str = ""
    region: str = ""  # of the endpoint in the catalog
    interface: str = "public"
    endpoint: str = ""  # of the S3 API, where it is not that of the catalog
    verify: bool = True  # the servers' certificates


class Keystone:
    """A Login of the S3 driver."""

    def __init__(self, settings: KeystoneSettings) -> None:
        self._settings = settings

    async def keys(self) -> Keys:
        """The keys that the user has in this project already, or new ones. Raises DriverError."""
        try:
            async with asyncio.timeout(LIMIT):
                return await asyncio.to_thread(self._ask)
        except TimeoutError as error:
            raise UnreachableError("", f"no keys from Keystone within {LIMIT:g} s") from error
        except exceptions.HttpError as error:
            raise _refused(error) from error
        except exceptions.SSLError as error:
            raise UnreachableError("", "no trusted TLS connection to Keystone") from error
        except exceptions.ConnectionError as error:
            raise UnreachableError("", "Keystone cannot be connected to") from error
        except (exceptions.ClientException, OSError) as error:
            raise DriverError("", f"no keys from Keystone: {_told(error)}") from error
        except NONSENSE as error:  # from within the library, of a token or a catalog that is none
            raise DriverError("", NO_PAIR) from error

    def _ask(self) -> Keys:
        """Blocks."""
        settings = self._settings
        login = identity.Password(
            auth_url=settings.url,
            username=settings.username,
            password=settings.password,
            user_domain_id=settings.user_domain_id or None,
            user_domain_name=settings.user_domain_name or None,
            project_id=settings.project_id or None,
            project_name=settings.project_name or None,
            project_domain_id=settings.project_domain_id or None,
            project_domain_name=settings.project_domain_name or None,
            trust_id=settings.trust_id or None,
        )
        session = Session(login, verify=settings.verify and _authorities(), timeout=WAIT)
        try:
            access, secret = self._pair(session)
            return Keys(access, secret, settings.endpoint or self._endpoint(session))
        finally:
            session.session.close()

    def _pair(self, session: Session) -> tuple[str, str]:
        project = session.get_project_id()
        if project is None:
            raise DeniedError("", "Keystone gives no keys without a project: set tenant or tenantid")
        path = f"/users/{session.get_user_id()}/credentials/OS-EC2"
        wanted: dict[str, Any] = {"interface": plugin.AUTH_INTERFACE, "version": VERSION}
        found = pair_in(session.get(path, endpoint_filter=wanted), project, self._settings.trust_id)
        if found is not None:
            return found
        return new_pair(session.post(path, endpoint_filter=wanted, json={"tenant_id": project}))

    def _endpoint(self, session: Session) -> str:
        """What the catalog calls S3; else where it has Swift, which answers both in one place."""
        found = self._listed(session, "s3")
        if found:
            return found.rstrip("/")
        url = urlsplit(self._listed(session, "object-store"))
        if not url.netloc:
            where = f" in region {self._settings.region}" if self._settings.region else ""
            kind = f"{self._settings.interface} endpoint of s3 or object-store"
            raise DriverError("", f"Keystone's catalog has no {kind}{where}: see storage.swift.s3endpoint")
        return f"{url.scheme}://{url.netloc}"

    def _listed(self, session: Session, kind: str) -> str:
        """The URL that the catalog has; "" where it has none."""
        try:
            found = session.get_endpoint(
                service_type=kind,
                interface=self._settings.interface,
                region_name=self._settings.region or None,
                skip_discovery=True,  # it would ask what is there, which knows nothing of this
            )
        except exceptions.EndpointNotFound:
            return ""
        return str(found or "")


def pair_in(answer: Any, project: str, trust: str) -> tuple[str, str] | None:
    """The keys in a list of them that belong to this project and trust. Raises DriverError."""
    listed = _of(answer, "credentials")
    with taken_apart("", NO_PAIR):
        for each in listed:
            if each.get("tenant_id") == project and (each.get("trust_id") or "") == trust:
                return str(each["access"]), str(each["secret"])
    return None


def new_pair(answer: Any) -> tuple[str, str]:
    """Those that were just made. Raises DriverError."""
    made = _of(answer, "credential")
    with taken_apart("", NO_PAIR):
        return str(made["access"]), str(made["secret"])


def _of(answer: Any, name: str) -> Any:
    try:
        return answer.json()[name]
    except NONSENSE as error:
        raise DriverError("", f"no keys from Keystone: its answer has no {name}") from error


def _refused(error: exceptions.HttpError) -> DriverError:
    if error.http_status in (401, 403):
        return DeniedError("", f"Keystone refuses the login: {_told(error)}")
    if error.http_status >= 500:
        return UnreachableError("", f"Keystone answers {_told(error)}")
    return DriverError("", f"no keys from Keystone: {_told(error)}")


def _told(error: BaseException) -> str:
    """In one line. It holds no password: that is in what we have sent only."""
    return line(str(error)) or type(error).__name__


def _authorities() -> str | bool:
    """This machine's, a file or folder. True: what the variables of `requests` name, else Mozilla's."""
    if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        return True
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True
