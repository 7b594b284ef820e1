"""Verdicts on small piecewise-linear networks whose minimum is known exactly.

python tests/soundness/exact_verdicts.py --count 10000 --seed 0 [--plain] [--seconds S] [--out FILE]

Thresholds lie at the true minimum, and on both sides of it by 1e-15 to 0.3 of the outputs' size; with two outputs the
second one is limited as well. `unsat` where a point violates, or `sat` where neither one does nor the module in its
own type says so, is wrong; no answer is not. Modules are in float32 and float64, with weights scaled by 1e-30 to 1e30
and centres of up to 1e8, or with --plain well scaled.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from exact_trials import draw_exact, questions, wrong
from random_graphs import Generator
from search_scripts import quiet_on_one_thread, search_parser

import recurjac_plugin as rj

METHODS = ("RecurJac-Linear+CROWN", "RecurJac-Linear+CROWN", "RecurJac", "CROWN", "IBP+RecurJac")


def main() -> int:
    parser = search_parser(__doc__)
    parser.add_argument("--count", type=int, default=1000, help="verdicts")
    parser.add_argument("--plain", action="store_true", help="well scaled networks near the origin")
    options = parser.parse_args()
    quiet_on_one_thread()
    verdicts: Counter[str] = Counter()
    failures, start, seed, done = [], time.perf_counter(), options.seed, 0
    while done < options.count and time.perf_counter() - start < options.seconds:
        choices = Generator(seed)
        trial, method = draw_exact(choices, 1, plain=options.plain), choices.pick(METHODS)
        seed += 1
        if not trial.finite:
            continue
        (truth,) = trial.truths()
        for question in questions(trial, truth):
            if choices.whole(0, 2):
                continue  # every third one: networks differ more than thresholds do
            where = {"seed": seed - 1, "trial": repr(trial), "question": repr(question), "method": method}
            done += 1
            try:
                module = trial.network.module()
                result = rj.verify(module, question.spec(trial), method=method, timeout=0.5, attack_seconds=0.02)
            except rj.RecurJacError as error:
                verdicts[f"refused: {str(error)[:120]}"] += 1
                continue
            except Exception as error:  # noqa: BLE001  whatever it is, it is to be looked at
                failures.append({**where, "error": f"{type(error).__name__}: {error}"[:300]})
                continue
            verdicts[f"{result.verdict.value} where {'sat' if question.sat else 'unsat'}"] += 1
            what = wrong(trial, question, result)
            if what is not None:
                failures.append({**where, "error": what, "lower_bound": result.lower_bound})
                print(json.dumps(failures[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(failures, indent=1))
    summary = {"verdicts": done, "wrong": len(failures), "seeds": [options.seed, seed]}
    print(json.dumps({**summary, "seconds": time.perf_counter() - start}))
    for what, count in verdicts.most_common():
        print(count, what)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
