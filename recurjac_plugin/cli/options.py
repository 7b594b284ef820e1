"""Arguments and options that several commands share, and the reading of their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from recurjac_plugin.jacobian.methods import AUTO, HOST_METHODS, METHODS

from .terminal import completion


class Dtype(str, Enum):
    """Number types by name."""

    float32 = "float32"
    float64 = "float64"


class Branchings(str, Enum):
    """What boxes can be cut by, see `recurjac_plugin.branch_and_bound.branching`."""

    jacobian = "jacobian"
    crown = "crown"
    longest = "longest"


def _vnnlib(help_text: str) -> Any:
    """``--vnnlib PROP``: the boxes of a property, which every command puts to a use of its own."""
    return typer.Option("--vnnlib", metavar="PROP", help=help_text, show_default=False)


def _input(help_text: str) -> Any:
    """``--input X.npy``: inputs from a file, which every command puts to a use of its own."""
    return typer.Option("--input", metavar="X.npy", help=help_text, show_default=False)


def _either(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


_OUTPUT_ALONE = ("CROWN", *(name for name in HOST_METHODS if name != "CROWN"))  # the one that is asked for most, first

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="ONNX network (or .gz), or `module.py:function`, a function that returns a torch module.",
        show_default=False,
    ),
]
Property = Annotated[
    Path, typer.Argument(metavar="PROP", help="VNN-LIB property, version 1.0 or 2.0 (or .gz).", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of text.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="NAME", help="Where to compute: cpu, cuda or cuda:N.", autocompletion=completion.devices
    ),
]
NumberType = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Number type of the bounds.  [default: the network's]", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table as CSV.", show_default=False)]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw the table: .png, .pdf or .svg.", show_default=False),
]
Methods = Annotated[
    str,
    typer.Option(
        "--methods", metavar="M,M,...", help="Methods to compare.", autocompletion=completion.lists_of_methods
    ),
]
Expected = Annotated[
    Path | None,
    typer.Option(
        "--expected", metavar="FILE", show_default=False,
        help="Answers (category,onnx,vnnlib,expected) to judge verdicts by.",
    ),
]  # fmt: skip
AttackSeconds = Annotated[
    float, typer.Option("--attack-seconds", metavar="S", help="Longest time to look for a counterexample; 0: none.")
]
Branching = Annotated[
    Branchings,
    typer.Option("--branching", help="What boxes are cut by: Jacobian bounds, CROWN's coefficients or side lengths."),
]
Split = Annotated[
    bool | None,
    typer.Option("--split/--no-split", help="Cut boxes.  [default: where that makes progress]", show_default=False),
]
Rigorous = Annotated[
    bool,
    typer.Option("--rigorous", help="Proven bounds: in float64 with running error bounds, by CROWN of our own."),
]
Norm = Annotated[
    str,
    typer.Option(
        "--norm", metavar="P", help="Norm of the ball around the input: 1, 2 or inf.", autocompletion=completion.norms
    ),
]

InputNorm = Annotated[
    str | None,
    typer.Option(
        "--input-norm", metavar="P", help="Norm of changes of the input: 1, 2 or inf.  [default: the ball's]",
        show_default=False, autocompletion=completion.norms,
    ),
]  # fmt: skip
OutputNorm = Annotated[
    str | None,
    typer.Option(
        "--output-norm", metavar="Q", help="Norm of changes of the output: 1, 2 or inf.  [default: the input's]",
        show_default=False, autocompletion=completion.norms,
    ),
]  # fmt: skip

InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape", metavar="N,N,...", show_default=False,
        help="Shape of one input of a torch network.  [default: that of --input behind its first dimension]",
    ),
]  # fmt: skip

RegionProperty = Annotated[Path | None, _vnnlib("Bound over the input boxes of this property.")]
RegionInputs = Annotated[Path | None, _input("Bound over a ball around each of these inputs.")]
RegionRadius = Annotated[
    float | None, typer.Option("--eps", metavar="E", help="Radius of the ball, with --input.", show_default=False)
]
BallProperty = Annotated[Path | None, _vnnlib("Balls around the middle of this property's boxes.")]
BallInputs = Annotated[Path | None, _input("Balls around each of these inputs.")]
CenterProperty = Annotated[Path | None, _vnnlib("Around the middle of this property's boxes.")]
CenterInputs = Annotated[Path | None, _input("Around each of these inputs.")]
JacobianMethod = Annotated[
    str,
    typer.Option(
        "--method",
        help=f"{_either((*METHODS, AUTO))} (McCormick where it is worth its time, else Linear); `IBP+{METHODS[0]}` "
        "chooses other pre-activation bounds than CROWN's.",
        autocompletion=completion.jacobian_methods,
    ),
]
OutputMethod = Annotated[
    str,
    typer.Option(
        "--method",
        help=f"Output bounds: {', '.join(METHODS)}, each optionally with `+CROWN`; {_either(_OUTPUT_ALONE)}.",
        autocompletion=completion.output_methods,
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        "--clip",
        metavar="LOW,HIGH",
        help="Range that inputs can have; balls of l_inf are cut off there.",
        show_default=False,
    ),
]
Initial = Annotated[float, typer.Option("--initial", metavar="R", help="First radius to try.")]
Tolerance = Annotated[float, typer.Option("--tolerance", metavar="R", help="How closely the radius is searched.")]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", metavar="S", show_default=False,
        help="Search on over the sides of neurons, for this many seconds per input and method.",
    ),
]  # fmt: skip
MaxProbes = Annotated[int, typer.Option("--max-probes", metavar="N", help="Most radii to try per input and method.")]

_NORMS = {"1": 1.0, "2": 2.0, "inf": math.inf}


def refuse(option: str, message: str) -> NoReturn:
    """Reject the value of an option."""
    raise typer.BadParameter(f"`{option}` {message}")


def norm_of(text: str, option: str = "--norm") -> float:
    """The p of a norm by its name."""
    if text.lower() not in _NORMS:
        refuse(option, f"is {text!r}, expected one of {', '.join(_NORMS)}.")
    return _NORMS[text.lower()]


def norm_name(norm: float) -> str:
    """How a norm is written in tables and pictures."""
    return f"l_{norm:g}"


def radius(option: str, value: float) -> float:
    """A radius: finite and not negative."""
    if not 0 <= value < math.inf:
        refuse(option, f"must be a finite radius of at least 0, got {value:g}.")
    return value


def require_one_source(vnnlib: Path | None, input_file: Path | None) -> None:
    """Refuse both a property and a file of inputs, and neither of them."""
    if (vnnlib is None) == (input_file is None):
        refuse("--vnnlib", "or `--input` must be given, and only one of them.")


def region_choice(
    vnnlib: Path | None, input_file: Path | None, eps: float | None, norm: str
) -> tuple[float, float | None]:
    """The norm, and the radius around inputs or None for the boxes of a property; refuses other combinations."""
    require_one_source(vnnlib, input_file)
    if (eps is None) != (input_file is None):
        refuse("--eps", "goes with `--input`, which needs it; a property has its own boxes.")
    p = norm_of(norm)
    if vnnlib is not None and p != math.inf:
        refuse("--norm", "goes with `--input`; the boxes of a property are balls of l_inf.")
    return p, None if eps is None else radius("--eps", eps)


def is_python(model: Path) -> bool:
    """Whether a network is named as ``file.py:function``, or by a Python file alone."""
    return str(model).rpartition(":")[0].endswith(".py") or model.suffix == ".py"


def shape_of(option: str, text: str) -> tuple[int, ...]:
    """A shape from whole numbers with commas."""
    parts = _parts(option, text)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        refuse(option, f"must be whole numbers with commas such as 3,32,32, got {text!r}.")
    return tuple(map(int, parts))


def radii(option: str, text: str) -> tuple[float, ...]:
    """Radii from a list with commas, in increasing order."""
    distinct = set()
    for part in _parts(option, text):
        try:
            distinct.add(radius(option, float(part)))
        except ValueError:
            refuse(option, f"must be a list of numbers such as 0.001,0.01, got {part!r}.")
    return tuple(sorted(distinct))


def clip(option: str, text: str | None) -> tuple[float, float] | None:
    """The range of inputs from two numbers with a comma."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in _parts(option, text))
    except ValueError:
        refuse(option, f"must be two numbers such as 0,1, got {text!r}.")
    if not low <= high:
        refuse(option, f"must be the lowest, then the highest input, got {text!r}.")
    return low, high


