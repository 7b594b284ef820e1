"""Adam without the classes of `torch.optim`: the first of them that is made imports torch's compiler, for a second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam


class Descent:
    """Variables that are moved against their gradients, bit by bit as `torch.optim.Adam` moves them.

    Source: Kingma and Ba, ICLR 2015, arXiv:1412.6980.

    Attributes:
        variables: leaves, of any shapes; their gradients are in `grad`, and those without one stay where they are.
        rates: the first step of each.
        betas: how much is kept of the averages of gradients and of their squares.
    """

    def __init__(
        self, variables: Sequence[Tensor], rates: Sequence[float], betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        self.variables = [*variables]
        self.rates = [*rates]
        self.betas = betas
        self._averages = [(torch.zeros_like(each.detach()), torch.zeros_like(each.detach())) for each in variables]
        self._steps = [torch.tensor(0.0) for _ in variables]

    @torch.no_grad()
    def step(self, decay: float = 1.0) -> None:
        """One step; the next ones are shorter by the factor `decay`."""
        for place, variable in enumerate(self.variables):
            if variable.grad is not None:
                first, second = self._averages[place]
                adam(
                    [variable], [variable.grad], [first], [second], [], [self._steps[place]], amsgrad=False,
                    beta1=self.betas[0], beta2=self.betas[1], lr=self.rates[place], weight_decay=0.0, eps=1e-8,
                    maximize=False,
                )  # fmt: skip
        self.rates = [rate * decay for rate in self.rates]
