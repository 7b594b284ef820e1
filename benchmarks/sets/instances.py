"""Benchmark sets as they lie in checkouts, and a draw of their instances that depends on nothing but a seed."""

from __future__ import annotations

import csv
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Pair = tuple[str, str]
"""Network and property, without what differs between checkouts: see `pair`."""


@dataclass(frozen=True)
class Instance:
    """A network and a property of a set.

    Attributes:
        checkout: name of the folder that was given.
        category: name of the set's folder.
        onnx: the network as the list writes it.
        vnnlib: the property as the list writes it.
        folder: what both are relative to.
    """

    checkout: str
    category: str
    onnx: str
    vnnlib: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.checkout}/{self.category}/{self.onnx}/{self.vnnlib}"

    @property
    def pair(self) -> Pair:
        return pair(self.onnx, self.vnnlib)


def pair(onnx: str, vnnlib: str) -> Pair:
    """Both paths from the folder on that holds the networks, or the properties."""
    return _inside(onnx, "onnx"), _inside(vnnlib, "vnnlib")


def _inside(path: str, folder: str) -> str:
    return re.split(rf"(?:^|/){folder}/", path.strip())[-1].removesuffix(".gz")


def without_year(category: str) -> str:
    """The name of a set that may be called after the year in which it was made."""
    return re.sub(r"_20\d\d$", "", category)


def read_sets(checkouts: Iterable[Path], listed: Mapping[str, list[Pair]]) -> list[Instance]:
    """All instances of all sets in some folders.

    Args:
        checkouts: folders with an instances.csv in them, at any depth, or with the folders ``onnx`` and ``vnnlib``.
        listed: for sets that have no list of their own, the instances that others have published answers to, by name.
    """
    found = []
    for checkout in checkouts:
        lists = sorted(checkout.rglob("instances.csv"))
        for file in lists:
            found += [Instance(checkout.name, file.parent.name, *row, file.parent) for row in _rows(file)]
        if not lists:
            found += [
                Instance(checkout.name, checkout.name, f"onnx/{onnx}", f"vnnlib/{vnnlib}", checkout)
                for onnx, vnnlib in listed.get(without_year(checkout.name), [])
            ]
    return found


def _rows(file: Path) -> Iterator[Pair]:
    with file.open(encoding="utf-8-sig", newline=None) as lines:
        for row in csv.reader(lines):
            if len(row) >= 2 and row[0].strip():
                yield row[0].strip(), row[1].strip()


def locate(instance: Instance, path: str) -> Path | None:
    """A file of an instance, plain or ``.gz``, also in a folder of its own name, or one for a version of VNN-LIB."""
    name = Path(path).name
    for place in (path, f"{path}/{name}", path.replace("vnnlib/", "vnnlib/v1/", 1) + f"/{name}"):
        for file in (instance.folder / place, instance.folder / f"{place}.gz"):
            if file.is_file():
                return file
    return None


def draw(instances: Iterable[Instance], count: int, seed: int) -> list[Instance]:
    """Some instances of every set whose files are there, of as many kinds of networks as it has.

    Kinds are the networks whose names differ in more than digits. Every kind gives an instance, of a network drawn from
    it, then every kind a second one, until there are `count` and every kind had its turn.
    """
    sets = defaultdict(list)
    for instance in instances:
        if locate(instance, instance.onnx) and locate(instance, instance.vnnlib):
            sets[instance.checkout, instance.category].append(instance)
    drawn = []
    for (_, category), members in sets.items():
        chance = random.Random(f"{seed}/{without_year(category)}")
        kinds = defaultdict(list)
        for member in members:
            kinds[re.sub(r"\d+", "#", member.pair[0])].append(member)
        queues = [chance.sample(kind, len(kind)) for _, kind in sorted(kinds.items())]
        drawn += _in_turns(queues, max(count, len(queues)))
    return drawn


def _in_turns(queues: list[list[Instance]], count: int) -> list[Instance]:
    """One instance of every queue after the other."""
    chosen: list[Instance] = []
    while any(queues) and len(chosen) < count:
        chosen += [queue.pop() for queue in queues if queue]
    return chosen