def methods(option: str, text: str) -> tuple[str, ...]:
    """Canonical method names from a list with commas.

    Raises:
        MethodError: a name is unknown.
    """
    from recurjac_plugin.jacobian.methods import parse

    return tuple(dict.fromkeys(parse(part).name for part in _parts(option, text)))


def jacobian_method(name: str) -> str:
    """Canonical name of a method that bounds Jacobians.

    Raises:
        MethodError: the name is unknown, or that of a method of the host alone.
    """
    from recurjac_plugin.jacobian.methods import parse_jacobian_method

    return parse_jacobian_method(name).name


def lipschitz_methods(option: str, text: str) -> tuple[str, ...]:
    """Canonical names of methods that bound Lipschitz constants, from a list with commas.

    Raises:
        MethodError: a name is unknown, or that of a method of the host alone.
    """
    from recurjac_plugin.jacobian.methods import parse_global

    return tuple(dict.fromkeys(parse_global(part) or jacobian_method(part) for part in _parts(option, text)))


def seconds(option: str, value: float) -> float:
    """A duration of at least 0."""
    if not 0 <= value < math.inf:
        refuse(option, f"must be a finite number of seconds, at least 0, got {value:g}.")
    return value


def budget(value: float | None) -> float | None:
    """Seconds for a search over the sides of neurons; None for none."""
    return None if value is None else seconds("--budget", value)


def time_limit(option: str, value: float) -> float:
    """A duration above 0."""
    if seconds(option, value) == 0:
        refuse(option, "must be more than 0 seconds.")
    return value


def listed(names: Iterable[str]) -> str:
    """A list as the options take it."""
    return ",".join(names)


def _parts(option: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        refuse(option, f"must be a list with commas and without gaps, got {text!r}.")
    return parts
