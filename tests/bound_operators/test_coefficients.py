"""The host's coefficients written out: every form of them gives the numbers that the host itself computes with."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recurjac_plugin.bound_operators.coefficients import dense
from recurjac_plugin.host import Patches
from recurjac_plugin.host.library import EyeC, OneHotC

LIKE = torch.empty(0, dtype=torch.float64)


def test_nothing_and_tensors():
    assert dense(None, (3,), LIKE) is None
    A = torch.randn(4, 2, 3, dtype=torch.float64)
    assert torch.equal(dense(A, (3,), LIKE), A)


def test_units():
    A = dense(EyeC((6, 2, 2, 3), "cpu"), (2, 3), LIKE)
    assert torch.equal(A.flatten(2), torch.eye(6, dtype=torch.float64)[:, None].expand(-1, 2, -1))


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_one(shared):
    index = torch.tensor([4, 0]) if shared else torch.tensor([[4, 1], [0, 5]])
    coefficients = None if shared else torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    A = dense(OneHotC((2, 2, 6), "cpu", index, coefficients), (6,), LIKE)
    expected = torch.zeros(2, 2, 6, dtype=torch.float64)
    for row in range(2):
        for sample in range(2):
            place = int(index[row] if shared else index[row, sample])
            expected[row, sample, place] = 1.0 if shared else float(coefficients[row, sample])
    assert torch.equal(A, expected)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (2, 0)])
@pytest.mark.parametrize("selected", [False, True])
def test_windows_are_those_of_a_convolution(stride, padding, selected):
    """A convolution's weight at every place, as the host starts with it; the tensor does what the convolution does."""
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    image = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    out = functional.conv2d(image, weight, stride=stride, padding=padding)
    height, width = out.shape[2:]
    pieces = weight.reshape(3, 1, 1, 1, 2, 3, 3).expand(-1, 2, height, width, -1, -1, -1).contiguous()
    expected = out.flatten(1).T
    rows = None
    if selected:
        rows = tuple(torch.tensor(index) for index in ([0, 2, 1], [0, height - 1, 1], [width - 1, 0, 1]))
        pieces = pieces[rows[0], :, rows[1], rows[2]]
        expected = out[:, rows[0], rows[1], rows[2]].T
    windows = Patches(pieces, stride, padding, pieces.shape, unstable_idx=rows, output_shape=[2, 3, height, width])
    A = dense(windows, (2, 6, 5), LIKE)
    assert torch.allclose(torch.einsum("sbchw,bchw->sb", A, image), expected, rtol=1e-12)


@pytest.mark.parametrize("selected", [False, True])
def test_windows_that_are_units(selected):
    shape, rows = (2, 3, 4), (torch.tensor([1, 0]), torch.tensor([2, 0]), torch.tensor([3, 1]))
    unstable = rows if selected else None
    size = [2, 5, 2, 1, 1] if selected else [2, 5, 3, 4, 2, 1, 1]
    A = dense(Patches(None, 1, 0, size, 1, unstable_idx=unstable, output_shape=[5, *shape]), shape, LIKE)
    image = torch.randn(5, *shape, dtype=torch.float64)
    expected = image[:, rows[0], rows[1], rows[2]].T if selected else image.flatten(1).T
    assert torch.equal(torch.einsum("sbchw,bchw->sb", A, image), expected)
