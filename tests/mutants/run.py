"""Apply every mutant to a copy of the tree, run its tests, and say which of them noticed.

python tests/mutants/run.py [--only PATTERN] [--seconds S] [--out FILE]

The table is written as markdown, for docs/soundness.md. The exit code is 1 if a mutant survived, or if the tests fail
without any mutant.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from mutations import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = (
    "recurjac_plugin",
    "tests",
    "docs",
    "benchmarks",
    "examples",
    "pyproject.toml",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
)


class Outcome(NamedTuple):
    """What the tests said: the first that failed, None if all passed; and how long they took."""

    killer: str | None
    seconds: float


def tests_on(tree: Path, tests: tuple[str, ...], limit: float) -> Outcome:
    """Run tests of a tree until the first one fails."""
    start = time.perf_counter()
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist",
        "-m", "not slow and not gpu", *(f"tests/{each}" for each in tests),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return Outcome("the time limit", limit)
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Outcome(None, seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return Outcome(failed[1].removeprefix("tests/") if failed else f"exit code {done.returncode}", seconds)


def tested(tree: Path, mutant: Mutant, limit: float) -> Outcome:
    """What the tests say while a mutant is in the tree."""
    path = tree / "recurjac_plugin" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file}: the text of a mutant occurs {text.count(mutant.old)} times: {mutant.old!r}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return tests_on(tree, mutant.tests, limit)
    finally:
        path.write_text(text, encoding="utf-8")


def table(outcomes: list[tuple[Mutant, Outcome]]) -> str:
    """The outcomes as markdown."""
    lines = ["| file | what it would mean | noticed by | seconds |", "|---|---|---|---|"]
    for mutant, outcome in outcomes:
        killer = "**nothing**" if outcome.killer is None else f"`{outcome.killer}`"
        lines.append(f"| `{mutant.file}` | {mutant.meaning} | {killer} | {outcome.seconds:.0f} |")
    killed = sum(outcome.killer is not None for _, outcome in outcomes)
    return "\n".join([*lines, "", f"{killed} of {len(outcomes)} mutants are noticed."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="mutants in whose file or meaning this regular expression is found")
    parser.add_argument("--seconds", type=float, default=600.0, help="limit for the tests of one mutant")
    parser.add_argument("--out", type=Path, help="where the table is written to; it is shown in any case")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without mutants first")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the first mutants")
    options = parser.parse_args()
    chosen = [
        mutant for mutant in MUTANTS[options.skip :] if re.search(options.only, f"{mutant.file}: {mutant.meaning}")
    ]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / name)
        if not options.no_baseline:
            everything = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
            unchanged = tests_on(tree, everything, options.seconds * 4)
            if unchanged.killer is not None:
                print(f"{unchanged.killer} fails without any mutant.", file=sys.stderr)
                return 1
        for mutant in chosen:
            outcome = tested(tree, mutant, options.seconds)
            outcomes.append((mutant, outcome))
            print(
                f"{mutant.file}: {outcome.killer or 'SURVIVED'} ({outcome.seconds:.0f} s)", file=sys.stderr, flush=True
            )
    text = table(outcomes)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(outcome.killer is not None for _, outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
