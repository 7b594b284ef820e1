"""The sets of VNN-COMP and VNN-LIB, from checkouts: read, CROWN, Jacobian, verdict, beside what is published.

    python benchmarks/sets/run.py vnncomp2023_benchmarks vnncomp2024_benchmarks --results vnncomp2023_results \
        vnncomp2024_results --out sets.csv --per-category 3 --seconds 60

None of the files is part of this project. Every step of every instance has a process of its own, on one thread, with a
limit of time and memory; its line is written before the next one begins, and the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path

from instances import Instance, draw, locate, read_sets
from published import Published, agreed
from steps import STEPS, run_step
from summary import contradictions, print_tables

COLUMNS = ["checkout", "category", "onnx", "vnnlib", "step", "limit", "result", "load", "run", "peak"]
COLUMNS += ["published", "best", "detail"]
VERDICT = "verdict"


def main() -> int:
    arguments = _parser().parse_args()
    published = Published(arguments.results)
    everything = read_sets(arguments.checkouts, published.listed())
    pattern = re.compile(arguments.only)
    drawn = draw([each for each in everything if pattern.search(each.name)], arguments.per_category, arguments.seed)
    rows = _read(arguments.out)
    done = {(row["checkout"], row["category"], row["onnx"], row["vnnlib"], row["step"]) for row in rows}
    for instance, step in _work(drawn, arguments.steps):
        if (instance.checkout, instance.category, instance.onnx, instance.vnnlib, step) in done:
            continue
        row = _row(instance, step, arguments, published)
        rows.append(row)
        _append(arguments.out, row)
        print(f"{row['step']:9}{row['result']:9}{float(row['run']):7.1f} s  {instance.name}  {row['detail'][:300]}")
        sys.stdout.flush()
    print_tables(rows, everything, published, arguments.table)
    wrong = contradictions(rows)
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path, help="folders with sets in them")
    parser.add_argument("--results", nargs="*", type=Path, default=[], help="checkouts of published results")
    parser.add_argument("--out", type=Path, required=True, help="CSV of everything measured; what it has is not redone")
    parser.add_argument("--table", type=Path, help="Markdown file for the tables, which are printed anyway")
    parser.add_argument("--per-category", type=int, default=3, help="instances of each set; at least one of a kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of every step")
    parser.add_argument("--memory", type=float, default=6.0, help="GB that a process may take")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", default="", help="regular expression, in checkout/category/onnx/vnnlib")
    parser.add_argument("--steps", nargs="+", default=[*STEPS, VERDICT], choices=[*STEPS, VERDICT])
    return parser


def _work(drawn: list[Instance], steps: list[str]):
    """Instances with what is to be done: a network's own steps once for each kind of network, verdicts always."""
    kinds = set()
    for instance in drawn:
        kind = instance.checkout, instance.category, re.sub(r"\d+", "#", instance.pair[0])
        for step in steps:
            if step == VERDICT or kind not in kinds:
                yield instance, step
        kinds.add(kind)


def _row(instance: Instance, step: str, arguments: argparse.Namespace, published: Published) -> dict[str, str]:
    onnx, vnnlib = locate(instance, instance.onnx), locate(instance, instance.vnnlib)
    found = run_step(step, str(onnx), str(vnnlib), arguments.seconds, arguments.memory)
    answers = published.answers(instance)
    return {
        "checkout": instance.checkout,
        "category": instance.category,
        "onnx": instance.onnx,
        "vnnlib": instance.vnnlib,
        "step": step,
        "limit": f"{arguments.seconds:g}",
        "result": found["result"],
        "load": f"{found['load']:.3f}",
        "run": f"{found['run']:.3f}",
        "peak": "" if found["peak"] is None else f"{found['peak']:.0f}",
        "published": agreed(answers) if step == VERDICT else "",
        "best": "; ".join(f"{tool} {answer}" for tool, answer in sorted(answers.items())) if step == VERDICT else "",
        "detail": found["detail"],
    }


def _read(out: Path) -> list[dict[str, str]]:
    if not out.exists():
        return []
    with out.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["detail"] is not None]  # not a line that was cut off


def _append(out: Path, row: dict[str, str]) -> None:
    new = not out.exists()
    with out.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    sys.exit(main())
