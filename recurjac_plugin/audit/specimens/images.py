"""Specimens of convolutions, padding and pooling by averages, with all their attributes."""

from __future__ import annotations

from torch import nn
from torch.nn import functional

from .specimen import Formula, Specimen

_OUTPUTS = 4
_MODES = ("reflect", "replicate", "circular")


def _convolution(
    attributes: str, kernel: int | tuple[int, int] = 3, n: int = 2, side: int = 4, **options: object
) -> Specimen:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    shape = (2, *(side,) * n)
    return Specimen(
        "BoundConv", attributes, lambda: kind(2, _OUTPUTS, kernel, **options), shape, terms=1.0  # type: ignore[arg-type]
    )  # fmt: skip


def _transposed(attributes: str, n: int = 2, **options: object) -> Specimen:
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[n - 1]
    return Specimen(
        "BoundConvTranspose", attributes, lambda: kind(2, 2, 3, **options), (2, *(3,) * n), terms=1.0  # type: ignore[arg-type]
    )  # fmt: skip


def _padding(attributes: str, *widths: int, shape: tuple[int, ...] = (2, 4, 4), **options: object) -> Specimen:
    return Specimen(
        "BoundPad", attributes, lambda: Formula(lambda s, x: functional.pad(x, widths, **options)), shape  # type: ignore[arg-type]
    )  # fmt: skip


def _average(attributes: str, *shape: int, **options: object) -> Specimen:
    return Specimen("BoundAveragePool", attributes, lambda: nn.AvgPool2d(**options), shape or (2, 4, 4))  # type: ignore[arg-type]


_CONVOLUTIONS = (
    _convolution("3"),
    _convolution("(1, 3)", (1, 3)),
    _convolution("1", 1),
    _convolution("no bias", bias=False),
    _convolution("stride=2, padding=1", stride=2, padding=1),
    _convolution("stride=(2, 1), padding=(0, 1)", stride=(2, 1), padding=(0, 1)),
    _convolution("2, stride=2, a border unseen", 2, side=5, stride=2),
    _convolution("padding=same", padding="same"),
    _convolution("dilation=2", side=6, dilation=2),
    _convolution("dilation=2, padding=2", dilation=2, padding=2),
    _convolution("2, dilation=2, stride=2", 2, side=5, dilation=2, stride=2),
    _convolution("groups=2", groups=2),
    _convolution("groups=2, padding=1", groups=2, padding=1),
    _convolution("groups=2, stride=2", side=5, groups=2, stride=2),
    _convolution("groups=2, dilation=2", side=6, groups=2, dilation=2),
    _convolution("groups=2, no bias", groups=2, bias=False),
    *(
        _convolution(f"padding=1, {mode}", padding=1, padding_mode=mode)
        for mode in ("reflect", "replicate", "circular")
    ),
    *(_convolution(f"padding=2, {mode}", padding=2, padding_mode=mode) for mode in _MODES[:2]),
    _convolution("1-D", n=1),
    _convolution("1-D, stride=2, padding=1", n=1, stride=2, padding=1),
    _convolution("1-D, dilation=2", n=1, side=6, dilation=2),
    _convolution("1-D, groups=2", n=1, groups=2),
    _convolution("1-D, padding=1, reflect", n=1, padding=1, padding_mode="reflect"),
    _convolution("3-D", 2, n=3, side=3),
)

_TRANSPOSED = (
    _transposed(""),
    _transposed("padding=1", padding=1),
    _transposed("stride=2", stride=2),
    _transposed("stride=2, padding=1, output_padding=1", stride=2, padding=1, output_padding=1),
    _transposed("groups=2", groups=2),
    _transposed("dilation=2", dilation=2),
    _transposed("1-D", n=1),
    _transposed("1-D, stride=2", n=1, stride=2),
)

_PADDING = (
    _padding("zeros", 1, 2, 0, 1),
    _padding("value=1/2", 1, 2, 0, 1, value=0.5),
    _padding("value=-1, sequences", 1, 0, shape=(2, 4), value=-1.0),
    _padding("zeros, vectors", 1, 2, shape=(4,)),
    _padding("negative", -1, 0, 0, -1),
    *(_padding(mode, 1, 1, 1, 1, mode=mode) for mode in _MODES),
    *(_padding(f"{mode}, (2, 0, 1, 0)", 2, 0, 1, 0, mode=mode) for mode in _MODES[:2]),
    *(_padding(f"{mode}, sequences", 1, 2, shape=(2, 4), mode=mode) for mode in _MODES[:2]),
)

_AVERAGES = (
    _average("2", kernel_size=2),
    _average("2, rest of one", 2, 5, 5, kernel_size=2),
    _average("2, rests that differ", 2, 5, 4, kernel_size=2),
    _average("(2, 1)", kernel_size=(2, 1)),
    _average("3, stride=1", kernel_size=3, stride=1),
    _average("2, stride=3", 2, 5, 5, kernel_size=2, stride=3),
    _average("3, stride=2, padding=1", kernel_size=3, stride=2, padding=1),
    _average("3, padding=1, count_include_pad=False", kernel_size=3, stride=2, padding=1, count_include_pad=False),
    _average("2, ceil_mode", 2, 5, 5, kernel_size=2, ceil_mode=True),
    _average("3, padding=1, ceil_mode", kernel_size=3, stride=2, padding=1, ceil_mode=True),
    _average("2, divisor_override=3", kernel_size=2, divisor_override=3),
    _average("3, stride=1, divisor_override=4", kernel_size=3, stride=1, divisor_override=4),
    Specimen("BoundAveragePool", "1-D", lambda: nn.AvgPool1d(2), (2, 4)),
    Specimen("BoundAveragePool", "adaptive, 2", lambda: nn.AdaptiveAvgPool2d(2), (2, 4, 4)),
    Specimen("BoundGlobalAveragePool", "", lambda: nn.AdaptiveAvgPool2d(1), (2, 3, 3)),
)

IMAGES: tuple[Specimen, ...] = _CONVOLUTIONS + _TRANSPOSED + _PADDING + _AVERAGES
"""Linear operators on images and signals."""
