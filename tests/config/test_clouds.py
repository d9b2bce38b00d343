"""`storage.azure`, `gcs`, `oss` and `swift`: registry:2's parameters, and what they become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror import appclouds, appstorage
from mirror.apperror import StartError
from mirror.configfile import ConfigError, dump
from mirror.configremote import disk_folder, local_root
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.gcslogin import Login
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.swiftlogin import KeystoneSettings
from mirror.drivers.tiered import TieredDriver
from tests.support.configs import load_env, load_text, remarks
from tests.support.gcs import key

AZURE = "accountname: images1, accountkey: a2V5, container: images"
TOKEN = "credentials: {type: default_credentials}"
IDENTITY = "accountname: images1, container: images"
SWIFT = "username: 't:u', password: hush, container: images"
OSS = "accesskeyid: id, accesskeysecret: hush, region: oss-cn-hangzhou, bucket: images"


def text(name: str, parameters: str, more: str = "") -> str:
    return f"version: 0.1\nstorage: {{{name}: {{{parameters}}}}}\n{more}"


def made(folder: Path, name: str, parameters: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that the driver is given, without a driver."""
    found: list[Any] = []
    where = {
        "azure": "mirror.drivers.azure.AzureObjects",
        "gcs": "mirror.drivers.gcs.GcsObjects",
        "oss": "mirror.drivers.s3.S3Client",
        "swift": "mirror.drivers.s3.S3Client",
    }[name]

    class Found(Exception):
        pass

    def take(settings: Any) -> Any:
        found.append(settings)
        raise Found

    monkeypatch.setattr(where, take)
    loaded = load_text(folder, text(name, parameters))
    assert remarks(loaded) == []
    with pytest.raises(Found):
        appclouds.driver(loaded.config)
    return found[0]


