"""Curves: Lipschitz constants and gradients against the radius, a search's bounds against time, certified inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from recurjac_plugin.errors import InputError

from .figures import COLOURS, INK, LINES, legend_below, log_scale, new_figure, style_of, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def lipschitz_curves(
    radii: Sequence[float],
    constants: Mapping[str, Sequence[float]],
    *,
    below: Collection[str] = ("sampled", "attained"),
    everywhere: Collection[str] = (),
    norms: tuple[str, str] = ("", ""),
    title: str | None = None,
) -> Figure:
    """Constants against the radius, one curve per method; lower bounds are dashed, what holds everywhere is dotted.

    Args:
        radii: along the horizontal axis, in increasing order; logarithmic where all of them are above 0.
        constants: by method, one for each radius; NaN is left out.
        below: which of them are lower bounds.
        everywhere: which of them do not depend on the radius.
        norms: how those of the radius and of the constants are written, such as ``("l_inf", "l_2")``.
        title: shown above.

    Raises:
        InputError: a method has more or fewer constants than there are radii.
    """
    _check_lengths("constants", constants, radii)
    figure = new_figure(5.6, 4.4)
    axes = figure.subplots()
    for i, (name, values) in enumerate(constants.items()):
        if name in below:
            dashes = LINES[1 + list(below).index(name) % 2]
            axes.plot(radii, values, color=INK, linestyle=dashes, linewidth=1.4, label=f"{name} (lower bound)")
        elif name in everywhere:
            axes.plot(radii, values, color=INK, linestyle=":", linewidth=1.4, label=name)
        else:
            axes.plot(radii, values, label=name, **style_of(i))
    log_scale(axes, "x", radii)
    log_scale(axes, "y", [value for values in constants.values() for value in values])
    axes.set_xlabel(_with("radius", norms[0]))
    axes.set_ylabel(_with("Lipschitz constant", norms[1]))
    tidy(axes)
    if title is not None:
        axes.set_title(title)
    legend_below(figure, 2)
    return figure


def closing_gap(
    seconds: Sequence[float],
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    norm: str = "",
    title: str | None = None,
) -> Figure:
    """Both bounds of a Lipschitz constant against the time that a search took.

    Args:
        seconds: of each step of the search, in their order.
        lower: the largest value attained at a point until then.
        upper: the proven upper bound until then.
        norm: how the norm is written, such as ``"l_2"``.
        title: shown above.

    Raises:
        InputError: the three have different lengths, or none.
    """
    if not len(seconds) == len(lower) == len(upper) > 0:
        raise InputError(
            f"`seconds`, `lower` and `upper` must have one number for each step, got {len(seconds)}, {len(lower)} and "
            f"{len(upper)}."
        )
    figure = new_figure(5.6, 4.0)
    axes = figure.subplots()
    axes.plot(seconds, upper, color=COLOURS[0], drawstyle="steps-post", label="upper bound")
    axes.plot(seconds, lower, color=COLOURS[1], drawstyle="steps-post", linestyle="--", label="attained at a point")
    axes.fill_between(seconds, lower, upper, step="post", color=COLOURS[0], alpha=0.12, linewidth=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(_with("Lipschitz constant", norm))
    tidy(axes)
    if title is not None:
        axes.set_title(title)
    legend_below(figure, 2)
    return figure


def certified_fractions(radii: Mapping[str, Sequence[float]], *, norm: str = "", title: str | None = None) -> Figure:
    """Which part of the inputs is certified on a radius, one curve per method.

    Args:
        radii: by method, the certified radius of each input; 0 where nothing is certified.
        norm: how the norm is written, such as ``"l_inf"``.
        title: shown above.

    Raises:
        InputError: a method has no inputs.
    """
    if not all(map(len, radii.values())):
        raise InputError("`radii` must have the radius of one input at least for every method.")
    figure = new_figure(5.6, 4.0)
    axes = figure.subplots()
    for i, (name, certified_radii) in enumerate(radii.items()):
        ends = sorted(radius for radius in certified_radii if radius > 0)
        certified = [(len(ends) - j) / len(certified_radii) for j in range(len(ends))]
        axes.step(
            [0.0, *ends, *ends[-1:]],
            [*(certified[:1] or [0.0]), *certified, *[0.0] * bool(ends)],
            label=name,
            color=COLOURS[i % len(COLOURS)],
            linestyle=LINES[i % len(LINES)],
        )
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=6)  # small radii have long numbers
    axes.set_xlabel(_with("radius", norm))
    axes.set_ylabel("part of the inputs certified")
    tidy(axes)
    if title is not None:
        axes.set_title(title)
    legend_below(figure, 2)
    return figure


def landscape_curves(
    radii: Sequence[float],
    undetermined: Mapping[str, Sequence[float]],
    constants: Mapping[str, Sequence[float]],
    *,
    inputs: int,
    norm: str = "",
    title: str | None = None,
) -> Figure:
    """Undetermined entries of the gradient, and Lipschitz constants, against the radius; one curve per method.

    Args:
        radii: along the horizontal axes.
        undetermined: by method, how many entries of the gradient have no known sign, one number for each radius.
        constants: by method, one for each radius.
        inputs: how many entries the gradient has.
        norm: how the norm is written, such as ``"l_inf"``.
        title: shown above.

    Raises:
        InputError: a method has more or fewer numbers than there are radii, or only one of the two kinds.
    """
    _check_lengths("undetermined", undetermined, radii)
    _check_lengths("constants", constants, radii)
    if undetermined.keys() != constants.keys():
        raise InputError("`undetermined` and `constants` must be about the same methods.")
    figure = new_figure(7.6, 3.9)
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(undetermined):
        left.plot(radii, undetermined[name], label=name, **style_of(i))
        right.plot(radii, constants[name], **style_of(i))
    left.axhline(inputs, color=INK, linewidth=0.8, linestyle="--", label="all of them")
    left.set_ylabel("entries of undetermined sign")
    right.set_ylabel("Lipschitz constant of the output")
    for axes in (left, right):
        axes.set_xlabel(_with("radius", norm))
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=5)  # small radii have long numbers
        tidy(axes)
    if title is not None:
        figure.suptitle(title)
    legend_below(figure)
    return figure


def _with(what: str, norm: str) -> str:
    return f"{what} ({norm})" if norm else what


def _check_lengths(argument: str, values: Mapping[str, Sequence[float]], radii: Sequence[float]) -> None:
    wrong = [name for name, found in values.items() if len(found) != len(radii)]
    if wrong:
        raise InputError(f"`{argument}` must have {len(radii)} numbers, one for each radius; `{wrong[0]}` has others.")
