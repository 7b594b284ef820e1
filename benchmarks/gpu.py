"""Everything that wants a CUDA device, in one run of at most 8 minutes: `make gpu`.

First the tests with the mark `gpu`, then tables: what CROWN, the Jacobian pass of each method from CROWN's bounds, and
the whole of `jacobian_bounds` without a method's name take on the device and, on the same machine, on one thread of the
processor, in float32 and float64; the peak of the device's memory; and by how much both devices' bounds differ, of the
largest entry. Measuring is done by a process of its own, one problem after the other, and ends when the time is over:
what is missing then is said. The tables, with the names of the card and of the versions, go to `--out`, and with
`--docs` between the two marks in docs/scale.md.

`make gpu DEVICE=cpu` tries the script with small networks where there is no card. Where nothing can be installed,
`PYTHONPATH=.:HOST python benchmarks/gpu.py` is the same, with torch, pytest and a folder HOST that has auto_LiRPA.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.errors import RecurJacError
from recurjac_plugin.host import VERSION, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.preactivations.host import host_bounds

ROOT = Path(__file__).resolve().parent.parent
MINUTES = 8.0
TESTS_SHARE = 0.4
"""The part of the time that the tests may take."""
SLOW = 5.0
"""Seconds that the runs of one line may take, but for the first; beyond, the processor leaves out what is left."""
ROUNDS = 5
"""Most runs that count."""
MARKS = "<!-- gpu: make gpu -->", "<!-- /gpu -->"
METHODS = ("RecurJac", "RecurJac-Linear", "RecurJac-McCormick", "Fast-Lip")
COLUMNS = ("CROWN", *(f"{name} pass" for name in METHODS), "all, no name")


@dataclass(frozen=True)
class Problem:
    """A network with random weights over boxes around random points.

    Attributes:
        name: as the tables have it.
        build: makes the network; smaller for a trial.
        shape: of one input.
        eps: half the boxes' sides.
        batch: how many boxes.
        on_processor: whether it is measured there, too; not what takes minutes.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    eps: float
    batch: int = 1
    on_processor: bool = True

    def on(self, device: str, dtype: torch.dtype) -> tuple[Any, Any, Tensor]:
        """Model, regions and rows on a device; the numbers are the same on every one."""
        torch.manual_seed(0)
        network = self.build().to(device, dtype)
        center = torch.rand(self.batch, *self.shape).to(device, dtype)
        model = BoundedModule(network, torch.zeros_like(center[:1]), device=device)
        x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=self.eps))
        return model, x, torch.eye(network(center[:1]).shape[1], device=device, dtype=dtype).unsqueeze(0)


def mlp(activation: Callable[[], nn.Module], *sizes: int) -> Callable[[], nn.Module]:
    """A multilayer perceptron, when it is called."""

    def build() -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), activation()]
        return nn.Sequential(*layers[:-1])

    return build


