"""Bounds of small piecewise-linear networks against exact Jacobians, constants and outputs.

python tests/soundness/exact_bounds.py --count 10000 --seed 0 [--rigorous] [--plain] [--seconds S] [--out FILE]

With --rigorous nothing may lie outside, by however little; otherwise 1e-9 (1e-4 for modules in float32) of the largest
entry is left for rounding. Modules are in float32 and float64, with weights scaled by 1e-30 to 1e30 and centres of up
to 1e8, or with --plain well scaled.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from exact_trials import check_bounds, draw_exact
from random_graphs import Generator
from search_scripts import quiet_on_one_thread, search_parser

import recurjac_plugin as rj

BOXES = 4


def main() -> int:
    parser = search_parser(__doc__)
    parser.add_argument("--count", type=int, default=500, help="networks")
    parser.add_argument("--rigorous", action="store_true")
    parser.add_argument("--plain", action="store_true", help="well scaled networks near the origin")
    options = parser.parse_args()
    quiet_on_one_thread()
    refused: Counter[str] = Counter()
    failures, start, seed, checked, overflown = [], time.perf_counter(), options.seed, 0, 0
    while seed < options.seed + options.count and time.perf_counter() - start < options.seconds:
        choices = Generator(seed)
        trial = draw_exact(choices, BOXES, plain=options.plain)
        prefixes = ("",) if options.rigorous else ("IBP+", "CROWN-IBP+")  # what comes from the host is not proven
        methods = [choices.pick(rj.METHODS), choices.pick(prefixes) + choices.pick(rj.METHODS)]
        if not trial.finite:
            seed, overflown = seed + 1, overflown + 1
            continue
        allowed = Fraction(0 if options.rigorous else 1e-4 if trial.single else 1e-9)
        where = {"seed": seed, "trial": repr(trial), "methods": methods}
        try:
            for what, escapes in check_bounds(trial, methods, options.rigorous):
                checked += len(escapes)
                bad = [float(escape / size) for escape, size in escapes if escape > allowed * size]
                if bad:
                    failures.append({**where, "what": what, "escape": max(bad)})
                    print(json.dumps(failures[-1]), flush=True)
        except rj.RecurJacError as error:
            refused[re.sub(r"`/[^`]*`", "`/..`", str(error))[:140]] += 1
        except Exception as error:  # noqa: BLE001  whatever it is, it is to be looked at
            failures.append({**where, "what": f"{type(error).__name__}: {error}"[:300]})
            print(json.dumps(failures[-1]), flush=True)
        seed += 1
        if options.out:
            options.out.write_text(json.dumps(failures, indent=1))
    summary = {"networks": seed - options.seed, "checked": checked, "failures": len(failures)}
    print(
        json.dumps(
            {
                **summary,
                "refused": sum(refused.values()),
                "overflown": overflown,
                "seconds": time.perf_counter() - start,
            }
        )
    )
    for what, count in refused.most_common(20):
        print(count, what)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
