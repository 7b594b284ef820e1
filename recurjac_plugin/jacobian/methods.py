"""The methods by name: one table for the API, the command line, the tests and the documentation.

A name is ``[PREFIX+]METHOD[+CROWN]``, in any case:

* the method is `RecurJac`, `RecurJac-Linear`, `RecurJac-McCormick`, `RecurJac-Optimized` or `Fast-Lip` (`TREATMENTS`):
  it says what happens at a neuron whose derivative is not certain (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783,
  section 3.3; Fast-Lip: Weng et al., ICML 2018, arXiv:1804.09699); or it is `auto`, which is `RecurJac-McCormick` on
  the regions where that is worth its time and `RecurJac-Linear` on all others (`planes`);
* the prefix is the host's method that bounds the pre-activations, `CROWN` if there is none;
* ``+CROWN`` intersects *output* bounds with those the host gets from the same pre-activation bounds.

None is `auto`, the default of every function. A host method by itself (`IBP`, `CROWN`, `CROWN-IBP`, `alpha-CROWN`) is
a method for output bounds only. `Operator-Norm` bounds the Lipschitz constant on the whole space (`global_lipschitz`),
where there is no region to bound a Jacobian on.

The command line reads the names before it loads anything else, so this module imports the rules when one is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from recurjac_plugin.errors import MethodError, UnsupportedError

if TYPE_CHECKING:
    from recurjac_plugin.passes.rules import Rule


_Name = Literal[
    "auto", "RecurJac", "RecurJac-Linear", "RecurJac-McCormick", "RecurJac-Optimized", "Fast-Lip",
    "IBP+auto", "IBP+RecurJac", "IBP+RecurJac-Linear", "IBP+RecurJac-McCormick", "IBP+RecurJac-Optimized",
    "IBP+Fast-Lip",
    "CROWN-IBP+auto", "CROWN-IBP+RecurJac", "CROWN-IBP+RecurJac-Linear", "CROWN-IBP+RecurJac-McCormick",
    "CROWN-IBP+RecurJac-Optimized", "CROWN-IBP+Fast-Lip",
    "CROWN+auto", "CROWN+RecurJac", "CROWN+RecurJac-Linear", "CROWN+RecurJac-McCormick", "CROWN+RecurJac-Optimized",
    "CROWN+Fast-Lip",
    "alpha-CROWN+auto", "alpha-CROWN+RecurJac", "alpha-CROWN+RecurJac-Linear", "alpha-CROWN+RecurJac-McCormick",
    "alpha-CROWN+RecurJac-Optimized", "alpha-CROWN+Fast-Lip",
]  # fmt: skip
_OutputName = Literal[
    _Name,
    "IBP", "CROWN-IBP", "CROWN", "alpha-CROWN",
    "auto+CROWN", "RecurJac+CROWN", "RecurJac-Linear+CROWN", "RecurJac-McCormick+CROWN", "RecurJac-Optimized+CROWN",
    "Fast-Lip+CROWN",
    "IBP+auto+CROWN", "IBP+RecurJac+CROWN", "IBP+RecurJac-Linear+CROWN", "IBP+RecurJac-McCormick+CROWN",
    "IBP+RecurJac-Optimized+CROWN", "IBP+Fast-Lip+CROWN",
    "CROWN-IBP+auto+CROWN", "CROWN-IBP+RecurJac+CROWN", "CROWN-IBP+RecurJac-Linear+CROWN",
    "CROWN-IBP+RecurJac-McCormick+CROWN", "CROWN-IBP+RecurJac-Optimized+CROWN", "CROWN-IBP+Fast-Lip+CROWN",
    "CROWN+auto+CROWN", "CROWN+RecurJac+CROWN", "CROWN+RecurJac-Linear+CROWN", "CROWN+RecurJac-McCormick+CROWN",
    "CROWN+RecurJac-Optimized+CROWN", "CROWN+Fast-Lip+CROWN",
    "alpha-CROWN+auto+CROWN", "alpha-CROWN+RecurJac+CROWN", "alpha-CROWN+RecurJac-Linear+CROWN",
    "alpha-CROWN+RecurJac-McCormick+CROWN", "alpha-CROWN+RecurJac-Optimized+CROWN", "alpha-CROWN+Fast-Lip+CROWN",
]  # fmt: skip

MethodName = _Name | str
"""A method that bounds Jacobians, by its name. Any string is taken; editors complete those of the table."""

OutputMethodName = _OutputName | str
"""A method that bounds outputs, by its name: one that bounds Jacobians, with or without ``+CROWN``, or the host's."""

