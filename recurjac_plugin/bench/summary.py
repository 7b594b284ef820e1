"""How the instances of a run ended, counted by category, and which verdicts are wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .instances import ANSWERS, Key, key

RESULTS = (*ANSWERS, "unknown", "timeout", "error")
"""VNN-COMP's words for how an instance ended."""


def is_wrong(record: Mapping[str, Any], expected: str | None) -> bool:
    """Whether the verdict, even one that came too late, is the opposite of the expected answer."""
    verdict = record.get("late") or record["result"]
    return verdict in ANSWERS and expected in ANSWERS and verdict != expected


def judged(record: Mapping[str, Any], expected: Mapping[Key, str] | None) -> dict[str, Any]:
    """A record with `expected` and `wrong` by a table of answers; without a table those that it has stay."""
    if expected is None:
        return {"expected": None, "wrong": False} | dict(record)
    answer = expected.get(key(record["category"], record["onnx"], record["vnnlib"]))
    return dict(record) | {"expected": answer, "wrong": is_wrong(record, answer)}


def summary_rows(records: Sequence[Mapping[str, Any]], instances: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """One row per category, in order of appearance, and one named "all".

    Args:
        records: as `judged` returns them.
        instances: all of the run, see `instances.Instance.identity`; one without a record counts as an instance alone.

    Returns:
        For each category the number of instances, of every one of `RESULTS`, of wrong verdicts, and the seconds of all
        verdicts together.
    """
    categories = list(dict.fromkeys(instance[1] for instance in instances))
    rows = []
    for name in (*categories, "all"):
        chosen = [record for record in records if name == "all" or record["category"] == name]
        rows.append(
            {
                "category": name,
                "instances": sum(name in ("all", instance[1]) for instance in instances),
                **{result: sum(record["result"] == result for record in chosen) for result in RESULTS},
                "wrong": sum(record["wrong"] for record in chosen),
                "seconds": math.fsum(record["run_seconds"] for record in chosen),
            }
        )
    return rows
