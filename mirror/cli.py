"""The command line: parse arguments, call one function.

Each command imports what it runs: the server takes 0.5 s to import, the configuration's models 0.2 s, and
neither is needed to say what is wrong with an argument.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mirror import __version__
from mirror.cliarguments import Configured, ServeByDefault

if TYPE_CHECKING:
    from mirror.configfile import Loaded

# Python's thresholds, but for the last: a full collection comes after some 500,000 objects more, not 70,000.
# While caches fill, as after each start, there was one every few seconds, and each stops all answers for 50
# to 100 ms. The price: garbage in circles that has grown old waits for it, 100 MB at worst.
SELDOM = (700, 10, 70)
PATH_VARIABLE = "REGISTRY_CONFIGURATION_PATH"

EPILOG = """\b
Examples:
  mirror serve                        Docker Hub on port 5000, kept in ./data
  mirror serve config.yml             as a registry:2 configuration file says
  mirror config.yml                   the same
  mirror config config.yml            what that file and the environment come to
  mirror explain quay.io/org/app:1 config.yml   what the running mirror knows of an image
  mirror garbage-collect config.yml   delete what no image needs; --dry-run only says what
  mirror verify config.yml            read all that is kept, and set aside what is damaged
  mirror purge quay.io/org/app:1 config.yml     forget an image: the next pull fetches it again
\b
  REGISTRY_PROXY_REMOTEURL=https://quay.io mirror serve
"""
SERVE_EPILOG = """\b
Examples:
  mirror serve config.yml
  REGISTRY_PROXY_REMOTEURL=https://quay.io mirror serve
"""
CONFIG_EPILOG = """\b
Example:
  mirror config config.yml
"""
EXPLAIN_EPILOG = """\b
Examples:
  mirror explain alpine config.yml
  mirror explain quay.io/org/app:1 --json --config config.yml
  docker exec MIRROR mirror explain alpine
"""
COLLECT_EPILOG = """\b
Examples:
  mirror garbage-collect --dry-run config.yml   what would go, and how much it is
  mirror garbage-collect -q config.yml          in a cron job
  docker exec MIRROR registry garbage-collect /etc/docker/registry/config.yml
"""
VERIFY_EPILOG = """\b
Examples:
  mirror verify config.yml        after a power failure, or on a disk that is not trusted
  mirror verify -q config.yml     says nothing unless something is damaged
"""
PURGE_EPILOG = """\b
Examples:
  mirror purge library/alpine config.yml        all tags and images of a repository
  mirror purge quay.io/org/app:1 config.yml     one tag, and its image unless another tag has it
  mirror purge alpine@sha256:... --config config.yml
"""
INTERRUPTED = 130  # as shells say it of what SIGINT has ended

QUIET = click.option(
    "-q", "--quiet", is_flag=True, help="Show nothing but what is wrong, as cron jobs want it."
)


@click.group(cls=ServeByDefault, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", prog_name="mirror")
def cli() -> None:
    """A pull-through caching mirror for container registries.

    Takes the configuration file, the REGISTRY_* variables and the data folder of registry:2 as they are.
    """


@cli.command(cls=Configured, epilog=SERVE_EPILOG)
def serve(file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Transfers under way then have http.draintimeout to end; a second signal does not wait.

    Without CONFIG: the one that REGISTRY_CONFIGURATION_PATH names, else the defaults (Docker Hub, port 5000,
    ./data). REGISTRY_* variables override any of them.
    """
    with _uncollected():
        import asyncio

        from mirror import app, loops

        file = _named(file)
        loaded = _load(file, serving=True)
    try:
        with asyncio.Runner(loop_factory=loops.factory(loaded.config.http.eventloop)) as runner:
            runner.run(app.serve(loaded, file))
    except (app.StartError, loops.NoLoopError) as error:
        _stop(str(error))


@cli.command(
    cls=Configured,
    epilog=CONFIG_EPILOG,
    short_help="Print what file and variables come to.",
)
def config(file: Path | None) -> None:
    """Print the effective configuration as YAML, with secrets hidden.

    CONFIG is found as by `serve`; warnings go to the standard error.
    """
    from mirror import configfile

    loaded = _load(_named(file))
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(configfile.dump(loaded.config), nl=False)


@cli.command(
    cls=Configured,
    epilog=EXPLAIN_EPILOG,
    short_help="Say what is known of an image.",
)
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def explain(image: str, file: Path | None, as_json: bool) -> None:
    """Say what the running mirror knows of IMAGE: `alpine`, `quay.io/org/app:1`, `HOST/NAME@sha256:...`.

    Which upstream has it, what is kept and how fresh, which breaker or quota decides, and what the next
    pull would ask. Nothing is fetched, and the upstream is not asked.

    The mirror is found by its CONFIG, which is found as by `serve`; it must run on this machine, and be asked
    by the same user or by root. Exit status: 0 when it was told, 1 when the mirror cannot be asked.
    """
    from mirror import explaintext
    from mirror.explain import AskError, ask

    try:
        facts = ask(_control_socket(_load(_named(file))), image)
    except AskError as error:
        _stop(str(error))
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in explaintext.lines(facts):
            click.echo(line)


