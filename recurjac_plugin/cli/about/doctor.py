"""`recurjac doctor`: what is installed, what is missing, and whether the host's bounds hold."""

from __future__ import annotations

import importlib.metadata
import platform
from enum import Enum
from typing import Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.cli.terminal import completion
from recurjac_plugin.errors import InputError, counted

_PACKAGES = {  # distribution -> what it is needed for
    "torch": "everything",
    "numpy": "everything",
    "onnx": "ONNX networks",
    "onnx2pytorch": "ONNX networks",
    "onnxruntime": "ONNX networks, counterexamples",
    "torchvision": "onnx2pytorch",
    "vnnlib": "VNN-LIB properties",
    "matplotlib": "--plot",
    "typer": "this command",
    "rich": "tables",
}


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
    """Show the versions found, whether auto_LiRPA is supported, and what to install.

    With --audit the exit code is 1 if the bounds of an operator do not hold or are those of another function, and 0 if
    all that were given hold.
    """  # fmt: skip
    if not audit and (operators or only or quick or markdown):
        raise InputError("`OPERATORS`, `--only`, `--quick` and `--markdown` belong to `--audit`; add it.")
    if markdown and json:
        raise InputError("The audit is printed as Markdown or as JSON; choose one of `--markdown` and `--json`.")
    with open_streams(json) as streams:
        if audit:
            return _audit(streams, operators or Operators.plugin, only or [], quick, markdown)
        _installed(streams)
    return 0


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


def _installed(streams: Streams) -> None:
    """Show what is installed."""
    rows = [_python(), *(_package(name) for name in _PACKAGES), _host()]
    ok, devices = all(row["ok"] for row in rows), _devices()
    if streams.as_json:
        streams.json({"command": "doctor", "version": _own_version(), "ok": ok, "packages": rows, "devices": devices})
        return
    table = [[row["name"], row["version"], _state(row), row["needed_for"]] for row in rows]
    streams.table(f"recurjac {_own_version()}", ("package", "version", "usable", "for"), table, prose=(3,))
    streams.line(f"devices: {', '.join(devices)}")
    for row in rows:
        if row["problem"] is not None:
            streams.line(f"{row['name']}: {row['problem']}")


def _state(row: dict[str, Any]) -> str:
    if row["ok"]:
        return "yes"
    return "missing" if row["version"] is None else "no"


def _own_version() -> str:
    from recurjac_plugin.version import __version__

    return __version__


def _row(name: str, version: str | None, needed_for: str, problem: str | None) -> dict[str, Any]:
    return {"name": name, "version": version, "ok": problem is None, "needed_for": needed_for, "problem": problem}


def _python() -> dict[str, Any]:
    return _row("python", platform.python_version(), "everything", None)


def _package(name: str) -> dict[str, Any]:
    needed = _PACKAGES[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return _row(name, None, needed, f"not installed. Install it with `pip install '{_requirement(name) or name}'`.")
    wanted = _requirement(name)
    if wanted is not None:
        from packaging.requirements import Requirement

        if not Requirement(wanted).specifier.contains(version, prereleases=True):
            return _row(name, version, needed, f"{version} does not fit. Replace it with `pip install '{wanted}'`.")
    return _row(name, version, needed, None)


def _requirement(name: str) -> str | None:
    """What this package's own metadata asks for, if it is installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("recurjac-plugin") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((line for line in lines if Requirement(line).name == name), None)


def _host() -> dict[str, Any]:
    """auto_LiRPA, by importing it: an installed one may lack what it needs itself."""
    from recurjac_plugin.errors import HostError
    from recurjac_plugin.host.find import find_host

    version = None
    try:
        version = find_host().version
        from recurjac_plugin.host import library as host  # noqa: F401
    except HostError as error:
        return _row("auto_LiRPA", version, "everything", str(error))
    return _row("auto_LiRPA", version, "everything", None)


def _devices() -> list[str]:
    import torch

    names = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ["cpu", *names]
