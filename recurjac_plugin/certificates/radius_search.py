r"""The search for the largest radius that something is certified on: grow, shrink, bisect, for a whole batch at once.

With l the largest radius certified so far (0 if none) and u the smallest refused one (infinite if none), the next probe
after the radius t is

.. math:: \min(10 t, \text{limit}) \text{ if } u = \infty, \qquad t / 10 \text{ if } l = 0, \qquad
    (l + u) / 2 \text{ otherwise.}

Bounds are not monotone in the radius: a larger ball can be certified where a smaller one is not. So a radius is only
returned if it was probed itself, and "largest" means the largest that the search met.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

GROWTH = 10.0
"""Factor between the probes before a certified and a refused radius are known."""


@dataclass(frozen=True)
class RadiusSearch:
    """Where to look for a radius, and how closely.

    Attributes:
        initial: first radius to probe.
        limit: no larger radius is probed.
        tolerance: the search ends once the largest certified and the smallest refused radius are that close.
        max_probes: most radii to probe per sample.

    Raises:
        InputError: a number that makes no sense there.
    """

    initial: float = 0.01
    limit: float = 1e5
    tolerance: float = 1e-5
    max_probes: int = 100

    def __post_init__(self) -> None:
        for name in ("initial", "limit", "tolerance"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
                raise InputError(f"`{name}` must be a finite number above 0, got {value!r}.")
        if isinstance(self.max_probes, bool) or not isinstance(self.max_probes, int) or self.max_probes < 1:
            raise InputError(f"`max_probes` must be a whole number of at least 1, got {self.max_probes!r}.")


def largest_radius(
    certified: Callable[[Tensor, Tensor], Tensor],
    active: Tensor,
    search: RadiusSearch,
    dtype: torch.dtype = torch.float64,
    otherwise: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Search the largest certified radius of every sample.

    The radius grows by `GROWTH` while it is certified, up to the limit, or shrinks by it while it is not; between a
    certified and a refused radius it is bisected. Every sample has radii of its own. With a second way to certify, the
    smallest refused radius is tried by that in the end; where it succeeds the search goes on, below the next one.

    Args:
        certified: takes radii (b,) in float64 and a mask of the samples that are still searched (b,); returns whether
            each radius is certified (b,). What it returns for the other samples is ignored.
        active: whether each sample is searched at all, bool (b,).
        search: where to look, and how closely.
        dtype: the type radii are handed on in; only numbers of this type are probed.
        otherwise: the second way, as `certified`.

    Returns:
        float64 (b,): each the largest radius that was probed and certified, 0 if there was none.

    Source:
        The published program of Zhang, Zhang, Hsieh, RecurJac (arXiv:1810.11783); there the search gives up when the
        next radius exceeds the limit, here the limit itself is probed.
    """
    limit = representable(torch.full(active.shape, float(search.limit), dtype=torch.float64), dtype)
    current = torch.minimum(representable(torch.full_like(limit, search.initial), dtype), limit)
    lower, probes = torch.zeros_like(current), torch.zeros_like(current, dtype=torch.int64)
    # Every refused radius, and its number among the sample's probes; the first row is there for none.
    refused, numbers = torch.full_like(current, math.inf)[None], probes[None]
    doubtful = active
    while True:
        while bool(active.any()):
            probes = probes + active.long()
            success = certified(current, active).cpu() & active
            lower = torch.where(success, current, lower)
            refused = torch.cat((refused, torch.where(active & ~success, current, math.inf)[None]))
            numbers = torch.cat((numbers, probes[None]))
            following, open_ = _following(current, lower, _smallest_above(lower, refused)[0], limit, search, dtype)
            active = active & open_ & (probes < search.max_probes)
            current = torch.where(active, following, current)
        upper, which = _smallest_above(lower, refused)
        doubtful = doubtful & (upper < math.inf)
        if otherwise is None or not bool(doubtful.any()):
            return lower
        doubtful = otherwise(upper, doubtful).cpu() & doubtful
        # The search goes on as if it had been certified when it was probed.
        lower = torch.where(doubtful, upper, lower)
        probes = torch.where(doubtful, numbers.gather(0, which[None])[0], probes)
        following, open_ = _following(lower, lower, _smallest_above(lower, refused)[0], limit, search, dtype)
        active = doubtful & open_ & (probes < search.max_probes)
        current = torch.where(active, following, current)


def _smallest_above(lower: Tensor, refused: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest refused radius above the certified one, infinite if there is none, and its position: (b,) each."""
    found = torch.where(refused > lower, refused, math.inf).min(0)
    return found.values, found.indices


def _following(
    current: Tensor, lower: Tensor, upper: Tensor, limit: Tensor, search: RadiusSearch, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The radius to probe next, see this module, and whether there is something left to probe: (b,) each."""
    following = torch.where(
        upper == math.inf,
        torch.minimum(GROWTH * current, limit),
        torch.where(lower == 0, current / GROWTH, (lower + upper) / 2),
    )
    following = representable(following, dtype)
    # There is nothing where no number lies between the two, or the limit is certified.
    return following, (upper - lower > search.tolerance) & (following > lower) & (following < upper)


def representable(radii: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest numbers of a type, in float64."""
    return radii.to(dtype).double()
