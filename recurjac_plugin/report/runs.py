"""Runs to report on: folders of `recurjac bench`, and tables of what other programs answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recurjac_plugin.bench.instances import EXPECTED_COLUMNS, Key, key, read_table
from recurjac_plugin.bench.run_folder import read_plan, read_records
from recurjac_plugin.bench.summary import ANSWERS, RESULTS, is_wrong, judged
from recurjac_plugin.errors import FileError

REFERENCE_COLUMNS = (*EXPECTED_COLUMNS, "answer", "solve_cpu_s", "domains")

EMPTY = "–"
"""What the page shows where nothing is known."""

Place = tuple[str, str, str, int]
"""An instance in any run: its key, and how many with the same key came before it."""


@dataclass(frozen=True)
class Answer:
    """What a run says about an instance.

    Attributes:
        category: of the instance.
        onnx: the network as listed.
        vnnlib: the property as listed.
        result: one of VNN-COMP's words, or "missing" where the run has not come to it.
        seconds: of the verdict, loading not included.
        limit: seconds that it had; None if unknown.
        boxes: bounded; None if unknown.
        wrong: whether the verdict contradicts the expected answer.
        error: why there is no verdict, if that is known.
        cpu: seconds of all cores together; None if unknown.
    """

    category: str
    onnx: str
    vnnlib: str
    result: str
    seconds: float = 0.0
    limit: float | None = None
    boxes: int | None = None
    wrong: bool = False
    error: str | None = None
    cpu: float | None = None

    @property
    def solved(self) -> bool:
        """Whether it is a verdict that nothing contradicts."""
        return self.result in ANSWERS and not self.wrong


@dataclass(frozen=True)
class Run:
    """The answers of one method.

    Attributes:
        name: short, for pictures.
        source: the folder or file.
        answers: by instance, in the order of the lists.
        details: what was recorded about options, timeouts, versions and machine, for the page.
        boxes_name: what the numbers of `Answer.boxes` count.
    """

    name: str
    source: str
    answers: Mapping[Place, Answer]
    details: Mapping[str, str] = field(default_factory=dict)
    boxes_name: str = "boxes"

    @property
    def has_cpu(self) -> bool:
        """Whether CPU seconds are known of any instance."""
        return any(answer.cpu is not None for answer in self.answers.values())


def read_run(folder: Path, expected: Mapping[Key, str] | None = None, name: str | None = None) -> Run:
    """A folder of `recurjac bench`, finished or not.

    Args:
        folder: its `--out`.
        name: of the run; None for that of the folder.
        expected: answers to judge by; None keeps the judgements of the run.

    Raises:
        FileError: the folder holds no run, or a damaged one.
    """
    plan = read_plan(folder)
    records = {record["number"]: judged(record, expected) for record in read_records(folder)}
    answers: list[Answer] = []
    try:
        # Numbers count all instances of the lists, of which --only may have chosen a few.
        for number, category, onnx, vnnlib, timeout in plan["instances"]:
            record = records.get(number)
            if record is None:
                answers.append(Answer(category, onnx, vnnlib, "missing", limit=timeout))
                continue
            answers.append(
                Answer(
                    category, onnx, vnnlib, record["result"], record["run_seconds"], timeout, record["boxes"],
                    record["wrong"], record["error"], record.get("cpu_seconds"),
                )
            )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"`{folder}` is not what this version of `recurjac bench` writes ({error!r}).") from error
    details = _details({**plan["options"], "timeout": _timeouts(answers)}, list(records.values()))
    return Run(name or folder.resolve().name, str(folder), placed(answers), details)


def read_reference(file: Path) -> Run:
    """What another program answered: a table with `REFERENCE_COLUMNS`, named after its file.

    Raises:
        FileError: the file is missing, or is not such a table.
    """
    answers = []
    for line, row in read_table(file, REFERENCE_COLUMNS, "a table of answers"):
        result = row["answer"].strip().lower()
        if result not in RESULTS:
            raise FileError(f"`{file}` line {line} has the answer `{result}`: expected one of {', '.join(RESULTS)}.")
        wrong = is_wrong({"result": result}, row["expected"].strip().lower())
        seconds = _number(file, line, "solve_cpu_s", row)
        domains = _number(file, line, "domains", row)
        answers.append(
            Answer(
                row["category"], row["onnx"], row["vnnlib"], result, seconds or 0.0, None,
                None if domains is None else int(domains), wrong, None, seconds,
            )
        )  # fmt: skip
    return Run(file.stem, str(file), placed(answers), {"seconds": "CPU seconds as the file has them"}, "domains")


def placed(answers: Iterable[Answer]) -> dict[Place, Answer]:
    """Answers by instance; the same instance may be listed more than once."""
    seen: Counter[Key] = Counter()
    by_place: dict[Place, Answer] = {}
    for answer in answers:
        name = key(answer.category, answer.onnx, answer.vnnlib)
        by_place[(*name, seen[name])] = answer
        seen[name] += 1
    return by_place


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """The same runs, with names that differ: the whole path is added to names that do not, or else a number."""
    count = Counter(run.name for run in runs)
    apart = [run if count[run.name] == 1 else replace(run, name=f"{run.name} ({run.source})") for run in runs]
    count = Counter(run.name for run in apart)
    return [
        run if count[run.name] == 1 else replace(run, name=f"{run.name} [{i}]") for i, run in enumerate(apart, start=1)
    ]


def _timeouts(answers: Sequence[Answer]) -> str:
    """What the instances had, in words."""
    limits = sorted({answer.limit for answer in answers if answer.limit is not None})
    if not limits:
        return EMPTY
    return " to ".join(f"{limit:g}" for limit in dict.fromkeys((limits[0], limits[-1]))) + " s"


def _details(options: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Options, versions and machine, each with all its values in the run."""
    details = {name: EMPTY if value is None else str(value) for name, value in options.items()}
    for group in ("versions", "host"):
        for name in dict.fromkeys(name for record in records for name in record.get(group, {})):
            values = {str(record[group][name]) for record in records if record.get(group, {}).get(name) is not None}
            details[name] = ", ".join(sorted(values))
    return details


def _number(file: Path, line: int, column: str, row: Mapping[str, str]) -> float | None:
    """A number of at least 0 in a column of a table; None where there is none."""
    text = row[column].strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise FileError(f"`{file}` line {line} has the {column} `{text}`: expected a number of at least 0, or nothing.")
    return value
