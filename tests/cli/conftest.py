"""What the tests of the commands share."""

from __future__ import annotations

import numpy as np
import pytest
from commands import SMALL

from recurjac_plugin import load_vnnlib


@pytest.fixture
def image(tmp_path):
    """One digit as `.npy`."""
    path = tmp_path / "x.npy"
    box = load_vnnlib(SMALL).boxes[0]
    np.save(path, (box.lower + box.upper) / 2)
    return path
