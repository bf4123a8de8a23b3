"""Every method of `rbsf.methods`, with its options, keeps the promises of the interface."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from rbsf.conversion import binarize
from rbsf.cost import count, total
from rbsf.layers import binary_layers
from rbsf.methods import METHODS, get_method
from rbsf.models import build
from rbsf.weights import load_weights, save_weights

VARIANTS = [
    *((name, {}) for name in METHODS),
    ("rbcn", {"per_filter": True}),
    ("rbcn", {"matrix": True}),
    ("rbcn", {"mean_loss": True}),
    ("binarynet", {"stochastic": True}),
    ("abcnet", {"weight_bases": 1, "activation_bases": 1}),
    ("abcnet", {"weight_bases": 2, "activation_bases": 1}),
    ("abcnet", {"weight_bases": 1, "activation_bases": 2}),
    ("pcnn", {"projections": 2, "eta": 0.1}),
    ("pcnn", {"projections": 4}),
]
NAMES = [
    "-".join([name, *map("{}={}".format, options, options.values())]) for name, options in VARIANTS
]
walk = pytest.mark.parametrize(("method", "options"), VARIANTS, ids=NAMES)

GEOMETRY = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "groups": 2}


def trained_layer(method, options, input_norm, dtype=torch.float64):
    """A layer in eval mode, all of whose parameters and statistics differ from a new one's."""
    torch.manual_seed(2)
    layer = get_method(method)(6, 8, **GEOMETRY, input_norm=input_norm, **options).to(dtype)
    layer(3 * torch.randn(8, 6, 9, 9, dtype=dtype) + 1)
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.eval()


def sum_of_terms(layer, x):
    """The convolution as the interface promises it, a sum of terms."""
    x = layer.norm(x)
    out = 0
    for term in layer.terms():
        assert set(term.signs.unique().tolist()) <= {-1.0, 1.0}
        bits = torch.where(x + term.shift[None, :, None, None] >= 0, 1.0, -1.0).to(x.dtype)
        rows, columns = layer.padding
        padded = F.pad(bits, (columns, columns, rows, rows), value=-1.0)
        sums = F.conv2d(padded, term.signs, None, layer.stride, 0, layer.dilation, layer.groups)
        out = out + sums * term.scale[:, None, None]
    if not layer.input_scale:
        return out
    area = layer.kernel_size[0] * layer.kernel_size[1]
    window = torch.full((1, 1, *layer.kernel_size), 1 / area, dtype=x.dtype)
    mean = x.abs().mean(1, keepdim=True)
    return out * F.conv2d(mean, window, None, layer.stride, layer.padding, layer.dilation)


@walk
@pytest.mark.parametrize("input_norm", [False, True])
def test_the_output_is_the_sum_of_the_terms(method, options, input_norm):
    layer = trained_layer(method, options, input_norm)
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    out = layer(x)
    assert out.std() > 0.1
    torch.testing.assert_close(out, sum_of_terms(layer, x))
    bases, activations = (options.get(f"{kind}_bases", 3) for kind in ("weight", "activation"))
    assert len(layer.terms()) == (bases * activations if method == "abcnet" else 1)


@walk
def test_a_layer_made_of_terms_is_the_layer_they_came_from(method, options):
    layer, x = trained_layer(method, options, False), torch.randn(2, 6, 9, 9, dtype=torch.float64)
    other = get_method(method)(6, 8, **GEOMETRY, **options).double().eval()
    other.set_terms(layer.terms())
    torch.testing.assert_close(other(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(other)(x), layer(x))
    torch.testing.assert_close(other.float()(x.float()), layer(x).float(), atol=1e-4, rtol=1e-4)
    other.double().set_weight(torch.randn(8, 3, 3, 2))  # is trained again
    other(x).sum().backward()
    assert other.weight.grad.abs().sum() > 0


def small_net():
    layers = [
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=False),
    ]
    return nn.Sequential(
        *layers, nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, 2, bias=False), nn.BatchNorm2d(8)
    )


