"""What a shell offers when somebody presses Tab behind an option; typer writes the script for the shell."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from recurjac_plugin.audit.names import OPERATORS
from recurjac_plugin.jacobian.methods import AUTO, GLOBAL_METHODS, HOST_METHODS, METHODS

Completion = Callable[[str], list[str]]

NORMS = ("1", "2", "inf")
PREFIXED = tuple(f"{host}+{name}" for host in HOST_METHODS if host != "CROWN" for name in METHODS)
"""Methods with other pre-activation bounds than CROWN's."""
OUTPUT_METHODS = (*METHODS, AUTO, *(f"{name}+CROWN" for name in METHODS), *HOST_METHODS)


def one_of(names: Iterable[str]) -> Completion:
    """Offers the names that begin with what is there."""
    known = tuple(names)

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return complete


def list_of(names: Iterable[str]) -> Completion:
    """The same for a list with commas: offers what can stand behind the last comma, and is not there yet."""
    offer = one_of(names)

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        there = before.split(",")
        return [before + comma + name for name in offer(last) if name not in there]

    return complete


norms = one_of(NORMS)
devices = one_of(("cpu", "cuda"))
jacobian_methods = one_of((*METHODS, AUTO, *PREFIXED))
output_methods = one_of(OUTPUT_METHODS)
lists_of_methods = list_of((*OUTPUT_METHODS, *GLOBAL_METHODS))
operators = one_of(OPERATORS)
