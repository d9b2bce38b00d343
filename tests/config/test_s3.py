"""`storage.s3`: registry:2's parameters, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.configfile import ConfigError, dump
from mirror.configremote import disk_folder, local_root
from mirror.configs3 import ACLS, CLASSES, S3
from tests.support.configs import load_env, load_text, remarks

LEAST = "bucket: images, region: eu-central-1"
REGION = "wanted a region such as us-east-1"
AMAZON = "got 'moon', wanted a region of Amazon's such as us-east-1, or a regionendpoint"
NAME = "wanted false beside regionendpoint or forcepathstyle: Amazon has no such name"
CHAIN = "or neither: then the AWS credential chain is asked"
URL = "wanted a URL such as https://s3.example.com, or a host name"
ROOT = "wanted a path such as /registry, of letters, digits and . _ -"

GENERAL = "wanted the name of a general purpose bucket: a directory bucket lists its keys in no order"
CLASS = (
    "directory buckets cannot be used (they list their keys in no order). "
    "Use a general purpose bucket, with STANDARD, or leave the key out"
)
UNDERSCORE = "wanted a host name without _ (give it another name, or its address)"
FOLDER = "wanted the name of a bucket; a folder in it goes into rootdirectory"


def text(parameters: str, name: str = "s3", more: str = "") -> str:
    return f"version: 0.1\nstorage: {{{name}: {{{parameters}}}}}\n{more}"


def s3(folder: Path, parameters: str, name: str = "s3") -> S3:
    loaded = load_text(folder, text(parameters, name))
    assert remarks(loaded) == []
    assert loaded.config.storage.s3 is not None
    return loaded.config.storage.s3


def problem(folder: Path, parameters: str, more: str = "") -> str:
    """The one line that stops the start, without the file's name."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, text(parameters, more=more))
    (line,) = str(refused.value).splitlines()
    return line.partition("config.yml:")[2].partition(": ")[2]


@pytest.mark.parametrize("name", ["s3", "s3aws"])
def test_a_section_of_registry_2_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    """The example of distribution's documentation, with numbers and flags as texts."""
    found = s3(
        tmp_path,
        """
    accesskey: awsaccesskey, secretkey: awssecretkey, region: us-west-1,
    regionendpoint: 'http://myobjects.local',
    forcepathstyle: 'true', bucket: bucketname, encrypt: "true", keyid: mykeyid, secure: 'true', v4auth: true,
    chunksize: "5242880", rootdirectory: /s3/object/name/prefix, storageclass: standard_ia,
    objectacl: public-read,
    accelerate: 'false', usedualstack: false, useragent: me, usefipsendpoint: 'false', skipverify: "false"
    """,
        name,
    )
    assert (found.accesskey and found.accesskey.get_secret_value()) == "awsaccesskey"
    assert (found.secretkey and found.secretkey.get_secret_value()) == "awssecretkey"
    assert (found.path_style, found.encrypt, found.secure) == (True, True, True)
    assert (found.chunksize, found.rootdirectory) == (5 << 20, "/s3/object/name/prefix")
    assert (found.storageclass, found.objectacl) == ("STANDARD_IA", "public-read")


@pytest.mark.parametrize("name", ["S3", "S3AWS"])
def test_variables_alone_make_a_driver(name: str) -> None:
    storage = load_env(
        {f"REGISTRY_STORAGE_{name}_BUCKET": "images", f"REGISTRY_STORAGE_{name}_REGION": "us-east-1"}
    ).config.storage
    assert storage.filesystem is None
    assert storage.s3 is not None
    assert (storage.s3.bucket, storage.s3.region, storage.s3.chunksize) == ("images", "us-east-1", 10 << 20)


@pytest.mark.parametrize(
    ("parameters", "path_style"),
    [
        (LEAST, False),
        (f"{LEAST}, regionendpoint: 'https://s3.example.com'", True),
        (f"{LEAST}, regionendpoint: 'https://s3.example.com', forcepathstyle: false", False),
        (f"{LEAST}, forcepathstyle: true", True),
    ],
)
def test_an_endpoint_implies_path_style_as_in_registry_2(
    tmp_path: Path, parameters: str, path_style: bool
) -> None:
    assert s3(tmp_path, parameters).path_style is path_style


@pytest.mark.parametrize(
    ("endpoint", "secure", "url"),
    [
        ("https://s3.example.com/", "true", "https://s3.example.com"),
        ("s3.example.com", "true", "https://s3.example.com"),
        ("s3.example.com:9000", "false", "http://s3.example.com:9000"),
        ("http://127.0.0.1:9000", "true", "http://127.0.0.1:9000"),
        ("http://[::1]:9000", "true", "http://[::1]:9000"),
        ("https://S3.example.com./s3", "true", "https://S3.example.com./s3"),
        ("", "true", ""),
    ],
)
def test_an_endpoint_is_a_url_or_a_host(tmp_path: Path, endpoint: str, secure: str, url: str) -> None:
    found = s3(tmp_path, f"{LEAST}, regionendpoint: '{endpoint}', secure: {secure}")
    assert found.url(found.regionendpoint) == url


