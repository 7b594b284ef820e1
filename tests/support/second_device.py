"""A second device for machines that have none: tensors that say they lie elsewhere, and a record of what moved.

Everything really lies in main memory. A function mode answers for the device of a tensor and reads the devices that
calls name, a dispatch mode follows the mark through every operator. What a CUDA device would refuse, operands on two
devices, and what it would have to wait for, a number or a mask read back, is written down with the line it came from.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import recurjac_plugin
from recurjac_plugin.host import BoundedTensor, library

DEVICE = torch.device("cpu:1")
"""What the tensors on the second device give as theirs."""
HOME = torch.device("cpu")

_PACKAGE, _HOST = (Path(str(module.__file__)).parent for module in (recurjac_plugin, library._host))
_HERE = Path(__file__).parent.parent
# A result that Python sees, or whose size depends on values: a CUDA device must finish all that was asked of it first.
_WAITS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::repeat_interleave", "aten::bincount",
}  # fmt: skip
_MOVES = {"aten::copy_", "aten::fill_"}  # take what they write from any device
_TAKES_DEVICE = {"to", "as_tensor", "tensor", "cpu", "cuda"}


def _key(value: Tensor) -> int:
    return value.untyped_storage()._cdata


class Elsewhere:
    """The second device.

    Attributes:
        mixed: operators of this package that met two devices, as ``operator at file:line``.
        waits: how often this package read a value back, by ``operator at file:line``.
        copies: how often it moved a tensor from one device to the other, likewise.
    """

    def __init__(self) -> None:
        self._there: set[int] = set()
        self.default = False
        self.mixed: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def holds(self, value: Any) -> bool:
        """Whether a tensor lies there."""
        return isinstance(value, Tensor) and _key(value) in self._there

    def put(self, value: Any) -> Any:
        """Say that a tensor, or everything a module and its nodes hold, lies there."""
        if isinstance(value, nn.Module):
            for module in value.modules():
                for held in [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]:
                    for each in tree_iter(held):
                        self.put(each)
                if hasattr(module, "device"):
                    module.device = DEVICE
        elif isinstance(value, Tensor):
            self._there.add(_key(value))
        return value

    def mark(self, value: Tensor, there: bool) -> None:
        (self._there.add if there else self._there.discard)(_key(value))

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Let every operator follow the mark."""
        original = BoundedTensor.__new__
        BoundedTensor.__new__ = staticmethod(outside(original))  # shares the storage of what it is made of
        try:
            with _Dispatched(self), _Called(self):
                yield
        finally:
            BoundedTensor.__new__ = original


def _count(counter: Counter[str], name: str, hosts_too: bool = False) -> None:
    """One more of something, if a line of this package is responsible."""
    line = _where(hosts_too)
    if line is not None:
        counter[f"{name} at {line}"] += 1


def _where(hosts_too: bool) -> str | None:
    """The innermost line that is not of torch, if it is one of this package, or of the host where that counts."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE) or (hosts_too and path.is_relative_to(_HOST)):
            return f"{path.name}:{frame.f_lineno}"
        if path.is_relative_to(_HOST) or (path.is_relative_to(_HERE) and path.name != Path(__file__).name):
            return None
        frame = frame.f_back
    return None


class _Called(TorchFunctionMode):
    """Devices as calls name them, and as tensors give them."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        super().__init__()
        self.elsewhere = elsewhere

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        there = self.elsewhere
        if func == Tensor.device.__get__:
            return DEVICE if there.holds(args[0]) else func(*args)
        name = getattr(func, "__name__", "")
        if name in ("numpy", "__array__", "tolist") and there.holds(args[0]):
            _count(there.waits if name == "tolist" else there.mixed, name)
        wanted = None
        if name in _TAKES_DEVICE:
            args, wanted = self._target(name, args, "dtype" in kwargs)
        if kwargs.get("device") is not None:
            wanted = torch.device(kwargs.pop("device"))
        if name == "from_numpy" or (name == "tensor" and wanted is None):
            wanted = HOME
        before = [there.holds(value) for value in args[:1]]
        # What operators make by themselves, such as the zeros of a gradient, is made where their operands are.
        outer, there.default = there.default, any(there.holds(value) for value in tree_iter((args, kwargs)))
        try:
            found = func(*args, **kwargs)
        finally:
            there.default = outer
        if wanted is None or not isinstance(found, Tensor):
            return found
        if wanted.type == "meta":
            return found.to("meta")
        target = wanted == DEVICE
        if there.holds(found) != target:
            if args and isinstance(args[0], Tensor) and before != [target]:
                _count(there.copies, name)
                found = found.clone()
            there.mark(found, target)
        return found

    def _target(self, name: str, args: Any, typed: bool) -> tuple[Any, torch.device | None]:
        """The arguments without the device among them, and that device."""
        if name == "cpu":
            return args, HOME
        wanted, rest = None, list(args[:1])
        for value in args[1:]:
            if isinstance(value, (torch.device, str)):
                wanted = torch.device(value)
            elif name == "to" and isinstance(value, Tensor):
                wanted = DEVICE if self.elsewhere.holds(value) else HOME
                rest.append(value.dtype)
            else:
                rest.append(value)
        if name == "to" and len(rest) == 1 and not typed:
            rest.append(args[0].dtype)
        return tuple(rest), wanted


class _Dispatched(TorchDispatchMode):
    """What operators make lies where their operands do."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        super().__init__()
        self.elsewhere = elsewhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there, name = self.elsewhere, func._schema.name
        given = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        marks = [there.holds(value) for value in given]
        some = any(marks)
        if some:
            # Numbers without dimensions are operands on any device; everything else must lie on one.
            if any(value.dim() and not mark for value, mark in zip(given, marks)) and name not in _MOVES:
                _count(there.mixed, name, hosts_too=True)
            masks = name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
                value.dtype in (torch.bool, torch.uint8) for value in given[1:]
            )
            if name in _WAITS or masks:
                _count(there.waits, name)
        found = func(*args, **kwargs)
        for value in tree_iter(found):
            if isinstance(value, Tensor):
                if name == "aten::copy_":
                    there.mark(value, marks[0])
                else:
                    there.mark(value, some or (not given and there.default))
        return found


def outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs without the modes, for what they cannot follow (tracing a network)."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            return function(*args, **kwargs)

    return run
