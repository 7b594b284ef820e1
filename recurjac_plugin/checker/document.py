"""Certificates as JSON: exact numbers, a tree of boxes for every region of the property.

Numbers are written as hexadecimal float64 (``float.hex``), which loses nothing. docs/certificates.md describes the
format.

Source: Own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

FORMAT = "recurjac certificate"
VERSION = 1


class Rejected(Exception):
    """Why a certificate does not prove what it claims, in one sentence."""


class Row(NamedTuple):
    """The disjunct is excluded on the box by this row of it.

    Attributes:
        disjunct: which.
        row: which of its rows.
    """

    disjunct: int
    row: int


class Fixed(NamedTuple):
    """All rows that are left take their minimum at this end of the coordinate.

    Attributes:
        axis: the coordinate.
        end: ``"lower"`` or ``"upper"``.
    """

    axis: int
    end: str


class Dropped(NamedTuple):
    """The part of the box on this side of a value is left out: linear bounds exclude all disjuncts there.

    Attributes:
        axis: the coordinate.
        side: ``"below"`` or ``"above"``.
        value: where the part begins.
    """

    axis: int
    side: str
    value: float


class Cut(NamedTuple):
    """The box is cut in two, and each part has a node of its own.

    Attributes:
        axis: the coordinate.
        value: where.
        below: number of the node of the part below the value, that included.
        above: number of the node of the part above the value, that included.
    """

    axis: int
    value: float
    below: int
    above: int


Step = Row | Fixed | Dropped


@dataclass
class Node:
    """What is done to one box, in this order: steps, and then nothing, a cut, or the next node.

    Attributes:
        steps: each shown by the bounds on the whole box.
        cut: where it is cut afterwards.
        next: number of the node that goes on with what the steps leave of the box.
    """

    steps: list[Step] = field(default_factory=list)
    cut: Cut | None = None
    next: int | None = None


@dataclass(frozen=True, eq=False)
class Tree:
    """The proof for one region of the property.

    Attributes:
        lower: of a box around the region, float64 (columns,).
        upper: likewise.
        nodes: the first one has the whole box; each of the others is the part of exactly one before it.
    """

    lower: np.ndarray
    upper: np.ndarray
    nodes: list[Node]


@dataclass(frozen=True, eq=False)
class Certificate:
    """The claim that no output violates a property, with its proof.

    Attributes:
        network: SHA-256 of the network's file, not compressed.
        property: the same of the property.
        trees: one for every region of the property, in their order.
        producer: what wrote it.
    """

    network: str
    property: str
    trees: tuple[Tree, ...]
    producer: str

    def dumped(self) -> bytes:
        """As a file: one node a line."""
        trees = [
            f'{{"lower": {json.dumps(as_hex(tree.lower))}, "upper": {json.dumps(as_hex(tree.upper))}, "nodes": [\n'
            + ",\n".join(json.dumps(_node(node)) for node in tree.nodes)
            + "\n]}"
            for tree in self.trees
        ]
        hashes = {"network": self.network, "property": self.property}
        return dumped("unsat", self.producer, hashes, trees)


def load(content: bytes) -> Certificate:
    """The certificate that a file holds.

    Args:
        content: of the file, not compressed.

    Raises:
        Rejected: it is malformed.
    """
    with malformed_is_rejected():
        values, (network, prop) = head_of(content, "unsat", "network", "property")
        trees = tuple(_tree(each) for each in as_list(values["regions"]))
        return Certificate(network, prop, trees, str(values["producer"]))


@contextmanager
def malformed_is_rejected() -> Iterator[None]:
    """Turn what a malformed certificate raises into `Rejected`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Rejected(f"it is no certificate of this kind ({type(error).__name__}: {error})") from error


def head_of(content: bytes, claim: str, *files: str) -> tuple[dict[str, Any], list[str]]:
    """All entries of a certificate with that claim, and the hashes of the files that it is about."""
    values = json.loads(content.decode("utf-8"), parse_constant=no_number)
    require_entries(values, "format", "version", "claim", "producer", *files, "regions")
    if (values["format"], values["version"], values["claim"]) != (FORMAT, VERSION, claim):
        raise ValueError(f"expected version {VERSION} of `{FORMAT}` with the claim `{claim}`")
    hashes = []
    for name in files:
        require_entries(values[name], "sha256")
        hashes.append(str(values[name]["sha256"]))
    return values, hashes


