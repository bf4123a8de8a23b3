"""Export: thresholds by hand, packed against torch to the bit, and what has no packed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rbsf.engine import reference
from rbsf.engine.packed import PackedModel, read_packed
from rbsf.engine.runtime import Engine
from rbsf.export import _Affine, _fold, export_layers, pack_weights, quantise_first, torch_outputs
from rbsf.layers import binarize
from rbsf.methods.rbcn import RBConv2d
from rbsf.models import build
from rbsf.models.alexnet import AlexNet, ConvBlock
from rbsf.rounding import round_weights
from rbsf.weights import save_weights

LOW, HIGH = -(2**31), 2**31 - 1
SIZE = 87  # pixels: the smallest crop that leaves one feature


def crops(count=2, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def settle(net, seed=0):
    """Batch-norms of any sign and place, statistics of real maps, in float64: no sum is near a threshold by chance."""
    torch.manual_seed(seed)
    net = net.double().train()
    with torch.no_grad():
        net(torch.from_numpy(crops(4, 127)).permute(0, 3, 1, 2).double())
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.copy_(torch.randn_like(module.weight))
                module.weight[::7] = 0
                module.bias.copy_(torch.randn_like(module.bias))
        net(torch.from_numpy(crops(4, 127)).permute(0, 3, 1, 2).double())
    quantise_first(net)
    return net.eval()


def packed_outputs(net, images):
    return list(reference.layer_outputs(PackedModel("net", tuple(export_layers(net)), {}), images))


# ---- folding


@pytest.mark.parametrize(
    ("scale", "bias", "threshold", "negated"),
    [
        (2.0, -3.0, 2, False),  # 2 x >= 3 from x = 2
        (2.0, -4.0, 2, False),  # at the threshold itself the bit is 1
        (2.0, 5.0, -2, False),
        (-2.0, 5.0, -2, True),  # -2 x + 5 >= 0 up to x = 2, so for -x >= -2
        (-2.0, 4.0, -2, True),
        (0.0, 0.0, LOW, False),  # constant +1
        (0.0, -1.0, HIGH, False),
        (1e-9, -1e9, HIGH, False),
        (1e-9, 1e9, LOW, False),
    ],
)
def test_threshold_of_a_channel(scale, bias, threshold, negated):
    one = _Affine(np.ones(1), np.zeros(1))
    got = _fold(_Affine(np.array([scale]), np.array([bias])), one, np.array([False]))
    assert ([*got[0]], [*got[1]]) == ([threshold], [negated])


@pytest.mark.parametrize(
    ("outer", "threshold", "negated"),
    [
        ((1.0, 0.0), 3, False),  # -max(x) + 2 >= 0 unless some x >= 3
        ((-1.0, 0.0), 3, True),
        ((1.0, 0.5), 2, False),  # x + 0.5 <= 2 up to x = 1
    ],
)
def test_threshold_of_a_channel_whose_sign_turns_round_after_pooling(outer, threshold, negated):
    first, second = _Affine(*np.array(outer)[:, None]), _Affine(np.array([-1.0]), np.array([2.0]))
    got = _fold(first, second, np.array([True]))
    assert ([*got[0]], [*got[1]]) == ([threshold], [negated])


def test_first_layer_is_rounded_per_filter():
    net = build("rbsf")
    conv = net.layers[0].conv
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, :4] = torch.tensor([6.3, -0.26, 0.04, -6.3])
    conv.weight.data[1, 0, 0, :2] = torch.tensor([-630.0, 15.0])
    quantise_first(net)
    torch.testing.assert_close(conv.weight[0, 0, 0, :4], torch.tensor([6.3, -0.3, 0.0, -6.3]))
    torch.testing.assert_close(conv.weight[1, 0, 0, :2], torch.tensor([-630.0, 20.0]))
    assert not conv.weight[2].any()
    first = export_layers(net)[0]
    assert first.weight.dtype == np.int8
    assert first.weight[0, 0, :4, 0].tolist() == [63, -3, 0, -63]
    assert first.weight[1, 0, :2, 0].tolist() == [-63, 2]


@pytest.mark.parametrize("bits", [2, 4])
def test_first_layer_in_few_bits(bits):
    torch.manual_seed(0)
    net = build("rbsf")
    exact = net.layers[0].conv.weight.detach().numpy()
    whole, step = round_weights(exact, bits)
    limit = 2 ** (bits - 1) - 1
    assert {*np.abs(whole).max((1, 2, 3))} == {limit}
    rounded = whole * step[:, None, None, None]
    again, same = round_weights(rounded, bits)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_allclose(same, step, rtol=1e-12)
    nearest = np.clip(np.rint(exact / step[:, None, None, None]), -limit, limit) * step[:, None, None, None]
    sums = [np.abs((w - exact).sum((1, 2, 3))).mean() for w in (rounded, nearest)]
    assert sums[0] < sums[1] / 5, "what rounding adds to the answer to an even image is taken back"


def test_filters_of_zeros_stay_so():
    whole, step = round_weights(np.zeros((2, 3, 5, 5)), 4)
    assert not whole.any()
    assert step.tolist() == [1, 1]


# ---- packed against torch


def test_few_bits_in_the_first_layer_are_those_of_torch(tmp_path):
    torch.manual_seed(0)
    save_weights(settle(build("rbsf")).float(), "rbsf", tmp_path / "net.safetensors")
    sizes = {}
    for bits in (7, 4):
        file = tmp_path / f"{bits}.safetensors"
        net, sizes[bits] = pack_weights(tmp_path / "net.safetensors", file, bits), file.stat().st_size
    assert sizes[7] - sizes[4] == pytest.approx(96 * 363 / 2, abs=200)
    model, images = read_packed(tmp_path / "4.safetensors"), crops(1)
    *packed, _ = Engine(model).layer_outputs(images)
    for got, expected in zip(packed, torch_outputs(net.double(), images), strict=False):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(packed, reference.layer_outputs(model, images), strict=False):
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="first_bits=1: the first layer's weights have 2 to 7 bits"):
        pack_weights(tmp_path / "net.safetensors", tmp_path / "1.safetensors", 1)


@pytest.mark.parametrize("model", ["rbsf", "xnor"])
def test_every_bit_is_that_of_torch(model):
    net = settle(build(model))
    images = crops()
    *bits, features = packed_outputs(net, images)
    *expected, real = torch_outputs(net, images)
    assert [b.shape[1:] for b in bits] == [(96, 19, 19), (256, 7, 7), (384, 5, 5), (384, 3, 3)]
    for got, wanted in zip(bits, expected, strict=True):
        assert 0.1 < got.mean() < 0.9
        np.testing.assert_array_equal(got, wanted)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, real, rtol=1e-4, atol=1e-4)
    assert [layer.kind for layer in export_layers(net)] == ["conv_u8", *["conv_bits"] * 3, "conv_bits_real"]


def test_a_network_without_norms_in_front_of_the_sign():
    net = AlexNet(for_binary=True)
    binarize(net, "xnor", input_norm=False)
    net = settle(net, seed=1)
    *bits, _ = packed_outputs(net, crops(1))
    *expected, _ = torch_outputs(net, crops(1))
    for got, wanted in zip(bits, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_packed_file_says_where_it_comes_from(tmp_path):
    torch.manual_seed(0)
    save_weights(build("xnor"), "xnor", tmp_path / "net.safetensors", {"config": {"seed": 3}})
    pack_weights(tmp_path / "net.safetensors", tmp_path / "net-packed.safetensors")
    model = read_packed(tmp_path / "net-packed.safetensors")
    assert (model.model, model.info["config"], model.info["source"]) == ("xnor", {"seed": 3}, "net.safetensors")
    assert (tmp_path / "net-packed.safetensors").stat().st_size < 450_000


# ---- refusals


def stride_two_pool(net):
    net.layers[1].pool = nn.MaxPool2d(2, 2)


def relu(net):
    net.layers[2].relu = nn.ReLU()


def real_layer(net):
    net.layers[3].conv = nn.Conv2d(384, 384, 3, groups=2)


def dilation(net):
    net.layers[4].conv.dilation = (2, 2)


def first_padded(net):
    net.layers[0].conv.padding = (1, 1)


def last_pooled(net):
    net.layers[4].pool = nn.MaxPool2d(3, 2)


def turned_and_padded(net):
    net.layers[1].conv.padding = (1, 1)
    net.layers[1].conv.norm.weight.data[5] = -1


def stray(net):
    net.extra = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (stride_two_pool, "layer layers.1 is pooled by MaxPool2d"),
        (relu, "layer layers.2 has a ReLU"),
        (real_layer, "layer layers.3 is not the first and has a real convolution"),
        (dilation, "layer layers.4 has kernel .* dilation"),
        (first_padded, "layer layers.0 is the first and has padding"),
        (last_pooled, "layer layers.4 is the last and pooled"),
        (turned_and_padded, "layer layers.0 is pooled before a negative batch-norm and a padded convolution"),
        (stray, "extra is no block"),
    ],
)
def test_what_has_no_packed_form_is_named(damage, message):
    net = build("rbsf")
    damage(net)
    with pytest.raises(ValueError, match=message):
        export_layers(net)


def test_float_and_binary_first_layers_are_refused():
    with pytest.raises(ValueError, match="no binary convolution"):
        export_layers(build("siamfc"))
    with pytest.raises(ValueError, match="is no block of SiamFC's AlexNet"):
        export_layers(nn.Sequential(nn.Linear(2, 2)))
    net = build("rbsf")
    net.layers[0].conv = RBConv2d(3, 96, 11, 2)
    with pytest.raises(ValueError, match=r"layers.0 is the first and binary"):
        export_layers(net)
    assert isinstance(net.layers[0], ConvBlock)
