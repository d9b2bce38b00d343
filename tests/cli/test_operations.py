"""`mirror garbage-collect`, `verify` and `purge`: what is asked of whom, what is shown, how they end."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mirror import commands, commandsask, commandstext, explain, log
from mirror.cli import cli
from mirror.commandsrun import Screen
from mirror.config import Config
from mirror.ledger.inventory import NotKept
from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError
from mirror.server.control import SOCKET
from mirror.server.operations import Operate
from tests.cli.kit import Event, Script, data_folder, listening

DIGEST = "sha256:" + "a" * 64
SUMMARY = {"event": "summary", "removed": 1, "bytes": 5}
REMOVED = {"event": "removed", "kind": "blob", "name": DIGEST, "size": 5}
FOUND = {"event": "found", "kind": "blob", "name": DIGEST, "size": 5}
PROGRESS = {"event": "progress", "what": "reading manifests", "done": 1, "total": 2}
VERIFIED = {"event": "summary", "checked": 3, "bytes": 15, "bad": 0}
FLAGS = {"dry_run": "false", "delete_untagged": "false"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The data folder that the configuration names, with something of a registry in it."""
    with data_folder(tmp_path, monkeypatch) as folder:
        (folder / "docker" / "registry" / "v2").mkdir(parents=True)
        yield folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Script:
    """What an operation does in the command's own process, whose log stays as it is."""
    script = Script(PROGRESS, REMOVED, SUMMARY)

    @asynccontextmanager
    async def opened(_config: Config, _root: Path) -> AsyncGenerator[Operate, None]:
        yield script

    monkeypatch.setattr(commands, "opened", opened)
    monkeypatch.setattr(log, "configure_for_people", lambda _level, _render, _say: None)
    return script


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, args)


