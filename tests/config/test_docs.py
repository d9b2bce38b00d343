"""docs/configuration.md and examples/ are true of the models."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from mirror.config import Config, Storage
from mirror.configclouds import Azure, Gcs, Oss
from mirror.configeffect import RULES, Effect
from mirror.configfile import ConfigError, dump, load
from mirror.configproxy import UpstreamEntry
from mirror.configs3 import S3
from mirror.configschema import ROOT, Shape, Struct, describe
from mirror.configswift import Swift
from tests.support.certificates import self_signed

TOP = Path(__file__).parents[2]
EXAMPLES = sorted((TOP / "examples").glob("*.yml"))


def section(title: str) -> list[list[str]]:
    """The rows of the table under a heading, cell by cell, with the marks of code taken off."""
    text = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]


def in_effect_rows() -> list[list[str]]:
    """The table of what is in effect, without the marks at keys."""
    return [[row[0].removesuffix("` *"), *row[1:]] for row in section("In effect")]


def leaves(shape: Shape, prefix: str = "") -> Iterator[str]:
    """Every key that has no keys of ours below it."""
    if isinstance(shape, Struct) and shape.fields:
        for key, field in shape.fields.items():
            yield from leaves(field.shape, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix


def test_every_key_in_effect_is_documented_and_no_other() -> None:
    elsewhere = tuple(rule.key for rule in RULES if rule.value is None)
    in_effect = {
        key
        for key in leaves(ROOT)
        if key not in elsewhere and not key.startswith(tuple(f"{e}." for e in elsewhere))
    }
    documented = [row[0] for row in in_effect_rows()]
    assert len(documented) == len(set(documented))
    assert set(documented) == in_effect


@pytest.mark.parametrize(
    ("title", "effect"),
    [
        ("Stops the start", Effect.REFUSED),
        ("Not in effect in this version", Effect.LATER),
        ("Without a meaning for a mirror", Effect.NEVER),
    ],
)
def test_every_other_key_stands_in_the_table_of_its_effect(title: str, effect: Effect) -> None:
    keys = {rule.key for rule in RULES if rule.effect is effect and rule.value is None}
    assert {row[0] for row in section(title)} == keys


def test_the_keys_of_an_entry_of_upstreams_are_the_marked_ones() -> None:
    marked = {row[0].removeprefix("proxy.") for row in section("In effect") if row[0].endswith("` *")}
    assert {f"{key}` *" for key in leaves(describe(UpstreamEntry))} == marked


def test_the_documented_defaults_are_the_defaults() -> None:
    shown = yaml.safe_load(dump(Config()))
    hidden = SecretStr("k")
    sections: dict[str, Any] = {
        "s3": S3(bucket="images"),
        "azure": Azure(container="images"),
        "gcs": Gcs(bucket="images"),
        "swift": Swift(authurl="https://k/v3", username="u", password=hidden, container="images"),
        "oss": Oss(bucket="images", region="oss-cn-hangzhou", accesskeyid=hidden, accesskeysecret=hidden),
    }
    for name, section in sections.items():
        made = yaml.safe_load(dump(Config(storage=Storage(**{name: section}))))["storage"][name]
        needed = [each for each, field in type(section).model_fields.items() if field.is_required()]
        shown["storage"][name] = {**made, **dict.fromkeys(needed, "")}
    for key, default, _variable, _text in in_effect_rows():
        value = shown
        for part in key.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        written = {"True": "true", "False": "false", "": "-"}.get(str(value), str(value))
        assert (key, default) == (key, written)


def test_the_documented_variables_are_those_of_their_keys() -> None:
    for key, _default, variable, _text in in_effect_rows():
        if key != "version":
            name = "REGISTRY_" + key.replace(".", "_").upper()
            assert re.fullmatch(
                rf"{name}(_…|_0|_0_MATCH)?|REGISTRY_STORAGE=inmemory|REGISTRY_AUTH=none", variable
            ), key


def test_there_are_examples() -> None:
    assert [path.name[:2] for path in EXAMPLES] == [f"{number:02}" for number in range(1, 15)]


@pytest.mark.parametrize("path", [*EXAMPLES[:3], *EXAMPLES[4:6]], ids=lambda path: path.name)
def test_an_example_of_ours_loads_without_a_warning(path: Path) -> None:
    assert load(path, {}).warnings == ()


@pytest.mark.parametrize("path", EXAMPLES[10:], ids=lambda path: path.name)
def test_an_example_with_object_storage_loads_without_a_warning(path: Path) -> None:
    assert load(path, {}).warnings == ()


def test_the_example_with_tls_loads_where_the_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_signed(tmp_path, "tls")
    monkeypatch.chdir(tmp_path)
    assert load(EXAMPLES[6], {}).warnings == ()


def test_a_file_of_registry_2_loads_and_each_key_that_does_nothing_is_named() -> None:
    loaded = load(EXAMPLES[3], {})
    assert loaded.config.proxy.remoteurl == "https://registry-1.docker.io"
    assert {warning.key for warning in loaded.warnings} == {
        "http.secret",
        "storage.delete",
        "storage.maintenance.uploadpurging",
    }


def test_the_unit_lets_every_folder_be_written_that_an_example_names() -> None:
    """ProtectSystem=strict leaves nothing else; ./data counts from wherever the mirror is started by hand."""
    unit = (TOP / "examples" / "mirror.service").read_text(encoding="utf-8")
    assert "\nProtectSystem=strict\n" in unit
    above = {"State": "/var/lib", "Cache": "/var/cache"}
    written = [
        Path(above[kind], name) for kind, name in re.findall(r"(?m)^(State|Cache)Directory=(.+)$", unit)
    ]
    named = {}
    for path in EXAMPLES:
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
        cache, local = file.get("cache", {}), file["storage"].get("filesystem", {})
        folders = (cache.get("folder"), cache.get("disk", {}).get("folder"), local.get("rootdirectory"))
        named[path.name] = [Path(folder) for folder in folders if folder]
    assert Path("/var/cache/mirror") in named["11-s3.yml"]
    for name, absolute in named.items():
        for folder in absolute:
            assert not folder.is_absolute() or any(folder.is_relative_to(each) for each in written), name


def test_the_clients_snippets_parse() -> None:
    clients = TOP / "examples" / "clients"
    assert json.loads((clients / "daemon.json").read_text())["registry-mirrors"] == ["http://127.0.0.1:5000"]
    hosts = tomllib.loads((clients / "hosts.toml").read_text())
    assert hosts["host"]["http://127.0.0.1:5000"]["capabilities"] == ["pull", "resolve"]
    registries = tomllib.loads((clients / "registries.conf").read_text())
    for registry, path in zip(registries["registry"], ["", "/quay.io"], strict=True):
        assert registry["mirror"][0]["location"] == f"127.0.0.1:5000{path}"
    every = tomllib.loads((clients / "default-hosts.toml").read_text())
    assert every["host"] == hosts["host"]


def test_the_documented_configuration_of_several_upstreams_loads(tmp_path: Path) -> None:
    """But for the file that it names, and for the program that is not here."""
    text = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    snippet = text.split("\n## Several upstreams\n")[1].split("```yaml\n")[1].split("```")[0]
    (tmp_path / "config.yml").write_text(f"version: 0.1\nstorage: inmemory\n{snippet}", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(tmp_path / "config.yml", {})
    assert re.fullmatch(
        r"\S+: proxy\.upstreams\.registry\.example:5000\.ca: got '/etc/ssl/team-ca\.pem', which cannot .*",
        str(refused.value),
    )


def test_the_documented_configuration_for_operators_loads(tmp_path: Path) -> None:
    text = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    snippet = text.split("\n## Health, metrics and notifications\n")[1].split("```yaml\n")[1].split("```")[0]
    remoteurl = "proxy:\n  remoteurl: https://registry-1.docker.io\n"
    text = f"version: 0.1\nstorage: inmemory\n{remoteurl}{snippet}"
    (tmp_path / "config.yml").write_text(text, encoding="utf-8")
    loaded = load(tmp_path / "config.yml", {})
    assert loaded.warnings == ()
    assert [endpoint.name for endpoint in loaded.config.notifications.endpoints] == ["audit"]


def test_the_documented_configuration_of_what_is_kept_loads(tmp_path: Path) -> None:
    text = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    snippet = text.split("\n## What is kept\n")[1].split("```yaml\n")[1].split("```")[0]
    remoteurl = "proxy:\n  remoteurl: https://registry-1.docker.io\n"
    text = f"version: 0.1\nstorage: inmemory\n{snippet.replace('proxy:', remoteurl.rstrip(), 1)}"
    (tmp_path / "config.yml").write_text(text, encoding="utf-8")
    loaded = load(tmp_path / "config.yml", {})
    assert loaded.warnings == ()
    assert len(loaded.config.cache.pin) == 2


def test_every_promise_names_a_test_that_there_is() -> None:
    """docs/security.md: in each row of its tables of promises, a file of tests, or a test's name."""
    text = (TOP / "docs" / "security.md").read_text(encoding="utf-8")
    defined: set[str] = set()
    for path in (TOP / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"def (test_\w+)\(", path.read_text(encoding="utf-8")))
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 50
    assert named <= defined
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert [name for name in files if not (TOP / name).exists()] == []
    promises = "".join(re.findall(r"## Promises:.*?(?=\n## )", text, re.DOTALL))
    rows = [
        row for row in promises.splitlines() if row.startswith("| ") and not row.startswith(("| p", "| -"))
    ]
    assert len(rows) > 50
    assert [row for row in rows if "test_" not in row.rsplit("|", 2)[1]] == []
