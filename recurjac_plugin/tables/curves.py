"""`lipschitz_curve`: Lipschitz constants against the radius, for several methods, and what sampling finds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import ContradictionError, InputError
from recurjac_plugin.host.region import read_region
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS, METHODS, parse_global, parse_jacobian_method
from recurjac_plugin.numerics.rounding import PROOF, eps

from .comparison import several
from .constants import Balls, Norms, certified, norm_name, sampled, searched
from .pictures import Picture
from .subject import GivenModel, Nobody
from .table import Table

DEFAULT_METHODS = (*METHODS, *GLOBAL_METHODS)
"""What is drawn where no methods are named."""


def lipschitz_curve(
    model: nn.Module,
    x: Tensor,
    radii: Iterable[float],
    *,
    methods: Iterable[str] | None = None,
    norm: float = math.inf,
    input_norm: float | None = None,
    output_norm: float | None = None,
    samples: int = 64,
    steps: int = 10,
    gap: float | None = None,
    budget: float | None = None,
    rigorous: bool = False,
    seed: int = 0,
) -> Table:
    r"""Lipschitz constants on balls of several radii, by several methods, and from below by sampling.

    One row for each method, radius and input, as ``recurjac lipschitz`` writes them: `asked` and `method`, the name
    that was given and what it chose, the radius `eps`, the number of the `input`, `constant`, `seconds`, and in
    `unsupported` why a method has no constant there, such as on a radius at which ``1 / x`` meets 0. The method
    `sampled` is what points show (`sampled_lipschitz`), the larger one of a ball and of those in it. With `gap` or
    `budget` there are `searched` and `attained`, too: the bounds between which `tighten` leaves the constant.

    The picture has one curve for each method, the largest constant over the inputs.

    Args:
        model: auto_LiRPA's `BoundedModule`, or a torch module. It is left as it was.
        x: the middles of the balls, shape (b, *input_shape); the perturbation of a `BoundedTensor` does not count.
        radii: of the balls.
        methods: names as in `local_lipschitz`, and `Operator-Norm`, which holds everywhere; None for all.
        norm: of the balls, 1, 2 or inf.
        input_norm: p of the constants; None for that of the balls.
        output_norm: q of the constants; None for that of the input.
        samples: points of each ball; 0 for none.
        steps: as in `sampled_lipschitz`.
        gap: as in `tighten`.
        budget: seconds for each ball, as in `tighten`.
        rigorous: as in `local_lipschitz`.
        seed: of the samples.

    Returns:
        A `Table`: `.frame` for pandas, `.plot()`, `.to_csv(path)`.

    Raises:
        ContradictionError: a constant is smaller than what a point shows: one of them is wrong.
        InputError: as in `local_lipschitz`; or no radii, negative ones, or ones that are not finite.
        MethodError: unknown method, or one that bounds outputs alone.

    Source:
        Own.
    """
    names = tuple(dict.fromkeys(map(_canonical, DEFAULT_METHODS if methods is None else several(methods))))
    balls = _balls(model, x, radii, (norm, input_norm, output_norm))
    entries = certified(balls, names, rigorous)
    if gap is not None or budget is not None:
        entries += searched(balls, 0.0 if gap is None else gap, math.inf if budget is None else budget, [])
    if samples:
        entries += sampled(balls, samples, steps, seed)
        _require_above(entries, balls.centers.dtype)
    norms = balls.norms
    title = f"Lipschitz constant in {norms.text}" + (f", largest of {len(x)} inputs" if len(x) > 1 else "")
    return Table(title, entries, Picture("curves", (norm_name(norms.ball), norms.text)))


def _canonical(name: str) -> str:
    return parse_global(name) or parse_jacobian_method(name).name


def _balls(model: Any, x: Any, radii: Iterable[float], norms: tuple[float, float | None, float | None]) -> Balls:
    """The balls, checked."""
    if not isinstance(x, Tensor) or x.dim() < 2 or not len(x):
        came = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"`x` must be a tensor of shape (b, *input_shape), the middles of the balls, got {came}.")
    try:
        ordered = tuple(sorted({float(radius) for radius in radii}))
    except (TypeError, ValueError) as error:
        raise InputError(f"`radii` must be a list of numbers, got {radii!r}.") from error
    if not ordered or not all(0 <= radius < math.inf for radius in ordered):
        raise InputError(f"`radii` must be finite radii of at least 0, at least one, got {list(ordered)}.")
    centers = x.detach().as_subclass(Tensor)
    given = Norms(norms[0], norms[0] if norms[1] is None else norms[1], math.nan)
    given = given._replace(output=given.input if norms[2] is None else norms[2])
    for name, value in zip(("norm", "input_norm", "output_norm"), given, strict=True):
        if value not in (1, 2, math.inf):
            raise InputError(f"`{name}` must be 1, 2 or inf, got {value!r}.")
    balls = Balls(GivenModel.of(model, centers), centers, given, ordered, Nobody())
    read_region(balls.region(ordered[0], 0))
    return balls


def _require_above(entries: Sequence[Mapping[str, Any]], dtype: torch.dtype) -> None:
    """Refuse constants that points of the ball show to be too small."""
    met = {(e["eps"], e["input"]): e["constant"] for e in entries if e["asked"] == "sampled"}
    for entry in entries:
        seen, constant = met[entry["eps"], entry["input"]], entry["constant"]
        if entry["asked"] in ("sampled", "attained") or constant is None:
            continue
        if constant * (1 + PROOF * eps(dtype)) < seen:
            raise ContradictionError(
                f"`{entry['method']}` says that the Lipschitz constant on radius {entry['eps']:g} is at most "
                f"{constant:.9g}, but points of the ball show {seen:.9g}; one of them is wrong: please report the "
                "network and the input."
            )
