"""The methods of `rbsf.methods`: each held to its own paper's equations, and all of them to the shared interface."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from rbsf.binarize import stochastic_sign
from rbsf.cost import count, total
from rbsf.layers import binarize, binary_layers
from rbsf.methods import METHODS, get_method
from rbsf.methods.abcnet import ABCConv2d
from rbsf.methods.binarynet import BinaryNetConv2d
from rbsf.methods.bireal import BiRealConv2d
from rbsf.methods.pcnn import ProjectionConv2d
from rbsf.methods.scheme_a import SchemeAConv2d, apprentice_loss
from rbsf.methods.xnor import XNORConv2d
from rbsf.methods.xnor_k import XNORKConv2d
from rbsf.models import build
from rbsf.weights import load_weights, save_weights

VARIANTS = [
    *((name, {}) for name in METHODS),
    ("binarynet", {"stochastic": True}),
    ("abcnet", {"weight_bases": 1, "activation_bases": 1}),
    ("abcnet", {"weight_bases": 2, "activation_bases": 1}),
    ("abcnet", {"weight_bases": 1, "activation_bases": 2}),
    ("pcnn", {"projections": 2, "eta": 0.1}),
    ("pcnn", {"projections": 4}),
]
NAMES = [name + "".join(f"-{value}" for value in options.values()) for name, options in VARIANTS]
walk = pytest.mark.parametrize(("method", "options"), VARIANTS, ids=NAMES)


def filters(*rows):
    """A kernel of one input channel: each row of numbers is one filter, a 1 x n window."""
    return torch.tensor(rows, dtype=torch.float64)[:, None, None, :]


def layer_of(cls, weight, **options):
    layer = cls(weight.shape[1], len(weight), tuple(weight.shape[2:]), **options).double()
    layer.set_weight(weight)
    return layer


def gradients(layer, upstream):
    """Gradient of ``sum(kernel * upstream)`` by the latent filters."""
    (grad,) = torch.autograd.grad((layer.kernel() * upstream).sum(), layer.weight)
    return grad


WEIGHT = filters([-1.5, -0.5, 0.0, 1.0], [0.25, -0.25, 0.5, 2.0])
UPSTREAM = filters([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
SIGNS = filters([-1.0, -1.0, 1.0, 1.0], [1.0, -1.0, 1.0, 1.0])
BOX = filters([0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0])  # 1 where |w| <= 1


def test_binarynet_has_no_scale_and_eq_4s_gradient():
    layer = layer_of(BinaryNetConv2d, WEIGHT)
    assert torch.equal(layer.kernel(), SIGNS)
    assert torch.equal(gradients(layer, UPSTREAM), UPSTREAM * BOX)
    assert layer.scale().tolist() == [1.0, 1.0]


def test_binarynet_clips_its_weights():
    layer = layer_of(BinaryNetConv2d, WEIGHT)
    layer.constrain()
    assert torch.equal(layer.weight, filters([-1.0, -0.5, 0.0, 1.0], [0.25, -0.25, 0.5, 1.0]))


def test_stochastic_sign_is_eq_2_and_3():
    torch.manual_seed(0)
    x = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0]).repeat(4000, 1).requires_grad_()
    y = stochastic_sign(x)
    assert y.unique().tolist() == [-1.0, 1.0]
    positive = (y > 0).double().mean(0)
    assert (positive[:2].tolist(), positive[-2:].tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert positive[2:5].tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.03)
    y.sum().backward()
    assert x.grad[0].tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_binarynet_draws_activations_in_training_alone():
    torch.manual_seed(0)
    layer, x = BinaryNetConv2d(1, 1, 1, stochastic=True), torch.zeros(1, 1, 8, 8)
    layer.set_weight(torch.ones(1, 1, 1, 1))
    assert 0 < (layer.train()(x) > 0).sum() < 64
    assert torch.equal(layer.eval()(x), torch.ones(1, 1, 8, 8))
    assert torch.equal(BinaryNetConv2d(1, 1, 1).train()(x).abs(), torch.ones(1, 1, 8, 8))


def test_xnors_gradient_goes_through_the_sign_and_through_alpha():
    single = layer_of(XNORConv2d, filters([-0.5], [2.0]))
    grad = gradients(single, filters([1.0], [1.0]))
    assert grad.flatten().tolist() == [1 + 0.5, 1 + 0.0]  # the paper's 1/n + dsign/dw * alpha, n = 1
    layer = layer_of(XNORConv2d, WEIGHT)
    alpha = filters([0.75], [0.75])
    through_alpha = WEIGHT.sign() * (UPSTREAM * SIGNS).sum((1, 2, 3), keepdim=True) / 4
    torch.testing.assert_close(gradients(layer, UPSTREAM), UPSTREAM * BOX * alpha + through_alpha)


def test_xnors_map_k_is_the_mean_magnitude_under_the_window():
    layer = layer_of(XNORKConv2d, filters([0.5, -1.5]))  # alpha = 1, signs + -
    x = torch.tensor([[[[1.0, -2.0, 4.0]]]], dtype=torch.float64)
    assert layer.input_map(x).flatten().tolist() == [1.5, 3.0]
    assert layer(x).flatten().tolist() == [(1 + 1) * 1.5, (-1 - 1) * 3.0]


def test_xnors_map_k_takes_all_channels_and_borders_of_zero():
    layer = XNORKConv2d(2, 4, 3, padding=1, groups=2).double()
    x = torch.tensor([3.0, -6.0], dtype=torch.float64).view(1, 2, 1, 1)
    assert layer.input_map(x).shape == (1, 1, 1, 1)
    assert layer.input_map(x).item() == pytest.approx(0.5)  # (3 + 6) / 2 / 9


def test_bireals_gradient_is_scaled_by_the_magnitude_as_a_constant():
    layer = layer_of(BiRealConv2d, WEIGHT)
    assert torch.equal(layer.kernel(), 0.75 * SIGNS)
    torch.testing.assert_close(gradients(layer, UPSTREAM), 0.75 * UPSTREAM * BOX)


def test_bireals_activations_have_the_triangle_gradient():
    layer, x = layer_of(BiRealConv2d, filters([1.0])), filters([-2.0, -0.25, 0.0, 0.75]).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 1.5, 2.0, 0.5]


def test_scheme_a_scales_the_layer_and_passes_gradients_on():
    layer = layer_of(SchemeAConv2d, filters([-1.0, 2.0], [0.0, 5.0]))
    assert torch.equal(layer.kernel(), filters([-2.0, 2.0], [2.0, 2.0]))
    assert torch.equal(gradients(layer, filters([1.0, 2.0], [3.0, 4.0])), filters([1.0, 2.0], [3.0, 4.0]))


def test_apprentice_loss_is_eq_1():
    even, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert apprentice_loss(even, even, labels).item() == pytest.approx(2 * math.log(2))
    assert apprentice_loss(even, even, labels, 1, 2, 4).item() == pytest.approx(7 * math.log(2))
    sure = torch.tensor([[50.0, 0.0]])
    assert apprentice_loss(-sure, sure, torch.tensor([0])).item() == pytest.approx(0.5 * 50 + 0.5 * 50)


def test_apprentice_teaches_the_teacher_by_the_labels_alone():
    torch.manual_seed(0)
    student, teacher = (torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.tensor([0, 1, 2, 3, 0])
    apprentice_loss(student, teacher, labels, 1.0, 0.5, 0.25).backward()
    p, q, y = student.detach().softmax(1), teacher.detach().softmax(1), F.one_hot(labels, 4)
    torch.testing.assert_close(teacher.grad, (q - y) / 5)
    torch.testing.assert_close(student.grad, (0.5 * (p - y) + 0.25 * (p - q)) / 5)


def test_apprentice_refuses_networks_of_other_classes():
    with pytest.raises(ValueError, match=r"student and teacher have shapes \(2, 3\) and \(2, 4\)"):
        apprentice_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))


def projection_layer(**options):
    """Two filters C of two inputs, two projections."""
    layer = ProjectionConv2d(2, 4, (1, 2), projections=2, **options).double()
    layer.weight.data = torch.tensor([[[[1.0, -2.0]], [[3.0, 0.5]]], [[[-4.0, 0.25]], [[1.0, -0.25]]]]).double()
    layer.projection.data = torch.tensor([[[[1.0, 0.5]]], [[[-0.5, 2.0]]]]).double()
    return layer


def test_pcnn_projects_every_filter_and_lays_the_results_side_by_side():
    layer = projection_layer()
    level = (1 + 2 + 3 + 0.5 + 4 + 0.25 + 1 + 0.25) / 8
    signs = [[[1, -1], [1, 1]], [[-1, -1], [-1, 1]], [[-1, 1], [1, -1]], [[1, 1], [-1, -1]]]
    assert torch.equal(layer.kernel(), level * torch.tensor(signs).double()[:, :, None, :])
    assert torch.equal(layer.terms()[0].signs, torch.tensor(signs).double()[:, :, None, :])


def test_pcnns_back_propagation_goes_through_the_products():
    layer = projection_layer()
    upstream = torch.arange(1.0, 17).view(4, 2, 1, 2).double()
    (layer.kernel() * upstream).sum().backward()
    c, w = layer.weight.detach(), layer.projection.detach()
    delta = upstream.view(2, 2, 2, 1, 2).transpose(0, 1)  # [J, filters, I, 1, 2]
    inside = ((w[:, None] * c).abs() <= 1).double()
    torch.testing.assert_close(layer.weight.grad, (delta * inside * w[:, None]).sum(0))
    torch.testing.assert_close(layer.projection.grad, (delta * inside * c).sum((1, 2))[:, None])
    assert 0 < inside.sum() < inside.numel()


@pytest.mark.parametrize("eta", [0.0, 0.25])
def test_pcnns_projection_loss_is_eq_42_52_and_56(eta):
    layer = projection_layer(eta=eta)
    upstream = torch.arange(1.0, 17).view(4, 2, 1, 2).double()
    (layer.kernel() * upstream).sum().backward()
    layer.zero_grad()
    loss = layer.regularizer()
    loss.backward()
    c, w = layer.weight.detach(), layer.projection.detach()[:, None]
    quantized = layer.kernel().detach().view(2, 2, 2, 1, 2).transpose(0, 1)
    moved = c + eta * upstream.view(2, 2, 2, 1, 2).transpose(0, 1)
    torch.testing.assert_close(loss, (quantized - w * moved).square().sum() / 2)
    torch.testing.assert_close(layer.weight.grad, ((w * moved - quantized) * w).sum(0))
    torch.testing.assert_close(layer.projection.grad, ((w * moved - quantized) * moved).sum((1, 2))[:, None])


def test_pcnns_projections_differ_from_the_start():
    torch.manual_seed(0)
    layer = ProjectionConv2d(4, 8, 3, projections=4)
    assert layer.weight.shape == (2, 4, 3, 3)
    assert torch.equal(layer.projection[0], torch.ones(1, 3, 3))
    assert len({tuple(p.flatten().tolist()) for p in layer.projection.detach()}) == 4
    layer.set_weight(torch.arange(8.0).view(8, 1, 1, 1).expand(8, 4, 3, 3))
    assert layer.weight[:, 0, 0, 0].tolist() == [0.0, 4.0]


def test_abcnets_bases_and_their_least_squares():
    layer = layer_of(ABCConv2d, filters([-3.0, -1.0, 1.0, 3.0], [-1.0, 1.0, 3.0, 5.0]))  # deviation 2.24; means 0, 2
    bases, alpha = layer.bases()
    by_hand = [[-1, -1, -1, 1], [-1, -1, 1, 1], [-1, 1, 1, 1]]
    assert bases[:, 0, 0, 0].tolist() == by_hand
    assert bases[:, 1, 0, 0].tolist() == by_hand
    torch.testing.assert_close(alpha[:, 0], torch.ones(3).double())
    torch.testing.assert_close(layer.kernel()[0], layer.weight[0])  # exact here
    torch.testing.assert_close(alpha[:, 1], torch.tensor([0.0, 1.0, 2.0]).double())  # -3, 1, 3, 3


def test_abcnet_with_one_base_is_the_sign_of_the_centred_filter():
    layer = layer_of(ABCConv2d, filters([0.0, 0.0, 1.0, 5.0]), weight_bases=1)
    bases, alpha = layer.bases()
    assert bases.flatten().tolist() == [-1, -1, -1, 1]  # mean 1.5
    assert alpha.item() == pytest.approx((0 + 0 - 1 + 5) / 4)


def test_abcnets_alpha_is_the_best_there_is():
    """No step away from it fits better, equal bases (of a filter of two values) included."""
    torch.manual_seed(0)
    layer = layer_of(ABCConv2d, torch.cat([torch.randn(6, 3, 3, 3), torch.ones(1, 3, 3, 3).tril()]).double())
    bases, alpha = layer.bases()

    def error(a):
        return (layer.weight - torch.einsum("mo,moikl->oikl", a, bases)).square().sum((1, 2, 3))

    for _ in range(20):
        assert (error(alpha + 0.01 * torch.randn_like(alpha)) >= error(alpha) - 1e-9).all()
    assert error(alpha)[-1] < 1e-9  # two values, two different bases
    assert error(alpha).sum() > 0.1


def test_abcnets_gradient_goes_straight_through_each_base():
    layer = layer_of(ABCConv2d, WEIGHT)
    _, alpha = layer.bases()
    torch.testing.assert_close(gradients(layer, UPSTREAM), UPSTREAM * alpha.sum(0)[:, None, None, None])


def test_abcnets_activations_their_shifts_and_scales():
    layer = layer_of(ABCConv2d, filters([1.0]), weight_bases=1, activation_bases=2)
    layer.shift.data, layer.beta.data = torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, 10.0]).double()
    x = filters([-1.25, -0.5, 0.25, 0.5, 0.75]).requires_grad_()
    y = layer.activate(x)
    assert y.flatten().tolist() == [-2 - 10, -2 + 10, -2 + 10, 2 + 10, 2 + 10]  # thresholds 0.5 and -0.5
    y.sum().backward()
    assert x.grad.flatten().tolist() == [0, 10, 2, 2, 2]  # windows [0, 1] and [-1, 0]
    assert layer.shift.grad.tolist() == [3 * 2, 1 * 10]
    assert layer.beta.grad.tolist() == [-1 - 1 - 1 + 1 + 1, -1 + 1 + 1 + 1 + 1]


@pytest.mark.parametrize(("bases", "thresholds"), [(1, [0.0]), (2, [-0.5, 0.5]), (4, [-0.75, -0.25, 0.25, 0.75])])
def test_abcnets_thresholds_start_evenly(bases, thresholds):
    layer = ABCConv2d(1, 1, 1, activation_bases=bases)
    assert (0.5 - layer.shift).tolist() == thresholds
    assert layer.beta.tolist() == [1 / bases] * bases


GEOMETRY = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "groups": 2}


def trained_layer(method, options, input_norm, dtype=torch.float64):
    """A layer whose every parameter and statistic differs from its start, in eval mode."""
    torch.manual_seed(2)
    layer = get_method(method)(6, 8, **GEOMETRY, input_norm=input_norm, **options).to(dtype)
    layer(3 * torch.randn(8, 6, 9, 9, dtype=dtype) + 1)
    for parameter in layer.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return layer.eval()


def sum_of_terms(layer, x):
    """The interface's promise, written out."""
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
    other.double().set_weight(torch.randn(8, 3, 3, 2))  # learns again
    other(x).sum().backward()
    assert other.weight.grad.abs().sum() > 0


