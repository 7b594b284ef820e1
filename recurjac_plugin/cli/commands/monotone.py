"""`recurjac monotone`: in which inputs each output of a network is monotone."""

from __future__ import annotations

import io
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, write, write_csv
from recurjac_plugin.cli.problem import Network, ShapeSources, load_network, load_regions
from recurjac_plugin.cli.streams import Streams, open_streams
from recurjac_plugin.errors import counted
from recurjac_plugin.jacobian.methods import AUTO
from recurjac_plugin.tables.subject import chosen

if TYPE_CHECKING:
    from recurjac_plugin.certificates.signs import Monotonicity

_VERDICTS = ("increasing", "decreasing", "refuted", "unknown")
_MOST_ROWS = 60  # of the printed table; CSV and JSON have all
_SHORT_INPUT, _MOST_REFUTATIONS = 16, 10  # longest inputs, and most points that refute, that are printed


@dataclass(frozen=True)
class _Feature:
    """One input coordinate, flattened, and the values it takes; None as far as the region goes."""

    index: int
    ends: tuple[float, float] | None


def monotone_command(
    model: options.Model,
    vnnlib: options.RegionProperty = None,
    input_file: options.RegionInputs = None,
    input_shape: options.InputShape = None,
    eps: options.RegionRadius = None,
    norm: options.Norm = "inf",
    feature: Annotated[
        int | None,
        typer.Option("--feature", metavar="I", help="Ask about this input alone (flat index).", show_default=False),
    ] = None,
    feature_range: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="LO,HI", help="The whole range of --feature, in every region.", show_default=False
        ),
    ] = None,
    method: options.JacobianMethod = AUTO,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", metavar="S", help="Bisect boxes where signs stay unknown, this long.", show_default=False
        ),
    ] = None,
    max_boxes: Annotated[
        int | None,
        typer.Option(
            "--max-boxes", min=1, metavar="N", help="Bisect until N boxes are bounded per region.", show_default=False
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=0, metavar="N", help="Random points per region, to refute; 0: none.")
    ] = 64,
    csv: options.Csv = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="M.npz",
            help="Write signs, refutations and the points that refute, as arrays.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    device: options.Device = "cpu",
    dtype: options.NumberType = None,
    rigorous: options.Rigorous = False,
    seed: options.Seed = 0,
) -> None:
    """Certify or refute, for every (output, input) pair, that the output is monotone in the input over a region.

    Certified are `increasing` (never decreases) and `decreasing` (never increases); `refuted` comes with two points of
    the region, at which the derivative has both signs.
    """
    with open_streams(json) as streams:
        p, radius = options.region_choice(vnnlib, input_file, eps, norm)
        asked_about = _feature(feature, feature_range)
        if timeout is not None and not 0 < timeout < math.inf:
            options.refuse("--timeout", f"must be a finite number of seconds above 0, got {timeout:g}.")
        for option, value in (("--timeout", timeout), ("--max-boxes", max_boxes), ("--range", feature_range)):
            if value is not None and p != math.inf:
                options.refuse(option, f"needs a box, and an l_{norm} ball is none; use `--norm inf`.")
        name = options.jacobian_method(method)
        check_writable(csv, out)
        network = load_network(model, device, dtype, ShapeSources(input_shape, input_file, vnnlib))
        if asked_about is not None:
            _check_feature(asked_about, network)
        regions = [_spanned(x, asked_about) for x in load_regions(network, vnnlib, input_file, p, radius)]
        limits = {"max_boxes": max_boxes, "samples": samples, "seed": seed, "rigorous": rigorous}
        start = time.perf_counter()
        signs = _signs(network, regions, asked_about, timeout, {"method": name, **limits}, streams)
        elapsed = time.perf_counter() - start
        pairs = [pair for i, region in enumerate(signs) for pair in _pairs(i, region, asked_about)]
        if out is not None:
            write(out, _archive(signs))
        if csv is not None:
            write_csv(csv, list(pairs[0]), [list(pair.values()) for pair in pairs])
        result = {
            "command": "monotone",
            **network.describe(model),
            "asked": name,
            "method": chosen(network, name, regions, rigorous=rigorous),
            "norm": norm.lower(),
            "eps": radius,
            "feature": feature,
            "range": None if asked_about is None or asked_about.ends is None else list(asked_about.ends),
            "timeout": timeout,
            **limits,
            "boxes": [int(region.boxes) for region in signs],
            "seconds": elapsed,
            "counts": _counts(pairs),
            "pairs": pairs,
            "points": [region.points.flatten(1).tolist() for region in signs],
            "out": None if out is None else str(out),
        }
        _tell(streams, result, csv)


