"""The command line: parse arguments, call one function."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from mirror import __version__, app, configfile, explaintext
from mirror.explain import AskError, ask
from mirror.oci.reference import Image, ImageError
from mirror.server.control import SOCKET

PATH_VARIABLE = "REGISTRY_CONFIGURATION_PATH"

EPILOG = """\b
Examples:
  mirror serve                        Docker Hub on port 5000, kept in ./data
  mirror serve config.yml             as a registry:2 configuration file says
  mirror config.yml                   the same
  mirror config config.yml            what that file and the environment come to
  mirror explain quay.io/org/app:1    what the running mirror knows of an image
\b
  REGISTRY_PROXY_REMOTEURL=https://quay.io mirror serve
"""


FILE = click.Path(path_type=Path, readable=False)  # configfile says better what is wrong with it


class ServeByDefault(click.Group):
    """`mirror FILE` is `mirror serve FILE`, as the registry's image has it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = args and args[0] in self.commands
        if args and not known and (args[0].endswith((".yml", ".yaml")) or Path(args[0]).is_file()):
            args = ["serve", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=ServeByDefault, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-v", "--version", prog_name="mirror")
def cli() -> None:
    """A pull-through caching mirror for container registries.

    Takes the configuration file, the REGISTRY_* variables and the data folder of registry:2 as they are.
    """


@cli.command()
@click.argument("file", required=False, type=FILE)
def serve(file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT.

    Transfers under way then have http.draintimeout to end; a second signal does not wait.

    Without FILE: the one that REGISTRY_CONFIGURATION_PATH names, else the defaults (Docker Hub, port 5000,
    ./data). REGISTRY_* variables override any of them.
    """
    file = _named(file)
    loaded = _load(file)
    try:
        asyncio.run(app.serve(loaded, file))
    except app.StartError as error:
        _stop(str(error))


@cli.command()
@click.argument("file", required=False, type=FILE)
def config(file: Path | None) -> None:
    """Print the effective configuration as YAML, with secrets hidden.

    FILE is found as by `serve`; warnings go to the standard error.
    """
    loaded = _load(_named(file))
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(configfile.dump(loaded.config), nl=False)


@cli.command()
@click.argument("image")
@click.option(
    "--config", "file", metavar="FILE", type=FILE, help="The configuration that the mirror runs with."
)
@click.option("--json", "as_json", is_flag=True, help="Print it as one JSON object.")
def explain(image: str, file: Path | None, as_json: bool) -> None:
    """Say what the running mirror knows of IMAGE: `alpine`, `quay.io/org/app:1`, `HOST/NAME@sha256:...`.

    Which upstream has it, what is kept and how fresh, which breaker or quota decides, and what the next
    pull would ask. Nothing is fetched, and the upstream is not asked.

    The mirror is found by its configuration, which is found as by `serve`; it must run on this machine, and
    be asked by the same user or by root.
    """
    try:
        Image.parse(image)
        facts = ask(_control_socket(_load(_named(file))), image)
    except (ImageError, AskError) as error:
        _stop(str(error))
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in explaintext.lines(facts):
            click.echo(line)


def _control_socket(loaded: configfile.Loaded) -> Path:
    filesystem = loaded.config.storage.filesystem
    if filesystem is None:
        _stop("explain: this configuration keeps images in memory, and such a mirror cannot be asked")
    return filesystem.rootdirectory.absolute() / SOCKET


@cli.command("garbage-collect", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
def garbage_collect(arguments: tuple[str, ...]) -> None:
    """Not in this version: registry:2's command, which cron jobs call."""
    _stop("garbage-collect is not in this version: nothing is evicted yet, so there is nothing to collect")


@cli.command("help", hidden=True)
@click.pass_context
def help_(ctx: click.Context) -> None:
    """Show this text, as `registry help` does."""
    assert ctx.parent is not None
    click.echo(ctx.parent.get_help())


def _named(file: Path | None) -> Path | None:
    """The file to read: the argument, else the variable's."""
    if file is None and (named := os.environ.get(PATH_VARIABLE)):
        return Path(named)
    return file


def _load(file: Path | None) -> configfile.Loaded:
    try:
        return configfile.load(file, os.environ)
    except configfile.ConfigError as error:
        _stop(str(error))


def _stop(text: str) -> NoReturn:
    """Exit status 1, as registry's; each line says what is wrong."""
    for line in text.splitlines():
        click.echo(f"mirror: {line}", err=True)
    sys.exit(1)


def main() -> None:
    """The console command."""
    cli(prog_name="mirror")
