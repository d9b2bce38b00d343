"""What object storage wants of the rest of the configuration, and where the mirror's own files are then."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from mirror.config import Config
from mirror.configclouds import Azure, Gcs, Oss, connection
from mirror.configproblems import Problem, Warning_, find
from mirror.configs3 import NO_UNDERSCORE, S3, ends_with, is_amazon
from mirror.configswift import Login, Swift
from mirror.configtree import Table

REGISTRY_ROOT: Final = Path("/var/lib/registry")  # the image's volume
OTHER_ROOT: Final = Path("data")
OURS: Final = "mirror"  # the folder of what is the mirror's own


def local_root(config: Config) -> Path | None:
    """The folder in which the mirror's own, `mirror/`, is; None: there is none.

    Of object storage: `cache.folder`, else the image's volume where that can be written, else `./data`.
    """
    if config.storage.filesystem is not None:
        return config.storage.filesystem.rootdirectory.absolute()
    if not config.storage.is_remote:
        return None
    if config.cache.folder is not None:
        return config.cache.folder.absolute()
    usable = REGISTRY_ROOT.is_dir() and os.access(REGISTRY_ROOT, os.W_OK | os.X_OK)
    return (REGISTRY_ROOT if usable else OTHER_ROOT).absolute()


def disk_folder(config: Config) -> Path | None:
    """Where copies of what is in object storage are kept; None: nowhere."""
    root, disk = local_root(config), config.cache.disk
    if not config.storage.is_remote or root is None or disk.maxsize is None:
        return None
    return disk.folder.absolute() if disk.folder is not None else root / OURS / "disk"


def check_remote(config: Config, tree: Table) -> tuple[list[Problem], list[Warning_]]:
    """Keys that do not go together."""
    problems: list[Problem] = []
    warnings: list[Warning_] = []
    if not config.storage.is_remote:
        return problems, _check_local(config, tree)
    storage = config.storage
    if storage.s3 is not None:
        _check_s3(storage.s3, tree, problems, warnings)
    elif storage.azure is not None:
        _check_azure(storage.azure, tree, problems, warnings)
    elif storage.gcs is not None:
        _check_gcs(storage.gcs, tree, problems)
    elif storage.oss is not None:
        _check_oss(storage.oss, tree, problems)
    elif storage.swift is not None:
        _check_swift(storage.swift, tree, problems)
    for name, limit in (("maxsize", config.cache.maxsize), ("minfree", config.cache.minfree)):
        if limit is None:
            continue
        source = find(tree, ("cache", name))[1]
        if name == "minfree":
            warnings.append(Warning_(source, "cache.minfree", "has no effect: a bucket is never full"))
        elif limit.percent:
            text = f"got '{limit}', wanted a size such as 200GiB: a bucket has none to take a share of"
            problems.append(Problem(source, "cache.maxsize", text))
    problems += _check_disk(config, tree)
    return problems, warnings


def _check_s3(s3: S3, tree: Table, problems: list[Problem], warnings: list[Warning_]) -> None:
    at = find(tree, ("storage", "s3"))[1]
    if not s3.regionendpoint and not s3.region:
        text = "missing, wanted a region such as us-east-1; it may be left out with a regionendpoint only"
        problems.append(Problem(at, "storage.s3.region", text))
    elif not s3.regionendpoint and not is_amazon(s3.region):
        text = f"got {s3.region!r}, wanted a region of Amazon's such as us-east-1, or a regionendpoint"
        problems.append(Problem(find(tree, ("storage", "s3", "region"))[1], "storage.s3.region", text))
    one, other = ("accesskey", "secretkey") if s3.accesskey is None else ("secretkey", "accesskey")
    if (s3.accesskey is None) != (s3.secretkey is None):
        text = f"missing, wanted both this and {other}, or neither: then the AWS credential chain is asked"
        problems.append(Problem(at, f"storage.s3.{one}", text))
    if s3.accelerate and (s3.regionendpoint or s3.path_style):
        text = "got true, wanted false beside regionendpoint or forcepathstyle: Amazon has no such name"
        problems.append(
            Problem(find(tree, ("storage", "s3", "accelerate"))[1], "storage.s3.accelerate", text)
        )
    for key in ("regionendpoint", "redirectendpoint"):
        if ends_with(getattr(s3, key), s3.bucket):
            text = "ends with the bucket, which then stands twice in each URL: leave it out here"
            warnings.append(_warning(tree, f"storage.s3.{key}", text))
    if s3.sessiontoken is not None and s3.accesskey is None:
        text = "has no effect without accesskey and secretkey"
        warnings.append(
            Warning_(find(tree, ("storage", "s3", "sessiontoken"))[1], "storage.s3.sessiontoken", text)
        )


def _check_local(config: Config, tree: Table) -> list[Warning_]:
    """What means nothing without object storage."""
    warnings: list[Warning_] = []
    if "requests" in config.cache.model_fields_set:
        text = "has no effect here: it is for object storage"
        warnings.append(_warning(tree, "cache.requests", text))
    if config.cache.folder is not None:
        text = "has no effect here: what is the mirror's own lies below storage.filesystem.rootdirectory"
        warnings.append(_warning(tree, "cache.folder", text))
    for name in ("folder", "maxsize"):
        if getattr(config.cache.disk, name) is not None:
            text = "has no effect here: it is for object storage"
            warnings.append(_warning(tree, f"cache.disk.{name}", text))
    return warnings


def _check_disk(config: Config, tree: Table) -> list[Problem]:
    """Of what is in object storage, so much is on the local disk too."""
    disk = config.cache.disk
    if disk.maxsize is not None and disk.maxsize.percent:
        at = find(tree, ("cache", "disk", "maxsize"))[1]
        text = f"got '{disk.maxsize}', wanted a size such as 50GiB"
    elif disk.maxsize is None and disk.folder is not None:
        at = find(tree, ("cache", "disk"))[1]
        text = "missing, wanted a size such as 50GiB: so much of what is kept is on the local disk as well"
    else:
        return []
    return [Problem(at, "cache.disk.maxsize", text)]


def _warning(tree: Table, key: str, text: str) -> Warning_:
    return Warning_(find(tree, tuple(key.split(".")))[1], key, text)


def _check_azure(azure: Azure, tree: Table, problems: list[Problem], warnings: list[Warning_]) -> None:

    def wrong(key: str, text: str) -> None:
        at = find(tree, ("storage", "azure", *key.split(".")))[1]
        problems.append(Problem(at, f"storage.azure.{key}", text))

    login = azure.credentials
    given = connection(azure.connectionstring.get_secret_value()) if azure.connectionstring else {}
    if azure.connectionstring is not None and "accountname" not in given:
        wrong(
            "connectionstring", "wanted a connection string of a storage account: AccountName=…;AccountKey=…"
        )
    elif azure.connectionstring is not None and not _has_login(azure, given):
        text = "wanted AccountKey=… or SharedAccessSignature=… in it, or accountkey or credentials beside it"
        wrong("connectionstring", text)
    elif azure.connectionstring is None and not azure.accountname:
        wrong("accountname", "missing, wanted the storage account's name, or a connectionstring")
    if login.type == "shared_key" and azure.accountkey is None and "accountkey" not in given:
        wrong("accountkey", "missing, wanted the account's key: credentials.type is shared_key")
    if login.type == "client_secret" or login.secret is not None:
        for key in ("clientid", "tenantid", "secret"):
            if not getattr(login, key):
                wrong(f"credentials.{key}", "missing, wanted clientid, tenantid and secret together")
    for key in ("accountkey", "connectionstring"):
        secret = getattr(azure, key)
        held = given.get("accountkey", "") if key == "connectionstring" else _text(secret)
        if held and not _is_base64(held):
            wrong(key, "wanted an account's key in base64, as Azure gives it")
    _check_serviceurl(azure, given, tree, problems, warnings)


def _check_serviceurl(
    azure: Azure,
    given: Mapping[str, str],
    tree: Table,
    problems: list[Problem],
    warnings: list[Warning_],
) -> None:
    """`given`: by the connection string."""
    url, key = azure.serviceurl, "storage.azure.serviceurl"
    if url.startswith("http://") and _by_token(azure, given):
        text = f"got {url!r}, wanted https://, or an accountkey: Azure's library sends tokens by TLS only"
        problems.append(Problem(find(tree, tuple(key.split(".")))[1], key, text))
    account = azure.accountname or given.get("accountname")
    if ends_with(url.removesuffix(f"/{account}"), azure.container):
        text = "ends with the container, which then stands twice in each URL: leave it out here"
        warnings.append(_warning(tree, key, text))


def _has_login(azure: Azure, given: Mapping[str, str]) -> bool:
    """Whether a connection string holds a login, or something else names one."""
    login = azure.credentials
    beside = azure.accountkey is not None or login.type or login.clientid
    return bool(beside or given.get("accountkey") or given.get("sharedaccesssignature"))


def _by_token(azure: Azure, given: Mapping[str, str]) -> bool:
    """Whether the login is an identity's, and no key's."""
    login = azure.credentials
    if login.type:
        return login.type != "shared_key"
    keys = azure.accountkey, given.get("accountkey"), given.get("sharedaccesssignature")
    return login.secret is not None or not any(keys)


def _check_gcs(gcs: Gcs, tree: Table, problems: list[Problem]) -> None:
    if gcs.keyfile is not None and gcs.credentials:
        at = find(tree, ("storage", "gcs", "credentials"))[1]
        problems.append(Problem(at, "storage.gcs.credentials", "given beside keyfile; remove one of them"))


def _check_oss(oss: Oss, tree: Table, problems: list[Problem]) -> None:
    if oss.s3_endpoint() is None:
        at = find(tree, ("storage", "oss", "endpoint"))[1]
        text = (
            f"got {oss.endpoint!r}, wanted an endpoint of Alibaba's with the bucket in its host, such as "
            f"{oss.bucket}.{oss.s3_region()}.aliyuncs.com; or leave it out"
        )
        problems.append(Problem(at, "storage.oss.endpoint", text))


def _check_swift(swift: Swift, tree: Table, problems: list[Problem]) -> None:
    def wrong(key: str, text: str) -> None:
        problems.append(Problem(find(tree, ("storage", "swift", key))[1], f"storage.swift.{key}", text))

    if swift.login is None and swift.authversion:
        wrong("authversion", f"got '{swift.authversion}', wanted 1 (Swift's own logins) or 3 (Keystone's)")
    elif swift.login is None:
        text = f"got {swift.authurl!r}, wanted one with /v3 (Keystone) or /v1.0 (Swift itself) in it"
        wrong("authurl", f"{text}, or authversion beside it")
    elif swift.login is Login.KEYSTONE and not (swift.tenant or swift.tenantid or swift.trustid):
        wrong("tenant", "missing, wanted the name of the project, or its id in tenantid")
    host = urlsplit(swift.authurl).hostname or ""
    if swift.login is Login.SWIFT and not swift.s3endpoint and "_" in host:  # the S3 API is there as well
        wrong("authurl", f"got {swift.authurl!r}, wanted {NO_UNDERSCORE}")
    if swift.tenant and swift.tenantid:
        wrong("tenant", "given beside tenantid; remove one of them")


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:
        return False
