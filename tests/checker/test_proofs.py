"""Certificates: those of true properties are accepted; changed ones, and all of false properties, are rejected."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import math
import random
from fractions import Fraction

import numpy as np
import onnx
import pytest
from certified import Certified, bounded, declared, every_step, perceptron
from onnx_files import few_inputs, model, save
from onnx_files import node as onnx_node
from places import DATA

from recurjac_plugin.checker import Rejected, check
from recurjac_plugin.checker.document import Dropped, Fixed, Row, load
from recurjac_plugin.checker.files import Problem, check_content
from recurjac_plugin.errors import CertificateError, FileError
from recurjac_plugin.verification.certificate import write_certificate


@pytest.fixture(scope="module")
def certified(tmp_path_factory) -> Certified:
    return every_step(tmp_path_factory.mktemp("certified"))


def nodes_with(values, kind) -> list[tuple[dict, list]]:
    """The nodes that have a step of that kind, with the first such step."""
    everything = [node for region in values["regions"] for node in region["nodes"]]
    return [(node, step) for node in everything for step in node["steps"] if step[0] in kind]


def cuts(values) -> list[dict]:
    return [node for region in values["regions"] for node in region["nodes"] if "cut" in node]


def test_the_certificate_has_every_kind_of_step(certified):
    document = certified.document
    kinds = {type(step) for tree in document.trees for node in tree.nodes for step in node.steps}
    assert kinds == {Row, Fixed, Dropped}
    assert len(document.trees) == 2
    assert cuts(certified.values)
    accepted = check(certified.network, certified.prop, certified.certificate)
    assert accepted.regions == 2
    assert accepted.boxes == sum(len(tree.nodes) for tree in document.trees)


def test_documents_are_read_as_they_are_written(certified):
    assert load(certified.certificate.read_bytes()).dumped() == certified.certificate.read_bytes()


def test_a_box_may_be_bounded_again(certified):
    """As it is after steps of the search that leave nothing to cut."""
    values = certified.values
    nodes = values["regions"][0]["nodes"]
    leaf = next(node for node in nodes if "cut" not in node)
    nodes.append({"steps": leaf["steps"]})
    leaf["steps"], leaf["next"] = [], len(nodes) - 1
    assert certified.check(values).boxes == len(nodes) + len(values["regions"][1]["nodes"])


def test_gzip_is_as_good(certified, tmp_path):
    for name in ("network", "prop", "certificate"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(getattr(certified, name).read_bytes()))
    accepted = check(tmp_path / "network", tmp_path / "prop.gz", tmp_path / "certificate")
    assert accepted.producer.startswith("recurjac_plugin")
    write_certificate(Problem.read(certified.network, certified.prop), tmp_path / "again.json.gz")
    assert gzip.decompress((tmp_path / "again.json.gz").read_bytes()) == certified.certificate.read_bytes()


def leaf_missing(values):
    values["regions"][0]["nodes"].pop()


def leaf_instead_of_a_cut(values):
    del cuts(values)[0]["cut"]


def subtree_replaced_by_its_sibling(values):
    cut = cuts(values)[0]["cut"]
    cut[3] = cut[2]


def children_exchanged(values):
    """Each half is shown by the proof of the other."""
    for node in cuts(values):
        node["cut"][2:] = node["cut"][:1:-1]


def circle(values):
    cuts(values)[0]["cut"][3] = 0


def next_is_itself(values):
    nodes = values["regions"][0]["nodes"]
    leaf = next(node for node in nodes if "cut" not in node)
    leaf["steps"], leaf["next"] = [], nodes.index(leaf)


def node_that_is_not_there(values):
    cuts(values)[0]["cut"][3] = 10_000


def node_of_no_box(values):
    values["regions"][1]["nodes"].append({"steps": [["row", 0, 0]]})


def closed_box_goes_on(values):
    nodes = values["regions"][1]["nodes"]
    leaf = next(node for node in nodes if "cut" not in node)
    leaf["next"] = len(nodes)
    nodes.append({"steps": []})


def step_left_out(values):
    node, step = nodes_with(values, ("row",))[-1]
    node["steps"].remove(step)


def row_that_does_not_exclude(values):
    for _, step in nodes_with(values, ("row",)):
        if step[1] == 1:
            step[2] = 1  # Y_0 <= 2, which holds everywhere


def row_that_is_not_there(values):
    nodes_with(values, ("row",))[0][1][2] = 5


def disjunct_that_is_not_there(values):
    nodes_with(values, ("row",))[0][1][1] = 7


def disjunct_excluded_twice(values):
    node, step = nodes_with(values, ("row",))[0]
    node["steps"].insert(0, step)


def cut_outside(values):
    cuts(values)[0]["cut"][1] = (100.0).hex()


def cut_shifted(values):
    """Almost to an end of the box: one part becomes as good as the whole."""
    region = values["regions"][0]
    axis = region["nodes"][0]["cut"][0]
    end = float.fromhex(region["lower"][axis])
    region["nodes"][0]["cut"][1] = math.nextafter(end, math.inf).hex()


def cut_of_an_input_that_is_not_there(values):
    cuts(values)[0]["cut"][0] = 3


def negative_input(values):
    cuts(values)[0]["cut"][0] = -1


def box_smaller_by_one_ulp(values):
    """Less than the decimals of the property, by less than float64 can tell from them."""
    region = values["regions"][0]
    region["upper"][0] = math.nextafter(float.fromhex(region["upper"][0]), -math.inf).hex()


def box_stretched(values):
    values["regions"][0]["upper"] = [(100.0).hex()] * 3


def box_of_other_size(values):
    values["regions"][0]["upper"].pop()


def box_turned_around(values):
    region = values["regions"][0]
    region["lower"], region["upper"] = region["upper"], region["lower"]


def fixed_at_the_wrong_end(values):
    for _, step in nodes_with(values, ("lower", "upper")):
        step[0] = "upper" if step[0] == "lower" else "lower"


def fixed_without_reason(values):
    node = values["regions"][0]["nodes"][0]
    node["steps"] = [["lower", axis] for axis in range(3)] + node["steps"]


def fixed_input_that_is_not_there(values):
    nodes_with(values, ("lower", "upper"))[0][1][1] = 3


def dropped_too_much(values):
    """All of the box but the end that stays."""
    for _, step in nodes_with(values, ("above", "below")):
        step[2] = values["regions"][0]["lower" if step[0] == "above" else "upper"][step[1]]


def dropped_on_the_wrong_side(values):
    for _, step in nodes_with(values, ("above", "below")):
        step[0] = "above" if step[0] == "below" else "below"


def regions_exchanged(values):
    values["regions"].reverse()


def region_missing(values):
    values["regions"].pop()


def region_without_proof(values):
    values["regions"][1]["nodes"] = []


def region_twice(values):
    values["regions"].append(copy.deepcopy(values["regions"][0]))


def other_network(values):
    values["network"]["sha256"] = "0" * 64


def hashes_exchanged(values):
    values["network"], values["property"] = values["property"], values["network"]


def nan_as_text(values):
    values["regions"][0]["lower"][0] = "nan"


def infinite_box(values):
    values["regions"][0]["upper"][0] = "inf"


def nan_as_a_number(values):
    values["regions"][0]["lower"][0] = math.nan


def decimal_number(values):
    values["regions"][0]["lower"][0] = -0.7


def other_version(values):
    values["version"] = 2


def other_claim(values):
    values["claim"] = "sat"


def entry_missing(values):
    del values["regions"][0]["lower"]


def strange_entry(values):
    values["regions"][0]["nodes"][0]["trust"] = True


def strange_step(values):
    values["regions"][0]["nodes"][0]["steps"].append(["believe", 0])


def two_ways_to_go_on(values):
    cuts(values)[0]["next"] = 1


def boolean_as_a_number(values):
    nodes_with(values, ("row",))[0][1][1] = False


CHANGES = [
    leaf_missing, leaf_instead_of_a_cut, subtree_replaced_by_its_sibling, children_exchanged, next_is_itself, circle,
    node_that_is_not_there, node_of_no_box, closed_box_goes_on, step_left_out, row_that_does_not_exclude,
    row_that_is_not_there, disjunct_that_is_not_there, disjunct_excluded_twice, cut_outside, cut_shifted,
    cut_of_an_input_that_is_not_there, negative_input, box_smaller_by_one_ulp, box_stretched, box_of_other_size,
    box_turned_around, fixed_at_the_wrong_end, fixed_without_reason, fixed_input_that_is_not_there, dropped_too_much,
    dropped_on_the_wrong_side, regions_exchanged, region_missing, region_without_proof, region_twice, other_network,
    hashes_exchanged, nan_as_text, infinite_box, nan_as_a_number, decimal_number, other_version, other_claim,
    entry_missing, strange_entry, strange_step, two_ways_to_go_on, boolean_as_a_number,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_certificates_are_rejected(certified, change):
    values = certified.values
    certified.check(copy.deepcopy(values))
    change(values)
    assert values != certified.values
    with pytest.raises(Rejected):
        certified.check(values)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_rejected(certified, tmp_path, part):
    for name, content in (
        ("plain", certified.certificate.read_bytes()),
        ("packed", gzip.compress(certified.certificate.read_bytes())),
    ):
        (tmp_path / name).write_bytes(content[: int(part * len(content))])
        with pytest.raises(Rejected):
            check(certified.network, certified.prop, tmp_path / name)


def test_files_that_are_missing_are_bad_input(certified, tmp_path):
    files = [certified.network, certified.prop, certified.certificate]
    for i in range(3):
        with pytest.raises(FileError, match="does not exist"):
            check(*files[:i], tmp_path / "nothing", *files[i + 1 :])


def test_a_weight_that_differs_is_another_network(certified, tmp_path):
    network = onnx.load(certified.network)
    weight = network.graph.initializer[0]
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(network, tmp_path / "other.onnx")
    with pytest.raises(Rejected, match="another network"):
        check(tmp_path / "other.onnx", certified.prop, certified.certificate)


def test_a_threshold_that_differs_is_another_property(certified, tmp_path):
    (tmp_path / "p.vnnlib").write_text(certified.prop.read_text().replace("-0.491)", "-0.49)"))
    with pytest.raises(Rejected, match="another property"):
        check(certified.network, tmp_path / "p.vnnlib", certified.certificate)


def test_a_property_of_another_network_is_bad_input(certified, tmp_path):
    with pytest.raises(FileError, match="belongs to it"):
        check(perceptron(tmp_path, (2, 4, 3), 0), certified.prop, certified.certificate)


def exact_minimum(path, low: Fraction, high: Fraction) -> Fraction:
    """Of a perceptron of one input on an interval: its pieces end where a pre-activation is 0."""
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    layers = [(stored[f"W{i}"], stored[f"b{i}"]) for i in range(len(stored) // 2)]

    def values(x: Fraction, depth: int) -> list[Fraction]:
        h = [x]
        for i, (W, b) in enumerate(layers[:depth]):
            z = [
                sum(Fraction(float(W[j, k])) * h[j] for j in range(len(h))) + Fraction(float(b[k]))
                for k in range(len(b))
            ]
            h = z if i == depth - 1 else [max(each, Fraction(0)) for each in z]
        return h

    ends = [low, high]
    for depth in range(1, len(layers)):
        more = set()
        for a, b in itertools.pairwise(ends):
            for at_a, at_b in zip(values(a, depth), values(b, depth)):
                if at_a * at_b < 0:
                    more.add(a + (b - a) * at_a / (at_a - at_b))
        ends = sorted({*ends, *more})
    return min(values(x, len(layers))[0] for x in ends)


def decimal(value: Fraction, up: bool) -> str:
    """The nearest decimal with 25 digits after the point, on one side."""
    digits = math.ceil(value * 10**25) if up else math.floor(value * 10**25)
    sign, digits = "-" if digits < 0 else "", abs(digits)
    return f"{sign}{digits // 10**25}.{digits % 10**25:025d}"


@pytest.mark.parametrize("seed", range(24))
def test_the_threshold_is_the_true_minimum(tmp_path, seed):
    """Below it there is a certificate; at it and above none is accepted, not even one that was true a little below."""
    scale = 10.0 ** np.random.default_rng(seed).integers(-2, 3)
    network = perceptron(tmp_path, (1, 6, 6, 1), seed, float(scale))
    low, high = Fraction(-7, 10), Fraction(13, 10)
    least = exact_minimum(network, low, high)

    def problem(threshold: str) -> Problem:
        path = tmp_path / f"below{threshold}.vnnlib"
        path.write_text(f"{declared(1, 1)}(assert (and {bounded([('-0.7', '1.3')])}))(assert (<= Y_0 {threshold}))")
        return Problem.read(network, path)

    size = max(abs(least), Fraction(1, 1000))
    certificates = []
    for distance in (1, Fraction(1, 100), Fraction(1, 10**6), Fraction(1, 10**9)):
        holds = problem(decimal(least - distance * size, up=False))
        write_certificate(holds, tmp_path / "c.json")
        certificates.append((tmp_path / "c.json").read_bytes())
        check_content(holds, certificates[-1])
    for distance in (0, Fraction(1, 10**15), Fraction(1, 10**12), Fraction(1, 10**6), Fraction(1, 3)):
        false = problem(decimal(least + distance * size, up=True))
        for content in certificates:
            values = json.loads(content)
            values["property"]["sha256"] = false.hashes[1]
            with pytest.raises(Rejected):
                check_content(false, json.dumps(values).encode())
        with pytest.raises(CertificateError):
            write_certificate(false, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_random_certificates_of_a_false_property_are_rejected(tmp_path):
    """Many small changes of a certificate that was true: whatever they make of it, it shows nothing that is false."""
    network, prop = few_inputs(tmp_path, -0.5 - 1e-6)
    write_certificate(Problem.read(network, prop), tmp_path / "c.json")
    false = Problem.read(*few_inputs(tmp_path, -0.5))
    choose = random.Random(0)
    for _ in range(1500):
        values = json.loads((tmp_path / "c.json").read_text())
        values["property"]["sha256"] = false.hashes[1]
        for _ in range(choose.randint(1, 4)):
            change_something(values["regions"][0], choose)
        with pytest.raises(Rejected):
            check_content(false, json.dumps(values).encode())


def change_something(region, choose: random.Random) -> None:
    node = choose.choice(region["nodes"])
    kind = choose.randrange(6)
    if kind == 0 and node["steps"]:
        step = choose.choice(node["steps"])
        if len(step) == 3 and step[0] != "row":
            step[2] = (float.fromhex(step[2]) + choose.uniform(-0.1, 0.1)).hex()
    elif kind == 1:
        node["steps"].insert(0, [choose.choice(["lower", "upper"]), choose.randrange(2)])
    elif kind == 2:
        value = choose.uniform(-1, 1).hex()
        node["steps"].insert(0, [choose.choice(["below", "above"]), choose.randrange(2), value])
    elif kind == 3 and "cut" in node:
        node["cut"][1] = choose.uniform(-1, 1).hex()
    elif kind == 4 and "cut" in node:
        node["cut"][0] = 1 - node["cut"][0]
    elif kind == 5:
        end = choose.choice(["lower", "upper"])
        region[end] = [choose.uniform(-1.5, 1.5).hex() for _ in region[end]]


def by_hand(problem: Problem, lower: list[float], upper: list[float], *nodes) -> bytes:
    """A certificate of one region."""
    values = {"format": "recurjac certificate", "version": 1, "claim": "unsat", "producer": "by hand"}
    values |= {name: {"sha256": each} for name, each in zip(("network", "property"), problem.hashes)}
    ends = {name: [value.hex() for value in end] for name, end in (("lower", lower), ("upper", upper))}
    return json.dumps({**values, "regions": [{**ends, "nodes": nodes}]}).encode()


LEFT = (-0.4).hex()


@pytest.mark.parametrize(
    ("outputs", "steps"),
    [
        # Y_0 = x rises, Y_1 = -x falls. At x = -1 the second row excludes, but the middle violates.
        ("(and (<= Y_0 0.1) (<= Y_1 0.1))", [["lower", 0], ["row", 0, 1]]),
        ("(and (<= Y_1 0.1) (<= Y_0 0.1))", [["lower", 0], ["row", 0, 0]]),
        ("(and (<= Y_0 0.1) (<= Y_1 0.1))", [["upper", 0], ["row", 0, 0]]),
        # The first disjunct rises and is never met; the second falls, and is met from x = 0.5 on.
        ("(or (<= Y_0 -2) (<= Y_1 -0.5))", [["lower", 0], ["row", 0, 0], ["row", 1, 0]]),
        ("(or (<= Y_1 -0.5) (<= Y_0 -2))", [["lower", 0], ["row", 0, 0], ["row", 1, 0]]),
        # From x = -0.4 on the first is excluded, the second is not.
        ("(or (<= Y_0 -2) (<= Y_1 -0.5))", [["above", 0, LEFT], ["row", 0, 0], ["row", 1, 0]]),
        ("(or (<= Y_1 -0.5) (<= Y_0 -2))", [["above", 0, LEFT], ["row", 0, 0], ["row", 1, 0]]),
        # What excludes one end is taken for the whole, or for the other side.
        ("(<= Y_0 -0.5)", [["above", 0, LEFT], ["row", 0, 0]]),
        ("(<= Y_0 -0.5)", [["below", 0, LEFT], ["row", 0, 0]]),
        ("(<= Y_0 -0.5)", [["upper", 0], ["row", 0, 0]]),
        ("(<= Y_0 -0.5)", [["row", 0, 0]]),
    ],
)
def test_forged_proofs(tmp_path, outputs, steps):
    """Each property is violated on [-1, 1]; one condition of a step is all that is wrong with each proof."""
    identity = model([onnx_node("MatMul", "x W", "y")], ["b", 1], ["b", 2], {"W": np.array([[1.0, -1.0]])})
    prop = tmp_path / "p.vnnlib"
    prop.write_text(f"{declared(1, 2)}(assert (and {bounded([('-1', '1')])}))(assert {outputs})")
    problem = Problem.read(save(tmp_path / "n.onnx", identity), prop)
    with pytest.raises(Rejected):
        check_content(problem, by_hand(problem, [-1.0], [1.0], {"steps": steps}))


def test_a_strict_row_is_excluded_by_equality(tmp_path):
    """``0 Y_0 < 0`` holds nowhere, and needs no margin; ``0 Y_0 <= 0`` holds everywhere."""
    network = perceptron(tmp_path, (1, 2, 1), 0)
    for comparison, holds in (("<", True), ("<=", False)):
        prop = tmp_path / "p.vnnlib"
        prop.write_text(f"{declared(1, 1)}(assert (and {bounded([('0', '1')])}))(assert ({comparison} (* 0 Y_0) 0))")
        problem = Problem.read(network, prop)
        content = by_hand(problem, [0.0], [1.0], {"steps": [["row", 0, 0]]})
        if holds:
            assert check_content(problem, content).boxes == write_certificate(problem, tmp_path / "c.json") == 1
        else:
            with pytest.raises(Rejected):
                check_content(problem, content)


def test_nothing_is_written_when_the_time_is_over(certified, tmp_path):
    problem = Problem.read(certified.network, certified.prop)
    with pytest.raises(CertificateError, match="the time was over"):
        write_certificate(problem, tmp_path / "late.json", timeout=0.0)
    assert [*tmp_path.iterdir()] == []


def test_images_are_not_cut(tmp_path):
    """What 64 inputs leave open after coordinates were fixed stays open, in one sentence."""
    problem = Problem.read(DATA / "digits_relu.onnx", DATA / "digits_relu_small.vnnlib")
    assert write_certificate(problem, tmp_path / "small.json") >= 1
    problem = Problem.read(DATA / "digits_relu.onnx", DATA / "digits_relu_mid.vnnlib")
    with pytest.raises(CertificateError, match="more than 20 inputs vary"):
        write_certificate(problem, tmp_path / "mid.json")