@walk
def test_every_method_trains(method, options):
    torch.manual_seed(0)
    net = small_net()
    binarize(net, method, options=options)
    layers = binary_layers(net).values()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = net(torch.randn(4, 1, 12, 12))
        losses = [layer.regularizer() for layer in layers]
        assert [loss is None for loss in losses] == [method not in ("rbcn", "pcnn")] * 2
        (out.square().mean() + 1e-4 * sum(loss for loss in losses if loss is not None)).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)
        before = [layer.weight.detach().clone() for layer in layers]
        optimizer.step()
        for layer in layers:
            layer.constrain()
    assert all((layer.weight != weight).any() for layer, weight in zip(layers, before, strict=True))
    assert method != "binarynet" or max(layer.weight.abs().max() for layer in layers) <= 1


@walk
def test_every_method_is_counted(method, options):
    net, xnor = small_net(), small_net()
    binarize(net, method, options=options)
    binarize(xnor, "xnor")
    mine, plain = (total(count(n, (1, 12, 12))) for n in (net, xnor))
    bases, activations = (options.get(f"{kind}_bases", 3) for kind in ("weight", "activation"))
    kernels, terms = (bases, bases * activations) if method == "abcnet" else (1, 1)
    values = {"2": 16 * 10 * 10, "4": 8 * 4 * 4}
    assert mine.binary == terms * plain.binary
    assert mine.bits - plain.bits == (kernels - 1) * (16 * 4 * 9 + 8 * 16 * 9)
    maps = sum(values.values()) + 10 * 10 + 4 * 4
    more = {
        "binarynet": -sum(values.values()),
        "abcnet": (terms - 1) * sum(values.values()),
        "xnor_k": maps,
    }
    assert mine.real - plain.real == more.get(method, 0)


@walk
def test_weights_files_give_the_same_network(method, options, tmp_path):
    torch.manual_seed(4)
    net = build("lenet", method=method, method_options=options)
    images = torch.randn(16, 1, 28, 28)
    net.train()(images)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for name, layer in binary_layers(net).items():
        layer.constrain()
        assert layer.terms(), name
    net.eval()
    for path in (tmp_path / "first.safetensors", tmp_path / "again.safetensors"):
        save_weights(net, "lenet", path)
        loaded, _, _ = load_weights(path)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), net(images), atol=1e-4, rtol=1e-4)
        net = loaded
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "again"))
    torch.testing.assert_close(again, first)  # bits are uint8
    assert net(images).std() > 0.05


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("bireal", {"bases": 2}, "unknown method option bases; BiRealConv2d has none"),
        (
            "abcnet",
            {"bases": 2},
            "unknown method option bases; ABCConv2d has weight_bases, activation_bases",
        ),
        (
            "abcnet",
            {"weight_bases": 0},
            "method option weight_bases is 0; it must be a whole number from 1 to 64",
        ),
        (
            "abcnet",
            {"activation_bases": 10**9},
            "activation_bases is 1000000000; it must be a whole number",
        ),
        ("abcnet", {"weight_bases": "3"}, "method option weight_bases is '3'"),
        ("abcnet", {"weight_bases": True}, "method option weight_bases is True"),
        ("pcnn", {"projections": 3}, "method option projections is 3; it must divide 16 channels"),
        ("pcnn", {"eta": -1}, "method option eta is -1; it must be a number, 0 or more"),
        ("pcnn", {"eta": math.nan}, "method option eta is nan"),
        (
            "binarynet",
            {"stochastic": "yes"},
            "method option stochastic is 'yes'; it must be true or false",
        ),
        (
            "pcnn",
            {"input_norm": False},
            "unknown method option input_norm; ProjectionConv2d has projections, eta",
        ),
    ],
)
def test_options_are_checked_before_anything_changes(method, options, message):
    net = small_net()
    with pytest.raises(ValueError, match=message) as error:
        binarize(net, method, options=options)
    assert "\n" not in str(error.value)
    assert not binary_layers(net)
