"""Export of any network: packed equals PyTorch, differences are refused, ONNX agrees."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import NARROW
from requirements import needs
from torch import nn
from torch.nn import functional as F

from rbsf.conversion import binarize
from rbsf.engine.graph import PackedModel
from rbsf.engine.node import Node
from rbsf.engine.run import Engine
from rbsf.export.images import Images
from rbsf.export.pack import (
    export_classifier,
    export_float_tracker,
    export_network,
    export_tracker,
)
from rbsf.methods import METHODS, get_method
from rbsf.models import build
from rbsf.models.whole import Round


def taken(shape: tuple[int, int, int]) -> Images:
    """What networks take in these tests: each channel is scaled in its own way."""
    return Images(shape, [120.0] * shape[2], [60.0 + c for c in range(shape[2])])


def settle(net: nn.Module, images: Images) -> nn.Module:
    """Give batch-norms any sign, and 0 to some channels.

    Their statistics are those of noise, so that bits of both kinds occur.
    """
    generator = torch.Generator().manual_seed(0)
    noise = np.random.default_rng(100).integers(0, 256, (8, *images.shape), np.uint8)
    norms = [
        module for module in net.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))
    ]
    for norm in norms:
        norm.weight.data.normal_(generator=generator)
        norm.weight.data[::7] = 0
        norm.bias.data.normal_(0, 0.5, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(images.normalised(noise))
    return net.eval()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """All images but one at most are close.

    In that one, float32 may have rounded a value across its threshold.
    """
    far = np.abs(found - expected).reshape(len(found), -1).max(1) > 1e-4 * np.abs(expected).max()
    assert far.sum() <= 1


def assert_agrees(
    net: nn.Module, shape: tuple[int, int, int], tmp_path, count: int = 4
) -> PackedModel:
    """The file that is written computes what `net` does in float64; returns its contents."""
    images, path = taken(shape), tmp_path / "net.safetensors"
    settle(net, images)
    noise = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    export_classifier(net, "net", images).compare(noise).check()
    packed = export_network(net, path, "net", shape, {}, images.mean, images.std)
    expected = images.logits(deepcopy(net).double(), noise)
    for isa in ("auto", "numpy"):
        assert_close(Engine(path, isa=isa)(noise), expected)
    return packed


def nodes_of(net: nn.Module, shape: tuple[int, int, int], **images) -> tuple:
    return export_classifier(net, "net", Images(shape, **images)).packed.nodes


@pytest.mark.parametrize(
    ("model", "options", "shape"),
    [
        ("resnet18", {"stages": "8-16-24-40", "stem": "cifar", "shortcut": "conv"}, (32, 32, 3)),
        (
            "resnet18",
            {"stages": "8-16-24-40", "stem": "imagenet", "shortcut": "block"},
            (65, 50, 3),
        ),
        ("wrn22", {"stages": "16-16-20-32"}, (32, 32, 3)),
        ("wrn22", {"stages": "8-16-20-32", "shortcut": "block"}, (20, 20, 3)),
        ("lenet", {}, (28, 28, 1)),
    ],
)
@pytest.mark.parametrize("method", ["", "rbcn"])
def test_networks_agree_with_torch(model, options, shape, method, tmp_path) -> None:
    torch.manual_seed(0)
    assert_agrees(build(model, method=method, classes=10, **options), shape, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_torch(method, tmp_path) -> None:
    torch.manual_seed(1)
    assert_agrees(build("lenet", method=method), (28, 28, 1), tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_that_no_batch_norm_follows_is_kept(method, tmp_path) -> None:
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.ReLU(),
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    binarize(net, method)
    net[2].bias.data *= 20
    assert_agrees(net, (14, 12, 3), tmp_path)
    (node,) = (n for n in nodes_of(net, (14, 12, 3)) if n.name == "2")
    np.testing.assert_array_equal(node.tensors["bias"], net[2].bias.detach().numpy())


class Own(nn.Module):
    """A network as users write them.

    It has functions and methods in forward, groups, dropout and a layer of any size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 9, 5, 2, 2)
        self.second = nn.Conv2d(9, 21, 3, 1, 1, groups=3)
        self.norm = nn.BatchNorm2d(21)
        self.act = nn.PReLU(21)
        self.third = nn.Conv2d(21, 21, 3, padding=1, bias=False)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(21 * 5 * 4, 30)
        self.last = nn.Sequential(nn.BatchNorm1d(30), nn.ReLU6(), nn.Linear(30, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = self.act(self.norm(self.second(x)))
        x = x + self.third(x)
        x = F.max_pool2d(
            F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False), 2, ceil_mode=True
        )
        x = F.dropout(x.view(x.size(0), -1), 0.3, self.training)
        return self.last(self.linear(self.drop(x)))


@pytest.mark.parametrize("method", ["", "rbcn", "xnor_k", "abcnet"])
def test_a_users_own_network_agrees(method, tmp_path) -> None:
    torch.manual_seed(2)
    net = Own()
    if method:
        binarize(net, method)
    assert_agrees(net, (37, 30, 3), tmp_path)


def test_batch_norms_are_folded() -> None:
    net = settle(build("wrn22", method="rbcn", shortcut="block"), taken((32, 32, 3)))
    nodes = nodes_of(net, (32, 32, 3), std=(60.0,))
    ops = [node.op for node in nodes]
    assert ops.count("conv_bits") == 18
    assert ops.count("affine") == 1 + 9, (
        "the images' and the scale of each block's last convolution"
    )
    thresholds = [node.tensors["threshold"].dtype for node in nodes if node.op == "sign"]
    assert (thresholds.count(np.int32), thresholds.count(np.float32)) == (9, 9)
    bits = sum(8 * n.tensors["weight"].nbytes for n in nodes if n.op == "conv_bits")
    assert bits == 9 * (6 * 64 * 64 + 64 * 128 + 5 * 128 * 128 + 128 * 256 + 5 * 256 * 256)


class Unknown(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1)),
            "1 is a Softmax, which has none: leave it out",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Fold((6, 6), 1)),
            "1 is a Fold; expected one of BinaryConv2d, Conv2d",
        ),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), "0 is a ConvTranspose2d"),
        (
            nn.Sequential(nn.Conv2d(3, 4, (3, 1))),
            r"0 has kernel_size \(3, 1\), expected one whole number",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), "0 has padding same"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), "0 has dilation"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect")), "0 has padding_mode 'reflect'"),
        (
            nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
            "0 has no running statistics",
        ),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), r"0 has output_size 2, expected 1"),
        (
            nn.Sequential(nn.Conv2d(5, 4, 3)),
            r"node '0' \(conv\): weight is float32 \[4, 3, 3, 5\], expected",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 9)), r"node '0' \(conv\): its output would be \(0, 0, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), r"node '1' \(linear\): weight is"),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(None)),
            "0 has output_size None, expected one whole number",
        ),
        (
            nn.Sequential(nn.Upsample(scale_factor=1.5)),
            "0 has scale_factor 1.5, expected one whole number",
        ),
        (
            nn.Sequential(nn.Upsample(size=(8, 8))),
            "0 has scale_factor None, expected one whole number",
        ),
        (
            nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")),
            "0 has mode 'bilinear', expected 'nearest'",
        ),
        (
            Unknown(lambda x: F.interpolate(x, (8, 8))),
            "interpolate has scale_factor None, expected one whole number",
        ),
        (
            Unknown(lambda x: F.interpolate(x, scale_factor=2, mode="area")),
            "interpolate has mode 'area', expected",
        ),
        (Unknown(lambda x: torch.cat([x, x], 2)), r"cat calls cat with \(2,\), which no node does"),
        (
            Unknown(lambda x: torch.cat([x, F.max_pool2d(x, 2)], 1)),
            "expected maps of one kind and size, got real",
        ),
        (
            Unknown(lambda x: x + F.adaptive_avg_pool2d(x, 1)),
            r"expected maps of one shape, got \(6, 6, 4\), \(1, 1, 4\)",
        ),
        (
            Unknown(lambda x: x * F.max_pool2d(x, 2)),
            r"node 'mul' \(mul\): expected a map \(6, 6, 4\) and one like it",
        ),
        (Unknown(torch.tanh), "tanh calls tanh"),
        (Unknown(lambda x: x * 2), r"mul calls mul with \(2,\)"),
        (Unknown(lambda x: x if x.sum() > 0 else -x), "cannot be traced by torch.fx"),
        (Unknown(lambda x: (x, x)), "output is not one value"),
        (Unknown(lambda x: x + x[:, :4]), "getitem is a part or the size of a map"),
        (Unknown(lambda x: x[:, :2]), "getitem is a part or the size of a map"),
        (
            nn.Sequential(Unknown(lambda x: x[:, :2]), nn.Conv2d(2, 4, 3)),
            "getitem is a part or the size of a map",
        ),
        (Unknown(lambda x: F.dropout(x)), "dropout calls dropout"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)).train(), "in training mode"),
    ],
)
def test_networks_without_a_packed_form_are_refused(net: nn.Module, message: str) -> None:
    if "training mode" not in message:
        net.eval()
    with pytest.raises(ValueError, match=message) as caught:
        nodes_of(net, (8, 8, 3))
    assert str(caught.value).startswith("no packed form: ")
    assert "\n" not in str(caught.value)