@pytest.mark.parametrize(
    ("root", "found"), [("/a/b/", "/a/b"), ("a", "/a"), ("/", ""), ("''", ""), ("///", "")]
)
def test_the_root_has_one_slash_before_it_and_none_behind(tmp_path: Path, root: str, found: str) -> None:
    assert s3(tmp_path, f"{LEAST}, rootdirectory: {root}").rootdirectory == found


@pytest.mark.parametrize(
    ("parameters", "key", "said"),
    [
        ("region: us-east-1", "bucket", "missing, wanted a value; this key is required here"),
        ("bucket: b01", "region", f"missing, {REGION}; it may be left out with a regionendpoint only"),
        ("bucket: b01, region: moon", "region", AMAZON),
        ("bucket: b01, region: 'a b'", "region", f"got 'a b', {REGION}"),
        ("bucket: 'a b', region: us-east-1", "bucket", "got 'a b', wanted the name of a bucket"),
        ("bucket: b01--use1-az4--x-s, region: us-east-1", "bucket", f"got 'b01--use1-az4--x-s', {GENERAL}"),
        (f"{LEAST}, storageclass: express_onezone", "storageclass", f"got 'express_onezone': {CLASS}"),
        (f"{LEAST}, storageclass: cold", "storageclass", f"got 'cold', wanted one of {', '.join(CLASSES)}"),
        (f"{LEAST}, accesskey: a", "secretkey", f"missing, wanted both this and accesskey, {CHAIN}"),
        (f"{LEAST}, secretkey: a", "accesskey", f"missing, wanted both this and secretkey, {CHAIN}"),
        (f"{LEAST}, accelerate: true, regionendpoint: s3.example.com", "accelerate", f"got true, {NAME}"),
        (f"{LEAST}, accelerate: true, forcepathstyle: true", "accelerate", f"got true, {NAME}"),
        (f"{LEAST}, chunksize: 1", "chunksize", "got '1', wanted an integer from 5242880 to 5368709120"),
        (f"{LEAST}, encrypt: maybe", "encrypt", "got 'maybe', wanted true or false"),
        (f"{LEAST}, regionendpoint: 'ftp://a'", "regionendpoint", f"got 'ftp://a', {URL}"),
        (f"{LEAST}, regionendpoint: 'https://a:b'", "regionendpoint", f"got 'https://a:b', {URL}"),
        (
            f"{LEAST}, regionendpoint: 'http://my_minio:9000'",
            "regionendpoint",
            f"got 'http://my_minio:9000', {UNDERSCORE}",
        ),
        (f"{LEAST}, regionendpoint: my_minio", "regionendpoint", f"got 'my_minio', {UNDERSCORE}"),
        (f"{LEAST}, redirectendpoint: 'http://-a'", "redirectendpoint", f"got 'http://-a', {URL}"),
        ("bucket: images/foo, region: us-east-1", "bucket", f"got 'images/foo', {FOLDER}"),
        (f"{LEAST}, redirectendpoint: 'a?b'", "redirectendpoint", f"got 'a?b', {URL}"),
        (f"{LEAST}, rootdirectory: /a/../b", "rootdirectory", f"got '/a/../b', {ROOT}"),
        (f"{LEAST}, objectacl: mine", "objectacl", f"got 'mine', wanted one of {', '.join(ACLS)}"),
    ],
)
def test_a_bad_value_stops_the_start(tmp_path: Path, parameters: str, key: str, said: str) -> None:
    assert problem(tmp_path, parameters) == f"storage.s3.{key}: {said}"


def test_a_section_is_named_as_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yml:2: storage\.s3aws\.storageclass: got 'cold', wanted"):
        load_text(tmp_path, text(f"{LEAST}, storageclass: cold", "s3aws"))
    loaded = load_text(tmp_path, text(f"{LEAST}, sessiontoken: t", "s3aws"))
    assert [warning.key for warning in remarks(loaded)] == ["storage.s3aws.sessiontoken"]


def test_an_access_point_is_a_bucket(tmp_path: Path) -> None:
    arn = "arn:aws:s3:us-west-2:123456789012:accesspoint/images"
    assert s3(tmp_path, f"bucket: '{arn}', region: us-west-2").bucket == arn


def test_a_bucket_has_no_size_to_take_a_share_of(tmp_path: Path) -> None:
    assert problem(tmp_path, LEAST, "cache: {maxsize: 80%}\n") == (
        "cache.maxsize: got '80%', wanted a size such as 200GiB: a bucket has none to take a share of"
    )


