"""The file: what it means, and what is said when it cannot be used: one line each, and no secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirror.config import Config
from mirror.configfile import FILE_LIMIT, ConfigError, load
from mirror.confighosts import Address
from mirror.configvalues import Size
from tests.support.configs import MINIMAL, load_env, load_text, remarks, write


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    """The lines of the error that this file leads to, without the folder."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, text, **environ)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def test_without_a_file_it_mirrors_docker_hub_from_data_on_port_5000() -> None:
    loaded = load_env({})
    config = loaded.config
    assert loaded.warnings == ()
    assert config.proxy.remoteurl == "https://registry-1.docker.io"
    assert config.storage.filesystem is not None
    assert config.storage.filesystem.rootdirectory == Path("data")
    assert config.http.addr == Address("", 5000)


def test_without_a_file_a_variable_may_name_another_driver() -> None:
    storage = load_env({"REGISTRY_STORAGE_INMEMORY": ""}).config.storage
    assert storage.inmemory is not None
    assert storage.filesystem is None


def test_the_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    config = load_text(tmp_path, "version: 0.1\nstorage: filesystem\n").config
    assert config == Config()
    assert config.storage.filesystem is not None
    assert config.storage.filesystem.rootdirectory == Path("/var/lib/registry")
    assert (config.http.draintimeout, config.proxy.deadline, config.proxy.retries) == (30.0, 1.0, 2)
    timeouts = config.proxy.timeouts
    assert (timeouts.connect, timeouts.firstbyte, timeouts.stall) == (10.0, 30.0, 30.0)
    assert (config.catalog.maxentries, config.tags.maxtags) == (1000, 1000)
    assert (config.log.level, config.log.formatter) == ("info", "text")


@pytest.mark.parametrize("storage", ["inmemory", "{inmemory: }", "{inmemory: {}}", "\n  inmemory:\n"])
def test_a_driver_without_parameters_is_a_driver(tmp_path: Path, storage: str) -> None:
    assert load_text(tmp_path, f"version: 0.1\nstorage: {storage}").config.storage.inmemory is not None


