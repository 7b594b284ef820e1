"""The `recurjac` program: its commands, `--name` and `--version`, and how every refusal ends."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from recurjac_plugin.cli.about.doctor import doctor_command
from recurjac_plugin.cli.about.supports import supports_command
from recurjac_plugin.cli.commands.bench import bench_command
from recurjac_plugin.cli.commands.compare import compare_command
from recurjac_plugin.cli.commands.jacobian import jacobian_command
from recurjac_plugin.cli.commands.landscape import landscape_command
from recurjac_plugin.cli.commands.lipschitz import lipschitz_command
from recurjac_plugin.cli.commands.monotone import monotone_command
from recurjac_plugin.cli.commands.radius import radius_command
from recurjac_plugin.cli.commands.report import report_command
from recurjac_plugin.cli.commands.verify import verify_command
from recurjac_plugin.cli.proofs.check import check_command
from recurjac_plugin.errors import ContradictionError, RecurJacError

from . import streams
from .standard import NAME
from .terminal import interrupts
from .terminal.common import with_common

# typer brings its own copy of click in newer releases and uses the installed one in older ones.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Group(typer.core.TyperGroup):
    """Ends every refusal with one line on stderr and exit code 2, an answer that contradicts another with 1."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **options)
        streams.be_quiet(False)
        try:
            with _without_warnings():
                code = super().main(args, standalone_mode=False, **options)
        except interrupts.Interrupted:
            interrupts.say("stopped")
            sys.exit(interrupts.INTERRUPTED)
        except _UsageError as error:
            help_line = f" Try `{error.ctx.command_path} --help`." if error.ctx else ""
            refuse(error.format_message().rstrip(".") + "." + help_line)
        except ContradictionError as error:
            _say(str(error))
            sys.exit(1)
        except RecurJacError as error:
            refuse(str(error))
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C becomes an exception that click and typer leave alone."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise interrupts.Interrupted from error


def refuse(message: str) -> NoReturn:
    """Say on stderr, in one line, what is wrong with the input, and leave with exit code 2."""
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    if interrupts.was_interrupted():
        return  # it may be what an interrupted import looks like
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _without_warnings() -> Any:
    """Keep the warnings of libraries away from the reader, unless Python was told what to do with them (-W)."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


app = typer.Typer(
    cls=_Group,
    name="recurjac",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from recurjac_plugin.version import __version__

        print(__version__)
        raise typer.Exit


def _name(wanted: bool) -> None:
    if wanted:
        print(NAME)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def recurjac(
    context: typer.Context,
    name: Annotated[
        bool, typer.Option("--name", help="Show the name of this solver and exit.", callback=_name, is_eager=True)
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Certified bounds of Jacobians, Lipschitz constants and outputs of networks in ONNX files or torch modules.

    Results go to stdout, logs and progress to stderr. The exit code is 0 for any result, 1 for an error of this
    program, a wrong verdict or a rejected certificate, 2 for bad input (with one line that says what is wrong), 130
    after Ctrl-C. Options may stand in a file, too: recurjac.toml in the working directory, see `--config` of the
    commands.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


_COMMANDS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("jacobian", "Bounds of the Jacobian.", jacobian_command),
    ("lipschitz", "Lipschitz constants against the radius.", lipschitz_command),
    ("monotone", "Which outputs are monotone in which inputs.", monotone_command),
    ("radius", "Radii on which a classification is certified.", radius_command),
    ("landscape", "Radii without a stationary point, and the gradients within.", landscape_command),
    ("verify", "The verdict on a VNN-LIB property or query.", verify_command),
    ("check", "Accept or reject a certificate.", check_command),
    ("supports", "What properties and networks `verify` takes.", supports_command),
    ("compare", "Methods side by side, on a property or on balls.", compare_command),
    ("bench", "A verdict on every instance of benchmark sets.", bench_command),
    ("report", "A page about the results of `bench`.", report_command),
    ("doctor", "What is installed, and what is missing.", doctor_command),
)

for _command_name, _short_help, _command in _COMMANDS:
    # The standard's names of capabilities look like options, and are arguments of `supports`.
    _settings = {"ignore_unknown_options": True} if _command is supports_command else None
    app.command(_command_name, short_help=_short_help, context_settings=_settings)(with_common(_command))
