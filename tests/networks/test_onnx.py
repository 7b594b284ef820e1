"""ONNX files as torch modules: equal to onnxruntime, batched, traceable by the host; every bad file one sentence."""

from __future__ import annotations

import gzip

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_files import model, node, save
from places import DATA
from processes import python

from recurjac_plugin.errors import FileError, UnsupportedError
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.networks.onnx import load_onnx, onnx_session

RANDOM = np.random.default_rng(5)


def normal(*shape):
    return RANDOM.standard_normal(shape)


def _mlp(dtype=np.float32, batch: int | str = 1, domains=()):
    nodes = [node("Gemm", "x W b", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r V c", "y")]
    weights = {"W": normal(6, 4), "b": normal(6), "V": normal(6, 3), "c": normal(3)}
    return model(nodes, [batch, 4], [batch, 3], weights, dtype=dtype, domains=domains)


def _networks():
    """Name, model, shape of one input, number of outputs, whether it takes batches."""
    square = normal(4, 4)
    yield "float32", _mlp(), (4,), 3, True
    yield "float64", _mlp(np.float64), (4,), 3, True
    yield "named batch", _mlp(batch="N"), (4,), 3, True
    yield "unused domain", _mlp(domains=("ai.onnx.ml",)), (4,), 3, True
    yield "vector from the left", model([node("MatMul", "W x", "y")], [4], [4], {"W": square}), (4,), 4, True
    yield "vector from the right", model([node("MatMul", "x W", "y")], [4], [4], {"W": square}), (4,), 4, True
    yield (
        "constant factor from the left of a matrix",
        model([node("MatMul", "W x", "y")], [1, 4, 2], [1, 4, 2], {"W": square}),
        (4, 2),
        8,
        True,
    )
    yield (
        "bias of the wrong rank",
        model(
            [node("MatMul", "x W", "h"), node("Add", "h c", "y")],
            [1, 2, 4],
            [1, 2, 4],
            {"W": square, "c": normal(2, 4)},
        ),
        (2, 4),
        8,
        True,
    )
    yield (
        "reshape to batch 1",
        model(
            [node("Reshape", "x s", "f"), node("MatMul", "f W", "y")],
            [1, 2, 2],
            [1, 4],
            {"s": np.array([1, -1]), "W": square},
        ),
        (2, 2),
        4,
        True,
    )
    yield (
        "reshape to a computed shape",
        model(
            [
                node("Shape", "x", "s"),
                node("Gather", "s zero", "n", axis=0),
                node("Unsqueeze", "n zero_axis", "m"),
                node("Concat", "m rest", "t", axis=0),
                node("Reshape", "x t", "f"),
                node("MatMul", "f W", "y"),
            ],
            [1, 2, 2],
            [1, 4],
            {"zero": np.array(0), "zero_axis": np.array([0]), "rest": np.array([-1]), "W": square},
        ),
        (2, 2),
        4,
        True,
    )
    yield (
        "convolution, batch norm, no padding, spatial output",
        model(
            [
                node("Sub", "x mean", "z"),
                node("AveragePool", "z", "a", kernel_shape=[2, 2], strides=[2, 2]),
                node("Pad", "a pads", "p"),
                node("Conv", "p K k", "c", pads=[1, 1, 1, 1]),
                node("BatchNormalization", "c g o m v", "n"),
                node("Relu", "n", "y"),
            ],
            [1, 2, 4, 4],
            [1, 3, 2, 2],
            {
                **{
                    "mean": normal(1, 2, 1, 1),
                    "K": normal(3, 2, 3, 3),
                    "k": normal(3),
                    "g": normal(3),
                    "o": normal(3),
                },
                **{"m": normal(3), "v": normal(3) ** 2 + 0.1, "pads": np.zeros(8, np.int64)},
            },
        ),
        (2, 4, 4),
        12,
        True,
    )
    yield (
        "slices, gathers and splits",
        model(
            [
                node("MatMul", "x W", "h"),
                node("Slice", "h one big last", "a"),
                node("Slice", "h minus small last minus", "b"),
                node("Gather", "b two", "c", axis=-1),
                node("Unsqueeze", "c last", "d"),
                helper.make_node("Split", ["a", "sizes"], ["p", "q"], axis=1),
                node("Concat", "q d p", "y", axis=1),
            ],
            [1, 4],
            [1, 4],
            {
                **{"W": square, "one": np.array([1]), "big": np.array([2**62]), "last": np.array([-1])},
                **{
                    "minus": np.array([-1]),
                    "small": np.array([-(2**62)]),
                    "two": np.array(2),
                    "sizes": np.array([1, 2]),
                },
            },
        ),
        (4,),
        4,
        True,
    )
    yield (
        "reductions",
        model(
            [
                node("ReduceSum", "x axis", "s"),
                node("ReduceMean", "x", "m", axes=[1], keepdims=1),
                node("Add", "s m", "a"),
                node("Squeeze", "a axis", "y"),
            ],
            [1, 3, 4],
            [1, 4],
            {"axis": np.array([1])},
        ),
        (3, 4),
        4,
        True,
    )
    yield (
        "flattened across the batch",
        model([node("Flatten", "x", "f", axis=0), node("MatMul", "f W", "y")], [1, 2, 2], [1, 4], {"W": square}),
        (2, 2),
        4,
        False,
    )


NETWORKS = {name: rest for name, *rest in _networks()}
HOST_03_LACKS = ("constant factor from the left of a matrix", "bias of the wrong rank")


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_network_equals_onnxruntime(name, tmp_path):
    proto, shape, n_outputs, batched = NETWORKS[name]
    path = save(tmp_path / "n.onnx", proto)
    network, session = load_onnx(path), onnx_session(path)
    assert (network.input_shape, network.n_outputs, network.takes_batches) == (shape, n_outputs, batched)
    assert network.dtype == (torch.float64 if session.dtype == np.float64 else torch.float32)
    assert not network.training
    tolerance = 1e-12 if network.dtype == torch.float64 else 1e-5
    assert network.max_difference < tolerance * 10
    x = RANDOM.standard_normal((3 if batched else 1, *shape)).astype(session.dtype)
    y = network(torch.from_numpy(x)).detach().numpy()
    assert y.dtype == session.dtype and y.shape == (len(x), n_outputs)
    np.testing.assert_allclose(y, session(x), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(session(x.reshape(len(x), -1)), session(x))


@pytest.mark.parametrize("name", [n for n, (*_, batched) in NETWORKS.items() if batched])
def test_host_bounds_contain_converted_network(name, tmp_path):
    if IS_03 and name in HOST_03_LACKS:
        pytest.skip("auto_LiRPA 0.3 has no rule for these shapes")
    network = load_onnx(save(tmp_path / "n.onnx", NETWORKS[name][0]))
    _assert_bounded(network, batch=2)


def _assert_bounded(network, batch):
    x = torch.rand(batch, *network.input_shape, dtype=network.dtype)
    bounded = BoundedModule(network, x[:1])
    region = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=1e-3))
    lower, upper = bounded.compute_bounds(x=(region,), method="CROWN")
    y = network(x + 1e-3 * (2 * torch.rand_like(x) - 1))
    slack = 1e-4 * y.abs().max().clamp(min=1)
    assert lower.shape == upper.shape == (batch, network.n_outputs)
    assert (lower <= y + slack).all() and (y <= upper + slack).all()


def test_left_factor_is_not_transposed(tmp_path):
    # onnx2pytorch alone computes x W for a square W.
    W = np.array([[1.0, 2.0], [0.0, 3.0]])
    path = save(tmp_path / "n.onnx", model([node("MatMul", "W x", "y")], [2], [2], {"W": W}))
    assert load_onnx(path)(torch.tensor([[1.0, 10.0]])).tolist() == [[21.0, 30.0]]


def test_compressed_under_either_name(tmp_path):
    (tmp_path / "n.onnx.gz").write_bytes(gzip.compress(_mlp().SerializeToString()))
    for name in ("n.onnx", "n.onnx.gz"):
        assert load_onnx(tmp_path / name).n_outputs == 3
        assert onnx_session(tmp_path / name)(np.zeros((2, 4))).shape == (2, 3)


def _with_nan():
    return model([node("MatMul", "x W", "y")], [1, 2], [1, 2], {"W": np.array([[1.0, np.nan], [0.0, 1.0]])})


def _with_external_weights():
    proto = model([node("MatMul", "x W", "y")], [1, 2], [1, 2], {"W": np.eye(2)})
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return proto


def _two_inputs():
    proto = model([node("Add", "x z", "y")], [1, 2], [1, 2])
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2]))
    return proto


