"""`recurjac radius`: the radius on which a classification is certified, by several methods."""

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
    ball,
    chosen,
    labels,
    load_centers,
    load_network,
    outputs_at,
)
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.errors import counted
from recurjac_plugin.jacobian.methods import AUTO
from recurjac_plugin.plots import certified_fractions, encoded

if TYPE_CHECKING:
    import torch

_DEFAULT = options.listed((AUTO, "Fast-Lip", "CROWN"))


def radius_command(
    model: options.Model,
    vnnlib: options.CenterProperty = None,
    input_file: options.CenterInputs = None,
    input_shape: options.InputShape = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="C,C,...",
            help="Classes of the inputs.  [default: what the network says]",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target", metavar="T", help="The other class: all, runner-up, least-likely, random, or its number."
        ),
    ] = "all",
    norm: options.Norm = "inf",
    methods: options.Methods = _DEFAULT,
    steps: Annotated[
        int, typer.Option("--steps", min=1, metavar="N", help="Nested balls for one radius; CROWN needs one.")
    ] = 15,
    clip: options.Clip = None,
    initial: options.Initial = 0.01,
    limit: Annotated[float, typer.Option("--limit", metavar="R", help="Largest radius to try.")] = 1e5,
    tolerance: options.Tolerance = 1e-5,
    max_probes: options.MaxProbes = 100,
    budget: options.Budget = None,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    rigorous: options.Rigorous = False,
    seed: options.Seed = 0,
) -> None:
    """Find the largest ball on which the class that the network gives is certified not to change.

    A radius is 0 where nothing was certified, among others where the network does not say the given class at all. With
    --budget it grows on, for networks of ReLUs, maxima and other functions with two linear pieces.
    """  # fmt: skip
    with open_streams(json) as streams:
        options.require_one_source(vnnlib, input_file)
        p, names, span = options.norm_of(norm), options.methods("--methods", methods), options.clip("--clip", clip)
        check_writable(csv, plot)
        check_format(plot)
        network = load_network(model, device, dtype, ShapeSources(input_shape, input_file, vnnlib))
        points = load_centers(network, vnnlib, input_file)
        C = _rows(network, points, labels, target, seed)
        if span is not None and p != math.inf:
            streams.note(f"balls of {options.norm_name(p)} are not clipped: the radii hold without it")
        search = {
            "initial": initial, "limit": limit, "tolerance": tolerance, "max_probes": max_probes, "steps": steps,
            "clip": span if p == math.inf else None, "budget": options.budget(budget), "rigorous": rigorous,
        }  # fmt: skip
        radii = _radii(network, points, C, p, names, search, streams)
        result = {
            "command": "radius",
            **network.describe(model),
            "norm": norm.lower(),
            "target": target,
            "seed": seed,
            **search,
            "inputs": len(points),
            "radii": radii,
        }
        _tell(streams, result, names, csv, plot)


def _rows(network: Network, points: torch.Tensor, labels: str | None, target: str, seed: int) -> torch.Tensor:
    """The margins asked for, one matrix for each input: (b, k, n_outputs)."""
    import torch

    from recurjac_plugin.properties.margins import TARGETS, margin_rows

    classes = None
    if labels is not None:
        numbers = [_class("--labels", part) for part in labels.split(",")]
        if len(numbers) != len(points):
            given, wanted = counted(len(numbers), "class"), counted(len(points), "input")
            options.refuse("--labels", f"has {given} for {wanted}; give one for each.")
        classes = torch.tensor(numbers, device=points.device)
    chosen = target if target in TARGETS else _class("--target", target)
    return margin_rows(outputs_at(network, points), classes, chosen, seed)


def _class(option: str, text: str) -> int:
    if not text.strip().isdecimal():
        more = "" if option == "--labels" else "all, runner-up, least-likely, random or "
        options.refuse(option, f"must be {more}classes by their number (from 0 on), got {text.strip()!r}.")
    return int(text)


def _radii(
    network: Network,
    points: torch.Tensor,
    C: torch.Tensor,
    norm: float,
    names: tuple[str, ...],
    search: dict[str, Any],
    streams: Streams,
) -> list[dict[str, Any]]:
    """One entry per method and input."""
    from recurjac_plugin.certificates.robustness import certified_radius

    entries = []
    for name, i in streams.progress([(name, i) for name in names for i in range(len(points))], "Radii"):
        start, alone = time.perf_counter(), slice(i, i + 1)
        value = float(certified_radius(network.host, points[alone], norm=norm, C=C[alone], method=name, **search)[0])
        seconds = time.perf_counter() - start
        targets = (C[i] < 0).nonzero()[:, 1].tolist()
        entries.append(
            {
                "asked": name,
                "method": _chosen(network, name, points[alone], norm, value or search["initial"], C[alone], search),
                "input": i,
                "class": int((C[i, 0] > 0).nonzero()[0]),
                "target": targets[0] if len(targets) == 1 else "all",
                "radius": value,
                "seconds": seconds,
            }
        )
    return entries


def _chosen(
    network: Network,
    name: str,
    point: torch.Tensor,
    norm: float,
    radius: float,
    C: torch.Tensor,
    search: dict[str, Any],
) -> str:
    """The method that bounds the Jacobian on the ball that was certified, or on the first one if none was."""
    return chosen(network, name, [ball(point, norm, radius)], C, search["rigorous"])


def _tell(
    streams: Streams, result: dict[str, Any], names: tuple[str, ...], csv: Path | None, plot: Path | None
) -> None:
    entries = result["radii"]
    if csv is not None:
        write_csv(csv, list(entries[0]), [list(entry.values()) for entry in entries])
        streams.note(f"wrote {csv}")
    norm = options.norm_name(options.norm_of(result["norm"]))
    called = labels(entries, names)
    radii = {label: [entry["radius"] for entry in entries if entry["asked"] == name] for name, label in called.items()}
    if plot is not None:
        figure = certified_fractions(radii, norm=norm, title=Path(result["model"]).name)
        write(plot, encoded(figure, picture_format(plot)))
        streams.note(f"wrote {plot}")
    if streams.as_json:
        streams.json(result)
        return
    count = result["inputs"]
    rows: list[tuple[Any, ...]] = [
        (i, entries[i]["class"], entries[i]["target"], *(each[i] for each in radii.values())) for i in range(count)
    ]
    seconds = [sum(entry["seconds"] for entry in entries if entry["asked"] == name) / count for name in names]
    rows += [("mean", None, None, *(sum(each) / count for each in radii.values())), ("seconds", None, None, *seconds)]
    header = ("input", "class", "target", *radii)
    streams.table(f"Certified radius ({norm})", header, rows, right=range(len(header)))