@pytest.mark.parametrize(
    ("args", "operation", "options"),
    [
        (["garbage-collect"], "garbage-collect", FLAGS),
        (["garbage-collect", "-d"], "garbage-collect", FLAGS | {"dry_run": "true"}),
        (["garbage-collect", "-m"], "garbage-collect", FLAGS | {"delete_untagged": "true"}),
        (
            ["garbage-collect", "-dmq"],
            "garbage-collect",
            {"dry_run": "true", "delete_untagged": "true"},
        ),
        (
            ["garbage-collect", "--dry-run", "--delete-untagged", "--quiet"],
            "garbage-collect",
            {"dry_run": "true", "delete_untagged": "true"},
        ),
        (
            ["garbage-collect", "--delete-untagged=true"],
            "garbage-collect",
            FLAGS | {"delete_untagged": "true"},
        ),
        (
            ["garbage-collect", "-m=1", "-d=T"],
            "garbage-collect",
            {"dry_run": "true", "delete_untagged": "true"},
        ),
        (["garbage-collect", "--dry-run=false"], "garbage-collect", FLAGS),
        (["garbage-collect", "-d", "--dry-run=false"], "garbage-collect", FLAGS),
        (["garbage-collect", "--dry-run=0", "-d"], "garbage-collect", FLAGS | {"dry_run": "true"}),
        (["verify"], "verify", {}),
        (["purge", "quay.io/org/app:1"], "purge", {"what": "quay.io/org/app:1"}),
        (["purge", "library/alpine"], "purge", {"what": "library/alpine"}),
        (["purge", f"a@{DIGEST}"], "purge", {"what": f"a@{DIGEST}"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_running_mirror_is_asked(
    root: Path, here: Script, args: list[str], operation: str, options: dict[str, str]
) -> None:
    script = Script(REMOVED, SUMMARY)
    with listening(root / SOCKET, operate=script):
        result = run(*args)
    assert (result.exit_code, result.stderr, script.asked) == (0, "", [(operation, options)])
    assert here.asked == []


@pytest.fixture
def config(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that names the data folder, which no variable does."""
    monkeypatch.delenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY")
    where = f"storage: {{filesystem: {{rootdirectory: {root}}}}}"
    Path("config.yml").write_text(f"version: 0.1\n{where}\nproxy: {{remoteurl: https://a.test}}\n")
    return "config.yml"


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("garbage-collect", ["config.yml", "--dry-run"]),
        ("garbage-collect", ["--dry-run", "config.yml"]),
        ("garbage-collect", ["--dry-run", "--config", "config.yml"]),
        ("verify", ["config.yml", "-q"]),
        ("verify", ["--config=config.yml"]),
        ("purge", ["a", "config.yml"]),
        ("purge", ["config.yml", "a"]),
        ("purge", ["-q", "a", "--config", "config.yml"]),
        ("purge", ["a.yml", "config.yml"]),
    ],
)
def test_the_configuration_is_an_argument_or_an_option(
    root: Path, config: str, operation: str, args: list[str]
) -> None:
    """Before or behind the others, as registry:2 takes it."""
    script = Script(REMOVED, SUMMARY)
    with listening(root / SOCKET, operate=script):
        assert run(operation, *args).exit_code == 0
    [(asked, options)] = script.asked
    assert asked == operation
    assert options.get("what", "a") == ("a.yml" if "a.yml" in args else "a")


def test_the_variable_names_the_configuration_too(
    root: Path, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", config)
    script = Script(REMOVED, SUMMARY)
    with listening(root / SOCKET, operate=script):
        for args in (["garbage-collect", "--dry-run"], ["verify"], ["purge", "a"]):
            assert run(*args).exit_code == 0
    assert [operation for operation, _ in script.asked] == ["garbage-collect", "verify", "purge"]


@pytest.mark.parametrize("is_running", [True, False], ids=["asked", "here"])
def test_items_and_a_summary_are_shown(root: Path, here: Script, is_running: bool) -> None:
    if is_running:
        with listening(root / SOCKET, operate=Script(PROGRESS, REMOVED, SUMMARY)):
            result = run("garbage-collect")
    else:
        result = run("garbage-collect")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"blob deleted (5 bytes): {DIGEST}\n1 blob deleted, 5 bytes freed\n"
    assert len(here.asked) == here.closed == (not is_running)


def test_a_dry_run_says_what_would_go(root: Path) -> None:
    with listening(root / SOCKET, operate=Script(FOUND, SUMMARY)):
        result = run("garbage-collect", "-d")
    assert result.stdout == (
        f"blob eligible for deletion (5 bytes): {DIGEST}\n"
        "1 blob, 5 bytes, eligible for deletion; nothing was changed\n"
    )


@pytest.mark.parametrize("args", [["garbage-collect", "-q"], ["verify", "--quiet"], ["purge", "-q", "a"]])
def test_quiet_says_nothing_when_all_is_well(root: Path, here: Script, args: list[str]) -> None:
    with listening(root / SOCKET, operate=Script(PROGRESS, REMOVED, SUMMARY)):
        result = run(*args)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (run(*args).output, len(here.asked)) == ("", 1)


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_damage_is_told_also_to_who_wants_quiet(root: Path, quiet: list[str]) -> None:
    bad = {"event": "bad", "kind": "manifest", "name": DIGEST, "size": 5, "repositories": ["a", "b"]}
    with listening(root / SOCKET, operate=Script(PROGRESS, bad, {**VERIFIED, "bad": 1})):
        result = run("verify", *quiet)
    assert result.exit_code == 1
    named = [f"manifest does not match its digest (5 bytes): {DIGEST}", "  of a, b; now deleted"]
    summary = (
        "mirror: 3 blobs read, 15 bytes: 1 does not match its digest: it was set aside, "
        "and it is fetched again when asked for"
    )
    assert result.stdout.splitlines() == ([] if quiet else named)
    assert result.stderr.splitlines() == [*(f"mirror: {line}" for line in named if quiet), summary]


def test_what_is_not_kept_cannot_be_purged(root: Path) -> None:
    with listening(root / SOCKET, operate=Script({"event": "summary", "images": 0, "bytes": 0})):
        result = run("purge", "alpine:3")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "mirror: alpine:3: nothing of it is kept\n",
    )


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (
            RegistryError(ErrorCode.UNKNOWN, "the upstream is asked for nothing"),
            "the upstream is asked for nothing",
        ),
        (OSError(5, "Input/output error", "/data"), "[Errno 5] Input/output error: '/data'"),
        (NotKept("the disk is full"), "the disk is full"),
    ],
)
def test_what_stops_an_operation_here_is_told(
    root: Path, here: Script, failure: Exception, text: str
) -> None:
    here.events = (REMOVED, failure)
    result = run("garbage-collect", "-q")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"mirror: {text}\n")
    assert here.closed == 1


def test_what_stops_the_running_mirrors_is_told(root: Path) -> None:
    with listening(root / SOCKET, operate=Script(REMOVED, OSError(5, "Input/output error"))):
        result = run("garbage-collect", "-q")
    assert (result.exit_code, result.stderr) == (1, "mirror: [Errno 5] Input/output error\n")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["verify", "none.yml"], "none.yml: cannot be read: No such file or directory"),
        (["garbage-collect", "none.yml"], "none.yml: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    root: Path, here: Script, args: list[str], text: str
) -> None:
    script = Script(SUMMARY)
    with listening(root / SOCKET, operate=script):
        result = run(*args)
    assert (result.exit_code, result.stderr, script.asked + here.asked) == (1, f"mirror: {text}\n", [])


NOTHING = "'{}' is not an image reference: "


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["Alpine"], NOTHING.format("Alpine") + "repository names are in lower case.\n"),
        (["a@sha256:12", "config.yml"], NOTHING.format("a@sha256:12") + "invalid checksum digest length.\n"),
        (["a:", "-q"], NOTHING.format("a:") + "invalid tag ''.\n"),
        (["config.yml"], "config.yml is a configuration: which image is meant?\n"),
        (["config.yml", "a", "--config", "config.yml"], "The configuration is given twice: "),
        ([], "Missing argument 'REPOSITORY[:TAG|@DIGEST]'."),
    ],
)
def test_what_no_image_can_be_called_is_a_wrong_call(
    root: Path, here: Script, args: list[str], text: str
) -> None:
    """It is said what is wrong with it, and how an image is written."""
    Path("config.yml").write_text("version: 0.1\n")
    script = Script(SUMMARY)
    with listening(root / SOCKET, operate=script):
        result = run("purge", *args)
    assert (result.exit_code, result.stdout, script.asked + here.asked) == (2, "", [])
    assert result.stderr.startswith("Usage: cli purge [OPTIONS] REPOSITORY[:TAG|@DIGEST] [CONFIG]\n")
    assert text in result.stderr
    assert ("Write it like library/alpine, " in result.stderr) == text.endswith("\n")


@pytest.mark.parametrize(
    "args", [["--nope"], ["-d=maybe"], ["a.yml", "b.yml"], ["a.yml", "--config", "b.yml"]]
)
def test_a_wrong_call_does_nothing(root: Path, here: Script, args: list[str]) -> None:
    result = run("garbage-collect", *args)
    assert (result.exit_code, here.asked) == (2, [])
    assert "Usage: " in result.stderr


def test_a_folder_without_a_registry_is_left_as_it_is(root: Path, here: Script) -> None:
    """Not a folder of the mirror's own is made in what may be anything."""
    (root / "docker" / "registry" / "v2").rmdir()
    result = run("garbage-collect")
    assert (result.exit_code, here.asked) == (1, [])
    assert result.stderr == (
        f"mirror: garbage-collect: nothing of a registry is in {root}: see storage.filesystem.rootdirectory\n"
    )
    assert not (root / "mirror").exists()


@pytest.mark.parametrize("args", [["garbage-collect"], ["verify"], ["purge", "a"]])
def test_a_mirror_in_memory_has_nothing_that_others_could_see(
    root: Path, here: Script, args: list[str]
) -> None:
    Path("config.yml").write_text("version: 0.1\nstorage: {inmemory: {}}\n")
    env = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": None, "REGISTRY_CONFIGURATION_PATH": "config.yml"}
    result = CliRunner(env=env).invoke(cli, args)
    assert (result.exit_code, here.asked) == (1, [])
    assert "keeps images in memory: only the running mirror has them" in result.stderr


def test_nothing_is_done_here_while_somebody_else_deletes(root: Path, here: Script) -> None:
    """Also beside a mirror that cannot be asked: it holds the lock in each of its passes."""
    (root / "mirror").mkdir()
    with (root / commands.LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run("garbage-collect")
        assert (result.exit_code, here.asked) == (1, [])
        assert result.stderr.startswith(
            f"mirror: garbage-collect: another process cleans up in {root}, and holds "
        )
    assert run("garbage-collect").exit_code == 0


def test_who_cannot_have_the_lock_is_told_why_and_to_be_another_user_only_where_that_helps(
    root: Path, here: Script
) -> None:
    (root / commands.LOCK).mkdir(parents=True)
    result = run("garbage-collect")
    assert result.exit_code == 1
    assert result.output.strip().endswith(f"cannot open {root / commands.LOCK}: Is a directory")
    assert here.asked == []


def test_the_lock_is_held_to_the_end(root: Path, here: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def item(_event: Event) -> str:
        with (root / commands.LOCK).open() as file, pytest.raises(BlockingIOError) as refused:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found.append(type(refused.value).__name__)
        return ""

    monkeypatch.setattr(commandstext, "item", item)
    assert run("garbage-collect").exit_code == 0
    assert found == ["BlockingIOError"]
    with (root / commands.LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_mirror_that_died_left_a_socket_and_no_lock(root: Path, here: Script) -> None:
    (root / "mirror").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(root / SOCKET))
    assert (run("verify").exit_code, here.asked) == (0, [("verify", {})])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            PermissionError(13, "Permission denied"),
            "not allowed to open {path}: ask as the user that the mirror runs as, or as root",
        ),
        (
            BlockingIOError(11, "Resource temporarily unavailable"),
            "the mirror at {path} takes no connections: it is too busy, or it hangs",
        ),
        (TimeoutError(), "the mirror at {path} takes no connections: "),
        (OSError(5, "Input/output error"), "cannot ask at {path}: Input/output error"),
    ],
)
def test_a_mirror_that_may_be_alive_is_not_worked_around(
    root: Path, here: Script, error: OSError, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: object) -> None:
        raise error

    monkeypatch.setattr(explain.Connection, "connect", refuse)
    result = run("verify")
    assert (result.exit_code, here.asked) == (1, [])
    assert result.stderr.startswith(f"mirror: verify: {text.format(path=root / SOCKET)}")


def test_a_path_that_no_socket_can_have_belongs_to_no_mirror(
    root: Path, here: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = root / ("a" * 120)
    (deep / "mirror").mkdir(parents=True)
    monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", str(deep))
    assert (run("verify").exit_code, here.asked) == (0, [("verify", {})])


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LATER = "mirror: verify: the mirror at {path} broke off: its log says why; what was done so far stays done\n"
OLD = "mirror: verify: the mirror at {path} runs in a version that cannot do this: restart it with this one\n"
OTHER = "mirror: verify: what answers at {path} is no mirror of this version\n"


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "mirror: verify: the mirror at {path} takes no more questions now: try again in a moment\n"),
        (HEAD, LATER),
        (HEAD + chunk(b'{"event": "progress"}\n'), LATER),
        (HEAD + chunk(b'{"event": "progress"}\n') + b"0\r\n\r\n", LATER),
        (HEAD + chunk(b'{"event": "summ'), LATER),
        (HEAD + chunk(b"[]\n"), LATER),
        (HEAD + chunk(b"x" * 70000 + b"\n"), LATER),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n", OLD),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 2\r\n\r\n[]", OTHER),
        (b'HTTP/1.1 409 C\r\nContent-Length: 17\r\n\r\n{"error": "later"}', OTHER),
        (b'HTTP/1.1 409 C\r\nContent-Length: 18\r\n\r\n{"error": "later"}', "mirror: verify: later\n"),
        (b"SSH-2.0-x\r\n", LATER),
    ],
)
def test_an_answer_that_is_not_whole_is_no_success(
    root: Path, here: Script, answer: bytes, said: str
) -> None:
    (root / "mirror").mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / SOCKET))
        other.listen()
        thread = threading.Thread(target=_answer, args=(other, answer))
        thread.start()
        result = run("verify")
        thread.join()
    assert (result.exit_code, result.stdout, here.asked) == (1, "", [])
    assert result.stderr == said.format(path=root / SOCKET)