GlobalMethodName = Literal["Operator-Norm"] | str
"""A method that needs no region, by its name."""

_Order = Literal["backward", "forward", "both"]
ORDERS: tuple[str, ...] = get_args(_Order)
"""In which orders the recursion goes."""

Order = _Order | str
"""From the output on, from the input on, or the intersection of both. Any string is taken, as of methods."""

Norm = Literal[1, 2] | float
"""The p of an l_p norm: 1, 2, ``math.inf``, or another number of at least 1 where a function takes it."""


@dataclass(frozen=True)
class Treatment:
    """How an undetermined neuron, one whose derivative is only known to lie in ``[dl, du]``, is treated.

    Attributes:
        rule: the name of `upper_line` in `recursion.rules`; None is interval arithmetic everywhere.
        planes: whether it is a plane in y and in the neuron's pre-activation where the derivative is smooth and has
            lines in the pre-activation; None for on the regions where that is worth its time.
        chord_of_absolute: whether ``|J_kr|``, summed over the entries of a row, is replaced by its chord over the
            bounds of an entry of unknown sign, or by a constant.
        optimised: whether the pre-activation bounds that it starts from are refined by optimised ones of our own.
    """

    rule: str | None
    planes: bool | None = False
    chord_of_absolute: bool = False
    optimised: bool = False

    @cached_property
    def upper_line(self) -> Rule | None:
        """The line in y that replaces the product ``d y``, y being the derivative of what lies behind the neuron."""
        from recurjac_plugin.passes.rules import RULES

        return None if self.rule is None else RULES[self.rule]


TREATMENTS: dict[str, Treatment] = {
    "RecurJac": Treatment("recurjac"),
    "RecurJac-Linear": Treatment("recurjac_linear", chord_of_absolute=True),
    "RecurJac-McCormick": Treatment("recurjac_linear", planes=True, chord_of_absolute=True),
    "RecurJac-Optimized": Treatment("recurjac_linear", planes=True, chord_of_absolute=True, optimised=True),
    "Fast-Lip": Treatment(None),
}
"""The methods that bound Jacobians by their names, as documented."""

METHODS: tuple[str, ...] = tuple(TREATMENTS)
"""The methods that bound Jacobians."""

ON_GIVEN_BOUNDS: tuple[str, ...] = tuple(name for name, each in TREATMENTS.items() if not each.optimised)
"""Those that take pre-activation bounds as they are: with gradients by the weights, and inside of a model."""

AUTO = "auto"
"""The name that leaves the choice between the next two to `planes`."""

LINES, PLANES = "RecurJac-Linear", "RecurJac-McCormick"
"""The methods that `AUTO` chooses from; the second contains the first."""

HOST_METHODS: tuple[str, ...] = ("IBP", "CROWN-IBP", "CROWN", "alpha-CROWN")
"""The host's methods that can stand before one of `METHODS`, and by themselves for output bounds."""

VERIFY_METHOD = "RecurJac-Linear+CROWN"
"""What verifications use unless told otherwise."""

OPERATOR_NORM = "Operator-Norm"

GLOBAL_METHODS: tuple[str, ...] = (OPERATOR_NORM,)
"""The methods that need no region: bounds of Lipschitz constants on the whole space."""

_AUTO = Treatment("recurjac_linear", planes=None, chord_of_absolute=True)
_CANONICAL = {name.lower(): name for name in (*METHODS, AUTO)}
_GLOBAL = {name.lower(): name for name in GLOBAL_METHODS}
_HOST = {name.lower(): name for name in HOST_METHODS} | {"crown-optimized": "alpha-CROWN"}


@dataclass(frozen=True)
class Method:
    """A parsed method name.

    Attributes:
        name: canonical spelling.
        jacobian: which of `METHODS` bounds the Jacobian, or `AUTO`; None for a method of the host alone.
        host: the host's method that bounds the pre-activations, and the output where that is wanted.
        with_host_output: whether output bounds include the host's.
    """

    name: str
    jacobian: str | None
    host: str
    with_host_output: bool

    @cached_property
    def bounds_jacobian(self) -> bool:
        """Whether the method bounds Jacobians; one of the host alone bounds only outputs."""
        return self.jacobian is not None

    @cached_property
    def rigorous(self) -> bool:
        """Whether its bounds can be proven: pre-activation bounds are CROWN's, which this package has its own of."""
        return self.host == "CROWN"

    @cached_property
    def treatment(self) -> Treatment:
        """What happens at an undetermined neuron.

        Raises:
            MethodError: a method of the host alone, which has no Jacobian bounds.
        """
        require_jacobian(self)
        assert self.jacobian is not None
        return _AUTO if self.jacobian == AUTO else TREATMENTS[self.jacobian]

    def chosen(self, planes: bool) -> Method:
        """The method by its name, where `AUTO` has chosen planes or lines; any other one is itself."""
        if self.jacobian != AUTO:
            return self
        name = PLANES if planes else LINES
        return replace(self, name=self.name.replace(AUTO, name), jacobian=name)


