"""The audit as a table: one row for every specimen and place, one column for every method of the host.

Two tables can be put side by side: that of the host as it is, and that of the host with the plugin's operators, where
what is wrong may be refused by the plugin as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from recurjac_plugin.plugin.registration import is_registered, register, unregister

from .boxes import FULL, Grid
from .measuring import DTYPES, METHODS, Finding, Verdict, measured
from .specimens import PLACES, SPECIMENS, Specimen

Progress = Callable[[Sequence[tuple[Specimen, str]], str], Iterable[tuple[Specimen, str]]]
"""From what is to be done and a title to the same, one by one."""


@dataclass(frozen=True)
class Row:
    """What was found on a specimen at a place.

    Attributes:
        specimen: the specimen.
        place: one of `PLACES`.
        findings: by method, in the order of `METHODS`.
    """

    specimen: Specimen
    place: str
    findings: dict[str, Finding]

    @property
    def wrong(self) -> bool:
        """Whether a method's bounds are violated, or those of another function."""
        return any(finding.wrong for finding in self.findings.values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "operator": self.specimen.operator,
            "attributes": self.specimen.attributes,
            "place": self.place,
            "methods": {
                method: {
                    "verdict": finding.verdict.value,
                    "escape": finding.escape,
                    "share": finding.share,
                    "where": finding.where,
                    "reason": finding.reason,
                }
                for method, finding in self.findings.items()
            },
        }


def audit(
    specimens: Sequence[Specimen] = SPECIMENS,
    grid: Grid = FULL,
    *,
    registered: bool = True,
    methods: Sequence[str] = METHODS,
    dtypes: Sequence[torch.dtype] = DTYPES,
    progress: Progress = lambda items, _: items,
) -> list[Row]:
    """Bound all specimens at all places.

    Args:
        specimens: which.
        grid: the boxes.
        registered: whether the host has the plugin's operators, and may be refused by it.
        methods: of the host.
        dtypes: number types.
        progress: shows how far it is.

    Returns:
        The rows, in the order of the specimens.

    Source:
        Own.
    """
    items = [(specimen, place) for specimen in specimens for place in PLACES]
    with operators(registered):
        return [
            Row(specimen, place, measured(specimen, place, grid, methods, dtypes, registered))
            for specimen, place in progress(items, "audit")
        ]


@contextmanager
def operators(registered: bool) -> Iterator[None]:
    """Give the host the plugin's operators, or take them away, and put back what was there.

    Args:
        registered: whether it shall have them.
    """
    before = is_registered()
    (register if registered else unregister)()
    try:
        yield
    finally:
        (register if before else unregister)()


def chosen(names: Sequence[str]) -> tuple[Specimen, ...]:
    """Specimens with one of these texts in their name, whatever the case; all where none is given."""
    return tuple(s for s in SPECIMENS if not names or any(name.lower() in s.name.lower() for name in names))


def counts(rows: Sequence[Row]) -> dict[str, dict[str, int]]:
    """How often each verdict was found, by method, in at least one row."""
    found = {method: Counter(row.findings[method].verdict for row in rows) for method in rows[0].findings}
    return {method: {verdict.value: counter[verdict] for verdict in Verdict} for method, counter in found.items()}


def worst_by_operator(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Attributes of the specimens that are wrong, by operator."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.wrong and row.specimen.attributes not in found.setdefault(row.specimen.operator, []):
            found[row.specimen.operator].append(row.specimen.attributes)
    return found


def shown(finding: Finding) -> str:
    """A finding in a few words: "violated by 2.5e-09 (25 %)", the share that of the range of the values."""
    if finding.verdict in (Verdict.HOLDS, Verdict.REFUSED):
        return finding.verdict.value
    percent = 100 * finding.share
    share = f"{percent:.1g} %" if percent < 1 else f"{percent:.0f} %" if percent <= 1000 else "over 1000 %"
    return f"{finding.verdict.value} by {finding.escape:.1e} ({share})"


def markdown(rows: Sequence[Row], title: str) -> str:
    """The table as Markdown: a line for every specimen that does not hold with all methods, and a list of the others.

    Args:
        rows: of an audit.
        title: what was audited.
    """
    methods = tuple(rows[0].findings)
    header = ("operator", "attributes", *methods)
    lines = [f"**{title}**", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    sound: dict[str, list[str]] = {}
    for specimen, group in groupby(rows, lambda row: row.specimen):
        places = [*group]
        cells = [_cell(method, places) for method in methods]
        if all(cell == Verdict.HOLDS.value for cell in cells):
            sound.setdefault(specimen.operator, []).append(specimen.attributes)
        else:
            lines.append(f"| {specimen.operator} | {specimen.attributes} | {' | '.join(cells)} |")
    listed = "; ".join(
        operator + (f" ({', '.join(filter(None, names))})" if any(names) else "") for operator, names in sound.items()
    )
    summary = [
        f"- {method}: " + ", ".join(f"{count} {verdict}" for verdict, count in found.items() if count)
        for method, found in counts(rows).items()
    ]
    return "\n".join((*lines, "", f"All methods hold at all places for: {listed}.", "", *summary))


def _cell(method: str, rows: Sequence[Row]) -> str:
    """What was found at all places: one text where the verdict is the same, with the places where it is not."""
    found: dict[Verdict, tuple[Finding, list[str]]] = {}
    for row in rows:
        finding = row.findings[method]
        worst, places = found.get(finding.verdict, (finding, []))
        found[finding.verdict] = worst.worse(finding), [*places, row.place]
    if len(found) == 1:
        return shown(next(iter(found.values()))[0])
    return "; ".join(f"{', '.join(places)}: {shown(finding)}" for finding, places in found.values())
