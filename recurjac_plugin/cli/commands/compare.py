"""`recurjac compare`: every method on one property, or on balls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, picture_format
from recurjac_plugin.cli.problem import Network, ShapeSources, load_matrix, load_network, load_property, load_regions
from recurjac_plugin.cli.streams import Streams, duration, open_streams
from recurjac_plugin.errors import InputError
from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_SAMPLES = 64  # points of each ball
_DEFAULT = options.listed((*METHODS, *(f"{name}+CROWN" for name in METHODS[1:2]), *HOST_METHODS))
_HEADER = ("method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds")


def compare_command(
    model: options.Model,
    prop: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROP]",
            help="VNN-LIB property, version 1.0 or 2.0 (or .gz).",
            show_default=False,
        ),
    ] = None,
    input_file: options.RegionInputs = None,
    eps: options.RegionRadius = None,
    norm: options.Norm = "inf",
    spec: Annotated[
        Path | None,
        typer.Option(
            "--spec",
            metavar="C.npy",
            show_default=False,
            help="With --input: the rows to bound, a matrix (k, outputs). A VNN-LIB file here stands for PROP.",
        ),
    ] = None,
    input_shape: options.InputShape = None,
    methods: options.Methods = _DEFAULT,
    branching: options.Branching = options.Branchings.jacobian,
    timeout: Annotated[float, typer.Option("--timeout", metavar="S", help="Longest time for each verdict.")] = 10.0,
    attack_seconds: options.AttackSeconds = 5.0,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Compare methods on one VNN-LIB property, or on balls around inputs.

    On a property, the lower bound is the certified distance of the outputs from a violation, without cutting the boxes:
    above 0 the property is proved. Its seconds include the pre-activation bounds. The Jacobian's width is the mean over
    its elements, one row per row of the property. The Lipschitz constant is the largest of those rows on the boxes
    (l_inf), which cannot be below what was sampled. The verdict is that of `recurjac verify` with the method: same
    search, same budget, other bounds; with the boxes it took and its seconds. One attack serves all methods that prove
    nothing; where some prove something, it is short.

    With --input and --eps there is no verdict: the table has the mean widths of the bounds of the Jacobian and of the
    outputs, or of the rows of --spec, how many signs are known, and the Lipschitz constant in the norm of the balls.

    All of this is held against each other and against values of the network. A proof beside a counterexample, or a
    bound beside a value outside of it, is reported on stderr and with the results, and the exit code is 1.
    """
    with open_streams(json) as streams:
        names = options.methods("--methods", methods)
        check_writable(csv, plot)
        check_format(plot)
        prop, matrix = _sources(prop, spec, input_file, eps)
        if prop is not None:
            options.seconds("--attack-seconds", attack_seconds)
            options.time_limit("--timeout", timeout)
            network = load_network(model, device, dtype)
            search = {"branching": branching.value, "timeout": timeout, "seed": seed, "attack_seconds": attack_seconds}
            result = _on_property(network, model, prop, names, search, streams)
            _tell(streams, result, csv, plot)
        else:
            region = options.region_choice(None, input_file, eps, norm)
            network = load_network(model, device, dtype, ShapeSources(input_shape, input_file))
            parts = _parts(network, input_file, region, matrix)
            result = _on_balls(network, model, parts, names, {"norm": norm.lower(), "eps": eps, "seed": seed}, streams)
            _tell_of_balls(streams, result, csv, plot)
    if result["contradictions"]:
        raise typer.Exit(1)


def _sources(
    prop: Path | None, spec: Path | None, input_file: Path | None, eps: float | None
) -> tuple[Path | None, Path | None]:
    """The property, and the specification matrix: where `--spec` is no `.npy` file, it is the property."""
    if spec is not None and spec.suffix != ".npy":
        if prop is not None:
            options.refuse("--spec", f"is a property, `{spec}`, but another one was given: `{prop}`.")
        prop, spec = spec, None
    if (prop is None) == (input_file is None):
        options.refuse("PROP", "or `--input` with `--eps` must be given, and only one of them.")
    if prop is not None and (spec is not None or eps is not None):
        options.refuse("--spec" if spec is not None else "--eps", "goes with `--input`; a property has rows and boxes.")
    return prop, spec


