"""The three files of a check: network, property, certificate."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from recurjac_plugin.errors import FileError

from .document import Rejected, load
from .network import Network
from .proof import prove
from .reading.onnx_graph import read_onnx
from .reading.property import Property, read_property

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Accepted:
    """What a certificate proves: no input of the property's regions has an output that violates it.

    Attributes:
        regions: number of regions of the property.
        boxes: number of boxes of the proof.
        producer: what wrote the certificate.
    """

    regions: int
    boxes: int
    producer: str


@dataclass(frozen=True, eq=False)
class Problem:
    """A network and a property of it, with the hashes of their files.

    Attributes:
        network: from the inputs to the outputs.
        property: what is asked.
        hashes: SHA-256 of both files, not compressed.
    """

    network: Network
    property: Property
    hashes: tuple[str, str]

    @classmethod
    def read(cls, network: str | PathLike[str], prop: str | PathLike[str]) -> Problem:
        """Read both files.

        Raises:
            FileError: one is missing or malformed, or they do not belong together.
            UnsupportedError: the network has operators that have no meaning here.
        """
        contents = content_of(network), content_of(prop)
        try:
            text = contents[1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"`{prop}` is not a VNN-LIB property: it is not text; check the path.") from error
        read = read_onnx(contents[0], str(network)), read_property(text, str(prop))
        sizes = read[0].vectors[0].size, read[0].vectors[-1].size
        if sizes != (read[1].n_inputs, read[1].n_outputs):
            raise FileError(
                f"`{prop}` has {read[1].n_inputs} inputs and {read[1].n_outputs} outputs, but the network {sizes[0]} "
                f"and {sizes[1]}; give the property that belongs to it."
            )
        one, other = (hashlib.sha256(each).hexdigest() for each in contents)
        return cls(*read, (one, other))


def content_of(path: str | PathLike[str]) -> bytes:
    """Content of a file, decompressed if it is gzip; ``name`` also finds ``name.gz``, and the other way round.

    Raises:
        FileError: there is none, or it cannot be read.
    """
    given = Path(path)
    other = given.with_suffix("") if given.suffix == ".gz" else given.with_name(f"{given.name}.gz")
    file = next((each for each in (given, other) if each.is_file()), None)
    if file is None:
        raise FileError(f"`{given}` does not exist; check the path.")
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"`{file}` cannot be read: {error}; fetch the file again.") from error


def check(network: str | PathLike[str], prop: str | PathLike[str], certificate: str | PathLike[str]) -> Accepted:
    """Check a certificate that no output of a network violates a property.

    Args:
        network: ONNX file, plain or gzip.
        prop: VNN-LIB file, version 1.0 or 2.0, plain or gzip.
        certificate: what `recurjac verify --certificate` wrote, plain or gzip.

    Raises:
        FileError: a file is missing, or network or property are malformed.
        Rejected: the certificate does not prove it.
        UnsupportedError: the network has operators that have no meaning here.

    Source:
        See `proof` and `bounds`.
    """
    problem = Problem.read(network, prop)
    try:
        content = content_of(certificate)
    except FileError as error:
        if Path(certificate).is_file():
            raise Rejected(f"its file is damaged: {error}") from error
        raise
    return check_content(problem, content)


def check_content(problem: Problem, content: bytes) -> Accepted:
    """Check a certificate that was read already; see `check`.

    Raises:
        Rejected: it does not prove the property of the network.
    """
    document = load(content)
    for name, claimed, found in zip(("network", "property"), (document.network, document.property), problem.hashes):
        if claimed != found:
            raise Rejected(f"it is about another {name}: SHA-256 {claimed}, the file has {found}")
    regions = problem.property.regions
    if len(document.trees) != len(regions):
        raise Rejected(f"it has {len(document.trees)} regions, the property {len(regions)}")
    boxes = sum(prove(problem.network, region, tree) for region, tree in zip(regions, document.trees))
    return Accepted(len(regions), boxes, document.producer)
