"""The part of the composition root that makes the drivers of object storage.

Each is imported where it is configured: its library takes longer to import than all the rest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from mirror import __version__
from mirror.apperror import StartError
from mirror.config import Config
from mirror.configclouds import Azure, Gcs, Oss, connection
from mirror.configs3 import S3
from mirror.configswift import Login, Swift
from mirror.drivers.base import StorageDriver
from mirror.store import layout

if TYPE_CHECKING:
    from mirror.drivers.swiftlogin import Keystone

AGENT = f"mirror/{__version__}"
EMULATOR = "STORAGE_EMULATOR_HOST"  # as in Google's own libraries, and so in the registry
DEFAULT_DOMAIN = "default"  # the id of the domain that Keystone begins with
KEY_LIMIT = 64 << 10  # bytes of a key's file; it has two or three thousand


def driver(config: Config) -> StorageDriver:
    """Blocks. Raises StartError."""
    storage = config.storage
    redirect = storage.redirect
    lifetime = 0.0 if redirect.disable else redirect.lifetime
    if storage.azure is not None:
        return _azure(storage.azure, lifetime)
    if storage.gcs is not None:
        return _gcs(storage.gcs, lifetime)
    if storage.oss is not None:
        return _oss(storage.oss, lifetime)
    if storage.swift is not None:
        return _swift(storage.swift, lifetime)
    assert storage.s3 is not None
    return _s3(storage.s3, lifetime)


def described(config: Config) -> str:
    """Where images are kept, for the log."""
    storage = config.storage
    if storage.azure is not None:
        return f"azure://{storage.azure.container}{storage.azure.rootdirectory}"
    if storage.swift is not None:
        return f"swift://{storage.swift.container}{storage.swift.prefix}"
    for scheme, bucket in (("s3", storage.s3), ("gcs", storage.gcs), ("oss", storage.oss)):
        if bucket is not None:
            return f"{scheme}://{bucket.bucket}{bucket.rootdirectory}"
    raise AssertionError


def _s3(s3: S3, lifetime: float) -> StorageDriver:
    from mirror.drivers.s3 import S3Driver
    from mirror.drivers.s3settings import S3Settings

    settings = S3Settings(
        bucket=s3.bucket,
        region=s3.region,
        endpoint=s3.url(s3.regionendpoint),
        redirect_endpoint=s3.url(s3.redirectendpoint),
        path_style=s3.path_style,
        access_key=_reveal(s3.accesskey),
        secret_key=_reveal(s3.secretkey),
        session_token=_reveal(s3.sessiontoken),
        root=s3.rootdirectory.strip("/"),
        secure=s3.secure,
        verify=not s3.skipverify,
        encrypt=s3.encrypt,
        kms_key=s3.keyid,
        storage_class="" if s3.storageclass in ("NONE", "STANDARD") else s3.storageclass,
        acl="" if s3.objectacl == "private" else s3.objectacl,
        part_size=s3.chunksize,
        accelerate=s3.accelerate,
        dual_stack=s3.usedualstack,
        fips=s3.usefipsendpoint,
        user_agent=s3.useragent or AGENT,
        redirect=lifetime > 0,
        presigned=lifetime,
    )
    try:
        return S3Driver(settings, own=layout.BLOBS)
    except ValueError as error:
        raise StartError(f"storage.s3: {error}") from error


def _oss(oss: Oss, lifetime: float) -> StorageDriver:
    """Alibaba's S3 API, which wants the bucket in the host."""
    from mirror.drivers.s3 import S3Driver
    from mirror.drivers.s3settings import S3Settings

    settings = S3Settings(
        bucket=oss.bucket,
        region=oss.s3_region(),
        endpoint=oss.s3_endpoint() or "",
        section="oss",
        access_key=_reveal(oss.accesskeyid),
        secret_key=_reveal(oss.accesskeysecret),
        root=oss.rootdirectory.strip("/"),
        secure=oss.secure,
        encrypt=oss.encrypt,
        kms_key=oss.encryptionkeyid,
        part_size=oss.chunksize,
        user_agent=AGENT,
        redirect=lifetime > 0,
        presigned=lifetime,
    )
    made = S3Driver(settings, own=layout.BLOBS)
    made.name = "oss"
    return made


def _swift(swift: Swift, lifetime: float) -> StorageDriver:
    """Swift's S3 API, on the tree that registry:2 has there.

    Of Swift's own logins name and password are the keys, and the API is where they are.
    """
    from mirror.drivers.s3 import S3Driver
    from mirror.drivers.s3settings import S3Settings

    password = _reveal(swift.password)
    own = swift.login is Login.SWIFT
    url = urlsplit(swift.authurl)
    settings = S3Settings(
        bucket=swift.container,
        region=swift.s3region,
        endpoint=(swift.s3endpoint or f"{url.scheme}://{url.netloc}") if own else "",
        path_style=True,
        section="swift",
        access_key=swift.username if own else "",
        secret_key=password if own else "",
        root=swift.root,
        verify=not swift.insecureskipverify,
        part_size=swift.chunksize,
        user_agent=AGENT,
        redirect=lifetime > 0,
        presigned=lifetime,
        login=None if own else _keystone(swift, password),
        hidden_sizes=True,
    )
    made = S3Driver(settings, own=layout.BLOBS)
    made.name = "swift"
    return made