def _control_socket(loaded: Loaded) -> Path:
    from mirror.configremote import local_root
    from mirror.server.control import SOCKET

    root = local_root(loaded.config)
    if root is None:
        _stop("explain: this configuration keeps images in memory, and such a mirror cannot be asked")
    return root / SOCKET


@cli.command(
    "garbage-collect",
    cls=Configured,
    epilog=COLLECT_EPILOG,
    short_help="Delete what no kept image needs.",
)
@click.option("-d", "--dry-run", is_flag=True, help="Only say what would go: nothing is deleted.")
@click.option(
    "-m",
    "--delete-untagged",
    is_flag=True,
    help="Delete manifests that are not currently referenced via tag, also those that are pulled by digest.",
)
@QUIET
def garbage_collect(file: Path | None, dry_run: bool, delete_untagged: bool, quiet: bool) -> None:
    """Delete what no kept image needs: blobs, links and empty folders.

    The running mirror does it, while it serves; where none runs with CONFIG, this process does. What is being
    pulled is left alone, and so is what is younger than an hour. The mirror does the same by itself, once a
    day.

    CONFIG is found as by `serve`. Exit status: 0 when it has come to its end, 1 when not, 130 after Ctrl-C.
    """
    options = {"dry_run": str(dry_run).lower(), "delete_untagged": str(delete_untagged).lower()}
    _operate(file, "garbage-collect", options, quiet)


@cli.command(
    cls=Configured,
    epilog=VERIFY_EPILOG,
    short_help="Compare all that is kept with its digests.",
)
@QUIET
def verify(file: Path | None, quiet: bool) -> None:
    """Read every kept blob and manifest, and compare it with its digest.

    What does not match is named, set aside in mirror/quarantine below the data folder, never served, and
    fetched again when it is asked for. The running mirror does it; where none runs with CONFIG, this process
    does. It reads as fast as the disk allows (cache.scrub.rate is for the mirror's own scrub).

    CONFIG is found as by `serve`. Exit status: 0 when all is well, 1 when something did not match or could
    not be read, 130 after Ctrl-C.
    """
    _operate(file, "verify", {}, quiet)


@cli.command(
    cls=Configured,
    epilog=PURGE_EPILOG,
    short_help="Forget a tag, an image or a repository.",
)
@click.argument("image", metavar="REPOSITORY[:TAG|@DIGEST]")
@QUIET
def purge(image: str, file: Path | None, quiet: bool) -> None:
    """Forget a tag, an image by its digest, or a whole repository, and delete what nothing else needs.

    Without :TAG and @DIGEST it is the whole repository, not `latest`. The next pull fetches it again. The
    running mirror does it; where none runs with CONFIG, this process does.

    CONFIG is found as by `serve`. Exit status: 0 when something was deleted, 1 when nothing of it is kept,
    2 when it is no image reference, 130 after Ctrl-C.
    """
    _operate(file, "purge", {"what": image}, quiet)


def _operate(file: Path | None, operation: str, options: dict[str, str], quiet: bool) -> NoReturn:
    """Run it to its end, and exit."""
    from mirror import commandsrun
    from mirror.commands import CommandError
    from mirror.explain import AskError

    loaded = _load(_named(file))
    try:
        status = commandsrun.run(loaded.config, operation, options, quiet=quiet)
    except (CommandError, AskError) as error:
        _stop(f"{operation}: {error}")
    except KeyboardInterrupt:
        click.echo(f"mirror: {operation}: stopped; what was done so far stays done", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(status)


@cli.command("help", hidden=True)
@click.argument("command", required=False)
@click.pass_context
def help_(ctx: click.Context, command: str | None) -> None:
    """Show this text, or that of COMMAND, as `registry help` does."""
    parent = ctx.parent
    assert parent is not None
    if command is None:
        click.echo(parent.get_help())
        return
    found = cli.get_command(parent, command)
    if found is None:
        raise click.UsageError(f"No such command {command!r}.", parent)
    with click.Context(found, info_name=command, parent=parent) as inner:
        click.echo(found.get_help(inner))


def _named(file: Path | None) -> Path | None:
    """The file to read: the argument, else the variable's."""
    if file is None and (named := os.environ.get(PATH_VARIABLE)):
        return Path(named)
    return file


def _load(file: Path | None, *, serving: bool = False) -> Loaded:
    from mirror import configfile

    try:
        return configfile.load(file, os.environ, serving=serving)
    except configfile.ConfigError as error:
        _stop("\n".join([*(f"warning: {said}" for said in error.ignored), str(error)]))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Imports in the block stay out of the garbage collector's sight, then and later.

    All that they make stays. To look through it as it grows takes 70 ms of the start, and 30 ms of each full
    collection later, in which nobody is answered. Full ones are seldom from then on: see SELDOM.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*SELDOM)
        gc.enable()


def _stop(text: str) -> NoReturn:
    """Exit status 1, as registry's; each line says what is wrong."""
    for line in text.splitlines():
        click.echo(f"mirror: {line}", err=True)
    sys.exit(1)


def main() -> None:
    """The console command."""
    cli(prog_name="mirror")
