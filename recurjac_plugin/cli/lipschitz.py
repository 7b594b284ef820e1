"""`recurjac lipschitz`: local Lipschitz constants against the radius, for several methods."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.methods import METHODS

from . import options
from .files import check_writable, write, write_csv
from .problem import Network, ball, load_centers, load_network
from .report import Report, reporting

if TYPE_CHECKING:
    import torch

_Point = tuple[str, float, int]  # method, radius, index of the input


def lipschitz(
    model: options.Model,
    eps: Annotated[
        str, typer.Option("--eps", metavar="E,E,...", help="Radii, e.g. 0.001,0.01,0.1.", show_default=False)
    ],
    vnnlib: Annotated[
        Path | None,
        typer.Option(
            "--vnnlib", metavar="PROP", help="Balls around the middle of this property's boxes.", show_default=False
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option("--input", metavar="X.npy", help="Balls around each of these inputs.", show_default=False),
    ] = None,
    norm: options.Norm = "inf",
    methods: Annotated[str, typer.Option("--methods", metavar="M,M,...", help="Methods to compare.")] = options.listed(
        METHODS
    ),
    samples: Annotated[
        int, typer.Option("--samples", min=0, metavar="N", help="Random points for a lower bound; 0: none.")
    ] = 100,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Bound the Lipschitz constant of the network's output vector on balls, in the norm of the ball on both sides.

    With several inputs the table shows the largest constant over them; JSON and CSV have all.
    """
    with reporting(json) as report:
        if (vnnlib is None) == (input_file is None):
            options.refuse("--vnnlib", "or `--input` must be given, and only one of them.")
        p, radii = options.norm_of(norm), options.radii("--eps", eps)
        names = tuple(map(options.jacobian_method, options.methods("--methods", methods)))
        check_writable(csv, plot)
        if plot is not None:
            from .plots import picture_format

            picture_format(plot)
        network = load_network(model, device, dtype)
        centers = load_centers(network, vnnlib, input_file)
        curves = _constants(network, centers, p, radii, names, report)
        if samples:
            curves += _sampled(network, centers, p, radii, samples, seed, report)
        result = {
            "command": "lipschitz",
            **network.describe(model),
            "norm": norm.lower(),
            "inputs": len(centers),
            "seed": seed,
            "samples": samples,
            "constants": curves,
        }
        _tell(report, result, csv, plot)


def _constants(
    network: Network,
    centers: torch.Tensor,
    norm: float,
    radii: tuple[float, ...],
    names: tuple[str, ...],
    report: Report,
) -> list[dict[str, Any]]:
    import torch

    from recurjac_plugin.lipschitz import local_lipschitz

    points: list[_Point] = [(name, eps, i) for name in names for eps in radii for i in range(len(centers))]
    found = []
    for name, eps, i in report.progress(points, "Lipschitz constants"):
        start = time.perf_counter()
        with torch.no_grad():
            constant = local_lipschitz(network.host, ball(centers[i : i + 1], norm, eps), method=name)
        found.append(_entry(name, eps, i, float(constant[0]), time.perf_counter() - start))
    return found


def _sampled(
    network: Network,
    centers: torch.Tensor,
    norm: float,
    radii: tuple[float, ...],
    samples: int,
    seed: int,
    report: Report,
) -> list[dict[str, Any]]:
    from .sampling import sampled_constant

    found = []
    for eps, i in report.progress([(eps, i) for eps in radii for i in range(len(centers))], "Samples"):
        start = time.perf_counter()
        constant = sampled_constant(network.module, centers[i], norm, eps, samples, seed)
        found.append(_entry("sampled", eps, i, constant, time.perf_counter() - start))
    return found


def _entry(method: str, eps: float, i: int, constant: float, seconds: float) -> dict[str, Any]:
    return {"method": method, "eps": eps, "input": i, "constant": constant, "seconds": seconds}


def _tell(report: Report, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    constants = result["constants"]
    if csv is not None:
        write_csv(csv, list(constants[0]), [list(entry.values()) for entry in constants])
        report.note(f"wrote {csv}")
    largest: dict[tuple[str, float], float] = {}
    for entry in constants:
        key = (entry["method"], entry["eps"])
        largest[key] = max(largest.get(key, 0.0), entry["constant"])
    names = list(dict.fromkeys(name for name, _ in largest))
    radii = sorted({eps for _, eps in largest})
    norm = options.norm_name(options.norm_of(result["norm"]))
    if plot is not None:
        from .plots import lipschitz_curves, picture_format

        curves = {name: [largest[name, eps] for eps in radii] for name in names}
        write(plot, lipschitz_curves(radii, curves, norm, Path(result["model"]).name, picture_format(plot)))
        report.note(f"wrote {plot}")
    if report.as_json:
        report.json(result)
        return
    title = f"Lipschitz constant in {norm}" + (
        f", largest of {result['inputs']} inputs" if result["inputs"] > 1 else ""
    )
    rows = [(f"{eps:g}", *(largest[name, eps] for name in names)) for eps in radii]
    report.table(title, (f"radius ({norm})", *names), rows, right=range(len(names) + 1))
