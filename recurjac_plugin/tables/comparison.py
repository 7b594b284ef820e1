"""`compare`: every method over the same regions, beside what points of them show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from recurjac_plugin.errors import ContradictionError, InputError, UnsupportedError
from recurjac_plugin.host.region import read_region
from recurjac_plugin.jacobian.methods import HOST_METHODS, METHODS, parse

from .measured import Part, jacobian_of, named, outputs_of, sampled_constant, sampled_values, timed, too_small
from .pictures import SAMPLED, Picture
from .subject import GivenModel, Nobody, Subject, Watcher
from .table import Table

if TYPE_CHECKING:
    from recurjac_plugin.properties.spec import Spec

DEFAULT_METHODS = (*METHODS, f"{METHODS[1]}+CROWN", *HOST_METHODS)
"""What is compared where no methods are named."""

COLUMNS = (*("method", "jacobian_width", "known_signs", "lipschitz", "output_width", "seconds", "auto", "unsupported"),)
"""What is said of every method."""


def compare(
    model: Any,
    x: Any = None,
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

    One row for each method, and a last one, `sampled`, for what points of the regions show: no bounds can be narrower,
    no constant smaller, and no more signs be known. The columns are

    * `method`, and in `auto` whether it is what `method=None` chooses here;
    * `jacobian_width`, the mean of ``U - L`` over all entries, `known_signs`, how many entries have ``L >= 0`` or
      ``U <= 0``, and `lipschitz`, the largest constant of a region as in `local_lipschitz`; None for methods that bound
      outputs alone;
    * `output_width`, the mean width of the bounds of ``C f``, as in `output_bounds`, and `seconds`, what these took,
      pre-activation bounds included, of two runs the shorter one where they are short;
    * `unsupported`: why a method cannot be used on the network, else None.

    With `spec` these are the columns of ``recurjac compare``: `lower_bound` of the distance from a violation,
    `verdict`, `boxes` and `verify_seconds` of `verify` come in place of `known_signs` and `output_width`, `sampled` is
    left with the constant, and constants are those of the property's rows in l_inf.

    Args:
        model: auto_LiRPA's `BoundedModule`, or a torch module; with `spec` what `load_onnx` returns. It is left as it
            was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box; None with `spec`.
        spec: what `load_vnnlib` returns, in place of `x`: its boxes are the regions, its rows are bounded.
        methods: names as in `output_bounds`; None for all that the package has and the host's. `auto` is shown as what
            it chooses.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        norm: p of the Lipschitz constant, 1, 2 or inf; None for the norm of the region, inf for boxes.
        timeout: with `spec`, longest time for each verdict.
        attack_seconds: with `spec`, longest time of the attack that serves all methods that prove nothing.
        branching: with `spec`, as in `verify`.
        samples: random points of each region.
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
    found = compared(subject, [(x, C)], names, norm=norm, samples=samples, seed=seed)
    if found.wrong:
        raise ContradictionError(found.wrong[0])
    return Table(f"Methods compared; auto is {found.auto} here", found.rows, Picture("panels"))


class Comparison(NamedTuple):
    """Methods over some regions.

    Attributes:
        rows: of each method, that of `sampled` the last.
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
        parts: regions and their rows.
        names: canonical names of methods.
        norm: as in `compare`.
        samples: as in `compare`.
        seed: as in `compare`.
        watcher: is told how it gets on.
    """
    names, auto = named(subject, parts, names)
    watching = Nobody() if watcher is None else watcher
    rows = [_row(subject, parts, name, norm) | {"auto": name == auto} for name in watching.progress(names, "Methods")]
    constant = sampled_constant(subject, parts, norm, seed)
    wrong = [
        f"`{row['method']}` says that the Lipschitz constant is at most {row['lipschitz']:.9g}, but points of the "
        f"region show {constant:.9g}; one of them is wrong: please report the network and the region."
        for row in too_small(rows, constant, parts[0][0].dtype)
    ]
    last: dict[str, Any] = dict.fromkeys(COLUMNS) | {"method": SAMPLED, "lipschitz": constant, "auto": False}
    if any(row["unsupported"] is None for row in rows):  # a host that reads the network
        last |= sampled_values(subject, parts, samples, seed)._asdict()
    return Comparison([*rows, last], auto, wrong)


def _row(subject: Subject, parts: Sequence[Part], name: str, norm: float | None) -> dict[str, Any]:
    """The row of one method; where it cannot be used on the network, `unsupported` says why."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"method": name}
    try:
        bounds, row["seconds"] = timed(lambda: outputs_of(subject, parts, name))
        widths = [float((upper - lower).mean()) for lower, upper in bounds]
        row["output_width"] = sum(widths) / len(widths)
        if parse(name).bounds_jacobian:
            found = jacobian_of(subject, parts, name, norm)
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
