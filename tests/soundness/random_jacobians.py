"""Jacobian bounds of random networks over the whole support table, sampled and ascended.

python tests/soundness/random_jacobians.py --bounds 100000 --seed 0 [--seconds S] [--out FILE]

Every network is bounded on several boxes at once, from narrow to wide, by every method. A derivative at a sampled or
ascended point that lies outside by more than 1e-9 of the largest one on the box (1e-6 where an exporter wrote
constants in float32) is an escape. What was refused is counted, what broke is listed, all with seeds.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from host_tables import share_tables
from jacobian_trials import Report, draw_methods, examine
from random_graphs import draw_regions, recipes
from search_scripts import quiet_on_one_thread, search_parser

import recurjac_plugin as rj

REGIONS = (1, 4, 16)  # of one network; where one region of several is refused, all are


def main() -> int:
    parser = search_parser(__doc__)
    parser.add_argument("--bounds", type=int, default=10_000, help="regions x methods to bound")
    parser.add_argument("--parts", type=int, default=6, help="largest number of parts of a network")
    options = parser.parse_args()
    quiet_on_one_thread()
    share_tables()
    rj.register()
    report, start, seen = Report(), time.perf_counter(), 0
    for seed, recipe, generator in recipes(options.seed, options.parts):
        if report.regions >= options.bounds or time.perf_counter() - start > options.seconds:
            break
        examine(seed, recipe, draw_regions(generator, generator.pick(REGIONS)), draw_methods(generator), report)
        for each in [*report.escapes, *report.broken][seen:]:
            print(json.dumps(each), flush=True)
        seen = len(report.escapes) + len(report.broken)
        if options.out:
            options.out.write_text(json.dumps({"escapes": report.escapes, "broken": report.broken}, indent=1))
    print(json.dumps({**report.summary(), "seeds": [options.seed, seed], "seconds": time.perf_counter() - start}))
    for reason, count in report.refusals.most_common(25):
        print(count, reason)
    return 1 if report.escapes or report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
