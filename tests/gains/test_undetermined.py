"""From pre-activation bounds to derivative ranges: which neurons are undetermined, stable or dead."""

from __future__ import annotations

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, classify, positions
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, Read

EPS = torch.finfo(torch.float64).eps


def layer(lower, upper, kind="BoundRelu", error=0.0, outward=False):
    lower, upper = (torch.tensor(bound, dtype=torch.float64) for bound in (lower, upper))
    error = torch.as_tensor(error, dtype=torch.float64).expand(1, *lower.shape[1:])
    shape = tuple(lower.shape[1:])
    step = FactorStep("/act", shape, "/z", (Read("/z", shape),), ActivationFactor(ACTIVATIONS[kind], {}))
    return classify(step, [PreactivationBounds(lower, upper, error)], outward)


def test_stable_dead_and_undetermined_neurons():
    found = layer([[-1.0, 1.0, -2.0, 0.0, -3.0]], [[1.0, 2.0, -1.0, 1.0, 0.0]])
    assert found.index.tolist() == [[0, 3, 4]]  # a kink belongs to both sides
    assert found.lower.tolist() == [[0.0, 0.0, 0.0]] and found.upper.tolist() == [[1.0, 1.0, 1.0]]
    assert found.stable.tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0]]
    assert found.count == 3


def test_nothing_is_stable_where_all_stable_derivatives_are_0():
    assert layer([[-1.0, -2.0]], [[1.0, -1.0]]).stable is None
    assert layer([[1.0, 2.0]], [[2.0, 3.0]]).count == 0


def test_lists_are_as_long_as_the_longest_and_filled_with_zeros():
    found = layer([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]], [[1.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    assert found.index.shape == (2, 2) and found.index[0].tolist() == [0, 1] and int(found.index[1, 0]) == 2
    assert found.upper.tolist() == [[1.0, 1.0], [1.0, 0.0]]
    lower, upper = found.dense(2, 3)
    assert lower.tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert upper.tolist() == [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]


def test_the_same_list_in_every_region_is_kept_once():
    found = layer([[-1.0, 1.0], [-2.0, 2.0]], [[1.0, 2.0], [1.0, 3.0]])
    assert found.index.tolist() == [[0]]
    assert found.upper.shape == (2, 1)


def test_positions():
    assert positions(torch.tensor([[True, False, True]])).tolist() == [[0, 2]]
    several = positions(torch.tensor([[False, True, True], [True, False, False]]))
    assert several[0].tolist() == [1, 2] and several[1, 0] == 0 and several[1, 1] != 0
    assert positions(torch.zeros(2, 3, dtype=torch.bool)).shape == (1, 0)


def test_parts_of_a_layer():
    found = layer([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]], [[1.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    second = found.part(torch.tensor([1]))
    assert second.stable.tolist() == [[1.0, 1.0, 0.0]] and second.index.tolist() == [found.index[1].tolist()]
    one = found.only(torch.tensor([0]))
    assert one.count == 1 and one.index[:, 0].tolist() == [0, 2]
    assert found.count == 2  # a part has a count of its own


@pytest.mark.parametrize("index", [[[2, 0]], [[2, 0], [1, 2]]])
def test_entries_of_the_undetermined_neurons(index):
    rows = torch.arange(12.0).reshape(1, 4, 3)
    some = Layer(torch.tensor(index), torch.zeros(2, 2), torch.ones(2, 2), None)
    selected = some.select(rows)
    assert selected.shape == (len(index), 4, 2)
    for i, places in enumerate(index):
        assert torch.equal(selected[i], rows[0][:, places])


def test_bounds_within_their_error_of_a_kink_are_open():
    assert layer([[1e-14, 0.5]], [[2e-14, 1.0]]).count == 0
    assert layer([[1e-14, 0.5]], [[2e-14, 1.0]], error=9e-15).count == 0
    assert layer([[1e-14, 0.5]], [[2e-14, 1.0]], error=1e-14).index.tolist() == [[0]]
    assert layer([[1e-14, 0.5]], [[2e-14, 1.0]], error=[0.0, 0.6]).index.tolist() == [[1]]


def test_ranges_of_smooth_derivatives_are_widened_by_what_float64_is_off_by():
    plain, wider = (layer([[-1.0, 1.0]], [[2.0, 1.0]], "BoundSigmoid", outward=outward) for outward in (False, True))
    assert (plain.count, wider.count) == (1, 2)  # nothing is certain to the last digit
    assert float(plain.lower[0, 0] - wider.lower[0, 0]) == pytest.approx(128 * EPS / 2, rel=0.1)
    assert layer([[-1.0, 1.0]], [[2.0, 1.0]], outward=True).count == 1  # 0 and 1 are


def test_inverted_bounds_are_put_in_order():
    assert layer([[1.0, 2.0]], [[-1.0, 3.0]]).index.tolist() == [[0]]


def test_smooth_derivatives_have_their_exact_range():
    """Sigmoid over [-1, 2] is steepest at 0 and flattest at 2."""
    found = layer([[-1.0, 1.0]], [[2.0, 1.0]], kind="BoundSigmoid")
    slopes = [float(torch.sigmoid(z) * torch.sigmoid(-z)) for z in torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)]
    assert found.index.tolist() == [[0]]
    assert [float(found.lower), float(found.upper), float(found.stable[0, 1])] == pytest.approx(slopes, rel=1e-12)


def test_nan_is_refused():
    with pytest.raises(rj.InputError, match=r"`/act` contain NaN"):
        layer([[float("nan")]], [[1.0]])


def test_bounds_beyond_the_domain_are_refused():
    with pytest.raises(rj.UnsupportedError):
        layer([[-1.0]], [[1.0]], kind="BoundLog")


def test_bounds_of_some_regions():
    lower = torch.zeros(3, 2)
    error = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(PreactivationBounds(lower, lower + 1, error).part(torch.tensor([2, 0])).error, error[[2, 0]])
    shared = PreactivationBounds(lower, lower + 1, error[:1])
    assert torch.equal(shared.part(torch.tensor([2, 0])).error, error[:1])
