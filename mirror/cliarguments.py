"""How commands are called: the registry's forms, and what people type instead of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from mirror.oci.reference import Image, ImageError

# What Go takes for a flag, as in --dry-run=true: scripts that call the registry have it.
GO_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
GO_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
YAML: Final = (".yml", ".yaml")
LIKE: Final = "Write it like library/alpine, quay.io/org/app:1 or alpine@sha256:<64 digits>."

FILE: Final = click.Path(path_type=Path, readable=False)  # configfile says better what is wrong with it


class ServeByDefault(click.Group):
    """`mirror FILE` is `mirror serve FILE`, as the registry's image has it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = args and args[0] in self.commands
        if args and not known and _is_config(args[0]):
            args = ["serve", *args]
        return super().resolve_command(ctx, args)


class Configured(click.Command):
    """Flags may have a value: `--delete-untagged=true`, as the registry's. The last one counts.

    The configuration is the argument `config`, as the registry has it, or `--config`; the command gets it as
    `file`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += [
            click.Argument(["config"], metavar="[CONFIG]", required=False, type=FILE),
            click.Option(["--config", "file"], metavar="CONFIG", type=FILE, help="The same as CONFIG."),
        ]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        super().parse_args(ctx, self._without_values(ctx, args))
        argument, option = ctx.params.pop("config"), ctx.params["file"]
        if "image" in ctx.params and argument is not None:
            image = ctx.params["image"]
            if _is_config(image) and not _is_config(str(argument)):
                ctx.params["image"], argument = str(argument), Path(image)
        if argument is not None and option is not None:
            raise click.UsageError(f"The configuration is given twice: {argument} and {option}.", ctx)
        ctx.params["file"] = option if argument is None else argument
        return ctx.args

    def invoke(self, ctx: click.Context) -> Any:
        """NB: not while parsing: click then asks for values that it has already."""
        if "image" in ctx.params:
            _check(ctx)
        return super().invoke(ctx)

    def _without_values(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`--flag=true` as `--flag`, and without those that are false."""
        flags = {
            name: param.opts
            for param in self.params
            if isinstance(param, click.Option) and param.is_flag
            for name in param.opts
        }
        plain: list[str] = []
        for arg in args:
            name, equals, value = arg.partition("=")
            if not equals or name not in flags:
                plain.append(arg)
            elif value in GO_TRUE:
                plain.append(name)
            elif value in GO_FALSE:
                plain = [kept for kept in plain if kept not in flags[name]]
            else:
                raise click.BadParameter(f"{name} is true or false, not {value!r}.", ctx)
        return plain


def _check(ctx: click.Context) -> None:
    """Refuse what is no image, before anybody is asked. Raises click.UsageError, which is exit status 2."""
    image = ctx.params["image"]
    try:
        Image.parse(image)
    except ImageError as error:
        raise click.UsageError(f"{error}.\n{LIKE}", ctx) from error
    if ctx.params["file"] is None and image.endswith(YAML) and Path(image).is_file():
        raise click.UsageError(f"{image} is a configuration: which image is meant?\n{LIKE}", ctx)


def _is_config(word: str) -> bool:
    """Whether it is likely to be meant as a configuration file."""
    return word.endswith(YAML) or Path(word).is_file()