def test_values_that_the_registry_corrects_are_corrected(tmp_path: Path) -> None:
    text = (
        "version: 0.1\nstorage: {filesystem: {maxthreads: 1}, cache: {blobdescriptorsize: 0}}\n"
        "catalog: {maxentries: -1}\ntags: {maxtags: 0}\nhttp: {draintimeout: 0, prefix: /a/}\n"
        "proxy: {remoteurl: 'https://host/', realms: [A.example]}\ncache: {maxsize: 0, minfree: 5%}\n"
    )
    config = load_text(tmp_path, text).config
    assert config.storage.filesystem is not None
    assert config.storage.filesystem.maxthreads == 25
    assert config.storage.cache.blobdescriptorsize == 1_000_000
    assert (config.catalog.maxentries, config.tags.maxtags) == (1000, 1000)
    assert (config.http.draintimeout, config.http.prefix) == (0.0, "/a")
    assert (config.proxy.remoteurl, config.proxy.realms) == ("https://host", ("a.example",))
    assert (config.cache.maxsize, config.cache.minfree) == (None, Size(percent=5.0))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "config.yml: empty: the least is a line `version: 0.1` and a storage section"),
        ("# nothing\n", "config.yml: empty: the least is a line `version: 0.1` and a storage section"),
        ("- a\n", "config.yml: not a section with keys such as version, storage, http and proxy"),
        ("just text", "config.yml: not a section with keys such as version, storage, http and proxy"),
        ("storage: inmemory\n", "config.yml: version: missing, wanted 0.1"),
        ("version: 0.2\n", "config.yml:1: version: got '0.2', wanted 0.1"),
        ("version: 0.10\n", "config.yml:1: version: got '0.10', wanted 0.1"),
        ("version: [0.1]\n", "config.yml:1: version: got a list, wanted 0.1"),
        ("a: 1\na: 2\n", "config.yml:2:1: key 'a' is there twice, first in line 1"),
        (
            "a: b: c\n",
            (
                "config.yml:1:5: not YAML: a value with a colon and a space in it needs single quotes "
                "(mapping values are not allowed here)"
            ),
        ),
        (
            "version: 0.1\n",
            (
                "config.yml: storage: missing, wanted one driver, such as "
                "storage: {filesystem: {rootdirectory: /var/lib/registry}}"
            ),
        ),
        (
            "version: 0.1\nstorage: {delete: {enabled: true}}\n",
            (
                "config.yml:2: storage: got no driver, wanted one driver, such as "
                "storage: {filesystem: {rootdirectory: /var/lib/registry}}"
            ),
        ),
        (
            "version: 0.1\nstorage:\n  filesystem: {}\n  inmemory: {}\n",
            (
                "config.yml:4: storage: got filesystem and inmemory, wanted exactly one driver; "
                "remove the other, which may come from a REGISTRY_STORAGE_* variable"
            ),
        ),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path, text) == [said]


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    large = write(tmp_path, "#" * (FILE_LIMIT + 1))
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"version: \xff\n")
    for path, said in (
        (tmp_path / "none.yml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (large, "larger than 1 MiB: not a configuration file"),
        (binary, "not UTF-8 text (byte 9)"),
    ):
        with pytest.raises(ConfigError) as refused:
            load(path, {})
        assert str(refused.value) == f"{path}: {said}"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load(path, {}).config.storage.inmemory is not None


DURATION = "a duration such as 30s or 500ms (units: h, m, s, ms)"
BOUNDED = "a duration from 100ms to 10m, such as 30s"
URL = "an http or https URL with a host, such as https://registry-1.docker.io"
NEITHER = "for no login leave both out"
ONE_LOGIN = "wanted one login only: username and password, identitytoken, exec or dockerconfig"
ADDRESS = "HOST:PORT, such as :5000, 127.0.0.1:5000 or [::1]:5000, with a port from 0 to 65535"

AGE = "a duration from 0s to 596523h14m8s, such as 30s"
PERIOD = "0 (never), or a duration of at least 1s, such as 168h"
RATE = "a size for each second such as 10MiB, of at least 64KiB"
PROXY = "http://HOST:PORT or https://HOST:PORT of a proxy, or direct for none"

BAD_VALUES = [
    ("log", "level", "loud", "one of error, warn, info, debug"),
    ("log", "formatter", "xml", "one of text, json, logstash"),
    ("log", "accesslog", "true", "a section of keys"),
    ("log", "accesslog.disabled", "maybe", "true or false"),
    ("log", "fields", "x", "a section of keys"),
    ("http", "addr", "5000", ADDRESS),
    ("http", "net", "udp", 'one of "", tcp, unix'),
    ("http", "host", "example.com", URL),
    ("http", "prefix", "v2", "a path such as /registry/, of letters, digits and . _ ~ - only"),
    ("http", "draintimeout", "soon", DURATION),
    ("http", "draintimeout", "25h", "a duration from 0s to 24h, such as 30s"),
    ("http", "draintimeout", "-1s", "a duration from 0s to 24h, such as 30s"),
    ("http", "headers.X-A", "b", "a list, such as [a, b]"),
    ("catalog", "maxentries", "many", "an integer"),
    ("tags", "maxtags", "-1", "an integer from 0 to 2147483647"),
    ("proxy", "remoteurl", "quay.io", "a URL with its scheme: write https://quay.io"),
    ("proxy", "remoteurl", "ftp://quay.io", URL),
    ("proxy", "deadline", "2m", "a duration from 0s to 1m, such as 30s"),
    ("proxy", "timeouts.connect", "0", BOUNDED),
    ("proxy", "timeouts.firstbyte", "1h", BOUNDED),
    ("proxy", "timeouts.stall", "30", BOUNDED),  # nanoseconds
    ("proxy", "retries", "11", "an integer from 0 to 10"),
    ("proxy", "ttl", "7d", DURATION),
    ("proxy", "stale", "-1h", AGE),
    ("proxy", "freshness.default", "x", DURATION),
    ("proxy", "freshness.default", "-1s", AGE),
    ("proxy", "negative", "-1ns", AGE),
    ("proxy", "quota.reserve", "0.1", "a share from 0% to 100%, such as 10%"),
    ("proxy", "connections", "0", "an integer from 1 to 1000"),
    ("proxy", "insecure", "x509", "true or false"),
    ("proxy", "httpproxy", "proxy:3128", PROXY),
    ("proxy", "httpproxy", "socks5://proxy:1080", PROXY),
    ("proxy", "httpproxy", "http://proxy/path", PROXY),
    ("cache", "maxsize", "200G", "a size such as 200GiB or 500MB, or a share of the disk such as 5%"),
    ("cache", "minfree", "101%", "a share between 0% and 100%"),
    ("cache", "maxsize", "200", "0 (no limit), or at least 1MiB; without a unit it is bytes"),
    ("cache", "pin", "*:latest", "a list, such as [a, b]"),
    ("cache", "scrub.interval", "720", PERIOD),  # nanoseconds
    ("cache", "scrub.rate", "10", RATE),
    ("cache", "scrub.rate", "5%", RATE),
    ("cache", "scrub.rate", "fast", RATE),
    ("cache", "requests", "49", "0 (no limit), or an integer from 50 to 10000"),
    ("cache", "requests", "10001", "0 (no limit), or an integer from 50 to 10000"),
    ("cache", "segments.from", "63KiB", "a size such as 32MiB, of at least 64KiB"),
    ("cache", "segments.from", "5%", "a size such as 32MiB, of at least 64KiB"),
    ("cache", "segments.connections", "0", "an integer from 1 to 12"),
    ("cache", "segments.connections", "13", "an integer from 1 to 12"),
    ("proxy", "ttl", "168", PERIOD),  # nanoseconds
    ("health", "storagedriver.interval", "x", DURATION),
    ("redis", "db", "x", "an integer"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "key", "value", "allowed"), BAD_VALUES)
def test_a_bad_value_is_named_with_its_path_and_what_is_allowed(
    tmp_path: Path, section: str, key: str, value: str, allowed: str
) -> None:
    inner = f"'{value}'"
    for part in reversed(key.split(".")):
        inner = f"{{{part}: {inner}}}"
    assert problems(tmp_path, f"{MINIMAL}{section}: {inner}\n") == [
        f"config.yml:3: {section}.{key}: got '{value}', wanted {allowed}"
    ]
    name = f"REGISTRY_{section}_{key.replace('.', '_')}".upper()
    if "-" not in name:  # a map's key would be lower-cased
        assert problems(tmp_path, MINIMAL, **{name: f"'{value}'"}) == [
            f"{name}: {section}.{key}: got '{value}', wanted {allowed}"
        ]


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    text = MINIMAL + "http:\n  addr: x\n  headers: [a]\nproxy:\n  realms: [ok, 'https://no']\nauth: htpaswd\n"
    said = problems(tmp_path, text, REGISTRY_LOG_LEVEL="x")
    assert [re.split(": got|: not", line)[0] for line in said] == [
        "config.yml:4: http.addr",
        "config.yml:5: http.headers",
        "config.yml:7: proxy.realms[1]",
        "config.yml:8: auth",
        "REGISTRY_LOG_LEVEL: log.level",
    ]


def test_headers_that_would_split_an_answer_are_refused(tmp_path: Path) -> None:
    for headers, words in (
        (
            '{X-A: ["b\\r\\nSet-Cookie: c"]}',
            "header values without line breaks and control characters; see X-A",
        ),
        ("{'X A': [b]}", "header names of letters, digits and - only, not 'X A'"),
    ):
        assert problems(tmp_path, f"{MINIMAL}http: {{headers: {headers}}}\n") == [
            f"config.yml:3: http.headers: got a section, wanted {words}"
        ]


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("{username: u}", f"proxy.password: missing, wanted beside proxy.username; {NEITHER}"),
        ("{password: p}", f"proxy.username: missing, wanted beside proxy.password; {NEITHER}"),
        ("{username: u, password: ''}", f"proxy.password: missing, wanted beside proxy.username; {NEITHER}"),
        (
            "{username: u, password: p, identitytoken: t}",
            f"proxy.identitytoken: given beside proxy.username, {ONE_LOGIN}",
        ),
    ],
)  # fmt: skip
def test_credentials_are_whole_or_not_given(tmp_path: Path, proxy: str, said: str) -> None:
    assert problems(tmp_path, f"{MINIMAL}proxy: {proxy}\n", REGISTRY_PROXY_REMOTEURL="https://a") == [
        f"config.yml:3: {said}"
    ]


