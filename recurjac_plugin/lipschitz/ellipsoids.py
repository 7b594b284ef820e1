r"""Ellipsoids that hold Jacobians: a matrix N with ``J^T J <= N`` for all derivatives in their ranges, layer by layer.

With the gains G (`recurjac_plugin.gains.gains`), x the input and ``a_l = d_l z_l`` what the undetermined neurons of
layer l pass on, ``z_l = G_{l,input} x + sum_{m < l} G_{lm} a_m``, a quadratic form of (x, a_1, ..., a_n) begins as the
square of the rows. Layers are taken out of it from the last one back. With ``d = m + r delta``, ``|delta| <= 1``, and
``a = m z + w``, so ``|w_j| <= r_j |z_j|``, for every diagonal Lambda > N_aa and s what is left,

.. math:: [s, w]^T \hat N [s, w] \le s^T \big(\hat N_{ss} + G^T r \Lambda r G
    + \hat N_{sw} (\Lambda - N_{aa})^{-1} \hat N_{ws}\big) s + w^T \Lambda w - z^T r \Lambda r z,

where ``hat N`` is N with ``m z + w`` put in for a, and the last two terms together are not positive. What is left over
the input is N. The transposed gains give ``J J^T <= N`` in the same way. With everything certain N is exact, so bounds
by it tend to the true norm as the region shrinks, and they never grow faster than the product of the layers' norms.

Lambda is a multiple c of weights t. With V a matrix for ``z z^T``,

.. math:: c = \mathrm{argmin} \; \mathrm{tr} \, V \big(r \Lambda r + m N_{aa} (\Lambda - N_{aa})^{-1} N_{aa} m\big).

Axes: b regions, k rows, u undetermined neurons of a layer.

Source:
    The multipliers are those of LipSDP (Fazlyab et al., NeurIPS 2019, arXiv:1906.04893), their choice one layer after
    the other the idea of ECLipsE (Xu, Sivaranjani, NeurIPS 2024, arXiv:2410.09385) and, with local slopes, of
    ECLipsE-Gen-Local (arXiv:2510.05261). On gains, for any graph, and with these multipliers: own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT, ROWS, Key
from recurjac_plugin.numerics.rounding import GRAM, eps

from .matrix_norms import dual_of, norm_above

_MULTIPLES = (-3, 6, 55)  # of c / largest eigenvalue - 1, that are tried: powers of 10, and their number
_RANGE = 1e6  # weights t are at most so many times larger, or smaller, than the one in the middle
_NOTHING = 1e300  # of the identity: a matrix that says nothing
_SIDE = 512  # input coordinates up to which a form over them is made
_FORM = 2**24  # bytes that the forms of regions that are bounded together may take

LONG, SHORT = 2**32, 2**29
"""Multiplications of one pass over all regions that are worth their time: where much can be gained, and else."""

Form = dict[tuple[str, str], Tensor]
"""A quadratic form: a symmetric matrix by blocks, (b, u, u') each; one that is missing is 0."""


@dataclass(frozen=True, eq=False)
class Grams:
    """Matrices above Gram matrices of the Jacobian over the regions, all of float64.

    Attributes:
        outer: matrices K with ``J J^T <= K``, (b, k, k) each.
        inner: matrices H with ``J^T J <= H``, (b, columns, columns) each; none where there are many columns.
    """

    outer: tuple[Tensor, ...]
    inner: tuple[Tensor, ...]

    def rows(self, p: float, columns: int) -> Tensor:
        """Upper bounds of ``|J_k|_{p*}`` by ``|J_k|_2^2 <= K_kk``: (b, k)."""
        return _lengths(self.outer) * columns ** max(1 / dual_of(p) - 0.5, 0.0)

    def constant(self, p: float, q: float, columns: int) -> Tensor:
        r"""Upper bound of ``|J|_{p->q}``: (b,).

        Of K the square root R, ``K = R^T R``, says ``|J|_{2->1} <= |R|_{inf->2}``, that of H ``|J|_{inf->2} <=
        |R|_{inf->2}``; ``|J|_{2->inf}`` and ``|J|_{1->2}`` are roots of the largest entry of the diagonal. All others
        follow from ``|x|_2 <= |x|_1``, ``|x|_2 <= sqrt(columns) |x|_inf``, ``|y|_inf <= |y|_2`` and ``|y|_1 <= sqrt(k)
        |y|_2``.
        """
        k = self.outer[0].shape[1]
        given = {1.0: 1.0, 2.0: 1.0, math.inf: math.sqrt(columns)}[p]  # |x|_2 <= given |x|_p
        wanted = {1.0: math.sqrt(k), 2.0: 1.0, math.inf: 1.0}[q]  # |y|_q <= wanted |y|_2
        largest = torch.stack([torch.linalg.eigvalsh(gram)[:, -1] for gram in (*self.outer, *self.inner)])
        found = [_root(largest.amin(0)) * given * wanted]
        if q != 2:
            found.append(given * (_over_corners(self.outer) if q == 1 else _lengths(self.outer).amax(1)))
        if p != 2 and self.inner:
            found.append(wanted * (_lengths(self.inner).amax(1) if p == 1 else _over_corners(self.inner)))
        return torch.stack(found).amin(0)


def _root(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny).sqrt()


def _lengths(grams: tuple[Tensor, ...]) -> Tensor:
    return _root(torch.stack([gram.diagonal(dim1=1, dim2=2) for gram in grams]).amin(0))


def _over_corners(grams: tuple[Tensor, ...]) -> Tensor:
    """``max sqrt(s^T K s)`` over all s of signs, the smallest of those of the matrices K: (b,)."""
    found = []
    for gram in grams:
        values, vectors = torch.linalg.eigh(gram)
        found.append(norm_above(_root(values).unsqueeze(2) * vectors.mT, math.inf, 2.0))
    return torch.stack(found).amin(0)


def jacobian_grams(gains: Gains, most: Sequence[int] = (LONG,)) -> Grams | None:
    """Gram matrices above those of the Jacobian, by passes both ways.

    A region's are its own, whichever regions are bounded beside it: what fills up a list of its undetermined neurons,
    where others have more, is taken out of all products and has no weight in any choice. None where a pass has too
    much to multiply in every region, or numbers are too large for it.

    Args:
        gains: the exact part.
        most: how many multiplications are worth it, for each region or once for all.
    """
    work = _work(gains)
    within = (work <= torch.tensor(most, device=work.device)).nonzero().squeeze(1)
    within = within[work[within].argsort(stable=True)]  # lists of about the same length together
    chunks = within.split(_at_once(gains)) if len(within) else ()  # of none torch makes one that is empty
    found = [each for at in chunks for each in _found(gains, at)]
    if not found:
        return None
    at = torch.cat([regions for regions, _ in found])
    position = torch.full_like(work, len(at))  # of what says nothing, behind all others
    position[at] = torch.arange(len(at), device=work.device)
    return Grams(
        _joined([grams.outer for _, grams in found], position), _joined([grams.inner for _, grams in found], position)
    )


def _joined(chunks: Sequence[tuple[Tensor, ...]], position: Tensor) -> tuple[Tensor, ...]:
    """Matrices of all regions by their positions; chunks without undetermined neurons have fewer of them."""
    count = max(map(len, chunks))
    nothing = [_NOTHING * torch.diag_embed(torch.ones_like(chunks[0][0][:1, 0]))] if count else []
    return tuple(
        torch.cat([*(each[min(j, len(each) - 1)] for each in chunks), *nothing])[position] for j in range(count)
    )


def _at_once(gains: Gains) -> int:
    """Number of regions whose forms fit into `_FORM` bytes."""
    side = gains.rows + gains.columns + sum(map(gains.count, gains.layers))
    return max(1, _FORM // (8 * side**2))


def _regions(gains: Gains, at: Tensor) -> Gains:
    """The gains of some regions in float64, 0 for what fills up their lists of neurons, as short as they go.

    Args:
        gains: those of all regions.
        at: the regions, (b',).
    """
    part = gains.part(at, torch.arange(gains.rows, device=at.device).expand(len(at), -1))
    there = {name: layer.lower < layer.upper for name, layer in part.derivatives.items()}
    listed = {name: each.any(0).nonzero().squeeze(1) for name, each in there.items()}
    layers = tuple(name for name in part.layers if len(listed[name]))
    real = {name: there[name][:, listed[name]] for name in layers}

    def cut(block: Tensor, key: Key) -> Tensor:
        block = block.double()
        for end, axis in zip(key, (1, 2), strict=True):
            if end in real:
                block = block.index_select(axis, listed[end])
                block = block if bool(real[end].all()) else block * real[end].unsqueeze(3 - axis)
        return block

    ends = {*layers, INPUT, ROWS}
    return replace(
        part,
        layers=layers,
        derivatives={name: part.derivatives[name].only(listed[name]) for name in layers},
        blocks=Blocks({key: cut(part.blocks[key], key) for key in part.blocks if {*key} <= ends}),
        reference=gains.reference[:1].double(),
    )


def _found(gains: Gains, at: Tensor) -> Iterator[tuple[Tensor, Grams]]:
    """Those of some regions, of each by itself where numbers are too large for one of them; that one has none."""
    try:
        yield at, _grams_of_regions(_regions(gains, at))
    except torch.linalg.LinAlgError:
        if len(at) > 1:
            for each in at.split(1):
                yield from _found(gains, each)


def _grams_of_regions(gains: Gains) -> Grams:
    """Those of regions that are bounded together."""
    ways = (gains, gains.transposed())  # from the output back, and from the input on
    wanted = (gains.columns <= _SIDE, True)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for first in (0, 1):
        seen = None
        for step in range(3 if gains.layers else 1):
            way = (first + step) % 2
            gram, seen = _pass(ways[way], seen, wanted[way])
            found[way].extend([] if gram is None else [gram])
    return Grams(tuple(found[1]), tuple(found[0]))


def _work(gains: Gains) -> Tensor:
    """Multiplications of one pass over each region, about, (b,); eigenvalues are as much work as ten products."""
    total = torch.full((gains.batch,), gains.rows**3, device=gains.reference.device)
    met = torch.full_like(total, gains.columns if gains.columns <= _SIDE else 0)
    for layer in gains.layers:
        derivatives = gains.derivatives[layer]
        count = (derivatives.lower < derivatives.upper).sum(1)
        total = total + count * (met + count) ** 2 + 10 * count**3 + count**2 * gains.columns
        met = met + count
    return total


def _pass(gains: Gains, seen: Mapping[str, Tensor] | None, wanted: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
    """N with ``J^T J <= N``, (b, columns, columns), and on the way the same at the outputs of every layer, (b, u, u).

    Args:
        gains: the exact part; transposed ones give ``J J^T <= N``.
        seen: V of every layer, from a pass the other way, for weights of their own; None for equal ones.
        wanted: whether N at the input is wanted.
    """
    derivatives = gains.derivatives
    middle = {m: (derivatives[m].lower + derivatives[m].upper).double() / 2 for m in gains.layers}
    half = {m: (derivatives[m].upper - derivatives[m].lower).double() / 2 for m in gains.layers}
    balanced = seen is not None
    if seen is None:
        seen = {layer: z @ z.mT for layer, z in middle_derivatives(gains, middle).items()}
    sources = [*gains.layers, *([INPUT] if wanted else [])]
    rows = gains.to_rows
    form: Form = {(m, n): rows[m].mT @ rows[n] for m in sources for n in sources}
    met, holds = {}, torch.ones(gains.batch, dtype=torch.bool, device=gains.reference.device)
    for layer in reversed(gains.layers):
        sources.remove(layer)
        own = form.pop((layer, layer))
        met[layer] = own = (own + own.mT) / 2
        multiplier = _multiplier(own, middle[layer], half[layer], seen[layer], balanced)
        holds = holds & _eliminate(gains, form, layer, own, sources, middle[layer], half[layer], multiplier)
    if not wanted:
        return None, met
    gram = form[INPUT, INPUT].expand(gains.batch, -1, -1)
    gram = (gram + gram.mT) / 2
    holds = holds & gram.isfinite().all(2).all(1)
    eye = torch.eye(gains.columns, dtype=gram.dtype, device=gram.device)
    return torch.where(holds[:, None, None], gram * (1 + GRAM * eps(gram)), _NOTHING * eye), met


def middle_derivatives(gains: Gains, middle: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Derivatives Z of the pre-activations of every layer by the input where d = m, (b or 1, u, columns) each.

    With transposed gains those of the rows by what the layers pass on, (b or 1, u, k).

    Args:
        gains: the exact part.
        middle: m of every layer, (b, u).

    Source: own; the chain rule on gains.
    """
    derivatives: dict[str, Tensor] = {}
    for layer in gains.layers:
        z = gains.block(layer, INPUT)
        for earlier, arrived in derivatives.items():
            if (layer, earlier) in gains.blocks:
                z = z + gains.blocks[layer, earlier] @ (middle[earlier].unsqueeze(2) * arrived)
        derivatives[layer] = z
    return derivatives


def _eliminate(
    gains: Gains,
    form: Form,
    layer: str,
    own: Tensor,  # shape: (b, u, u)
    sources: list[str],
    middle: Tensor,  # shape: (b, u)
    half: Tensor,  # shape: (b, u)
    multiplier: Tensor,  # shape: (b, u)
) -> Tensor:
    """Take a layer, whose own block is N_aa, out of a form, which is changed: what is left holds for all its d.

    Returns:
        Where that is so, (b,): by rounding Lambda may not be above N_aa.
    """
    blocks = {m: gains.blocks[layer, m] for m in sources if (layer, m) in gains.blocks}
    crossed = {m: form.pop((layer, m)) for m in sources if (layer, m) in form}
    for m in crossed:
        form.pop((m, layer))
    factor, failed = torch.linalg.cholesky_ex(torch.diag_embed(multiplier) - own)
    eye = torch.eye(own.shape[1], dtype=own.dtype, device=own.device)
    factor = torch.where((failed == 0)[:, None, None], factor, eye)
    pulled = {m: middle.unsqueeze(2) * block for m, block in blocks.items()}  # m G
    met = {m: crossed.get(m, 0.0) + (own @ pulled[m] if m in pulled else 0.0) for m in (blocks | crossed)}
    solved = {m: torch.linalg.solve_triangular(factor, value, upper=False) for m, value in met.items()}
    spread = {m: (half * multiplier.sqrt()).unsqueeze(2) * block for m, block in blocks.items()}
    for m in met:
        for n in met:
            change = solved[m].mT @ solved[n]
            if m in pulled:
                change = change + pulled[m].mT @ met[n]
            if n in pulled and m in crossed:
                change = change + crossed[m].mT @ pulled[n]
            if m in spread and n in spread:
                change = change + spread[m].mT @ spread[n]
            form[m, n] = form[m, n] + change if (m, n) in form else change
    return failed == 0


def _multiplier(
    own: Tensor,  # shape: (b, u, u)
    middle: Tensor,  # shape: (b, u)
    half: Tensor,  # shape: (b, u)
    seen: Tensor,  # shape: (b, u, u)
    balanced: bool,
) -> Tensor:
    """A diagonal Lambda above N_aa, the best multiple of the weights: (b, u)."""
    reached = seen.diagonal(dim1=1, dim2=2)
    weights = torch.ones_like(half)
    if balanced:
        through = own @ (middle.unsqueeze(2) * seen * middle.unsqueeze(1)) @ own
        weights = _balance(through.diagonal(dim1=1, dim2=2), half.square() * reached)
    root = weights.sqrt()
    scaled = own / root.unsqueeze(2) / root.unsqueeze(1)
    largest = torch.linalg.eigvalsh(scaled)[:, -1:].clamp(min=torch.finfo(own.dtype).tiny)
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(scaled)
        ways = vectors.mT @ (own * middle.unsqueeze(1) / root.unsqueeze(2))  # V^T t^-1/2 N m
        size = ((ways @ seen) * ways).sum(2)  # (b, u)
        tried = 1 + torch.logspace(*_MULTIPLES, dtype=own.dtype, device=own.device)
        multiples = largest * tried  # (b, s)
        cost = multiples * (weights * half.square() * reached).sum(1, keepdim=True)
        cost = cost + (size.unsqueeze(1) / (multiples.unsqueeze(2) - values.unsqueeze(1))).sum(2)
        best = tried[cost.argmin(1)].unsqueeze(1)
    return largest * best * weights


def _balance(above: Tensor, below: Tensor) -> Tensor:
    """``sqrt(above / below)`` of the neurons, 1 in the middle and not too far from that: (b, u)."""
    tiny = torch.finfo(above.dtype).tiny
    known = (above > tiny) & (below > tiny)
    ratio = torch.where(known, above.clamp(min=tiny) / below.clamp(min=tiny), 1.0).sqrt()
    with torch.no_grad():
        usual = torch.where(known, ratio, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(1.0)
    ratio = (ratio / usual).clamp(min=1 / _RANGE, max=_RANGE)
    # A neuron that nothing arrives at has its Lambda for free, one that leads nowhere needs none.
    return torch.where(known, ratio, torch.where(below > tiny, 1 / _RANGE, _RANGE))