def _two_types():
    proto = _two_inputs()
    proto.graph.input[1].type.tensor_type.elem_type = TensorProto.DOUBLE
    return proto


def _classes():
    """A second output of whole numbers."""
    proto = _mlp()
    proto.graph.node.append(helper.make_node("ArgMax", ["y"], ["class"]))
    proto.graph.output.append(helper.make_tensor_value_info("class", TensorProto.INT64, None))
    return proto


def _relu(shape, **options):
    return model([node("Relu", "x", "y")], shape, shape, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: expected an ONNX network"),
        (b"not a network", "is not an ONNX network, or is truncated"),
        (_mlp().SerializeToString()[:-40], "is not an ONNX network, or is truncated"),
        (gzip.compress(_mlp().SerializeToString())[:-40], "cannot be read as an ONNX network"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "it has no nodes"),
        (_with_nan(), "has NaN in `W`"),
        (_with_external_weights(), "keeps `W` in another file"),
        (_two_types(), "takes `x` as float32, `z` as float64: expected one type for all inputs"),
        (_classes(), "gives `class` as int64: expected float32"),
        (_relu([1, "n"]), "has an input `x` of shape [1, n]: expected fixed sizes"),
        (_relu(["n"]), "has an input `x` of shape [n]: expected fixed sizes"),
        (_relu([]), "has an input `x` of shape []: expected fixed sizes"),
        (_relu([1, 2], dtype=np.float16), "takes `x` as FLOAT16: expected FLOAT or DOUBLE"),
        (_relu([1, 2], opset=999), "is not accepted by onnxruntime"),
        (
            model([node("RandomUniformLike", "x", "r"), node("Add", "x r", "y")], [1, 2], [1, 2]),
            "gives other outputs when converted by onnx2pytorch",
        ),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, content, message):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    with pytest.raises(FileError) as caught:
        load_onnx(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"`{path}`") and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileError, match="does not exist: expected an ONNX network"):
        load_onnx(tmp_path / "absent.onnx")