def _feature(index: int | None, text: str | None) -> _Feature | None:
    if index is None:
        if text is not None:
            options.refuse("--range", "goes with `--feature`, which says whose range it is.")
        return None
    if text is None:
        return _Feature(index, None)
    parts = text.split(",")
    try:
        low, high = map(float, parts)
    except ValueError:
        options.refuse("--range", f"must be two numbers such as 0,1, got {text!r}.")
    if not (math.isfinite(low) and math.isfinite(high)):
        options.refuse("--range", f"must have finite ends, got {text!r}.")
    if low > high:
        options.refuse("--range", f"is inverted: {low:g} is above {high:g}; give the lower end first.")
    return _Feature(index, (low, high))


def _check_feature(feature: _Feature, network: Network) -> None:
    count = math.prod(network.module.input_shape)
    if not 0 <= feature.index < count:
        options.refuse("--feature", f"must be from 0 to {count - 1} for this network, got {feature.index}.")
    import torch

    dtype = network.module.dtype
    if feature.ends is not None and max(map(abs, feature.ends)) > torch.finfo(dtype).max / 4:
        options.refuse("--range", f"does not fit into {dtype}; use `--dtype float64`, or a smaller range.")


def _spanned(x: Any, feature: _Feature | None) -> Any:
    """A region in which the feature takes all the values asked for."""
    if feature is None or feature.ends is None:
        return x
    import torch

    from recurjac_plugin.host.region import perturbed_box

    center, ptb = x.detach().as_subclass(torch.Tensor), x.ptb
    low, high = (center - ptb.eps, center + ptb.eps) if ptb.x_L is None else (ptb.x_L.clone(), ptb.x_U.clone())
    for end, value, outward in zip((low, high), feature.ends, (-math.inf, math.inf), strict=True):
        flat = end.view(-1)
        flat[feature.index] = value
        if (float(flat[feature.index]) - value) * outward < 0:  # rounding must not cut off an end of the range
            flat[feature.index] = torch.nextafter(flat[feature.index], flat.new_tensor(outward))
    return perturbed_box(low, high)


def _signs(
    network: Network,
    regions: list[Any],
    feature: _Feature | None,
    timeout: float | None,
    limits: dict[str, Any],
    streams: Streams,
) -> list[Monotonicity]:
    """What is known in each region; the time that is left is divided evenly among the regions that are left."""
    import torch

    from recurjac_plugin.certificates.signs import monotonicity_report

    wanted = None
    if feature is not None:
        wanted = torch.zeros(network.module.input_shape, dtype=torch.bool)
        wanted.view(-1)[feature.index] = True
    model = network.host  # built before the clock starts
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    signs: list[Monotonicity] = []
    for x in streams.progress(regions, "Monotonicity"):
        share = None if timeout is None else (deadline - time.monotonic()) / (len(regions) - len(signs))
        signs.append(
            monotonicity_report(
                model,
                x,
                wanted=wanted,
                timeout=share if share is None else max(share, 1e-3),
                batch_size=256 if network.module.takes_batches else 1,
                **limits,
            )
        )
    return signs


