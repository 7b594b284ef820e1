"""Reading VNN-LIB files, versions 1.0 and 2.x, as a `Spec`."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

from recurjac_plugin.errors import FileError
from recurjac_plugin.files import locate, read_bytes

from .spec import Box, Declaration, Polytope, Spec, Variable
from .syntax import ELEMENT_TYPES, boxes_of, parse
from .version_1 import as_version_2, is_version_1

__all__ = ["Box", "Polytope", "Spec", "load_vnnlib"]

KIND = "a VNN-LIB property"


def load_vnnlib(path: str | PathLike[str]) -> Spec:
    """Read a VNN-LIB file, version 1.0 or 2.x, plain or ``.gz``.

    Numbers are read as the nearest double. ``==`` gives two rows; ``!=`` gives two cases with strict rows;
    strict rows stay marked, so that a proof may use the closed set and a counterexample is compared exactly.

    Args:
        path: the file; ``p.vnnlib`` also finds ``p.vnnlib.gz``.

    Raises:
        FileError: the file is missing or malformed, or says something that is not a union of boxes with
            linear output conditions for one network; the message names line and variable where they are
            known.

    Source: VNN-LIB standard 2.0; https://www.vnnlib.org.
    """
    file = locate(path, KIND)
    try:
        text = read_bytes(file, KIND).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"`{file}` is not {KIND}: it is not text ({error.reason}); check the path.") from error
    version_1 = is_version_1(text)
    query = parse(as_version_2(text, file) if version_1 else text, file, version_1)
    boxes = boxes_of(query, file, version_1)
    (network,) = query.networks
    declared = Declaration(network.name, _variable(network.inputs[0]), _variable(network.outputs[0]))
    return Spec(
        boxes,
        n_inputs=math.prod(declared.input.shape),
        n_outputs=math.prod(declared.output.shape),
        version="1.0" if version_1 else "2.0",
        input_shape=None if version_1 else declared.input.shape,
        declaration=None if version_1 else declared,
        path=file,
    )


def _variable(definition: Any) -> Variable:
    """What the parser knows of a declared tensor."""
    return Variable(definition.name, ELEMENT_TYPES[definition.dtype.name], tuple(definition.shape))
