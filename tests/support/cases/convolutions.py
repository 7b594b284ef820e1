"""Convolutions, batch normalisation and average pooling."""

from __future__ import annotations

import torch
from torch import nn

from .case import Case
from .modules import head
from .reasons import ONE_D_03, THREE_D, TRANSPOSED


def convolution(n: int, **options: object) -> nn.Module:
    """Convolution in n dimensions over 2 channels of side 5."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    net = kind(2, 4, 3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        size = net(torch.zeros(1, 2, *(5,) * n)).numel()
    return nn.Sequential(net, nn.ReLU(), nn.Flatten(), nn.Linear(size, 3))


def transposed(n: int, **options: object) -> nn.Module:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[n - 1]
    net = kind(2, 4, 3, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        size = net(torch.zeros(1, 2, *(4,) * n)).numel()
    return nn.Sequential(
        nn.Conv1d(2, 2, 1) if n == 1 else nn.Conv2d(2, 2, 1),
        nn.ReLU(),
        net,
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(size, 3),
    )


CONVOLUTION_CASES = [
    Case("conv1d", lambda: convolution(1, padding=1), (2, 5), not_03=ONE_D_03),
    Case("conv1d_stride", lambda: convolution(1, stride=2, padding=1, dilation=2), (2, 5), not_03=ONE_D_03),
    Case("conv2d", lambda: convolution(2), (2, 5, 5)),
    Case("conv2d_stride", lambda: convolution(2, stride=(2, 1), padding=(0, 1)), (2, 5, 5)),
    Case(
        "conv2d_unseen_border",
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)),
        (1, 5, 5),
    ),
    Case("conv2d_groups", lambda: convolution(2, groups=2, padding=1), (2, 5, 5)),
    Case("conv2d_dilation", lambda: convolution(2, dilation=2, padding=2, bias=False), (2, 5, 5)),
    Case("conv3d", lambda: convolution(3), (2, 5, 5, 5), not_03=THREE_D, not_07=THREE_D),
    Case("conv_transpose1d", lambda: transposed(1, stride=2), (2, 4), not_03=TRANSPOSED, not_07=TRANSPOSED),
    Case("conv_transpose2d", lambda: transposed(2), (2, 4, 4)),
    Case(
        "conv_transpose2d_stride",
        lambda: transposed(2, stride=2, padding=1, output_padding=1),
        (2, 4, 4),
        not_03=TRANSPOSED,
        not_07=TRANSPOSED,
    ),
    Case(
        "conv_transpose2d_groups",
        lambda: transposed(2, stride=2, groups=2),
        (2, 4, 4),
        not_03=TRANSPOSED,
        not_07=TRANSPOSED,
    ),
    Case(
        "batch_norm1d",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3), nn.BatchNorm1d(3)),
        (5,),
    ),
    Case("batch_norm1d_first", lambda: nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), (5,)),
    Case(
        "batch_norm2d",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 2, 2),
            nn.BatchNorm2d(2, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        (2, 5, 5),
    ),
    Case(
        "average_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), head(12)),
        (2, 5, 5),
    ),
    Case(
        "average_pool_padded",
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AvgPool2d(3, stride=2, padding=1), nn.Flatten(), head(12)
        ),
        (2, 5, 5),
    ),
    Case(
        "global_average_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(3)),
        (2, 5, 5),
    ),
]