def _on_property(
    network: Network, model: Path, prop: Path, names: tuple[str, ...], search: dict[str, Any], streams: Streams
) -> dict[str, Any]:
    """What JSON has of a property."""
    from recurjac_plugin.tables.on_property import compared

    spec = load_property(prop, network)
    if spec.mixed:
        raise InputError(f"`{prop}` has conditions on several inputs, or on inputs and outputs; use `recurjac verify`.")
    found = compared(network, spec, names, search, network.device, streams)
    return {
        "command": "compare",
        **network.describe(model),
        "property": str(prop),
        "boxes": len(spec.boxes),
        "seed": search["seed"],
        "auto": found.auto,
        "methods": found.rows,
        "lipschitz_sampled": found.sampled,
        "contradictions": found.wrong,
    }


def _parts(
    network: Network, input_file: Path | None, region: tuple[float, float | None], matrix: Path | None
) -> list[tuple[Any, Tensor | None]]:
    """The balls, one for each input, and the rows to bound on them."""
    C = None if matrix is None else load_matrix(matrix, network)
    return [(x, C) for x in load_regions(network, None, input_file, *region)]


def _on_balls(
    network: Network,
    model: Path,
    parts: list[tuple[Any, Tensor | None]],
    names: tuple[str, ...],
    asked: dict[str, Any],
    streams: Streams,
) -> dict[str, Any]:
    """What JSON has of balls."""
    from recurjac_plugin.tables.comparison import compared

    found = compared(network, parts, names, norm=None, samples=_SAMPLES, seed=asked["seed"], watcher=streams)
    return {
        "command": "compare",
        **network.describe(model),
        "inputs": len(parts),
        **asked,
        "auto": found.auto,
        "methods": found.rows[:-1],
        "sampled": found.rows[-1],
        "contradictions": [{"message": message} for message in found.wrong],
    }


def _tell_of_balls(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    from recurjac_plugin.tables.comparison import COLUMNS, drawn

    rows, norm = [*result["methods"], result["sampled"]], options.norm_name(options.norm_of(result["norm"]))
    title = f"{Path(result['model']).name}, {norm} balls of radius {result['eps']:g}"
    _write_files(streams, csv, plot, COLUMNS, rows, lambda: drawn(rows, title))
    wrong = _tell_remarks(streams, result)
    if streams.as_json:
        streams.json(result)
        return
    shown = COLUMNS[:-2]
    header = ("method", "Jacobian width", "known signs", f"Lipschitz ({norm})", "output width", "seconds")
    table = [[duration(row[name]) if name == "seconds" else row[name] for name in shown] for row in rows]
    streams.table(title, header, table, right=range(1, len(header)))
    for line in wrong:
        streams.line(line)


def _write_files(
    streams: Streams,
    csv: Path | None,
    plot: Path | None,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    draw: Callable[[], Figure],
) -> None:
    """Write the rows as CSV, and their picture, where these are asked for."""
    if csv is not None:
        write_csv(csv, columns, [[row[name] for name in columns] for row in rows])
        streams.note(f"wrote {csv}")
    if plot is not None:
        from recurjac_plugin.plots import encoded

        write(plot, encoded(draw(), picture_format(plot)))
        streams.note(f"wrote {plot}")


def _tell_remarks(streams: Streams, result: dict[str, Any]) -> list[str]:
    """Say what could not be used, what `auto` is, and what is wrong; returns the last."""
    for row in result["methods"]:
        if row["unsupported"] is not None:
            streams.note(f"{row['method']}: {row['unsupported']}")
    streams.note(f"auto is {result['auto']} here")
    wrong = [f"CONTRADICTION: {each['message']}" for each in result["contradictions"]]
    for line in wrong:
        streams.note(line)
    return wrong


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    from recurjac_plugin.plots import comparison

    rows = result["methods"]
    title = f"{Path(result['model']).name}, {Path(result['property']).name}"
    _write_files(streams, csv, plot, _HEADER, rows, lambda: comparison(rows, title))
    wrong = _tell_remarks(streams, result)
    if streams.as_json:
        streams.json(result)
        return
    header = ("method", "lower bound", "seconds", "Jacobian width", "Lipschitz", "verdict", "boxes", "verdict seconds")
    times = ("seconds", "verify_seconds")
    table = [[duration(row[name]) if name in times else row[name] for name in _HEADER] for row in rows]
    table.append(["sampled", None, None, None, result["lipschitz_sampled"], None, None, None])
    streams.table(title, header, table, right=(1, 2, 3, 4, 6, 7))
    for line in wrong:
        streams.line(line)
