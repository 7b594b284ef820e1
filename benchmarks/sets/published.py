"""What the tools of a competition answered, from checkouts of its results."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from instances import Instance, Pair, pair, without_year

ANSWERS = ("sat", "unsat")


class Published:
    """Answers by year, set, instance and tool.

    Args:
        checkouts: folders with a ``results.csv`` in the folder of every tool; names with a year are asked about
            instances of checkouts of that year alone.
    """

    def __init__(self, checkouts: Iterable[Path]) -> None:
        self._answers: dict[str, dict[str, dict[Pair, dict[str, str]]]] = {}
        for checkout in checkouts:
            year = self._answers.setdefault(_year(checkout.name), defaultdict(lambda: defaultdict(dict)))
            for file in sorted(checkout.glob("*/results.csv")):
                with file.open(encoding="utf-8", errors="replace", newline="") as lines:
                    for row in csv.reader(lines):
                        if len(row) >= 6 and row[4] in ANSWERS:
                            year[without_year(row[0])][pair(row[1], row[2])][file.parent.name] = row[4]

    def listed(self) -> dict[str, list[Pair]]:
        """By set the instances that someone has answered."""
        lists: dict[str, list[Pair]] = {}
        for year in self._answers.values():
            lists |= {category: sorted(answers) for category, answers in year.items()}
        return lists

    def answers(self, instance: Instance) -> dict[str, str]:
        """``sat`` or ``unsat`` by tool, with the year where several were searched."""
        wanted = _year(instance.checkout)
        found = {}
        for year, sets in self._answers.items():
            if wanted in ("", year) or year == "":
                known = sets.get(without_year(instance.category), {}).get(instance.pair, {})
                found |= {f"{tool} {year}".strip(): answer for tool, answer in known.items()}
        return found

    def best(self, instances: Iterable[Instance]) -> int | None:
        """The most instances that any one tool has answered in any one year; None where none has answered any."""
        counts: dict[str, int] = defaultdict(int)
        for instance in instances:
            for tool in self.answers(instance):
                counts[tool] += 1
        return max(counts.values(), default=None)


def agreed(answers: dict[str, str]) -> str:
    """The answer that all tools give; empty without one."""
    return next(iter(answers.values())) if len(set(answers.values())) == 1 else ""


def _year(name: str) -> str:
    found = re.search(r"20\d\d", name)
    return found[0] if found else ""
