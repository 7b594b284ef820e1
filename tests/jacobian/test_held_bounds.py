"""`Bounds` as a container: indices, comparisons, number types, files, tables."""

from __future__ import annotations

import copy
import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import hosted
from oracle import Ball, truth
from processes import python

import recurjac_plugin as rj

METHODS = ("RecurJac", "RecurJac-Linear", "Fast-Lip")


def example(*shape, dtype=torch.float64, **options):
    low, high = torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return rj.Bounds(torch.minimum(low, high), torch.maximum(low, high), **options)


def bounded(name="tanh", radius=0.1, **options):
    net, center, model = hosted(name)
    region = Ball(center, radius)
    return net, region, rj.jacobian_bounds(model, region.perturbed(), **options)


def test_iterates_as_a_pair_and_counts_regions():
    bounds = example(3, 2, 4)
    assert len(bounds) == 3
    assert bounds.shape == (3, 2, 4)
    for pair in (list(bounds), tuple(bounds), [*bounds], list(reversed(bounds))[::-1]):
        assert len(pair) == 2
        assert pair[0] is bounds.lower and pair[1] is bounds.upper
    assert len(list(zip(bounds, (0, 1)))) == 2
    assert np.array_equal(np.stack(list(bounds)), torch.stack(tuple(bounds)).numpy())
    assert all(bounds[i].shape == (2, 4) for i in range(len(bounds)))
    with pytest.raises(IndexError):
        bounds[3]


def test_a_jacobian_is_in_its_bounds():
    net, region, bounds = bounded()
    J = truth(net, region)
    widened = rj.Bounds(bounds.lower - 1e-9, bounds.upper + 1e-9)
    assert J in widened
    assert J + 10 not in widened


INDICES = [
    (range(2), ("region", "row"), ["RecurJac", "RecurJac-Linear"]),
    (0, ("row",), ["RecurJac"]),
    (-1, ("row",), ["Fast-Lip"]),
    (np.int64(1), ("row",), ["RecurJac-Linear"]),
    (slice(1, None), ("region", "row"), ["RecurJac-Linear", "Fast-Lip"]),
    ((slice(None), 1), ("region",), list(METHODS)),
    ((2, 1), (), ["Fast-Lip"]),
    ((..., 0), ("region", "row"), list(METHODS)),
    ((0, ..., 0), ("row",), ["RecurJac"]),
    ((slice(None), slice(None), 3), ("region", "row"), list(METHODS)),
    ([2, 0], ("region", "row"), ["Fast-Lip", "RecurJac"]),
    (torch.tensor([2, 0, 2]), ("region", "row"), ["Fast-Lip", "RecurJac", "Fast-Lip"]),
    (torch.tensor([False, True, True]), ("region", "row"), ["RecurJac-Linear", "Fast-Lip"]),
    (np.array([True, False, False]), ("region", "row"), ["RecurJac"]),
    ((slice(None), [1, 0]), ("region", "row"), list(METHODS)),
    (([0, 1], [1, 0]), (), []),
    (None, (), []),
    (torch.ones(3, 2, dtype=torch.bool), (), []),
    (torch.ones(3, 2, 4, dtype=torch.bool), (), []),
]


@pytest.mark.parametrize(("index", "axes", "methods"), INDICES, ids=lambda value: str(value)[:30])
def test_an_index_takes_both_tensors_and_the_methods_of_its_regions(index, axes, methods):
    bounds = example(3, 2, 4, methods=METHODS, rigorous=True)
    part = bounds[index]
    assert torch.equal(part.lower, bounds.lower[index])
    assert torch.equal(part.upper, bounds.upper[index])
    assert (part.axes, list(part.methods), part.rigorous) == (axes, methods, True)


def test_an_index_of_a_part_knows_which_axis_it_is_of():
    bounds = example(3, 2, 4, methods=METHODS)
    row = bounds[1][0]
    assert (row.axes, row.methods) == ((), ("RecurJac-Linear",))
    assert bounds[:, 0][2].methods == ("Fast-Lip",)
    assert bounds[bounds.sign() > 0].lower.min() > 0
    assert example(3, 2, 4)[1].methods == ()


def test_parts_and_numbers_are_bounds_of_the_same_jacobian():
    """`methods` of a batch, by a real call, and each region as it is alone."""
    net, center, model = hosted("tanh")
    centers = torch.cat([center[:1], center[:1] + 0.3])
    region = Ball(centers, 0.05)
    bounds = rj.jacobian_bounds(model, region.perturbed(), method="RecurJac")
    J = truth(net, region)
    for i in range(2):
        assert bounds[i].contains(J[:, i], slack=1e-9)
        assert bounds[i].methods == ("RecurJac",)
    assert bounds[:, 1].contains(J[:, :, 1], slack=1e-9)


