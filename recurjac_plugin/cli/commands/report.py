"""`recurjac report`: a page about the results of `recurjac bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from recurjac_plugin.cli import options
from recurjac_plugin.cli.files import check_writable, make_folder, write
from recurjac_plugin.cli.streams import open_streams
from recurjac_plugin.errors import counted


def report_command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Results of `recurjac bench`, finished or not.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="PAGE.html", help="The page; its pictures go beside it.", show_default=False),
    ],
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference", metavar="FILE", show_default=False,
            help="Answers of another program: category,onnx,vnnlib,expected,answer,solve_cpu_s,domains; repeatable.",
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", show_default=False,
            help="What a run is called, one for each DIR in order.  [default: the folder]",
        ),
    ] = None,
    expected: options.Expected = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Of the page.")] = "Benchmark results",
    json: options.Json = False,
) -> None:  # fmt: skip
    """Show benchmark results: solved, wrong and timeouts per category, times and boxes of several runs.

    The first run is compared with each of the others. The page holds its pictures and needs nothing else; they are also
    written beside it as PAGE-solved.png and so on. With --expected the verdicts are judged anew, instead of by the
    answers given to `recurjac bench`.
    """
    from recurjac_plugin.bench.instances import read_expected
    from recurjac_plugin.report.page import render_page
    from recurjac_plugin.report.runs import named_apart, read_reference, read_run

    with open_streams(json) as streams:
        if out.suffix.lower() not in (".html", ".htm"):
            options.refuse("--out", f"must end in .html; got `{out}`.")
        if names and len(names) != len(folders):
            given, wanted = counted(len(names), "name"), counted(len(folders), "run")
            options.refuse("--name", f"is given for {given}, but there is {wanted}; give one for each DIR.")
        if out.parent.is_dir():
            check_writable(out)
        answers = None if expected is None else read_expected(expected)
        called: Sequence[str | None] = names or [None for _ in folders]
        runs = [read_run(folder, answers, name) for folder, name in zip(folders, called)]
        runs += [read_reference(file) for file in reference or ()]
        text, drawn = render_page(named_apart(runs), title)
        make_folder(out.parent)
        paths = {name: out.with_name(f"{out.stem}-{name}.png") for name in drawn}
        for name, png in drawn.items():
            write(paths[name], png)
        write(out, text.encode())
        if streams.as_json:
            streams.json(
                {"command": "report", "page": str(out), "pictures": {name: str(path) for name, path in paths.items()}}
            )
        else:
            for path in (out, *paths.values()):
                streams.line(str(path))
