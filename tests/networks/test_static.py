"""Modules for nodes whose parameters are constants, held against numpy, with indices and axes from either end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from recurjac_plugin.networks.static import static_module

X = np.arange(2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)


def computed(operator: str, constants: dict[str, np.ndarray], **attributes: object) -> np.ndarray:
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    module = static_module(node, constants, {"x": X.shape})
    assert module is not None
    return module(torch.from_numpy(X), *map(torch.from_numpy, constants.values())).numpy()


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("index", [[-1], [0, -1, 1], [-3, 2], [1, 1, -2], -2, 1], ids=str)
def test_gather_counts_negative_indices_from_the_end(index, axis):
    index = np.array(index, dtype=np.int64)
    assert np.array_equal(computed("Gather", {"i": index}, axis=axis), X.take(index, axis=axis))


@pytest.mark.parametrize(
    ("start", "end", "step"), [(0, 2, 1), (-2, 2**31, 1), (1, -1, 1), (-1, -5, -1), (0, -1, 2), (-4, -1, 2)]
)
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_slice_takes_ends_from_either_side(start, end, step, axis):
    numbers = {name: np.array([value]) for name, value in (("s", start), ("e", end), ("a", axis), ("t", step))}
    whole = [slice(None)] * 3
    whole[axis] = slice(start, end, step)
    assert np.array_equal(computed("Slice", numbers), X[tuple(whole)])


@pytest.mark.parametrize("axes", [[0], [-1], [0, -1], [1, 2]])
def test_unsqueeze_counts_axes_in_the_result(axes):
    assert computed("Unsqueeze", {"a": np.array(axes)}).shape == np.expand_dims(X, tuple(axes)).shape


@pytest.mark.parametrize("pads", [[0, 0, 1, 0, 0, 2], [0, 1, 0, 0, 2, 3], [0, 0, -1, 0, 0, 0]])
def test_pad_pads_each_axis_at_each_end(pads):
    before, after = pads[:3], pads[3:]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after)]
    expected = np.pad(X, widths, constant_values=0.5)
    expected = expected[tuple(slice(-min(b, 0), None) for b in before)]
    assert np.array_equal(computed("Pad", {"p": np.array(pads), "v": np.array(0.5, dtype=np.float32)}), expected)
