"""`recurjac jacobian`: bounds of every element of a network's Jacobian."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write
from recurjac_plugin.cli.plots import picture_format
from recurjac_plugin.cli.problem import Network, ShapeSources, load_network, load_regions
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.errors import counted
from recurjac_plugin.jacobian.methods import AUTO
from recurjac_plugin.plots import MOST_CHANNELS, encoded
from recurjac_plugin.tables.subject import listed

if TYPE_CHECKING:
    import torch

_MOST_ROWS = 30  # of the printed table; JSON and --out have all


def jacobian_command(
    model: options.Model,
    vnnlib: options.RegionProperty = None,
    input_file: options.RegionInputs = None,
    input_shape: options.InputShape = None,
    eps: options.RegionRadius = None,
    norm: options.Norm = "inf",
    method: options.JacobianMethod = AUTO,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="J.npz",
            help="Write the arrays `lower` and `upper`, (inputs, outputs, *input_shape), and the regions.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw one output's bounds over the first region, an image or bars: .png, .pdf or .svg.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[int, typer.Option("--output", metavar="K", help="The output that --plot draws.")] = 0,
    image_shape: Annotated[
        str | None,
        typer.Option(
            "--image-shape",
            metavar="[C,]H,W",
            help="Shape of the image that --plot draws.  [default: the input's, bars for vectors]",
            show_default=False,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="Write a proof of the bounds for `recurjac check` there.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    rigorous: options.Rigorous = False,
    seed: options.Seed = 0,
) -> None:
    """Bound the Jacobian over a VNN-LIB property's boxes or over balls around inputs."""
    with open_streams(json) as streams:
        p, radius = options.region_choice(vnnlib, input_file, eps, norm)
        name = options.jacobian_method(method)
        check_writable(out, plot, certificate)
        checked = _checked_network(model, certificate, p)
        file_format, shape = _picture(plot, image_shape)
        network = load_network(model, device, dtype, ShapeSources(input_shape, input_file, vnnlib))
        if plot is not None:
            _check_image(shape, network)
            _check_output(output, network)
        regions = load_regions(network, vnnlib, input_file, p, radius)
        start = time.perf_counter()
        lower, upper, chosen = _bounds(network, regions, name, rigorous, streams)
        elapsed = time.perf_counter() - start
        title = f"{model.name}: Jacobian of output {output} by {listed(chosen)}"
        picture = None if plot is None else _drawn(lower, upper, output, shape, title, file_format)
        if out is not None:
            write(out, _archive(lower, upper, regions, p, radius))
        if plot is not None and picture is not None:
            write(plot, picture)
        proof = None if checked is None else _certify(checked, regions, lower, upper, certificate, radius)
        rows = [_summary(lower, upper, i, k, chosen) for i in range(len(lower)) for k in range(lower.shape[1])]
        result = {
            "command": "jacobian",
            **network.describe(model),
            "asked": name,
            "method": listed(chosen),
            "rigorous": rigorous,
            "norm": norm.lower(),
            "eps": radius,
            "shape": list(lower.shape),
            "seconds": elapsed,
            "rows": rows,
            "out": None if out is None else str(out),
            "plot": None if plot is None else str(plot),
            "certificate": None if proof is None else {"file": str(certificate), **proof},
        }
        _tell(streams, result)


def _checked_network(model: Path, certificate: Path | None, norm: float) -> Any:
    """The network as the checker reads it, with the hash of its file; None without a certificate."""
    from recurjac_plugin.checker.files import network_of

    if certificate is None:
        return None
    if options.is_python(model):
        options.refuse("--certificate", "is for ONNX files, which `recurjac check` reads again.")
    if norm != math.inf:
        options.refuse("--certificate", "is about boxes: it goes with `--vnnlib`, or with `--norm inf`.")
    return network_of(model)


def _certify(
    checked: Any, regions: list[Any], lower: torch.Tensor, upper: torch.Tensor, file: Any, eps: float | None
) -> dict[str, Any]:
    """Write the certificate: the number of its boxes, and how much wider its bounds are."""
    import numpy as np
    import torch

    from recurjac_plugin.verification.jacobian_certificate import BoundsOnABox, write_jacobian_certificate

    claims = []
    for x, low, high in zip(regions, lower.double().flatten(2).numpy(), upper.double().flatten(2).numpy()):
        if eps is None:
            ends = [getattr(x.ptb, name).double().cpu().numpy().reshape(-1) for name in ("x_L", "x_U")]
        else:
            center = x.detach().as_subclass(torch.Tensor).double().cpu().numpy().reshape(-1)
            ends = [np.nextafter(center - eps, -np.inf), np.nextafter(center + eps, np.inf)]
        claims.append(BoundsOnABox(ends[0], ends[1], low, high))
    network, network_hash = checked
    certified = write_jacobian_certificate(network, network_hash, claims, file)
    return {"boxes": certified.boxes, "widened": certified.widened}