def test_all_unsupported_operators_are_listed(tmp_path):
    nodes = [
        node("Foo", "x", "a", name="first"),
        node("Relu", "a", "b"),
        node("Round", "b", "c"),
        node("Bar", "c", "y"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        load_onnx(save(tmp_path / "n.onnx", model(nodes, [1, 2], [1, 2])))
    assert [text.split(" (")[0] for text in caught.value.offenders] == ["Foo `first`", "Bar `y`"]

    foreign = model(
        [helper.make_node("FastGelu", ["x"], ["h"], domain="com.microsoft"), node("Relu", "h", "y")],
        [1, 2],
        [1, 2],
        domains=("com.microsoft",),
    )
    with pytest.raises(UnsupportedError, match=r"FastGelu `h` of domain `com.microsoft`"):
        load_onnx(save(tmp_path / "n.onnx", foreign))


def printed(code):
    """What a fresh process prints."""
    done = python("-W", "ignore", "-c", "import sys\n" + code)
    assert done.returncode == 0, done.stderr
    return done.stdout


RELU = DATA / "digits_relu.onnx"
BOXES = "torch.tensor([[[0., 0., 1., 1.], [0., 0., 1., .9]]]), torch.tensor([[[.9, .8]]])"


def test_loading_a_network_leaves_torchvision_and_the_compiler_alone():
    """Together they take as long to import as torch does."""
    code = f"""
import recurjac_plugin as rj, torch
rj.load_onnx({str(RELU)!r})
print(sorted({{"torchvision", "torchvision.ops", "torch._dynamo"}} & set(sys.modules)))
"""
    assert printed(code) == "[]\n"


def test_torchvision_that_does_not_fit_torch_or_is_missing_is_no_obstacle(tmp_path):
    """A stand-in torchvision, which fails on import as PyPI's does beside a CPU build of torch."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(*_):\n    return None\n"
    )
    use = f"""
import recurjac_plugin as rj, torch
print(rj.load_onnx({str(RELU)!r}).n_outputs)
from onnx2pytorch.operations import NonMaxSuppression
try:
    NonMaxSuppression()({BOXES}, 2, 0.5, 0.1)
except NotImplementedError as error:
    print(error)
"""
    broken = printed(f"sys.path.insert(0, {str(tmp_path)!r})\n{use}")
    assert broken.startswith("10\nneeds `torchvision`, which does not import: ")
    missing = printed(f"sys.meta_path.insert(0, type('Gone', (), {{'find_spec': lambda name, *_: (_ for _ in ()).throw("
                      f"ImportError('gone')) if name.startswith('torchvision') else None}}))\n{use}")  # fmt: skip
    assert missing == "10\nneeds `torchvision`, which does not import: gone\n"


def test_operators_of_torchvision_are_found_when_they_are_used(tmp_path):
    """Here in a stand-in; whoever imports torchvision afterwards gets it, not what stood for it."""
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import ops\n")
    (folder / "ops.py").write_text("import torch\ndef nms(*_):\n    return torch.tensor([1])\n")
    code = f"""
sys.path.insert(0, {str(tmp_path)!r})
import recurjac_plugin as rj, torch
rj.load_onnx({str(RELU)!r})
from onnx2pytorch.operations import NonMaxSuppression
print("torchvision" in sys.modules, NonMaxSuppression()({BOXES}, 2, 0.5, 0.1).tolist())
import torchvision
print(torchvision.ops.nms.__module__)
"""
    assert printed(code) == "False [[0, 0, 1]]\ntorchvision.ops\n"


KINDS = [
    "acasxu/ACASXU_run2a_1_1_batch_2000.onnx",
    "cifar10_resnet/onnx/resnet_2b.onnx",
    "collins_rul_cnn/onnx/NN_rul_full_window_40.onnx",
    "collins_rul_cnn/onnx/NN_rul_small_window_20.onnx",
    "eran/nets/ffnnSIGMOID__Point_6x200.onnx",
    "eran/nets/mnist_relu_9_200.onnx",
    "marabou-cifar10/nets/cifar10_small.onnx",
    "mnistfc/mnist-net_256x4.onnx",
    "oval21/nets/cifar_base_kw.onnx",
    "reach_prob_density/onnx/gcas.onnx",
    "reach_prob_density/onnx/robot.onnx",
    "reach_prob_density/onnx/vdp.onnx",
    "rl_benchmarks/onnx/cartpole.onnx",
    "rl_benchmarks/onnx/dubinsrejoin.onnx",
    "rl_benchmarks/onnx/lunarlander.onnx",
    "test/test_nano.onnx",
    "test/test_small.onnx",
    "test/test_tiny.onnx",
    "tllverifybench/onnx/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx",
    "verivital/Convnet_avgpool.onnx",
    "verivital/Convnet_maxpool.onnx",
]


@pytest.mark.parametrize("name", KINDS)
def test_vnncomp_network(name, vnncomp):
    network = load_onnx(vnncomp / name)
    assert network.takes_batches
    assert network.max_difference < 2e-4
    _assert_bounded(network, batch=1 if "resnet" in name else 2)
