"""`recurjac doctor`: what is installed, what is missing, and whether the host's bounds hold."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.about import installed
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.cli.terminal import completion
from recurjac_plugin.errors import InputError, counted


class Operators(str, Enum):
    """Whose operators are audited."""

    plugin = "plugin"
    host = "host"


def doctor_command(
    operators: Annotated[
        Operators | None,
        typer.Argument(
            metavar="[OPERATORS]",
            show_default=False,
            help="With --audit: `host` for auto_LiRPA as it is, `plugin` (the default) with the operators of this "
            "package, as it uses it.",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="Bound every operator with all its attributes at three places of a network, on intervals of widths 0 "
            "to 1e3 up to 1e5 away from 0, in float32 and float64, by IBP, CROWN, CROWN-IBP and alpha-CROWN, and look "
            "whether the values of torch lie inside. Takes some minutes.",
        ),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Audit operators with this in their name; repeatable.",
            autocompletion=completion.operators,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Audit a few widths and distances only.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the audit as a Markdown table.")] = False,
    json: options.Json = False,
) -> int:
    """Show the versions found, whether auto_LiRPA is supported, the extras, and what to install.

    The exit code is 1 if auto_LiRPA or something else that is always needed is missing, or a version does not fit; an
    extra that is not installed is no fault. With --audit it is 1 if the bounds of an operator do not hold or are those
    of another function, and 0 if all that were given hold.
    """  # fmt: skip
    if not audit and (operators or only or quick or markdown):
        raise InputError("`OPERATORS`, `--only`, `--quick` and `--markdown` belong to `--audit`; add it.")
    if markdown and json:
        raise InputError("The audit is printed as Markdown or as JSON; choose one of `--markdown` and `--json`.")
    with open_streams(json) as streams:
        if audit:
            return _audit(streams, operators or Operators.plugin, only or [], quick, markdown)
        return _installed(streams)


def _audit(streams: Streams, operators: Operators, only: list[str], quick: bool, markdown: bool) -> int:
    """Audit the host and show what was found; the exit code."""
    from recurjac_plugin.audit import table
    from recurjac_plugin.audit.boxes import FULL, SMALL
    from recurjac_plugin.host.library import VERSION

    specimens = table.chosen(only)
    if not specimens:
        raise InputError(f"No operator has {' or '.join(f'`{name}`' for name in only)} in its name.")
    registered = operators is Operators.plugin
    rows = table.audit(specimens, SMALL if quick else FULL, registered=registered, progress=streams.progress)
    wrong, counts = sum(row.wrong for row in rows), table.counts(rows)
    title = f"auto_LiRPA {VERSION}, " + ("with the plugin's operators" if registered else "as it is")
    if streams.as_json:
        found: dict[str, Any] = {
            "command": "doctor",
            "version": _own_version(),
            "auto_lirpa": VERSION,
            "operators": operators.value,
        }
        found |= {"ok": not wrong, "wrong": wrong, "counts": counts, "rows": [row.as_dict() for row in rows]}
        streams.json(found)
    elif markdown:
        streams.line(table.markdown(rows, title))
    else:
        methods = list(counts)
        lines = [
            (row.specimen.operator, row.specimen.attributes, row.place, *map(table.shown, row.findings.values()))
            for row in rows
        ]
        streams.table(title, ("operator", "attributes", "place", *methods), lines, prose=(1,), keys=3)
        verdicts = list(counts[methods[0]])
        streams.table("rows", ("method", *verdicts), [(method, *counts[method].values()) for method in methods])
        for operator, attributes in table.worst_by_operator(rows).items():
            streams.line(f"{operator}: " + "; ".join(name or "as it is" for name in attributes))
        streams.line(f"wrong: {wrong} of {counted(len(rows), 'row')}" if wrong else "All bounds hold.")
    return 1 if wrong else 0


def _installed(streams: Streams) -> int:
    """Show what is installed; the exit code."""
    found = installed.packages()
    extras, devices = installed.extras(found), installed.devices()
    ok = not any(package.spoils for package in found)
    if streams.as_json:
        rows = [package.as_dict() for package in found]
        values = {"command": "doctor", "version": _own_version(), "ok": ok}
        streams.json({**values, "packages": rows, "extras": extras, "devices": devices})
        return 0 if ok else 1
    table = [(each.name, each.version, each.state, each.extra or "always") for each in found]
    streams.table(f"recurjac {_own_version()}", ("package", "version", "usable", "extra"), table)
    complete = [[row["name"], "yes" if row["ok"] else "no", row["needed_for"]] for row in extras]
    streams.table("extras", ("extra", "complete", "for"), complete, prose=(2,))
    for row in extras:
        if not row["ok"]:
            lacking = ", ".join(f"`{name}`" for name in row["lacking"])
            streams.line(f"{row['name']}: lacks {lacking}: {row['install']}")
    for each in found:
        if each.spoils:
            streams.line(f"{each.name}: {each.problem}")
    streams.line(f"devices: {', '.join(devices) or 'none, without torch'}")
    return 0 if ok else 1


def _own_version() -> str:
    from recurjac_plugin.version import __version__

    return __version__
