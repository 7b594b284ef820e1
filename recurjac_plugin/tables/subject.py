"""What is compared: a network that is bounded and evaluated, and the names of methods on its regions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.jacobian.methods import AUTO, parse

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


class Subject(Protocol):
    """A network, as tables and commands have it."""

    @property
    def module(self) -> Any:
        """What is evaluated at points: a torch module."""

    @property
    def host(self) -> Any:
        """What is bounded: auto_LiRPA's `BoundedModule` of it.

        Raises:
            UnsupportedError: the host cannot read the network.
        """


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A model as users have it.

    Attributes:
        module: auto_LiRPA's `BoundedModule`, or a torch module, such as that of `load_onnx`.
        example: an input, shape (1, *input_shape).
    """

    module: nn.Module
    example: Tensor

    @classmethod
    def of(cls, model: Any, x: Tensor) -> GivenModel:
        """A model, and inputs that it is to be bounded around, (b, *input_shape).

        Raises:
            InputError: the model is no torch module.
        """
        import torch

        if not isinstance(model, torch.nn.Module):
            raise InputError(
                "`model` must be auto_LiRPA's `BoundedModule`, or a torch module such as that of `load_onnx`, got "
                f"{type(model).__name__}."
            )
        return cls(model, x.detach().as_subclass(torch.Tensor)[:1])

    @cached_property
    def host(self) -> Any:
        """auto_LiRPA's `BoundedModule` of the network.

        Raises:
            UnsupportedError: the host cannot read it.
        """
        from recurjac_plugin.host.library import BoundedModule
        from recurjac_plugin.plugin.model import bounded_model

        return self.module if isinstance(self.module, BoundedModule) else bounded_model(self.module, self.example)


class Watcher(Protocol):
    """Who is told how a computation gets on."""

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """The items one by one; they are called `what`."""

    def status(self, what: str) -> AbstractContextManager[Callable[[str], None]]:
        """Something that is said anew while it goes on."""


class Nobody:
    """A watcher that says nothing."""

    def progress(self, items: Sequence[T], what: str) -> Iterator[T]:
        """The items one by one."""
        return iter(items)

    def status(self, what: str) -> AbstractContextManager[Callable[[str], None]]:
        """Nothing."""
        return nullcontext(lambda text: None)


def ball(center: Tensor, norm: float, eps: float) -> Any:
    """The ball ``{x : |x - center|_norm <= eps}`` as a perturbed input of the host; center: (b, *input_shape)."""
    from recurjac_plugin.host.library import BoundedTensor, PerturbationLpNorm

    return BoundedTensor(center, PerturbationLpNorm(norm=norm, eps=eps))


def chosen(subject: Subject, name: str, regions: Iterable[Any], C: Tensor | None = None, rigorous: bool = False) -> str:
    """The methods that a name stands for over some regions: different ones with a comma between them.

    A network that has no bounds keeps the name: it is refused where it is bounded.
    """
    from recurjac_plugin.jacobian.choice import chosen_methods

    if parse(name).jacobian != AUTO:
        return name
    found: dict[str, None] = {}
    try:
        for x in regions:
            found |= dict.fromkeys(chosen_methods(subject.host, x, method=name, C=C, rigorous=rigorous))
    except UnsupportedError:
        return name
    return listed(found)


def listed(names: Iterable[str]) -> str:
    """Different names with commas between them, in their order."""
    return ", ".join(dict.fromkeys(names))


def labels(entries: Iterable[Mapping[str, Any]], asked: Iterable[str]) -> dict[str, str]:
    """How tables and pictures call what was asked for: by the methods of its entries; `auto (...)` beside the same."""
    entries = list(entries)
    used = {name: listed(entry["method"] for entry in entries if entry["asked"] == name) for name in asked}
    return {name: f"{name} ({by})" if by != name and by in used else by for name, by in used.items()}
