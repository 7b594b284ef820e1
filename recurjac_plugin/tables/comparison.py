"""`compare`: every method over the same regions, beside what points of them show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from recurjac_plugin.errors import ContradictionError, InputError, UnsupportedError
from recurjac_plugin.host.region import cut, read_region
from recurjac_plugin.jacobian.methods import AUTO, HOST_METHODS, METHODS, parse

from .measured import Part, jacobian_of, named, outputs_of, timed, too_small
from .met import sampled_constant, sampled_values
from .pictures import SAMPLED, Picture
from .subject import GivenModel, Nobody, Subject, Watcher, listed
from .table import Table

if TYPE_CHECKING:
    from recurjac_plugin.properties.spec import Spec

DEFAULT_METHODS = (*METHODS, f"{METHODS[1]}+CROWN", *HOST_METHODS)
"""What is compared where no methods are named."""

COLUMNS = (
    *("method", "input", "jacobian_width", "known_signs", "lipschitz", "output_width", "seconds", "auto"),
    "unsupported",
)
"""What is said of every method and input."""


def compare(
    model: nn.Module,
    x: Tensor | None = None,
    *,
    spec: Spec | None = None,
    methods: Iterable[str] | None = None,
    C: Tensor | None = None,
    norm: float | None = None,
    timeout: float = 10.0,
    attack_seconds: float = 5.0,
    branching: str = "jacobian",
    samples: int = 64,
    seed: int = 0,
) -> Table:
    r"""Methods side by side over the same regions, or on a property: how tight they are, and how long they take.

    One row for each method and input, and last ones, `sampled`, for what points of the regions show, random ones and
    such that climb: no bounds can be narrower, no constant smaller, and no more signs be known. The columns are

    * `method`, the number of the `input`, and in `auto` whether it is what `method=None` chooses there;
    * `jacobian_width`, the mean of ``U - L`` over all entries, `known_signs`, how many entries have ``L >= 0`` or
      ``U <= 0``, and `lipschitz`, the constant as in `local_lipschitz`; None for methods that bound
      outputs alone;
    * `output_width`, the mean width of the bounds of ``C f``, as in `output_bounds`, and `seconds`, what these took,
      pre-activation bounds included, of two runs the shorter one where they are short;
    * `unsupported`: why a method cannot be used on the network, else None.

    The picture has one bar for each method: mean widths, all signs, the largest constant, and the time of all inputs.

    With `spec` these are the columns of ``recurjac compare``: `lower_bound` of the distance from a violation,
    `verdict`, `boxes` and `verify_seconds` of `verify` come in place of `known_signs` and `output_width`, `sampled` is
    left with the constant, and constants are those of the property's rows in l_inf.

    Args:
        model: auto_LiRPA's `BoundedModule`, or a torch module; with `spec` what `load_onnx` returns. It is left as it
            was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box, shape (b, *input_shape); None with `spec`. Its
            inputs are bounded one by one.
        spec: what `load_vnnlib` returns, in place of `x`: its boxes are the regions, its rows are bounded.
        methods: names as in `output_bounds`; None for all that the package has and the host's. `auto` is shown as what
            it chooses.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        norm: p of the Lipschitz constant, 1, 2 or inf; None for the norm of the region, inf for boxes.
        timeout: with `spec`, longest time for each verdict.
        attack_seconds: with `spec`, longest time of the attack that serves all methods that prove nothing.
        branching: with `spec`, as in `verify`.
        samples: random points of each region, from which others climb.
        seed: of everything random.

    Returns:
        A `Table`: `.frame` for pandas, `.plot()`, `.to_csv(path)`.

    Raises:
        ContradictionError: a constant is smaller than what a point shows, or two verdicts cannot both be right: one
            method is wrong.
        InputError: as in `jacobian_bounds`; or not one of `x` and `spec`, or `C` or `norm` with `spec`.
        MethodError: unknown method.

    Source:
        Own.
    """
    names = tuple(
        dict.fromkeys(parse(name).name for name in (DEFAULT_METHODS if methods is None else several(methods)))
    )
    for option, value, least in (("samples", samples, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"`{option}` must be a whole number of at least {least}, got {value!r}.")
    if (x is None) == (spec is None):
        raise InputError("`x` or `spec` must be given, and only one of them.")
    if spec is not None:
        if C is not None or norm is not None:
            raise InputError("`C` and `norm` go without `spec`, which has rows and boxes of its own.")
        from .on_property import compared_on_property

        search = {"branching": branching, "timeout": timeout, "seed": seed, "attack_seconds": attack_seconds}
        return compared_on_property(model, spec, names, search)
    region = read_region(x)
    subject = GivenModel.of(model, region.center)
    found = compared(subject, _one_by_one(x, C), names, norm=norm, samples=samples, seed=seed)
    if found.wrong:
        raise ContradictionError(found.wrong[0])
    return Table(f"Methods compared; auto is {found.auto} here", found.rows, Picture("panels"))


def _one_by_one(x: Any, C: Tensor | None) -> list[Part]:
    """The inputs and their rows. What does not fit to them is left as it is, and refused where it is bounded."""
    pieces = [slice(i, i + 1) for i in range(len(x))]
    each = isinstance(C, Tensor) and len(C) == len(x)
    return [(cut(x, piece), C[piece] if each and C is not None else C) for piece in pieces]


class Comparison(NamedTuple):
    """Methods over some regions.

    Attributes:
        rows: of each method and part, those of `sampled` the last.
        auto: what `auto` is.
        wrong: sentences on what cannot be true.
    """

    rows: list[dict[str, Any]]
    auto: str
    wrong: list[str]


def compared(
    subject: Subject,
    parts: Sequence[Part],
    names: Sequence[str],
    *,
    norm: float | None,
    samples: int,
    seed: int,
    watcher: Watcher | None = None,
) -> Comparison:
    """The rows of `compare` over some regions.

    Args:
        subject: the network.
        parts: inputs, one each, and their rows.
        names: canonical names of methods.
        norm: as in `compare`.
        samples: as in `compare`.
        seed: as in `compare`.
        watcher: is told how it gets on.
    """
    names, autos = named(subject, parts, names)
    watching = Nobody() if watcher is None else watcher
    wanted = [(name, i) for name in names for i in range(len(parts))]
    rows = []
    for name, i in watching.progress(wanted, "Methods"):
        row = {"method": name, "input": i} | _row(subject, parts[i], name, norm)
        rows.append(row | {"auto": name in (AUTO, autos[i])})
    reads = any(row["unsupported"] is None for row in rows)  # the host reads the network
    wrong, last = [], []
    for i, part in enumerate(parts):
        met: dict[str, Any] = dict.fromkeys(COLUMNS) | {"method": SAMPLED, "input": i, "auto": False}
        met["lipschitz"] = constant = sampled_constant(subject, [part], norm, seed)
        if reads:
            met |= sampled_values(subject, part, samples, seed)._asdict()
        last.append(met)
        below = too_small([row for row in rows if row["input"] == i], constant, part[0].dtype)
        wrong += [
            f"`{row['method']}` says that the Lipschitz constant is at most {row['lipschitz']:.9g}, but points of the "
            f"region show {constant:.9g}; one of them is wrong: please report the network and the region."
            for row in below
        ]
    return Comparison([*rows, *last], listed(autos), wrong)


def _row(subject: Subject, part: Part, name: str, norm: float | None) -> dict[str, Any]:
    """The row of one method on one input; where it cannot be used on the network, `unsupported` says why."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS[2:])
    try:
        ((lower, upper),), row["seconds"] = timed(lambda: outputs_of(subject, [part], name))
        row["output_width"] = float((upper - lower).mean())
        if parse(name).bounds_jacobian:
            found = jacobian_of(subject, [part], name, norm)
            row |= {"jacobian_width": found.width, "known_signs": found.known, "lipschitz": found.constant}
    except UnsupportedError as error:
        row["unsupported"] = str(error)
    return row


def several(methods: Iterable[str]) -> list[str]:
    """Names of methods; one alone is refused, as its letters would be taken for names."""
    if isinstance(methods, str):
        raise InputError(f"`methods` must be a list of names, got {methods!r}; write [{methods!r}].")
    names = list(methods)
    if not names:
        raise InputError("`methods` must name at least one method.")
    return names