def small_net():
    layers = [nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=False)]
    return nn.Sequential(*layers, nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, 2, bias=False), nn.BatchNorm2d(8))


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
    more = {"binarynet": -sum(values.values()), "abcnet": (terms - 1) * sum(values.values()), "xnor_k": maps}
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
        ("rbcn", {"bases": 2}, "unknown method option bases; RBConv2d has none"),
        ("abcnet", {"bases": 2}, "unknown method option bases; ABCConv2d has weight_bases, activation_bases"),
        ("abcnet", {"weight_bases": 0}, "method option weight_bases is 0; it must be a whole number from 1 to 64"),
        ("abcnet", {"activation_bases": 10**9}, "activation_bases is 1000000000; it must be a whole number"),
        ("abcnet", {"weight_bases": "3"}, "method option weight_bases is '3'"),
        ("abcnet", {"weight_bases": True}, "method option weight_bases is True"),
        ("pcnn", {"projections": 3}, "method option projections is 3; it must divide 16 channels"),
        ("pcnn", {"eta": -1}, "method option eta is -1; it must be a number, 0 or more"),
        ("pcnn", {"eta": math.nan}, "method option eta is nan"),
        ("binarynet", {"stochastic": "yes"}, "method option stochastic is 'yes'; it must be true or false"),
        ("pcnn", {"input_norm": False}, "unknown method option input_norm; ProjectionConv2d has projections, eta"),
    ],
)
def test_options_are_checked_before_anything_changes(method, options, message):
    net = small_net()
    with pytest.raises(ValueError, match=message) as error:
        binarize(net, method, options=options)
    assert "\n" not in str(error.value)
    assert not binary_layers(net)