def _picture(plot: Path | None, image_shape: str | None) -> tuple[str, tuple[int, ...] | None]:
    """The format of the picture, and the image's shape if one is given."""
    if plot is None:
        if image_shape is not None:
            options.refuse("--image-shape", "goes with `--plot`.")
        return "", None
    file_format = picture_format(plot)
    if image_shape is None:
        return file_format, None
    parts = image_shape.split(",")
    if len(parts) not in (2, 3) or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        options.refuse("--image-shape", f"must be H,W or C,H,W such as 28,28, got {image_shape!r}.")
    return file_format, tuple(map(int, parts))


def _check_image(shape: tuple[int, ...] | None, network: Network) -> None:
    """Refuse an image that has too many channels, or a shape that holds fewer or more numbers than the input."""
    own = network.module.input_shape
    if len(shape or own) == 3 and (shape is not None or 1 not in own[-2:]) and (shape or own)[0] > MOST_CHANNELS:
        options.refuse("--plot", f"draws images of up to {MOST_CHANNELS} channels, got {(shape or own)[0]}.")
    if shape is not None and math.prod(shape) != math.prod(own):
        options.refuse("--image-shape", f"is {shape}, but the network takes {own}: {math.prod(own)} numbers.")


def _check_output(output: int, network: Network) -> None:
    if not 0 <= output < network.module.n_outputs:
        options.refuse("--output", f"must be from 0 to {network.module.n_outputs - 1} for this network, got {output}.")


def _drawn(
    lower: torch.Tensor, upper: torch.Tensor, output: int, shape: tuple[int, ...] | None, title: str, file_format: str
) -> bytes:
    """The picture of one output over the first region."""
    from recurjac_plugin.jacobian.bounds import Bounds

    return encoded(Bounds(lower, upper).plot(output, image_shape=shape, title=title), file_format)


def _bounds(
    network: Network, regions: list[Any], name: str, rigorous: bool, streams: Streams
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Bounds over all regions, (b, k, *input_shape), on the CPU, and the methods that they were found by."""
    import torch

    from recurjac_plugin.jacobian.entries import jacobian_bounds

    pairs, chosen = [], []
    for x in streams.progress(regions, "Jacobian"):
        with torch.no_grad():
            bounds = jacobian_bounds(network.host, x, method=name, rigorous=rigorous)
        pairs.append((bounds.lower.cpu(), bounds.upper.cpu()))
        chosen += bounds.methods
    return torch.cat([low for low, _ in pairs]), torch.cat([high for _, high in pairs]), chosen


def _summary(lower: torch.Tensor, upper: torch.Tensor, i: int, k: int, chosen: list[str]) -> dict[str, Any]:
    """What the table says about the gradient of output k over region i."""
    low, high = lower[i, k], upper[i, k]
    return {
        "input": i,
        "output": k,
        "method": chosen[i],
        "lower": float(low.min()),
        "upper": float(high.max()),
        "mean_width": float((high - low).mean()),
        "max_width": float((high - low).max()),
        "known_sign": int(((low >= 0) | (high <= 0)).sum()),
        "entries": low.numel(),
    }


def _archive(lower: torch.Tensor, upper: torch.Tensor, regions: list[Any], norm: float, eps: float | None) -> bytes:
    """The content of the file for --out."""
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


def _tell(streams: Streams, result: dict[str, Any]) -> None:
    if streams.as_json:
        streams.json(result)
        return
    region = (
        "boxes of the property" if result["eps"] is None else f"l_{result['norm']} balls of radius {result['eps']:g}"
    )
    header = ("input", "output", "smallest", "largest", "mean width", "widest", "known sign")
    columns = ("input", "output", "lower", "upper", "mean_width", "max_width")
    rows = [(*(row[name] for name in columns), f"{row['known_sign']} of {row['entries']}") for row in result["rows"]]
    streams.table(f"Jacobian by {result['method']}, {region}", header, rows[:_MOST_ROWS], right=range(7), keys=2)
    if len(rows) > _MOST_ROWS:
        streams.note(f"{counted(len(rows) - _MOST_ROWS, 'more row')}: see --json or --out.")
    if result["certificate"] is not None:
        streams.note(
            f"certificate of {counted(result['certificate']['boxes'], 'box')} in {result['certificate']['file']}, of "
            f"bounds that are wider than these by at most {result['certificate']['widened']:.2g} of the largest entry"
        )
    for name in ("out", "plot"):
        if result[name] is not None:
            streams.note(f"wrote {result[name]}")
    streams.note(f"{result['seconds']:.3f} s")