def problem(folder: Path, name: str, parameters: str, more: str = "") -> str:
    """The one line that stops the start, without the file's name."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, text(name, parameters, more))
    (line,) = str(refused.value).splitlines()
    return line.partition("config.yml:")[2].partition(": ")[2]


def test_azures_section_of_registry_2_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = f"{AZURE}, realm: core.chinacloudapi.cn, rootdirectory: /a/b/, skipverify: 'true'"
    assert made(tmp_path, "azure", parameters, monkeypatch) == AzureSettings(
        container="images",
        account="images1",
        endpoint="https://images1.blob.core.chinacloudapi.cn",
        key="a2V5",
        root="a/b",
        verify=False,
        retries=5,
        retry_delay=0.1,
        user_agent=appclouds.AGENT,
    )


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (f"{AZURE}, serviceurl: 'http://127.0.0.1:1/images1/'", {"endpoint": "http://127.0.0.1:1/images1"}),
        (f"{AZURE}, max_retries: '3', retry_delay: 1s", {"retries": 3, "retry_delay": 1.0}),
        (f"{AZURE}, credentials: {{type: default_credentials}}", {"key": "", "secret": ""}),
        (
            f"{AZURE}, credentials: {{type: client_secret, clientid: c, tenantid: t, secret: s}}",
            {"key": "", "client": "c", "tenant": "t", "secret": "s"},
        ),
        (
            (
                "container: images, connectionstring: 'DefaultEndpointsProtocol=https;AccountName=abc;"
                "AccountKey=aGV5eQ==;EndpointSuffix=core.windows.net'"
            ),
            {"account": "abc", "key": "aGV5eQ==", "endpoint": "https://abc.blob.core.windows.net"},
        ),
        (
            (
                "container: images, connectionstring: 'AccountName=abc;BlobEndpoint=http://h:1/abc;"
                "SharedAccessSignature=sv=1&sig=2'"
            ),
            {"account": "abc", "shared_access": "sv=1&sig=2", "endpoint": "http://h:1/abc"},
        ),
    ],
)
def test_an_azure_login_is_what_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: str, wanted: dict[str, Any]
) -> None:
    found = made(tmp_path, "azure", parameters, monkeypatch)
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_googles_section_of_registry_2_is_taken_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key.json"
    file.write_text(json.dumps({"type": "service_account", "client_email": "a@b"}))
    parameters = (
        f"bucket: images, keyfile: {file}, rootdirectory: /a, chunksize: '5242880', maxconcurrency: 3"
    )
    monkeypatch.delenv(appclouds.EMULATOR, raising=False)
    found = made(tmp_path, "gcs", f"{parameters}, useragent: me", monkeypatch)
    assert found == GcsSettings(
        bucket="images",
        key={"type": "service_account", "client_email": "a@b"},
        endpoint="https://storage.googleapis.com",
        root="a",
        part_size=5 << 20,
        connections=25,
        user_agent="me",
    )


@pytest.mark.parametrize("emulator", ["127.0.0.1:1", "http://127.0.0.1:1/"])
def test_googles_emulator_is_named_as_for_googles_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: str
) -> None:
    monkeypatch.setenv(appclouds.EMULATOR, emulator)
    assert made(tmp_path, "gcs", "bucket: images", monkeypatch).endpoint == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("more", "endpoint"),
    [
        ("", "https://oss-cn-hangzhou.aliyuncs.com"),
        (", internal: true", "https://oss-cn-hangzhou-internal.aliyuncs.com"),
        (", secure: false", "http://oss-cn-hangzhou.aliyuncs.com"),
        (", endpoint: images.oss-cn-beijing.aliyuncs.com", "https://oss-cn-beijing.aliyuncs.com"),
        (", endpoint: 'http://images.oss-cn-beijing.aliyuncs.com/'", "http://oss-cn-beijing.aliyuncs.com"),
        (", endpoint: oss-cn-beijing.aliyuncs.com", "https://oss-cn-beijing.aliyuncs.com"),
    ],
)
def test_oss_is_s3_with_alibabas_endpoints_and_the_bucket_in_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, endpoint: str
) -> None:
    found = made(tmp_path, "oss", f"{OSS}, rootdirectory: /a{more}", monkeypatch)
    assert isinstance(found, S3Settings)
    assert (found.endpoint, found.path_style, found.region) == (endpoint, False, "oss-cn-hangzhou")
    assert (found.access_key, found.secret_key, found.bucket, found.root) == ("id", "hush", "images", "a")


async def test_a_url_for_clients_of_oss_has_the_bucket_in_the_host(tmp_path: Path) -> None:
    config = load_text(tmp_path, text("oss", OSS)).config
    driver = appclouds.driver(config)
    assert isinstance(driver, S3Driver)
    assert driver.name == "oss"
    url = await driver._client.presign("a/b", 60)
    assert url.startswith("https://images.oss-cn-hangzhou.aliyuncs.com/a/b?")
    await driver.close()


@pytest.mark.parametrize(
    ("name", "parameters", "key", "said"),
    [
        ("azure", "accountname: abc", "container", "missing, wanted a value; this key is required here"),
        ("azure", "container: abc", "accountname", "missing, wanted the storage account's name, or a conn"),
        (
            "azure",
            "container: abc, accountname: A_B",
            "accountname",
            "got 'A_B', wanted an account's name, of",
        ),
        ("azure", "container: abc, connectionstring: a", "connectionstring", "wanted a connection string of"),
        (
            "azure",
            "container: abc, accountname: abc, accountkey: '§'",
            "accountkey",
            "wanted an account's key in",
        ),
        (
            "azure",
            "container: abc, accountname: abc, credentials: {type: shared_key}",
            "accountkey",
            "missing, wanted the account's key",
        ),
        (
            "azure",
            "container: abc, accountname: abc, credentials: {secret: s, clientid: c}",
            "credentials.tenantid",
            "missing, wanted clientid, tenantid and secret together",
        ),
        ("azure", f"{AZURE}, credentials: {{type: magic}}", "credentials.type", "got 'magic', wanted one of"),
        (
            "azure",
            f"{AZURE}, serviceurl: 'http://h', {TOKEN}",
            "serviceurl",
            "got 'http://h', wanted https://",
        ),
        ("azure", f"{IDENTITY}, serviceurl: 'http://h'", "serviceurl", "got 'http://h', wanted https://"),
        ("azure", f"{AZURE}, max_retries: 11", "max_retries", "got '11', wanted an integer from 0 to 10"),
        (
            "azure",
            f"{AZURE}, retry_delay: 1h",
            "retry_delay",
            "wanted a duration from 1ms to 10s, such as 1s",
        ),
        ("gcs", "rootdirectory: /a", "bucket", "missing, wanted a value; this key is required here"),
        ("gcs", "bucket: b01, chunksize: 262145", "chunksize", "got '262145', wanted a multiple of 262144"),
        ("gcs", "bucket: b01, keyfile: k, credentials: {a: b}", "credentials", "given beside keyfile"),
        ("oss", "bucket: b01", "accesskeyid", ""),
        ("oss", f"{OSS}, endpoint: cdn.example.com", "endpoint", "got 'cdn.example.com', wanted an endpoint"),
    ],
)
def test_a_bad_value_stops_the_start(tmp_path: Path, name: str, parameters: str, key: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(tmp_path, text(name, parameters))
    assert f"storage.{name}.{key}" in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("beside", ["", "accountkey: a2V5", "credentials: {type: default_credentials}"])
def test_a_connection_string_without_a_login_stops_the_start(tmp_path: Path, beside: str) -> None:
    config = f"""version: 0.1
