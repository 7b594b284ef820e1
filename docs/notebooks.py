"""The pages of docs/notebooks/: every notebook of examples/notebooks/ as it ran, with its prints and its pictures.

Run ``python docs/notebooks.py [NAME ...]``. The networks of VNN-COMP are taken from ``$VNNCOMP_BENCHMARKS`` where that
is set. A page shows the text and the code of its script unchanged; ``tests/examples/test_notebooks.py`` fails when they
differ.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
from pathlib import Path
from typing import Any

import jupytext
import nbclient
from PIL import Image

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "examples" / "notebooks").glob("*.py"))
PAGES = ROOT / "docs" / "notebooks"
PICTURES = ROOT / "docs" / "pictures"


def executed(script: Path, timeout: int = 600) -> Any:
    """The notebook of a percent script, run from top to bottom in the script's folder.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an error.
    """
    notebook = jupytext.read(script)
    where = {"metadata": {"path": str(script.parent)}}
    return nbclient.NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=where).execute()


def source(script: Path, cells: list[Any]) -> list[str]:
    """Text and code, a part for each cell."""
    link = f"[`examples/notebooks/{script.name}`](../../examples/notebooks/{script.name})"
    note = f"\n\nThe notebook {link} as it ran; `jupytext --to ipynb` makes a file for Jupyter of it."
    parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    return [parts[0] + note, *parts[1:]]


def page(script: Path, notebook: Any, pictures: dict[str, bytes]) -> str:
    """The page of a notebook; the pictures it shows are added to `pictures` by their names."""
    shown: list[str] = []
    for part, cell in zip(source(script, notebook.cells), notebook.cells, strict=True):
        shown.append(part)
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                shown.append(f"```text\n{output.text.rstrip()}\n```")
            elif "image/png" in output.get("data", {}):
                name = f"notebook_{script.stem}_{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(output.data["image/png"])
                shown.append(f"![{_title(notebook)}: picture {len(pictures)}](../pictures/{name})")
    return "\n\n".join(shown) + "\n"


def _title(notebook: Any) -> str:
    return str(notebook.cells[0].source.splitlines()[0].lstrip("# "))


def small(content: bytes) -> bytes:
    """A picture in 128 colours, in a third of the bytes."""
    found = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").quantize(128).save(found, format="png", optimize=True)
    return found.getvalue()


def main() -> None:
    """Write the pages of the notebooks that are named, or of all."""
    parser = argparse.ArgumentParser(description="Run the notebooks and write their pages.")
    parser.add_argument("names", nargs="*", help="notebooks, without .py; all by default")
    names = parser.parse_args().names
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    PAGES.mkdir(exist_ok=True)
    for script in SCRIPTS:
        if not names or script.stem in names:
            pictures: dict[str, bytes] = {}
            (PAGES / f"{script.stem}.md").write_text(page(script, executed(script), pictures), encoding="utf-8")
            for name, content in pictures.items():
                (PICTURES / name).write_bytes(small(content))


if __name__ == "__main__":
    main()
