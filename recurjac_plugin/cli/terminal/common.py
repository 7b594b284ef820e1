"""Options that every command has: `--quiet` and `--config`."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from recurjac_plugin.cli import streams

from . import config


def _configured(context: typer.Context, file: Path | None) -> Path | None:
    """Take the values of options that are not given from the file: before any other option is read."""
    if not context.resilient_parsing:
        context.default_map = config.defaults(context, file)
    return file


def _quiet(wanted: bool) -> bool:
    streams.be_quiet(wanted)
    return wanted


_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_configured, show_default=False,
        help="Values of options that are not given, in TOML.  [default: recurjac.toml here, or [tool.recurjac] of "
        "pyproject.toml]",
    ),
]  # fmt: skip
_QUIET = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_quiet, show_default=False, help="Only the result: no remarks, no progress."
    ),
]  # fmt: skip


def with_common(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command with the common options, which it need not know of."""

    @functools.wraps(command)
    def called(*, config: Path | None, quiet: bool, **given: Any) -> Any:
        return command(**given)

    hints = typing.get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]
    common = [
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_QUIET),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_CONFIG),
    ]
    called.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    called.__annotations__ = {**hints, **{each.name: each.annotation for each in common}}
    return called
