"""Unknown keys below `storage` and `cache`: what is near a known one is a slip, and stops the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mirror.cli import cli
from mirror.configfile import ConfigError
from tests.support.configs import load_text, remarks, write

S3 = "region: eu-central-1, bucket: images"
AZURE = "accountname: acme, accountkey: a2V5, container: images"
GCS = "bucket: images"
OSS = "accesskeyid: a, accesskeysecret: b, region: oss-cn-hangzhou, bucket: images"
SWIFT = "authurl: 'https://k.example/v3', username: u, password: p, tenant: t, container: images"
FILE = "rootdirectory: /srv"


def refused(folder: Path, text: str, **environ: str) -> tuple[list[str], list[str]]:
    """What was ignored, and the lines of the error, without the folder."""
    with pytest.raises(ConfigError) as error:
        load_text(folder, f"version: 0.1\n{text}", **environ)
    ignored = [str(said).replace(f"{folder}/", "") for said in error.value.ignored]
    return ignored, str(error.value).replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("storage", "key", "right"),
    [
        (f"s3: {{{S3}, regionendpont: 'http://minio:9000'}}", "s3.regionendpont", "regionendpoint"),
        (f"s3: {{{S3}, regionEndpoint: 'http://minio:9000'}}", "s3.regionEndpoint", "regionendpoint"),
        (f"s3: {{{S3}, regoin: x}}", "s3.regoin", "region"),
        (f"s3: {{{S3}, acceskey: a, secretkey: b}}", "s3.acceskey", "accesskey"),
        (f"s3aws: {{{S3}, rootdirectry: /mirror}}", "s3aws.rootdirectry", "rootdirectory"),
        ("s3: {region: eu-central-1, bukcet: images}", "s3.bukcet", "bucket"),
        ("azure: {acountname: acme, accountkey: a2V5, container: images}", "azure.acountname", "accountname"),
        (f"azure: {{{AZURE}, credentials: {{typ: shared_key}}}}", "azure.credentials.typ", "type"),
        (f"gcs: {{{GCS}, rootdir_ectory: /mirror}}", "gcs.rootdir_ectory", "rootdirectory"),
        (f"oss: {{{OSS}, intrnal: true}}", "oss.intrnal", "internal"),
        (f"swift: {{{SWIFT}, prefx: /mirror}}", "swift.prefx", "prefix"),
        ("filesystem: {rootdirectry: /srv}", "filesystem.rootdirectry", "rootdirectory"),
        (f"filesystem: {{{FILE}}}, redirect: {{disabel: true}}", "redirect.disabel", "disable"),
        (f"filesystem: {{{FILE}}}, maintenance: {{readonli: {{}}}}", "maintenance.readonli", "readonly"),
    ],
)  # fmt: skip
def test_a_slip_below_storage_stops_the_start_and_is_all_that_is_said(
    tmp_path: Path, storage: str, key: str, right: str
) -> None:
    """A key that is only misspelt does not count as missing."""
    wanted = f"storage.{key.rpartition('.')[0]}.{right}"
    assert refused(tmp_path, f"storage: {{{storage}}}\n") == (
        [],
        [f"config.yml:2: storage.{key}: unknown key; write {wanted}"],
    )


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ("{maxsiz: 1GiB}", "maxsiz: unknown key; write cache.maxsize"),
        ("{maxSize: 1GiB}", "maxSize: unknown key; write cache.maxsize"),
        ("{segments: {conections: 1}}", "segments.conections: unknown key; write cache.segments.connections"),
        ("{scrub: {intervall: 1h}}", "scrub.intervall: unknown key; write cache.scrub.interval"),
        ("{maximumsize: 1GiB}", "maximumsize: unknown key; did you mean cache.maxsize?"),
    ],
)
def test_a_slip_below_cache_does_too(tmp_path: Path, cache: str, said: str) -> None:
    text = f"storage: {{filesystem: {{{FILE}}}}}\ncache: {cache}\n"
    assert refused(tmp_path, text) == ([], [f"config.yml:3: cache.{said}"])


def test_what_stands_at_a_slip_is_checked_at_its_right_name_and_line(tmp_path: Path) -> None:
    text = "storage:\n  s3:\n    region: eu-central-1\n    bukcet: '-'\n    acceskey: hunter2\n"
    ignored, said = refused(tmp_path, text)
    assert ignored == []
    assert [line.split(", wanted")[0] for line in said] == [
        "config.yml:5: storage.s3.bukcet: unknown key; write storage.s3.bucket",
        "config.yml:5: storage.s3.bucket: got '-'",
        "config.yml:6: storage.s3.acceskey: unknown key; write storage.s3.accesskey",
    ]


def test_a_key_that_is_there_is_not_replaced_by_a_slip_of_it(tmp_path: Path) -> None:
    _, said = refused(tmp_path, f"storage: {{s3: {{{S3}, bukcet: '-', buckett: '-'}}}}\n")
    assert said == [
        "config.yml:2: storage.s3.bukcet: unknown key; write storage.s3.bucket",
        "config.yml:2: storage.s3.buckett: unknown key; write storage.s3.bucket",
    ]


@pytest.mark.parametrize(
    ("storage", "key"),
    [
        (f"azure: {{{AZURE}, copy_status_poll_max_retry: 10}}", "azure.copy_status_poll_max_retry"),
        (f"azure: {{{AZURE}, copy_status_poll_delay: 100ms}}", "azure.copy_status_poll_delay"),
        (f"swift: {{{SWIFT}, rootdirectory: /swift}}", "swift.rootdirectory"),
        (f"s3: {{{S3}, acl: private}}", "s3.acl"),
        (f"s3: {{{S3}, endpoint: 'http://minio:9000'}}", "s3.endpoint"),
        (f"filesystem: {{{FILE}, xyzzy: 1}}", "filesystem.xyzzy"),
        ("inmemory: {rootdirectory: /srv}", "inmemory.rootdirectory"),
    ],
)
def test_a_parameter_that_the_registry_knows_or_that_is_near_none_is_a_warning(
    tmp_path: Path, storage: str, key: str
) -> None:
    """A file of registry:2 or registry:3 goes on working. Swift's stands in its documented example."""
    said = remarks(load_text(tmp_path, f"version: 0.1\nstorage: {{{storage}}}\n"))
    assert [(warning.key, warning.text[:20]) for warning in said] == [
        (f"storage.{key}", "unknown key, ignored")
    ]