@pytest.mark.parametrize(
    "proxy",
    [
        "{remoteurl: 'https://user:hunter2@host'}",
        "{remoteurl: 'https://user:hun/ter2@host'}",
        "{remoteurl: 'user:hunter2@host'}",
        "{password: [hunter2]}",
        "{password: {hunter2: 1}}",
        "{password: hunter2}",
        "{identitytoken: hunter2, username: u, password: hunter2}",
        "{realms: ['https://user:hunter2@host']}",
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, proxy: str) -> None:
    said = " ".join(problems(tmp_path, f"{MINIMAL}proxy: {proxy}\n"))
    assert "config.yml:3: proxy." in said
    assert "hunter2" not in said
    assert "ter2" not in said


def test_a_long_or_wild_value_is_shown_short_and_on_one_line(tmp_path: Path) -> None:
    said = problems(tmp_path, MINIMAL + 'log: {level: "' + "x" * 500 + '"}\nhttp: {addr: "a\\n\\e[2Jb"}\n')
    assert len(said) == 2
    assert f"got '{'x' * 100}…', wanted " in said[0]
    assert "got 'a\\n\\x1b[2Jb', wanted " in said[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("proxi: {}\n", "proxi: unknown key, ignored; did you mean proxy?"),
        ("http: {adr: ':1'}\n", "http.adr: unknown key, ignored; did you mean http.addr?"),
        ("remoteurl: x\n", "remoteurl: unknown key, ignored; did you mean proxy.remoteurl?"),
        ("http: {rootdirectory: x}\n",
         "http.rootdirectory: unknown key, ignored; did you mean storage.filesystem.rootdirectory?"),
        ("xyzzy: {a: [1]}\n", "xyzzy: unknown key, ignored"),
        ("loglevel: warn\n", "loglevel: deprecated: write log.level"),
        ("http: {draintimeout: 60}\n",
         "http.draintimeout: 60 is in nanoseconds, as in the registry; write a unit, such as 60s"),
    ],
)  # fmt: skip
def test_what_is_not_meant_as_it_stands_gets_a_warning(tmp_path: Path, text: str, said: str) -> None:
    loaded = load_text(tmp_path, MINIMAL + text)
    assert [str(warning) for warning in remarks(loaded)] == [f"{tmp_path}/config.yml:3: {said}"]