def _keystone(swift: Swift, password: str) -> Keystone:
    """registry:2's `domain` is the user's; the project's is the same, unless it has its own."""
    from mirror.drivers.swiftlogin import Keystone, KeystoneSettings

    user = _domain(swift.domainid, swift.domain)
    project = _domain(swift.tenantdomainid, swift.tenantdomain, user) if swift.tenant else ("", "")
    if swift.trustid:
        project = "", ""
    return Keystone(
        KeystoneSettings(
            url=swift.authurl,
            username=swift.username,
            password=password,
            user_domain_id=user[0],
            user_domain_name=user[1],
            project_id="" if swift.trustid else swift.tenantid,
            project_name="" if swift.trustid else swift.tenant,
            project_domain_id=project[0],
            project_domain_name=project[1],
            trust_id=swift.trustid,
            region=swift.region,
            interface=swift.endpointtype,
            endpoint=swift.s3endpoint,
            verify=not swift.insecureskipverify,
        )
    )


def _domain(by_id: str, name: str, default: tuple[str, str] = (DEFAULT_DOMAIN, "")) -> tuple[str, str]:
    """A domain's id, or its name: one of the two."""
    return (by_id, "" if by_id else name) if by_id or name else default


def _azure(azure: Azure, lifetime: float) -> StorageDriver:
    from mirror.drivers.azure import AzureObjects
    from mirror.drivers.azuresettings import AzureSettings
    from mirror.drivers.objects import ObjectsDriver

    given = connection(_reveal(azure.connectionstring))
    account = azure.accountname or given.get("accountname", "")
    login = azure.credentials
    by_client = login.type == "client_secret" or (not login.type and login.secret is not None)
    by_key = not by_client and login.type != "default_credentials"
    scheme = given.get("defaultendpointsprotocol", "https")
    suffix = given.get("endpointsuffix", azure.realm)
    endpoint = azure.serviceurl or given.get("blobendpoint", "") or f"{scheme}://{account}.blob.{suffix}"
    settings = AzureSettings(
        container=azure.container,
        account=account,
        endpoint=endpoint if "//" in endpoint else f"https://{endpoint}",
        key=(_reveal(azure.accountkey) or given.get("accountkey", "")) if by_key else "",
        shared_access=given.get("sharedaccesssignature", "") if by_key else "",
        client=login.clientid,
        tenant=login.tenantid,
        secret=_reveal(login.secret) if by_client else "",
        root=azure.rootdirectory.strip("/"),
        verify=not azure.skipverify,
        retries=azure.max_retries,
        retry_delay=azure.retry_delay,
        user_agent=AGENT,
    )
    return ObjectsDriver(AzureObjects(settings), lifetime)


def _gcs(gcs: Gcs, lifetime: float) -> StorageDriver:
    from mirror.drivers.gcs import GcsObjects
    from mirror.drivers.gcssettings import ENDPOINT, GcsSettings
    from mirror.drivers.objects import ObjectsDriver

    emulator = os.environ.get(EMULATOR, "").rstrip("/")
    if emulator and "//" not in emulator:
        emulator = f"http://{emulator}"
    settings = GcsSettings(
        bucket=gcs.bucket,
        key=_google_key(gcs),
        endpoint=emulator or ENDPOINT,
        root=gcs.rootdirectory.strip("/"),
        part_size=gcs.chunksize,
        connections=gcs.maxconcurrency,
        user_agent=gcs.useragent or AGENT,
    )
    try:
        return ObjectsDriver(GcsObjects(settings), lifetime)
    except ValueError as error:
        key = "keyfile" if gcs.keyfile is not None else "credentials"
        raise StartError(
            f"storage.gcs.{key}: not the key of a service account, as its JSON file has it "
            "(type, client_email, private_key, token_uri)"
        ) from error


def _google_key(gcs: Gcs) -> Mapping[str, object]:
    if gcs.keyfile is None:
        return gcs.credentials
    try:
        with gcs.keyfile.open("rb") as file:
            found = json.loads(file.read(KEY_LIMIT))
    except OSError as error:
        raise StartError(f"storage.gcs.keyfile: cannot read {gcs.keyfile}: {error.strerror}") from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StartError(f"storage.gcs.keyfile: {gcs.keyfile} is not a JSON document")
    return found


def _reveal(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
