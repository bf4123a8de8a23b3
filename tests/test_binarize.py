"""Sign, binary layers and their gradients equal the paper's equations, in float64."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rbsf.binarize import approx_sign, clip_sign
from rbsf.conversion import binarize
from rbsf.layers import binary_layers
from rbsf.methods import METHODS, get_method
from rbsf.methods.rbcn import RBConv2d
from rbsf.methods.xnor import XNORConv2d
from rbsf.train.rectify import parameter_groups

POINTS = [-2.0, -1.0, -0.75, -0.25, 0.0, 0.25, 0.75, 1.0, 2.0]


@pytest.mark.parametrize(
    ("sign", "gradient"),
    [
        (approx_sign, [0.0, 0.0, 0.5, 1.5, 2.0, 1.5, 0.5, 0.0, 0.0]),  # Eq. 8
        (clip_sign, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sign_and_its_gradient(sign, gradient, dtype):
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    y = sign(x)
    assert y.dtype == dtype
    assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]  # sign(0) = +1
    y.backward(torch.full_like(y, 3.0))
    assert x.grad.tolist() == [3 * g for g in gradient]


def random_geometry(seed):
    draw = random.Random(seed).randint
    groups = draw(1, 3)
    return {
        "in_channels": groups * draw(1, 4),
        "out_channels": groups * draw(1, 4),
        "kernel_size": (draw(1, 4), draw(1, 4)),
        "stride": draw(1, 3),
        "padding": (draw(0, 2), draw(0, 2)),
        "dilation": draw(1, 2),
        "groups": groups,
    }


GEOMETRIES = [
    {"in_channels": 3, "out_channels": 5, "kernel_size": 3},
    *map(random_geometry, range(8)),
]


def slope(w):
    """Eq. 8, as the paper writes it."""
    below, above = (w >= -1) & (w < 0), (w >= 0) & (w < 1)
    return torch.where(below, 2 + 2 * w, torch.where(above, 2 - 2 * w, torch.zeros_like(w)))


def ones(w):
    return torch.where(w >= 0, torch.ones_like(w), -torch.ones_like(w))


def layer_and_input(geometry, seed=0):
    torch.manual_seed(seed)
    layer = RBConv2d(**geometry).double()
    layer.set_weight(0.7 * torch.randn_like(layer.weight))
    layer.C.data.add_(0.1 * torch.randn_like(layer.C))
    return layer, torch.randn(
        2, geometry["in_channels"], 9, 9, dtype=torch.float64, requires_grad=True
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rbconv_forward_is_eq_5_and_6(geometry):
    layer, x = layer_and_input(geometry)
    rows, columns = layer.padding
    padded = F.pad(ones(x), (columns, columns, rows, rows), value=-1.0)
    kernel = ones(layer.weight) * layer.C.mean()
    expected = F.conv2d(padded, kernel, None, layer.stride, 0, layer.dilation, layer.groups)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("border", [-1.0, 0.0, 1.0])
def test_padded_borders_are_what_the_layer_says(border):
    layer, x = layer_and_input(
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 2, "stride": 2}
    )
    layer.border = border
    padded = F.pad(ones(x), (2, 2, 2, 2), value=border)
    torch.testing.assert_close(
        layer(x), F.conv2d(padded, ones(layer.weight) * layer.C.mean(), None, 2)
    )
    layer.fix_terms(layer.terms())
    torch.testing.assert_close(
        layer(x), F.conv2d(padded, ones(layer.weight) * layer.C.mean(), None, 2)
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rbconv_gradients_are_eq_7_8_and_13(geometry):
    layer, x = layer_and_input(geometry)
    kernel = (ones(layer.weight) * layer.C.mean()).detach().requires_grad_()
    rows, columns = layer.padding
    padded = F.pad(ones(x).detach(), (columns, columns, rows, rows), value=-1.0)
    out = F.conv2d(padded, kernel, None, layer.stride, 0, layer.dilation, layer.groups)
    upstream = torch.randn_like(out)
    (by_kernel,) = torch.autograd.grad(out, kernel, upstream)  # dL / d(W_hat C*)
    layer(x).backward(upstream)
    mean_c = layer.C.detach().mean()
    torch.testing.assert_close(layer.weight.grad, by_kernel * mean_c * slope(layer.weight.detach()))
    # Every entry of C gets an equal share, through the mean.
    by_c = (by_kernel * ones(layer.weight.detach())).sum() / layer.C.numel()
    torch.testing.assert_close(layer.C.grad, by_c.expand_as(layer.C))
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_kernel_loss_is_eq_3_11_and_15(geometry):
    layer, _ = layer_and_input(geometry)
    w, c = layer.weight.detach(), layer.C.detach()
    w_hat = ones(w)
    loss = layer.kernel_loss()
    torch.testing.assert_close(loss, (w - c * w_hat).pow(2).sum() / 2)
    loss.backward()
    by_w_hat = -(w - c * w_hat) * c  # Eq. 11, lambda1 = 1
    direct = w - c * w_hat  # dL / dW with W_hat fixed, which autograd adds
    torch.testing.assert_close(layer.weight.grad, direct + by_w_hat * slope(w))
    # Eq. 15.
    torch.testing.assert_close(layer.C.grad, -((w - c * w_hat) * w_hat).sum(0, keepdim=True))


def test_c_starts_at_the_mean_magnitude_and_has_the_shape_of_one_filter():
    layer = RBConv2d(4, 8, 3, groups=2)
    layer.set_weight(torch.full((8, 2, 3, 3), -0.25))
    assert layer.C.shape == (1, 2, 3, 3)
    assert torch.equal(layer.C, torch.full((1, 2, 3, 3), 0.25))


def test_a_filter_can_have_a_matrix_of_its_own():
    layer = RBConv2d(1, 2, (1, 2), per_filter=True)
    layer.set_weight(torch.tensor([[[[1.0, -3.0]]], [[[0.5, 0.5]]]]))
    assert layer.C.shape == (2, 1, 1, 2)
    assert layer.scale().tolist() == [2.0, 0.5]
    assert layer.kernel().flatten().tolist() == [2.0, -2.0, 0.5, 0.5]
    assert layer.kernel_loss().item() == pytest.approx(1.0)  # ((1 - 2)^2 + (-3 + 2)^2) / 2


def test_training_can_use_the_matrix_and_evaluation_its_mean():
    layer = RBConv2d(1, 1, (1, 2), matrix=True)
    layer.set_weight(torch.tensor([[[[1.0, -1.0]]]]))
    layer.C.data.copy_(torch.tensor([[[[0.5, 1.5]]]]))
    assert layer.train().kernel().flatten().tolist() == [0.5, -1.5]
    assert layer.eval().kernel().flatten().tolist() == [1.0, -1.0]
    x = torch.ones(1, 1, 1, 2)
    assert layer.train()(x).item() == -1.0
    assert layer.eval()(x).item() == 0.0


def test_the_kernel_loss_can_be_a_mean():
    layer = RBConv2d(2, 4, 3, mean_loss=True)
    whole = RBConv2d(2, 4, 3)
    whole.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.kernel_loss(), whole.kernel_loss() / layer.weight.numel())


def test_options_of_rbconv_are_true_or_false():
    with pytest.raises(ValueError, match="method option matrix is 3; it must be true or false"):
        RBConv2d(1, 1, 1, matrix=3)


def test_xnor_scales_each_filter_by_its_mean_magnitude():
    layer = XNORConv2d(1, 2, 1)
    layer.set_weight(torch.tensor([[[[-0.5]]], [[[2.0]]]]))
    assert layer(torch.tensor([[[[0.0]]]])).flatten().tolist() == [-0.5, 2.0]  # sign(0) = +1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_method_keeps_its_outputs_when_packed(method, geometry):
    torch.manual_seed(1)
    layer = get_method(method)(**geometry)
    x = torch.randn(2, geometry["in_channels"], 9, 9)
    expected = layer(x)
    packed = get_method(method)(**geometry)
    packed.set_terms(layer.terms())
    torch.testing.assert_close(packed(x), expected)


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Sequential(nn.Conv2d(8, 4, 3)),
    )


def test_binarize_changes_by_rule_and_says_so():
    net = small_net()
    original = net[3].weight.detach().clone()
    changes = binarize(net, "rbcn")
    expected = [("0", "first convolution"), ("2", "1x1"), ("3", ""), ("4.0", "")]
    assert [(c.name, c.kept) for c in changes] == expected
    assert list(binary_layers(net)) == ["3", "4.0"]
    assert torch.equal(net[3].weight, original)
    assert net(torch.randn(2, 3, 12, 12)).shape == (2, 4, 6, 6)
    assert str(changes[0]) == "0: 216 weights, real (first convolution)"
    assert str(changes[2]) == "3: 576 weights, 1 bit"


def test_binarize_takes_options():
    net = small_net()
    binarize(net, "xnor", skip_first=False, skip_1x1=False, skip=["3"], input_norm=False)
    assert list(binary_layers(net)) == ["0", "2", "4.0"]
    assert all(isinstance(layer.norm, nn.Identity) for layer in binary_layers(net).values())


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_is_kept(method):
    """There may be no batch-norm behind the layer to replace it."""
    net = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, bias=False))
    x = torch.randn(2, 8, 9, 9)
    bias = net[0].bias.detach().clone()
    binarize(net, method, skip_first=False)
    torch.testing.assert_close(net[0].bias, bias, rtol=0, atol=0)
    assert net[1].bias is None
    net.eval()
    out = net[0](x)
    net[0].bias = None
    torch.testing.assert_close(out, net[0](x) + bias[:, None, None])


def test_a_bias_learns_as_real_weights_do():
    net = small_net()
    binarize(net)
    groups = parameter_groups(net)
    assert any(net[3].bias is p for p in groups["real"])
    assert [p.dim() for p in groups["binary"]] == [4, 4]


@pytest.mark.parametrize("training", [True, False])
def test_new_layers_keep_the_mode_of_the_old(training):
    net = small_net().train(training)
    binarize(net)
    assert {m.training for m in net.modules()} == {training}


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (
            {"padding": 1, "padding_mode": "reflect"},
            "convolution 4: padding_mode 'reflect' has no binary form",
        ),
        ({"padding": "same"}, "convolution 4: padding 'same' is not in pixels"),
    ],
)
def test_binarize_refuses_paddings_before_it_changes_anything(padding, message):
    net = small_net()[:4].append(nn.Conv2d(8, 4, 3, **padding))
    with pytest.raises(ValueError, match=message) as error:
        binarize(net)
    assert "\n" not in str(error.value)
    assert not binary_layers(net)
    expected = ["first convolution", "1x1", "", "named in skip"]
    assert [c.kept for c in binarize(net, skip=["4"])] == expected
    with pytest.raises(ValueError, match=message.partition(": ")[2]):
        RBConv2d.from_conv(net[4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nope"}, "unknown method 'nope'; known: rbcn, xnor"),
        ({"skip": ["5"]}, "no convolution named 5; there are 0, 2, 3, 4.0"),
        ({"skip": ["3", "4.0"]}, "nothing to binarize: 4 convolutions, all kept real by the rules"),
    ],
)
def test_binarize_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        binarize(small_net(), **options)