def _answer(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_a_mirror_that_says_nothing_is_not_waited_for_for_ever(
    root: Path, here: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commandsask, "SILENCE", 0.05)
    (root / "mirror").mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(root / SOCKET))
        other.listen()
        result = run("verify")
    assert (result.exit_code, here.asked) == (1, [])
    assert "has said nothing for 0.05 s" in result.stderr


def test_an_interrupted_command_stops_the_operation(
    root: Path, here: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_self: object, _event: Event) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "show", interrupt)
    script = Script(PROGRESS, REMOVED, SUMMARY)
    with listening(root / SOCKET, operate=script):
        asked = run("garbage-collect")
    alone = run("garbage-collect")
    for result in (asked, alone):
        assert result.exit_code == 130
        assert result.stderr == "mirror: garbage-collect: stopped; what was done so far stays done\n"
    assert (script.closed, here.closed) == (1, 1)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_in_a_file_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    screen = Screen("verify", {}, clock=clock)
    for now in (0.0, 5.0, 9.9, 10.0, 15.0, 19.9, 25.0):
        clock.now = now
        screen.show({**PROGRESS, "done": now, "total": None})
    screen.erase()
    assert capsys.readouterr() == ("", "reading manifests: 10\nreading manifests: 25\n")


def test_on_a_terminal_progress_is_one_line_that_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    clock = Clock()
    screen = Screen("verify", {}, clock=clock)
    for now in (0.0, 0.05, 0.2):
        clock.now = now
        screen.show({**PROGRESS, "done": now * 100, "total": None})
    screen.show(REMOVED)
    screen.show(VERIFIED)
    screen.erase()
    shown: Any = capsys.readouterr()
    assert shown.err == "\r\x1b[Kreading manifests: \r\x1b[Kreading manifests: \r\x1b[K"
    assert shown.out == f"blob deleted (5 bytes): {DIGEST}\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_goes_on_as_the_owner_of_what_is_kept(tmp_path: Path) -> None:
    """In a process of its own, as there is no way back."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    os.chown(folder, 65532, 65533)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([65534])
        commands.become_owner(tmp_path)
        os.write(writer, f"{os.getuid()} {os.getgid()} {os.getgroups()}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.read() == "65532 65533 []"
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_roots_own_stays_roots(tmp_path: Path) -> None:
    before = os.geteuid()
    commands.become_owner(tmp_path)
    assert os.geteuid() == before