def test_the_old_loglevel_counts_where_the_new_one_is_not_given(tmp_path: Path) -> None:
    assert load_text(tmp_path, MINIMAL + "loglevel: WARN\n").config.log.level == "warn"
    assert load_text(tmp_path, MINIMAL + "loglevel: warn\nlog: {level: error}\n").config.log.level == "error"
    assert load_text(tmp_path, MINIMAL + "loglevel: warn\nlog:\n").config.log.level == "warn"


def test_the_ca_file_is_looked_at_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "wrong.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "large.pem").write_text("x" * (FILE_LIMIT + 1))
    pem = "wanted a file with CA certificates in PEM form"
    for name, allowed in (
        ("none.pem", "which cannot be read: No such file or directory"),
        ("empty.pem", pem),
        ("wrong.pem", pem),
        ("large.pem", "wanted a file of at most 1 MiB"),
    ):
        assert problems(tmp_path, f"{MINIMAL}proxy: {{ca: {tmp_path}/{name}}}\n") == [
            f"config.yml:3: proxy.ca: got '{name}', {allowed}"
        ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "notifications: {endpoints: [{url: 'ftp://b/?token=hunter2'}]}",
            "notifications.endpoints[0].url: got",
        ),
        (
            "notifications: {endpoints: [{name: a}]}",
            "notifications.endpoints[0]: got a section, wanted one with",
        ),
        ("notifications: {endpoints: [{url: 'http://b', headers: {'X:': [hunter2]}}]}", "header names of"),
        ("health: {http: [{statuscode: 204}]}", "health.http[0].uri: missing"),
        ("health: {http: [{uri: 'b.example/?token=hunter2'}]}", "health.http[0].uri: got"),
        ("health: {http: [{uri: 'http://b', statuscode: 99}]}", "an integer from 100 to 599"),
        ("health: {file: [{interval: 1s}]}", "health.file[0].file: missing"),
        ("health: {tcp: [{addr: b}]}", "health.tcp[0].addr: got 'b', wanted HOST:PORT"),
        ("http: {debug: {addr: '5001'}}", "http.debug.addr: got '5001', wanted HOST:PORT"),
        ("http: {debug: {prometheus: {path: metrics}}}", "http.debug.prometheus.path: got 'metrics', wanted"),
    ],
)
def test_what_is_wrong_for_operators_is_named_and_shows_no_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(tmp_path, f"{MINIMAL}{text}\n")
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_what_is_0_for_operators_is_the_registrys_default(tmp_path: Path) -> None:
    text = """
health: {file: [{file: /a, interval: 0s}], tcp: [{addr: 'a:1', timeout: -1s}]}
notifications: {endpoints: [{url: 'http://b', timeout: 0s, threshold: 0, backoff: -1s}]}
"""
    config = load_text(tmp_path, MINIMAL + text).config
    assert (config.health.file[0].interval, config.health.tcp[0].timeout) == (10, 0)
    (endpoint,) = config.notifications.endpoints
    assert (endpoint.timeout, endpoint.threshold, endpoint.backoff) == (1, 10, 1)