# ---- what networks are made of


class Made(nn.Module):
    """A network of `modules` whose forward is `function(self, x)`."""

    def __init__(self, function, **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def binary(
    inputs: int, outputs: int, method: str = "xnor", border: float = -1.0, **geometry
) -> nn.Module:
    layer = get_method(method)(inputs, outputs, 3, input_norm=True, **geometry)
    layer.border = border
    return layer


def head(channels: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def squeezed(net: Made, x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(net.grow(F.relu(net.shrink(F.adaptive_avg_pool2d(x, 1)))))


def beside_its_norm(net: Made, x: torch.Tensor) -> torch.Tensor:
    return F.relu(net.norm(x)) + x


def stem(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))


def squeeze_and_excitation(excite) -> Made:
    parts = {
        "shrink": nn.Conv2d(8, 2, 1),
        "grow": nn.Conv2d(2, 8, 1),
        "conv": binary(8, 8),
        "head": head(8),
    }
    return Made(lambda net, x: net.head(net.conv(excite(net, net.stem(x)))), stem=stem(8), **parts)


MADE = {
    "two maps side by side": lambda: Made(
        lambda net, x: net.head(net.conv(torch.cat([net.a(x), net.b(x)], 1))),
        a=stem(8), b=stem(12), conv=binary(20, 8), head=head(8),
    ),
    "three maps side by side": lambda: Made(
        lambda net, x: net.head(net.conv(torch.cat((net.a(x), net.b(x), net.a(x)), dim=-3))),
        a=stem(5), b=stem(7), conv=binary(17, 8), head=head(8),
    ),
    "a dense block of binary convolutions": lambda: Made(
        lambda net, x: net.head(torch.cat([net.a(x), net.conv(net.a(x))], dim=1)),
        a=stem(8), conv=binary(8, 12, padding=1), head=head(20),
    ),
    "pixels beside a map": lambda: Made(
        lambda net, x: net.head(torch.cat([x, net.conv(x)], 1)),
        conv=binary(3, 8, padding=1), head=head(11),
    ),
    "nn.Upsample": lambda: nn.Sequential(
        stem(8), nn.Upsample(scale_factor=2), binary(8, 8), head(8),
    ),
    "F.interpolate": lambda: Made(
        lambda net, x: net.head(net.conv(net.a(x) + F.interpolate(net.b(x), scale_factor=3.0))),
        a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(3, 8, 3, 3, 1),
        conv=binary(8, 8), head=head(8),
    ),
    "squeeze and excitation": lambda: squeeze_and_excitation(lambda net, x: x * squeezed(net, x)),
    "squeeze and excitation, said the other way": lambda: squeeze_and_excitation(
        lambda net, x: squeezed(net, x) * x
    ),
    "gates in place": lambda: squeeze_and_excitation(lambda net, x: x.mul_(squeezed(net, x))),
    "a gate of a vector": lambda: Made(
        lambda net, x: net.b(torch.sigmoid(net.gate(net.a(x))) * net.a(x)),
        a=nn.Sequential(stem(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        gate=nn.Linear(8, 8), b=nn.Linear(8, 5),
    ),
    "PReLU per channel": lambda: nn.Sequential(
        stem(8), nn.PReLU(8), binary(8, 8), nn.PReLU(8), binary(8, 8), head(8),
    ),
    "a convolution that not only its norm reads": lambda: Made(
        lambda net, x: net.head(beside_its_norm(net, net.a(x)) + beside_its_norm(net, net.conv(x))),
        a=nn.Conv2d(3, 8, 3), conv=binary(3, 8), norm=nn.BatchNorm2d(8), head=head(8),
    ),
    "ReLU without a norm behind": lambda: nn.Sequential(
        stem(8), nn.ReLU(), get_method("xnor")(8, 8, 3), head(8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_what_networks_are_made_of_agrees(make, tmp_path) -> None:
    torch.manual_seed(6)
    assert_agrees(make(), (15, 12, 3), tmp_path)


@pytest.mark.parametrize("border", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize(
    ("stride", "groups", "padding"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 4, 2)]
)
@pytest.mark.parametrize("method", ["rbcn", "abcnet", "xnor_k"])
def test_borders_of_binary_convolutions_agree(
    method, border, stride, groups, padding, tmp_path
) -> None:
    torch.manual_seed(7)
    geometry = {"border": border, "stride": stride, "groups": groups, "padding": padding}
    layers = [
        binary(8, 16, method, **geometry),
        nn.BatchNorm2d(16),
        binary(16, 8, method, **geometry),
    ]
    packed = assert_agrees(nn.Sequential(stem(8), *layers, head(8)), (14, 11, 3), tmp_path)
    borders = {node.attributes["border"] for node in packed.nodes if node.op == "conv_bits"}
    assert borders == ({-1, 1} if border == 0 else {border})


def test_a_border_of_0_is_the_mean_of_both_others() -> None:
    net = settle(nn.Sequential(stem(8), binary(8, 16, padding=1, border=0.0)), taken((9, 9, 3)))
    low, high, both, scale = export_classifier(net, "net", Images((9, 9, 3))).packed.nodes[-4:]
    assert low.attributes["border"] == -1
    assert high.attributes["border"] == 1
    assert both.inputs == (low.name, high.name)
    assert low.tensors["weight"] is high.tensors["weight"], "kept once in the file"
    np.testing.assert_array_equal(scale.tensors["scale"], net[1].scale().detach().numpy() / 2)


def residual(last: nn.Module, **parts: nn.Module) -> Made:
    parts |= {"a": binary(8, 8, "binarynet"), "b": binary(8, 8, "binarynet"), "last": last}
    return Made(
        lambda net, x: net.last(net.a(net.stem(x)) + net.b(net.stem(x))), stem=stem(8), **parts
    )


def test_whole_numbers_are_added_as_such(tmp_path) -> None:
    torch.manual_seed(8)
    packed = assert_agrees(residual(nn.Sequential(binary(8, 8), head(8))), (12, 10, 3), tmp_path)
    (add,) = (node for node in packed.nodes if node.op == "add")
    assert (packed.maps[add.name].kind, packed.maps[add.name].largest) == ("whole", 2 * 9 * 8)
    (sign,) = (node for node in packed.nodes if add.name in node.inputs)
    assert (sign.op, sign.tensors["threshold"].dtype) == ("sign", np.int32)


def test_whole_numbers_that_something_real_reads_agree(tmp_path) -> None:
    torch.manual_seed(8)
    packed = assert_agrees(
        residual(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), head(8))), (12, 10, 3), tmp_path
    )
    (add,) = (node for node in packed.nodes if node.op == "add")
    assert packed.maps[add.name].kind == "whole"
    assert [node.op for node in packed.nodes if add.name in node.inputs] == ["affine"]


@pytest.mark.parametrize("border", [-1.0, 1.0])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2), nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)])
def test_a_pool_between_norms_of_any_sign_agrees(pool, border, tmp_path) -> None:
    """A negative scale turns the largest value into that of the least sum."""
    torch.manual_seed(9)
    convs = [
        binary(8, 16, padding=1),
        nn.BatchNorm2d(16),
        pool,
        binary(16, 8, padding=1, border=border),
    ]
    net = nn.Sequential(stem(8), *convs, head(8))
    assert_agrees(net, (14, 14, 3), tmp_path)
    assert (net[2].weight < 0).any()
    assert (net[4].norm.weight < 0).any()


@pytest.mark.parametrize(
    "first",
    [
        nn.MaxPool2d(3, 2),
        nn.AvgPool2d(2),
        nn.ReLU(),
        nn.Identity(),
        nn.BatchNorm2d(3),
        nn.Upsample(scale_factor=2),
    ],
)
@pytest.mark.parametrize("mean", [0.0, 120.0])
def test_whatever_reads_the_pixels_agrees(first, mean) -> None:
    """Pixels are whole numbers from 0 to 255, which few operations take directly."""
    torch.manual_seed(5)
    images = Images((14, 12, 3), [mean], [1.0])
    net = settle(nn.Sequential(deepcopy(first), binary(3, 8), head(8)), images)
    noise = np.random.default_rng(0).integers(0, 256, (4, 14, 12, 3), np.uint8)
    exported = export_classifier(net, "net", images)
    exported.compare(noise).check()
    assert_close(Engine(exported.packed)(noise), images.logits(deepcopy(net).double(), noise))


# ---- in place


class InPlace(nn.Module):
    """A block whose shortcut takes what `change` may have changed in place."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.relu, self.drop, self.last = nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.change(self, x)
        return self.last(F.adaptive_avg_pool2d(self.second(y) + x, 1).flatten(1))


def changed(x: torch.Tensor, *_) -> torch.Tensor:
    return x


def added(net: InPlace, x: torch.Tensor) -> torch.Tensor:
    y = net.second(x)
    y += x
    return y


IN_PLACE = {
    "a module": lambda net, x: net.relu(x),
    "a function": lambda net, x: changed(x, F.relu(x, inplace=True)),
    "a function, said by place": lambda net, x: changed(x, F.relu(x, True)),
    "a function of two numbers": lambda net, x: changed(x, F.hardtanh(x, -0.5, 0.7, True)),
    "a method": lambda net, x: changed(x, x.relu_()),
    "a method of two numbers": lambda net, x: changed(x, x.clamp_(-0.5, 0.7)),
    "another name of the same map": lambda net, x: changed(x, net.relu(net.drop(x))),
    "a sum": added,
    "a sum, and its term after it": lambda net, x: changed(x, x.add_(net.second(x))),
    "a copy": lambda net, x: changed(x, F.relu(x)),
    "twice": lambda net, x: net.relu(changed(x, x.clamp_(-0.5, 0.7))),
}


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("method", ["", "rbcn"])
def test_what_works_in_place_changes_its_input_for_all(change, method, tmp_path) -> None:
    torch.manual_seed(4)
    net = InPlace(change)
    if method:
        binarize(net, method)
    assert_agrees(net, (12, 10, 3), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net, x: changed(x, x.mul_(0.5)),
            r"mul_ calls mul_ with \(0.5,\), which no node does",
        ),
        (
            lambda net, x: changed(x, x.flatten(1).relu_()),
            "relu_ works in place on .*, which has another shape",
        ),
        (lambda net, x: changed(x, x.clamp_(0)), "clamp_ calls clamp_"),
    ],
)
def test_what_works_in_place_without_a_packed_form_is_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        nodes_of(InPlace(change).eval(), (12, 10, 3))


# ---- ONNX


def assert_onnx_agrees(packed: PackedModel, images: np.ndarray, expected: np.ndarray, path) -> None:
    """The ONNX graph of `packed` gives what PyTorch and the engine give."""
    onnx = pytest.importorskip("onnx", reason=needs("onnxruntime", "it is not installed"))
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    from rbsf.export.onnx import network_graph, run_graph

    onnx.save(network_graph(packed), str(path))
    for other in (expected, Engine(packed)(images)):
        assert_close(run_graph(path, images), other)


def assert_onnx_of(net: nn.Module, shape: tuple[int, int, int], path) -> None:
    images = taken(shape)
    noise = np.random.default_rng(0).integers(0, 256, (4, *shape), np.uint8)
    packed = export_classifier(settle(net, images), "net", images).packed
    assert_onnx_agrees(packed, noise, images.logits(net, noise), path)


@pytest.mark.parametrize("method", ["", *METHODS])
def test_onnx_graph_agrees_with_torch(method, tmp_path) -> None:
    torch.manual_seed(3)
    own = Own()
    if method:
        binarize(own, method)
    resnet = build("resnet18", method=method, stages="8-16-16-24", stem="cifar", classes=7)
    for net, shape in [(resnet, (19, 19, 3)), (own, (37, 30, 3))]:
        assert_onnx_of(net, shape, tmp_path / "net.onnx")


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_onnx_graphs_of_what_networks_are_made_of_agree(make, tmp_path) -> None:
    torch.manual_seed(6)
    assert_onnx_of(make(), (15, 12, 3), tmp_path / "net.onnx")


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_onnx_graphs_of_other_borders_agree(border, tmp_path) -> None:
    torch.manual_seed(7)
    layers = [
        binary(8, 16, padding=1, stride=2, groups=2, border=border),
        binary(16, 8, padding=2, border=border),
    ]
    assert_onnx_of(nn.Sequential(stem(8), *layers, head(8)), (14, 11, 3), tmp_path / "net.onnx")


@pytest.mark.parametrize("model", ["rbsf", "xnor", "siamfc"])
def test_onnx_graphs_of_trackers_agree(model, tmp_path) -> None:
    """The float network as given agrees, and the packed one where there is one."""
    torch.manual_seed(0)
    net = settle(build(model, width=NARROW), Images((127, 119, 3)))
    noise = np.random.default_rng(0).integers(0, 256, (4, 127, 119, 3), np.uint8)
    given = export_float_tracker(net, model)
    for exported in [given, *([export_tracker(net, model)] if model != "siamfc" else [])]:
        expected = exported.images.logits(exported.net, noise)
        assert expected.shape == (4, 256, 6, 5)
        assert_onnx_agrees(exported.packed, noise, expected, tmp_path / "net.onnx")
    assert given.packed.nodes[1].op == "conv"


def test_onnx_graph_of_planes_at_one_size(tmp_path) -> None:
    """A network that ends in `channels_first` and takes images of one size alone."""
    torch.manual_seed(0)
    net = settle(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), Images((9, 7, 3)))
    exported = export_classifier(net, "net", Images((9, 7, 3)))
    packed = exported.packed
    planes = Node("planes", "channels_first", (packed.nodes[-1].name,))
    packed = PackedModel("net", "tracker", (*packed.nodes, planes), {})
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), np.uint8)
    expected = exported.images.logits(net, noise)
    assert expected.shape == (2, 5, 7, 5)
    assert_onnx_agrees(packed, noise, expected, tmp_path / "net.onnx")


@pytest.mark.parametrize("method", METHODS)
def test_a_round_in_front_of_a_binary_convolution(method, tmp_path) -> None:
    torch.manual_seed(2)
    layer = get_method(method)(8, 16, 3)
    assert_agrees(nn.Sequential(stem(8), Round(), layer, head(16)), (14, 11, 3), tmp_path)
