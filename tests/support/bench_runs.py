"""Runs of benchmark sets, and what they leave in their folder."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time

from processes import environment

from recurjac_plugin.bench.run_folder import opened

QUICK = ("--only", "*relu_small*", "--only", "*relu_large*", "--only", "*cnn_small*", "--only", "*cnn_large*")
VERDICTS = {
    ("digits_relu.onnx", "digits_relu_small.vnnlib"): "unsat",
    ("digits_relu.onnx", "digits_relu_large.vnnlib"): "sat",
    ("digits_cnn.onnx", "digits_cnn_small.vnnlib"): "unsat",
    ("digits_cnn.onnx", "digits_cnn_large.vnnlib"): "sat",
}
"""What `QUICK` leaves of the shipped list, and how it ends."""

OPTIONS = {"method": "CROWN", "seed": 0}
PLAN = [[0, "c", "a.onnx", "a.vnnlib", 5.0], [1, "c", "b.onnx", "b.vnnlib", 5.0]]
"""A run of two instances whose records are made up."""


def open_folder(path, resume=True, options=OPTIONS, instances=PLAN):
    """Begin such a run in a folder, or go on with it."""
    return opened(path, options=options, instances=instances, resume=resume)


def record(number, **more):
    """What such a run has to say of an instance."""
    names = {"category": "c", "onnx": PLAN[number][2], "vnnlib": PLAN[number][3]}
    return {"number": number, **names, "result": "unsat", "prepare_seconds": 0.0, "run_seconds": 1.5} | more


def lines(folder):
    """results.jsonl."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def table(folder):
    """Category, network, property and result of results.csv."""
    with (folder / "results.csv").open(newline="") as file:
        return [(*row[:3], row[4]) for row in csv.reader(file)]


def started(*arguments):
    """`recurjac bench` as its users start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "recurjac_plugin.cli", "bench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


def until(condition, seconds=180.0):
    """Wait for something that has to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