def test_midpoint_and_radius():
    bounds = example(2, 3, 4)
    assert torch.allclose(bounds.midpoint - bounds.radius, bounds.lower)
    assert torch.allclose(bounds.midpoint + bounds.radius, bounds.upper)
    huge = torch.full((1, 1, 1), 1.5e308, dtype=torch.float64)
    assert float(rj.Bounds(huge, huge).midpoint) == 1.5e308


@pytest.mark.parametrize(
    "ends",
    [
        (torch.zeros(1, 2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2).double()),
        (torch.zeros(2), torch.zeros(2, device="meta")),
        (torch.zeros(2), np.zeros(2)),
        ([0.0], [1.0]),
    ],
    ids=["shapes", "types", "devices", "numpy", "lists"],
)
def test_lower_and_upper_are_of_one_kind(ends):
    with pytest.raises(rj.InputError, match="tensors of one shape, number type and device, got"):
        rj.Bounds(*ends)


def test_types_that_cannot_round_outward_are_refused():
    with pytest.raises(rj.InputError, match="at least 16 bits"):
        example(1, 2, 3).to(torch.float8_e4m3fn)


@pytest.mark.parametrize("rigorous", [False, True])
def test_float_goes_on_to_hold(rigorous):
    """Rounded to the nearest float32, about half of all bounds would be tighter than they were."""
    net, region, bounds = bounded(rigorous=rigorous)
    narrow = bounds.double().float()
    assert (narrow.dtype, narrow.rigorous, narrow.methods) == (torch.float32, rigorous, bounds.methods)
    assert bounds.within(narrow)
    assert narrow.contains(truth(net, region), slack=0 if rigorous else 1e-9)
    values = example(20, 20, 20)
    narrow = values.float()
    assert (narrow.lower.double() <= values.lower).all() and (narrow.upper.double() >= values.upper).all()
    assert (narrow.lower.double() < values.lower).any()
    assert narrow.double().within(values, slack=1e-6)
    assert narrow.float().equal(narrow)
    beyond = rj.Bounds(
        torch.full((1, 1, 1), -1e300, dtype=torch.float64), torch.full((1, 1, 1), 1e300, dtype=torch.float64)
    ).float()
    assert (float(beyond.lower), float(beyond.upper)) == (-math.inf, math.inf)
    tiny = rj.Bounds(
        torch.full((1, 1, 1), 1e-300, dtype=torch.float64), torch.full((1, 1, 1), 1e-300, dtype=torch.float64)
    ).float()
    assert float(tiny.lower) == 0 < float(tiny.upper)
    with pytest.raises(rj.InputError, match="floating-point type"):
        bounds.to(torch.int64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_hold_too(dtype):
    values = example(20, 20, 20).float()
    narrow = values.to(dtype)
    assert narrow.dtype == dtype
    assert values.within(narrow)
    assert narrow.within(values, slack=0.05)
    assert narrow.to(torch.bfloat16 if dtype == torch.float16 else torch.float16).contains(narrow.midpoint.double())
    for end, array in zip(narrow, narrow.to_numpy(), strict=True):
        assert np.array_equal(end.float().numpy(), array.astype(np.float32))


@pytest.mark.parametrize("convert", [lambda b: b, lambda b: b[:, 0], lambda b: b.float(), lambda b: b.double().cpu()])
def test_gradients_reach_the_weights(convert):
    _, center, model = hosted("tanh")
    bounds = convert(rj.jacobian_bounds(model, Ball(center, 0.05).perturbed(), method="RecurJac"))
    assert bounds.lower.requires_grad
    bounds.width.sum().backward()
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
    assert not bounds.detach().upper.requires_grad


def test_within_and_intersection():
    _, _, outer = bounded(radius=0.1)
    net, region, inner = bounded(radius=0.05)
    assert inner.within(outer, slack=1e-9)
    assert not outer.within(inner)
    net, region, backward = bounded(method="RecurJac")
    _, _, forward = bounded(method="RecurJac", order="forward")
    both = backward.intersection(forward)
    assert both.within(backward) and both.within(forward)
    assert both.contains(truth(net, region), slack=1e-9)
    assert both.methods == backward.methods
    _, _, other = bounded(method="Fast-Lip")
    assert set(backward.intersection(other).methods) == {"RecurJac and Fast-Lip"}


@pytest.mark.parametrize("rigorous", [False, True])
def test_an_empty_intersection_is_refused(rigorous):
    low, high = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    other = rj.Bounds(low.clone(), high.clone(), rigorous)
    other.lower[0, 1, 2] = other.upper[0, 1, 2] = 1.5
    rj.Bounds(low, high, rigorous).intersection(rj.Bounds(low - 1, high))
    other.upper[0, 0, 0] = math.inf  # does not hide the others
    high[0, 0, 0] = math.inf
    with pytest.raises(rj.InputError, match=r"contradict each other: at entry \(0, 1, 2\) one says 1.5 at least"):
        rj.Bounds(low, high, rigorous).intersection(other)


def test_bounds_that_cross_by_rounding_meet_unless_they_are_proven():
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    above = torch.nextafter(one, 2 * one)
    far = rj.Bounds(torch.full_like(one, -math.inf), torch.full_like(one, math.inf))
    assert far.intersection(rj.Bounds(one, above)).equal(rj.Bounds(one, above))
    met = rj.Bounds(one, one).intersection(rj.Bounds(above, above))
    assert (float(met.lower), float(met.upper)) == (float(one), float(above))
    with pytest.raises(rj.InputError, match="contradict"):
        rj.Bounds(one, one, True).intersection(rj.Bounds(above, above, True))
    assert not rj.Bounds(one, one, True).intersection(rj.Bounds(above, above)).rigorous


@pytest.mark.parametrize("name", ["within", "intersection", "allclose"])
def test_only_bounds_of_one_shape_are_compared(name):
    with pytest.raises(rj.InputError, match=r"shape \(1, 2, 3\) on cpu, got \(1, 2, 4\)"):
        getattr(example(1, 2, 3), name)(example(1, 2, 4))
    with pytest.raises(rj.InputError, match="got Tensor"):
        getattr(example(1, 2, 3), name)(torch.zeros(1, 2, 3))


def test_equal_and_close():
    bounds = example(2, 3, 4)
    assert bounds.equal(rj.Bounds(bounds.lower.clone(), bounds.upper.clone()))
    moved = rj.Bounds(bounds.lower - 1e-9, bounds.upper)
    assert not bounds.equal(moved)
    assert bounds.allclose(moved)
    assert not bounds.allclose(moved, rtol=0, atol=1e-12)
    assert not bounds.equal(5)
    assert not bounds.equal(bounds[:1])


def test_repr_says_what_it_is():
    low, high = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[1.5, 1.0]]])
    bounds = rj.Bounds(low, high, True, ("RecurJac",))
    assert repr(bounds) == (
        "Bounds(1 region x 1 row x 2 inputs, 1 of 2 signs known, widths 0.5 to 3, RecurJac, rigorous, torch.float32, "
        "cpu)"
    )
    assert repr(bounds[0, 0]).startswith("Bounds(2 entries, ")
    assert repr(example(2, 10, 1, 8, 8)).startswith("Bounds(2 regions x 10 rows x 1x8x8 inputs, ")
    assert repr(example(2, 0, 3)) == "Bounds(2 regions x 0 rows x 3 inputs, torch.float64, cpu)"


