"""`recurjac landscape`: balls without a stationary point of an output, and the gradients on them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.plots import check_format, picture_format
from recurjac_plugin.cli.problem import (
    Network,
    ShapeSources,
    load_centers,
    load_network,
    outputs_at,
)
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.jacobian.methods import METHODS
from recurjac_plugin.plots import encoded, landscape_curves
from recurjac_plugin.tables.subject import ball, chosen, labels

if TYPE_CHECKING:
    import torch

_LIMITS = {1.0: 100.0, 2.0: 10.0, math.inf: 1.0}  # of the authors' published program, for inputs of about 0 to 1

_DEFAULT = options.listed(METHODS)


def landscape_command(
    model: options.Model,
    vnnlib: options.CenterProperty = None,
    input_file: options.CenterInputs = None,
    input_shape: options.InputShape = None,
    output: Annotated[
        int | None,
        typer.Option(
            "--output",
            min=0,
            metavar="K",
            help="Output to follow.  [default: the largest at each input]",
            show_default=False,
        ),
    ] = None,
    norm: options.Norm = "inf",
    methods: options.Methods = _DEFAULT,
    points: Annotated[
        int, typer.Option("--points", min=2, metavar="N", help="Radii to look at the gradients on.")
    ] = 16,
    clip: options.Clip = None,
    initial: options.Initial = 0.01,
    limit: Annotated[
        float | None,
        typer.Option(
            "--limit",
            metavar="R",
            help="Largest radius to try.  [default: 100, 10, 1 for norm 1, 2, inf]",
            show_default=False,
        ),
    ] = None,
    tolerance: options.Tolerance = 1e-5,
    max_probes: options.MaxProbes = 100,
    budget: options.Budget = None,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    rigorous: options.Rigorous = False,
) -> None:
    """Find the largest ball on which an output has no stationary point: some entry of its gradient keeps its sign.

    Then follow the gradient up to the largest of the radii found: its undetermined entries, and the Lipschitz constant.
    With --budget the radius grows on, for networks of ReLUs, maxima and other functions with two linear pieces. With
    several inputs the tables along the radius and the picture show the mean over them; JSON and CSV have all.
    """  # fmt: skip
    with open_streams(json) as streams:
        options.require_one_source(vnnlib, input_file)
        p, span = options.norm_of(norm), options.clip("--clip", clip)
        names = tuple(map(options.jacobian_method, options.methods("--methods", methods)))
        check_writable(csv, plot)
        check_format(plot)
        network = load_network(model, device, dtype, ShapeSources(input_shape, input_file, vnnlib))
        centers = load_centers(network, vnnlib, input_file)
        C = _rows(network, centers, output)
        if span is not None and p != math.inf:
            streams.note(f"balls of {options.norm_name(p)} are not clipped: the radii hold without it")
            span = None
        search = {
            "initial": initial, "limit": _LIMITS[p] if limit is None else limit, "tolerance": tolerance,
            "max_probes": max_probes, "budget": options.budget(budget), "rigorous": rigorous,
        }  # fmt: skip
        radii = _radii(network, centers, C, p, names, search | {"clip": span}, streams)
        largest = max(entry["radius"] for entry in radii)
        scan = _scan(network, centers, C, p, names, largest, points, {"clip": span, "rigorous": rigorous}, streams)
        result = {
            "command": "landscape",
            **network.describe(model),
            "norm": norm.lower(),
            "clip": span,
            **search,
            "inputs": len(centers),
            "radii": radii,
            "scan": scan,
        }
        _tell(streams, result, names, centers[0].numel(), csv, plot)


def _rows(network: Network, centers: torch.Tensor, output: int | None) -> torch.Tensor:
    """The output to follow at every input, as unit rows (b, 1, n_outputs)."""
    import torch

    outputs = outputs_at(network, centers)
    count = outputs.shape[1]
    if output is not None and output >= count:
        options.refuse("--output", f"is {output}, but the outputs are 0 to {count - 1}.")
    chosen = outputs.argmax(1) if output is None else torch.full((len(outputs),), output, device=outputs.device)
    return torch.eye(count, dtype=outputs.dtype, device=outputs.device)[chosen].unsqueeze(1)


def _radii(
    network: Network,
    centers: torch.Tensor,
    C: torch.Tensor,
    norm: float,
    names: tuple[str, ...],
    search: dict[str, Any],
    streams: Streams,
) -> list[dict[str, Any]]:
    """The radius of every ball without a stationary point, one entry per method and input."""
    from recurjac_plugin.certificates.stationary_points import stationary_free_radius

    entries = []
    for name, i in streams.progress([(name, i) for name in names for i in range(len(centers))], "Radii"):
        start, alone = time.perf_counter(), slice(i, i + 1)
        value = stationary_free_radius(network.host, centers[alone], norm=norm, C=C[alone], method=name, **search)
        seconds = time.perf_counter() - start
        radius = float(value[0])
        x = ball(centers[alone], norm, radius or search["initial"])
        by = chosen(network, name, [x], C[alone], search["rigorous"])
        entries.append(
            {"asked": name, "method": by, "input": i, "output": int(C[i, 0].argmax()), "radius": radius}
            | {"seconds": seconds}
        )
    return entries


def _scan(
    network: Network,
    centers: torch.Tensor,
    C: torch.Tensor,
    norm: float,
    names: tuple[str, ...],
    largest: float,
    points: int,
    how: dict[str, Any],
    streams: Streams,
) -> list[dict[str, Any]]:
    """The gradients on growing balls, one entry per method, input and radius."""
    from recurjac_plugin.certificates.landscape import landscape_scan

    entries = []
    for name, i in streams.progress([(name, i) for name in names for i in range(len(centers))], "Gradients"):
        alone = slice(i, i + 1)
        scan = landscape_scan(
            network.host, centers[alone], norm=norm, radius=largest, points=points, C=C[alone], method=name, **how
        )
        values = zip(scan.radii[0], scan.undetermined[0, :, 0], scan.constants[0, :, 0])
        for eps, count, constant in values:
            x = ball(centers[alone], norm, float(eps))
            by = chosen(network, name, [x], C[alone], how["rigorous"])
            found = {"undetermined": int(count), "constant": float(constant)}
            entries.append({"asked": name, "method": by, "input": i, "radius": float(eps)} | found)
    return entries


def _tell(
    streams: Streams, result: dict[str, Any], names: tuple[str, ...], entries: int, csv: Path | None, plot: Path | None
) -> None:
    radii, scan, count = result["radii"], result["scan"], result["inputs"]
    norm = options.norm_name(options.norm_of(result["norm"]))
    if csv is not None:
        write_csv(csv, list(scan[0]), [list(entry.values()) for entry in scan])
        streams.note(f"wrote {csv}")
    called = labels(radii, names)
    steps = list(dict.fromkeys(entry["radius"] for entry in scan))
    undetermined, constants = (
        {
            label: [sum(e[key] for e in scan if e["asked"] == name and e["radius"] == eps) / count for eps in steps]
            for name, label in called.items()
        }
        for key in ("undetermined", "constant")
    )
    if plot is not None:
        title = f"{Path(result['model']).name}" + (f", mean over {count} inputs" if count > 1 else "")
        figure = landscape_curves(steps, undetermined, constants, inputs=entries, norm=norm, title=title)
        write(plot, encoded(figure, picture_format(plot)))
        streams.note(f"wrote {plot}")
    if streams.as_json:
        streams.json(result)
        return
    by_method = {label: [entry for entry in radii if entry["asked"] == name] for name, label in called.items()}
    columns = tuple(by_method)
    rows: list[tuple[Any, ...]] = [
        (i, by_method[columns[0]][i]["output"], *(by_method[name][i]["radius"] for name in columns))
        for i in range(count)
    ]
    rows += [
        (label, None, *(sum(entry[key] for entry in by_method[name]) / count for name in columns))
        for label, key in (("mean", "radius"), ("seconds", "seconds"))
    ]
    streams.table(
        f"Stationary-free radius ({norm})", ("input", "output", *columns), rows, right=range(len(columns) + 2)
    )
    mean = f", mean of {count} inputs" if count > 1 else ""
    for title, values in (
        (f"Undetermined entries of {entries}", undetermined),
        (f"Lipschitz constant ({norm})", constants),
    ):
        lines = [(f"{eps:.4g}", *(values[name][i] for name in columns)) for i, eps in enumerate(steps)]
        streams.table(title + mean, (f"radius ({norm})", *columns), lines, right=range(len(columns) + 1))
