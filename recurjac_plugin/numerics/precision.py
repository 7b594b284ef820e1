"""Full precision on every device: what is computed with a mantissa of 7 or 10 bits is not a bound.

Torch may multiply and convolve float32 matrices in fewer bits: in TF32 on CUDA devices, convolutions even unless told
otherwise, and in TF32 or bfloat16 on processors that can. It has two sets of names for that, and raises an error where
one set is read after the other was written in a way that the first cannot express: both are kept in step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""How to read it, how to write it, and its value for full precision."""


def _attribute(place: Any, name: str, full: Any) -> Switch:
    return lambda: getattr(place, name), lambda value: setattr(place, name, value), full


def _switches() -> Iterator[Switch]:
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    backends = torch.backends
    yield _attribute(backends.cudnn, "allow_tf32", False)
    if hasattr(backends.mkldnn, "matmul"):  # the newer names, which decide where they are there
        for place in (backends.cuda, backends.mkldnn):
            yield _attribute(place.matmul, "fp32_precision", "ieee")
        for place in (backends.cudnn, backends.mkldnn):
            yield _attribute(place.conv, "fp32_precision", "ieee")
            yield _attribute(place.rnn, "fp32_precision", "ieee")


@contextmanager
def full_precision() -> Iterator[None]:
    """All bits of the number type, whatever the caller chose; afterwards as it was."""
    before: list[tuple[Switch, Any]] = []
    for switch in _switches():
        try:
            before.append((switch, switch[0]()))
        except RuntimeError:  # the caller uses the newer names: the older one is left alone
            continue
    try:
        for (_, write, full), _ in before:
            write(full)
        yield
    finally:
        for (_, write, _), value in before:
            write(value)
