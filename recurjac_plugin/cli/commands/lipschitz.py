"""`recurjac lipschitz`: Lipschitz constants against the radius, for several methods, and what sampling finds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.problem import Network, ball, load_centers, load_network
from recurjac_plugin.cli.streams import Report, reporting
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS, METHODS

if TYPE_CHECKING:
    import torch

_Point = tuple[str, float, int]  # method, radius, index of the input

_DEFAULT = options.listed((*METHODS, *GLOBAL_METHODS))


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
    methods: options.Methods = _DEFAULT,
    samples: Annotated[
        int, typer.Option("--samples", min=0, metavar="N", help="Points sampled for a lower bound; 0: none.")
    ] = 64,
    steps: Annotated[
        int, typer.Option("--steps", min=0, metavar="N", help="Steps that each point climbs; 0: stays.")
    ] = 10,
    csv: options.Csv = None,
    plot: options.Plot = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Bound the Lipschitz constant of the network's output vector on balls, in the norm of the ball on both sides.

    With several inputs the table shows the largest constant over them; JSON and CSV have all. Operator-Norm holds
    everywhere, so it is the same for every ball. No bound can be below what was sampled.
    """
    with reporting(json) as report:
        if (vnnlib is None) == (input_file is None):
            options.refuse("--vnnlib", "or `--input` must be given, and only one of them.")
        p, radii = options.norm_of(norm), options.radii("--eps", eps)
        names = options.lipschitz_methods("--methods", methods)
        check_writable(csv, plot)
        if plot is not None:
            from recurjac_plugin.cli.plots import picture_format

            picture_format(plot)
        network = load_network(model, device, dtype)
        centers = load_centers(network, vnnlib, input_file)
        curves = _constants(network, centers, p, radii, names, report)
        if samples:
            curves += _sampled(network, centers, p, radii, (samples, steps, seed), report)
        result = {
            "command": "lipschitz",
            **network.describe(model),
            "norm": norm.lower(),
            "inputs": len(centers),
            "seed": seed,
            "samples": samples,
            "steps": steps,
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

    from recurjac_plugin.lipschitz.local import local_lipschitz

    balls = [(eps, i) for eps in radii for i in range(len(centers))]
    points: list[_Point] = [(name, eps, i) for name in names if name not in GLOBAL_METHODS for eps, i in balls]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name, eps, i in report.progress(points, "Lipschitz constants"):
        start = time.perf_counter()
        with torch.no_grad():
            constant = local_lipschitz(network.host, ball(centers[i : i + 1], norm, eps), method=name)
        found[name].append(_entry(name, eps, i, float(constant[0]), time.perf_counter() - start))
    for name in (name for name in names if name in GLOBAL_METHODS):
        start = time.perf_counter()
        everywhere = _everywhere(network, norm, name, report)
        seconds = time.perf_counter() - start
        found[name] = [_entry(name, eps, i, everywhere, seconds) for eps, i in balls]
    return [entry for name in names for entry in found[name]]


def _everywhere(network: Network, norm: float, name: str, report: Report) -> float | None:
    """The constant on the whole space; None, and a remark, where the network has none."""
    from recurjac_plugin.lipschitz.product import global_lipschitz

    try:
        return float(global_lipschitz(network.host, norm=norm)[0])
    except UnsupportedError as error:
        report.note(f"{name}: {error}")
        return None


def _sampled(
    network: Network,
    centers: torch.Tensor,
    norm: float,
    radii: tuple[float, ...],
    effort: tuple[int, int, int],  # points, steps, seed
    report: Report,
) -> list[dict[str, Any]]:
    from recurjac_plugin.lipschitz.sampled import sampled_lipschitz

    found = []
    largest = [0.0] * len(centers)  # a smaller ball lies in a larger one: what was met in it counts there, too
    points, steps, seed = effort
    for eps, i in report.progress([(eps, i) for eps in radii for i in range(len(centers))], "Samples"):
        start = time.perf_counter()
        x = ball(centers[i : i + 1], norm, eps)
        constant = sampled_lipschitz(network.module, x, points=points, steps=steps, seed=seed)
        largest[i] = max(largest[i], float(constant[0]))
        found.append(_entry("sampled", eps, i, largest[i], time.perf_counter() - start))
    return found


def _entry(method: str, eps: float, i: int, constant: float | None, seconds: float) -> dict[str, Any]:
    return {"method": method, "eps": eps, "input": i, "constant": constant, "seconds": seconds}


def _tell(report: Report, result: dict[str, Any], csv: Path | None, plot: Path | None) -> None:
    constants = result["constants"]
    if csv is not None:
        write_csv(csv, list(constants[0]), [list(entry.values()) for entry in constants])
        report.note(f"wrote {csv}")
    largest: dict[tuple[str, float], float | None] = {}
    for entry in constants:
        key, constant = (entry["method"], entry["eps"]), entry["constant"]
        largest[key] = None if constant is None else max(largest.get(key) or 0.0, constant)
    names = list(dict.fromkeys(name for name, _ in largest))
    radii = sorted({eps for _, eps in largest})
    norm = options.norm_name(options.norm_of(result["norm"]))
    if plot is not None:
        from recurjac_plugin.cli.plots import lipschitz_curves, picture_format

        curves = {
            name: [value for eps in radii if (value := largest[name, eps]) is not None]
            for name in names
            if largest[name, radii[0]] is not None
        }
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