def require_rigorous(method: Method, wanted: bool) -> bool:
    """Whether rigorous bounds are wanted; refused for methods that have none.

    Raises:
        MethodError: the method's pre-activation bounds are the host's.
    """
    if wanted and not method.rigorous:
        raise MethodError(
            f"`{method.name}` starts from the host's `{method.host}` bounds, which are not rigorous; use a method "
            "without a prefix, or leave `rigorous` out."
        )
    return wanted


def require_own_outputs(method: Method) -> None:
    """Refuse methods that bound outputs by the Jacobian alone, for a network that is piecewise constant in parts.

    Raises:
        UnsupportedError: it is one of these.
    """
    if not method.with_host_output:
        raise UnsupportedError(
            "The network",
            ["parts of it are piecewise constant, so that its Jacobian says nothing about its outputs"],
            f"Use `CROWN`, or `{method.name}+CROWN`.",
        )


def is_method(name: object) -> bool:
    """Whether a method name is meant for this package rather than for the host alone."""
    if not isinstance(name, str):
        return False
    return any(own.lower() in name.lower() for own in METHODS) or AUTO in name.lower().split("+")


def parse_global(name: object) -> str | None:
    """The canonical name of a method that needs no region, None for any other name."""
    return _GLOBAL.get(name.lower()) if isinstance(name, str) else None


def parse(name: str | None) -> Method:
    """Read the name of a method that bounds something over a region; None is `AUTO`.

    Raises:
        MethodError: not a known name; the message lists what is.
    """
    if parse_global(name) is not None:
        raise MethodError(
            f"`{parse_global(name)}` bounds Lipschitz constants on the whole space, not over a region; use "
            "`global_lipschitz`, or `recurjac lipschitz`."
        )
    name = AUTO if name is None else name
    parts = name.lower().split("+") if isinstance(name, str) else []
    if len(parts) == 1 and parts[0] in _HOST:
        return Method(_HOST[parts[0]], None, _HOST[parts[0]], True)
    prefix = _HOST.get(parts[0]) if parts else None
    rest = parts[1:] if prefix else parts
    jacobian = _CANONICAL.get(rest[0]) if rest else None
    tail = rest[1:]
    if jacobian is None or tail not in ([], ["crown"]):
        raise MethodError(
            f"Unknown method `{name}`; known are {', '.join((*METHODS, AUTO))}, each optionally with a prefix for the "
            f"pre-activation bounds ({', '.join(f'{host}+' for host in HOST_METHODS)}) and with `+CROWN` for output "
            f"bounds, and {', '.join(HOST_METHODS)} alone for output bounds."
        )
    canonical = "+".join([*([prefix] if prefix else []), jacobian, *(["CROWN"] if tail else [])])
    host = prefix or "CROWN"
    # CROWN over intervals from IBP is what the host calls CROWN-IBP.
    return Method(canonical, jacobian, "CROWN-IBP" if host == "IBP" and tail else host, bool(tail))


def parse_verification_method(name: str | None) -> Method:
    """Read the name of the method of a verification: as `parse`, but None and `AUTO` are `VERIFY_METHOD`.

    Raises:
        MethodError: not a known name.
    """
    chosen = name is None or (isinstance(name, str) and name.lower() == AUTO)
    return parse(VERIFY_METHOD if chosen else name)


def parse_jacobian_method(name: str | None) -> Method:
    """Read the name of a method that bounds Jacobians: as `parse`, without the methods of the host alone.

    Raises:
        MethodError: not a known name, or that of a method for output bounds only.
    """
    return require_jacobian(parse(name))


def require_jacobian(method: Method) -> Method:
    """The method, which bounds Jacobians.

    Raises:
        MethodError: it is one of the host alone.
    """
    if not method.bounds_jacobian:
        raise MethodError(
            f"`{method.name}` gives no Jacobian bounds; choose one of {', '.join((*METHODS, AUTO))}, optionally after "
            f"{' or '.join(f'`{host}+`' for host in HOST_METHODS)}."
        )
    return method
