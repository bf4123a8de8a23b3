"""Export of trackers: thresholds by hand, packed equals torch to the bit, and refusals."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import NARROW
from torch import nn

from rbsf.conversion import binarize
from rbsf.engine.cpu import available_isas
from rbsf.engine.file import read_packed
from rbsf.engine.run import Engine
from rbsf.export import fold, pack
from rbsf.export.first_layer import quantise_first
from rbsf.export.fold import threshold_of_whole
from rbsf.export.pack import export_tracker, pack_weights
from rbsf.export.rounding import round_weights
from rbsf.layers import BinaryConv2d
from rbsf.methods.rbcn import RBConv2d
from rbsf.models import build
from rbsf.models.alexnet import AlexNet
from rbsf.weights import save_weights

SIZE = 87  # pixels: the smallest crop that leaves one feature


def crops(count=2, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def settle(net, seed=0):
    """Give batch-norms any sign and place, and the statistics of real maps, in float64.

    The first layer is not rounded.
    """
    torch.manual_seed(seed)
    net = net.double().train()
    pixels = torch.from_numpy(crops(4, 127)).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        net(pixels)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.copy_(torch.randn_like(module.weight))
                module.weight[::7] = 0
                module.bias.copy_(torch.randn_like(module.bias))
        net(pixels)
    return net.eval()


def fresh(model="rbsf", width=NARROW):
    torch.manual_seed(0)
    return build(model, width=width)


def narrow():
    return settle(fresh())


@torch.inference_mode()
def torch_outputs(net, images):
    """The bits that binary convolutions take and the features, in the network's own dtype.

    Bits are uint8 `[N, H, W, C]`.
    """
    x, bits = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(net.parameters())), []
    for block, following in pairwise([*net.layers, None]):
        x = block(x)
        if following and isinstance(following.conv, BinaryConv2d):
            bits.append((following.conv.norm(x) >= 0).permute(0, 2, 3, 1).numpy().astype(np.uint8))
    return [*bits, x.numpy()]


def packed_outputs(packed, images, isa="auto"):
    """The same outputs of a packed tracker."""
    found = Engine(packed, isa=isa).outputs(images)
    return [found[node.name] for node in packed.nodes if node.op in ("sign", "channels_first")]


def assert_same(packed, net, images):
    """The packed network has every bit of `net` in float64, and its features but for rounding."""
    *expected, real = torch_outputs(net.double(), images)
    for isa in available_isas():
        *bits, features = packed_outputs(packed, images, isa)
        for got, wanted in zip(bits, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, real, rtol=1e-4, atol=1e-4)


# ---- the first layer


def test_first_layer_is_rounded_per_filter():
    net = fresh(width=1).eval()
    conv = net.layers[0].conv
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, :4] = torch.tensor([6.3, -0.26, 0.04, -6.3])
    conv.weight.data[1, 0, 0, :2] = torch.tensor([-630.0, 15.0])
    quantise_first(net)
    torch.testing.assert_close(conv.weight[0, 0, 0, :4], torch.tensor([6.3, -0.3, 0.0, -6.3]))
    torch.testing.assert_close(conv.weight[1, 0, 0, :2], torch.tensor([-630.0, 20.0]))
    assert not conv.weight[2].any()
    weight = export_tracker(net, "rbsf").packed.nodes[1].tensors["weight"]
    assert weight.dtype == np.int8
    assert weight[0, 0, :4, 0].tolist() == [63, -3, 0, -63]
    assert weight[1, 0, :2, 0].tolist() == [-63, 2]


@pytest.mark.parametrize("bits", [2, 4])
def test_a_first_layer_in_few_bits_is_rounded_to_the_nearest(bits):
    net = fresh(width=1)
    exact = net.layers[0].conv.weight.detach().numpy()
    whole, step = round_weights(exact, bits)
    limit = 2 ** (bits - 1) - 1
    assert {*np.abs(whole).max((1, 2, 3))} == {limit}
    rounded = whole * step[:, None, None, None]
    again, same = round_weights(rounded, bits)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_allclose(same, step, rtol=1e-12)
    steps = step[:, None, None, None]
    nearest = np.clip(np.rint(exact / steps), -limit, limit) * steps
    sums = [np.abs((w - exact).sum((1, 2, 3))).mean() for w in (rounded, nearest)]
    assert sums[0] < sums[1] / 5, "what rounding adds to the answer to an even image is taken back"


def test_filters_of_zeros_stay_so():
    whole, step = round_weights(np.zeros((2, 3, 5, 5)), 4)
    assert not whole.any()
    assert step.tolist() == [1, 1]


def test_moved_thresholds_turn_no_bit():
    moved = narrow()
    rounded = deepcopy(moved)
    quantise_first(moved)
    rounded.layers[0].conv.weight.data.copy_(moved.layers[0].conv.weight)
    biases = [net.layers[0].norm.bias.detach() for net in (moved, rounded)]
    assert 0.5 < (biases[0] != biases[1]).double().mean() < 1
    for one, other in zip(
        torch_outputs(moved, crops()), torch_outputs(rounded, crops()), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_moved_thresholds_lie_midway_between_sums():
    net = narrow()
    quantise_first(net)
    conv, outer, inner = net.layers[0].conv, net.layers[0].norm, net.layers[1].conv.norm
    x = inner(outer(conv(torch.from_numpy(crops()).permute(0, 3, 1, 2).double())))
    scale = conv.weight.abs().amax((1, 2, 3)) / 63
    for norm in (outer, inner):
        scale = scale * norm.weight / (norm.running_var + norm.eps).sqrt()
    steps = (x / scale[:, None, None])[:, scale != 0]
    torch.testing.assert_close(steps % 1, torch.full_like(steps, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 5, 7])
def test_a_first_layer_that_is_rounded_stays_as_it_is(bits):
    first = export_tracker(narrow(), "rbsf", first_bits=bits)
    again = export_tracker(first.net, "rbsf", first_bits=bits)
    for node, same in zip(first.packed.nodes, again.packed.nodes, strict=True):
        assert (node.name, node.attributes) == (same.name, same.attributes)
        for key, array in node.tensors.items():
            np.testing.assert_array_equal(array, same.tensors[key])


def test_export_leaves_the_network_as_it_was():
    net = narrow().float().train()
    before = deepcopy(net.state_dict())
    export_tracker(net, "rbsf")
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# ---- packed against torch


@pytest.mark.parametrize("model", ["rbsf", "xnor"])
def test_every_bit_is_that_of_torch(model):
    exported = export_tracker(settle(fresh(model, width=1)), model)
    images = crops()
    bits = torch_outputs(exported.net, images)[:-1]
    assert [b.shape[1:] for b in bits] == [(19, 19, 96), (7, 7, 256), (5, 5, 384), (3, 3, 384)]
    assert all(0.1 < b.mean() < 0.9 for b in bits)
    assert_same(exported.packed, exported.net, images)
    found = exported.compare(images)
    found.check()
    assert str(found).startswith(
        f"0 of {sum(b.size for b in bits):,} bits differ, 0 of them at their threshold;"
    )


def test_a_tracker_has_the_expected_graph():
    packed = export_tracker(narrow(), "rbsf").packed
    pooled, flat = ["conv_bits", "max_pool", "sign"], ["conv_bits", "sign"]
    ops = [
        "input",
        "conv_u8",
        *pooled[1:],
        *pooled,
        *flat,
        *flat,
        "conv_bits",
        "affine",
        "channels_first",
    ]
    assert [node.op for node in packed.nodes] == ops
    assert {packed.maps[node.name].kind for node in packed.nodes if node.op == "max_pool"} == {
        "whole"
    }
    assert packed.task == "tracker"


@pytest.mark.parametrize("bits", range(2, 8))
def test_every_bit_is_that_of_torch_with_a_first_layer_of_few_bits(bits):
    exported = export_tracker(narrow(), "rbsf", first_bits=bits)
    limit = 63 if bits == 7 else 2 ** (bits - 1) - 1
    weight = exported.net.layers[0].conv.weight
    whole = weight / (weight.abs().amax((1, 2, 3), keepdim=True) / limit)
    torch.testing.assert_close(whole, whole.round())
    assert exported.packed.nodes[1].attributes["bits"] == (8 if bits == 7 else bits)
    assert_same(exported.packed, exported.net, crops())


def test_few_bits_make_a_smaller_file(tmp_path):
    save_weights(settle(fresh(width=1)).float(), "rbsf", tmp_path / "net.safetensors")
    sizes = {}
    for bits in (7, 4):
        file = tmp_path / f"{bits}.safetensors"
        exported = pack_weights(tmp_path / "net.safetensors", file, bits)
        sizes[bits] = file.stat().st_size
    assert sizes[7] - sizes[4] == pytest.approx(96 * 363 / 2, abs=200)
    assert_same(read_packed(tmp_path / "4.safetensors"), exported.net, crops(1))
    message = "first_bits=1: the first layer's weights have 2 to 7 bits"
    with pytest.raises(ValueError, match=message):
        pack_weights(tmp_path / "net.safetensors", tmp_path / "1.safetensors", 1)
    assert not (tmp_path / "1.safetensors").exists()


def test_a_network_without_norms_in_front_of_the_sign_is_exported():
    torch.manual_seed(0)
    net = AlexNet(for_binary=True)
    binarize(net, "xnor", input_norm=False)
    exported = export_tracker(settle(net, seed=1), "xnor")
    assert_same(exported.packed, exported.net, crops(1))


def test_the_packed_file_says_where_it_comes_from(tmp_path):
    save_weights(
        fresh("xnor", width=1), "xnor", tmp_path / "net.safetensors", {"config": {"seed": 3}}
    )
    pack_weights(tmp_path / "net.safetensors", tmp_path / "net-packed.safetensors")
    packed = read_packed(tmp_path / "net-packed.safetensors")
    assert packed.model == "xnor"
    assert packed.info["config"] == {"seed": 3}
    assert packed.info["source"] == "net.safetensors"
    assert packed.info["architecture"] == "AlexNet"
    assert (tmp_path / "net-packed.safetensors").stat().st_size < 450_000


# ---- what differs from SiamFC's AlexNet


@pytest.mark.parametrize("border", [-1.0, 1.0])
def test_a_pool_before_a_negative_norm_and_a_padded_convolution_are_exported(border):
    net = fresh()
    for block in net.layers[1:]:
        block.conv.padding, block.conv.border = (1, 1), border
    net = settle(net)
    assert (net.layers[1].conv.norm.weight < 0).any()
    exported = export_tracker(net, "rbsf")
    assert {n.attributes["border"] for n in exported.packed.nodes if n.op == "conv_bits"} == {
        border
    }
    assert_same(exported.packed, exported.net, crops())


def stride_two_pool(net):
    net.layers[1].pool = nn.MaxPool2d(2, 2)


def relu(net):
    net.layers[2].relu = nn.ReLU()


def real_layer(net):
    net.layers[3].conv = nn.Conv2d(32, 32, 3, groups=2)


def last_pooled(net):
    net.layers[4].pool = nn.MaxPool2d(3, 2, padding=1)


def stray(net):
    net.extra = nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize("change", [stride_two_pool, relu, real_layer, last_pooled, stray])
def test_trackers_of_another_shape_are_exported(change):
    """Bits are equal in float32 as well.

    It may round a value across its threshold, but these values lie further away.
    """
    net = fresh()
    change(net)
    exported = export_tracker(settle(net), "rbsf")
    exported.compare(crops()).check()
    assert_same(exported.packed, exported.net, crops())


def dilation(net):
    net.layers[4].conv.dilation = (2, 2)


def first_padded(net):
    net.layers[0].conv.padding = (1, 1)


def first_grouped(net):
    net.layers[0].conv = nn.Conv2d(3, 96, 11, 2, groups=3)


def first_binary(net):
    net.layers[0].conv = RBConv2d(3, 96, 11, 2)


def first_pooled(net):
    net.layers[0].conv = nn.Sequential(nn.MaxPool2d(2), net.layers[0].conv)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (dilation, r"layers\.4\.conv has dilation \(2, 2\), expected 1"),
        (
            first_padded,
            r"layers\.0\.conv is the first and has padding=1, groups=1, expected 0 and 1",
        ),
        (
            first_grouped,
            r"layers\.0\.conv is the first and has padding=0, groups=3, expected 0 and 1",
        ),
        (first_binary, r"layers\.0\.conv \(binary\) reads the pixels, expected one convolution"),
        (first_pooled, r"image\.real \(affine\) reads the pixels, expected one convolution"),
    ],
)
def test_what_has_no_packed_form_is_named(damage, message):
    net = fresh()
    damage(net)
    with pytest.raises(ValueError, match=rf"^no packed form: {message}(; called at \S+\.py:\d+)?$"):
        export_tracker(net, "rbsf")


def test_float_networks_are_refused():
    for net in (build("siamfc"), nn.Sequential(nn.Linear(2, 2))):
        message = r"^no packed form: the network has no binary convolution; train --model"
        with pytest.raises(ValueError, match=message):
            export_tracker(net, "siamfc")


# ---- files that would compute something else


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_weights(narrow().float(), "rbsf", path)
    return path


def off_by_one(scale, bias):
    sign = threshold_of_whole(scale, bias)
    return sign | {"threshold": sign["threshold"] + np.int32(1)}


def turned_round(scale, bias):
    sign = threshold_of_whole(scale, bias)
    return sign | {"flip": 1 - sign["flip"]} if "flip" in sign else sign


def without_flips(scale, bias):
    return {"threshold": threshold_of_whole(scale, bias)["threshold"]}


@pytest.mark.parametrize("make", [off_by_one, turned_round, without_flips])
def test_wrong_thresholds_are_found(make, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(fold, "threshold_of_whole", make)
    assert_refused(weights, tmp_path, r"layers\.\d\.conv\.sign\.0: [\d,]+ of [\d,]+ bits")


def flip_a_bit_of_every_filter(node):
    weight = node.tensors["weight"].copy()
    weight[:, 0] ^= 1
    return replace(node, tensors={"weight": weight})


def filters_in_another_order(node):
    return replace(node, tensors={"weight": np.roll(node.tensors["weight"], 1, 0)})


def scaled_by_more(node):
    return replace(node, tensors=node.tensors | {"scale": node.tensors["scale"] * np.float32(1.01)})


@pytest.mark.parametrize(
    ("name", "spoil", "where"),
    [
        (
            "layers.0.conv.sum",
            filters_in_another_order,
            r"layers\.1\.conv\.sign\.0: [\d,]+ of [\d,]+ bits",
        ),
        (
            "layers.2.conv.sum.0",
            flip_a_bit_of_every_filter,
            r"layers\.3\.conv\.sign\.0: [\d,]+ of [\d,]+ bits",
        ),
        (
            "layers.3.conv.sum.0",
            filters_in_another_order,
            r"layers\.4\.conv\.sign\.0: [\d,]+ of [\d,]+ bits",
        ),
        (
            "layers.4.conv.sum.0",
            flip_a_bit_of_every_filter,
            r"layers\.4\.conv: [\d,]+ of [\d,]+ values, by 0\.\d+ of the largest",
        ),
        (
            "layers.4.conv",
            scaled_by_more,
            r"layers\.4\.conv: [\d,]+ of [\d,]+ values, by 0\.0\d of the largest",
        ),
    ],
)
def test_spoiled_nodes_are_found(name, spoil, where, weights, tmp_path, monkeypatch):
    def spoiled(traced):
        nodes, values = fold.fold(traced)
        assert name in {node.name for node in nodes}
        return [spoil(node) if node.name == name else node for node in nodes], values

    monkeypatch.setattr(pack, "fold", spoiled)
    assert_refused(weights, tmp_path, where)


def assert_refused(weights, folder, where):
    out = folder / "packed.safetensors"
    difference = "the packed network differs from the rounded one in float64"
    message = rf"packed\.safetensors was not written: {difference} at {where}$"
    with pytest.raises(ValueError, match=message) as error:
        pack_weights(weights, out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_sums_at_their_thresholds_are_not_refused():
    """New batch-norms put thresholds at sums of 0, which are not exact.

    Float64 makes a little more or less of them.
    """
    found = export_tracker(fresh("xnor"), "xnor").compare()
    found.check()
    signs = [part for part in found.differences if part.bits]
    assert 0 < sum(part.differing for part in signs) == sum(part.near for part in signs)
