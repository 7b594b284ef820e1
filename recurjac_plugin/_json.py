"""Results as JSON, which has neither infinity nor NaN."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> Any:
    """A value of plain lists and dictionaries with None in place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
