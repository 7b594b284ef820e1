"""Counts per category, and two runs side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .runs import Answer, Place, Run

SHORTEST = 1e-3
"""Seconds below which times are not told apart in ratios and pictures."""

KINDS = ("unsat", "sat", "unknown", "timeout", "error", "missing", "wrong")
"""What becomes of an instance; a wrong verdict counts as nothing else."""


@dataclass(frozen=True)
class Pair:
    """Two runs on the instances that both have; times of instances that were not solved are those they had.

    Attributes:
        first: the run that ratios are of.
        second: the run that ratios are to.
        instances: in both.
        both: solved by both.
        only_first: solved by the first alone.
        only_second: solved by the second alone.
        totals: seconds of all instances together.
        medians: of the seconds.
        cpu_totals: CPU seconds of all instances together, None where a run does not know those of one.
        time_ratio: geometric mean of first / second, ``exp(mean(log(a / b)))``, over the instances that either solved.
        boxes_ratio: the same of boxes, over those that both solved.
    """

    first: Run
    second: Run
    instances: int
    both: int
    only_first: int
    only_second: int
    totals: tuple[float, float]
    medians: tuple[float, float]
    cpu_totals: tuple[float | None, float | None]
    time_ratio: float | None
    boxes_ratio: float | None


def kind(answer: Answer) -> str:
    """Which of `KINDS` an answer is."""
    return "wrong" if answer.wrong else answer.result


def counts(run: Run, category: str | None = None) -> dict[str, int]:
    """How many answers of each of `KINDS` a run has, in a category or in all."""
    by_kind = dict.fromkeys(KINDS, 0)
    for answer in run.answers.values():
        if category in (None, answer.category):
            by_kind[kind(answer)] += 1
    return by_kind


def categories(runs: Iterable[Run]) -> list[str]:
    """The categories of all runs, in order of appearance."""
    return list(dict.fromkeys(answer.category for run in runs for answer in run.answers.values()))


def common(runs: Sequence[Run]) -> list[Place]:
    """Instances that every run has, in the order of the first."""
    return [place for place in runs[0].answers if all(place in run.answers for run in runs[1:])]


def charged(run: Run, other: Run, place: Place) -> float:
    """Seconds that an instance cost a run: those of its verdict, or else those that it had.

    Args:
        run: whose seconds are asked for.
        other: says how many seconds the instance had, where `run` does not.
        place: the instance.
    """
    answer = run.answers[place]
    if answer.solved:
        return answer.seconds
    limit = answer.limit if answer.limit is not None else other.answers[place].limit
    return max(answer.seconds, limit or 0.0)


def compared(first: Run, second: Run) -> Pair | None:
    """Two runs side by side; None where they have no instance in common."""
    places = common([first, second])
    if not places:
        return None
    solved = [(first.answers[place].solved, second.answers[place].solved) for place in places]
    times = [(charged(first, second, place), charged(second, first, place)) for place in places]
    either = [
        max(a, SHORTEST) / max(b, SHORTEST) for (a, b), answers in zip(times, solved, strict=True) if any(answers)
    ]
    boxes = [
        (first.answers[place].boxes or 0, second.answers[place].boxes or 0)
        for place, answers in zip(places, solved, strict=True)
        if all(answers)
    ]
    return Pair(
        first,
        second,
        len(places),
        solved.count((True, True)),
        solved.count((True, False)),
        solved.count((False, True)),
        (math.fsum(a for a, _ in times), math.fsum(b for _, b in times)),
        (statistics.median(a for a, _ in times), statistics.median(b for _, b in times)),
        (_cpu(first, places), _cpu(second, places)),
        _geometric(either),
        _geometric([a / b for a, b in boxes if a and b]),
    )


def _cpu(run: Run, places: Sequence[Place]) -> float | None:
    """CPU seconds of a run on some instances together; None where not all are known."""
    known = [cpu for place in places if (cpu := run.answers[place].cpu) is not None]
    return math.fsum(known) if len(known) == len(places) else None


def _geometric(ratios: Sequence[float]) -> float | None:
    """The geometric mean, None of nothing."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else None