storage:
  azure:
    container: images
    connectionstring: AccountName=abc;EndpointSuffix=core.windows.net
    {beside}
"""
    if beside:
        assert load_text(tmp_path, config).config.storage.azure is not None
        return
    said = "wanted AccountKey=… or SharedAccessSignature=… in it, or accountkey or credentials beside it"
    with pytest.raises(ConfigError, match=rf"config\.yml:5: storage\.azure\.connectionstring: {said}"):
        load_text(tmp_path, config)


@pytest.mark.parametrize("key", ["accountkey", "connectionstring"])
def test_a_bad_key_of_azure_is_told_with_its_line(tmp_path: Path, key: str) -> None:
    value = "'§'" if key == "accountkey" else "AccountName=abc;AccountKey=§"
    config = f"""version: 0.1
storage:
  azure:
    container: images
    accountname: abc
    {key}: {value}
"""
    said = rf"config\.yml:6: storage\.azure\.{key}: wanted an account's key in base64"
    with pytest.raises(ConfigError, match=said):
        load_text(tmp_path, config)


@pytest.mark.parametrize(
    ("container", "url", "is_twice"),
    [
        ("images", "https://abc.blob.core.windows.net/images", True),
        ("images", "http://h:1/abc/images", True),
        ("images", "http://h:1/abc", False),
        ("abc", "http://h:1/abc", False),
        ("abc", "http://h:1/abc/abc", True),
    ],
)
def test_a_url_of_azure_has_no_container_in_it(
    tmp_path: Path, container: str, url: str, is_twice: bool
) -> None:
    parameters = f"container: {container}, accountname: abc, accountkey: a2V5, serviceurl: '{url}'"
    found = [warning.key for warning in remarks(load_text(tmp_path, text("azure", parameters)))]
    assert found == (["storage.azure.serviceurl"] if is_twice else [])


@pytest.mark.parametrize(("name", "parameters"), [("azure", AZURE), ("gcs", "bucket: images"), ("oss", OSS)])
def test_a_disk_before_the_cloud_is_as_one_before_a_bucket(
    tmp_path: Path, name: str, parameters: str
) -> None:
    more = "cache: {folder: own, disk: {maxsize: 1GiB}}\n"
    loaded = load_text(tmp_path, text(name, parameters, more))
    assert remarks(loaded) == []
    assert disk_folder(loaded.config) == Path("own/mirror/disk").absolute()
    assert isinstance(appstorage.driver(loaded.config), TieredDriver)


def test_swift_with_a_login_of_its_own_is_its_s3_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(
        tmp_path, "swift", f"{SWIFT}, authurl: 'https://swift:8080/auth/v1.0', prefix: /a/b", monkeypatch
    )
    assert (found.access_key, found.secret_key, found.login) == ("t:u", "hush", None)
    assert (found.endpoint, found.bucket, found.root) == ("https://swift:8080", "images", "a/b/files")
    assert (found.path_style, found.hidden_sizes, found.verify) == (True, True, True)


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        (
            "tenant: p",
            {"user_domain_id": "default", "project_name": "p", "project_domain_id": "default"},
        ),
        (
            "tenant: p, domain: d",
            {"user_domain_name": "d", "project_name": "p", "project_domain_name": "d"},
        ),
        (
            "tenant: p, domainid: d, tenantdomain: e",
            {"user_domain_id": "d", "project_name": "p", "project_domain_name": "e"},
        ),
        ("tenantid: p, domain: d", {"user_domain_name": "d", "project_id": "p"}),
        ("tenantid: p, trustid: t", {"user_domain_id": "default", "trust_id": "t"}),
        (
            "tenantid: p, region: r, endpointtype: admin, s3endpoint: https://s3.x, insecureskipverify: true",
            {
                "user_domain_id": "default",
                "project_id": "p",
                "region": "r",
                "interface": "admin",
                "endpoint": "https://s3.x",
                "verify": False,
            },
        ),
    ],
)
def test_swift_with_a_login_of_keystone_s_asks_for_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: str, wanted: dict[str, Any]
) -> None:
    found = made(tmp_path, "swift", f"{SWIFT}, authurl: 'https://k/v3', {parameters}", monkeypatch)
    assert (found.access_key, found.endpoint, found.root) == ("", "", "files")
    login = KeystoneSettings(url="https://k/v3", username="t:u", password="hush", **wanted)
    assert found.login._settings == login


@pytest.mark.parametrize(
    ("parameters", "key", "said"),
    [
        (
            "authurl: 'https://k'",
            "authurl",
            "got 'https://k', wanted one with /v3 (Keystone) or /v1.0 (Swift it",
        ),
        ("authurl: k", "authurl", "got 'k', wanted a URL such as https://keystone.example.com/v3"),
        ("authurl: 'https://k/v2.0'", "authurl", "wanted one with /v3"),
        (
            "authurl: 'https://k', authversion: 2",
            "authversion",
            "got '2', wanted 1 (Swift's own logins) or 3",
        ),
        (
            "authurl: 'https://k/v3'",
            "tenant",
            "missing, wanted the name of the project, or its id in tenantid",
        ),
        ("authurl: 'https://k/v3', tenant: a, tenantid: b", "tenant", "given beside tenantid"),
        ("authurl: 'http://my_swift/auth/v1.0'", "authurl", "wanted a host name without _ (give it another"),
        (
            "authurl: 'http://my_swift/auth/v1.0', s3endpoint: 'http://a_b'",
            "s3endpoint",
            "got 'http://a_b', wanted a host",
        ),
    ],
)
def test_what_swift_cannot_log_in_with_stops_the_start(
    tmp_path: Path, parameters: str, key: str, said: str
) -> None:
    line = problem(tmp_path, "swift", f"{SWIFT}, {parameters}")
    assert line.startswith(f"storage.swift.{key}: ")
    assert said in line
    assert "hush" not in line


def test_what_was_for_temporary_urls_is_told_to_have_no_effect(tmp_path: Path) -> None:
    loaded = load_text(
        tmp_path,
        text(
            "swift",
            f"{SWIFT}, authurl: 'https://k/v1', secretkey: a, accesskey: b, tempurlcontainerkey: true",
        ),
    )
    assert [warning.key for warning in loaded.warnings if warning.key.startswith("storage.swift")] == [
        "storage.swift.accesskey",
        "storage.swift.secretkey",
        "storage.swift.tempurlcontainerkey",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("[]", "is not a JSON document"),
        ("{}x", "is not a JSON document"),
        ('{"a": 1}', "not the key"),
    ],
)
def test_a_key_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    config = load_text(tmp_path, text("gcs", f"bucket: images, keyfile: {file}")).config
    with pytest.raises(StartError, match=rf"storage\.gcs\.keyfile: .*{said}"):
        appclouds.driver(config)


def test_variables_alone_make_a_driver() -> None:
    storage = load_env(
        {"REGISTRY_STORAGE_GCS_BUCKET": "images", "REGISTRY_STORAGE_GCS_ROOTDIRECTORY": "/a"}
    ).config.storage
    assert storage.filesystem is None
    assert storage.gcs is not None
    assert (storage.gcs.bucket, storage.gcs.rootdirectory) == ("images", "/a")


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    private = "-----BEGIN PRIVATE KEY-----hush"
    for name, parameters in (
        (
            "azure",
            "container: abc, connectionstring: AccountName=abc;AccountKey=aHVzaA==, accountkey: aHVzaA==",
        ),
        (
            "azure",
            f"{AZURE}, credentials: {{clientid: c, tenantid: t, secret: hush}}".replace("a2V5", "aHVzaA=="),
        ),
        ("gcs", f"bucket: images, credentials: {{client_email: a@b, private_key: '{private}'}}"),
        ("oss", OSS.replace("accesskeyid: id", "accesskeyid: hush")),
    ):
        shown = dump(load_text(tmp_path, text(name, parameters)).config)
        assert "hush" not in shown
        assert "aHVzaA" not in shown
        assert yaml.safe_load(shown)["storage"][name]


def test_a_container_has_no_size_to_take_a_share_of(tmp_path: Path) -> None:
    said = problem(tmp_path, "azure", AZURE, "cache: {maxsize: 80%}\n")
    assert said.startswith("cache.maxsize: got '80%', wanted a size such as 200GiB")
    config = load_text(tmp_path, text("azure", AZURE, f"cache: {{folder: {tmp_path}}}\n")).config
    assert local_root(config) == tmp_path
    assert appclouds.described(config) == "azure://images"


def test_the_key_of_the_tests_is_one() -> None:
    """Or all that is tested with it would be of no worth."""
    Login(key()).close()
