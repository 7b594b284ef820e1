"""What the searches for wrong bounds and verdicts, `tests/soundness/*.py`, have in common."""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import torch


def search_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options of all searches: where to begin, how long to go on, where failures go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, help="where failures are written to, as JSON")
    return parser


def quiet_on_one_thread() -> None:
    """Searches run side by side, one per core, and print failures only."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