def _pairs(number: int, region: Monotonicity, feature: _Feature | None) -> list[dict[str, Any]]:
    """One entry per (output, input) pair of a region; `falls_at` and `rises_at` count the region's `points`."""
    sign, refuted, lowest, highest, lowest_at, highest_at = (
        value[0].flatten(1).tolist()
        for value in (
            region.sign,
            region.refuted,
            region.lowest,
            region.highest,
            region.lowest_at,
            region.highest_at,
        )
    )
    columns = range(len(sign[0])) if feature is None else (feature.index,)
    pairs = []
    for k, r in ((k, r) for k in range(len(sign)) for r in columns):
        proof = refuted[k][r]
        tried = lowest_at[k][r] >= 0
        pairs.append(
            {
                "region": number,
                "output": k,
                "input": r,
                "verdict": {1: "increasing", -1: "decreasing"}.get(sign[k][r], "refuted" if proof else "unknown"),
                "lowest": lowest[k][r] if tried else None,
                "highest": highest[k][r] if tried else None,
                "falls_at": lowest_at[k][r] if proof else None,
                "rises_at": highest_at[k][r] if proof else None,
            }
        )
    return pairs


def _counts(pairs: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(pair["verdict"] for pair in pairs)
    return {name: counts[name] for name in _VERDICTS}


def _archive(signs: list[Monotonicity]) -> bytes:
    """Arrays over all regions; `lowest_at` and `highest_at` count the rows of `points`."""
    import numpy as np
    import torch

    arrays: dict[str, Any] = {
        name: torch.cat([getattr(region, name) for region in signs]).cpu().numpy()
        for name in ("sign", "refuted", "lowest", "highest", "points", "boxes")
    }
    first = np.cumsum([0, *(len(region.points) for region in signs)])
    for name in ("lowest_at", "highest_at"):
        positions = (getattr(region, name) for region in signs)
        shifted = [torch.where(at >= 0, at + int(n), at) for at, n in zip(positions, first)]
        arrays[name] = torch.cat(shifted).cpu().numpy()
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _tell(streams: Streams, result: dict[str, Any], csv: Path | None) -> None:
    for path in (csv, result["out"]):
        if path is not None:
            streams.note(f"wrote {path}")
    if streams.as_json:
        streams.json(result)
        return
    pairs = result["pairs"]
    streams.line(
        f"{counted(len(pairs), 'pair')} of output and input: "
        + ", ".join(f"{count} {name}" for name, count in result["counts"].items())
    )
    where = "the boxes of the property" if result["eps"] is None else f"l_{result['norm']} {result['eps']:g}"
    if result["range"] is not None:
        where += f", input {result['feature']} from {result['range'][0]:g} to {result['range'][1]:g}"
    title = f"Monotonicity by {result['method']}, {where}"
    if len(pairs) <= _MOST_ROWS:
        header = ("region", "output", "input", "verdict", "lowest met", "highest met")
        rows = [[pair[name] for name in list(pair)[:6]] for pair in pairs]
        streams.table(title, header, rows, right=(0, 1, 2, 4, 5), keys=3)
    else:
        grouped: dict[tuple[int, int], list[dict[str, Any]]] = {}
        for pair in pairs:
            grouped.setdefault((pair["region"], pair["output"]), []).append(pair)
        by_output = [(*key, *_counts(group).values()) for key, group in grouped.items()]
        streams.table(title, ("region", "output", *_VERDICTS), by_output[:_MOST_ROWS], right=range(6), keys=2)
        streams.note("Every pair, and the points that refute: see --csv, --json or --out.")
    _tell_refutations(streams, result)
    boxes = sum(result["boxes"])
    streams.note(f"{counted(boxes, 'box')}, {result['seconds']:.3f} s")


def _tell_refutations(streams: Streams, result: dict[str, Any]) -> None:
    """The points that refute, where they are few and short."""
    refuted = [pair for pair in result["pairs"] if pair["verdict"] == "refuted"]
    if not 0 < len(refuted) <= _MOST_REFUTATIONS:
        return
    if len(result["points"][0][0]) > _SHORT_INPUT:
        return
    rows = [
        (pair["region"], pair["output"], pair["input"], pair[slope], " ".join(f"{v:.6g}" for v in point))
        for pair in refuted
        for slope, at in (("lowest", "falls_at"), ("highest", "rises_at"))
        for point in [result["points"][pair["region"]][pair[at]]]
    ]
    header = ("region", "output", "input", "derivative", "at")
    streams.table("Points that refute", header, rows, right=range(4), prose=(4,), keys=4)
