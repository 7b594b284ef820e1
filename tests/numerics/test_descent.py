"""Steps against gradients: those of torch's Adam, bit by bit, and without torch's compiler."""

from __future__ import annotations

import pytest
import torch
from scripts import run_code

from recurjac_plugin.numerics.descent import Descent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.99)])
def test_the_steps_are_those_of_torch(dtype, betas):
    start = [torch.randn(shape, dtype=dtype) for shape in ((3, 4), (), (2, 1, 5), (2,))]
    ours, theirs = ([each.clone().requires_grad_() for each in start] for _ in range(2))
    rates, decay = (0.3, 0.1, 0.02, 0.5), 0.93
    adam = torch.optim.Adam(
        [{"params": [each], "lr": rate} for each, rate in zip(theirs, rates, strict=True)], betas=betas
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, decay)
    descent = Descent(ours, rates, betas)
    for step in range(12):
        for variables in (ours, theirs):
            for place, each in enumerate(variables):
                missing = place == 3 and step != 5  # most of its gradients are missing
                each.grad = None if missing else (each.detach() - place).sin() * (1 + step) ** 2
        descent.step(decay)
        adam.step()
        schedule.step()
        assert all(map(torch.equal, ours, theirs))
    assert not any(map(torch.equal, ours, start))


def test_the_compiler_of_torch_is_not_imported():
    code = """
import sys
import torch
from recurjac_plugin.numerics.descent import Descent
x = torch.ones(2, requires_grad=True)
x.sum().backward()
Descent([x], [0.5]).step()
assert torch.allclose(x, torch.full((2,), 0.5)), x
print("torch._dynamo" in sys.modules)
"""
    shown = run_code(code)
    assert shown.stdout == "False\n", shown.stderr
