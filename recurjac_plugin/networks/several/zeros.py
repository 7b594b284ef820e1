"""Outputs of an ONNX graph at zeros, in onnxruntime: their number, shapes and types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recurjac_plugin.errors import FileError
from recurjac_plugin.extras import need

from .flat import Port


def outputs_at_zeros(path: Path, content: bytes, inputs: Sequence[Port], dtype: np.dtype) -> list[np.ndarray]:
    """All outputs of a graph, in order, where every input is zero.

    Args:
        path: for messages.
        content: the serialised graph.
        inputs: all that it takes.
        dtype: of the inputs.

    Raises:
        ExtraError: onnxruntime is not installed.
        FileError: onnxruntime does not take the graph, or fails on zeros.
    """
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        found = session.run(None, {port.name: np.zeros(port.shape, dtype) for port in inputs})
    except onnxruntime_errors() as error:
        message = " ".join(str(error).split())
        raise FileError(f"`{path}` does not run on zeros in onnxruntime ({message}); export it again.") from error
    return [np.asarray(each) for each in found]


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """All exceptions of onnxruntime, which have no common base."""
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    return tuple(v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