def cnn(activation: Callable[[], nn.Module], channels: int, size: int) -> Callable[[], nn.Module]:
    """Three convolutions, the last two of stride 2, on three images of size x size, when it is called."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), activation(),
            nn.Conv2d(channels, channels, 3, padding=1, stride=2), activation(),
            nn.Conv2d(channels, channels, 3, padding=1, stride=2), activation(),
            nn.Flatten(), nn.Linear(channels * (size // 4) ** 2, 10),
        )  # fmt: skip

    return build


def problems(trial: bool) -> list[Problem]:
    """What is measured, the most telling first; for a trial the same kinds, small."""
    if trial:
        return [
            Problem("ReLU 20-32x3-1", mlp(nn.ReLU, 20, 32, 32, 1), (20,), 0.05),
            Problem("tanh 20-32x2-5", mlp(nn.Tanh, 20, 32, 5), (20,), 0.05),
            Problem("SiLU CNN 2x8x8", cnn(nn.SiLU, 2, 8), (3, 8, 8), 0.01),
            Problem("tanh 3-8-8-1, 64 boxes", mlp(nn.Tanh, 3, 8, 8, 1), (3,), 0.05, 64),
        ]
    return [
        Problem("ReLU 784-1024x6-1, eps 0.0002", mlp(nn.ReLU, 784, *[1024] * 5, 1), (784,), 0.0002),
        Problem("ReLU 784-1024x6-10, eps 0.001", mlp(nn.ReLU, 784, *[1024] * 5, 10), (784,), 0.001),
        Problem("tanh 784-256x3-10, eps 0.01", mlp(nn.Tanh, 784, 256, 256, 256, 10), (784,), 0.01),
        Problem("sigmoid 784-200x6-10, eps 0.05", mlp(nn.Sigmoid, 784, *[200] * 6, 10), (784,), 0.05),
        Problem("tanh 3-48-48-1, 512 boxes, eps 0.02", mlp(nn.Tanh, 3, 48, 48, 1), (3,), 0.02, 512),
        Problem("ReLU 5-50x6-5, 1024 boxes, eps 0.01", mlp(nn.ReLU, 5, *[50] * 6, 5), (5,), 0.01, 1024),
        Problem("SiLU CNN, 8 channels, 3x16x16, eps 0.01", cnn(nn.SiLU, 8, 16), (3, 16, 16), 0.01),
        Problem("tanh CNN, 16 channels, 3x16x16, eps 0.01", cnn(nn.Tanh, 16, 16), (3, 16, 16), 0.01, 1, False),
        Problem("ReLU CNN, 32 channels, 3x32x32, eps 0.002", cnn(nn.ReLU, 32, 32), (3, 32, 32), 0.002, 1, False),
    ]


# Measuring, in a process of its own.


def seconds(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """The median of some runs after one that is not counted, and the last result; the first run alone if it is slow."""

    def once() -> tuple[float, Any]:
        start = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, result

    taken, result = once()
    rounds = min(ROUNDS, int(SLOW / taken))
    return statistics.median([once()[0] for _ in range(rounds)] or [taken]), result


@torch.no_grad()
def lines(problem: Problem, device: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """The seconds of every line of one problem on one device, and the peak of its memory."""
    model, x, rows = problem.on(device, dtype)
    where = {"problem": problem.name, "dtype": str(dtype).removeprefix("torch."), "device": device}
    names = [*analyse(model, x, parse("IBP+Fast-Lip"), rows).graph.reads]
    every = rows.expand(problem.batch, -1, -1)
    given = host_bounds(read(model, x), "CROWN", every, names).intervals

    def of(method: str) -> Callable[[], Any]:
        return lambda: analyse(model, x, parse(method), rows, intermediate_bounds=given).jacobian

    runs: dict[str, Callable[[], Any]] = {
        "CROWN": lambda: host_bounds(read(model, x), "CROWN", every, names),
        "all, no name": lambda: rj.jacobian_bounds(model, x, C=rows),
        **{f"{name} pass": of(name) for name in METHODS},
    }
    for name, run in runs.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            taken, result = seconds(run, device)
        except (RecurJacError, torch.cuda.OutOfMemoryError) as error:
            yield {**where, "line": name, "failed": type(error).__name__}
            continue
        found: dict[str, Any] = {**where, "line": name, "seconds": taken}
        if device == "cuda":
            found["megabytes"] = torch.cuda.max_memory_allocated() / 2**20
        if name == "all, no name":
            found["method"] = ", ".join(dict.fromkeys(result.methods))
            found["bounds"] = [bound.flatten()[:4096].double().cpu().tolist() for bound in result]
        yield found
        if device == "cpu" and taken > SLOW:
            return


def measure(device: str, trial: bool) -> None:
    """Print one JSON object for every line of every problem, as soon as it is known."""
    torch.set_num_threads(1)
    for where in dict.fromkeys((device, "cpu")):  # the processor last: what is slow there must not cost the device's
        for problem in problems(trial):
            for dtype in (torch.float32, torch.float64) if where == device or problem.on_processor else ():
                for found in lines(problem, where, dtype):
                    print(json.dumps(found), flush=True)


# The run as a whole.


def limited(command: list[str], limit: float) -> tuple[str, bool]:
    """The output of a command, and whether it ended within its time."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return process.communicate(timeout=max(limit, 1.0))[0], True
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0], False


