"""What linear bounds cut off of a box: by hand, next to linear programs, and never too much."""

from __future__ import annotations

import pytest
import torch

from recurjac_plugin.branch_and_bound.contraction import contracted, hull_of_disjuncts


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


EVERY = torch.ones(1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("slope", "offset", "low", "high"),
    [
        ([1, 1], 0.5, [-1, -1], [0.5, 0.5]),  # x0 <= -0.5 - x1 <= 0.5
        ([-1, 2], 1.0, [-1, -1], [1, 0]),  # x0 >= 1 + 2 x1 >= -1; x1 <= (x0 - 1) / 2 <= 0
        ([0, 1], -3.0, [-1, -1], [1, 1]),  # nothing is excluded
        ([0, -4], 2.0, [-1, 0.5], [1, 1]),
    ],
)
def test_contraction_of_one_row(slope, offset, low, high):
    ends = numbers([-1, -1]), numbers([1, 1])
    below, above = contracted(numbers([slope]), numbers([offset]), EVERY, *ends)
    assert torch.allclose(below, numbers(low), rtol=0, atol=1e-13)
    assert torch.allclose(above, numbers(high), rtol=0, atol=1e-13)
    assert bool((below <= numbers(low)).all())  # never to the last digit
    assert bool((above >= numbers(high)).all())
    untouched = contracted(numbers([slope]), numbers([offset]), ~EVERY, *ends)
    assert all(torch.equal(*pair) for pair in zip(untouched, ends))


def test_contraction_excludes_a_box():
    below, above = contracted(numbers([[1, 1]]), numbers([3]), EVERY, numbers([-1, -1]), numbers([1, 1]))
    assert bool((below > above).any())
    point = contracted(numbers([[1, 1]]), numbers([3]), EVERY, numbers([1, 1]), numbers([1, 1]))
    assert bool((point[0] > point[1]).any())
    touching = contracted(numbers([[1, 1]]), numbers([2]), EVERY, numbers([-1, -1]), numbers([1, 1]))
    assert bool((touching[0] <= touching[1]).all())


def test_hull_of_disjuncts():
    slope = numbers([[1, 0], [-1, 0], [0, 1]]).expand(3, -1, -1)
    offset = numbers([0.5, 0.5, 0]).expand(3, -1)
    below, above = numbers([-1, -1]).expand(3, -1), numbers([1, 1]).expand(3, -1)
    alive = torch.tensor([[True, True, True], [True, False, False], [True, False, True]])
    # x0 <= -0.5, x0 >= 0.5, x1 <= 0.
    low, high, left = hull_of_disjuncts(slope, offset, torch.arange(3).split(1), alive, below, above)
    assert torch.equal(left, alive)
    assert torch.allclose(low, numbers([-1, -1], [-1, -1], [-1, -1]))
    assert torch.allclose(high, numbers([1, 1], [-0.5, 1], [1, 1]))
    # The first two as rows of one disjunct cannot both be met.
    low, high, left = hull_of_disjuncts(slope, offset, torch.arange(3).split([2, 1]), alive[:, :2], below, above)
    assert left.tolist() == [[False, True], [False, False], [False, False]]
    assert torch.allclose(high[0], numbers(1, 0))


def test_contraction_keeps_every_violation():
    random = torch.Generator().manual_seed(0)
    kept = cut = 0
    for columns in (1, 2, 5, 40):
        slope = torch.randn(300, 4, columns, generator=random, dtype=torch.float64) * 10.0 ** torch.randint(
            -3, 4, (300, 4, 1), generator=random
        )
        below = -torch.rand(300, columns, generator=random, dtype=torch.float64)
        above = torch.rand(300, columns, generator=random, dtype=torch.float64)
        inside = below + (above - below) * torch.rand(300, columns, generator=random, dtype=torch.float64)
        # Every row is exactly met at one point.
        offset = -(slope * inside.unsqueeze(1)).sum(2)
        low, high = contracted(slope, offset, torch.ones(300, 4, dtype=torch.bool), below, above)
        assert bool((low <= inside).all())
        assert bool((high >= inside).all())
        kept += int(((low <= below) & (high >= above)).sum())
        cut += int(((low > below) | (high < above)).sum())
    assert cut > kept / 10


def test_contraction_next_to_linear_programs():
    """The hull of one row is exact; that of several contains what linear programs say, and is mostly that."""
    linprog = pytest.importorskip("scipy.optimize").linprog
    random = torch.Generator().manual_seed(1)
    exact = near = 0
    for count in (1, 2, 3):
        for _ in range(20):
            slope = torch.randn(1, count, 3, generator=random, dtype=torch.float64)
            offset = torch.randn(1, count, generator=random, dtype=torch.float64)
            ends = -torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
            rows = torch.ones(1, count, dtype=torch.bool)
            low, high = contracted(slope, offset, rows, *ends)
            programs = [
                linprog(sign * axis, slope[0].numpy(), -offset[0].numpy(), bounds=[(-1, 1)] * 3)
                for sign in (1, -1)
                for axis in torch.eye(3, dtype=torch.float64).numpy()
            ]
            if programs[0].status == 2:  # infeasible
                if count == 1:
                    assert bool((low > high).any())
                continue
            hull = torch.tensor([program.fun for program in programs], dtype=torch.float64).reshape(2, 3)
            assert bool((low <= hull[0] + 1e-9).all() & (high >= -hull[1] - 1e-9).all())
            tight = torch.cat((hull[0] - low, high + hull[1]))
            exact += int((tight < 1e-9).sum())
            near += tight.numel()
            if count == 1:
                assert float(tight.max()) < 1e-9
    assert exact > near / 2