@pytest.mark.parametrize(
    ("parameters", "more", "key"),
    [
        (LEAST, "cache: {minfree: 5%}\n", "cache.minfree"),
        (f"{LEAST}, sessiontoken: t", "", "storage.s3.sessiontoken"),
        (f"{LEAST}, v4auth: false", "", "storage.s3.v4auth"),
        (f"{LEAST}, regionendpoint: 'http://h:1/images'", "", "storage.s3.regionendpoint"),
        (f"{LEAST}, redirectendpoint: h/s3/images", "", "storage.s3.redirectendpoint"),
    ],
)
def test_what_means_nothing_is_a_warning(tmp_path: Path, parameters: str, more: str, key: str) -> None:
    loaded = load_text(tmp_path, text(parameters, more=more))
    assert [warning.key for warning in remarks(loaded)] == [key]


def test_a_signature_of_version_2_is_not_made_for_its_own_reason(tmp_path: Path) -> None:
    [warning] = remarks(load_text(tmp_path, text(f"{LEAST}, v4auth: false")))
    assert warning.text == "has no effect: requests are always signed by version 4"


@pytest.mark.parametrize("disk", ["maxsize: 50%", "folder: /fast", "{folder: /fast, maxsize: 0}"])
def test_a_disk_before_the_bucket_has_a_size(tmp_path: Path, disk: str) -> None:
    disk = disk if disk.startswith("{") else f"{{{disk}}}"
    found = problem(tmp_path, LEAST, f"cache: {{disk: {disk}}}\n")
    assert found.startswith("cache.disk.maxsize: ")
    assert "wanted a size such as 50GiB" in found


def test_a_disk_before_the_bucket_is_in_the_own_folder_or_where_it_is_said(tmp_path: Path) -> None:
    for more, folder in (("", None), (", disk: {maxsize: 1GiB}", "own/mirror/disk")):
        config = load_text(tmp_path, text(LEAST, more=f"cache: {{folder: own{more}}}\n")).config
        assert disk_folder(config) == (Path(folder).absolute() if folder else None)
    more = "cache: {disk: {maxsize: 1GiB, folder: fast}}\n"
    loaded = load_text(tmp_path, text(LEAST, more=more))
    assert disk_folder(loaded.config) == Path("fast").absolute()
    assert remarks(loaded) == []
    assert yaml.safe_load(dump(loaded.config))["cache"]["disk"]["folder"] == str(Path("fast").absolute())


def test_two_drivers_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"storage: got filesystem and s3, wanted exactly one driver"):
        load_text(tmp_path, "version: 0.1\nstorage: {filesystem: {}, s3: {bucket: b01, region: us-east-1}}\n")


def test_keys_are_never_shown(tmp_path: Path) -> None:
    parameters = f"{LEAST}, accesskey: AKIAXYZ, secretkey: hush, sessiontoken: hush2"
    shown = dump(load_text(tmp_path, text(parameters)).config)
    assert "AKIAXYZ" not in shown
    assert "hush" not in shown
    section: dict[str, Any] = yaml.safe_load(shown)["storage"]["s3"]
    assert (section["accesskey"], section["secretkey"], section["sessiontoken"]) == ("***", "***", "***")


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, text(f"{LEAST}, storageclass: GLACIER_IR", more="cache: {folder: x}\n"))
    shown = dump(loaded.config)
    assert yaml.safe_load(shown)["cache"]["folder"] == str(Path("x").absolute())
    again = load_text(tmp_path, shown)
    assert again.config.storage == loaded.config.storage
    assert remarks(again) == []


def test_the_own_folder_is_where_it_is_said_or_where_it_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    volume = tmp_path / "volume"
    monkeypatch.setattr("mirror.configremote.REGISTRY_ROOT", volume)
    config = load_text(tmp_path, text(LEAST)).config
    assert local_root(config) == tmp_path / "data"
    volume.mkdir()
    assert local_root(config) == volume
    config = load_text(tmp_path, text(LEAST, more="cache: {folder: own}\n")).config
    assert local_root(config) == tmp_path / "own"


def test_a_folder_beside_a_filesystem_is_a_warning(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, f"version: 0.1\nstorage: filesystem\ncache: {{folder: {tmp_path}}}\n")
    assert [warning.key for warning in remarks(loaded)] == ["cache.folder"]
    disk = "cache: {disk: {folder: /fast, maxsize: 1GiB}}"
    loaded = load_text(tmp_path, f"version: 0.1\nstorage: filesystem\n{disk}\n")
    assert [warning.key for warning in remarks(loaded)] == ["cache.disk.folder", "cache.disk.maxsize"]
