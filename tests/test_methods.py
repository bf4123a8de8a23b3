"""The methods of `rbsf.methods` equal their papers' equations on small tensors, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from rbsf.binarize import stochastic_sign
from rbsf.methods.abcnet import ABCConv2d
from rbsf.methods.binarynet import BinaryNetConv2d
from rbsf.methods.bireal import BiRealConv2d
from rbsf.methods.pcnn import ProjectionConv2d
from rbsf.methods.scheme_a import SchemeAConv2d, apprentice_loss
from rbsf.methods.xnor import XNORConv2d
from rbsf.methods.xnor_k import XNORKConv2d


def filters(*rows):
    """A kernel of one input channel: each row of numbers is a filter with a window of 1 x n."""
    return torch.tensor(rows, dtype=torch.float64)[:, None, None, :]


def layer_of(cls, weight, **options):
    layer = cls(weight.shape[1], len(weight), tuple(weight.shape[2:]), **options).double()
    layer.set_weight(weight)
    return layer


def gradients(layer, upstream):
    """The gradient of `sum(kernel * upstream)` by the latent filters."""
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
    # The paper has 1 / n + dsign/dw * alpha, with n = 1.
    expected = [1 + 0.5, 1 + 0.0]
    assert grad.flatten().tolist() == expected
    layer = layer_of(XNORConv2d, WEIGHT)
    alpha = filters([0.75], [0.75])
    through_alpha = WEIGHT.sign() * (UPSTREAM * SIGNS).sum((1, 2, 3), keepdim=True) / 4
    torch.testing.assert_close(gradients(layer, UPSTREAM), UPSTREAM * BOX * alpha + through_alpha)


def test_xnors_map_k_is_the_mean_magnitude_under_the_window():
    layer = layer_of(XNORKConv2d, filters([0.5, -1.5]))  # alpha = 1, signs + and -
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
    layer = layer_of(BiRealConv2d, filters([1.0]))
    x = filters([-2.0, -0.25, 0.0, 0.75]).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 1.5, 2.0, 0.5]


def test_scheme_a_scales_the_layer_and_passes_gradients_on():
    layer = layer_of(SchemeAConv2d, filters([-1.0, 2.0], [0.0, 5.0]))
    assert torch.equal(layer.kernel(), filters([-2.0, 2.0], [2.0, 2.0]))
    assert torch.equal(
        gradients(layer, filters([1.0, 2.0], [3.0, 4.0])), filters([1.0, 2.0], [3.0, 4.0])
    )


def test_apprentice_loss_is_eq_1():
    even, labels = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert apprentice_loss(even, even, labels).item() == pytest.approx(2 * math.log(2))
    assert apprentice_loss(even, even, labels, 1, 2, 4).item() == pytest.approx(7 * math.log(2))
    sure = torch.tensor([[50.0, 0.0]])
    assert apprentice_loss(-sure, sure, torch.tensor([0])).item() == pytest.approx(
        0.5 * 50 + 0.5 * 50
    )


def test_apprentice_teaches_the_teacher_by_the_labels_alone():
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    labels = torch.tensor([0, 1, 2, 3, 0])
    apprentice_loss(student, teacher, labels, 1.0, 0.5, 0.25).backward()
    p, q, y = student.detach().softmax(1), teacher.detach().softmax(1), F.one_hot(labels, 4)
    torch.testing.assert_close(teacher.grad, (q - y) / 5)
    torch.testing.assert_close(student.grad, (0.5 * (p - y) + 0.25 * (p - q)) / 5)


def test_apprentice_refuses_networks_of_other_classes():
    with pytest.raises(ValueError, match=r"student and teacher have shapes \(2, 3\) and \(2, 4\)"):
        apprentice_loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))


def projection_layer(**options):
    """Two filters C of two inputs, with two projections."""
    layer = ProjectionConv2d(2, 4, (1, 2), projections=2, **options).double()
    layer.weight.data = torch.tensor(
        [[[[1.0, -2.0]], [[3.0, 0.5]]], [[[-4.0, 0.25]], [[1.0, -0.25]]]]
    ).double()
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
    torch.testing.assert_close(
        layer.projection.grad, ((w * moved - quantized) * moved).sum((1, 2))[:, None]
    )


def test_pcnns_projections_differ_from_the_start():
    torch.manual_seed(0)
    layer = ProjectionConv2d(4, 8, 3, projections=4)
    assert layer.weight.shape == (2, 4, 3, 3)
    assert torch.equal(layer.projection[0], torch.ones(1, 3, 3))
    assert len({tuple(p.flatten().tolist()) for p in layer.projection.detach()}) == 4
    layer.set_weight(torch.arange(8.0).view(8, 1, 1, 1).expand(8, 4, 3, 3))
    assert layer.weight[:, 0, 0, 0].tolist() == [0.0, 4.0]


def test_abcnets_bases_are_fitted_by_least_squares():
    # The deviation is 2.24, and the means are 0 and 2.
    layer = layer_of(ABCConv2d, filters([-3.0, -1.0, 1.0, 3.0], [-1.0, 1.0, 3.0, 5.0]))
    bases, alpha = layer.bases()
    by_hand = [[-1, -1, -1, 1], [-1, -1, 1, 1], [-1, 1, 1, 1]]
    assert bases[:, 0, 0, 0].tolist() == by_hand
    assert bases[:, 1, 0, 0].tolist() == by_hand
    torch.testing.assert_close(alpha[:, 0], torch.ones(3).double())
    torch.testing.assert_close(layer.kernel()[0], layer.weight[0])  # an exact fit
    # These are fitted to -3, 1, 3, 3.
    torch.testing.assert_close(alpha[:, 1], torch.tensor([0.0, 1.0, 2.0]).double())


def test_abcnet_with_one_base_is_the_sign_of_the_centred_filter():
    layer = layer_of(ABCConv2d, filters([0.0, 0.0, 1.0, 5.0]), weight_bases=1)
    bases, alpha = layer.bases()
    assert bases.flatten().tolist() == [-1, -1, -1, 1]  # the mean is 1.5
    assert alpha.item() == pytest.approx((0 + 0 - 1 + 5) / 4)


def test_abcnets_alpha_fits_best():
    """No small step away fits better, also where a filter of two values has equal bases."""
    torch.manual_seed(0)
    layer = layer_of(
        ABCConv2d, torch.cat([torch.randn(6, 3, 3, 3), torch.ones(1, 3, 3, 3).tril()]).double()
    )
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
    torch.testing.assert_close(
        gradients(layer, UPSTREAM), UPSTREAM * alpha.sum(0)[:, None, None, None]
    )


def test_abcnets_activations_have_shifts_and_scales():
    layer = layer_of(ABCConv2d, filters([1.0]), weight_bases=1, activation_bases=2)
    layer.shift.data = torch.tensor([0.0, 1.0]).double()
    layer.beta.data = torch.tensor([2.0, 10.0]).double()
    x = filters([-1.25, -0.5, 0.25, 0.5, 0.75]).requires_grad_()
    y = layer.activate(x)
    # The thresholds are 0.5 and -0.5.
    expected = [-2 - 10, -2 + 10, -2 + 10, 2 + 10, 2 + 10]
    assert y.flatten().tolist() == expected
    y.sum().backward()
    assert x.grad.flatten().tolist() == [0, 10, 2, 2, 2]  # the windows are [0, 1] and [-1, 0]
    assert layer.shift.grad.tolist() == [3 * 2, 1 * 10]
    assert layer.beta.grad.tolist() == [-1 - 1 - 1 + 1 + 1, -1 + 1 + 1 + 1 + 1]


@pytest.mark.parametrize(
    ("bases", "thresholds"), [(1, [0.0]), (2, [-0.5, 0.5]), (4, [-0.75, -0.25, 0.25, 0.75])]
)
def test_abcnets_thresholds_start_evenly(bases, thresholds):
    layer = ABCConv2d(1, 1, 1, activation_bases=bases)
    assert (0.5 - layer.shift).tolist() == thresholds
    assert layer.beta.tolist() == [1 / bases] * bases
