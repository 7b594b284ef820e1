"""Reading VNN-LIB files, versions 1.0 and 2.x, as a `Spec`."""

from __future__ import annotations

import warnings
from os import PathLike
from typing import Any

from recurjac_plugin.files import locate, read_bytes

from .spec import Box, Declaration, Interface, Polytope, Spec, Variable
from .syntax import ELEMENT_TYPES, boxes_of, parse
from .text import plain_text
from .version_1 import as_version_2, is_version_1

__all__ = ["Box", "Polytope", "Spec", "load_vnnlib"]

KIND = "a VNN-LIB property"


def load_vnnlib(path: str | PathLike[str]) -> Spec:
    """Read a VNN-LIB file, version 1.0 or 2.x, plain or ``.gz``.

    Numbers are read as the nearest double. ``==`` gives two rows; ``!=`` gives two cases with strict rows;
    strict rows stay marked, so that a proof may use the closed set and a counterexample is compared exactly. Linear
    conditions on several inputs, or on inputs and outputs, are rows as those on outputs are (`Polytope`); an input
    without a bound of its own may get one from them. Inputs of several tensors and networks follow each other, in the
    order of the query, as do outputs (`Declaration`). A file that
    allows no input gives no box, one without a condition on outputs a row that always holds; of both a warning tells.

    Args:
        path: the file; ``p.vnnlib`` also finds ``p.vnnlib.gz``.

    Raises:
        FileError: the file is missing or malformed, or says something that is not a union of boxes with
            linear conditions; the message names line and variable where they are known.

    Source: VNN-LIB standard 2.0; https://www.vnnlib.org.
    """
    file = locate(path, KIND)
    text = plain_text(read_bytes(file, KIND), file, KIND)
    version_1 = is_version_1(text)
    query = parse(as_version_2(text, file) if version_1 else text, file, version_1)
    boxes, remarks = boxes_of(query, file, version_1)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    declared = Declaration(tuple(map(_interface, query.networks)))
    inputs = [variable for network in declared.networks for variable in network.inputs]
    outputs = [variable for network in declared.networks for variable in network.outputs]
    return Spec(
        boxes,
        n_inputs=sum(variable.size for variable in inputs),
        n_outputs=sum(variable.size for variable in outputs),
        version="1.0" if version_1 else "2.0",
        input_shape=None if version_1 or len(inputs) > 1 else inputs[0].shape,
        declaration=None if version_1 else declared,
        path=file,
        remarks=remarks,
    )


def _interface(network: Any) -> Interface:
    """What the parser knows of a declared network."""
    return Interface(
        network.name,
        tuple(map(_variable, network.inputs)),
        tuple(map(_variable, network.outputs)),
        network.equal_to or None,
        network.isometric_to or None,
    )


def _variable(definition: Any) -> Variable:
    """What the parser knows of a declared tensor."""
    return Variable(definition.name, ELEMENT_TYPES[definition.dtype.name], tuple(definition.shape))
