"""What the tests of the plugin share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def in_doubles():
    """Doubles as torch's default type, in which the host makes its own matrices."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
