"""`recurjac jacobian`: bounds of every element of a network's Jacobian."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .files import check_writable, write
from .problem import Network, ball, load_inputs, load_network, load_property
from .report import Report, reporting

if TYPE_CHECKING:
    import torch

_MOST_ROWS = 30  # of the printed table; JSON and --out have all


def jacobian(
    model: options.Model,
    vnnlib: Annotated[
        Path | None,
        typer.Option(
            "--vnnlib", metavar="PROP", help="Bound over the input boxes of this property.", show_default=False
        ),
    ] = None,
    input_file: Annotated[
        Path | None,
        typer.Option(
            "--input", metavar="X.npy", help="Bound over a ball around each of these inputs.", show_default=False
        ),
    ] = None,
    eps: Annotated[
        float | None, typer.Option("--eps", metavar="E", help="Radius of the ball, with --input.", show_default=False)
    ] = None,
    norm: options.Norm = "inf",
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="RecurJac, RecurJac-Linear or Fast-Lip; `IBP+RecurJac` chooses other "
            "pre-activation bounds than CROWN's.",
        ),
    ] = "RecurJac",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="J.npz",
            help="Write the arrays `lower` and `upper`, (inputs, outputs, *input_shape), and the regions.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    seed: options.Seed = 0,
) -> None:
    """Bound the Jacobian over a VNN-LIB property's boxes or over balls around inputs."""
    with reporting(json) as report:
        if (vnnlib is None) == (input_file is None):
            options.refuse("--vnnlib", "or `--input` must be given, and only one of them.")
        if (eps is None) != (input_file is None):
            options.refuse("--eps", "goes with `--input`, which needs it; a property has its own boxes.")
        p, radius = options.norm_of(norm), None if eps is None else options.radius("--eps", eps)
        if vnnlib is not None and p != math.inf:
            options.refuse("--norm", "goes with `--input`; the boxes of a property are balls of l_inf.")
        name = options.jacobian_method(method)
        check_writable(out)
        network = load_network(model, device, dtype)
        if vnnlib is not None:
            regions = _boxes(vnnlib, network)
        else:
            assert input_file is not None and radius is not None
            regions = [ball(x.unsqueeze(0), p, radius) for x in load_inputs(input_file, network)]
        start = time.perf_counter()
        lower, upper = _bounds(network, regions, name, report)
        elapsed = time.perf_counter() - start
        if out is not None:
            write(out, _archive(lower, upper, regions, p, radius))
        rows = [_summary(lower, upper, i, k) for i in range(len(lower)) for k in range(lower.shape[1])]
        result = {
            "command": "jacobian",
            **network.describe(model),
            "method": name,
            "norm": norm.lower(),
            "eps": radius,
            "shape": list(lower.shape),
            "seconds": elapsed,
            "rows": rows,
            "out": None if out is None else str(out),
        }
        _tell(report, result)


def _boxes(path: Path, network: Network) -> list[Any]:
    from recurjac_plugin.margins import box_region

    module = network.module
    spec = load_property(path, network)
    return [box_region(box, module.input_shape, module.dtype, network.device) for box in spec.boxes]


def _bounds(network: Network, regions: list[Any], name: str, report: Report) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds over all regions, (b, k, *input_shape), on the CPU."""
    import torch

    from recurjac_plugin.jacobian import jacobian_bounds

    pairs = []
    for x in report.progress(regions, "Jacobian"):
        with torch.no_grad():
            lower, upper = jacobian_bounds(network.host, x, method=name)
        pairs.append((lower.cpu(), upper.cpu()))
    return torch.cat([low for low, _ in pairs]), torch.cat([high for _, high in pairs])


def _summary(lower: torch.Tensor, upper: torch.Tensor, i: int, k: int) -> dict[str, Any]:
    low, high = lower[i, k], upper[i, k]
    return {
        "input": i,
        "output": k,
        "lower": float(low.min()),
        "upper": float(high.max()),
        "mean_width": float((high - low).mean()),
        "max_width": float((high - low).max()),
        "known_sign": int(((low >= 0) | (high <= 0)).sum()),
        "entries": low.numel(),
    }


def _archive(lower: torch.Tensor, upper: torch.Tensor, regions: list[Any], norm: float, eps: float | None) -> bytes:
    import numpy as np
    import torch

    arrays: dict[str, Any] = {"lower": lower.numpy(), "upper": upper.numpy(), "norm": np.asarray(norm)}
    if eps is None:
        for name in ("x_L", "x_U"):
            arrays[name] = torch.cat([getattr(x.ptb, name) for x in regions]).cpu().numpy()
    else:
        centers = [x.detach().as_subclass(torch.Tensor) for x in regions]
        arrays |= {"center": torch.cat(centers).cpu().numpy(), "eps": np.asarray(eps)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _tell(report: Report, result: dict[str, Any]) -> None:
    if report.as_json:
        report.json(result)
        return
    region = (
        "boxes of the property" if result["eps"] is None else f"l_{result['norm']} balls of radius {result['eps']:g}"
    )
    header = ("input", "output", "smallest", "largest", "mean width", "widest", "known sign")
    rows = [
        (
            r["input"],
            r["output"],
            r["lower"],
            r["upper"],
            r["mean_width"],
            r["max_width"],
            f"{r['known_sign']} of {r['entries']}",
        )
        for r in result["rows"]
    ]
    report.table(f"Jacobian by {result['method']}, {region}", header, rows[:_MOST_ROWS], right=range(7))
    if len(rows) > _MOST_ROWS:
        report.note(f"{len(rows) - _MOST_ROWS} more rows: see --json or --out.")
    if result["out"] is not None:
        report.note(f"wrote {result['out']}")
    report.note(f"{result['seconds']:.3f} s")
