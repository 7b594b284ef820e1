r"""Certificates of Jacobian bounds, for the checker of `recurjac_plugin.checker`.

The bounds that were computed are what is claimed, as far as the checker's own bounds show them. Where they do not, the
box is cut in half, as long as it has few dimensions and a budget lasts: bounds of the parts are tighter. Whatever is
still not shown then is claimed as wide as it was shown, and the caller is told how much wider that is.

Source: Own.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recurjac_plugin.checker.document import Cut, Rejected
from recurjac_plugin.checker.files import check_bounds
from recurjac_plugin.checker.jacobian import JacobianClaims, JacobianTree, Part
from recurjac_plugin.checker.network import Network
from recurjac_plugin.errors import CertificateError
from recurjac_plugin.files import write
from recurjac_plugin.version import __version__

_MOST_BOXES = 512  # parts of one region
_CUTTABLE = 20  # coordinates that vary: boxes with more are not cut
_ROUNDING = 1e-6  # of the largest entry: not worth a cut
_MARGIN = 2.0**-40  # of the largest entry: bounds computed in another order are no further off


class BoundsOnABox(NamedTuple):
    """Bounds of a Jacobian, and the box on which they are claimed.

    Attributes:
        low: lower ends of the box, float64 (columns,).
        high: upper ends.
        lower: lower bounds of the entries, float64 (k, columns).
        upper: upper bounds.
    """

    low: np.ndarray
    high: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Certified(NamedTuple):
    """What became of it.

    Attributes:
        boxes: number of parts of all boxes.
        widened: how much wider than computed the claimed bounds are at most, in units of the largest entry.
    """

    boxes: int
    widened: float


def write_jacobian_certificate(
    network: Network, network_hash: str, claims: Sequence[BoundsOnABox], file: str | PathLike[str]
) -> Certified:
    """Write a certificate of bounds of a Jacobian.

    Args:
        network: as the checker reads it.
        network_hash: SHA-256 of its file's content.
        claims: the bounds that were computed.
        file: what to write, whole or not at all; compressed if its name ends in ``.gz``.

    Raises:
        CertificateError: the checker finds no finite bounds, or does not accept what was found.
        FileError: the file cannot be written.

    Source:
        As this module's.
    """
    found = [_shown(network, claim) for claim in claims]
    trees = tuple(tree for tree, _ in found)
    content = JacobianClaims(network_hash, trees, f"recurjac_plugin {__version__}").dumped()
    try:
        accepted = check_bounds(network, network_hash, content)
    except Rejected as error:
        raise CertificateError(f"no certificate could be written: the checker found that {error}.") from error
    path = Path(file)
    write(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return Certified(accepted.boxes, max((widened for _, widened in found), default=0.0))


def _shown(network: Network, claim: BoundsOnABox) -> tuple[JacobianTree, float]:
    """The tree of one box, with the bounds that it shows, and how much wider they are than what was claimed."""
    scale = float(np.maximum(np.abs(claim.lower), np.abs(claim.upper)).max(initial=0.0))
    lower, upper = claim.lower.copy(), claim.upper.copy()
    varying = claim.high > claim.low
    budget = _MOST_BOXES if varying.sum() <= _CUTTABLE else 1
    cuts: list[Cut | None] = [None]
    waiting = [Part(0, claim.low, claim.high, {})]
    while waiting:
        part = waiting.pop(0).bounded(network)
        assert part.bounds is not None
        low, high = part.bounds
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CertificateError("no certificate could be written: the checker's bounds are not finite.")
        margin = _MARGIN * max(scale, float(np.abs(part.bounds).max(initial=0.0)))
        low, high = low - margin, high + margin
        missing = max(float((lower - low).max(initial=0.0)), float((high - upper).max(initial=0.0)))
        cut = _halved(part, claim, len(cuts)) if missing > _ROUNDING * scale else None
        if cut is not None and len(cuts) + 2 <= budget:
            cuts[part.node] = cut
            cuts += [None, None]
            waiting += part.halves(cut)
        else:
            lower, upper = np.minimum(lower, low), np.maximum(upper, high)
    wider = max(float((claim.lower - lower).max(initial=0.0)), float((upper - claim.upper).max(initial=0.0)))
    return JacobianTree(claim.low, claim.high, (lower, upper), cuts), wider / scale if scale else wider


def _halved(part: Part, claim: BoundsOnABox, node: int) -> Cut | None:
    """A cut across the side that is the longest beside that of the whole box; None where no side can be halved."""
    middle = part.low + (part.high - part.low) / 2
    with np.errstate(all="ignore"):
        length = np.where(
            (part.low < middle) & (middle < part.high), (part.high - part.low) / (claim.high - claim.low), 0.0
        )
    axis = int(length.argmax())
    return Cut(axis, float(middle[axis]), node, node + 1) if length[axis] > 0 else None
