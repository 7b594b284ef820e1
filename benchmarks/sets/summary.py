"""Tables of what was measured, in Markdown, and verdicts that contradict what is published."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from instances import Instance
from published import ANSWERS, Published
from steps import STEPS

from recurjac_plugin.bench.records import facts

Row = dict[str, str]


def contradictions(rows: Sequence[Row]) -> list[str]:
    """One sentence for every verdict that is the opposite of what all tools that answered agree on, or most of them."""
    return [
        f"{row['category']} {row['onnx']} {row['vnnlib']}: {row['result']} here, but {row['best']}."
        for row in rows
        if row["step"] == "verdict" and row["result"] in ANSWERS and row["published"] not in ("", row["result"])
    ]


def print_tables(rows: Sequence[Row], everything: Sequence[Instance], published: Published, file: Path | None) -> None:
    """The table of sets and that of failures by kind, printed, and written where a file is given."""
    text = f"{machine()}\n\n{table_of_sets(rows, everything, published)}\n\n{table_of_failures(rows)}\n"
    print(f"\n{text}")
    if file is not None:
        file.write_text(text, encoding="utf-8")


def table_of_sets(rows: Sequence[Row], everything: Sequence[Instance], published: Published) -> str:
    """One line for each set: kinds of networks by step, instances by verdict, and the best published count."""
    names = {(each.checkout, each.category, each.onnx, each.vnnlib): each for each in everything}
    sets = defaultdict(list)
    for row in rows:
        sets[row["category"], row["checkout"]].append(row)
    titles = ["set", "checkout", *STEPS, "instances", "sat", "unsat", "open", "no answer", "best published", "wrong"]
    lines = [titles, ["---"] * len(titles)]
    for (category, checkout), members in sorted(sets.items()):
        steps = [_share([row for row in members if row["step"] == step], "yes") for step in STEPS]
        verdicts = [row for row in members if row["step"] == "verdict"]
        results = [row["result"] for row in verdicts]
        opened = sum(result in ("unknown", "timeout") for result in results)
        drawn = [names[key] for row in verdicts if (key := _key(row)) in names]
        counts = [results.count("sat"), results.count("unsat"), opened]
        best = published.best(drawn)
        answered = "–" if best is None else best
        counts += [len(results) - sum(counts), answered, len(contradictions(verdicts))]
        lines.append([category, checkout, *steps, len(verdicts), *counts])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def table_of_failures(rows: Sequence[Row]) -> str:
    """What was refused, crashed or ran out of something, by step and sentence, most frequent first."""
    kinds = defaultdict(list)
    for row in rows:
        if row["result"] not in ("yes", *ANSWERS):
            kinds[row["step"], row["result"], _kind(row)].append(f"{row['category']}")
    lines = [["step", "result", "times", "sets", "what it says"], ["---"] * 5]
    for (step, result, text), sets in sorted(kinds.items(), key=lambda item: -len(item[1])):
        lines.append([step, result, len(sets), ", ".join(sorted(set(sets))), text.replace("|", "/")])
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> str:
    """One line on what numbers were measured on."""
    known = facts()
    versions = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    return f"{datetime.date.today()}, {known['host']['cpu']}, {known['host']['cores']} cores, one thread; {versions}"


def _share(rows: Sequence[Row], word: str) -> str:
    return f"{sum(row['result'] == word for row in rows)} of {len(rows)}" if rows else "–"


def _key(row: Row) -> tuple[str, str, str, str]:
    return row["checkout"], row["category"], row["onnx"], row["vnnlib"]


def _kind(row: Row) -> str:
    """A sentence without the names of files."""
    return row["detail"].split("`: ")[-1].split("` on `")[-1][:160]