def tested(limit: float) -> tuple[str, bool]:
    """What pytest says of the tests that need the device, in a line, and whether none of them failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_devices.py"]
    output, in_time = limited(command, limit)
    last = output.strip().splitlines()[-1] if output.strip() else "no output"
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not in_time:
        return f"stopped after {limit:.0f} s: {last}", False
    return "; ".join([last, *failed]), not failed and (" passed" in last or " skipped" in last)


def measured(device: str, trial: bool, limit: float) -> tuple[list[dict[str, Any]], bool, list[str]]:
    """What the measuring process found, whether it came to its end, and what it said besides."""
    command = [sys.executable, str(Path(__file__)), "--device", device, "--measure", *["--trial"] * trial]
    output, in_time = limited(command, limit)
    found, said = [], []
    for line in output.splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # warnings, the line that was cut off, or an error
            said.append(line)
    finished = in_time and not any(line.startswith("Traceback") for line in said)
    return found, finished, said


def difference(one: list[list[float]], other: list[list[float]]) -> float:
    """By how much two pairs of bounds differ at most, of the largest entry."""
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))


def table(found: list[dict[str, Any]], device: str) -> list[str]:
    """The results in Markdown, one line for a problem, a type and a device."""
    by: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for each in found:
        by.setdefault((each["problem"], each["dtype"], each["device"]), {})[each["line"]] = each
    head = ("network", "numbers", "on", *COLUMNS, "chosen", "peak, MB", "differs by")
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    order = list(dict.fromkeys(key[:2] for key in by))
    for (problem, dtype, where), of in sorted(by.items(), key=lambda each: order.index(each[0][:2])):

        def cell(name: str, of: dict[str, dict[str, Any]] = of) -> str:
            each = of.get(name, {})
            return f"{each['seconds']:.3g}" if "seconds" in each else each.get("failed", "–")

        whole = of.get("all, no name", {})
        peak = max((each["megabytes"] for each in of.values() if "megabytes" in each), default=None)
        other = by.get((problem, dtype, "cpu"), {}).get("all, no name", {})
        apart = difference(whole["bounds"], other["bounds"]) if "bounds" in whole and "bounds" in other else None
        cells = (
            problem, dtype, where, *map(cell, COLUMNS), whole.get("method", "–"),
            "–" if peak is None else f"{peak:.0f}", "–" if apart is None or where == "cpu" else f"{apart:.1e}",
        )  # fmt: skip
        text.append(f"| {' | '.join(cells)} |")
    return text


def report(device: str, minutes: float, trial: bool) -> tuple[str, bool]:
    """Tests and tables as Markdown, and whether the tests passed and everything was measured."""
    start, limit = time.monotonic(), 60 * minutes
    tests, passed = tested(TESTS_SHARE * limit)
    print(f"tests: {tests}", file=sys.stderr, flush=True)
    found, finished, said = measured(device, trial, limit - (time.monotonic() - start) - 10)
    if not finished:
        print("\n".join(said[-5:]), file=sys.stderr)
    card = torch.cuda.get_device_name() if device == "cuda" else f"the processor ({platform.machine()}), a trial"
    versions = f"torch {torch.__version__}, auto_LiRPA {VERSION}, recurjac_plugin {rj.__version__}"
    text = [
        f"On {card}: {versions}; {time.monotonic() - start:.0f} s in all. Seconds are medians of up to {ROUNDS} runs "
        f"after one that is not counted (from {SLOW:.0f} s on it is the one); the processor's are of one thread of the "
        "same machine.",
        "",
        f"Tests with the mark `gpu`: {tests}",
        "",
        *table(found, device),
    ]
    if not finished:
        text += ["", "The time was over, or an error ended the measuring, before everything was measured."]
    return "\n".join(text) + "\n", passed and finished


def put_into(docs: Path, text: str) -> None:
    """Replace what stands between the two marks of a file."""
    content = docs.read_text(encoding="utf-8")
    begin, end = (content.find(mark) for mark in MARKS)
    if not 0 <= begin < end:
        raise SystemExit(f"`{docs}` has no `{MARKS[0]}` before a `{MARKS[1]}`: put both where the tables belong.")
    docs.write_text(f"{content[: begin + len(MARKS[0])]}\n{text}{content[end:]}", encoding="utf-8")


def main() -> None:
    """Test and measure, or only measure, as the arguments say; exit code 1 where something failed, 2 without a card."""
    parser = argparse.ArgumentParser(description="The tests and the tables of a CUDA device.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial with small networks")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long it may take in all")
    parser.add_argument("--out", type=Path, default=Path("gpu.md"), help="Markdown file to write")
    parser.add_argument("--docs", type=Path, help="file to put the tables into, between its marks")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--trial", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "torch sees no CUDA device here, so nothing was run; use a machine with one, or `make gpu DEVICE=cpu` to "
            "try the script with small networks.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    if given.measure:
        measure(given.device, given.trial)
        return
    text, good = report(given.device, given.minutes, trial=given.device == "cpu")
    given.out.write_text(text, encoding="utf-8")
    print(text)
    if given.docs is not None:
        if given.device == "cpu":
            raise SystemExit("A trial on the processor is not put into the documentation: leave out `--docs`.")
        put_into(given.docs, text)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
