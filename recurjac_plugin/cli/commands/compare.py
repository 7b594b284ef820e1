"""`recurjac compare`: every method on one problem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, picture_format
from recurjac_plugin.cli.problem import load_network, load_property
from recurjac_plugin.cli.streams import Streams, duration, open_streams
from recurjac_plugin.errors import InputError
from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS

_DEFAULT = options.listed((*METHODS, *(f"{name}+CROWN" for name in METHODS[1:2]), *HOST_METHODS))
_HEADER = ("method", "lower_bound", "seconds", "jacobian_width", "lipschitz", "verdict", "boxes", "verify_seconds")


def compare_command(
    model: options.Model,
    prop: options.Property,
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
    """Compare methods on one VNN-LIB property.

    The lower bound is the certified distance of the outputs from a violation, without cutting the boxes: above 0 the
    property is proved. Its seconds include the pre-activation bounds. The Jacobian's width is the mean over its
    elements, one row per row of the property. The Lipschitz constant is the largest of those rows on the boxes
    (l_inf), which cannot be below what was sampled. The verdict is that of `recurjac verify` with the method: same
    search, same budget, other bounds; with the boxes it took and its seconds. One attack serves all methods that prove
    nothing; where some prove something, it is short.

    All of this is held against each other and against values of the network. A proof beside a counterexample, or a
    bound beside a value outside of it, is told on stderr and with the results, and the exit code is 1.
    """
    with open_streams(json) as streams:
        names = options.methods("--methods", methods)
        options.seconds("--attack-seconds", attack_seconds)
        options.time_limit("--timeout", timeout)
        check_writable(csv, plot)
        check_format(plot)
        from recurjac_plugin.tables.on_property import compared

        network = load_network(model, device, dtype)
        spec = load_property(prop, network)
        if spec.mixed:
            raise InputError(
                f"`{prop}` has conditions on several inputs, or on inputs and outputs; use `recurjac verify`."
            )
        search = {"branching": branching.value, "timeout": timeout, "seed": seed, "attack_seconds": attack_seconds}
        found = compared(network, spec, names, search, network.device, streams)
        result = {
            "command": "compare",
            **network.describe(model),
            "property": str(prop),
            "boxes": len(spec.boxes),
            "seed": seed,
            "auto": found.auto,
            "methods": found.rows,
            "lipschitz_sampled": found.sampled,
            "contradictions": found.wrong,
        }
        _tell(streams, result, csv, plot)
    if result["contradictions"]:
        raise typer.Exit(1)


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    from recurjac_plugin.plots import comparison, encoded

    rows = result["methods"]
    title = f"{Path(result['model']).name}, {Path(result['property']).name}"
    if csv is not None:
        write_csv(csv, _HEADER, [[row[name] for name in _HEADER] for row in rows])
        streams.note(f"wrote {csv}")
    if plot is not None:
        write(plot, encoded(comparison(rows, title), picture_format(plot)))
        streams.note(f"wrote {plot}")
    for row in rows:
        if row["unsupported"] is not None:
            streams.note(f"{row['method']}: {row['unsupported']}")
    streams.note(f"auto is {result['auto']} here")
    wrong = [f"CONTRADICTION: {each['message']}" for each in result["contradictions"]]
    for line in wrong:
        streams.note(line)
    if streams.as_json:
        streams.json(result)
        return
    header = ("method", "lower bound", "seconds", "Jacobian width", "Lipschitz", "verdict", "boxes", "seconds")
    times = ("seconds", "verify_seconds")
    table = [[duration(row[name]) if name in times else row[name] for name in _HEADER] for row in rows]
    table.append(["sampled", None, None, None, result["lipschitz_sampled"], None, None, None])
    streams.table(title, header, table, right=(1, 2, 3, 4, 6, 7))
    for line in wrong:
        streams.line(line)
