"""Export of networks to the packed form: bits, logits and predictions against PyTorch, and what has no such form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from requirements import needs
from torch import nn
from torch.nn import functional as F

from rbsf.agreement import compare
from rbsf.engine.network import Network
from rbsf.engine.nodes import NetworkModel
from rbsf.export_network import export_network, network_nodes
from rbsf.layers import binarize
from rbsf.methods import METHODS
from rbsf.models import build


def unsettle(net: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and scales of batch-norms as training leaves them, and some negative and zero scales."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data[::7] = 0
    return net.eval()


def assert_agrees(net: nn.Module, shape: tuple[int, int, int], tmp_path, count: int = 4) -> None:
    mean, std = [120.0] * shape[2], [60.0 + c for c in range(shape[2])]
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    export_network(net, tmp_path / "net.safetensors", "net", shape, {}, mean, std)
    found = compare(net, Network(tmp_path / "net.safetensors"), images, mean, std)
    print(found)
    # A value within rounding of its threshold is one of many; where there was none, all that is left is rounding.
    assert found.differing <= 1e-5 * found.bits
    if not found.differing:
        assert found.logits <= 1e-4 * found.largest
        assert found.predictions == 0


@pytest.mark.parametrize(
    ("model", "options", "shape"),
    [
        ("resnet18", {"stages": "8-16-24-40", "stem": "cifar", "shortcut": "conv"}, (32, 32, 3)),
        ("resnet18", {"stages": "8-16-24-40", "stem": "imagenet", "shortcut": "block"}, (65, 50, 3)),
        ("wrn22", {"stages": "16-16-20-32"}, (32, 32, 3)),
        ("wrn22", {"stages": "8-16-20-32", "shortcut": "block"}, (20, 20, 3)),
        ("lenet", {}, (28, 28, 1)),
    ],
)
@pytest.mark.parametrize("method", ["", "rbcn"])
def test_networks_agree_with_torch(model, options, shape, method, tmp_path) -> None:
    torch.manual_seed(0)
    assert_agrees(unsettle(build(model, method=method, classes=10, **options)), shape, tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_torch(method, tmp_path) -> None:
    torch.manual_seed(1)
    assert_agrees(unsettle(build("lenet", method=method)), (28, 28, 1), tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_that_no_batch_norm_follows(method, tmp_path) -> None:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    binarize(net, method)
    net[2].bias.data *= 20
    assert_agrees(unsettle(net), (14, 12, 3), tmp_path)
    (node,) = (n for n in network_nodes(net, (14, 12, 3)) if n.name == "2")
    np.testing.assert_array_equal(node.tensors["bias"], net[2].bias.detach().numpy())


class Own(nn.Module):
    """What people write: functions and methods in forward, groups, dropout, a layer of any size."""

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
        x = F.max_pool2d(F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False), 2, ceil_mode=True)
        x = F.dropout(x.view(x.size(0), -1), 0.3, self.training)
        return self.last(self.linear(self.drop(x)))


@pytest.mark.parametrize("method", ["", "rbcn", "xnor_k", "abcnet"])
def test_a_network_of_ones_own_agrees(method, tmp_path) -> None:
    torch.manual_seed(2)
    net = Own()
    if method:
        binarize(net, method)
    assert_agrees(unsettle(net), (37, 30, 3), tmp_path)


def test_batch_norms_are_folded() -> None:
    net = unsettle(build("wrn22", method="rbcn", shortcut="block"))
    ops = [node.op for node in network_nodes(net, (32, 32, 3))]
    assert ops.count("affine") == 1, "the images'"
    assert ops.count("conv_bits") == 18
    bits = sum(8 * n.tensors["weight"].nbytes for n in network_nodes(net, (32, 32, 3)) if n.op == "conv_bits")
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
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1)), "1 is a Softmax; expected one of BinaryConv2d, Conv2d"),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3)), "0 is a ConvTranspose2d"),
        (nn.Sequential(nn.Conv2d(3, 4, (3, 1))), r"0 has kernel_size \(3, 1\), expected one whole number"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), "0 has padding same"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2)), "0 has dilation"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect")), "0 has padding_mode 'reflect'"),
        (nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), "0 has no running statistics"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), r"0 has output_size 2, expected 1"),
        (nn.Sequential(nn.Conv2d(5, 4, 3)), r"node '0' \(conv\): weight is float32 \[4, 3, 3, 5\], expected"),
        (nn.Sequential(nn.Conv2d(3, 4, 9)), r"node '0' \(conv\): .* its output would be \(0, 0, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 2)), r"node '1' \(linear\): weight is"),
        (Unknown(torch.sigmoid), "sigmoid calls sigmoid"),
        (Unknown(lambda x: x * 2), r"mul calls mul with \(2,\)"),
        (Unknown(lambda x: x if x.sum() > 0 else -x), "cannot be traced by torch.fx"),
        (Unknown(lambda x: (x, x)), "output is not one value"),
        (Unknown(lambda x: x + x[:, :4]), "getitem is a part or the size of a map"),
        (Unknown(lambda x: x[:, :2]), "getitem is a part or the size of a map"),
        (nn.Sequential(Unknown(lambda x: x[:, :2]), nn.Conv2d(2, 4, 3)), "getitem is a part or the size of a map"),
        (Unknown(lambda x: F.dropout(x)), "dropout calls dropout"),
        (nn.Sequential(nn.Conv2d(3, 4, 3)).train(), "in training mode"),
    ],
)
def test_networks_without_a_packed_form(net: nn.Module, message: str) -> None:
    if "training mode" not in message:
        net.eval()
    with pytest.raises(ValueError, match=message) as caught:
        network_nodes(net, (8, 8, 3))
    assert str(caught.value).startswith("no packed form: ")
    assert "\n" not in str(caught.value)


class InPlace(nn.Module):
    """A block whose shortcut takes what `change` may have changed on the way."""

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
    assert_agrees(unsettle(net), (12, 10, 3), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, x: changed(x, x.mul_(0.5)), r"mul_ calls mul_ with \(0.5,\), which no node does"),
        (lambda net, x: changed(x, x.flatten(1).relu_()), "relu_ works in place on .*, which has another shape"),
        (lambda net, x: changed(x, x.clamp_(0)), "clamp_ calls clamp_"),
    ],
)
def test_what_works_in_place_and_has_no_packed_form(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        network_nodes(InPlace(change).eval(), (12, 10, 3))


def test_weights_that_are_not_finite() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    net[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weight holds values that are not finite"):
        network_nodes(net, (8, 8, 3))


@pytest.mark.parametrize("method", ["", "rbcn", "xnor_k", "abcnet"])
def test_onnx_graph_agrees_with_torch(method, tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason=needs("onnxruntime", "it is not installed"))
    import onnx

    from rbsf.onnx_network import network_graph, run_graph

    torch.manual_seed(3)
    nets = [(build("resnet18", method=method, stages="8-16-16-24", stem="cifar", classes=7), (19, 19, 3))]
    own = Own()
    if method:
        binarize(own, method)
    for net, shape in [*nets, (own, (37, 30, 3))]:
        model = NetworkModel("net", tuple(network_nodes(unsettle(net), shape, [120.0], [60.0])), {})
        onnx.save(network_graph(model), str(tmp_path / "net.onnx"))
        batch = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
        expected = net((torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float() - 120) / 60)
        np.testing.assert_allclose(run_graph(tmp_path / "net.onnx", batch), expected.detach(), rtol=1e-4, atol=1e-4)