def test_an_option_that_is_no_driver_is_told_which_one_was_meant(tmp_path: Path) -> None:
    _, said = refused(tmp_path, f"storage: {{filesystem: {{{FILE}}}, redirct: {{disable: true}}}}\n")
    assert len(said) == 1
    assert said[0].startswith("config.yml:2: storage: got 'redirct', wanted one of the drivers ")
    assert said[0].endswith("; did you mean redirect?")


def test_what_was_ignored_is_told_beside_an_error(tmp_path: Path) -> None:
    """It may be the cause: here of the driver that is missing, and of the key."""
    text = "storge: {filesystem: {}}\nhttp: {adr: ':1'}\n"
    ignored, said = refused(tmp_path, text, REGISTRY_HTTP_ADRR=":2")
    assert ignored == [
        "config.yml:2: storge: unknown key, ignored; did you mean storage?",
        "config.yml:3: http.adr: unknown key, ignored; did you mean http.addr?",
        "REGISTRY_HTTP_ADRR: unknown variable, ignored; did you mean REGISTRY_HTTP_ADDR?",
    ]
    assert [line.split(",")[0] for line in said] == ["config.yml: storage: missing"]


@pytest.mark.parametrize("command", ["serve", "config"])
def test_the_commands_print_it_before_the_error(tmp_path: Path, command: str) -> None:
    file = write(tmp_path, "version: 0.1\nstorge: {filesystem: {}}\n")
    done = CliRunner().invoke(cli, [command, str(file)], env={})
    assert done.exit_code == 1
    warned, said = done.stderr.splitlines()
    assert warned == f"mirror: warning: {file}:2: storge: unknown key, ignored; did you mean storage?"
    assert said.startswith(f"mirror: {file}: storage: missing, wanted one driver")
