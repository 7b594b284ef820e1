"""Results in files of torch: what a saved result is, and how it comes back.

``torch.load(file, weights_only=True)`` calls only what it knows. All results are saved as a call of one function,
`restored`, with the name of the class and the values of its fields, so that torch has to know this function alone
(`hooks.torch_import` tells it) and nothing is imported before a file asks for it. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .errors import FileError

_CLASSES = {
    "Bounds": "jacobian.bounds",
    "Counterexample": "verification.counterexample",
    "Landscape": "certificates.landscape",
    "Monotonicity": "certificates.held.entry_signs",
    "Result": "verification.verdicts",
    "Table": "tables.table",
    "Tightened": "lipschitz.searched.exact",
    "Verdict": "verification.verdicts",
    "WeightedNorm": "lipschitz.weighted",
}
"""What a file can ask for, and where it is."""

Call = tuple[Any, tuple[str, dict[str, Any], tuple[str, ...]]]
"""What `__reduce__` returns: `restored` and its arguments."""


class Kept:
    """A dataclass that ``torch.save`` writes and ``torch.load`` reads with ``weights_only=True``."""

    def __reduce__(self) -> Call:
        of_class: Any = self
        return kept_as(type(self).__name__, {each.name: getattr(self, each.name) for each in fields(of_class)})


def kept_as(name: str, values: Mapping[str, Any]) -> Call:
    """How a result is saved: arrays as tensors, since torch knows no others.

    Args:
        name: of the class.
        values: of its fields, or of whatever its class is called with: tensors, arrays, results, and numbers, text,
            None, and lists, tuples and dictionaries of these.
    """
    import numpy as np
    import torch

    arrays = tuple(key for key, value in values.items() if isinstance(value, np.ndarray))
    plain = {key: torch.from_numpy(value) if key in arrays else value for key, value in values.items()}
    return restored, (name, plain, arrays)


def restored(name: str, values: Mapping[str, Any], arrays: tuple[str, ...] = ()) -> Any:
    """A result as it was saved.

    Args:
        name: of its class.
        values: of its fields.
        arrays: which of the tensors were arrays.

    Raises:
        FileError: there is no such class of results, as in a file of a newer version.
    """
    if name not in _CLASSES:
        raise FileError(f"The file holds a `{name}`, which recurjac_plugin has not; use the version that wrote it.")
    of_name = getattr(importlib.import_module(f"recurjac_plugin.{_CLASSES[name]}"), name)
    return of_name(**{key: value.numpy() if key in arrays else value for key, value in values.items()})
