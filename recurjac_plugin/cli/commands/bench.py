"""`recurjac bench`: a verdict on every instance of whole benchmark sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.streams import Streams, animated, duration, open_streams
from recurjac_plugin.errors import counted
from recurjac_plugin.jacobian.methods import VERIFY_METHOD

if TYPE_CHECKING:
    from recurjac_plugin.bench.instances import Instance, Key
    from recurjac_plugin.bench.run_folder import RunFolder
    from recurjac_plugin.bench.solve import Task

_INTERRUPTED = 130  # the exit code by which shells know a command that was stopped with Ctrl-C
_WRONG = 1  # a wrong verdict is an error of this program


def bench_command(
    lists: Annotated[
        list[Path],
        typer.Argument(
            metavar="INSTANCES.csv...", help="VNN-COMP's lists: onnx,vnnlib,timeout; their folder is the category.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.", show_default=False)],
    method: options.OutputMethod = VERIFY_METHOD,
    branching: options.Branching = options.Branchings.jacobian,
    split: options.Split = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", help="Seconds per instance, instead of those listed.",
                     show_default=False),
    ] = None,
    max_timeout: Annotated[
        float | None,
        typer.Option("--max-timeout", metavar="S", help="At most so many seconds per instance.", show_default=False),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="S", help="Kill an instance so long after its timeout.")
    ] = 2.0,
    load_timeout: Annotated[
        float, typer.Option("--load-timeout", metavar="S", help="Kill an instance that is not loaded by then.")
    ] = 120.0,
    attack_seconds: options.AttackSeconds = 5.0,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Instances at the same time.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, metavar="N", show_default=False,
            help="Threads per instance.  [default: cores / jobs; 1 on a cluster]",
        ),
    ] = None,
    device: options.Device = "cpu",
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", show_default=False,
            help="Run on a Dask cluster, e.g. tcp://host:8786, an instance per thread of its workers.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in DIR, if there is one.")] = False,
    expected: options.Expected = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="Only instances whose category/onnx/vnnlib matches; repeatable.",
                     show_default=False),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:  # fmt: skip
    """Run benchmark sets: a verdict on every instance, each in a process of its own.

    DIR gets results.csv in VNN-COMP's form (category, network, property, seconds to load, result, seconds of the
    verdict) and results.jsonl with everything measured. A crash or a hang costs one instance. A run that was killed
    goes on with --resume. The exit code is 1 where a verdict contradicts --expected.
    """
    from recurjac_plugin.bench.instances import read_expected, read_instances
    from recurjac_plugin.bench.records import cores
    from recurjac_plugin.bench.run_folder import opened
    from recurjac_plugin.cli.problem import find_device
    from recurjac_plugin.host.find import require_host
    from recurjac_plugin.jacobian.methods import parse

    with open_streams(json) as streams:
        limits = (("--timeout", timeout), ("--max-timeout", max_timeout), ("--load-timeout", load_timeout))
        for name, value in limits:
            if value is not None:
                options.time_limit(name, value)
        options.seconds("--grace", grace)
        if scheduler is not None and jobs != 1:
            options.refuse("--jobs", "goes without `--scheduler`, whose workers say how many run at the same time.")
        if scheduler is None and device != "cpu":  # a cluster's workers have devices of their own
            find_device(device)
        require_host()
        asked = {
            "method": parse(method).name,
            "seed": seed,
            "attack_seconds": options.seconds("--attack-seconds", attack_seconds),
            "branching": branching.value,
            "split": split,
        }
        answers = None if expected is None else read_expected(expected)
        instances = read_instances(lists, timeout=timeout, max_timeout=max_timeout, only=only or ())
        threads = threads or (1 if scheduler else max(1, cores() // jobs))
        identities = [instance.identity for instance in instances]
        with opened(out, options=asked, instances=identities, resume=resume) as folder:
            runner = _Runner(asked, threads, device, grace, load_timeout, jobs, scheduler)
            stopped = _run(streams, folder, instances, answers, runner)
        wrong = _tell(streams, folder, identities, answers, asked)
    if stopped or wrong:
        raise typer.Exit(_INTERRUPTED if stopped else _WRONG)


@dataclasses.dataclass(frozen=True)
class _Runner:
    """How instances are solved: with which options and limits, and on which machines.

    Attributes:
        options: keyword arguments of `recurjac_plugin.verify`.
        threads: of each instance.
        device: where each is computed.
        grace: seconds from the end of its timeout until an instance is killed.
        load_timeout: seconds that loading may take.
        jobs: how many instances are solved at the same time.
        scheduler: address of a Dask scheduler; None for this machine.
    """

    options: dict[str, Any]
    threads: int
    device: str
    grace: float
    load_timeout: float
    jobs: int
    scheduler: str | None

    def records(self, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """One record per task, in the order in which they end."""
        if self.scheduler is None:
            from recurjac_plugin.bench.local import run_local

            return run_local(tasks, jobs=self.jobs)
        from recurjac_plugin.bench.cluster import run_cluster

        return run_cluster(tasks, scheduler=self.scheduler)

    def task(self, instance: Instance) -> Task:
        """What a process needs to know about an instance."""
        from recurjac_plugin.bench.solve import Task

        onnx, vnnlib = (str(Path(instance.folder) / name) for name in (instance.onnx, instance.vnnlib))
        limits = (self.threads, self.grace, self.load_timeout)
        return Task(instance.number, onnx, vnnlib, instance.timeout, self.options, *limits, self.device)


def _run(
    streams: Streams, folder: RunFolder, instances: Sequence[Instance], answers: dict[Key, str] | None, runner: _Runner
) -> bool:
    """Solve what is left, and keep the results; whether the user stopped it."""
    from recurjac_plugin.bench.summary import judged

    finished = folder.finished
    left = {instance.number: instance for instance in instances if instance.number not in finished}
    if finished:
        streams.note(f"{len(finished)} of {counted(len(instances), 'instance')} finished before")
    records = _records(list(left.values()), runner)
    try:
        with _Progress(len(instances), len(finished), streams.quiet) as progress:
            for record in records:
                instance = left[record["number"]]
                names = {"category": instance.category, "onnx": instance.onnx, "vnnlib": instance.vnnlib}
                record = judged(names | record, answers)
                folder.append(record)
                progress.advance(record)
    except KeyboardInterrupt:
        streams.alarm(
            f"stopped after {len(folder.records)} of {counted(len(instances), 'instance')}; go on with --resume"
        )
        return True
    finally:
        records.close()
    return False


def _records(left: Sequence[Instance], runner: _Runner) -> Generator[dict[str, Any], None, None]:
    """A record per instance, those that cannot be run first."""
    from recurjac_plugin.bench.records import blank

    for instance in left:
        if instance.problem is not None:
            yield blank(instance.number, instance.timeout, runner.options, error=instance.problem)
    tasks = [runner.task(instance) for instance in left if instance.problem is None]
    if tasks:
        yield from runner.records(tasks)


class _Progress:
    """On a terminal a bar, elsewhere a line per instance; wrong verdicts and errors always have a line."""

    def __init__(self, total: int, finished: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, highlight=False, markup=False)
        self._total, self._finished, self._quiet = total, finished, quiet
        self._animated = animated(quiet)
        self._bar = Progress(
            TextColumn("Instances"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[last]}"),
            console=self._console, transient=True, disable=not self._animated,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, completed=finished, last="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, record: dict[str, Any]) -> None:
        """One more instance is finished."""
        self._finished += 1
        name = f"{record['category']}/{Path(record['onnx']).name}, {Path(record['vnnlib']).name}"
        text = f"{name}: {record['result']}, {duration(record['run_seconds'])} s"
        count = f"[{self._finished}/{self._total}]"
        if record["wrong"]:
            said = record["late"] or record["result"]
            self._say(f"{count} WRONG VERDICT {name}: {said}, expected {record['expected']}", "bold red")
        elif self._quiet:
            pass
        elif record["result"] == "error" or record["error"]:
            self._say(f"{count} {text}: {record['error']}", "yellow")
        elif not self._animated:
            self._say(f"{count} {text}", None)
        self._bar.update(self._task, completed=self._finished, last=text)

    def _say(self, text: str, style: str | None) -> None:
        self._console.print(text, style=style, soft_wrap=True)


def _tell(
    streams: Streams,
    folder: RunFolder,
    identities: Sequence[Sequence[Any]],
    answers: dict[Key, str] | None,
    asked: dict[str, Any],
) -> int:
    """The counts at the end; returns how many verdicts are wrong."""
    from recurjac_plugin.bench.summary import RESULTS, judged, summary_rows

    records = [judged(record, answers) for record in folder.records]
    rows = summary_rows(records, identities)
    if streams.as_json:
        streams.json(
            {
                "command": "bench",
                "out": str(folder.path),
                "options": asked,
                "finished": len(records),
                "categories": rows,
            }
        )
    else:
        header = ("category", "instances", *RESULTS, "wrong", "seconds")
        table = [[f"{row[name]:.1f}" if name == "seconds" else row[name] for name in header] for row in rows]
        streams.table(f"{asked['method']}, {folder.path}", header, table, right=range(1, len(header)))
    for record in records:
        if record["wrong"]:
            streams.alarm(f"wrong: {record['category']}, {record['onnx']}, {record['vnnlib']}")
    return int(rows[-1]["wrong"])