def dumped(claim: str, producer: str, hashes: dict[str, str], regions: Sequence[str]) -> bytes:
    """A certificate as a file, from the texts of its regions."""
    head = {"format": FORMAT, "version": VERSION, "claim": claim, "producer": producer}
    head |= {name: {"sha256": each} for name, each in hashes.items()}
    return (json.dumps(head, indent=1)[:-2] + ',\n "regions": [\n' + ",\n".join(regions) + "\n]}\n").encode()


def as_hex(values: np.ndarray) -> list[str]:
    """Numbers as texts that lose nothing, from a vector."""
    return [float(value).hex() for value in values]


def _node(node: Node) -> dict[str, Any]:
    steps: list[list[Any]] = []
    for step in node.steps:
        if isinstance(step, Row):
            steps.append(["row", *step])
        elif isinstance(step, Fixed):
            steps.append([step.end, step.axis])
        else:
            steps.append([step.side, step.axis, float(step.value).hex()])
    written: dict[str, Any] = {"steps": steps}
    if node.cut is not None:
        written["cut"] = cut_text(node.cut)
    if node.next is not None:
        written["next"] = node.next
    return written


def no_number(word: str) -> Any:
    """Refuse what Python's JSON takes and JSON has not: NaN and infinity."""
    raise ValueError(f"{word} is no number")


def require_entries(values: Any, *names: str, optional: Sequence[str] = ()) -> None:
    """Refuse what is no dictionary of these names."""
    if not isinstance(values, dict) or not set(names) <= set(values) <= {*names, *optional}:
        raise ValueError(f"expected the entries {', '.join(names)}")


def as_list(values: Any) -> list[Any]:
    """A list."""
    if not isinstance(values, list):
        raise ValueError(f"expected a list, got {values!r}")
    return values


def as_integer(value: Any) -> int:
    """A number from 0 on."""
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number from 0 on, got {value!r}")
    return value


def as_float(word: Any) -> float:
    """A finite number, written by `as_hex`."""
    if not isinstance(word, str):
        raise ValueError(f"expected a hexadecimal number as text, got {word!r}")
    value = float.fromhex(word)
    if not math.isfinite(value):
        raise ValueError(f"{word} is not finite")
    return value


def _tree(values: Any) -> Tree:
    require_entries(values, "lower", "upper", "nodes")
    lower, upper = (np.array([as_float(each) for each in as_list(values[end])]) for end in ("lower", "upper"))
    return Tree(lower, upper, [_read_node(each) for each in as_list(values["nodes"])])


def _read_node(values: Any) -> Node:
    require_entries(values, "steps", optional=("cut", "next"))
    node = Node([_read_step(each) for each in as_list(values["steps"])])
    if "cut" in values and "next" in values:
        raise ValueError("a node goes on in two ways")
    if "cut" in values:
        node.cut = as_cut(values["cut"])
    if "next" in values:
        node.next = as_integer(values["next"])
    return node


def as_cut(values: Any) -> Cut:
    """A cut."""
    axis, value, below, above = as_list(values)
    return Cut(as_integer(axis), as_float(value), as_integer(below), as_integer(above))


def cut_text(cut: Cut) -> list[Any]:
    """A cut as it is written."""
    return [cut.axis, float(cut.value).hex(), cut.below, cut.above]


def _read_step(values: Any) -> Step:
    kind, *rest = as_list(values)
    if kind == "row":
        disjunct, row = rest
        return Row(as_integer(disjunct), as_integer(row))
    if kind in ("lower", "upper"):
        (axis,) = rest
        return Fixed(as_integer(axis), kind)
    if kind in ("below", "above"):
        axis, value = rest
        return Dropped(as_integer(axis), kind, as_float(value))
    raise ValueError(f"there is no step {kind!r}")