def test_repr_does_not_look_at_many_numbers():
    assert "signs" in repr(rj.Bounds(torch.zeros(1, 1, 1000), torch.ones(1, 1, 1000)))
    shape = (1000, 1000, 1000)  # 4 GB each, were they there
    many = rj.Bounds(torch.zeros(1).expand(shape), torch.ones(1).expand(shape))
    assert repr(many) == "Bounds(1000 regions x 1000 rows x 1000 inputs, torch.float32, cpu)"
    assert "1000 regions" in many._repr_html_()
    nowhere = rj.Bounds(torch.zeros(1, 2, 3, device="meta"), torch.ones(1, 2, 3, device="meta"))
    assert repr(nowhere) == "Bounds(1 region x 2 rows x 3 inputs, torch.float32, meta)"


def test_html_shows_a_corner():
    shown = example(2, 3, 4)._repr_html_()
    assert shown.count("<tr>") == 4
    assert shown.count("<td") == 3 * 5
    large = example(2, 30, 40)._repr_html_()
    assert large.count("<tr>") == 8 and "input 5" in large and "input 6" not in large
    assert "<script" not in rj.Bounds(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), methods=("<script>",))._repr_html_()


@pytest.mark.parametrize("call", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_are_equal(call):
    bounds = example(2, 3, 4, methods=METHODS[:2], rigorous=True)[0]
    again = call(bounds)
    assert again.equal(bounds)
    assert (again.methods, again.rigorous, again.axes) == (bounds.methods, True, ("row",))


@pytest.mark.parametrize("imports", ["import recurjac_plugin, torch", "import torch, recurjac_plugin"])
def test_torch_loads_weights_only_in_a_new_process(tmp_path, imports):
    """In either order of the imports, and with nothing of the package used before."""
    _, _, bounds = bounded()
    torch.save({"bounds": bounds.detach(), "part": bounds.detach()[:, 0]}, tmp_path / "bounds.pt")
    shown = python(
        "-c",
        f"{imports}\nfound = torch.load({str(tmp_path / 'bounds.pt')!r}, weights_only=True)\n"
        "print(found['bounds'], found['part'].axes)",
    )
    assert shown.stdout.strip() == f"{bounds!r} ('region',)", shown.stderr
    plain = python("-c", f"import torch\ntorch.load({str(tmp_path / 'bounds.pt')!r}, weights_only=True)")
    assert "Unsupported global" in plain.stderr  # so that the import is what makes the difference


def test_the_checker_is_there_without_torch():
    shown = python("-c", "import sys, recurjac_plugin.checker\nprint('torch' in sys.modules)")
    assert shown.stdout.strip() == "False"


def test_torch_keeps_its_own_loader():
    shown = python(
        "-c",
        "import recurjac_plugin, sys, torch\n"
        "print(type(torch.__spec__.loader).__module__, torch.__loader__ is torch.__spec__.loader)\n"
        "print([type(each).__module__ for each in sys.meta_path if 'torch_import' in type(each).__module__])",
    )
    assert shown.stdout.split("\n")[:2] == ["_frozen_importlib_external True", "[]"]


def test_long_form_has_one_line_for_each_entry():
    pytest.importorskip("pandas", reason="pandas is not installed")
    bounds = example(2, 3, 2, 2)
    frame = bounds.to_dataframe()
    assert list(frame.columns) == ["region", "row", "input", "lower", "upper", "sign"]
    assert len(frame) == 24
    for line in frame.itertuples(index=False):
        place = (line.region, line.row, line.input // 2, line.input % 2)
        assert (line.lower, line.upper) == (float(bounds.lower[place]), float(bounds.upper[place]))
        assert line.sign == int(bounds.sign()[place])
    named = bounds[0].to_dataframe(rows=["a", "b", "c"], inputs=["p", "q", "r", "s"])
    assert named[(named.row == "b") & (named.input == "r")].lower.item() == float(bounds.lower[0, 1, 1, 0])
    assert set(named.region) == {0}
    with pytest.raises(rj.InputError, match="`inputs` must be 4 names"):
        bounds.to_dataframe(inputs=["p"])


def test_without_pandas_the_error_says_how_to_get_it():
    shown = python(
        "-c",
        "import sys, torch, recurjac_plugin as rj\nsys.modules['pandas'] = None\n"
        "rj.Bounds(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).to_dataframe()",
    )
    assert "ExtraError: Drawing pictures and tables needs `pandas`" in shown.stderr
    assert "pip install 'recurjac-plugin[plots]'" in shown.stderr


def test_latex_holds_what_it_says():
    bounds = example(2, 3, 4)
    text = bounds.to_latex(1, digits=2, inputs=["a_1", "b", "50%", "d"])
    lines = text.splitlines()
    assert (lines[0], lines[1], lines[-1]) == (
        r"\begin{tabular}{lcccc}",
        r" & a\_1 & b & 50\% & d \\",
        r"\end{tabular}",
    )
    for k, line in enumerate(lines[3:-1]):
        for r, (low, high) in enumerate(re.findall(r"\[([^,]+), ([^\]]+)\]", line)):
            lower, upper = Fraction(float(bounds.lower[1, k, r])), Fraction(float(bounds.upper[1, k, r]))
            assert Fraction(low) <= lower and upper <= Fraction(high)
            assert max(lower - Fraction(low), Fraction(high) - upper) <= Fraction(1, 10) * max(
                abs(lower), abs(upper), 1
            )
    tiny = rj.Bounds(torch.full((1, 1, 1), 1.23456e-12).double(), torch.full((1, 1, 1), math.inf).double())
    assert r"$[1.23\cdot 10^{-12}, \infty]$" in tiny.to_latex()
    ends = (torch.tensor([[[-math.inf, -0.0]]]), torch.tensor([[[math.nan, 0.0]]]))
    assert rj.Bounds(*ends).to_latex().splitlines()[3] == r"0 & $[-\infty, \mathrm{nan}]$ & $[0, 0]$ \\"
    assert r" & \textless{}0 & a\textbar{}b & \textasciitilde{} & \textbackslash{}" in bounds.to_latex(
        inputs=["<0", "a|b", "~", "\\"]
    )
    for sample in (2, -3, 0.5, True, None, "0"):
        with pytest.raises(rj.InputError, match="`sample` must be from 0 to 1"):
            bounds.to_latex(sample)
    for options, word in (({"digits": 0}, "`digits`"), ({"rows": ["a"]}, "`rows`")):
        with pytest.raises(rj.InputError, match=word):
            bounds.to_latex(**options)
    with pytest.raises(rj.InputError, match="up to 1000 entries"):
        example(1, 30, 40).to_latex()
